r"""TreeSwap: any external-regret learner made into one of small swap regret.

The tree of TreeCal; each internal node owns a learner of horizon H, fed the average outcome of each finished child; its
next action is the forecast of the next child. With follow-the-leader it is TreeCal, for any Bregman loss (Lemma 3.2).
For T = H^L and losses in [0, b] the swap regret is at most T (ExtReg_H / H + b / L).

Dagan, Daskalakis, Fishelson and Golowich, arXiv:2310.19786; Peng and Rubinstein (2024); stated as Algorithm 2 and
Theorem C.1 in arXiv:2505.21460 (read in full).
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.calibration._forecaster import OnlineForecaster, from_plain, restored
from corollary.calibration._schedule import Schedule
from corollary.calibration._sets import ConvexSet
from corollary.errors import InvalidInputError


class TreeSwap(OnlineForecaster):
    r"""Small swap regret from any external-regret learner, by a tree of them.

    Args:
        algorithm: a learner with `predict()` and `update(y)` that has seen nothing (it is copied), or a function that
            makes one; `predict()` gives a point (d,), or forecasts (1, d) and weights.
        dim: dimension or convex set; None for the learner's own.
        levels: L.
        branching: H, actions of each learner.
        horizon: number of rounds, where it is known; as in `TreeCal`.
        leaf: rounds in a block of the last level.
        seed: of `sample`.

    Raises:
        InvalidInputError: for something that is no learner, or sizes out of range.

    Guarantee: Theorem C.1: over T = H^L rounds, losses in [0, b]: swap regret at most T (ExtReg_H / H + b / L). With
        `FollowTheLeader` equal to `TreeCal`.

    Example:
        >>> from corollary.calibration import FollowTheLeader, TreeCal
        >>> tree, swap = TreeCal(2, 2, 4), TreeSwap(FollowTheLeader(2), levels=2, branching=4)
        >>> for y in ([1, 0], [0, 1], [0, 1], [1, 0], [0, 1]):
        ...     tree.update(y)
        ...     swap.update(y)
        >>> bool(np.allclose(tree.predict()[0], swap.predict()[0]))
        True

    Reference: arXiv:2310.19786; arXiv:2505.21460, Algorithm 2 (read in full).
    """

    def __init__(
        self,
        algorithm: Any,
        dim: int | ConvexSet | None = None,
        levels: int = 4,
        branching: int = 8,
        horizon: int | None = None,
        *,
        leaf: int = 1,
        seed: int = 0,
    ) -> None:
        self._make: Callable[[], Any] = _factory(algorithm)
        first = self._make()
        if not hasattr(first, "predict") or not hasattr(first, "update"):
            raise InvalidInputError(f"`algorithm` must have predict() and update(y), got {algorithm!r}")
        own = getattr(first, "domain", None) or getattr(first, "dim", None)
        if dim is None and own is None:
            raise InvalidInputError("`dim` is needed: the learner does not tell its own")
        super().__init__(own if dim is None else dim, seed=seed)  # type: ignore[arg-type]
        self.schedule = Schedule(levels, branching, horizon, leaf)
        self.levels = levels
        self._number = 0
        self._epoch = self.schedule.epoch(0, 0)
        self._sums = np.zeros((levels, self.dim))
        self._learners = [first, *(self._make() for _ in range(levels - 1))]
        self._points = np.array([self._action(a) for a in self._learners])

    def predict(self, base: ArrayLike | None = None) -> tuple[Float[np.ndarray, "l d"], Float[np.ndarray, " l"]]:
        """The actions of the L learners on the path, each of weight 1 / L; `base` is not used."""
        return self._points.copy(), np.full(self.levels, 1 / self.levels)

    def _learn(self, y: np.ndarray) -> None:
        self._sums += y
        t = self.rounds + 1 - self._epoch.begin
        if t == self._epoch.horizon:
            self._number += 1
            self._epoch = self.schedule.epoch(self._number, self.rounds + 1)
            self._sums[:] = 0.0
            t = 0
        for level in range(self.levels - 1, -1, -1):
            block = self._epoch.blocks[level]
            if t % block:
                break
            if t % (block * self._epoch.branching) == 0:  # another parent, another learner
                self._learners[level] = self._make()
            else:
                self._learners[level].update(self._sums[level] / block)
            self._sums[level] = 0.0
            self._points[level] = self._action(self._learners[level])

    def _action(self, learner: Any) -> np.ndarray:
        said = learner.predict()
        point = np.asarray(said[0] if isinstance(said, tuple) else said, dtype=np.float64)
        if point.size != self.dim:
            raise InvalidInputError(f"the learner must act by one point of {self.dim} numbers, got {point.shape}")
        return point.reshape(self.dim)

    def as_plain(self) -> dict[str, Any]:
        """Everything needed to go on, where the learners are forecasters of this package."""
        if not all(isinstance(a, OnlineForecaster) for a in self._learners):
            raise InvalidInputError("only trees of this package's learners can be saved; derive from OnlineForecaster")
        return super().as_plain()

    def _settings(self) -> dict[str, Any]:
        fresh = self._make().as_plain()
        return {**super()._settings(), **self.schedule.as_plain(), "algorithm": fresh}

    @classmethod
    def _made(cls, settings: dict[str, Any]) -> "TreeSwap":
        plain = settings.pop("algorithm")
        return cls(lambda: from_plain(copy.deepcopy(plain)), **settings)

    def _state(self) -> dict[str, Any]:
        return {
            "number": self._number,
            "begin": self._epoch.begin,
            "sums": self._sums.tolist(),
            "points": self._points.tolist(),
            "learners": [a.as_plain() for a in self._learners],
        }

    def _restore(self, state: dict[str, Any]) -> None:
        shape = (self.levels, self.dim)
        self._number = int(state["number"])
        self._epoch = self.schedule.epoch(self._number, int(state["begin"]))
        self._sums, self._points = restored(state["sums"], shape), restored(state["points"], shape)
        self._learners = [from_plain(a) for a in state["learners"]]
        if len(self._learners) != self.levels:
            raise ValueError("learners of another number of levels")


def _factory(algorithm: Any) -> Callable[[], Any]:
    if hasattr(algorithm, "predict") and not isinstance(algorithm, type):
        return lambda: copy.deepcopy(algorithm)
    if callable(algorithm):
        return algorithm
    raise InvalidInputError(f"`algorithm` must be a learner or a function that makes one, got {algorithm!r}")
