"""Tokens a second with and without a head: vocabulary 8,000, 10 M parameters, batch 8; interleaved runs."""

import time

import numpy as np


def speed(seed):
    import torch

    from corollary.models import TransformerConfig, TransformerLM
    from corollary.unlearning import TemperTiltHead, TemperTiltModel

    config = TransformerConfig(vocab_size=8000, width=320, layers=6, heads=4, context=256)
    base = TransformerLM(config, seed=seed)
    found = {"parameters": sum(p.numel() for p in base.parameters())}
    heads = {"one": TemperTiltHead(320, 8000, rank=20)}
    model = TemperTiltModel(base, heads, temperature=1.5)
    prompts = np.random.default_rng(seed).integers(1, 8000, (8, 16)).tolist()
    prompts = [[0, *p] for p in prompts]
    ratios, rate = [], []
    for _ in range(7):
        took = {}
        for name, on in (("base", []), ("head", ["one"])):
            begun = time.perf_counter()
            model.generate(prompts, max_new_tokens=64, heads=on, end=-1, temperature=0.0)
            took[name] = time.perf_counter() - begun
        ratios.append(took["base"] / took["head"])
        rate.append(8 * 64 / took["head"])
    with torch.no_grad():
        found["tokens a second with the head"] = float(np.median(rate))
    found["ratio to the base"], found["least"], found["most"] = float(np.median(ratios)), min(ratios), max(ratios)
    return {k: float(f"{v:.5g}") for k, v in found.items()}
