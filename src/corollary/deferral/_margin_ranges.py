r"""How far the plausible linear routers can be apart at an input: exactly for two experts, by an ellipsoid for more.

The plausible parameters are \(\{w : F(w) \le \min F + \Delta\}\) for the weighted convex surrogate

    F(W) = (1/n) sum_i sum_k g_ik (-log softmax_k(x_i W)) + (l2 / 2n) |W|^2,        g = (Q / p)(1 - c).

- Two experts: F depends on \(s = r_1 - r_2 = x \cdot w\) alone, the set is convex, and the least and the largest s over
  it are where \(\nabla F(w) = \nu x\): one number \(\nu\) is to be found, so that F exceeds its least by \(\Delta\).
- Any number: a second-order model of F gives, for each pair, the margin \(r_j - r_k\) at \(\hat W\) plus or minus
  \(\sqrt{2 \Delta\, \phi' H^{-1} \phi}\).

A loss is monotone in every margin, so ranges of margins give ranges of losses, and those the query probabilities.
Practical versions of the theory for infinite classes: only the latest set is used, and Delta is scaled down.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from corollary.errors import InvalidInputError

NEWTON, SEARCH, CLOSE = 30, 60, 1e-6


class MarginFit(NamedTuple):
    """Two experts: the minimiser w of F, its value, and what F is made of.

    Guarantee: none; it is a record.

    Example:
        >>> MarginFit._fields[:2]
        ('weight', 'value')
    """

    weight: Float[np.ndarray, " d"]
    value: float
    x: Float[np.ndarray, "n d"]
    gains: Float[np.ndarray, "n 2"]
    l2: float


def fit_margin(x: Any, gains: Any, *, l2: float = 1.0) -> MarginFit:
    """Minimise F for two experts, by Newton's method.

    Args:
        x: (n, d) features, a column of ones among them if there is to be an intercept.
        gains: (n, 2) weighted gains g, not negative.
        l2: penalty, more than 0.

    Raises:
        InvalidInputError: for shapes that do not match, or a penalty of zero.

    Guarantee: the global minimum, up to round-off.

    Example:
        >>> fit = fit_margin([[1.0], [-1.0]], [[1.0, 0.0], [0.0, 1.0]], l2=0.1)
        >>> bool(fit.weight[0] > 1)
        True
    """
    data, g = np.asarray(x, dtype=np.float64), np.asarray(gains, dtype=np.float64)
    if data.ndim != 2 or g.shape != (len(data), 2) or not len(data) or not np.isfinite(data).all():
        raise InvalidInputError(f"`x` must be finite (n, d) and `gains` (n, 2), got {data.shape} and {g.shape}")
    if not (np.isfinite(g).all() and (g >= 0).all()) or not l2 > 0:
        raise InvalidInputError("`gains` must be finite and not negative, and `l2` positive")
    start = MarginFit(np.zeros(data.shape[1]), 0.0, data, g, l2)
    found = _minimise(start, np.zeros((1, data.shape[1])), np.zeros((1, data.shape[1])))
    return start._replace(weight=found[0], value=float(_value(start, found)[0]))


def convex_margin_range(fit: MarginFit, x: Any, *, slack: float) -> tuple[np.ndarray, np.ndarray]:
    r"""Least and largest margin \(s = r_1 - r_2\) at every input over \(\{w : F(w) \le \min F + \Delta\}\).

    Args:
        fit: what `fit_margin` gave.
        x: (m, d) inputs.
        slack: \(\Delta\), more than 0.

    Returns:
        (m,) least and (m,) largest margins.

    Guarantee: the extrema of a linear form over a convex set, up to a relative 1e-6 of the slack.

    Example:
        >>> fit = fit_margin([[1.0], [-1.0]], [[1.0, 0.0], [0.0, 1.0]], l2=0.1)
        >>> low, high = convex_margin_range(fit, [[1.0]], slack=0.05)
        >>> bool(low[0] < fit.weight[0] < high[0])
        True

    Reference: derived (Lagrange multiplier of a convex program).
    """
    points = np.asarray(x, dtype=np.float64)
    if not slack > 0 or points.ndim != 2 or points.shape[1] != fit.x.shape[1]:
        raise InvalidInputError(f"`slack` must be positive and `x` (m, {fit.x.shape[1]}), got {slack}, {points.shape}")
    centre = points @ fit.weight
    low, high = centre.copy(), centre.copy()
    move = np.flatnonzero(np.abs(points).max(1) > 0)
    if len(move):
        high[move] = _extreme(fit, points[move], slack)
        low[move] = -_extreme(fit, -points[move], slack)
    return low, high


def _extreme(fit: MarginFit, phi: np.ndarray, slack: float) -> np.ndarray:
    """Max phi . w over F(w) <= value + slack: F(w(nu)) - value grows from 0 with nu."""
    m = len(phi)
    hessian = _hessian(fit, fit.weight[None])[0]
    nu = np.sqrt(2 * slack / np.einsum("md,md->m", phi, np.linalg.solve(hessian, phi.T).T))
    w = np.tile(fit.weight, (m, 1))
    low, high = np.full(m, -np.inf), np.full(m, np.inf)  # ends of a bracket of log nu, and the log excess there
    below, above = np.zeros(m), np.zeros(m)
    at, excess = np.log(nu), np.full(m, np.inf)
    for turn in range(SEARCH):
        todo = np.abs(excess) >= CLOSE
        if not todo.any():
            break
        w[todo] = _minimise(fit, w[todo], np.exp(at[todo])[:, None] * phi[todo])
        excess[todo] = np.log(np.maximum(_value(fit, w[todo]) - fit.value, 1e-300) / slack)
        low, below = np.where(excess < 0, at, low), np.where(excess < 0, excess, below)
        high, above = np.where(excess >= 0, at, high), np.where(excess >= 0, excess, above)
        both = np.isfinite(low) & np.isfinite(high)
        with np.errstate(invalid="ignore", divide="ignore"):
            chord = low - below * (high - low) / (above - below)
            halved = (low + high) / 2
        inner = chord if turn % 2 else halved  # the chord is fast, halving is sure
        at = np.where(np.abs(excess) < CLOSE, at, np.where(both, inner, at + np.where(excess < 0, 1.5, -1.5)))
    return np.einsum("md,md->m", phi, w)


def _value(fit: MarginFit, w: np.ndarray) -> np.ndarray:
    s = w @ fit.x.T
    soft = np.maximum(s, 0) + np.log1p(np.exp(-np.abs(s)))  # log(1 + e^s); log(1 + e^-s) is s less
    terms = soft @ fit.gains.sum(1) - s @ fit.gains[:, 0]
    return (terms + 0.5 * fit.l2 * (w * w).sum(1)) / len(fit.x)


def _hessian(fit: MarginFit, w: np.ndarray) -> np.ndarray:
    p = expit(w @ fit.x.T)
    curve = fit.gains.sum(1) * p * (1 - p) / len(fit.x)
    d = fit.x.shape[1]
    pairs = (fit.x[:, :, None] * fit.x[:, None, :]).reshape(len(fit.x), d * d)
    return (curve @ pairs).reshape(-1, d, d) + fit.l2 / len(fit.x) * np.eye(d)


def _minimise(fit: MarginFit, start: np.ndarray, tilt: np.ndarray) -> np.ndarray:
    """Argmin F(w) - tilt . w for every row: Newton steps, halved until they descend."""
    w, n = start.copy(), len(fit.x)

    def objective(v: np.ndarray) -> np.ndarray:
        return _value(fit, v) - (tilt * v).sum(1)

    now = objective(w)
    for _ in range(NEWTON):
        p = expit(w @ fit.x.T)
        slope = (p * fit.gains.sum(1) - fit.gains[:, 0]) @ fit.x / n + fit.l2 / n * w - tilt
        step = np.linalg.solve(_hessian(fit, w), slope[:, :, None])[:, :, 0]
        fall = (slope * step).sum(1)
        if (fall <= 1e-14 * (1 + np.abs(now))).all():
            break
        size = np.ones(len(w))
        for _ in range(40):
            tried = objective(w - size[:, None] * step)
            worse = tried > now - 1e-4 * size * fall + 1e-15 * (1 + np.abs(now))
            if not worse.any():
                break
            size[worse] /= 2
        w = w - size[:, None] * step
        now = objective(w)
    return w


def fit_softmax(x: Any, gains: Any, *, l2: float = 1.0) -> Float[np.ndarray, "d k"]:
    """Minimise F for any number of experts, by L-BFGS.

    Args:
        x: (n, d) features, a column of ones among them if there is to be an intercept.
        gains: (n, K) weighted gains, not negative.
        l2: penalty, more than 0.

    Guarantee: the global minimum, up to the solver's tolerance.

    Example:
        >>> w = fit_softmax([[1.0], [-1.0]], [[1.0, 0.0], [0.0, 1.0]], l2=0.1)
        >>> bool(w[0, 0] > w[0, 1])
        True
    """
    data, g = np.asarray(x, dtype=np.float64), np.asarray(gains, dtype=np.float64)
    (n, d), k = data.shape, g.shape[1]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(d, k)
        log_p = log_softmax(data @ w, axis=1)
        slope = data.T @ (np.exp(log_p) * g.sum(1, keepdims=True) - g) + l2 * w
        return float((-(g * log_p).sum() + 0.5 * l2 * (w * w).sum()) / n), slope.ravel() / n

    tight = {"maxiter": 500, "ftol": 1e-13, "gtol": 1e-8}
    return minimize(objective, np.zeros(d * k), jac=True, method="L-BFGS-B", options=tight).x.reshape(d, k)


def ellipsoid_margin_range(
    weight: Any, x: Any, gains: Any, points: Any, *, l2: float = 1.0, slack: float
) -> tuple[np.ndarray, np.ndarray]:
    r"""Ranges of all margins \(r_j - r_k\) by a second-order model of F around its minimiser.

    Args:
        weight: (d, K) minimiser of F (an intercept is a column of ones in `x`).
        x: (n, d) features that F was made of.
        gains: (n, K) weighted gains.
        points: (m, d) inputs.
        l2: penalty, more than 0.
        slack: \(\Delta\).

    Returns:
        (m, K, K) least and largest \(r_j - r_k\), j the first index.

    Raises:
        InvalidInputError: for shapes that do not match.

    Guarantee: exact for a quadratic F; as good as the model otherwise.

    Example:
        >>> low, high = ellipsoid_margin_range(np.zeros((1, 2)), [[1.0]], [[1.0, 1.0]], [[1.0]], l2=1.0, slack=0.5)
        >>> round(float(high[0, 0, 1]), 3), float(low[0, 0, 0])
        (1.0, 0.0)

    Reference: derived.
    """
    w, data = np.asarray(weight, dtype=np.float64), np.asarray(x, dtype=np.float64)
    g, at = np.asarray(gains, dtype=np.float64), np.asarray(points, dtype=np.float64)
    if data.ndim != 2 or w.shape[:1] != data.shape[1:] or g.shape != (len(data), w.shape[1]) or not l2 > 0:
        raise InvalidInputError(f"shapes do not match: weight {w.shape}, x {data.shape}, gains {g.shape}")
    (n, d), k = data.shape, w.shape[1]
    r = data @ w
    p = np.exp(r - r.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    total = g.sum(1) / n
    blocks = np.empty((k, d, k, d))
    for a in range(k):
        for b in range(a, k):
            curve = total * p[:, a] * ((a == b) - p[:, b])
            blocks[a, :, b, :] = blocks[b, :, a, :] = (data * curve[:, None]).T @ data
    hessian = blocks.reshape(k * d, k * d) + l2 / n * np.eye(k * d)
    inverse = np.linalg.inv(hessian).reshape(k, d, k, d)
    spread = np.einsum("md,adbe,me->mab", at, inverse, at, optimize=True)  # phi_a' H^-1 phi_b
    own = np.einsum("maa->ma", spread)
    width = np.sqrt(np.maximum(2 * slack * (own[:, :, None] + own[:, None, :] - 2 * spread), 0))
    margin = (at @ w)[:, :, None] - (at @ w)[:, None, :]
    return margin - width, margin + width


def loss_spread(low: Any, high: Any, *, limit: float = 5.0) -> Float[np.ndarray, "m k"]:
    r"""Query probabilities from ranges of margins: the spread of the bounded logistic loss.

    .. math:: p_k = \frac{\ell_k(high) - \ell_k(low)}{\log(1 + (K - 1) e^{2B})}, \quad
              \ell_k(m) = \log(1 + \sum_{j \ne k} e^{m_{jk}})

    Args:
        low, high: (m, K, K) ranges of \(r_j - r_k\).
        limit: B; margins are clipped to [-2B, 2B].

    Guarantee: at least the spread of the losses over all routers within the ranges.

    Example:
        >>> loss_spread(np.zeros((1, 2, 2)), np.zeros((1, 2, 2))).tolist()
        [[0.0, 0.0]]
    """
    k = np.asarray(low).shape[-1]
    others = ~np.eye(k, dtype=bool)

    def loss(margin: Any) -> np.ndarray:
        clipped = np.clip(np.asarray(margin, dtype=np.float64), -2 * limit, 2 * limit)
        return np.log1p((np.exp(clipped) * others).sum(1))  # over j, the first index

    return np.clip((loss(high) - loss(low)) / np.log1p((k - 1) * np.exp(2 * limit)), 0.0, 1.0)
