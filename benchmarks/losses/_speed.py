"""Forward and backward of every loss against torch's cross-entropy, interleaved, and the memory they take."""

import time
from typing import Any

import torch
from torch.nn import functional as F

from corollary import losses


def run(method: str, seed: int, setting: dict[str, Any]) -> dict[str, Any]:
    rows, n = setting["rows"], setting["classes"]
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, n, generator=generator, requires_grad=True)
    y = torch.randint(0, n, (rows,), generator=generator)
    counts = torch.arange(1, n + 1).flip(0)
    make = {
        "comp_sum 0": lambda: losses.CompSumLoss(tau=0.0),
        "comp_sum 1": lambda: losses.CompSumLoss(),
        "comp_sum 1.5": lambda: losses.CompSumLoss(tau=1.5),
        "gla 0": lambda: losses.GLALoss(counts=counts),
        "gla 0.3": lambda: losses.GLALoss(counts=counts, q=0.3),
        "gca scale": lambda: losses.GCALoss(counts=counts),
        "gca scale 0.3": lambda: losses.GCALoss(counts=counts, q=0.3),
        "gca additive": lambda: losses.GCALoss(counts=counts, form="additive"),
        "immax": lambda: losses.IMMAXLoss(counts=counts),
        "class weights": lambda: losses.WeightedCrossEntropyLoss(counts=counts),
        "class-balanced": lambda: losses.ClassBalancedLoss(counts=counts),
        "focal": lambda: losses.FocalLoss(),
        "ldam": lambda: losses.LDAMLoss(counts=counts, scale=5.0),  # for cosines 30; these logits are larger
        "vector scaling": lambda: losses.VectorScalingLoss(counts=counts),
        "equalization": lambda: losses.EqualizationLoss(counts=counts),
        "lade": lambda: losses.LADELoss(counts=counts),
    }[method]
    loss, before = make(), torch.get_num_threads()
    torch.set_num_threads(setting["threads"])

    def once(f: Any) -> float:
        start = time.perf_counter()
        f(z, y).backward()
        z.grad = None
        return time.perf_counter() - start

    try:
        for f in (loss, F.cross_entropy):
            once(f)
        pairs = [(once(loss), once(F.cross_entropy)) for _ in range(setting["repeats"])]
    finally:
        torch.set_num_threads(before)
    ratios = sorted(a / b for a, b in pairs)
    return {
        "ratio": ratios[len(ratios) // 2],  # median of paired ratios
        "ratio_of_best": min(a for a, _ in pairs) / min(b for _, b in pairs),
        "milliseconds": 1e3 * min(a for a, _ in pairs),
        "torch_milliseconds": 1e3 * min(b for _, b in pairs),
        "extra_tensors": _memory(loss, z, y) / (z.numel() * z.element_size()),
        "torch_extra_tensors": _memory(F.cross_entropy, z, y) / (z.numel() * z.element_size()),
    }


def _memory(f: Any, z: torch.Tensor, y: torch.Tensor) -> float:
    """Largest sum of bytes alive that forward and backward allocate, in bytes (the gradient itself included)."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        f(z, y).backward()
    z.grad = None
    alive, peak = 0, 0
    for event in sorted(
        (e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()
    ):
        alive += event.nbytes()
        peak = max(peak, alive)
    return float(peak)
