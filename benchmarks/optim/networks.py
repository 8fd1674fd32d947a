"""Networks: validation loss of each optimizer over an equal grid of rates; curves against steps and seconds.

A cell trains one network with one optimizer and seed at five rates. Rates are a factor of three apart; the grid is
centred where each family works (Muon-like rules at the update size of AdamW, which is five times smaller for them).
Parameters that are no matrices take AdamW at 3e-3 under every matrix rule. Five per cent warm-up, then cosine.
"""

import io
import math
import os
import time
from pathlib import Path

import numpy as np

SEEDS = (0, 1, 2)
DATA = ("digits-mlp", "digits-conv", "cifar-mlp", "cifar-conv", "shakespeare", "python")
OPTIMIZERS = (
    *("leon", "leon-nesterov", "pion-1", "pion-8", "pion-32", "muon", "torch-muon", "soap", "one-sided-shampoo"),
    "adamw",
)
WIDE, NARROW = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1), (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
RATES = {name: NARROW if name in ("adamw", "soap") else WIDE for name in OPTIMIZERS}
STEPS = {"digits-mlp": 100, "digits-conv": 80, "cifar-mlp": 150, "cifar-conv": 120, "shakespeare": 120, "python": 120}
LONG = {"shakespeare-long": ("shakespeare", 1000), "cifar-conv-long": ("cifar-conv", 1000)}
AUXILIARY = 3e-3


def fits(data, optimizer):
    """Torch's Muon takes 2-D weights only: of a convolutional network it would train nothing, and refuses to."""
    return not (optimizer == "torch-muon" and "conv" in data)


SLOW = "pion-32"  # 32 polar factors a step: by default on the digits only
CELLS = [
    {"data": d, "optimizer": o, "seed": s}
    for part in (DATA[:2], DATA[2:])  # the digits first: seconds a cell
    for s in SEEDS
    for d in part
    for o in OPTIMIZERS
    if (o != SLOW or d.startswith("digits")) and fits(d, o)
]
MORE = [{"data": d, "optimizer": o, "seed": s} for s in SEEDS for d in (*DATA, *LONG) for o in OPTIMIZERS if fits(d, o)]
QUICK = [{"data": "digits-mlp", "optimizer": o, "seed": 0} for o in ("leon", "muon", "adamw")]


def run(cell):
    """Final loss and curve at every rate."""
    data, steps = LONG.get(cell["data"], (cell["data"], STEPS.get(cell["data"])))
    task = load(data, cell["seed"])
    runs = [train(task, cell["optimizer"], rate, steps, cell["seed"]) for rate in RATES[cell["optimizer"]]]
    best = min(range(len(runs)), key=lambda i: runs[i]["loss"])
    return {
        "rates": list(RATES[cell["optimizer"]]),
        "losses": [r["loss"] for r in runs],
        "accuracies": [r["accuracy"] for r in runs],
        "seconds": [r["seconds"] for r in runs],
        "best": best,
        "curve": runs[best]["curve"],
    }


def build(name, model, rate):
    """An optimizer by the name of the table."""
    import torch

    from corollary.optim import SOAP, Leon, Muon, OneSidedShampoo, Pion, split_module

    splits = {"qkv": 3, "gate_up": 2} if any("qkv" in n for n, _ in model.named_parameters()) else None
    shared = {"adamw_lr": AUXILIARY, "splits": splits}
    if name == "adamw":
        return [torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)]
    if name == "torch-muon":  # takes matrices only: fused projections whole, convolutions not at all
        rows = split_module(model).rows
        matrices = [r.parameter for r in rows if r.rule == "matrix" and r.parameter.ndim == 2]
        rest = [p for p in model.parameters() if not any(p is m for m in matrices)]
        muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(rest, lr=AUXILIARY, betas=(0.9, 0.95), weight_decay=0.0)]
    if name == "soap":
        return [SOAP.from_module(model, rate, **shared)]
    if name == "one-sided-shampoo":
        return [OneSidedShampoo.from_module(model, rate, **shared)]
    scaled = {"scale": "match_rms_adamw", **shared}
    if name == "muon":
        return [Muon.from_module(model, rate, **scaled)]
    if name == "leon":
        return [Leon.from_module(model, rate, **scaled)]
    if name == "leon-nesterov":  # looks one gradient ahead, as both Muons here do; the betas are the paper's
        return [Leon.from_module(model, rate, nesterov=True, betas=(0.9, 0.9), **scaled)]
    return [Pion.from_module(model, rate, samples=int(name.split("-")[1]), **scaled)]


