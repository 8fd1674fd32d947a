r"""Convex sets that outcomes and forecasts live in: simplex, balls, boxes, products, polytopes by their vertices.

Each knows its dimension, a centre, whether points lie in it, and its diameter in a norm,
\(\mathrm{diam}(P) = \max_{x, y \in P} \|x - y\|\).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from corollary.calibration._norms import exponent, norm_values, order_of
from corollary.errors import InvalidInputError

TOLERANCE = 1e-9


class ConvexSet:
    """What every set offers.

    Guarantee: none; it is the interface.

    Example:
        >>> Simplex(3).dim, Simplex(3).diameter(1), Ball(5).diameter(2), Box([0, 0], [1, 2]).diameter("linf")
        (3, 2.0, 2.0, 2.0)
    """

    dim: int

    @property
    def centre(self) -> Float[np.ndarray, " d"]:
        """A point in the middle."""
        raise NotImplementedError

    def contains(self, points: np.ndarray, *, tol: float = TOLERANCE) -> Bool[np.ndarray, "..."]:
        """Which of the points (..., d) lie in the set, up to `tol`."""
        raise NotImplementedError

    def diameter(self, norm: Any) -> float:
        """Largest distance of two points."""
        raise NotImplementedError

    def as_plain(self) -> dict[str, Any]:
        """JSON values that `set_from_plain` reads back."""
        raise NotImplementedError

    def farthest(self, point: np.ndarray, norm: Any) -> float:
        """An upper bound on the distance of `point` to a point of the set."""
        corners = self.corners()
        return self.diameter(norm) if corners is None else float(norm_values(corners - point, norm).max())

    def corners(self) -> Float[np.ndarray, "m d"] | None:
        """The vertices; None where there are too many, or infinitely many."""
        return None


@dataclass(frozen=True)
class Simplex(ConvexSet):
    r"""Probabilities of `dim` classes, \(\{p \ge 0, \sum_i p_i = 1\}\).

    Args:
        dim: number of classes.

    Guarantee: `contains` and `diameter` are exact.

    Example:
        >>> Simplex(4).contains(np.array([[0.25, 0.25, 0.25, 0.25], [1.0, 1.0, 0.0, 0.0]])).tolist()
        [True, False]
    """

    dim: int

    def __post_init__(self) -> None:
        _check_dim(self.dim)

    @property
    def centre(self) -> Float[np.ndarray, " d"]:
        return np.full(self.dim, 1 / self.dim)

    def contains(self, points: np.ndarray, *, tol: float = TOLERANCE) -> Bool[np.ndarray, "..."]:
        return np.asarray((points >= -tol).all(-1) & (np.abs(points.sum(-1) - 1) <= tol * self.dim))

    def diameter(self, norm: Any) -> float:
        if self.dim == 1:
            return 0.0
        if order_of(norm) is not None:
            return float(norm_values(np.array([1.0, -1.0]), norm))
        return _spread(np.eye(self.dim), norm)

    def farthest(self, point: np.ndarray, norm: Any) -> float:
        return float(norm_values(np.eye(self.dim) - point, norm).max()) if self.dim <= 512 else self.diameter(norm)

    def corners(self) -> Float[np.ndarray, "m d"]:
        return np.eye(self.dim)

    def as_plain(self) -> dict[str, Any]:
        return {"set": "simplex", "dim": self.dim}


@dataclass(frozen=True)
class Ball(ConvexSet):
    r"""\(\{\|x\|_p \le r\}\) around the origin.

    Args:
        dim: dimension.
        norm: p of the ball: 1, 2, `numpy.inf`, or any p >= 1.
        radius: r.

    Guarantee: `contains` is exact; `diameter` is exact in every l_p norm.

    Example:
        >>> Ball(3, norm=1).diameter(2), round(Ball(3, norm="linf").diameter(2), 4)
        (2.0, 3.4641)
    """

    dim: int
    norm: float | str = 2.0
    radius: float = 1.0

    def __post_init__(self) -> None:
        _check_dim(self.dim)
        if order_of(self.norm) is None or not (np.isfinite(self.radius) and self.radius > 0):
            raise InvalidInputError(f"a ball needs an l_p norm and a radius above 0, got {self.norm!r}, {self.radius}")

    @property
    def p(self) -> float:
        """The p of its norm."""
        return float(order_of(self.norm) or 2.0)

    @property
    def centre(self) -> Float[np.ndarray, " d"]:
        return np.zeros(self.dim)

    def contains(self, points: np.ndarray, *, tol: float = TOLERANCE) -> Bool[np.ndarray, "..."]:
        return np.asarray(norm_values(points, self.p) <= self.radius + tol)

    def diameter(self, norm: Any) -> float:
        q = order_of(norm)
        if q is None:
            raise InvalidInputError("the diameter of a ball is known in l_p norms only; give the number p")
        return 2 * self.radius * self.dim ** exponent(self.p, q)

    def farthest(self, point: np.ndarray, norm: Any) -> float:
        return self.diameter(norm) / 2 + float(norm_values(point, norm))

    def as_plain(self) -> dict[str, Any]:
        return {"set": "ball", "dim": self.dim, "norm": "linf" if self.p == np.inf else self.p, "radius": self.radius}


@dataclass(frozen=True, eq=False)
class Box(ConvexSet):
    """Coordinates between limits of their own.

    Args:
        low: (d,) lower limits.
        high: (d,) upper limits.

    Guarantee: `contains` and `diameter` are exact.

    Example:
        >>> Box([0.0, -1.0], [1.0, 1.0]).centre.tolist()
        [0.5, 0.0]
    """

    low: Any
    high: Any

    def __post_init__(self) -> None:
        low, high = (np.atleast_1d(np.asarray(v, dtype=np.float64)) for v in (self.low, self.high))
        if low.shape != high.shape or low.ndim != 1 or not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
            raise InvalidInputError(
                f"a box needs finite limits (d,) with low <= high, got shapes {low.shape}, {high.shape}"
            )
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Number of coordinates."""
        return len(self.low)

    @property
    def centre(self) -> Float[np.ndarray, " d"]:
        return (self.low + self.high) / 2

    def contains(self, points: np.ndarray, *, tol: float = TOLERANCE) -> Bool[np.ndarray, "..."]:
        return np.asarray(((points >= self.low - tol) & (points <= self.high + tol)).all(-1))

    def diameter(self, norm: Any) -> float:
        _need_order(norm, "a box")
        return float(norm_values(self.high - self.low, norm))

    def farthest(self, point: np.ndarray, norm: Any) -> float:
        return float(norm_values(np.maximum(self.high - point, point - self.low), norm))

    def as_plain(self) -> dict[str, Any]:
        return {"set": "box", "low": self.low.tolist(), "high": self.high.tolist()}


