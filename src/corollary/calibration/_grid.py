r"""Forecasters on a grid: Foster's rule, Blum-Mansour with rounding (both binary), Blackwell's approachability.

Calibrated for a small number of cells; in d classes a grid of width 1/m has \(\binom{m + d - 1}{d - 1}\) of them, which
is why TreeCal exists. Binary outcomes are vectors (1, 0) and (0, 1), or numbers in [0, 1] where dim = 1.
"""

from itertools import combinations
from math import comb
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.calibration._forecaster import OnlineForecaster, restored
from corollary.calibration._schedule import root
from corollary.calibration._sets import Box, ConvexSet, Simplex
from corollary.errors import InvalidInputError

HORIZON = 4096
MOST_CELLS = 2000


class _BinaryGrid(OnlineForecaster):
    """Forecasts i / m of the second of two classes, or of a number in [0, 1]."""

    def __init__(
        self, dim: int | ConvexSet = 2, *, resolution: int | None = None, horizon: int | None = None, seed: int = 0
    ) -> None:
        domain = dim
        if not isinstance(dim, ConvexSet):
            if dim not in (1, 2):
                raise InvalidInputError(f"a grid of one probability needs `dim` 2 (or 1), got {dim}; use TreeCal")
            domain = Simplex(2) if dim == 2 else Box([0.0], [1.0])
        super().__init__(domain, seed=seed)
        unit = isinstance(self.domain, Box) and bool((self.domain.low == 0).all() and (self.domain.high == 1).all())
        if not (isinstance(self.domain, Simplex) and self.dim == 2) and not (unit and self.dim == 1):
            raise InvalidInputError(f"needs two classes or the interval [0, 1], got {self.domain!r}")
        m = root(horizon or HORIZON, 3) if resolution is None else resolution
        if isinstance(m, bool) or m < 1:
            raise InvalidInputError(f"`resolution` must be at least 1, got {resolution}")
        self.resolution = int(m)
        self.horizon = horizon
        self.grid = np.arange(self.resolution + 1) / self.resolution

    def predict(self, base: ArrayLike | None = None) -> tuple[Float[np.ndarray, "l d"], Float[np.ndarray, " l"]]:
        """The grid points that may be played and their probabilities; `base` is not used."""
        weights = self._weights()
        kept = np.flatnonzero(weights)
        points = self.grid[kept][:, None]
        return (points if self.dim == 1 else np.hstack([1 - points, points])), weights[kept]

    def _weights(self) -> np.ndarray:
        raise NotImplementedError

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "resolution": self.resolution, "horizon": self.horizon}


class FosterGrid(_BinaryGrid):
    r"""Foster's forecaster for binary outcomes: two neighbours of a grid of width 1/m.

    Signed errors \(e_i = \sum_t x_t(i) (i/m - y_t)\); between neighbours with \(e_i \le 0 \le e_{i+1}\) it plays i with
    probability \(|e_{i+1}| / (|e_i| + |e_{i+1}|)\), else i + 1.

    Args:
        dim: 2 for vectors (1 - y, y), 1 for numbers in [0, 1], or the set itself.
        resolution: m; None for the cube root of the horizon.
        horizon: number of rounds; 4,096 where it is not known.
        seed: of `sample`.

    Raises:
        InvalidInputError: for more than two classes.

    Guarantee: l1 error a round of the order 1 / m + sqrt(m / T), so T^(-1/3); better than TreeCal for binary outcomes
        at any length that can be run.

    Example:
        >>> forecaster = FosterGrid(1, resolution=4)
        >>> forecaster.update(1.0)
        >>> forecaster.predict()[0].tolist()
        [[0.75]]

    Reference: Foster (1999), "A proof of calibration via Blackwell's approachability theorem"; the rule as derived in
        our notes, not read there.
    """

    def __init__(
        self, dim: int | ConvexSet = 2, *, resolution: int | None = None, horizon: int | None = None, seed: int = 0
    ) -> None:
        super().__init__(dim, resolution=resolution, horizon=horizon, seed=seed)
        self._errors = np.zeros(self.resolution + 1)

    def _weights(self) -> np.ndarray:
        e = self._errors
        able = np.flatnonzero((e[:-1] <= 0) & (e[1:] >= 0))  # not empty: e_0 <= 0 <= e_m
        i = int(able[np.abs(able - (len(e) - 2) / 2).argmin()])
        low, high = abs(e[i]), abs(e[i + 1])
        weights = np.zeros(len(e))
        weights[i] = 0.5 if low + high == 0 else high / (low + high)
        weights[i + 1] = 1 - weights[i]
        return weights

    def _learn(self, y: np.ndarray) -> None:
        self._errors += self._weights() * (self.grid - y[-1])

    def _state(self) -> dict[str, Any]:
        return {"errors": self._errors.tolist()}

    def _restore(self, state: dict[str, Any]) -> None:
        self._errors = restored(state["errors"], (self.resolution + 1,))


