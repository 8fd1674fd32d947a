r"""Reliability diagrams in one and several dimensions, and binned calibration errors with their bias taken out.

A bin b of \(n_b\) forecasts has a mean forecast \(\bar p_b\) and a mean outcome \(\bar y_b\). The plain
\(\mathrm{ECE} = \sum_b (n_b / n) |\bar y_b - \bar p_b|\) is biased upwards: a calibrated model does not get zero.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.calibration._groups import announced, distinct
from corollary.errors import InvalidInputError

KINDS = ("top", "classwise")
SCHEMES = ("width", "mass")


class Reliability(NamedTuple):
    """One row for each bin that is not empty.

    Guarantee: none; see `reliability`.

    Example:
        >>> Reliability(np.array([0.2]), np.array([0.3]), np.ones(1))._fields
        ('forecast', 'outcome', 'weight')
    """

    forecast: Float[np.ndarray, "..."]
    outcome: Float[np.ndarray, "..."]
    weight: Float[np.ndarray, " B"]


def reliability(
    probabilities: ArrayLike, outcomes: ArrayLike, *, bins: int = 15, scheme: str = "width", kind: str = "classwise"
) -> Reliability:
    """The reliability diagram in one dimension.

    Args:
        probabilities: (n, K) forecasts, or (n,) of the positive class.
        outcomes: (n,) labels, whole numbers from 0, or (n, K) vectors.
        bins: number of bins.
        scheme: bins of equal `"width"` in [0, 1], or of equal `"mass"`.
        kind: `"classwise"` (all classes in one diagram) or `"top"` (the largest probability against being right).

    Returns:
        Mean forecast and mean outcome (B,) of the bins that are not empty, and their shares.

    Raises:
        InvalidInputError: for shapes that do not fit, NaN, values outside [0, 1].

    Guarantee: none; it describes.

    Example:
        >>> reliability([0.1, 0.1, 0.9, 0.9], [0, 0, 1, 0], bins=2).outcome.tolist()
        [0.25, 0.75]
    """
    p, y = pairs(probabilities, outcomes, kind)
    index, count = _bins(p, bins, scheme)
    weight = np.bincount(index, minlength=count).astype(float)
    kept = weight > 0
    forecast, outcome = (np.bincount(index, v, count)[kept] / weight[kept] for v in (p, y))
    return Reliability(forecast, outcome, weight[kept] / len(p))


def reliability_vectors(
    forecasts: ArrayLike, weights: ArrayLike | None, outcomes: ArrayLike, *, resolution: int = 10
) -> Reliability:
    """The reliability diagram in several dimensions: cells of a grid, with mean vectors.

    Args:
        forecasts, weights, outcomes: as in `calibration_error`.
        resolution: cells have the width 1 / resolution in every coordinate.

    Returns:
        Mean forecast and mean outcome (B, d) of each cell met, and its share.

    Guarantee: none; cells merge forecasts, so the error over cells is at most the error over distinct forecasts.

    Example:
        >>> diagram = reliability_vectors([[0.31, 0.69], [0.29, 0.71]], None, [[1.0, 0.0], [0.0, 1.0]])
        >>> diagram.forecast.tolist(), diagram.outcome.tolist()
        ([[0.3, 0.7]], [[0.5, 0.5]])
    """
    data = announced(forecasts, weights, outcomes)
    T, L, d = data.forecasts.shape
    flat = data.forecasts.reshape(-1, d)
    first, index = distinct(np.round(flat * resolution))
    w = data.weights.reshape(-1)
    mass = np.bincount(index, w, len(first))
    y = np.repeat(data.outcomes, L, axis=0)
    p_mean, y_mean = (np.stack([np.bincount(index, w * v[:, i], len(first)) for i in range(d)], 1) for v in (flat, y))
    kept = mass > 0
    return Reliability(p_mean[kept] / mass[kept, None], y_mean[kept] / mass[kept, None], mass[kept] / T)


def expected_calibration_error(
    probabilities: ArrayLike,
    outcomes: ArrayLike,
    *,
    bins: int | str = 15,
    scheme: str = "width",
    kind: str = "top",
    norm: float | str = 1,
    debias: bool = False,
) -> float:
    r"""Binned calibration error of given probabilities.

    Args:
        probabilities: (n, K) forecasts, or (n,) of the positive class.
        outcomes: (n,) labels, whole numbers from 0, or (n, K) vectors.
        bins: number of bins, or `"sweep"`: as many of equal mass as keep the mean outcomes monotone.
        scheme: bins of equal `"width"`, or of equal `"mass"`.
        kind: `"top"` (top-label confidence) or `"classwise"` (every class, averaged over classes).
        norm: 1, 2 (root of the mean square), or `"max"` (the largest bin).
        debias: for norm 2, take out the variance of the bins' means, \(\bar y_b (1 - \bar y_b) / (n_b - 1)\).

    Raises:
        InvalidInputError: for shapes that do not fit, or `debias` with another norm.

    Guarantee: the debiased square is unbiased for 0/1 outcomes at fixed bins of two rows or more; it is cut at zero.
        The plain one exceeds zero for calibrated forecasts.

    Example:
        >>> round(expected_calibration_error([0.2, 0.2, 0.8, 0.8], [0, 1, 1, 1], bins=5), 3)
        0.05

    Reference: Naeini, Cooper and Hauskrecht (2015); debiasing: Kumar, Liang and Ma (2019); sweep: Roelofs et al.
        (2022). Textbook formulas; the sweep is reconstructed.
    """
    if norm not in (1, 2, "max"):
        raise InvalidInputError(f"`norm` must be 1, 2 or 'max', got {norm!r}")
    if debias and norm != 2:
        raise InvalidInputError("`debias` has a closed form for norm=2 only")
    p, y = pairs(probabilities, outcomes, kind)
    index, count = _sweep(p, y) if bins == "sweep" else _bins(p, bins, scheme)
    n = np.bincount(index, minlength=count).astype(float)
    kept = n > 0
    n = n[kept]
    mean_p, mean_y = (np.bincount(index, v, count)[kept] / n for v in (p, y))
    gap = np.abs(mean_y - mean_p)
    if norm == "max":
        return float(gap.max())
    if norm == 1:
        return float(n @ gap / len(p))
    square = gap**2
    if debias:
        square = np.where(n > 1, square - mean_y * (1 - mean_y) / np.maximum(n - 1, 1), 0.0)
    return float(np.sqrt(max(float(n @ square) / len(p), 0.0)))


def pairs(probabilities: Any, outcomes: Any, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Flat (probability, outcome) pairs of the diagram of that kind."""
    if kind not in KINDS:
        raise InvalidInputError(f"`kind` must be {' or '.join(KINDS)}, got {kind!r}")
    p, y = matrices(probabilities, outcomes)
    if kind == "classwise":
        return p.reshape(-1), y.reshape(-1)
    top = p.argmax(1)[:, None]
    return np.take_along_axis(p, top, 1)[:, 0], np.take_along_axis(y, top, 1)[:, 0]


