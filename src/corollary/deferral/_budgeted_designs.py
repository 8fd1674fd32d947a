r"""Designs: from what was bought so far to the probabilities with which to buy next.

Every design sees the same `History` and gives p for a block of rows; the draws are made elsewhere, from p alone. Finite
classes follow the theory (`_version_space`); convex and ellipsoid its infinite versions (`_margin_ranges`); uniform is
the baseline that everything is held against.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from corollary.deferral._budgeted_history import History
from corollary.deferral._margin_ranges import (
    convex_margin_range,
    ellipsoid_margin_range,
    fit_margin,
    fit_softmax,
    loss_spread,
)
from corollary.deferral._version_space import VersionSpace, bounded_losses, deviation_radius
from corollary.errors import InvalidInputError


class Uniform:
    """Every cost with the same probability, whatever is known.

    Example:
        >>> Uniform().probabilities(History.of(np.zeros((2, 1)), None, 3), np.arange(1)).tolist()
        [[1.0, 1.0, 1.0]]
    """

    def probabilities(self, history: History, rows: np.ndarray) -> Float[np.ndarray, "b k"]:
        """Ones: the budget scales them."""
        return np.ones((len(rows), history.cost.shape[1]))

    def learn(self, history: History, rows: np.ndarray) -> None:
        """Nothing."""


class Finite:
    """A finite class of routers: the theory's version space, and the choice among them.

    Example:
        >>> Finite(np.zeros((4, 1, 2)), experts=2, stage="two-stage", kind="mae", delta=0.1, multiplier=1.0).space.terms
        2
    """

    def __init__(
        self,
        candidates: Any,
        *,
        experts: int,
        stage: str,
        kind: str,
        delta: float,
        multiplier: float,
        deviation: str = "azuma",
        prune: bool = True,
    ) -> None:
        self.deviation = deviation
        self.candidates, self.experts, self.single, self.kind = candidates, experts, stage == "single-stage", kind
        self.delta, self.multiplier, self.prune = delta, multiplier, prune
        if self.single and kind == "ec":
            raise InvalidInputError("'ec' weights by costs alone and has no term for the label; use 'mae' or 'log'")
        self.radii: list[float] = []
        self.survivors: list[int] = []
        self._space: VersionSpace | None = None
        if not callable(candidates):
            array = np.asarray(candidates, dtype=np.float64)
            if array.ndim != 3 or not np.isfinite(array).all():
                raise InvalidInputError(f"`candidates` must be finite (R, d, K) weights, got shape {array.shape}")
            self.candidates = array
            self._start(len(array))

    def _start(self, size: int) -> VersionSpace:
        terms = self.experts + self.single
        self._space = VersionSpace(
            size, terms=terms, delta=self.delta, multiplier=self.multiplier, bound=self.deviation
        )
        return self._space

    @property
    def space(self) -> VersionSpace:
        """The plausible routers."""
        assert self._space is not None
        return self._space

    def scores(self, x: Any) -> Float[np.ndarray, "r n k"]:
        """(R, N, K) scores of every candidate; in one stage labels first."""
        if callable(self.candidates):
            found = np.asarray(self.candidates(x), dtype=np.float64)
        else:
            dense = x.toarray() if hasattr(x, "toarray") else x
            if dense.shape[1] != self.candidates.shape[1]:
                raise InvalidInputError(f"candidates take {self.candidates.shape[1]} features, X has {dense.shape[1]}")
            found = np.einsum("nd,rdk->rnk", dense, self.candidates, optimize=True)
        if found.ndim != 3 or found.shape[2] < self.experts + self.single:
            raise InvalidInputError(f"`candidates` must give (R, N, K) scores of all experts, got shape {found.shape}")
        return found

    def losses(self, x: Any) -> Float[np.ndarray, "r n k"]:
        """(R, N, labels + K) bounded losses."""
        found = bounded_losses(self.scores(x), kind=self.kind)
        if self._space is None:
            self._start(len(found))
        return found

    def probabilities(self, history: History, rows: np.ndarray) -> Float[np.ndarray, "b k"]:
        """The spread over the alive routers; ones where nothing is pruned."""
        if not self.prune:
            return np.ones((len(rows), self.experts))
        losses = self.losses(history.x[rows])
        return self.space.probabilities(losses[:, :, -self.experts :])

    def learn(self, history: History, rows: np.ndarray) -> None:
        """Update F, then prune."""
        losses = self.losses(history.x[rows])
        free = None
        if self.single:
            assert history.y is not None
            free = losses[:, np.arange(len(rows)), history.y[rows]]
        gains = history.gains(rows, of_cost=self.kind == "ec")
        self.space.update(losses[:, :, -self.experts :], weighted_gains=gains, free=free)
        if not self.prune:
            self.space.alive[:] = True
        self.radii.append(self.space.radius)
        self.survivors.append(int(self.space.alive.sum()))


class Margins:
    """Linear routers: ranges of margins over the plausible ones, exact for two experts, else by an ellipsoid.

    Example:
        >>> Margins(exact=True, l2=1.0, delta=0.05, multiplier=0.05, limit=5.0).fitted
        False
    """

    def __init__(self, *, exact: bool, l2: float, delta: float, multiplier: float, limit: float) -> None:
        self.exact, self.l2, self.delta, self.multiplier, self.limit = exact, l2, delta, multiplier, limit
        self.fitted, self.radii = False, list[float]()

    def learn(self, history: History, rows: np.ndarray) -> None:
        """Fit the weighted surrogate to all that was bought."""
        x, g = _with_ones(history.x[history.seen]), history.gains(history.seen)
        t, (_, d), k = len(x), x.shape, g.shape[1]
        if self.exact and k != 2:
            raise InvalidInputError(f"method 'convex' is for two experts, got {k}; use 'ellipsoid' or 'committee'")
        # the class is infinite: as many routers as a grid of 1/t in every parameter would have
        size = max(t, 2) ** (d * (k - 1))
        unit = np.log1p((k - 1) * np.exp(2 * self.limit))
        self.radii.append(deviation_radius(t, size=size, terms=k, delta=self.delta, multiplier=self.multiplier))
        self.slack = unit * self.radii[-1]
        self.x, self.g = x, g
        if self.exact:
            self.margin = fit_margin(x, g, l2=self.l2)
        else:
            self.weight = fit_softmax(x, g, l2=self.l2)
        self.fitted = True

    def probabilities(self, history: History, rows: np.ndarray) -> Float[np.ndarray, "b k"]:
        """The spread of the bounded loss over the plausible routers."""
        if not self.fitted:
            return np.ones((len(rows), history.cost.shape[1]))
        points = _with_ones(history.x[rows])
        if self.exact:
            low, high = (np.zeros((len(points), 2, 2)) for _ in range(2))
            low[:, 0, 1], high[:, 0, 1] = convex_margin_range(self.margin, points, slack=self.slack)
            low[:, 1, 0], high[:, 1, 0] = -high[:, 0, 1], -low[:, 0, 1]
        else:
            low, high = ellipsoid_margin_range(self.weight, self.x, self.g, points, l2=self.l2, slack=self.slack)
        return loss_spread(low, high, limit=self.limit)


def _with_ones(x: Any) -> np.ndarray:
    dense = x.toarray() if hasattr(x, "toarray") else np.asarray(x, dtype=np.float64)
    return np.hstack([dense, np.ones((len(dense), 1))])
