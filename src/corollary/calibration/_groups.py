r"""Rounds grouped by equal forecasts: weights \(W_p = \sum_t x_t(p)\) and means \(\nu_p\); no loop over rounds.

Forecasts are equal where all their coordinates, rounded to 1e-12, are: only the key is rounded. A forecast that stays
for many rounds is first summed over that run; the distinct runs are then matched by a 64-bit hash, which is checked.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from corollary.errors import InvalidInputError

DIGITS = 12
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Groups(NamedTuple):
    """One row for each distinct forecast (with its label, where labels were given)."""

    points: Float[np.ndarray, "G d"]
    weight: Float[np.ndarray, " G"]
    means: Float[np.ndarray, "G d"]
    member: Int[np.ndarray, "T L"]


class Announced(NamedTuple):
    """Forecasts, weights and outcomes, checked and of equal length."""

    forecasts: Float[np.ndarray, "T L d"]
    weights: Float[np.ndarray, "T L"]
    outcomes: Float[np.ndarray, "T d"]


def announced(forecasts: Any, weights: Any, outcomes: Any) -> Announced:
    """Checked arrays: (T, L, d) or (T, d) forecasts, (T, L) weights or None for equal ones, (T, d) outcomes.

    Raises:
        InvalidInputError: for shapes that do not fit, NaN (naming the round), weights that are no distribution.
    """
    p, y = np.asarray(forecasts, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    if y.ndim == 1:
        y = y[:, None]
    if p.ndim == 1:
        p = p[:, None]
    if p.ndim == 2:
        p = p[:, None, :] if p.shape == y.shape or y.shape[1] != 1 else p[:, :, None]
    if p.ndim != 3 or y.ndim != 2 or len(p) != len(y) or p.shape[2] != y.shape[1] or 0 in p.shape:
        raise InvalidInputError(
            f"forecasts must be (T, L, d) and outcomes (T, d) with T at least 1, got {p.shape} and {y.shape}"
        )
    w = np.full(p.shape[:2], 1 / p.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.ndim == 1 and p.shape[1] == 1:
        w = w[:, None]
    if w.shape != p.shape[:2]:
        raise InvalidInputError(f"weights must be (T, L) = {p.shape[:2]}, got {w.shape}")
    for name, array in (("forecasts", p), ("outcomes", y), ("weights", w)):
        finite = np.isfinite(array)
        if not finite.all():
            t = int(np.argmin(finite.reshape(len(array), -1).all(1)))
            raise InvalidInputError(f"round {t + 1}: {name} hold NaN or an infinity; remove or repair that round")
    if (w < 0).any() or np.abs(w.sum(1) - 1).max() > 1e-6:
        t = int(np.argmax((w < 0).any(1) | (np.abs(w.sum(1) - 1) > 1e-6)))
        raise InvalidInputError(f"round {t + 1}: weights must be probabilities, they are {w[t].tolist()}")
    return Announced(p, w, y)


def group(data: Announced, labels: np.ndarray | None = None) -> Groups:
    """The distinct forecasts of a stream, and of each cell (t, l) the group that it belongs to."""
    p, w, y = data
    T, L, d = p.shape
    points, weight, sums, runs, index = [], [], [], 0, np.empty((T, L), dtype=np.int64)
    for j in range(L):
        new = np.ones(T, dtype=bool)
        new[1:] = (p[1:, j] != p[:-1, j]).any(-1)
        if labels is not None:
            new[1:] |= labels[1:, j] != labels[:-1, j]
        begin = np.flatnonzero(new)
        index[:, j] = runs + np.cumsum(new) - 1
        own = p[begin, j]
        points.append(own if labels is None else np.column_stack([own, labels[begin, j]]))
        weight.append(np.add.reduceat(w[:, j], begin))
        sums.append(np.add.reduceat(w[:, j, None] * y, begin, axis=0))
        runs += len(begin)
    rows, W, Y = (np.concatenate(a) for a in (points, weight, sums))
    first, inverse = distinct(rows)
    total = np.bincount(inverse, W, len(first))
    means = np.stack([np.bincount(inverse, Y[:, i], len(first)) for i in range(d)], 1)
    means /= np.where(total > 0, total, 1.0)[:, None]
    return Groups(rows[first, :d], total, means, inverse[index])


def distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row of every distinct one, and of each row which it is."""
    keys = np.round(rows, DIGITS) + 0.0  # -0.0 is 0.0
    mixed = np.zeros(len(keys), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for j in range(keys.shape[1]):
            bits = np.ascontiguousarray(keys[:, j]).view(np.uint64) + GOLDEN * np.uint64(j + 1)
            bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            mixed += bits ^ (bits >> np.uint64(31))
    _, first, inverse = np.unique(mixed, return_index=True, return_inverse=True)
    if not (keys == keys[first[inverse]]).all():  # two rows of one hash: about one stream in a million million
        _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    return first, inverse.reshape(-1)
