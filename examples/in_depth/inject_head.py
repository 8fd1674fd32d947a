"""A parity counter inside a small Llama: nothing changes at first, then every layer reads the state."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from corollary.automata import FiniteHead, inject


def main() -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=16, pad_token_id=0, eos_token_id=15, **size)).eval()
    x = torch.randint(1, 15, (2, 8))
    before = model(x).logits
    head = FiniteHead([[q ^ (token % 2) for token in range(16)] for q in range(2)])  # parity of the odd tokens
    injection = inject(model, head)
    print("largest change at first:", (model(x).logits - before).abs().max().item())

    for linear in injection.maps:
        torch.nn.init.normal_(linear.weight, std=0.5)
    drawn = [model.generate(x, max_new_tokens=6, do_sample=False, use_cache=c) for c in (True, False)]
    print("with the state on the cache and without a cache:", torch.equal(*drawn))
    injection.remove()
    print("largest change after taking it out:", (model(x).logits - before).abs().max().item())


if __name__ == "__main__":
    main()
