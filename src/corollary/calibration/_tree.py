r"""TreeCal: calibrated forecasts of vectors against any adversary, by averages at L time scales.

Round t (from 0) has the digits \(h_1 .. h_L\) of t in base H. A node of level l is a block of \(H^{L - l}\) rounds.
When it begins it fixes its forecast: the mean of all outcomes seen so far in its parent's block (eq. 4, Algorithm 1).
The announced distribution is uniform over the L nodes of the round. No regulariser, norm, learning rate or optimiser.

Fishelson, Golowich, Mohri and Schneider, "High-Dimensional Calibration from Swap Regret", NeurIPS 2025,
arXiv:2505.21460 (read in full). The streaming form, restarts of doubled length and wider leaves are derived.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.calibration._forecaster import OnlineForecaster, restored, vector
from corollary.calibration._schedule import Schedule
from corollary.calibration._sets import ConvexSet
from corollary.errors import InvalidInputError

STARTS = ("centre", "mean")


class TreeCal(OnlineForecaster):
    r"""Calibrated forecasts online, in any dimension, against any adversary.

    .. math:: x_t = \frac1L \sum_{l=1}^L \delta_{p^{(l)}}, \qquad p^{(l)} = \text{mean of the outcomes seen in the
              parent block when the level-l block began}

    Args:
        dim: dimension d, or a convex set, whose outcomes are then checked. With a number any finite vectors are taken.
        levels: L; more levels lower the term of the rate, and raise that of the restarts (H falls at equal horizon).
        branching: H, blocks of a level inside one of the level above; raised where `horizon` needs it.
        horizon: number of rounds, where it is known; None for leaf * branching ** levels. When it is passed, a tree
            of twice the length begins.
        leaf: rounds in a block of the last level; above 1 for 0/1 outcomes, which one round tells little about.
        start: what a block without earlier siblings forecasts: `"centre"` of the set, the `"mean"` of all outcomes so
            far, or a point.
        mixing: share of the centre mixed into every forecast (Peng's variant).
        seed: of `sample`.

    Raises:
        InvalidInputError: for arguments out of range; in `update` for NaN, a wrong shape, or an outcome outside the
            set, naming the round; the state is then unchanged.

    Guarantee: for every sequence of outcomes, in every norm at once (Theorem 3.1 with the constants as corrected here):
        over T = H^L rounds the squared calibration error is at most T (6 rho / L + (pi^2 / 3) diam^2 / H);
        `calibration_bound` has the sharper form proved there, for any T and with restarts. Memory O(L d), time
        amortised O(L d) a round.

    Example:
        >>> forecaster = TreeCal(3, levels=2, branching=4)
        >>> for y in ([1, 0, 0], [0, 1, 0], [1, 0, 0]):
        ...     forecasts, weights = forecaster.predict()
        ...     forecaster.update(y)
        >>> forecaster.predict()[0].round(3).tolist(), weights.tolist()
        ([[0.333, 0.333, 0.333], [0.667, 0.333, 0.0]], [0.5, 0.5])

    Reference: arXiv:2505.21460, Algorithm 1 (read in full).
    """

    def __init__(
        self,
        dim: int | ConvexSet,
        levels: int = 4,
        branching: int = 8,
        horizon: int | None = None,
        *,
        leaf: int = 1,
        start: Any = "centre",
        mixing: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, seed=seed)
        self.schedule = Schedule(levels, branching, horizon, leaf)
        self.levels, self.leaf, self.horizon = levels, leaf, horizon
        if isinstance(start, str) and start not in STARTS:
            raise InvalidInputError(f"`start` must be {' or '.join(STARTS)}, or a point, got {start!r}")
        self.start = start if isinstance(start, str) else vector(start, self.dim, "`start`")
        if not isinstance(self.start, str) and self.domain is not None and not bool(self.domain.contains(self.start)):
            raise InvalidInputError(f"`start` lies outside of the set ({self.domain!r}); the bound needs it inside")
        if not 0 <= mixing < 1:
            raise InvalidInputError(f"`mixing` must lie in [0, 1), got {mixing}")
        self.mixing = float(mixing)
        self._number = 0
        self._epoch = self.schedule.epoch(0, 0)
        self._total = np.zeros(self.dim)
        self._sums = np.zeros((levels, self.dim))
        self._counts = [0] * levels
        self._points = np.tile(self._origin(), (levels, 1))

    @property
    def branching(self) -> int:
        """H of the tree that is running."""
        return self._epoch.branching

    def predict(self, base: ArrayLike | None = None) -> tuple[Float[np.ndarray, "l d"], Float[np.ndarray, " l"]]:
        """The L forecasts of this round, coarse to fine, each of weight 1 / L; `base` is not used."""
        points = self._points.copy()
        if self.mixing:
            points += self.mixing * (self.centre - points)
        return points, np.full(self.levels, 1 / self.levels)

    def _origin(self) -> np.ndarray:
        """What the first blocks forecast."""
        return self.centre if isinstance(self.start, str) else self.start

    def _learn(self, y: np.ndarray) -> None:
        self._sums += y
        self._total += y
        self._counts = [c + 1 for c in self._counts]
        t = self.rounds + 1 - self._epoch.begin  # rounds done in this epoch, this one included
        if t == self._epoch.horizon:
            self._number += 1
            self._epoch = self.schedule.epoch(self._number, self.rounds + 1)
            t = 0
        for level in range(self.levels - 1, -1, -1):
            block = self._epoch.blocks[level]
            if t % block:
                break  # blocks of the levels above are multiples of this one
            if t % (block * self._epoch.branching) == 0:  # the parent is new too
                self._sums[level], self._counts[level] = 0.0, 0
                self._points[level] = self._mean_so_far()
            else:
                self._points[level] = self._sums[level] / self._counts[level]

    def _mean_so_far(self) -> np.ndarray:
        return (
            self._total / (self.rounds + 1) if isinstance(self.start, str) and self.start == "mean" else self._origin()
        )

    def _settings(self) -> dict[str, Any]:
        start = self.start if isinstance(self.start, str) else self.start.tolist()
        return {**super()._settings(), **self.schedule.as_plain(), "start": start, "mixing": self.mixing}

    def _state(self) -> dict[str, Any]:
        arrays = {"total": self._total, "sums": self._sums, "points": self._points}
        return {
            "number": self._number,
            "begin": self._epoch.begin,
            "counts": self._counts,
            **{k: v.tolist() for k, v in arrays.items()},
        }

    def _restore(self, state: dict[str, Any]) -> None:
        shape = (self.levels, self.dim)
        self._number = int(state["number"])
        self._epoch = self.schedule.epoch(self._number, int(state["begin"]))
        self._counts = [int(c) for c in state["counts"]]
        self._total = restored(state["total"], (self.dim,))
        self._sums, self._points = restored(state["sums"], shape), restored(state["points"], shape)
        if len(self._counts) != self.levels or min(self._counts) < 0:
            raise ValueError("counts of another number of levels")
        if not 0 <= self.rounds - self._epoch.begin < self._epoch.horizon:
            raise ValueError(f"round {self.rounds} is not in the epoch that begins at {self._epoch.begin}")


class PengCal(TreeCal):
    r"""Peng's variant of TreeCal: every average is mixed slightly with the uniform distribution.

    .. math:: \tilde p^{(l)} = (1 - \gamma) p^{(l)} + \gamma u

    Args:
        dim: as in `TreeCal`.
        levels: L.
        branching: H.
        horizon: number of rounds, where it is known.
        mixing: \(\gamma\); keeps forecasts away from the boundary, so that log-loss stays finite.
        leaf: rounds in a block of the last level.
        start: as in `TreeCal`.
        seed: of `sample`.

    Guarantee: that of `TreeCal` with `mixing` times the distance to the centre added to the root of the squared
        error a round; every probability is at least mixing / d on the simplex.

    Example:
        >>> forecaster = PengCal(2, levels=1, branching=8, mixing=0.1)
        >>> forecaster.update([1.0, 0.0])
        >>> forecaster.predict()[0].round(2).tolist()
        [[0.95, 0.05]]

    Reference: B. Peng, "High dimensional online calibration in polynomial time", arXiv:2504.09096; reconstructed from
        the description in arXiv:2505.21460, footnote 5, may differ.
    """

    def __init__(
        self,
        dim: int | ConvexSet,
        levels: int = 4,
        branching: int = 8,
        horizon: int | None = None,
        *,
        mixing: float = 0.01,
        leaf: int = 1,
        start: Any = "centre",
        seed: int = 0,
    ) -> None:
        super().__init__(dim, levels, branching, horizon, leaf=leaf, start=start, mixing=mixing, seed=seed)


class SampleTreeCal(TreeCal):
    """TreeCal for pure forecasts: one forecast a round, drawn from a distribution that stays for `samples` rounds.

    TreeCal runs on steps of `samples` rounds; each round announces one draw p ~ x of the step's distribution, and the
    mean of the step's outcomes is fed back (Algorithm 3).

    Args:
        dim: as in `TreeCal`.
        samples: S, rounds in a step.
        levels: L.
        branching: H.
        horizon: number of rounds (not of steps), where it is known.
        start: as in `TreeCal`.
        seed: of the coins; choose one that the outcomes were not made with.

    Guarantee: Theorem E.1: for S large enough the expected pure calibration error is at most eps T. In l2 the
        expectation exceeds TreeCal's error on the same steps by at most diam * sum over nodes of sqrt(rounds / L)
        (derived; `pure_excess`).

    Example:
        >>> forecaster = SampleTreeCal(2, samples=4, levels=2, branching=4, seed=1)
        >>> forecasts, weights = forecaster.predict()
        >>> forecasts.shape, weights.tolist()
        ((1, 2), [1.0])

    Reference: arXiv:2505.21460, Algorithm 3 (read in full).
    """

    def __init__(
        self,
        dim: int | ConvexSet,
        samples: int = 16,
        levels: int = 4,
        branching: int = 8,
        horizon: int | None = None,
        *,
        start: Any = "centre",
        seed: int = 0,
    ) -> None:
        super().__init__(dim, levels, branching, horizon, leaf=samples, start=start, seed=seed)
        self.samples = samples
        self._drawn = self._draw()

    def _draw(self) -> int:
        return int(self._coins.integers(self.levels))

    def predict(self, base: ArrayLike | None = None) -> tuple[Float[np.ndarray, "l d"], Float[np.ndarray, " l"]]:
        """The one forecast drawn for this round, of weight 1; asking again gives the same."""
        return self._points[self._drawn : self._drawn + 1].copy(), np.ones(1)

    def sample(self, base: ArrayLike | None = None) -> Float[np.ndarray, " d"]:
        """The forecast drawn for this round."""
        return self._points[self._drawn].copy()

    def _learn(self, y: np.ndarray) -> None:
        super()._learn(y)
        self._drawn = self._draw()

    def _settings(self) -> dict[str, Any]:
        plain = super()._settings()
        return {**{k: v for k, v in plain.items() if k not in ("leaf", "mixing")}, "samples": self.samples}

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "drawn": self._drawn}

    def _restore(self, state: dict[str, Any]) -> None:
        super()._restore(state)
        self._drawn = int(state["drawn"])
        if not 0 <= self._drawn < self.levels:
            raise ValueError("a draw of another number of levels")
