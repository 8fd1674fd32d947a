"""Training all settings of one method side by side on one split, and choosing among them on the validation part.

The networks of a grid start alike and see the same batches; every parameter carries the setting as its first axis, so
that one pass trains them all. They share nothing: decay and gradient clipping act on each alone.
"""

import math
import warnings
from typing import Any

import numpy as np
import torch
from benchmarks.losses._data import Split
from benchmarks.losses._methods import GRIDS
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from corollary.losses import DeferredReweighting, LDAMLoss, balanced_error, class_priors, logit_adjust

CLIP, BATCH, IMAGE_BATCH = 5.0, 1024, 64
RATE, IMAGE_RATE = 2e-2, 5e-3


class Head(nn.Module):
    """`copies` last layers: linear, or of cosines."""

    def __init__(self, copies: int, inputs: int, classes: int, *, cosine: bool) -> None:
        super().__init__()
        layer = nn.Linear(inputs, classes)
        self.weight = nn.Parameter(layer.weight.detach().T.repeat(copies, 1, 1))
        self.bias = None if cosine else nn.Parameter(layer.bias.detach().repeat(copies, 1, 1))

    def forward(self, x: Float[Tensor, "s b d"]) -> Float[Tensor, "s b n"]:
        if self.bias is None:
            return F.normalize(x, dim=-1) @ F.normalize(self.weight, dim=1)
        return torch.baddbmm(self.bias, x, self.weight)


class Perceptrons(nn.Module):
    """`copies` networks with one hidden layer."""

    def __init__(self, copies: int, inputs: int, classes: int, *, cosine: bool, width: int = 32) -> None:
        super().__init__()
        self.hidden = Head(copies, inputs, width, cosine=False)
        self.last = Head(copies, width, classes, cosine=cosine)

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "s b n"]:
        return self.last(self.hidden(x.expand(len(self.hidden.weight), *x.shape)).relu())


class Convnets(nn.Module):
    """`copies` networks of three convolutions, each with batch normalisation."""

    def __init__(self, copies: int, classes: int, *, cosine: bool, width: int = 16, first: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, o, stride in ((3, width, first), (width, 2 * width, 2), (2 * width, 4 * width, 2)):
            layer = nn.Conv2d(copies * i, copies * o, 3, stride, 1, bias=False, groups=copies)
            with torch.no_grad():
                layer.weight.copy_(layer.weight[:o].repeat(copies, 1, 1, 1))
            layers += [layer, nn.BatchNorm2d(copies * o), nn.ReLU()]
        self.body, self.copies = nn.Sequential(*layers), copies
        self.last = Head(copies, 4 * width, classes, cosine=cosine)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "s b n"]:
        features = self.body(x.repeat(1, self.copies, 1, 1)).mean((2, 3))
        return self.last(features.unflatten(1, (self.copies, -1)).movedim(1, 0))


