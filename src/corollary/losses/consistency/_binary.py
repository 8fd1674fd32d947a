r"""Two classes, margin losses phi(y f) with |f| <= B: transforms on bounded and linear hypothesis sets.

.. math:: T(t) = \inf_{f \le 0} g_t(f) - \inf_{|f| \le B} g_t(f), \quad g_t(f) = \tfrac{1+t}2 \phi(f) + \tfrac{1-t}2
    \phi(-f)

Symbols: B the bound of the scores, t = |2 eta - 1|.
Awasthi, Mao, Mohri, Zhong (ICML 2022). Closed forms derived again and tested against the numerical transform.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float64

from corollary.errors import InvalidInputError
from corollary.losses.consistency._transforms import Curve, _within

MARGIN_LOSSES: dict[str, Callable[..., Any]] = {
    "hinge": lambda u, scale=1.0: np.maximum(0.0, 1 - u),
    "sigmoid": lambda u, scale=1.0: 1 - np.tanh(scale * u),
    "rho_margin": lambda u, scale=1.0: np.clip(1 - u / scale, 0.0, 1.0),
    "squared_hinge": lambda u, scale=1.0: np.maximum(0.0, 1 - u) ** 2,
    "logistic": lambda u, scale=1.0: np.logaddexp(0.0, -u),
    "exponential": lambda u, scale=1.0: np.exp(-u),
}


def binary_transform(t: Any, *, loss: str, bound: float = math.inf, scale: float = 1.0) -> Float64[np.ndarray, "..."]:
    r"""T(t) in closed form for a margin loss and scores in [-B, B].

    hinge t min(B,1); sigmoid 1 - tanh(k u): t tanh(k B); ramp at rho: t min(B, rho)/rho; squared hinge t^2 for t <= B,
    else 2 B t - B^2; logistic and exponential: those of tau = 1 and 0 while their minimiser stays within B, else the
    line that B leaves.

    Args:
        t: zero-one regrets in [0, 1].
        loss: `"hinge"`, `"sigmoid"`, `"rho_margin"`, `"squared_hinge"`, `"logistic"` or `"exponential"`.
        bound: B; infinity for complete sets.
        scale: k of the sigmoid, rho of the ramp.

    Guarantee: R_01 - R*_01 + M_01 <= T^{-1}(R - R* + M) for the scores in [-B, B], every distribution.

    Example:
        >>> binary_transform(0.5, loss="hinge", bound=0.3).item()
        0.15

    Reference: Awasthi, Mao, Mohri, Zhong (ICML 2022); reconstructed from notes, may differ.
    """
    t, b = _within(t), float(bound)
    if not b > 0 or not scale > 0:
        raise InvalidInputError(f"`bound` and `scale` must be above zero, got {bound} and {scale}")
    if loss == "hinge":
        return np.asarray(t * min(b, 1.0))
    if loss == "sigmoid":
        return np.asarray(t * math.tanh(scale * b))
    if loss == "rho_margin":
        return np.asarray(t * min(b, scale) / scale)
    if loss == "squared_hinge":
        return np.asarray(np.where(t <= b, t**2, 2 * min(b, 1.0) * t - min(b, 1.0) ** 2))
    up, down = (1 + t) / 2, (1 - t) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        log_odds = np.log1p(t) - np.log1p(-t)
        if loss == "logistic":
            inside = up * np.log1p(t) + np.where(t < 1, down * np.log1p(-t), 0.0)
            if math.isinf(b):
                return np.asarray(inside)
            outside = math.log(2) - up * np.logaddexp(0.0, -b) - down * np.logaddexp(0.0, b)
            return np.asarray(np.where(log_odds <= b, inside, outside))
        if loss == "exponential":
            inside = 1 - np.sqrt(1 - t**2)
            if math.isinf(b):
                return np.asarray(inside)
            return np.asarray(np.where(log_odds / 2 <= b, inside, 1 - up * math.exp(-b) - down * math.exp(b)))
    raise InvalidInputError(f"`loss` must be one of {', '.join(MARGIN_LOSSES)}, got {loss!r}")


def numeric_binary_transform(phi: Curve, t: Any, *, bound: float, points: int = 20001) -> Float64[np.ndarray, "..."]:
    """T(t) of any margin loss by a search over a grid of scores in [-B, B].

    Args:
        phi: vectorised margin loss.
        t: zero-one regrets in [0, 1].
        bound: B, finite.
        points: size of the grid.

    Guarantee: exact up to the grid.

    Example:
        >>> numeric_binary_transform(lambda u: (1 - u) ** 2, 0.5, bound=1.0).round(3).item()
        0.25
    """
    t = _within(t)
    f = np.linspace(-bound, bound, points)
    risk = (1 + t[..., None]) / 2 * phi(f) + (1 - t[..., None]) / 2 * phi(-f)
    return np.asarray(risk[..., f <= 0].min(-1) - risk.min(-1))


def linear_reach(x: Any, *, norm: float, bias: float, dual: float = 2.0) -> float:
    r"""B of linear scores \(w \cdot x + b\), \(\|w\| \le W, |b| \le bias\): the least reachable size over the points.

    .. math:: B = \inf_x W \|x\|_* + bias

    Args:
        x: (N, d) points of the domain; pass a zero row if x = 0 may occur.
        norm: W.
        bias: bound of |b|.
        dual: order of the dual norm.

    Guarantee: `binary_transform(bound=B)` is then valid on this set; Awasthi et al. (ICML 2022).

    Example:
        >>> linear_reach([[3.0, 4.0]], norm=2.0, bias=1.0)
        11.0
    """
    points = np.atleast_2d(np.asarray(x, dtype=np.float64))
    return float(norm * np.linalg.norm(points, ord=dual, axis=1).min() + bias)


def network_reach(x: Any, *, output_norm: float, norm: float, bias: float, dual: float = 2.0) -> float:
    r"""B of one hidden ReLU layer: \(\Lambda \inf_x (W \|x\|_* + bias)\).

    Args:
        x: (N, d) points.
        output_norm: Lambda, the l1 norm of the output weights.
        norm, bias, dual: of every hidden unit.

    Guarantee: as `linear_reach`.

    Example:
        >>> network_reach([[3.0, 4.0]], output_norm=0.5, norm=2.0, bias=1.0)
        5.5
    """
    return output_norm * linear_reach(x, norm=norm, bias=bias, dual=dual)


def softmax_range(bound: float, *, classes: int) -> tuple[float, float]:
    r"""Least and largest softmax value of scores in [-L, L]: \(1/(1 + (n-1) e^{\pm 2L})\).

    Example:
        >>> [round(s, 4) for s in softmax_range(0.0, classes=4)]
        [0.25, 0.25]
    """
    return tuple(1 / (1 + (classes - 1) * math.exp(sign * 2 * bound)) for sign in (1, -1))  # type: ignore[return-value]
