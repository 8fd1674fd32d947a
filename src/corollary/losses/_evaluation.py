"""Balanced error, per-class errors with exact intervals, and making data imbalanced."""

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int

from corollary.certificates import clopper_pearson
from corollary.errors import InvalidInputError


class ClassErrors(NamedTuple):
    """Per-class errors: counts, rates, and limits at the joint level (Bonferroni over the classes).

    Guarantee: that of `class_errors`, which makes it.

    Example:
        >>> class_errors([0, 0, 1], [0, 1, 1]).wrong.tolist()
        [1, 0]
    """

    rows: Int[np.ndarray, " n"]
    wrong: Int[np.ndarray, " n"]
    error: Float64[np.ndarray, " n"]
    lower: Float64[np.ndarray, " n"]
    upper: Float64[np.ndarray, " n"]


def class_errors(target: Any, predicted: Any, *, classes: int | None = None, delta: float = 0.05) -> ClassErrors:
    r"""The error of every class with Clopper-Pearson limits that hold for all classes at once.

    .. math:: P(h(x) \ne k \mid y = k) \in [L_k, U_k] \text{ for all } k, \text{ each at level } \delta/n

    Args:
        target: (N,) true labels.
        predicted: (N,) predicted labels.
        classes: n; default one more than the largest label.
        delta: probability that any of the intervals misses.

    Returns:
        `ClassErrors`; a class without rows has error NaN and limits 0 and 1.

    Raises:
        InvalidInputError: for empty or unequal inputs, or labels out of range.

    Guarantee: exact binomial limits, for rows drawn independently given their class, with probability 1 - delta.

    Example:
        >>> class_errors([0] * 20 + [1] * 20, [0] * 39 + [1]).error.tolist()
        [0.0, 0.95]
    """
    y, guess = np.asarray(target), np.asarray(predicted)
    if y.ndim != 1 or y.shape != guess.shape or not len(y):
        raise InvalidInputError(f"`target` and `predicted` must be (N,) labels, got shapes {y.shape} and {guess.shape}")
    if y.dtype.kind not in "iu" or guess.dtype.kind not in "iu" or min(y.min(), guess.min()) < 0:
        raise InvalidInputError(f"labels must be whole numbers from 0, got dtypes {y.dtype} and {guess.dtype}")
    n = int(max(y.max(), guess.max())) + 1 if classes is None else classes
    if max(y.max(), guess.max()) >= n:
        raise InvalidInputError(f"labels reach {max(y.max(), guess.max())}, and there are {n} classes")
    count, wrong = np.bincount(y, minlength=n), np.bincount(y[y != guess], minlength=n)
    with np.errstate(invalid="ignore"):
        error = wrong / count
    lower, upper = clopper_pearson(wrong, count, delta=delta / n)
    return ClassErrors(count, wrong, error, lower, upper)


def balanced_error(target: Any, predicted: Any, *, classes: int | None = None) -> float:
    r"""The mean of the per-class errors, over the classes that occur.

    .. math:: \frac1n \sum_k P(h(x) \ne k \mid y = k)

    Args:
        target: (N,) true labels.
        predicted: (N,) predicted labels.
        classes: n; default one more than the largest label.

    Guarantee: equals one minus scikit-learn's `balanced_accuracy_score`.

    Example:
        >>> balanced_error([0, 0, 0, 1], [0, 0, 0, 0])
        0.5
    """
    return float(np.nanmean(class_errors(target, predicted, classes=classes).error))


def imbalance_profile(
    classes: int, *, ratio: float, kind: Literal["exponential", "step"] = "exponential"
) -> Float[np.ndarray, " n"]:
    r"""Relative class sizes: \(ratio^{-k/(n-1)}\), or 1 for the first half and 1/ratio for the rest.

    Args:
        classes: n.
        ratio: largest over smallest class, at least 1.
        kind: `"exponential"` or `"step"`.

    Guarantee: largest over smallest is `ratio`.

    Example:
        >>> imbalance_profile(3, ratio=100.0).tolist(), imbalance_profile(4, ratio=10.0, kind="step").tolist()
        ([1.0, 0.1, 0.01], [1.0, 1.0, 0.1, 0.1])
    """
    if classes < 2 or not 1 <= ratio < np.inf:
        raise InvalidInputError(f"need at least 2 classes and a finite ratio of at least 1, got {classes} and {ratio}")
    if kind == "exponential":
        return np.float_power(ratio, -np.arange(classes) / (classes - 1))
    if kind == "step":
        return np.where(np.arange(classes) < classes // 2, 1.0, 1.0 / ratio)
    raise InvalidInputError(f"`kind` must be 'exponential' or 'step', got {kind!r}")


def make_imbalance(
    target: Any,
    *,
    ratio: float,
    kind: Literal["exponential", "step"] = "exponential",
    largest: int | None = None,
    order: Any = None,
    seed: int | np.random.Generator,
) -> Int[np.ndarray, " m"]:
    """Row numbers that make balanced data imbalanced.

    Args:
        target: (N,) labels.
        ratio: largest over smallest class.
        kind: `"exponential"` or `"step"`.
        largest: rows of the largest class; default the size of the smallest class in `target`.
        order: classes from most to least frequent; default by number.
        seed: which rows are kept.

    Returns:
        Sorted row numbers; every class keeps at least one row.

    Raises:
        InvalidInputError: where a class has fewer rows than its share.

    Guarantee: class sizes are the rounded profile, drawn without replacement.

    Example:
        >>> import numpy as np
        >>> rows = make_imbalance(np.repeat([0, 1, 2], 100), ratio=100, seed=0)
        >>> np.bincount(np.repeat([0, 1, 2], 100)[rows]).tolist()
        [100, 10, 1]
    """
    y, rng = np.asarray(target), np.random.default_rng(seed)
    if y.ndim != 1 or not len(y) or y.dtype.kind not in "iu":
        raise InvalidInputError(f"`target` must be (N,) whole labels, got {y.dtype} of shape {y.shape}")
    labels, counts = np.unique(y, return_counts=True)
    order = labels if order is None else np.asarray(order)
    if sorted(order) != sorted(labels):
        raise InvalidInputError(f"`order` must name every label once, got {list(order)} for labels {list(labels)}")
    top = int(counts.min()) if largest is None else largest
    sizes = np.maximum(1, np.round(top * imbalance_profile(len(order), ratio=ratio, kind=kind))).astype(int)
    have = dict(zip(labels.tolist(), counts.tolist(), strict=True))
    for label, size in zip(order.tolist(), sizes.tolist(), strict=True):
        if size > have[label]:
            raise InvalidInputError(f"class {label} has {have[label]} rows and would need {size}; lower `largest`")
    kept = [
        rng.choice(np.flatnonzero(y == label), size, replace=False) for label, size in zip(order, sizes, strict=True)
    ]
    return np.sort(np.concatenate(kept))
