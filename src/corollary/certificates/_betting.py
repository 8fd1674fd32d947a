r"""Confidence bounds by betting: a gambler who grows rich against a mean refutes it.

Symbols: values x_i in [0, 1] after rescaling, a hypothetical mean m, bets lambda_i chosen before x_i is seen,
capital \(K_t(m) = \prod_{i \le t} (1 + \lambda_i (x_i - m))\). If the mean is at most m, the capital is a nonnegative
supermartingale, and by Ville's inequality it ever reaches 1/delta with probability at most delta.

Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 86 (2024); the
predictable plug-in bets of its section 3. Reconstructed from the published formulas; the authors' code was not used.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from corollary.certificates._concentration import Interval, Side, checked_values

TRUNCATION = 0.75  # bets stay below this share of what could make the capital negative (the paper suggests 1/2 or 3/4)
BISECTIONS = 40  # 1e-12 of the range


def plug_in_bets(x: Float[np.ndarray, "n ..."], *, delta: float) -> Float[np.ndarray, "n ..."]:
    r"""Predictable bets \(\lambda_i = \sqrt{2 \log(1/\delta) / (n \hat\sigma^2_{i-1})}\), before truncation.

    The variance estimate starts from a pseudo-value of mean 1/2 and variance 1/4, and sees only the past.

    Args:
        x: (n, ...) values in [0, 1].
        delta: level of the test that the bets are tuned to.

    Returns:
        (n, ...) nonnegative bets; the i-th depends on x_1 .. x_{i-1} only.

    Example:
        >>> bets = plug_in_bets(np.array([0.2, 0.9, 0.4]), delta=0.05)
        >>> bool(bets[0] == plug_in_bets(np.array([0.7, 0.1, 0.1]), delta=0.05)[0])
        True
    """
    n = len(x)
    count = np.arange(1, n + 1, dtype=np.float64).reshape(-1, *[1] * (x.ndim - 1))
    mean = (0.5 + np.cumsum(x, 0)) / (count + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2, 0)) / (count + 1)
    before = np.concatenate([np.full((1, *x.shape[1:]), 0.25), variance[:-1]])
    return np.sqrt(2 * np.log(1 / delta) / (n * before))


def log_capital(x: Float[np.ndarray, "n ..."], mean: Any, *, delta: float) -> Float[np.ndarray, "..."]:
    r"""Largest log-capital \(\max_t \log K_t(m)\) of betting that the mean exceeds `mean`.

    Args:
        x: (n, ...) values in [0, 1], in an order that was fixed without looking at them.
        mean: (...) hypothetical mean m in [0, 1], broadcast against x[0].
        delta: level the bets are tuned to; the test is valid for every threshold.

    Returns:
        (...) log-capital, at least 0 (the capital before the first bet).

    Guarantee: if every x_i has conditional mean at most m given the past, P(max_t K_t >= 1/a) <= a for every a
        (Ville). It decreases in m.

    Example:
        >>> bool(log_capital(np.ones(50), 0.5, delta=0.05) > np.log(20))
        True
    """
    return _log_capital(x, np.asarray(mean, dtype=np.float64), plug_in_bets(x, delta=delta))


def _log_capital(x: np.ndarray, m: Any, bets: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        truncated = np.minimum(bets, TRUNCATION / m)
    path = np.cumsum(np.log1p(truncated * (x - m)), 0)
    return np.asarray(np.maximum(path.max(0), 0.0))


def _lower(x: np.ndarray, level: float) -> np.ndarray:
    """Smallest mean that is not rejected: the capital decreases in m, so bisection finds it."""
    bets = plug_in_bets(x, delta=level)
    below, above = np.zeros(x.shape[1:]), np.ones(x.shape[1:])
    for _ in range(BISECTIONS):
        middle = (below + above) / 2
        rejected = _log_capital(x, middle, bets) >= np.log(1 / level)
        below, above = np.where(rejected, middle, below), np.where(rejected, above, middle)
    return below  # the side that is rejected (or 0): never above the exact bound


def betting(x: Any, *, delta: float, low: float = 0.0, high: float = 1.0, side: Side = "both") -> Interval:
    r"""Confidence bounds for a mean by betting against it.

    .. math:: L = \inf \{ m : \max_t \prod_{i \le t} (1 + \lambda_i(m) (x_i - m)) < 1/\delta' \}

    with the predictable plug-in bets \(\lambda_i(m) = \min(\sqrt{2 \log(1/\delta') / (n \hat\sigma^2_{i-1})}, c/m)\).

    Args:
        x: (n, ...) values in [low, high]. The bound depends on their order: fix it beforehand, for instance
            by `order_from_digest`.
        delta: probability of failure; \(\delta' = \delta\) one-sided, \(\delta/2\) two-sided.
        low, high: range that the values cannot leave, known beforehand.
        side: `"both"`, `"lower"` or `"upper"`.

    Returns:
        Interval of arrays of shape (...).

    Raises:
        InvalidInputError: for empty, NaN or out-of-range values, or a level outside (0, 1).

    Guarantee: fails with probability at most `delta` for independent values, and for any values whose conditional mean
        given the past is constant (Ville's inequality); no assumption on the variance.

    Example:
        >>> x = np.tile([0.4, 0.5, 0.6], 100)
        >>> betting(x, delta=0.05, side="lower").lower.round(3).item()
        0.488

    Reference: Waudby-Smith and Ramdas (2024), section 3; reconstructed from the published formulas, may differ.
    """
    values = checked_values(x, delta=delta, low=low, high=high, side=side)
    scaled = np.clip((values - low) / (high - low), 0.0, 1.0)
    level = delta / 2 if side == "both" else delta
    lower = _lower(scaled, level) if side != "upper" else np.zeros(scaled.shape[1:])
    upper = 1 - _lower(1 - scaled, level) if side != "lower" else np.ones(scaled.shape[1:])
    return Interval(np.asarray(low + (high - low) * lower), np.asarray(low + (high - low) * upper))
