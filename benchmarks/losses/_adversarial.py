"""Clean and PGD-40 accuracy of ADV-COMP-SUM, TRADES and PGD-AT, each over a grid of the same size."""

from typing import Any

import numpy as np
import torch
from benchmarks.losses._data import cifar, digits_split
from benchmarks.losses._train import convnet
from torch import nn

from corollary import losses

GRIDS = {
    "ADV-COMP-SUM": [{"nu": v} for v in (0.3, 1.0, 3.0, 0.1)],
    "TRADES": [{"beta": v} for v in (1.0, 3.0, 6.0, 10.0)],
    "PGD-AT": [{"share": v} for v in (1.0, 0.75, 0.5, 1.25)],  # of the radius, in training
}


def make(method: str, setting: dict[str, float], *, eps: float, steps: int, seed: int) -> Any:
    attack: dict[str, Any] = {"steps": steps, "seed": seed}
    if method == "ADV-COMP-SUM":
        return losses.AdversarialCompSum(eps=eps, warmup=30, **attack, **setting)
    if method == "TRADES":
        return losses.Trades(eps=eps, **attack, **setting)
    return losses.AdversarialTraining(eps=eps * setting["share"], **attack)


def run(method: str, data: str, seed: int, setting: dict[str, Any]) -> dict[str, Any]:
    if data == "digits":
        split = digits_split(seed, "step", 1.0)
        parts = [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in zip(split[::2], split[1::2], strict=True)]
        eps, batch, rate = 0.1, 128, 5e-3
    else:
        (x, y), (tx, ty) = cifar("train15k", setting["size"]), cifar("test5k", setting["size"])
        rows = np.random.default_rng(seed).permutation(len(y))
        n = setting["rows"]
        m = setting["tested"]  # rows of validation, and of the test
        cuts = (x[rows[:n]], y[rows[:n]]), (x[rows[n : n + m]], y[rows[n : n + m]]), (tx[-m:], ty[-m:])
        parts = [(torch.from_numpy(a), torch.from_numpy(b)) for a, b in cuts]
        eps, batch, rate = 8 / 255, 128, 5e-3
    (x, y), (vx, vy), (tx, ty) = parts
    best: dict[str, Any] = {}
    for options in GRIDS[method][: setting["settings"]]:
        torch.manual_seed(seed)
        model = (
            nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
            if data == "digits"
            else convnet(10, width=setting["width"], first=setting["first"])
        )
        loss = make(method, options, eps=eps, steps=setting.get("attack", 10), seed=seed)
        optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-3)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(setting["epochs"]):
            for rows in torch.randperm(len(x), generator=generator).split(batch):
                optimiser.zero_grad()
                loss(model, x[rows], y[rows]).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimiser.step()
        attack = {"eps": eps, "step": eps / 10, "steps": 40, "seed": seed}
        robust = losses.robust_accuracy(model, vx, vy, **attack)
        if not best or robust > best["validation"]:
            with torch.no_grad():
                model.eval()
                clean = float((model(tx).argmax(1) == ty).double().mean())
            attacked = losses.robust_accuracy(model, tx, ty, restarts=setting.get("restarts", 1), **attack)
            best = {"validation": robust, "clean": clean, "pgd40": attacked, "setting": options}
    return best
