r"""Error transforms T and their inverses Gamma: how small the surrogate regret can be at a zero-one regret of t.

Symbols: tau the comp-sum index, n the classes, t in [0, 1] the zero-one regret, T(t) a lower bound on the surrogate
regret, convex with T(0) = 0; Gamma = T^{-1}, so that R_01 - R*_01 + M_01 <= Gamma(R - R* + M).

Mao, Mohri, Zhong (ICML 2023); the closed forms for tau other than 0 and 1 were derived again and checked against
minimisation: exact for tau <= 1, and for n = 2 up to tau = 2; valid and conservative elsewhere.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64

from corollary.errors import InvalidInputError

Curve = Callable[[Any], Float64[np.ndarray, "..."]]
GOLDEN = (math.sqrt(5) - 1) / 2


def checked_index(tau: float, classes: int) -> tuple[float, int]:
    """Tau and n, refused where they mean nothing."""
    if not 0 <= tau < math.inf:
        raise InvalidInputError(f"`tau` must be zero or more, got {tau}")
    if classes < 2:
        raise InvalidInputError(f"`classes` must be at least 2, got {classes}")
    return float(tau), int(classes)


def _within(t: Any) -> Float64[np.ndarray, "..."]:
    values = np.asarray(t, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise InvalidInputError("a zero-one regret lies in [0, 1]")
    return np.asarray(values)


def comp_sum_transform(t: Any, *, tau: float, classes: int) -> Float64[np.ndarray, "..."]:
    r"""T_tau, the transform of the comp-sum loss on symmetric and complete hypothesis sets.

    .. math::
        T_\tau(t) = \begin{cases}
        \frac{2^{1-\tau}}{1-\tau} [1 - m_\tau(t)] & \tau < 1 \\
        \frac{1+t}2 \log(1+t) + \frac{1-t}2 \log(1-t) & \tau = 1 \\
        \frac{1}{(\tau-1) n^{\tau-1}} [m_\tau(t) - 1] & 1 < \tau < 2 \\
        \frac{t}{(\tau-1) n^{\tau-1}} & \tau \ge 2 \end{cases} \quad
        m_\tau(t) = \left(\tfrac{(1+t)^a + (1-t)^a}{2}\right)^{1/a}, \; a = \tfrac1{2-\tau}

    Args:
        t: zero-one regrets in [0, 1].
        tau: index.
        classes: n.

    Returns:
        T(t), of the shape of t.

    Guarantee: surrogate regret >= T(zero-one regret) at every point, for every distribution and scores; equality is
        attained for tau <= 1, and for n = 2 up to tau = 2.

    Example:
        >>> comp_sum_transform(0.6, tau=0, classes=5).round(3).item()  # 1 - sqrt(1 - t^2)
        0.2

    Reference: Mao, Mohri, Zhong (ICML 2023); reconstructed from notes, may differ.
    """
    t, (tau, n) = _within(t), checked_index(tau, classes)
    if tau >= 2:
        return np.asarray(t / ((tau - 1) * n ** (tau - 1)))
    with np.errstate(divide="ignore"):
        up, down = np.log1p(t), np.log1p(-t)
    if tau == 1:
        return np.asarray((1 + t) / 2 * up + np.where(t < 1, (1 - t) / 2 * np.where(t < 1, down, 0.0), 0.0))
    a = 1 / (2 - tau)
    log_m = (np.logaddexp(a * up, a * down) - math.log(2)) / a
    if tau < 1:
        return np.asarray(np.maximum(-np.expm1(log_m) * 2 ** (1 - tau) / (1 - tau), 0.0))
    return np.asarray(np.maximum(np.expm1(log_m) / ((tau - 1) * n ** (tau - 1)), 0.0))


def comp_sum_inverse(excess: Any, *, tau: float, classes: int) -> Float64[np.ndarray, "..."]:
    r"""Gamma_tau, the inverse of T_tau: the largest zero-one regret that a surrogate regret allows.

    Closed at tau = 0, \(\sqrt{1 - (1-y)^2}\), and for tau >= 2, \((\tau-1) n^{\tau-1} y\); elsewhere by bisection,
    rounded upwards.

    Args:
        excess: surrogate regrets, zero or more.
        tau: index.
        classes: n.

    Returns:
        Zero-one regrets in [0, 1].

    Raises:
        InvalidInputError: for negative or NaN regrets.

    Guarantee: at least the exact inverse, and at most 1e-12 above it.

    Example:
        >>> comp_sum_inverse(0.2, tau=0, classes=5).round(6).item()
        0.6

    Reference: Mao, Mohri, Zhong (ICML 2023).
    """
    y, (tau, n) = checked_excess(excess), checked_index(tau, classes)
    if tau >= 2:
        return np.asarray(np.minimum(1.0, (tau - 1) * n ** (tau - 1) * y))
    if tau == 0:
        return np.asarray(np.sqrt(1 - (1 - np.minimum(y, 1.0)) ** 2))
    return np.asarray(bisect_inverse(lambda t: comp_sum_transform(t, tau=tau, classes=n), y))


def simple_inverse(excess: Any, *, tau: float, classes: int) -> Float64[np.ndarray, "..."]:
    r"""The simplified Gamma of the paper, never below the exact one.

    .. math:: \sqrt{2^\tau (2-\tau) y} \; (\tau < 1), \quad \sqrt{2 n^{\tau-1} y} \; (1 \le \tau < 2), \quad
        (\tau-1) n^{\tau-1} y \; (\tau \ge 2)

    Args:
        excess: surrogate regrets, zero or more.
        tau: index.
        classes: n.

    Guarantee: at least `comp_sum_inverse` (tested).

    Example:
        >>> simple_inverse(0.02, tau=1, classes=9).round(6).item()
        0.2

    Reference: from memory of the paper; checked.
    """
    y, (tau, n) = checked_excess(excess), checked_index(tau, classes)
    if tau < 1:
        return np.asarray(np.minimum(1.0, np.sqrt(2**tau * (2 - tau) * y)))
    if tau < 2:
        return np.asarray(np.minimum(1.0, np.sqrt(2 * n ** (tau - 1) * y)))
    return np.asarray(np.minimum(1.0, (tau - 1) * n ** (tau - 1) * y))


def checked_excess(excess: Any) -> Float64[np.ndarray, "..."]:
    """Regrets as float64, refused where negative (beyond round-off) or NaN."""
    y = np.asarray(excess, dtype=np.float64)
    if not (y >= -1e-9).all():
        raise InvalidInputError("a regret is zero or more, got a negative or NaN value; subtract the optimum, not more")
    return np.asarray(np.maximum(y, 0.0))


def bisect_inverse(transform: Curve, excess: Any) -> Float64[np.ndarray, "..."]:
    r"""\(\sup\{t \in [0, 1] : T(t) \le y\}\) for a nondecreasing T, from above.

    Args:
        transform: vectorised T.
        excess: values y.

    Guarantee: at most 1e-12 above the supremum, never below it.

    Example:
        >>> bisect_inverse(lambda t: t**2, 0.25).round(9).item()
        0.5
    """
    y = checked_excess(excess)
    low, high = np.zeros_like(y), np.ones_like(y)
    for _ in range(45):
        middle = (low + high) / 2
        fits = transform(middle) <= y
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    return np.asarray(high)


def general_transform(psi: Curve, t: Any, *, classes: int, grid: int = 60) -> Float64[np.ndarray, "..."]:
    r"""T for any loss Psi(s_y) with Psi convex and decreasing on (0, 1].

    .. math:: T(t) = \inf_{c \in [1/n, 1/2]} \sup_{|u| \le c} \{ \Psi(c) - \tfrac{1-t}2 \Psi(c+u) - \tfrac{1+t}2
        \Psi(c-u) \}

    All softmax values but those of the predicted and the likeliest class are held, starting from their tie at c; the
    weights (1 -+ t)/2 are the worst split.

    Args:
        psi: vectorised function of numpy arrays in (0, 1].
        t: zero-one regrets in [0, 1].
        classes: n; with 2 classes c = 1/2.
        grid: values of c.

    Returns:
        T(t); a lower bound on the surrogate regret, not always the largest one.

    Raises:
        InvalidInputError: for a psi that is not convex or not decreasing (tau > 2, for which the closed form holds).

    Guarantee: valid for convex decreasing Psi up to the grid over c (3e-4); equals T_tau for tau <= 2.

    Example:
        >>> import numpy as np
        >>> general_transform(lambda s: -np.log(s), 0.6, classes=2).round(4).item()
        0.1927

    Reference: Mao, Mohri, Zhong (NeurIPS 2023, "Characterization and Extensions"); from memory, checked.
    """
    t, _ = _within(t), checked_index(0.0, classes)
    s = np.linspace(1e-3, 1.0, 400)
    values = psi(s)
    if not (np.diff(values) <= 1e-9).all() or not (np.diff(values, 2) >= -1e-9).all():
        raise InvalidInputError("`psi` must be convex and decreasing on (0, 1]; for tau > 2 use `comp_sum_transform`")
    c = np.array([0.5]) if classes == 2 else np.linspace(1 / classes, 0.5, grid)
    tt = t[..., None]

    def gain(u: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            value = psi(c) - (1 - tt) / 2 * psi(np.maximum(c + u, 0)) - (1 + tt) / 2 * psi(np.maximum(c - u, 0))
        return np.where(np.isnan(value), -np.inf, value)

    # At t the best u moves mass from the predicted class to the likeliest; the objective is concave in u.
    low = np.broadcast_to(-c, np.broadcast_shapes(tt.shape, c.shape)).copy()
    high = -low
    for _ in range(70):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        better = gain(left) > gain(right)
        low, high = np.where(better, low, left), np.where(better, right, high)
    best = np.maximum(gain((low + high) / 2), np.maximum(gain(np.broadcast_to(-c, low.shape)), 0.0))
    return np.asarray(best.min(-1))


def convex_minorant(t: Any, values: Any) -> Float64[np.ndarray, " m"]:
    """The largest convex function below points of a curve, at the same points.

    Args:
        t: (m,) increasing.
        values: (m,) the curve.

    Guarantee: exact on the points (monotone chain).

    Example:
        >>> convex_minorant([0.0, 1.0, 2.0], [0.0, 2.0, 2.0]).tolist()
        [0.0, 1.0, 2.0]
    """
    x, y = np.asarray(t, dtype=np.float64), np.asarray(values, dtype=np.float64)
    hull: list[int] = []
    for i in range(len(x)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (y[b] - y[a]) * (x[i] - x[a]) < (y[i] - y[a]) * (x[b] - x[a]):
                break
            hull.pop()
        hull.append(i)
    return np.interp(x, x[hull], y[hull])


def tabulate(transform: Curve, *, points: int = 201) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """T on a grid of [0, 1], made convex.

    Args:
        transform: vectorised T.
        points: size of the grid.

    Guarantee: never above T on the grid.

    Example:
        >>> tabulate(lambda t: t**2, points=3)[1].tolist()
        [0.0, 0.25, 1.0]
    """
    t = np.linspace(0.0, 1.0, points)
    return t, convex_minorant(t, transform(t))


def tabulated_inverse(t: Any, values: Any, excess: Any) -> Float64[np.ndarray, "..."]:
    """Gamma from a tabulated T, rounded up by one step of the grid, so that it stays a bound.

    Args:
        t, values: as `tabulate` returns them.
        excess: surrogate regrets.

    Guarantee: at least the inverse of every nondecreasing curve through the points.

    Example:
        >>> tabulated_inverse([0.0, 0.5, 1.0], [0.0, 0.25, 1.0], 0.3).item()
        1.0
    """
    grid, curve = np.asarray(t, dtype=np.float64), np.maximum.accumulate(np.asarray(values, dtype=np.float64))
    index = np.searchsorted(curve, checked_excess(excess), side="right")
    return np.asarray(grid[np.minimum(index, len(grid) - 1)])