class BlumMansourGrid(_BinaryGrid):
    r"""Discretised Blum-Mansour for the squared error: a running mean for each grid point, rounded to its neighbours.

    The mean \(w_i\) of the outcomes met at point i, rounded at random to the two neighbours so that the expectation is
    \(w_i\), is row i of a Markov chain; its stationary distribution is announced.

    Args:
        dim: 2 for vectors (1 - y, y), 1 for numbers in [0, 1], or the set itself.
        resolution: m; None for the cube root of the horizon.
        horizon: number of rounds; 4,096 where it is not known.
        seed: of `sample`.

    Guarantee: squared error O~(T^(1/3)) in all [abstract of the paper below].

    Example:
        >>> forecaster = BlumMansourGrid(1, resolution=4)
        >>> forecaster.predict()[0].tolist()
        [[0.5]]

    Reference: Luo, Senapati and Sharan, arXiv:2502.16387 (abstract read); Blum and Mansour (2007). Reconstructed, may
        differ.
    """

    def __init__(
        self, dim: int | ConvexSet = 2, *, resolution: int | None = None, horizon: int | None = None, seed: int = 0
    ) -> None:
        super().__init__(dim, resolution=resolution, horizon=horizon, seed=seed)
        self._sums = np.full(self.resolution + 1, 0.5)  # half a success in one imagined round each
        self._mass = np.ones(self.resolution + 1)

    def _weights(self) -> np.ndarray:
        n = self.resolution + 1
        place = np.clip(self._sums / self._mass, 0, 1) * self.resolution
        low = np.minimum(place.astype(int), self.resolution - 1)
        chain = np.zeros((n, n))
        rows = np.arange(n)
        chain[rows, low] = 1 - (place - low)
        chain[rows, low + 1] += place - low
        system = np.vstack([chain.T - np.eye(n), np.ones(n)])
        x = np.maximum(np.linalg.lstsq(system, np.append(np.zeros(n), 1.0), rcond=None)[0], 0.0)
        x[x < 1e-12] = 0.0
        return x / x.sum()

    def _learn(self, y: np.ndarray) -> None:
        weights = self._weights()
        self._sums += weights * y[-1]
        self._mass += weights

    def _state(self) -> dict[str, Any]:
        return {"sums": self._sums.tolist(), "mass": self._mass.tolist()}

    def _restore(self, state: dict[str, Any]) -> None:
        self._sums, self._mass = (restored(state[n], (self.resolution + 1,)) for n in ("sums", "mass"))