@dataclass(frozen=True, eq=False)
class Polytope(ConvexSet):
    """The convex hull of given points.

    Args:
        vertices: (m, d) points; those inside the hull of others do no harm.

    Guarantee: `contains` solves a non-negative least squares problem, exact up to 1e-7 or `tol`; `diameter` is exact.

    Example:
        >>> triangle = Polytope([[0, 0], [1, 0], [0, 1]])
        >>> triangle.contains(np.array([[0.2, 0.2], [0.8, 0.8]])).tolist(), triangle.diameter(1)
        ([True, False], 2.0)
    """

    vertices: Any

    def __post_init__(self) -> None:
        vertices = np.asarray(self.vertices, dtype=np.float64)
        if vertices.ndim != 2 or 0 in vertices.shape or not np.isfinite(vertices).all():
            raise InvalidInputError(f"`vertices` must be finite and (m, d), got shape {vertices.shape}")
        object.__setattr__(self, "vertices", vertices)

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Dimension of the space."""
        return self.vertices.shape[1]

    @property
    def centre(self) -> Float[np.ndarray, " d"]:
        return self.vertices.mean(0)

    def contains(self, points: np.ndarray, *, tol: float = TOLERANCE) -> Bool[np.ndarray, "..."]:
        from scipy.optimize import nnls

        size = max(1.0, float(np.abs(self.vertices).max()))
        system = np.vstack([self.vertices.T / size, np.ones(len(self.vertices))])
        flat = points.reshape(-1, self.dim)
        missed = [nnls(system, np.append(p / size, 1.0))[1] for p in flat]
        return np.asarray(np.array(missed).reshape(points.shape[:-1]) <= max(tol, 1e-7))

    def diameter(self, norm: Any) -> float:
        return _spread(self.vertices, norm)

    def corners(self) -> Float[np.ndarray, "m d"]:
        return self.vertices

    def as_plain(self) -> dict[str, Any]:
        return {"set": "polytope", "vertices": self.vertices.tolist()}


@dataclass(frozen=True)
class Product(ConvexSet):
    """Several sets side by side: a point is the concatenation of a point of each.

    Args:
        parts: the sets.

    Guarantee: `contains` and `diameter` (l_p norms) are exact.

    Example:
        >>> Product((Simplex(2), Simplex(2))).diameter(1)
        4.0
    """

    parts: tuple[ConvexSet, ...]

    def __post_init__(self) -> None:
        if not self.parts or not all(isinstance(p, ConvexSet) for p in self.parts):
            raise InvalidInputError(f"`parts` must be a tuple of sets, got {self.parts!r}")

    @property
    def dim(self) -> int:  # type: ignore[override]
        """Sum of the dimensions."""
        return sum(p.dim for p in self.parts)

    @property
    def cuts(self) -> list[int]:
        """Where the parts begin, from the second on."""
        return np.cumsum([p.dim for p in self.parts])[:-1].tolist()

    @property
    def centre(self) -> Float[np.ndarray, " d"]:
        return np.concatenate([p.centre for p in self.parts])

    def contains(self, points: np.ndarray, *, tol: float = TOLERANCE) -> Bool[np.ndarray, "..."]:
        pieces = np.split(points, self.cuts, axis=-1)
        return np.asarray(np.all([p.contains(x, tol=tol) for p, x in zip(self.parts, pieces, strict=True)], axis=0))

    def diameter(self, norm: Any) -> float:
        _need_order(norm, "a product")
        return float(norm_values(np.array([p.diameter(norm) for p in self.parts]), norm))

    def as_plain(self) -> dict[str, Any]:
        return {"set": "product", "parts": [p.as_plain() for p in self.parts]}


def set_from_plain(data: Mapping[str, Any]) -> ConvexSet:
    """The set that `as_plain` described.

    Raises:
        InvalidInputError: for a description that is not one of a set.

    Guarantee: none.

    Example:
        >>> set_from_plain(Ball(2, norm=1).as_plain())
        Ball(dim=2, norm=1.0, radius=1.0)
    """
    kind = data.get("set")
    if kind == "simplex":
        return Simplex(int(data["dim"]))
    if kind == "ball":
        return Ball(int(data["dim"]), data["norm"], float(data["radius"]))
    if kind == "box":
        return Box(data["low"], data["high"])
    if kind == "polytope":
        return Polytope(data["vertices"])
    if kind == "product":
        return Product(tuple(set_from_plain(p) for p in data["parts"]))
    raise InvalidInputError(f"not a description of a convex set: {kind!r}")


def _check_dim(dim: Any) -> None:
    if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1:
        raise InvalidInputError(f"`dim` must be a whole number of at least 1, got {dim!r}")


def _need_order(norm: Any, what: str) -> None:
    if order_of(norm) is None:
        raise InvalidInputError(f"the diameter of {what} is known in l_p norms only; give the number p")


def _spread(points: np.ndarray, norm: Any) -> float:
    return max((float(norm_values(points - p, norm).max()) for p in points), default=0.0)
