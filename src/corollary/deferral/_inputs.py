"""Checks that the losses of deferral share: finite scores, costs in [0, 1], reductions."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError


def as_tensor(value: Any, *, like: Tensor | None = None) -> Tensor:
    """A floating tensor, on the device and of the dtype of `like`."""
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
    if like is not None:
        return tensor.to(device=like.device, dtype=like.dtype)
    return tensor if tensor.is_floating_point() else tensor.to(torch.get_default_dtype())


def check_scores(scores: Any, *, least: int = 2) -> Float[Tensor, "n k"]:
    """(N, K) finite scores of at least `least` actions."""
    r = as_tensor(scores)
    if r.ndim != 2 or r.shape[0] == 0 or r.shape[1] < least:
        raise InvalidInputError(f"`scores` must be (N, K) with N >= 1 and K >= {least}, got shape {tuple(r.shape)}")
    if not torch.isfinite(r).all():
        raise InvalidInputError("`scores` holds NaN or infinite values; lower the learning rate, or clip the scores")
    return r


def check_costs(costs: Any, *, like: Tensor, columns: int | None = None) -> Float[Tensor, "n j"]:
    """(N, J) costs in [0, 1] beside the scores `like`."""
    c = as_tensor(costs, like=like)
    wanted = (like.shape[0], like.shape[1] if columns is None else columns)
    if c.shape != wanted:
        raise InvalidInputError(f"`costs` must have shape {wanted}, one column for each expert, got {tuple(c.shape)}")
    if not torch.isfinite(c).all():
        raise InvalidInputError("`costs` holds NaN or infinite values; fill them, or leave those samples out")
    if c.numel() and (c.min() < 0 or c.max() > 1):
        raise InvalidInputError(
            f"`costs` must lie in [0, 1], got [{c.min().item():.6g}, {c.max().item():.6g}]; "
            "divide all costs, prices included, by their largest possible value"
        )
    return c


def check_q(q: float) -> float:
    """An exponent in (0, 1)."""
    if not 0 < q < 1:
        raise InvalidInputError(f"`q` must lie strictly between 0 and 1, got {q}; q -> 0 is log, q = 1 is MAE")
    return q


def reduce(values: Float[Tensor, " n"], weight: Any, reduction: str) -> Float[Tensor, "..."]:
    """Mean, sum or the values themselves; a weighted mean divides by the sum of the weights."""
    if reduction not in ("mean", "sum", "none"):
        raise InvalidInputError(f"`reduction` must be 'mean', 'sum' or 'none', got {reduction!r}")
    if weight is not None:
        w = as_tensor(weight, like=values)
        if w.shape != values.shape:
            raise InvalidInputError(f"`weight` must have shape {tuple(values.shape)}, got {tuple(w.shape)}")
        values = values * w
        if reduction == "mean":
            return values.sum() / w.sum()
    return values if reduction == "none" else values.mean() if reduction == "mean" else values.sum()


def validated(estimator: Any, X: Any, y: Any = None, *, wide: bool = False) -> tuple[Any, Any]:
    """Features (dense float64 or CSR) and targets as scikit-learn checks them; given a target, the width is learned.

    Args:
        estimator: whose `n_features_in_` and `feature_names_in_` are set or compared.
        X: (N, d) features.
        y: targets; None outside of `fit`.
        wide: whether targets may have several columns (costs), missing ones as NaN.

    Raises:
        InvalidInputError: with scikit-learn's sentence, for wrong shapes, NaN, or another number of features.
    """
    from sklearn.utils.validation import validate_data

    options: dict[str, Any] = {"accept_sparse": "csr", "dtype": np.float64}
    try:
        if y is None:
            return validate_data(estimator, X, reset=False, **options), None
        if not wide:
            x, y = validate_data(estimator, X, y, **options)
            return x, y
        return validate_data(estimator, X, **options), y
    except ValueError as problem:
        told = str(problem)
        if "inconsistent" in told:
            told = f"`X` and `y` do not fit together: {told}"
        elif "X" not in told:
            told = f"`X` cannot be used: {told}"
        raise InvalidInputError(told) from None


def not_fitted(owner: Any, method: str) -> Exception:
    """`NotFittedError` that scikit-learn knows as its own too."""
    from sklearn.exceptions import NotFittedError as Theirs

    from corollary.errors import NotFittedError

    return type("NotFittedError", (NotFittedError, Theirs), {})(owner, method)
