"""Training one network on one split with one loss, and choosing among settings on the validation part."""

import warnings
from typing import Any

import numpy as np
import torch
from benchmarks.losses._data import Split
from benchmarks.losses._methods import GRIDS
from torch import nn

from corollary.losses import CosineLinear, DeferredReweighting, balanced_error, class_priors, logit_adjust


def mlp(inputs: int, classes: int, *, cosine: bool, width: int = 32) -> nn.Module:
    last = CosineLinear(width, classes) if cosine else nn.Linear(width, classes)
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), last)


def convnet(classes: int, *, cosine: bool, width: int = 16) -> nn.Module:
    layers: list[nn.Module] = []
    for i, o, stride in ((3, width, 1), (width, 2 * width, 2), (2 * width, 4 * width, 2)):
        layers += [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    last = CosineLinear(4 * width, classes) if cosine else nn.Linear(4 * width, classes)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)


def train(
    model: nn.Module,
    loss: Any,
    split: Split,
    *,
    decay: float,
    epochs: int,
    batch: int,
    rate: float,
    seed: int,
    drw: Any,
) -> None:
    """AdamW with a cosine schedule; images are flipped at random."""
    x, y = torch.from_numpy(split.x), torch.from_numpy(split.y)
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay / rate * 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * -(-len(x) // batch))
    for epoch in range(epochs):
        if drw is not None:
            drw.step(epoch)
        for rows in torch.randperm(len(x), generator=generator).split(batch):
            v = x[rows]
            if x.ndim == 4 and torch.rand((), generator=generator) < 0.5:
                v = v.flip(-1)
            optimiser.zero_grad()
            loss(model(v), y[rows]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            schedule.step()


@torch.no_grad()
def predict(model: nn.Module, x: np.ndarray, *, prior: Any = None, strength: float = 0.0) -> np.ndarray:
    """The largest logit, adjusted afterwards where a prior is given."""
    model.eval()
    z = torch.cat([model(v) for v in torch.from_numpy(x).split(2048)])
    return (logit_adjust(z, prior=prior, strength=strength) if prior is not None else z).argmax(1).numpy()


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
    method: str, split: Split, classes: int, *, seed: int, images: bool, settings: int, steps: int
) -> dict[str, Any]:
    """Balanced error on the test part of the setting that is best on the validation part."""
    grid, make = GRIDS["cross-entropy" if method == "SMOTE" else method]
    counts = np.bincount(split.y, minlength=classes)
    if method == "SMOTE":
        split = smote(split, seed)
    best: dict[str, Any] = {}
    rate, batch = (5e-3, 128) if images else (2e-2, 1024)
    epochs = max(1, -(-steps // -(-len(split.x) // batch)))
    cosine = method == "LDAM-DRW"
    for own, decay in grid[:settings]:
        torch.manual_seed(seed)
        loss = make(own, counts)
        model = convnet(classes, cosine=cosine) if images else mlp(split.x.shape[1], classes, cosine=cosine)
        drw = DeferredReweighting(loss, counts=counts, start=int(0.8 * epochs)) if cosine else None
        train(model, loss, split, decay=decay, epochs=epochs, batch=batch, rate=rate, seed=seed, drw=drw)
        post = {"prior": class_priors(counts), "strength": own} if method == "post-hoc adjustment" else {}
        error = balanced_error(split.val_y, predict(model, split.val_x, **post), classes=classes)
        if not best or error < best["validation"]:
            best = measured(split, predict(model, split.test_x, **post), error, [own, decay])
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
    from imblearn.ensemble import BalancedRandomForestClassifier, EasyEnsembleClassifier

    best: dict[str, Any] = {}
    flat = [a.reshape(len(a), -1) for a in (split.x, split.val_x, split.test_x)]
    plain = {"sampling_strategy": "all", "replacement": True, "bootstrap": False, "n_estimators": 100}
    for i in range(settings):
        size = (5, 10, 20, 3, 15, 30)[i] if method == "EasyEnsemble" else (1, 2, 5, 3, 8, 12)[i]
        if method == "EasyEnsemble":
            model = EasyEnsembleClassifier(n_estimators=size, random_state=seed)
        else:
            model = BalancedRandomForestClassifier(min_samples_leaf=size, random_state=seed, **plain)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(flat[0], split.y)
        error = balanced_error(split.val_y, model.predict(flat[1]), classes=classes)
        if not best or error < best["validation"]:
            best = measured(split, model.predict(flat[2]), error, [size, None])
    return best
