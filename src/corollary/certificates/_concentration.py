r"""Confidence bounds for a mean: Hoeffding, empirical Bernstein, Clopper-Pearson.

Symbols: `n` independent values in [low, high], mean `\hat\mu`, sample variance `V` (divisor n - 1), level `delta`.
A one-sided bound fails with probability at most `delta`, and so does the pair of a two-sided one (`delta/2` a side).
All are vectorised over the trailing axes, in float64, whatever the dtype of the input.

Sources: Hoeffding (1963), Theorem 2; Maurer and Pontil (2009), Theorem 4; Clopper and Pearson (1934);
all textbook formulas.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from corollary.certificates._digest import as_array
from corollary.errors import InvalidInputError

Side = Literal["both", "lower", "upper"]

HOEFFDING_FACTOR = 2.0  # exp(-2 n t^2)
BERNSTEIN_VARIANCE = 2.0  # sqrt(2 V log(2/delta) / n)
BERNSTEIN_RANGE = 7.0 / 3.0  # 7 log(2/delta) / (3 (n - 1))


class Interval(NamedTuple):
    """A confidence interval; the side that was not asked for stays at its trivial value.

    Guarantee: that of the bound which made it.

    Example:
        >>> Interval(np.array(0.2), np.array(1.0)).lower.item()
        0.2
    """

    lower: Float[np.ndarray, "..."]
    upper: Float[np.ndarray, "..."]


def checked_values(x: Any, *, delta: float, low: float, high: float, side: str, least: int = 1) -> np.ndarray:
    """`x` as float64 with the samples on axis 0, after the checks that all bounds share."""
    values = as_array(x).astype(np.float64)
    check_level(delta, side)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise InvalidInputError(
            f"`low` < `high` must be finite, got [{low}, {high}]; give the range the values cannot leave"
        )
    if values.ndim == 0 or len(values) < least:
        raise InvalidInputError(f"`x` needs at least {least} values along its first axis, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise InvalidInputError(
            f"`x` holds {int((~np.isfinite(values)).sum())} NaN or infinite values; remove or clip them"
        )
    outside = (values < low) | (values > high)
    if outside.any():
        worst = values[outside].flat[0]
        raise InvalidInputError(
            f"`x` holds {worst:.6g}, outside [{low:.6g}, {high:.6g}]; widen the range or clip beforehand"
        )
    return values


def check_level(delta: float, side: str) -> None:
    """Refuse levels and sides that mean nothing."""
    if not 0 < delta < 1:
        raise InvalidInputError(
            f"`delta` must lie strictly between 0 and 1, got {delta}; 0.05 asks for 95 % confidence"
        )
    if side not in ("both", "lower", "upper"):
        raise InvalidInputError(f"`side` must be 'both', 'lower' or 'upper', got {side!r}")


def _interval(mean: Any, radius: Any, side: str, low: float, high: float) -> Interval:
    mean, radius = np.asarray(mean, dtype=np.float64), np.asarray(radius, dtype=np.float64)
    lower = np.maximum(mean - radius, low) if side != "upper" else np.full_like(mean, low)
    upper = np.minimum(mean + radius, high) if side != "lower" else np.full_like(mean, high)
    return Interval(np.asarray(lower), np.asarray(upper))


def hoeffding(x: Any, *, delta: float, low: float = 0.0, high: float = 1.0, side: Side = "both") -> Interval:
    r"""Hoeffding's bound on the mean.

    .. math:: |\hat\mu - \mu| \le (high - low) \sqrt{\log(1/\delta') / (2 n)}

    Args:
        x: (n, ...) independent values in [low, high].
        delta: probability of failure; \(\delta' = \delta\) one-sided, \(\delta/2\) two-sided.
        low, high: range that the values cannot leave, known beforehand.
        side: `"both"`, `"lower"` or `"upper"`.

    Returns:
        Interval of arrays of shape (...).

    Raises:
        InvalidInputError: for empty, NaN or out-of-range values, or a level outside (0, 1).

    Guarantee: Hoeffding (1963), Theorem 2: fails with probability at most `delta` for independent values. It ignores
        the variance; `betting` is never much worse and usually far better.

    Example:
        >>> hoeffding([0.0, 1.0] * 100, delta=0.05, side="lower").lower.round(4).item()
        0.4135

    Reference: textbook.
    """
    values = checked_values(x, delta=delta, low=low, high=high, side=side)
    level = delta / 2 if side == "both" else delta
    radius = (high - low) * np.sqrt(np.log(1 / level) / (HOEFFDING_FACTOR * len(values)))
    mean = values.mean(0)
    return _interval(mean, np.full_like(mean, radius), side, low, high)


def empirical_bernstein(x: Any, *, delta: float, low: float = 0.0, high: float = 1.0, side: Side = "both") -> Interval:
    r"""The empirical Bernstein bound of Maurer and Pontil.

    .. math:: \hat\mu - \mu \le \sqrt{2 V \log(2/\delta') / n} + 7 (high - low) \log(2/\delta') / (3 (n - 1))

    Args:
        x: (n, ...) independent values in [low, high], n at least 2.
        delta: probability of failure; \(\delta' = \delta\) one-sided, \(\delta/2\) two-sided.
        low, high: range that the values cannot leave, known beforehand.
        side: `"both"`, `"lower"` or `"upper"`.

    Returns:
        Interval of arrays of shape (...).

    Raises:
        InvalidInputError: for fewer than two, NaN or out-of-range values, or a level outside (0, 1).

    Guarantee: Maurer and Pontil (2009), Theorem 4: fails with probability at most `delta` for independent values.

    Example:
        >>> empirical_bernstein([0.5] * 200, delta=0.05, side="lower").lower.round(4).item()
        0.4567

    Reference: textbook.
    """
    values = checked_values(x, delta=delta, low=low, high=high, side=side, least=2)
    level = delta / 2 if side == "both" else delta
    n, log_term = len(values), np.log(2 / level)
    radius = np.sqrt(BERNSTEIN_VARIANCE * values.var(0, ddof=1) * log_term / n)
    radius += BERNSTEIN_RANGE * (high - low) * log_term / (n - 1)
    return _interval(values.mean(0), radius, side, low, high)


def clopper_pearson(successes: Any, trials: Any, *, delta: float, side: Side = "both") -> Interval:
    r"""Exact binomial limits of Clopper and Pearson.

    .. math:: L = B^{-1}(\delta'; k, n - k + 1), \quad U = B^{-1}(1 - \delta'; k + 1, n - k)

    with \(B^{-1}\) the quantile of the beta distribution.

    Args:
        successes: (...) counts k, 0 <= k <= n.
        trials: (...) numbers of trials n; where n is 0 the interval is [0, 1].
        delta: probability of failure; \(\delta' = \delta\) one-sided, \(\delta/2\) two-sided.
        side: `"both"`, `"lower"` or `"upper"`.

    Returns:
        Interval of arrays of shape (...).

    Raises:
        InvalidInputError: for counts that are not whole, negative, or more successes than trials.

    Guarantee: exact for k ~ Binomial(n, p), every n and p: fails with probability at most `delta`.

    Example:
        >>> clopper_pearson(0, 20, delta=0.05, side="upper").upper.round(4).item()
        0.1391

    Reference: textbook.
    """
    from scipy.special import betaincinv

    check_level(delta, side)
    k, n = (np.asarray(v, dtype=np.float64) for v in np.broadcast_arrays(as_array(successes), as_array(trials)))
    if not (np.isfinite(k) & np.isfinite(n) & (k == np.floor(k)) & (n == np.floor(n)) & (k >= 0) & (k <= n)).all():
        raise InvalidInputError(
            "`successes` and `trials` must be whole numbers with 0 <= successes <= trials; check the counts"
        )
    level = delta / 2 if side == "both" else delta
    lower, upper = np.zeros(k.shape), np.ones(k.shape)
    if side != "upper":
        lower = np.where(k > 0, betaincinv(np.maximum(k, 1), n - k + 1, level), 0.0)
    if side != "lower":
        upper = np.where(k < n, betaincinv(k + 1, np.maximum(n - k, 1), 1 - level), 1.0)
    return Interval(np.asarray(lower), np.asarray(upper))