def convnet(classes: int, *, width: int = 16, first: int = 1) -> nn.Module:
    """One of `Convnets`, with logits (b, n); `first` is the stride of its first layer."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.only = Convnets(1, classes, cosine=False, width=width, first=first)

        def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n"]:
            return self.only(x)[0]

    return One()


def train(model: nn.Module, losses: list[Any], split: Split, *, decays: list[float], steps: int, seed: int) -> None:
    """Adam with decoupled decay and a cosine schedule, loss i for copy i; images are flipped at random."""
    x, y = torch.from_numpy(split.x), torch.from_numpy(split.y)
    images = x.ndim == 4
    rate, batch = (IMAGE_RATE, IMAGE_BATCH) if images else (RATE, BATCH)
    batches = -(-len(x) // batch)
    epochs = -(-steps // batches)
    late = int(0.8 * epochs)
    drw = [DeferredReweighting(f, counts=f.counts, start=late) for f in losses if isinstance(f, LDAMLoss)]
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    shrink, parameters = 0.1 * torch.tensor(decays)[:, None], list(model.parameters())
    model.train()
    for step in range(epochs * batches):
        if step % batches == 0:
            order = torch.randperm(len(x), generator=generator)
            for schedule in drw:
                schedule.step(step // batches)
        rows = order[step % batches * batch :][:batch]
        v = x[rows]
        if images and torch.rand((), generator=generator) < 0.5:
            v = v.flip(-1)
        optimiser.zero_grad()
        sum(f(z, y[rows]) for f, z in zip(losses, model(v).unbind(0), strict=True)).backward()
        left = 0.5 * (1 + math.cos(math.pi * step / (epochs * batches)))
        optimiser.param_groups[0]["lr"] = rate * left
        with torch.no_grad():
            gradients = [p.grad.view(len(losses), -1) for p in parameters]
            clip = (CLIP / torch.cat(gradients, 1).norm(dim=1, keepdim=True)).clamp(max=1.0)
            for p, g in zip(parameters, gradients, strict=True):
                g.mul_(clip)
                p.view(len(losses), -1).mul_(1 - left * shrink)
        optimiser.step()


@torch.no_grad()
def scores(model: nn.Module, x: np.ndarray) -> Float[Tensor, "s m n"]:
    """Logits of every copy."""
    model.eval()
    return torch.cat([model(v) for v in torch.from_numpy(x).split(2048)], 1)


def measured(split: Split, guess: np.ndarray, validation: float, setting: list[Any]) -> dict[str, Any]:
    """What a cell records."""
    classes = int(split.y.max()) + 1
    return {
        "validation": validation,
        "balanced_error": balanced_error(split.test_y, guess, classes=classes),
        "error": float((guess != split.test_y).mean()),
        "setting": setting,
    }


def fit_and_choose(
    method: str, split: Split, classes: int, *, seed: int, settings: int, steps: int, width: int
) -> dict[str, Any]:
    """Balanced error on the test part of the setting that is best on the validation part."""
    grid, make = GRIDS["cross-entropy" if method == "SMOTE" else method]
    grid, counts = grid[:settings], np.bincount(split.y, minlength=classes)
    if method == "SMOTE":
        split = smote(split, seed)
    torch.manual_seed(seed)
    shape = {"cosine": method == "LDAM-DRW", "width": width}
    images = split.x.ndim == 4
    size = () if images else (split.x.shape[1],)
    model = (Convnets if images else Perceptrons)(len(grid), *size, classes, **shape)
    train(model, [make(v, counts) for v, _ in grid], split, decays=[d for _, d in grid], steps=steps, seed=seed)
    held, final = scores(model, split.val_x), scores(model, split.test_x)
    best: dict[str, Any] = {}
    for (own, decay), z, test in zip(grid, held, final, strict=True):
        if method == "post-hoc adjustment":
            z, test = (logit_adjust(v, prior=class_priors(counts), strength=own) for v in (z, test))
        error = balanced_error(split.val_y, z.argmax(1).numpy(), classes=classes)
        if not best or error < best["validation"]:
            best = measured(split, test.argmax(1).numpy(), error, [own, decay])
    return best


def smote(split: Split, seed: int) -> Split:
    """The training part with SMOTE; where a class has one row, plain repetition."""
    from imblearn.over_sampling import SMOTE, RandomOverSampler

    rarest = int(np.bincount(split.y)[np.unique(split.y)].min())
    flat = split.x.reshape(len(split.x), -1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        neighbours = min(5, rarest - 1)
        sampler = (
            SMOTE(random_state=seed, k_neighbors=neighbours) if rarest > 1 else RandomOverSampler(random_state=seed)
        )
        x, y = sampler.fit_resample(flat, split.y)
    return split._replace(x=x.reshape(-1, *split.x.shape[1:]).astype(np.float32), y=y)


def forest(method: str, split: Split, classes: int, *, seed: int, settings: int) -> dict[str, Any]:
    """imbalanced-learn's ensembles, on flat features, over a grid of the same size."""
    best: dict[str, Any] = {}
    flat = [a.reshape(len(a), -1) for a in (split.x, split.val_x, split.test_x)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for size, held, final in (easy if method == "EasyEnsemble" else balanced)(flat, split.y, seed, settings):
            error = balanced_error(split.val_y, held, classes=classes)
            if not best or error < best["validation"]:
                best = measured(split, final, error, [size, None])
    return best


def easy(parts: list[np.ndarray], y: np.ndarray, seed: int, settings: int) -> Any:
    """EasyEnsemble by number of members: the first ones of one ensemble, since members are drawn independently."""
    from imblearn.ensemble import EasyEnsembleClassifier

    sizes = sorted((20, 10, 5, 15, 3, 1)[:settings])
    model = EasyEnsembleClassifier(n_estimators=sizes[-1], random_state=seed).fit(parts[0], y)
    votes = [np.cumsum([m.predict_proba(x) for m in model.estimators_], 0) for x in parts[1:]]
    for size in sizes:
        yield size, *(model.classes_[v[size - 1].argmax(1)] for v in votes)


def balanced(parts: list[np.ndarray], y: np.ndarray, seed: int, settings: int) -> Any:
    """BalancedRandomForest by the least number of rows in a leaf."""
    from imblearn.ensemble import BalancedRandomForestClassifier

    plain = {"sampling_strategy": "all", "replacement": True, "bootstrap": False, "n_estimators": 100}
    for size in (1, 2, 5, 3, 8, 12)[:settings]:
        model = BalancedRandomForestClassifier(min_samples_leaf=size, random_state=seed, **plain).fit(parts[0], y)
        yield size, model.predict(parts[1]), model.predict(parts[2])
