r"""Tests of calibration with p-values: is every forecast the probability of what it forecasts?

Null hypothesis: given the past and the forecast \(p_t\), the outcome is class k with probability \(p_{tk}\).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from corollary.calibration._reliability import expected_calibration_error, matrices
from corollary.errors import InvalidInputError

METHODS = ("spiegelhalter", "hosmer-lemeshow", "resampling", "betting")


class CalibrationTest(NamedTuple):
    """The statistic and the p-value of a test.

    Guarantee: none; see `calibration_test`.

    Example:
        >>> CalibrationTest(1.0, 0.3, "spiegelhalter").p_value
        0.3
    """

    statistic: float
    p_value: float
    method: str


def calibration_test(
    probabilities: ArrayLike,
    outcomes: ArrayLike,
    *,
    method: str = "spiegelhalter",
    bins: int = 10,
    draws: int = 999,
    seed: int = 0,
) -> CalibrationTest:
    r"""Test whether probabilities are calibrated.

    Args:
        probabilities: (n, K), or (n,) of the positive class.
        outcomes: (n,) labels or (n, K) one-hot vectors, in the order in which they came.
        method: `"spiegelhalter"`: the Brier score against its mean under the null, standardised; any K.
            `"hosmer-lemeshow"`: chi-squared over bins of equal mass, two classes.
            `"resampling"`: ECE against its distribution when outcomes are drawn from the forecasts; any K.
            `"betting"`: a gambler bets against the forecasts; may be looked at after every round.
        bins: of the binned tests.
        draws: of the resampling.
        seed: of the resampling.

    Returns:
        Statistic, p-value, method; a small p-value speaks against calibration.

    Raises:
        InvalidInputError: for shapes that do not fit, outcomes that are no labels, an unknown method.

    Guarantee: under the null P(p <= a) <= a: exactly for resampling and betting (Ville's inequality, at any stopping
        time), in the limit of many rounds for the other two.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> p = rng.uniform(size=2000)
        >>> y = (rng.uniform(size=2000) < p).astype(int)
        >>> calibration_test(p, y).p_value > 0.05, calibration_test(p**2, y).p_value < 1e-6
        (True, True)

    Reference: Spiegelhalter (1986), Hosmer and Lemeshow (1980), Bröcker and Smith (2007), Waudby-Smith and Ramdas
        (2024); textbook.
    """
    p, y = matrices(probabilities, outcomes)
    if not np.isin(y, (0.0, 1.0)).all() or not np.allclose(y.sum(1), 1):
        raise InvalidInputError("these tests need outcomes that are labels: one class a row")
    if method == "spiegelhalter":
        return _spiegelhalter(p, y)
    if method == "hosmer-lemeshow":
        return _hosmer_lemeshow(p, y, bins)
    if method == "resampling":
        return _resampling(p, y, bins, draws, np.random.default_rng([seed, 0x7E57]))
    if method == "betting":
        return _betting(p, y)
    raise InvalidInputError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}")


def _spiegelhalter(p: np.ndarray, y: np.ndarray) -> CalibrationTest:
    from scipy.stats import norm

    c = 1 - 2 * p  # |y - p|^2 = const + <c, y>
    total = float((c * (y - p)).sum())
    variance = float((np.square(c) * p).sum() - np.square((c * p).sum(1)).sum())
    if variance <= 0:  # forecasts of 0 and 1 only: right, or refuted
        right = bool((np.abs(y - p) < 1e-12).all())
        return CalibrationTest(0.0 if right else np.inf, float(right), "spiegelhalter")
    z = total / np.sqrt(variance)
    return CalibrationTest(float(z), float(2 * norm.sf(abs(z))), "spiegelhalter")


def _hosmer_lemeshow(p: np.ndarray, y: np.ndarray, bins: int) -> CalibrationTest:
    from scipy.stats import chi2

    if p.shape[1] != 2:
        raise InvalidInputError(f"the Hosmer-Lemeshow test is for two classes, got {p.shape[1]}; use resampling")
    order = np.argsort(p[:, 1], kind="stable")
    index = np.arange(len(p)) * bins // len(p)
    q, hit = p[order, 1], y[order, 1]
    excess = np.bincount(index, hit - q, bins)
    variance = np.bincount(index, q * (1 - q), bins)
    kept = variance > 0
    statistic = float((excess[kept] ** 2 / variance[kept]).sum())
    return CalibrationTest(statistic, float(chi2.sf(statistic, max(int(kept.sum()), 1))), "hosmer-lemeshow")


def _resampling(p: np.ndarray, y: np.ndarray, bins: int, draws: int, rng: np.random.Generator) -> CalibrationTest:
    def ece(codes: np.ndarray) -> float:
        return expected_calibration_error(p, codes, bins=bins, scheme="mass", kind="classwise")

    seen, steps = ece(y.argmax(1)), np.cumsum(p, 1)
    steps /= steps[:, -1:]
    worse = sum(ece((rng.random((len(p), 1)) > steps).sum(1)) >= seen - 1e-12 for _ in range(draws))
    return CalibrationTest(seen, (1 + worse) / (1 + draws), "resampling")


def _betting(p: np.ndarray, y: np.ndarray) -> CalibrationTest:
    """The mean of gamblers: on each class, and on too bold or too timid forecasts; for and against, several stakes."""
    stakes = np.array([0.05, 0.1, 0.2, 0.4, -0.05, -0.1, -0.2, -0.4])
    bold = ((1 - 2 * p) * (y - p)).sum(1, keepdims=True)
    bets = np.hstack([y - p, bold])  # each of mean 0 under the null, between -2 and 2
    capital = np.exp(np.minimum(np.cumsum(np.log1p(stakes[:, None, None] * bets), 1), 700)).mean(0)
    capital = (capital[:, :-1].mean(1) + capital[:, -1]) / 2
    top = float(capital.max(initial=1.0))
    return CalibrationTest(top, min(1.0, 1 / top), "betting")
