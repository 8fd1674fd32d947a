"""Tiny random Hugging Face models with a byte-level tokenizer trained on the spot; nothing is downloaded."""

import pytest
import torch

pytest.importorskip("transformers", reason="the extra `hf` is not installed")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

CORPUS = ["the sea is blue", "the sea is deep", "one and one is two", "two and two is four", "blue, deep, two!"] * 3


def tokenizer(size=280, corpus=CORPUS):
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def starting_tokenizer(**options):
    """One that puts `<s>` in front by itself, as those of Llama, Mistral and Gemma do."""
    found = tokenizer(**options)
    start = (found.bos_token, found.bos_token_id)
    found.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[start])
    return found


def model(kind, *, seed=0, vocab=280, positions=32, width=32):
    torch.manual_seed(seed)
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=vocab, n_embd=width, n_layer=2, n_head=2, n_positions=positions, bos_token_id=0, eos_token_id=1
        )
        return GPT2LMHeadModel(config).eval()
    config = LlamaConfig(
        vocab_size=vocab, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=positions, bos_token_id=0, eos_token_id=1,
        tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def save(folder, kind="llama", **options):
    model(kind, **options).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
