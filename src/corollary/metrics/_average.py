r"""Several classes or labels: macro, micro and weighted averages of a binary metric.

Symbols: C the (L, 4) confusion counts, one row a class (one against the rest) or a label.
macro: the mean of M(C_l). micro: M(sum_l C_l). weighted: the mean of M(C_l) weighted by the positives of l.
"""

from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError
from corollary.metrics._metric import LinearFractionalMetric, confusion, get_metric

Average = Literal["macro", "micro", "weighted"]
AVERAGES = get_args(Average)


def averaged(metric: LinearFractionalMetric, counts: ArrayLike, *, average: str, undefined: str = "warn") -> float:
    """The averaged metric of one confusion matrix per class or label.

    Args:
        metric: the binary metric.
        counts: (L, 4) TP, FP, FN, TN of every class or label.
        average: `"macro"`, `"micro"` or `"weighted"` (by positives).
        undefined: `"warn"` or `"zero"`, for labels without positives.

    Raises:
        InvalidInputError: for another average, or counts of another shape.

    Guarantee: none; a definition. A label without positives counts 0 in the macro average, with a warning.

    Example:
        >>> from corollary.metrics import FBeta
        >>> averaged(FBeta(1.0), [[8, 2, 2, 8], [1, 1, 3, 15]], average="micro")
        0.6923076923076923
    """
    c = np.asarray(counts, dtype=np.float64)
    if c.ndim != 2:
        raise InvalidInputError(f"`counts` needs one row TP, FP, FN, TN per label, got shape {c.shape}")
    if average == "micro":
        return float(metric.value(c.sum(0), undefined=undefined))
    if average == "macro":
        return float(np.mean(metric.value(c, undefined=undefined)))
    if average == "weighted":
        positives = c[:, 0] + c[:, 2]
        if positives.sum() == 0:
            return float(np.mean(metric.value(c, undefined=undefined)))
        return float(np.average(np.asarray(metric.value(c, undefined=undefined)), weights=positives))
    raise InvalidInputError(f"`average` must be one of {', '.join(AVERAGES)}, got {average!r}")


def one_against_rest(y: ArrayLike, classes: ArrayLike) -> Bool[np.ndarray, "n k"]:
    """(n, K) indicators of the classes; a label that is none of them is all False.

    Guarantee: none; a definition.

    Example:
        >>> one_against_rest(["b", "c"], ["a", "b"]).tolist()
        [[False, True], [False, False]]
    """
    return np.asarray(y)[:, None] == np.asarray(classes)[None, :]


def metric_score(
    y: ArrayLike, prediction: ArrayLike, *, metric: Any = "f1", average: str = "macro", positive: Any = None
) -> float:
    """The metric of predicted labels: binary, multiclass or multilabel.

    Args:
        y: (n,) labels, or (n, L) indicators.
        prediction: the same shape.
        metric: a name or a `LinearFractionalMetric`.
        average: for more than two classes and for labels.
        positive: the positive label of a binary problem; by default the larger of the two.

    Raises:
        InvalidInputError: for shapes that differ or no rows.

    Guarantee: none; a definition.

    Example:
        >>> round(metric_score([0, 1, 2, 2], [0, 2, 2, 2], metric="f1"), 4)
        0.6
    """
    m, truth, guess = get_metric(metric), np.asarray(y), np.asarray(prediction)
    if truth.shape != guess.shape or len(truth) == 0:
        raise InvalidInputError(f"labels and predictions need one non-empty shape, got {truth.shape}, {guess.shape}")
    if truth.ndim == 2:
        return averaged(m, confusion(truth, guess), average=average)
    classes = np.union1d(truth, guess)
    if len(classes) <= 2 or positive is not None:
        top = classes[-1] if positive is None else positive
        return m.score(truth == top, guess == top)
    indicators = one_against_rest(truth, classes), one_against_rest(guess, classes)
    return averaged(m, confusion(*indicators), average=average)


def column_denominators(metric: LinearFractionalMetric, counts: Float[np.ndarray, "l 4"]) -> Float[np.ndarray, " l"]:
    """Denominator of every label's ratio at its counts as rates: how much a step in its numerator moves the metric."""
    rates = counts / counts.sum(-1, keepdims=True)
    prevalence = np.clip(rates[:, 0] + rates[:, 2], 1e-12, 1 - 1e-12)
    return np.array([metric.rows(float(p))[1] @ r for p, r in zip(prevalence, rates, strict=True)])
