"""What every online forecaster shares: `predict()`, `update(y)`, `sample()`, checks of an outcome, a state on disk."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.calibration._sets import ConvexSet, set_from_plain
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.runs import read_json, write_json

FORMAT = 1
COINS = 0xC015  # the learner's coins come from a stream of their own, whatever seed the data was made with


class OnlineForecaster:
    """A learner that announces a distribution over forecasts, sees the outcome, and goes on.

    Args:
        dim: dimension of outcomes and forecasts, or a convex set, whose outcomes are then checked.
        seed: of `sample`; choose one that the outcomes were not made with.

    Raises:
        InvalidInputError: for a dimension below 1; in `update` for NaN, a wrong shape, or an outcome outside the set,
            naming the round; the state is then unchanged.

    Guarantee: none; a subclass has its own.

    Example:
        >>> from corollary.calibration import FollowTheLeader
        >>> learner = FollowTheLeader(2)
        >>> learner.update([1.0, 0.0])
        >>> learner.predict()[0].tolist(), learner.rounds
        ([[1.0, 0.0]], 1)
    """

    def __init__(self, dim: int | ConvexSet, *, seed: int = 0) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int | np.integer | ConvexSet):
            raise InvalidInputError(f"`dim` must be a whole number or a convex set, got {dim!r}")
        self.domain = dim if isinstance(dim, ConvexSet) else None
        self.dim = dim.dim if isinstance(dim, ConvexSet) else int(dim)
        if self.dim < 1:
            raise InvalidInputError(f"`dim` must be at least 1, got {dim}")
        self.rounds = 0
        self.seed = seed
        self._coins = np.random.default_rng([seed, COINS])

    @property
    def centre(self) -> Float[np.ndarray, " d"]:
        """Where forecasts start: the set's centre; uniform probabilities (1/2 in one dimension) without a set."""
        if self.domain is not None:
            return self.domain.centre
        return np.full(self.dim, 0.5 if self.dim == 1 else 1 / self.dim)

    def predict(self, base: ArrayLike | None = None) -> tuple[Float[np.ndarray, "l d"], Float[np.ndarray, " l"]]:
        """The forecasts of this round and their weights.

        Args:
            base: (d,) what another model forecasts for this round, for the methods that build on one.
        """
        raise NotImplementedError

    def update(self, y: ArrayLike) -> None:
        """Learn the outcome of this round."""
        self._learn(self._checked(y))
        self.rounds += 1

    def sample(self, base: ArrayLike | None = None) -> Float[np.ndarray, " d"]:
        """One forecast drawn from the announced distribution."""
        forecasts, weights = self.predict() if base is None else self.predict(base)
        return forecasts[int(self._coins.choice(len(weights), p=weights))]

    def _learn(self, y: np.ndarray) -> None:
        raise NotImplementedError

    def _checked(self, y: Any) -> np.ndarray:
        point = vector(y, self.dim, f"round {self.rounds + 1}: the outcome")
        if self.domain is not None and not bool(self.domain.contains(point)):
            raise InvalidInputError(
                f"round {self.rounds + 1}: the outcome {short(point)} lies outside of the set ({self.domain!r}); "
                "the state is unchanged"
            )
        return point

    # the state on disk

    def _settings(self) -> dict[str, Any]:
        """Arguments that make this learner again, as JSON values."""
        return {"dim": self.dim if self.domain is None else self.domain.as_plain(), "seed": self.seed}

    def _state(self) -> dict[str, Any]:
        return {}

    def _restore(self, state: dict[str, Any]) -> None:
        pass

    def as_plain(self) -> dict[str, Any]:
        """Everything needed to go on, as JSON values (floats survive exactly)."""
        coins = self._coins.bit_generator.state
        common = {"rounds": self.rounds, "coins": coins}
        return {"kind": type(self).__name__, "settings": self._settings(), "state": {**common, **self._state()}}

    @classmethod
    def _made(cls, settings: dict[str, Any]) -> Any:
        return cls(**settings)

    def save(self, path: str | Path) -> None:
        """Write the state as one JSON file; it appears whole or not at all."""
        write_json(Path(path), {"format": FORMAT, "forecaster": self.as_plain()})

    @classmethod
    def load(cls, path: str | Path) -> Any:
        """Go on from a state that `save` wrote.

        Raises:
            InvalidFileError: for a file that is absent, foreign, cut short, or of another forecaster.
        """
        found = load_forecaster(path)
        if not isinstance(found, cls):
            raise InvalidFileError(path, f"the state of a {type(found).__name__}, not of a {cls.__name__}", "load that")
        return found


def load_forecaster(path: str | Path) -> OnlineForecaster:
    """The forecaster whose state a file holds.

    Args:
        path: what `save` wrote.

    Raises:
        InvalidFileError: for a file that is absent, foreign or cut short.

    Guarantee: the forecaster goes on as the saved one would have, coins included.

    Example:
        >>> import tempfile
        >>> from corollary.calibration import TreeCal
        >>> first, path = TreeCal(2), Path(tempfile.mkdtemp()) / "state.json"
        >>> first.update([0.0, 1.0])
        >>> first.save(path)
        >>> bool((load_forecaster(path).predict()[0] == first.predict()[0]).all())
        True
    """
    source = Path(path)
    data = read_json(source)
    if not isinstance(data, dict) or data.get("format") != FORMAT or "forecaster" not in data:
        raise InvalidFileError(source, "not the state of a forecaster", "give a file that `save` wrote")
    try:
        return from_plain(data["forecaster"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as problem:
        raise InvalidFileError(source, f"its parts do not fit together ({problem})", "save it again") from None


def from_plain(data: dict[str, Any]) -> OnlineForecaster:
    """The forecaster that `as_plain` described."""
    package = importlib.import_module("corollary.calibration")
    known = getattr(package, data["kind"], None) if data["kind"] in package.__all__ else None
    if not (isinstance(known, type) and issubclass(known, OnlineForecaster)):
        raise KeyError(f"no forecaster is called {data['kind']!r}")
    settings = dict(data["settings"])
    if isinstance(settings.get("dim"), dict):
        settings["dim"] = set_from_plain(settings["dim"])
    made, state = known._made(settings), data["state"]
    made.rounds = int(state["rounds"])
    made._coins.bit_generator.state = state["coins"]
    made._restore(state)
    return made


def vector(y: Any, dim: int, what: str) -> np.ndarray:
    """A finite (d,) array from what the user passed, a number where d = 1."""
    try:
        point = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidInputError(f"{what} must be {dim} numbers, got {y!r}; the state is unchanged") from None
    if dim == 1 and point.ndim == 0:
        point = point.reshape(1)
    if point.shape != (dim,):
        raise InvalidInputError(f"{what} must have shape ({dim},), got {point.shape}; the state is unchanged")
    if not np.isfinite(point).all():
        raise InvalidInputError(f"{what} holds NaN or an infinity, {short(point)}; the state is unchanged")
    return point


def short(point: np.ndarray) -> str:
    """A vector as text, its first entries only."""
    told = ", ".join(f"{v:.4g}" for v in point[:4])
    return f"({told}{', ...' if len(point) > 4 else ''})"


def restored(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A finite float array of that shape, from JSON lists."""
    array = np.asarray(values, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"an array of shape {array.shape}, not {shape}, or not finite")
    return array.copy()