class BlackwellGrid(OnlineForecaster):
    r"""Blackwell approachability on a grid of the simplex.

    With the cells' errors \(E_i = \sum_t x_t(i) (y_t - q_i)\), the distribution of this round solves
    \(\min_x \max_j \sum_i x_i \langle E_i, e_j - q_i \rangle\), a linear program.

    Args:
        dim: number of classes, or a `Simplex`.
        resolution: m; the grid has all points of the simplex with coordinates in multiples of 1/m.
        seed: of `sample`.

    Raises:
        InvalidInputError: for a grid of more than 2,000 cells.

    Guarantee: the squared l2 norm of all errors together grows by at most 2 a round plus twice the value of the game,
        so the l2 error a round is of the order 1 / m + sqrt(cells / T): hopeless beyond a few classes.

    Example:
        >>> forecaster = BlackwellGrid(3, resolution=2)
        >>> forecaster.update([1.0, 0.0, 0.0])
        >>> len(forecaster.grid), round(float(forecaster.predict()[1].sum()), 6)
        (6, 1.0)

    Reference: Foster (1999); Mannor and Stoltz (2010). Textbook; reconstructed.
    """

    def __init__(self, dim: int | ConvexSet, *, resolution: int = 8, seed: int = 0) -> None:
        domain = dim if isinstance(dim, ConvexSet) else Simplex(dim)
        super().__init__(domain, seed=seed)
        if not isinstance(domain, Simplex) or self.dim < 2:
            raise InvalidInputError(f"needs at least two classes, got {domain!r}")
        if isinstance(resolution, bool) or resolution < 1:
            raise InvalidInputError(f"`resolution` must be at least 1, got {resolution}")
        cells = comb(resolution + self.dim - 1, self.dim - 1)
        if cells > MOST_CELLS:
            raise InvalidInputError(
                f"a grid of width 1/{resolution} in {self.dim} classes has {cells} cells, at most {MOST_CELLS} are "
                "taken; lower `resolution`, or use TreeCal, which needs no grid"
            )
        self.resolution = int(resolution)
        self.grid = _simplex_grid(self.dim, self.resolution)
        self._errors = np.zeros_like(self.grid)
        self._now = self._solve()

    def predict(self, base: ArrayLike | None = None) -> tuple[Float[np.ndarray, "l d"], Float[np.ndarray, " l"]]:
        """The cells of this round and their probabilities; `base` is not used."""
        kept = np.flatnonzero(self._now)
        return self.grid[kept], self._now[kept]

    def _solve(self) -> np.ndarray:
        from scipy.optimize import linprog

        n, (E, q) = len(self.grid), (self._errors, self.grid)
        payoff = E - (E * q).sum(1, keepdims=True)  # (cells, classes)
        if not payoff.any():
            nearest = np.abs(q - 1 / self.dim).sum(1).argmin()
            return np.eye(n)[nearest]
        size = np.abs(payoff).max()
        A = np.hstack([payoff.T / size, -np.ones((self.dim, 1))])
        found = linprog(
            np.append(np.zeros(n), 1.0),
            A_ub=A,
            b_ub=np.zeros(self.dim),
            A_eq=np.append(np.ones(n), 0.0)[None],
            b_eq=[1.0],
            bounds=[(0, None)] * n + [(None, None)],
            method="highs-ds",
        )
        x = np.maximum(found.x[:n], 0.0)
        return x / x.sum()

    def _learn(self, y: np.ndarray) -> None:
        self._errors += self._now[:, None] * (y - self.grid)
        self._now = self._solve()

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "resolution": self.resolution}

    def _state(self) -> dict[str, Any]:
        return {"errors": self._errors.tolist(), "now": self._now.tolist()}

    def _restore(self, state: dict[str, Any]) -> None:
        self._errors = restored(state["errors"], self.grid.shape)
        self._now = restored(state["now"], (len(self.grid),))


def _simplex_grid(d: int, m: int) -> np.ndarray:
    """(cells, d) all points of the simplex in multiples of 1 / m."""
    bars = np.array(list(combinations(range(m + d - 1), d - 1))).reshape(-1, d - 1)
    edges = np.hstack([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), m + d - 1)])
    return (np.diff(edges, axis=1) - 1) / m
