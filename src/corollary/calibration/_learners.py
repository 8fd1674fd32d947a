r"""External-regret learners of one forecast a round: alone they are the plain averages; inside `TreeSwap`, its nodes.

Losses are \(\ell_t(p) = D_R(y_t | p)\); their mean over a block is the loss of the block's mean outcome, up to a
constant, so a block is learned through its mean.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.calibration._forecaster import OnlineForecaster, restored
from corollary.calibration._sets import Ball, Box, ConvexSet, Simplex
from corollary.errors import InvalidInputError
from corollary.numerics import project_to_simplex


class PointForecaster(OnlineForecaster):
    """A forecaster of one point of weight 1."""

    def __init__(self, dim: int | ConvexSet, *, seed: int = 0) -> None:
        super().__init__(dim, seed=seed)
        self._point = self.centre.astype(np.float64)

    def predict(self, base: ArrayLike | None = None) -> tuple[Float[np.ndarray, "l d"], Float[np.ndarray, " l"]]:
        """The one forecast of this round."""
        return self._point[None].copy(), np.ones(1)

    def _state(self) -> dict[str, Any]:
        return {"point": self._point.tolist()}

    def _restore(self, state: dict[str, Any]) -> None:
        self._point = restored(state["point"], (self.dim,))


class FollowTheLeader(PointForecaster):
    """The plain average of all outcomes so far: TreeCal with one level.

    Args:
        dim: dimension or convex set.
        seed: not used; for one interface.

    Guarantee: external regret at most diam^2 (1 + log T) for the Brier score. Calibrated on no adversarial sequence:
        an adversary that answers the average forces an error of the order of T.

    Example:
        >>> leader = FollowTheLeader(1)
        >>> for y in (0.0, 1.0, 1.0):
        ...     leader.update(y)
        >>> leader.predict()[0].round(3).tolist()
        [[0.667]]
    """

    def _learn(self, y: np.ndarray) -> None:
        self._point = y.copy() if self.rounds == 0 else self._point + (y - self._point) / (self.rounds + 1)


class DiscountedMean(PointForecaster):
    r"""The average with geometrically fading weights, \(p \leftarrow p + \alpha (y - p)\).

    Args:
        dim: dimension or convex set.
        rate: \(\alpha\) in (0, 1]; about one over the number of rounds it remembers.
        seed: not used.

    Guarantee: none.

    Example:
        >>> mean = DiscountedMean(1, rate=0.5)
        >>> mean.update(1.0)
        >>> mean.predict()[0].tolist()
        [[0.75]]
    """

    def __init__(self, dim: int | ConvexSet, *, rate: float = 0.02, seed: int = 0) -> None:
        super().__init__(dim, seed=seed)
        if not 0 < rate <= 1:
            raise InvalidInputError(f"`rate` must lie in (0, 1], got {rate}")
        self.rate = rate

    def _learn(self, y: np.ndarray) -> None:
        self._point = self._point + self.rate * (y - self._point)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "rate": self.rate}


class GradientDescent(PointForecaster):
    r"""Projected gradient steps on \(\|p - y\|_2^2\), \(p \leftarrow \Pi(p - 2 \eta_t (p - y))\).

    Args:
        dim: dimension or a `Simplex`, l2 `Ball` or `Box` to project on.
        rate: eta; None for 1 / (2 t), which makes it the plain average where no projection acts.
        seed: not used.

    Guarantee: external regret O(log T) for 1 / (2 t), since the loss is strongly convex.

    Example:
        >>> learner = GradientDescent(Simplex(2), rate=0.25)
        >>> learner.update([1.0, 0.0])
        >>> learner.predict()[0].tolist()
        [[0.75, 0.25]]

    Reference: Zinkevich (2003); Hazan, Agarwal and Kale (2007); textbook.
    """

    def __init__(self, dim: int | ConvexSet, *, rate: float | None = None, seed: int = 0) -> None:
        super().__init__(dim, seed=seed)
        if rate is not None and not 0 < rate <= 0.5:
            raise InvalidInputError(f"`rate` must lie in (0, 1/2], got {rate}")
        self.rate = rate
        known = self.domain is None or isinstance(self.domain, Simplex | Box)
        if not known and not (isinstance(self.domain, Ball) and self.domain.p == 2):
            raise InvalidInputError(f"no projection is known for {self.domain!r}; use a simplex, an l2 ball or a box")

    def _learn(self, y: np.ndarray) -> None:
        step = 1 / (self.rounds + 1) if self.rate is None else 2 * self.rate
        self._point = self._project(self._point + step * (y - self._point))

    def _project(self, p: np.ndarray) -> np.ndarray:
        if isinstance(self.domain, Simplex):
            return project_to_simplex(p)
        if isinstance(self.domain, Box):
            return np.clip(p, self.domain.low, self.domain.high)
        if isinstance(self.domain, Ball):
            return p * min(1.0, self.domain.radius / max(float(np.linalg.norm(p)), 1e-300))
        return p

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "rate": self.rate}


class Hedge(PointForecaster):
    r"""Exponentiated gradient on the simplex for the Brier score, \(p_i \propto p_i e^{-2 \eta (p_i - y_i)}\).

    Args:
        dim: number of classes, or a `Simplex`.
        rate: eta; None for \(\sqrt{\log d / (t + 1)}\).
        seed: not used.

    Guarantee: external regret \(O(\sqrt{T \log d})\). None on calibration.

    Example:
        >>> learner = Hedge(2, rate=0.5)
        >>> learner.update([1.0, 0.0])
        >>> learner.predict()[0].round(4).tolist()
        [[0.7311, 0.2689]]

    Reference: Kivinen and Warmuth (1997); textbook.
    """

    def __init__(self, dim: int | ConvexSet, *, rate: float | None = None, seed: int = 0) -> None:
        super().__init__(dim, seed=seed)
        if self.domain is not None and not isinstance(self.domain, Simplex):
            raise InvalidInputError(f"Hedge forecasts probabilities; the set must be a Simplex, got {self.domain!r}")
        if rate is not None and not rate > 0:
            raise InvalidInputError(f"`rate` must be above 0, got {rate}")
        self.rate = rate

    def _learn(self, y: np.ndarray) -> None:
        eta = np.sqrt(np.log(max(self.dim, 2)) / (self.rounds + 1)) if self.rate is None else self.rate
        scores = np.log(np.maximum(self._point, 1e-12)) - 2 * eta * (self._point - y)
        grown = np.exp(scores - scores.max())
        self._point = grown / grown.sum()

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "rate": self.rate}
