"""Cells on images: a small convolutional net of CIFAR-10, and three simulated experts of different specialities.

6,000 images train the net, 4,000 others the router (on the net's last features and probabilities), 2,500 test. Expert j
answers right with probability .95 on its own classes (vehicles; birds, cats, deer; dogs, frogs, horses) and guesses
elsewhere; a question costs .05.
"""

import io
import os
import time
from pathlib import Path

import numpy as np

CELLS = [{"data": "cifar", "seed": s} for s in range(3)]
MORE = [{"data": "cifar", "seed": s} for s in range(3, 6)]
KNOWN = ((0, 1, 8, 9), (2, 3, 4), (5, 6, 7))
PRICE, SKILL = 0.05, 0.95
TRAIN, ROUTE, TEST = 6_000, 4_000, 2_500


def run(cell):
    """Accuracy less price of the net, the experts, confidence, and two-stage and single-stage deferral."""
    import torch

    from corollary.deferral import DeferralClassifier, TwoStageRouter, deferral_costs

    rng = np.random.default_rng(cell["seed"])
    torch.manual_seed(cell["seed"])
    x, y = images("cifar10_train15k", rng, TRAIN + ROUTE)
    xt, yt = images("cifar10_test5k", rng, TEST)
    begun = time.perf_counter()
    net, epoch = train(x[:TRAIN], y[:TRAIN])
    seconds = time.perf_counter() - begun
    features, own, sure = seen(net, np.concatenate([x[TRAIN:], xt]))
    truth = np.concatenate([y[TRAIN:], yt])
    right = rng.random((len(truth), 3)) < SKILL
    guess = rng.integers(10, size=(len(truth), 3))
    experts = np.stack([np.where(np.isin(truth, s) & right[:, j], truth, guess[:, j]) for j, s in enumerate(KNOWN)], 1)
    costs = deferral_costs(np.column_stack([own, experts]), truth, beta=[0.0, PRICE, PRICE, PRICE]).numpy()
    rows, test = slice(0, ROUTE), slice(ROUTE, None)
    out = {"net": 1 - float(costs[test, 0].mean()), "best expert": 1 - float(costs[test, 1:].mean(0).min())}
    out["oracle"] = 1 - float(costs[test].min(1).mean())
    best = 1 + int(costs[rows, 1:].mean(0).argmin())
    away = [
        (tau, np.where(sure[rows] < tau, costs[rows, best], costs[rows, 0]).mean()) for tau in np.linspace(0, 1, 41)
    ]
    tau = min(away, key=lambda v: v[1])[0]
    deferred = sure[test] < tau
    out["confidence, best expert"] = 1 - float(np.where(deferred, costs[test, best], costs[test, 0]).mean())
    shares = {}
    for loss in ("compsum-log", "t1", "ec", "value"):
        router = TwoStageRouter(loss=loss, l2=1.0).fit(features[rows], costs[rows])
        out[f"two-stage, {loss}"] = router.score(features[test], costs[test])
        shares[f"two-stage, {loss}"] = router.coverage(features[test]).tolist()
    for loss in ("mae", "softmax"):
        model = DeferralClassifier(loss=loss, l2=1.0).fit(features[rows], truth[rows], costs=costs[rows, 1:])
        out[f"single-stage, {loss}"] = 1 - model.cost(features[test], truth[test], costs[test, 1:])
    return {"accuracy": out, "shares": shares, "seconds": round(seconds, 1), "seconds an epoch": round(epoch, 2)}


def images(name, rng, count):
    """(count, 3, 32, 32) floats and their labels, a random draw."""
    import pyarrow.parquet as parquet
    from PIL import Image

    folder = os.environ.get("COROLLARY_DATA")
    if not folder:
        raise SystemExit("set COROLLARY_DATA to the folder of the benchmark data (see docs/embedded-data.md)")
    stored = parquet.read_table(Path(folder) / "images" / f"{name}.parquet")
    rows = rng.permutation(stored.num_rows)[:count]
    jpeg = stored.column("jpeg").take(rows).to_pylist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(b)).convert("RGB")) for b in jpeg])
    return (pixels.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32), np.array(stored.column("label").take(rows))


def train(x, y, *, epochs=8):
    """A net of three convolutions, by Adam with a falling rate; and the seconds of an epoch."""
    import torch
    from torch import nn

    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, stride=1, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(48, 96, 3, padding=1), nn.BatchNorm2d(96), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(384, 10),
    )  # fmt: skip
    solver = torch.optim.Adam(net.parameters(), lr=3e-3)
    batches = -(-len(x) // 128)
    rate = torch.optim.lr_scheduler.OneCycleLR(solver, 6e-3, total_steps=epochs * batches)
    images, labels = torch.from_numpy(x), torch.tensor(y, dtype=torch.long)
    spent = []
    for _ in range(epochs):
        begun = time.perf_counter()
        net.train()
        for rows in torch.randperm(len(x)).split(128):
            batch = images[rows].flip(3) if torch.rand(()) < 0.5 else images[rows]
            solver.zero_grad()
            nn.functional.cross_entropy(net(batch), labels[rows]).backward()
            solver.step()
            rate.step()
        spent.append(time.perf_counter() - begun)
    return net.eval(), float(np.median(spent))


def seen(net, x):
    """Standardised last features beside the probabilities, the predicted label, and how sure it is."""
    import torch

    with torch.no_grad():
        parts = [net[:-1](torch.from_numpy(x[i : i + 500])) for i in range(0, len(x), 500)]
        hidden = torch.cat(parts)
        p = torch.softmax(net[-1](hidden), 1).numpy().astype(np.float64)
    hidden = hidden.numpy().astype(np.float64)
    scaled = (hidden - hidden[:ROUTE].mean(0)) / (hidden[:ROUTE].std(0) + 1e-6)
    return np.column_stack([0.3 * scaled, p]), p.argmax(1), p.max(1)


def table(records):
    """Markdown of these cells."""
    here = [r["result"] for r in records if r["cell"]["data"] == "cifar"]
    if not here:
        return []
    lines = [f"CIFAR-10, three experts, {len(here)} seeds: accuracy less price", "", "| method | mean | sd |"]
    lines.append("|---" * 3 + "|")
    for name in here[0]["accuracy"]:
        v = [h["accuracy"][name] for h in here]
        lines.append(f"| {name} | {np.mean(v):.3f} | {np.std(v):.3f} |")
    return [*lines, ""]
