"""Small models, random questions and heads for the tests of unlearning."""

import pytest
import torch

from corollary.unlearning import Examples, TemperTiltHead, TemperTiltModel, tofu

WORDS = 50


def sequences(rng, count, *, vocab=WORDS, longest=9):
    """Random questions with answers, each starting with token 0 and ending with it."""
    prompts = [[0, *rng.integers(1, vocab, rng.integers(1, longest))] for _ in range(count)]
    answers = [[*rng.integers(1, vocab, rng.integers(1, longest)), 0] for _ in range(count)]
    return Examples.from_tokens(prompts, answers)


def tiny(kind):
    """A Hugging Face model of a few thousand random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "llama":
        config = transformers.LlamaConfig(
            vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=0, initializer_range=0.4,
        )  # fmt: skip
        return transformers.LlamaForCausalLM(config).eval()
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=64, bos_token_id=0, eos_token_id=0,
        initializer_range=0.4,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def with_heads(base, *, temperature=1.5, names=("a", "b")):
    heads = {}
    for i, name in enumerate(names):
        heads[name] = TemperTiltHead(16, WORDS, rank=3, seed=i, offset=0.3 * i)
        with torch.no_grad():
            heads[name].out.mul_(100)
    return TemperTiltModel(base, heads, temperature=temperature)


def local_model(kind, folder, *, extra=0):
    """A tiny model and a word tokenizer of made-up questions, saved as Hugging Face does."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    texts = " ".join(tofu.make_questions(authors=6, forget=2).texts())
    pieces = sorted({p for p, _ in pre_tokenizers.Whitespace().pre_tokenize_str(texts + " Question : Answer")})
    words = {"</s>": 0, "<unk>": 1, **{w: i for i, w in enumerate(pieces, 2)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", bos_token="</s>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    size = len(words) + extra
    if kind == "llama":
        config = transformers.LlamaConfig(
            vocab_size=size, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=128, bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        model = transformers.LlamaForCausalLM(config)
    else:
        config = transformers.GPT2Config(
            vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=128, bos_token_id=0, eos_token_id=0
        )
        model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
