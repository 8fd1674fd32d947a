r"""Regularisers of the analysis (never of the algorithm) and the rates they give.

A convex R is 1-strongly convex in a norm when \(D_R(y | p) = R(y) - R(p) - \langle \nabla R(p), y - p \rangle \ge
\|y - p\|^2\) (no factor 1/2). Its rate is \(\rho = \max_{y, p \in P} D_R(y | p)\); its spread
\(\sigma = \max_\mu E_\mu R(y) - R(E_\mu y)\), the largest Jensen gap on P, is never larger and often a quarter of it.

Euclidean, any set and l_q norm: \(R = c^2 \|x\|_2^2\), \(c = d^{\max(0, 1/q - 1/2)}\). Simplex, l1: \(R = 8
\sum_i m_i \log m_i\), m = (p + u) / 2, u uniform: \(\rho \le 4 \log(1 + d)\) (Pinsker). l_p balls, 1 < p <= 2: \(R =
\|x\|_p^2 / (p - 1)\). Products: sums. Fishelson, Golowich, Mohri and Schneider, arXiv:2505.21460, section 2 (read in
full); the explicit forms are derived here, and tested.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float

from corollary.calibration._norms import exponent, norm_name, order_of
from corollary.calibration._sets import Ball, Box, ConvexSet, Product, Simplex
from corollary.errors import InvalidInputError

Field = Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Regulariser:
    r"""A strongly convex function with its Bregman divergence, rate and spread.

    Args:
        name: how tables call it.
        value: (..., d) -> (...), R.
        gradient: (..., d) -> (..., d).
        rate: an upper bound on \(\rho = \max D_R\) over the set.
        spread: an upper bound on the largest Jensen gap over the set.

    Guarantee: `divergence` is exact up to round-off; rate and spread are upper bounds where `regulariser` made it.

    Example:
        >>> euclid = regulariser(Ball(3), 2)
        >>> euclid.name, euclid.rate, euclid.spread
        ('squared l2', 4.0, 1.0)
        >>> float(euclid.divergence(np.ones(3), np.zeros(3)))
        3.0
    """

    name: str
    value: Field
    gradient: Field
    rate: float = np.inf
    spread: float = np.inf

    def divergence(self, y: np.ndarray, p: np.ndarray) -> Float[np.ndarray, "..."]:
        """D_R(y | p), not below zero."""
        y, p = np.asarray(y, dtype=np.float64), np.asarray(p, dtype=np.float64)
        return np.asarray(np.maximum(self.value(y) - self.value(p) - (self.gradient(p) * (y - p)).sum(-1), 0.0))

    def gap(self, outcomes: np.ndarray) -> float:
        """The Jensen gap of the empirical distribution of outcomes (T, d): mean of R minus R of the mean."""
        if len(outcomes) == 0:
            return 0.0
        return max(float(self.value(outcomes).mean() - self.value(outcomes.mean(0))), 0.0)


def regulariser(domain: ConvexSet, norm: Any = 2, *, kind: str = "best") -> Regulariser:
    r"""A regulariser that is 1-strongly convex in `norm`, the one of least rate that is known in closed form.

    Args:
        domain: the set P.
        norm: an l_q norm.
        kind: `"best"`, or `"euclidean"`, `"entropic"` (simplex), `"power"` (balls).

    Raises:
        InvalidInputError: for a norm that is not l_q, or a kind that the set does not have.

    Guarantee: \(D_R(y | p) \ge \|y - p\|^2\) on the set; `rate` and `spread` are upper bounds there.

    Example:
        >>> [(r.name, round(r.rate, 3)) for r in (regulariser(Simplex(50), 1), regulariser(Simplex(50), 2))]
        [('entropy', 15.727), ('squared l2', 2.0)]

    Reference: arXiv:2505.21460, section 2 (read in full); explicit constants derived.
    """
    found = known_regularisers(domain, norm)
    if kind == "best":
        return min(found.values(), key=lambda r: r.rate)
    if kind not in found:
        raise InvalidInputError(f"{domain!r} has the regularisers {', '.join(found)}, not {kind!r}")
    return found[kind]


def known_regularisers(domain: ConvexSet, norm: Any) -> dict[str, Regulariser]:
    """Every regulariser known in closed form for the set and norm, by kind."""
    q = order_of(norm)
    if q is None:
        raise InvalidInputError("rates are known in l_p norms only; give the number p, or a Regulariser of your own")
    return dict(_known(domain, q))


@lru_cache(maxsize=64)
def _known(domain: ConvexSet, q: float) -> dict[str, Regulariser]:
    found = {"euclidean": _euclidean(domain, q)}
    if isinstance(domain, Simplex) and domain.dim > 1:
        found["entropic"] = _entropic(domain.dim)
    if isinstance(domain, Ball):
        found["power"] = _power(domain, q)
    if isinstance(domain, Product):
        found["product"] = _product(domain, q)
    return found


def _euclidean(domain: ConvexSet, q: float) -> Regulariser:
    c2 = domain.dim ** (2 * exponent(2.0, q))
    around = domain.centre
    if isinstance(domain, Simplex):
        spread = c2 * (1 - 1 / domain.dim)
    elif isinstance(domain, Box):
        spread = c2 * float(np.square(domain.high - domain.low).sum()) / 4
    else:
        # E D(y | mean) <= E D(y | any point): the squared distance to the centre
        spread = c2 * min(domain.farthest(around, 2) ** 2, domain.diameter(2) ** 2 / 2)
    name = "squared l2" if c2 == 1 else f"{c2:.4g} x squared l2"
    return Regulariser(
        name,
        value=lambda x: c2 * np.square(x).sum(-1),
        gradient=lambda x: 2 * c2 * x,
        rate=c2 * domain.diameter(2) ** 2,
        spread=spread,
    )


def _entropic(d: int) -> Regulariser:
    def mixed(x: np.ndarray) -> np.ndarray:
        return (np.maximum(x, 0.0) + 1 / d) / 2

    def value(x: np.ndarray) -> Any:
        m = mixed(x)
        return 8 * (m * np.log(m)).sum(-1)

    corner = np.zeros(d)
    corner[0] = 1.0
    return Regulariser(
        "entropy",
        value=value,
        gradient=lambda x: 4 * (np.log(mixed(x)) + 1),
        rate=4 * float(np.log(1 + d)),
        spread=float(value(corner) - value(np.full(d, 1 / d))),  # by symmetry uniform vertices are the worst mu
    )


def _power(ball: Ball, q: float) -> Regulariser:
    """R = a ||x||_p^2 / (p - 1) with the p in (1, 2] that gives the least rate."""
    grid = 1 + np.geomspace(1e-2, 1.0, 200)
    inverse, own, asked = 1 / grid, 0.0 if ball.p == np.inf else 1 / ball.p, 0.0 if q == np.inf else 1 / q
    radius = ball.radius * ball.dim ** np.maximum(0.0, inverse - own)  # of the ball in l_p
    factor = ball.dim ** (2 * np.maximum(0.0, asked - inverse)) / (grid - 1)  # ||x||_q^2 <= factor (p - 1) ||x||_p^2
    rates = 4 * radius**2 * factor
    best = int(rates.argmin())
    p, scale, rate = float(grid[best]), float(factor[best]), float(rates[best])

    def size(x: np.ndarray) -> Any:
        return (np.abs(x) ** p).sum(-1) ** (1 / p)

    def gradient(x: np.ndarray) -> np.ndarray:
        s = np.asarray(size(x))[..., None]
        ratio = np.abs(x) / np.where(s > 0, s, 1.0)
        return 2 * scale * s * np.sign(x) * ratio ** (p - 1)

    return Regulariser(
        f"squared l{p:.3g} / {p - 1:.3g}",
        value=lambda x: scale * size(x) ** 2,
        gradient=gradient,
        rate=rate,
        spread=rate / 4,  # 0 <= R <= its maximum: a Jensen gap is at most that
    )


def _product(domain: Product, q: float) -> Regulariser:
    parts = [regulariser(p, q) for p in domain.parts]
    factor = len(parts) ** max(0.0, (0.0 if q == np.inf else 2 / q) - 1)
    cuts = domain.cuts

    def value(x: np.ndarray) -> Any:
        return factor * sum(r.value(z) for r, z in zip(parts, np.split(x, cuts, axis=-1), strict=True))

    def gradient(x: np.ndarray) -> np.ndarray:
        return factor * np.concatenate(
            [r.gradient(z) for r, z in zip(parts, np.split(x, cuts, axis=-1), strict=True)], axis=-1
        )

    rate, spread = (factor * sum(getattr(r, n) for r in parts) for n in ("rate", "spread"))
    return Regulariser(f"sum over {len(parts)} parts of {norm_name(q)}", value, gradient, rate, spread)
