r"""Norms of vectors, and how they compare: \(\|x\|_q \le d^{\max(0, 1/q - 1/p)} \|x\|_p\)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from corollary.errors import InvalidInputError

NAMES = {"l1": 1.0, "l2": 2.0, "linf": np.inf, "max": np.inf}
Norm = float | str | Callable[[np.ndarray], Any]


def order_of(norm: Any) -> float | None:
    """The p of an l_p norm (a number or `l1`, `l2`, `linf`); None for a function that computes a norm."""
    if callable(norm):
        return None
    p = NAMES.get(norm.lower()) if isinstance(norm, str) else norm
    if isinstance(p, bool) or not isinstance(p, int | float | np.number) or not p >= 1:
        raise InvalidInputError(
            f"`norm` must be a number p >= 1, 'l1', 'l2', 'linf', or a function of (..., d) vectors, got {norm!r}"
        )
    return float(p)


def norm_values(x: np.ndarray, norm: Any) -> Float[np.ndarray, "..."]:
    """The norm of every vector on the last axis."""
    p = order_of(norm)
    if p is None:
        return np.asarray(norm(x), dtype=np.float64)
    if p == 1:
        return np.asarray(np.abs(x).sum(-1))
    if p == 2:
        return np.asarray(np.sqrt(np.square(x).sum(-1)))
    if p == np.inf:
        return np.asarray(np.abs(x).max(-1))
    size = np.abs(x).max(-1)
    safe = np.where(size > 0, size, 1.0)  # scaled, so that no power overflows
    return np.asarray(size * ((np.abs(x) / safe[..., None]) ** p).sum(-1) ** (1 / p))


def norm_name(norm: Any) -> str:
    """How a norm is called in tables."""
    p = order_of(norm)
    return getattr(norm, "__name__", "norm") if p is None else "linf" if p == np.inf else f"l{p:g}"


def exponent(p: float, q: float) -> float:
    """The e in ||x||_q <= d^e ||x||_p."""
    return max(0.0, (0.0 if q == np.inf else 1 / q) - (0.0 if p == np.inf else 1 / p))
