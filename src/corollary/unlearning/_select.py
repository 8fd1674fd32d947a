"""Choosing rate, epochs, temperature and guidance together, on a slice of the forget authors that is not reported.

A head is trained once for each of its own settings, on states that are cached once; temperature and guidance cost an
evaluation each. Chosen is the best forget quality among the settings whose retained answers stay, since forget quality
alone would reward blurring everything.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from corollary.errors import InvalidInputError
from corollary.unlearning._backbone import backbone_of
from corollary.unlearning._cache import cache_states
from corollary.unlearning._examples import Examples, check_sets
from corollary.unlearning._model import TemperTiltModel
from corollary.unlearning._train import HeadTraining, train_head
from corollary.unlearning.tofu._evaluate import evaluate
from corollary.unlearning.tofu._logs import Part
from corollary.unlearning.tofu._metrics import kolmogorov_smirnov
from corollary.unlearning.tofu._questions import Row

GRID: Mapping[str, Sequence[Any]] = {"learning_rate": (1e-2, 3e-2), "epochs": (30, 100)}


@dataclass(frozen=True)
class Selection:
    """The chosen model and every trial.

    Args:
        model: the base with the chosen head, temperature and guidance.
        trials: settings with `forget quality`, `retain hits` and `chosen`, in the order tried.

    Guarantee: none; the numbers of the trials are optimistic for the one chosen: report on other questions.

    Example:
        >>> Selection(model=None).trials
        ()
    """

    model: Any
    trials: tuple[dict[str, Any], ...] = field(default=(), repr=False)


def select_temper_tilt(
    model: Any,
    forget: Examples,
    retain: Examples,
    *,
    choose_on: tuple[Sequence[Row], Sequence[Row]],
    reference: Part,
    tokenizer: Any,
    name: str = "forgotten",
    training: HeadTraining | None = None,
    grid: Mapping[str, Sequence[Any]] = GRID,
    temperatures: Iterable[float] = (1.0, 1.25, 1.5, 2.0),
    guidances: Iterable[float] = (1.0,),
    room: float = 0.05,
    folder: str | Path | None = None,
    progress: Callable[[str, float], object] | None = None,
) -> Selection:
    """Train heads over a grid and choose by forget quality, as long as retained answers stay the likeliest.

    Args:
        model: the frozen base.
        forget: all that is to be forgotten.
        retain: what is to be kept.
        choose_on: rows to forget and rows to retain that the choice looks at; report on others.
        reference: a retrained model's measurements on the first of them (`tofu.evaluate(..., generate=False)`).
        tokenizer: of the model.
        name: of the head.
        training: settings that are not in the grid.
        grid: field of `HeadTraining` -> values.
        temperatures: values of T.
        guidances: values of s.
        room: the share of retained tokens that are the likeliest may fall this far below the base's.
        folder: where the cached states go; in memory by default.
        progress: called with (what, share).

    Returns:
        The chosen model and all trials.

    Raises:
        InvalidInputError: for a reference of other rows, or an unknown field in the grid.

    Guarantee: none; the official recipe chooses on the reported set itself, this one does not need to.

    Example:
        >>> sorted(GRID)
        ['epochs', 'learning_rate']

    Reference: section 3.3 of the notes; the criterion is ours.
    """
    backbone = backbone_of(model)
    check_sets(forget, retain, backbone.vocab_size)
    lost, kept = choose_on
    if len(reference) != len(lost):
        raise InvalidInputError(f"the reference has {len(reference)} questions, `choose_on` {len(lost)}; ask the same")
    start = training or HeadTraining()
    unknown = sorted(set(grid) - set(HeadTraining.__dataclass_fields__))
    if unknown:
        raise InvalidInputError(f"heads have no setting {unknown[0]!r}; see HeadTraining")
    places = [None if folder is None else Path(folder) / part for part in ("forget", "retain")]
    states = [cache_states(backbone, e, folder=place) for e, place in zip((forget, retain), places, strict=True)]
    base_hits = _hits(TemperTiltModel(model), kept, tokenizer)
    settings = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    outputs = list(product(temperatures, guidances))
    tried: list[tuple[dict[str, Any], TemperTiltModel]] = []
    for i, setting in enumerate(settings):
        fit = train_head(*states, vocab_size=backbone.vocab_size, training=replace(start, **setting))
        for temperature, guidance in outputs:
            if progress is not None:
                progress("choosing", len(tried) / (len(settings) * len(outputs)))
            tilted = TemperTiltModel(model, {name: fit.head}, temperature=temperature, guidance=guidance)
            tilted.fits[name] = replace(fit, caching=sum(s.seconds for s in states))
            part = evaluate(tilted, lost, tokenizer, generate=False)
            found = kolmogorov_smirnov(part.truth_ratio, reference.truth_ratio)
            trial = {**setting, "temperature": temperature, "guidance": guidance, "head": i}
            trial |= {"forget quality": found.pvalue, "retain hits": _hits(tilted, kept, tokenizer)}
            tried.append((trial, tilted))
    stays = [t for t in tried if t[0]["retain hits"] >= base_hits - room]
    best = max(stays, key=_quality) if stays else max(tried, key=lambda t: t[0]["retain hits"])
    return Selection(best[1], tuple(trial | {"chosen": trial is best[0]} for trial, _ in tried))


def _quality(tried: tuple[dict[str, Any], TemperTiltModel]) -> float:
    return float(tried[0]["forget quality"])


def _hits(model: TemperTiltModel, rows: Sequence[Row], tokenizer: Any) -> float:
    """Share of the answers' tokens that are the likeliest."""
    return float(np.mean(model.score(Examples.from_pairs(rows, tokenizer)).hits))
