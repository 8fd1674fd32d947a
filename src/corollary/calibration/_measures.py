r"""Calibration error, regrets, and the decomposition of the Brier score.

Symbols: forecasts p with weights \(x_t(p)\), outcomes \(y_t\), \(\nu_p = \sum_t x_t(p) y_t / \sum_t x_t(p)\).

.. math:: \mathrm{Cal}^D_T = \sum_p \Big( \sum_t x_t(p) \Big) D(\nu_p, p)

with D a norm, its square, or a Bregman divergence. All are totals over the T rounds; divide by T for a round's share.
Fishelson, Golowich, Mohri and Schneider, arXiv:2505.21460, section 2 (read in full).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from corollary.calibration._groups import Announced, Groups, announced, group
from corollary.calibration._norms import norm_values
from corollary.calibration._regularisers import Regulariser
from corollary.errors import InvalidInputError

SQUARED = Regulariser(
    "squared l2", value=lambda x: np.square(x).sum(-1), gradient=lambda x: 2 * x, rate=np.inf, spread=np.inf
)


def calibration_error(
    forecasts: ArrayLike,
    weights: ArrayLike | None,
    outcomes: ArrayLike,
    *,
    norm: Any = 1,
    power: float = 1.0,
    labels: ArrayLike | None = None,
) -> float:
    r"""Calibration error of a realised sequence, a total over its rounds.

    .. math:: \sum_p \Big( \sum_t x_t(p) \Big) \|\nu_p - p\|^{power}

    Args:
        forecasts: (T, L, d) the forecasts of each round; (T, d) for one a round (pure calibration: the drawn ones).
        weights: (T, L) their probabilities; None for equal ones.
        outcomes: (T, d).
        norm: p of an l_p norm (1, 2, `numpy.inf`, any p >= 1, or `"l1"`, `"l2"`, `"linf"`), `"squared"` for the
            squared l2 norm, a function of (..., d) vectors, or a `Regulariser` for its Bregman divergence.
        power: of the norm; 2 for the squared error.
        labels: (T, L) whole numbers: forecasts count as equal only with equal labels (labelled calibration).

    Returns:
        The total; divided by T it is the error a round.

    Raises:
        InvalidInputError: for shapes that do not fit, NaN (naming the round), or weights that are no distribution.

    Guarantee: exact up to round-off; forecasts count as equal where they agree to 1e-12. Labelled errors are never
        below unlabelled ones.

    Example:
        >>> forecasts = [[[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [1.0, 0.0]]]
        >>> outcomes = [[1.0, 0.0], [0.0, 1.0]]
        >>> calibration_error(forecasts, [[0.5, 0.5], [0.5, 0.5]], outcomes, norm=1)
        1.0

    Reference: arXiv:2505.21460, section 2 (read in full).
    """
    data = announced(forecasts, weights, outcomes)
    groups = group(data, None if labels is None else _labels(labels, data))
    return error_of(groups, norm=norm, power=power)


def error_of(groups: Groups, *, norm: Any = 1, power: float = 1.0) -> float:
    """Calibration error of grouped rounds."""
    if isinstance(norm, Regulariser):
        distance = norm.divergence(groups.means, groups.points)
    elif isinstance(norm, str) and norm == "squared":
        distance = np.square(groups.means - groups.points).sum(-1)
    else:
        distance = norm_values(groups.means - groups.points, norm)
    return float(groups.weight @ (distance if power == 1 else distance**power))


def _labels(labels: Any, data: Announced) -> np.ndarray:
    array = np.asarray(labels)
    if array.ndim == 1 and data.weights.shape[1] == 1:
        array = array[:, None]
    if array.shape != data.weights.shape or array.dtype.kind not in "iub":
        raise InvalidInputError(f"`labels` must be whole numbers (T, L) = {data.weights.shape}, got {array.shape}")
    return array.astype(np.int64)


def swap_regret(
    forecasts: ArrayLike, weights: ArrayLike | None, outcomes: ArrayLike, *, loss: Regulariser | None = None
) -> float:
    r"""Full swap regret for the losses \(\ell_t(p) = D_R(y_t | p)\), a total over the rounds.

    .. math:: \sup_\pi \sum_t \sum_p x_t(p) \big( \ell_t(p) - \ell_t(\pi(p)) \big)

    The best \(\pi(p)\) is \(\nu_p\), for every R (Lemma 2.1); both sums of losses are computed as they stand.

    Args:
        forecasts, weights, outcomes: as in `calibration_error`.
        loss: R; None for the squared l2 norm, which makes the loss the Brier score.

    Guarantee: Lemma 2.2: equal to the calibration error in the divergence of the same R, for every sequence.

    Example:
        >>> forecasts, outcomes = [[[0.3], [0.8]], [[0.3], [0.6]]], [[1.0], [0.0]]
        >>> round(swap_regret(forecasts, None, outcomes), 6)
        0.24
        >>> round(calibration_error(forecasts, None, outcomes, norm="squared"), 6)
        0.24

    Reference: arXiv:2505.21460, Lemmas 2.1 and 2.2 (read in full).
    """
    data = announced(forecasts, weights, outcomes)
    groups, R = group(data), loss or SQUARED
    paid = best = 0.0
    for j in range(data.weights.shape[1]):
        w, best_reply = data.weights[:, j], groups.means[groups.member[:, j]]
        paid += float(w @ R.divergence(data.outcomes, data.forecasts[:, j]))
        best += float(w @ R.divergence(data.outcomes, best_reply))
    return paid - best


def external_regret(
    forecasts: ArrayLike, weights: ArrayLike | None, outcomes: ArrayLike, *, loss: Regulariser | None = None
) -> float:
    r"""Regret against the best single forecast in hindsight, the mean of the outcomes; a total over the rounds.

    Args:
        forecasts, weights, outcomes: as in `calibration_error`.
        loss: R of the losses \(D_R(y_t | p)\); None for the Brier score.

    Guarantee: at most the swap regret.

    Example:
        >>> external_regret([[0.0], [1.0]], None, [[1.0], [0.0]])
        1.5
    """
    data, R = announced(forecasts, weights, outcomes), loss or SQUARED
    mean = np.broadcast_to(data.outcomes.mean(0), data.outcomes.shape)
    paid = sum(
        float(data.weights[:, j] @ R.divergence(data.outcomes, data.forecasts[:, j]))
        for j in range(data.weights.shape[1])
    )
    return paid - float(R.divergence(data.outcomes, mean).sum())


class Brier(NamedTuple):
    """The Brier score a round and its two parts.

    Guarantee: none; see `brier_decomposition`.

    Example:
        >>> Brier(0.3, 0.1, 0.2).refinement
        0.2
    """

    brier: float
    calibration: float
    refinement: float


def brier_decomposition(forecasts: ArrayLike, weights: ArrayLike | None, outcomes: ArrayLike) -> Brier:
    r"""Brier score = calibration + refinement, each a round's share.

    .. math:: \frac1T \sum_t \sum_p x_t(p) \|y_t - p\|^2 = \frac1T \sum_p W_p \|\nu_p - p\|^2
              + \frac1T \sum_t \sum_p x_t(p) \|y_t - \nu_p\|^2

    Args:
        forecasts, weights, outcomes: as in `calibration_error`.

    Guarantee: the three are computed separately; they add up to round-off. Low calibration error alone is easy: the
        refinement says whether the forecasts tell rounds apart.

    Example:
        >>> brier_decomposition([[0.5], [0.5], [0.0]], None, [[1.0], [0.0], [0.0]])
        Brier(brier=0.16666666666666666, calibration=0.0, refinement=0.16666666666666666)
    """
    data = announced(forecasts, weights, outcomes)
    groups, T = group(data), len(data.outcomes)
    score = refinement = 0.0
    for j in range(data.weights.shape[1]):
        w = data.weights[:, j]
        score += float(w @ np.square(data.outcomes - data.forecasts[:, j]).sum(-1))
        refinement += float(w @ np.square(data.outcomes - groups.means[groups.member[:, j]]).sum(-1))
    return Brier(score / T, error_of(groups, norm="squared") / T, refinement / T)