def train(task, name, rate, steps, seed):
    """One run; the loss is not a number where it diverged (then counted as log of the number of classes)."""
    import torch
    from torch.nn import functional

    torch.manual_seed(seed)
    model = task["model"]()
    optimizers = build(name, model, rate)
    warm = max(1, steps // 20)

    def factor(s):
        return min(1.0, (s + 1) / warm) * (1 + math.cos(math.pi * s / steps)) / 2

    schedules = [torch.optim.lr_scheduler.LambdaLR(o, factor) for o in optimizers]
    curve, seconds = [], 0.0
    for step in range(steps):
        x, y = task["batch"](step)
        begun = time.perf_counter()
        for o in optimizers:
            o.zero_grad()
        loss = functional.cross_entropy(model(x).flatten(0, -2), y.flatten())
        loss.backward()
        for o, s in zip(optimizers, schedules, strict=True):
            o.step()
            s.step()
        seconds += time.perf_counter() - begun
        if (step + 1) % max(1, steps // 6) == 0 and step + 1 < steps:
            curve.append([step + 1, round(seconds, 3), round(judge(task, model)[0], 4)])
    loss, accuracy = judge(task, model)
    curve.append([steps, round(seconds, 3), round(loss, 4)])
    return {"loss": round(loss, 5), "accuracy": round(accuracy, 4), "seconds": round(seconds, 3), "curve": curve}


def judge(task, model):
    """Validation loss and accuracy."""
    import torch
    from torch.nn import functional

    model.eval()
    with torch.no_grad():
        x, y = task["validation"]
        z = torch.cat([model(part).flatten(0, -2) for part in x.split(1000 if x.ndim > 2 else 64)])
    model.train()
    loss = float(functional.cross_entropy(z, y.flatten()))
    return (loss if math.isfinite(loss) else math.log(z.shape[-1])), float((z.argmax(-1) == y.flatten()).float().mean())


def load(data, seed):
    """A task: model(), batch(step), validation."""
    import torch

    if data in ("shakespeare", "python"):
        return text_task(data, seed)
    kind, net = data.split("-")
    X, y, Xt, yt = digits() if kind == "digits" else cifar()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randint(len(X), (1000, 128), generator=generator)
    model = {"mlp": mlp, "conv": conv}[net]

    return {
        "model": lambda: model(X.shape[1:], 10),
        "batch": lambda step: (X[order[step]], y[order[step]]),
        "validation": (Xt, yt),
    }


def mlp(shape, classes):
    from torch import nn

    width = 64 if math.prod(shape) < 100 else 96
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(shape), width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
        nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes),
    )  # fmt: skip


def conv(shape, classes):
    from torch import nn

    channels, size = shape[0], shape[1]

    def block(i, o):
        return [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(
        *block(channels, 12), *block(12, 24), nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(),
        nn.Flatten(), nn.Linear(48 * (size // 4) ** 2, classes),
    )  # fmt: skip


def digits():
    import torch
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    X, y = torch.tensor(X[order] / 8 - 1, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y[order])
    return X[:1200], y[:1200], X[1200:], y[1200:]


def cifar():
    import torch
    from PIL import Image
    from pyarrow import parquet

    found = []
    for name in ("cifar10_train15k", "cifar10_test5k"):
        table = parquet.read_table(folder() / "images" / f"{name}.parquet").to_pydict()
        label = next(k for k in table if "label" in k)
        pixels = next(k for k in table if k != label)
        raw = [p["bytes"] if isinstance(p, dict) else p for p in table[pixels]]
        X = np.stack([np.asarray(Image.open(io.BytesIO(one)).convert("RGB"), dtype=np.float32) for one in raw])
        X = X.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2)
        found += [torch.from_numpy(np.ascontiguousarray(X / 64 - 2)), torch.tensor(table[label])]
    X, y, Xt, yt = found
    return X, y, Xt[:2000], yt[:2000]


def text_task(data, seed):
    """Bytes of Shakespeare or of Python's own library, a transformer of two layers, windows of 64."""
    import torch

    from corollary.models import TransformerConfig, TransformerLM

    if data == "shakespeare":
        raw = (folder() / "text" / "shakespeare.txt").read_bytes()
    else:
        from corollary.datasets import text_domains

        documents = text_domains(["code"], seed=0)["code"].train
        raw = bytes(documents.tokens.astype(np.uint8).tobytes())
    tokens = torch.frombuffer(bytearray(raw), dtype=torch.uint8).long()
    cut = int(0.95 * len(tokens))
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(cut - 65, (1000, 12), generator=generator)
    offsets = torch.arange(65)

    def windows(at):
        x = tokens[at[:, None] + offsets]
        return x[:, :-1], x[:, 1:]

    held = torch.arange(cut, len(tokens) - 65, max(1, (len(tokens) - cut) // 64))[:64]
    config = TransformerConfig(width=64, layers=2, heads=2, context=64)
    return {
        "model": lambda: TransformerLM(config, seed=seed),
        "batch": lambda step: windows(starts[step]),
        "validation": windows(held),
    }


def folder():
    path = os.environ.get("COROLLARY_DATA")
    if not path:
        raise SystemExit("set COROLLARY_DATA to the folder with images/ and text/; see the page on data")
    return Path(path)


def table(records):
    """Best loss and its rate, the mean over the grid (robustness), the span of rates near the best, seconds a run."""
    lines = []
    for data in (*DATA, *LONG):
        found = {o: [r["result"] for r in records if r["cell"]["data"] == data and r["cell"]["optimizer"] == o]
                 for o in OPTIMIZERS}  # fmt: skip
        found = {o: r for o, r in found.items() if r}
        if not found:
            continue
        seeds = max(len(r) for r in found.values())
        lines += [f"{data}, {seeds} seeds, validation loss:", ""]
        lines += ["| | best rate | at its best rate | mean over the five rates | worst rate | accuracy | seconds |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for o, results in found.items():
            losses = np.array([r["losses"] for r in results])
            best = int(losses.mean(0).argmin())
            accuracy = np.mean([r["accuracies"][best] for r in results])
            seconds = np.mean([r["seconds"][best] for r in results])
            spread = f"{losses[:, best].mean():.3f} ± {losses[:, best].std():.3f}"
            lines.append(
                f"| {o} | {results[0]['rates'][best]:g} | {spread} | {losses.mean():.3f} | "
                f"{losses.mean(0).max():.3f} | {accuracy:.3f} | {seconds:.2f} |"
            )
        lines.append("")
    return "\n".join(lines)