def matrices(probabilities: Any, outcomes: Any) -> tuple[np.ndarray, np.ndarray]:
    """(n, K) probabilities and outcomes; one probability becomes two classes."""
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(outcomes)
    if p.ndim == 1:
        p = np.stack([1 - p, p], 1)
    if p.ndim != 2 or len(p) == 0 or len(y) != len(p):
        raise InvalidInputError(f"probabilities must be (n, K) with one outcome a row, got {p.shape} and {y.shape}")
    if y.ndim == 1:
        codes, K = np.asarray(y, dtype=np.float64), p.shape[1]
        if not np.isfinite(codes).all() or (codes != np.round(codes)).any() or codes.min() < 0 or codes.max() >= K:
            raise InvalidInputError(f"labels must be whole numbers from 0 to {K - 1}")
        y = np.eye(p.shape[1])[codes.astype(np.int64)]
    y = y.astype(np.float64)
    if y.shape != p.shape:
        raise InvalidInputError(f"outcomes must be (n,) or {p.shape}, got {y.shape}")
    if not np.isfinite(p).all() or not np.isfinite(y).all() or p.min() < -1e-9 or p.max() > 1 + 1e-9:
        raise InvalidInputError("probabilities must lie in [0, 1], without NaN")
    return np.clip(p, 0.0, 1.0), y


def _bins(p: np.ndarray, bins: Any, scheme: str) -> tuple[np.ndarray, int]:
    if isinstance(bins, bool | str) or bins < 1:
        raise InvalidInputError(f"`bins` must be a whole number of at least 1, or 'sweep', got {bins!r}")
    if scheme not in SCHEMES:
        raise InvalidInputError(f"`scheme` must be {' or '.join(SCHEMES)}, got {scheme!r}")
    if scheme == "width":
        return np.minimum((p * bins).astype(np.int64), bins - 1), bins
    index = np.empty(len(p), dtype=np.int64)
    index[np.argsort(p, kind="stable")] = np.arange(len(p)) * bins // len(p)
    return index, bins


def _sweep(p: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, int]:
    """The largest number of equal-mass bins up to which the mean outcomes rise."""
    best = _bins(p, 1, "mass")
    for bins in range(2, len(p) + 1):
        index, count = _bins(p, bins, "mass")
        means = np.bincount(index, y, count) / np.bincount(index, minlength=count)
        if (np.diff(means) < 0).any():
            break
        best = index, count
    return best
