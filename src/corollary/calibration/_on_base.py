r"""Calibrating the stream of an existing model: one forecaster for each bin of what the model forecasts.

`PerBin` runs any forecaster in each bin. With the running mean it is calibeating; with Foster's grid, Kuleshov and
Ermon's method; with TreeCal, vectors with its guarantee in each bin. `Chain` feeds one method's forecast to the next.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.calibration._forecaster import OnlineForecaster, from_plain, restored, vector
from corollary.calibration._grid import FosterGrid
from corollary.calibration._learners import FollowTheLeader
from corollary.calibration._sets import ConvexSet, Simplex
from corollary.calibration._swap import _factory
from corollary.errors import InvalidInputError

Key = tuple[int, ...]


class PerBin(OnlineForecaster):
    """An online forecaster in each bin of a base model's forecasts.

    Bins: of the last probability for two classes (or one number); of the top class and its probability for more; of
    every coordinate elsewhere.

    Args:
        algorithm: a forecaster that has seen nothing (it is copied), or a function that makes one.
        dim: dimension or convex set; None for the algorithm's own.
        bins: how finely the base forecast is cut.
        seed: of `sample`.

    Raises:
        InvalidInputError: from `predict` without a base forecast, and from `update` before `predict`.

    Guarantee: in each bin that of the algorithm on the rounds of the bin; errors of bins add up. Memory grows with the
        bins met, not with the rounds.

    Example:
        >>> from corollary.calibration import TreeCal
        >>> forecaster = PerBin(TreeCal(3, 2, 4))
        >>> forecasts, weights = forecaster.predict([0.7, 0.2, 0.1])
        >>> forecaster.update([0.0, 1.0, 0.0])
        >>> forecaster.predict([0.72, 0.1, 0.18])[0][1].tolist()
        [0.0, 1.0, 0.0]

    Reference: the scheme of Kuleshov and Ermon (2017) with any forecaster; reconstructed.
    """

    def __init__(self, algorithm: Any, dim: int | ConvexSet | None = None, *, bins: int = 10, seed: int = 0) -> None:
        self._make: Callable[[], OnlineForecaster] = _factory(algorithm)
        first = self._make()
        if not isinstance(first, OnlineForecaster):
            raise InvalidInputError(f"`algorithm` must be an online forecaster of this package, got {algorithm!r}")
        super().__init__(first.domain or first.dim if dim is None else dim, seed=seed)
        if isinstance(bins, bool) or not isinstance(bins, int | np.integer) or bins < 1:
            raise InvalidInputError(f"`bins` must be a whole number of at least 1, got {bins!r}")
        self.bins = int(bins)
        self._inside: dict[Key, OnlineForecaster] = {}
        self._pending: Key | None = None
        self._base = self.centre

    def predict(self, base: ArrayLike | None = None) -> tuple[Float[np.ndarray, "l d"], Float[np.ndarray, " l"]]:
        """The forecasts of the bin that `base` falls into."""
        self._base = _needed(self, base)
        self._pending = self._key(self._base)
        return self._at(self._pending).predict(base)

    def _at(self, key: Key) -> OnlineForecaster:
        if key not in self._inside:
            self._inside[key] = self._make()
        return self._inside[key]

    def _key(self, p: np.ndarray) -> Key:
        last = self.bins - 1
        if self.dim == 2 and self._probabilities(p):
            return (min(int(p[1] * self.bins), last),)
        if self.dim > 2 and self._probabilities(p):
            top = int(p.argmax())
            return top, min(int(p[top] * self.bins), last)
        return tuple(np.floor(p * self.bins).astype(int).tolist())

    def _probabilities(self, p: np.ndarray) -> bool:
        return isinstance(self.domain, Simplex) or (self.domain is None and bool((p >= 0).all() and (p <= 1).all()))

    def _learn(self, y: np.ndarray) -> None:
        if self._pending is None:
            raise early(self.rounds)
        self._at(self._pending).update(y)
        self._pending = None

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "bins": self.bins, "algorithm": self._make().as_plain()}

    @classmethod
    def _made(cls, settings: dict[str, Any]) -> "PerBin":
        plain = settings.pop("algorithm")
        return cls(lambda: from_plain(plain), **settings)

    def _state(self) -> dict[str, Any]:
        inside = [[list(k), f.as_plain()] for k, f in self._inside.items()]
        pending = None if self._pending is None else list(self._pending)
        return {"inside": inside, "pending": pending, "base": self._base.tolist()}

    def _restore(self, state: dict[str, Any]) -> None:
        self._inside = {tuple(int(i) for i in k): from_plain(f) for k, f in state["inside"]}
        self._pending = None if state["pending"] is None else tuple(int(i) for i in state["pending"])
        self._base = restored(state["base"], (self.dim,))


class Calibeating(PerBin):
    """In each bin of the base forecast, the running mean of the outcomes met there; the base itself in a fresh bin.

    Args:
        dim: dimension or convex set.
        bins: how finely the base forecast is cut.
        seed: of `sample`.

    Guarantee: Brier score at most the refinement of the binned base forecast + O(bins log T / T): what the base's
        miscalibration cost is won back. The forecasts themselves need not be calibrated.

    Example:
        >>> forecaster = Calibeating(2)
        >>> for y in ([1, 0], [1, 0], [0, 1]):
        ...     forecasts, _ = forecaster.predict([0.25, 0.75])
        ...     forecaster.update(y)
        >>> forecaster.predict([0.25, 0.75])[0].round(3).tolist()
        [[0.667, 0.333]]

    Reference: Foster and Hart (2023), arXiv:2209.04892 (abstract read; bound recalled).
    """

    def __init__(self, dim: int | ConvexSet, *, bins: int = 10, seed: int = 0) -> None:
        super().__init__(FollowTheLeader(dim), dim, bins=bins, seed=seed)

    def predict(self, base: ArrayLike | None = None) -> tuple[Float[np.ndarray, "l d"], Float[np.ndarray, " l"]]:
        """The mean of the bin, of weight 1."""
        found = super().predict(base)
        fresh = self._pending is not None and self._inside[self._pending].rounds == 0
        return (self._base[None].copy(), np.ones(1)) if fresh else found

    def _settings(self) -> dict[str, Any]:
        return {k: v for k, v in super()._settings().items() if k != "algorithm"}

    @classmethod
    def _made(cls, settings: dict[str, Any]) -> "Calibeating":
        return cls(**settings)


class KuleshovErmon(PerBin):
    """Binary: Foster's grid in each bin of the base forecast.

    Args:
        dim: 2, or 1 for numbers in [0, 1].
        bins: M, of the base forecast.
        resolution: m of the grids.
        seed: of `sample`.

    Guarantee: calibrated in each bin as `FosterGrid` is; the Brier score is at most the base's + O(1 / m).

    Example:
        >>> forecaster = KuleshovErmon(2, resolution=4)
        >>> forecaster.predict([0.3, 0.7])[1].sum()
        np.float64(1.0)

    Reference: Kuleshov and Ermon, "Estimating uncertainty online against an adversary" (2017); recalled.
    """

    def __init__(self, dim: int | ConvexSet = 2, *, bins: int = 10, resolution: int = 10, seed: int = 0) -> None:
        super().__init__(FosterGrid(dim, resolution=resolution), None, bins=bins, seed=seed)
        self.resolution = resolution

    def _settings(self) -> dict[str, Any]:
        plain = {k: v for k, v in super()._settings().items() if k not in ("algorithm", "dim")}
        return {**plain, "dim": self.dim, "resolution": self.resolution}

    @classmethod
    def _made(cls, settings: dict[str, Any]) -> "KuleshovErmon":
        return cls(**settings)


class Chain(OnlineForecaster):
    """Two methods in a row: the second takes the first one's mean forecast as its base.

    Args:
        first: a forecaster, e.g. `OnlinePlatt`.
        second: one that builds on a base, e.g. `Calibeating`.
        seed: of `sample`.

    Guarantee: that of the second, relative to the first.

    Example:
        >>> from corollary.calibration import OnlinePlatt
        >>> forecaster = Chain(OnlinePlatt(2), Calibeating(2))
        >>> forecaster.predict([0.4, 0.6])[0].round(3).tolist()
        [[0.4, 0.6]]

    Reference: Gupta and Ramdas (2023), arXiv:2305.00070: calibeating on top of online Platt scaling.
    """

    def __init__(self, first: OnlineForecaster, second: OnlineForecaster, *, seed: int = 0) -> None:
        if first.dim != second.dim:
            raise InvalidInputError(f"the two must be of one dimension, got {first.dim} and {second.dim}")
        super().__init__(second.domain or second.dim, seed=seed)
        self.first, self.second = first, second

    def predict(self, base: ArrayLike | None = None) -> tuple[Float[np.ndarray, "l d"], Float[np.ndarray, " l"]]:
        """The second method's forecasts."""
        points, weights = self.first.predict(base)
        return self.second.predict(weights @ points)

    def _learn(self, y: np.ndarray) -> None:
        self.second.update(y)  # the one that may refuse goes first
        self.first.update(y)

    def _settings(self) -> dict[str, Any]:
        return {"first": self.first.as_plain(), "second": self.second.as_plain(), "seed": self.seed}

    @classmethod
    def _made(cls, settings: dict[str, Any]) -> "Chain":
        return cls(from_plain(settings["first"]), from_plain(settings["second"]), seed=settings["seed"])


def early(rounds: int) -> InvalidInputError:
    """The error of an update without a forecast."""
    return InvalidInputError(f"round {rounds + 1}: `update` was called before `predict(base)`; call that first")


def _needed(owner: OnlineForecaster, base: Any) -> np.ndarray:
    if base is None:
        raise InvalidInputError(
            f"{type(owner).__name__} builds on another model: give predict(base) that model's forecast of this round"
        )
    return vector(base, owner.dim, f"round {owner.rounds + 1}: the base forecast")
