"""Two Hugging Face models as experts of one composed model, which goes back to transformers as a model of its own."""

import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from corollary.gating import BayesGate, ComposedLM
from corollary.integrations import CorollaryForCausalLM, HFExpert

# Two tiny models with one tokenizer, made here; yours come from folders: HFExpert("models/code").
letters = {token: i for i, token in enumerate(["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
inner = Tokenizer(models.BPE(vocab=letters, merges=[]))
inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>")
config = LlamaConfig(
    vocab_size=len(letters), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
)  # fmt: skip


def made(seed):
    torch.manual_seed(seed)
    return HFExpert(LlamaForCausalLM(config), tokenizer=tokenizer)


composed = ComposedLM({"code": made(0), "prose": made(1)}, BayesGate(2))
print(f"on every document at most {composed.excess_bits:.2f} bits above the better expert")

model = CorollaryForCausalLM.wrap(composed)
tokenizer.padding_side = "left"
prompts = tokenizer(["def f(x):", "Once"], return_tensors="pt", padding=True, add_special_tokens=False)
greedy = model.generate(**prompts, max_new_tokens=6, do_sample=False)
beams = model.generate(**prompts, max_new_tokens=6, num_beams=3, do_sample=False)
print("greedy", tuple(greedy.shape), "beams", tuple(beams.shape))

with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(Path(folder) / "composed")
    again = AutoModelForCausalLM.from_pretrained(Path(folder) / "composed")
    same = torch.equal(again.generate(**prompts, max_new_tokens=6, do_sample=False), greedy)
    print("saved, found by AutoModelForCausalLM, same tokens:", same)
