"""Checks of log-probabilities and weights: one sentence each."""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError

SLACK = 1e-3  # how far the probabilities of a row may sum from one: float32 logits and rounded files


def as_views(log_probs: ArrayLike, *, floor: float | None = None) -> Float[np.ndarray, "v n k"]:
    """(V, N, K) log-probabilities in float64, each row normalised; zeros raised to `floor` where it is given."""
    views = np.asarray(log_probs)
    if views.ndim != 3 or 0 in views.shape:
        raise InvalidInputError(
            f"log-probabilities must have shape (views, inputs, classes), none of them 0, got {views.shape}"
        )
    if not np.issubdtype(views.dtype, np.floating):
        raise InvalidInputError(f"log-probabilities must be floating-point numbers, got {views.dtype}")
    views = views.astype(np.float64, copy=False)
    total = np.exp(views).sum(-1)
    if not np.isfinite(total).all():  # NaN and +inf end up here
        view, row = np.argwhere(~np.isfinite(total))[0]
        raise InvalidInputError(f"view {view} of input {row} holds NaN or an infinite probability; drop it, or mend it")
    if (np.abs(total - 1) > SLACK).any():
        view, row = np.argwhere(np.abs(total - 1) > SLACK)[0]
        raise InvalidInputError(
            f"the probabilities of view {view} of input {row} sum to {total[view, row]:.4g}, not 1; "
            "pass log-probabilities (log_softmax of the logits), not probabilities or logits"
        )
    if floor is not None:
        if not 0 < floor < 1 / views.shape[2]:
            raise InvalidInputError(f"`floor` must lie in (0, 1/classes), got {floor}")
        zero = np.isneginf(views)
        if zero.any():
            views = np.where(zero, np.log(floor), views)
            total = np.exp(views).sum(-1)
    return views - np.log(total)[..., None]


def as_weights(weights: ArrayLike | None, views: int, inputs: int) -> Float[np.ndarray, "v n"]:
    """(V, N) weights of the views of each input, summing to one; equal ones by default."""
    if weights is None:
        return np.full((views, inputs), 1 / views)
    w = np.asarray(weights, dtype=np.float64)
    if w.shape not in ((views,), (views, inputs)):
        raise InvalidInputError(f"`weights` must have shape ({views},) or ({views}, {inputs}), got {w.shape}")
    if not np.isfinite(w).all() or (w < 0).any() or (w.sum(0) <= 0).any():
        raise InvalidInputError("`weights` must be finite and not negative, and some view of every input must count")
    w = w / w.sum(0)
    return np.broadcast_to(w[:, None], (views, inputs)) if w.ndim == 1 else w
