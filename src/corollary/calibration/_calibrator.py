"""One door to all methods: `Calibrator("auto")` picks by dimension, horizon, kind of outcome, and says why."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.calibration._bounds import calibration_bound
from corollary.calibration._forecaster import OnlineForecaster, from_plain
from corollary.calibration._grid import BlackwellGrid, BlumMansourGrid, FosterGrid
from corollary.calibration._learners import DiscountedMean, FollowTheLeader, Hedge
from corollary.calibration._on_base import Calibeating, Chain, KuleshovErmon, PerBin
from corollary.calibration._online_platt import OnlinePlatt
from corollary.calibration._schedule import root
from corollary.calibration._sets import Box, ConvexSet, Simplex
from corollary.calibration._tree import PengCal, SampleTreeCal, TreeCal
from corollary.errors import InvalidInputError

OUTCOMES = ("labels", "vectors")
UNKNOWN = 4096  # rounds, where the horizon is not told
SPEAKS = 0.8  # of the trivial bound: above it a bound is not worth a larger error
Maker = Callable[["Choice"], OnlineForecaster]


class Choice:
    """What is known when a method is chosen: dimension, horizon, kind of outcomes, whether a model is built on."""

    def __init__(
        self, dim: int | ConvexSet, *, horizon: int | None, outcomes: str, base: bool, options: dict[str, Any]
    ) -> None:
        self.dim = dim
        self.d = dim.dim if isinstance(dim, ConvexSet) else dim
        self.horizon, self.outcomes, self.base, self.options = horizon, outcomes, base, options

    @cached_property
    def speaks(self) -> bool:
        """Whether the theorem says something about a tree of few levels at this length."""
        T, domain = self.horizon or UNKNOWN, self.dim
        if not isinstance(domain, ConvexSet):
            domain = Simplex(domain) if domain > 1 else Box([0.0], [1.0])
        bound = calibration_bound(domain, T, self.few, self.wide(self.few), leaf=self.leaf)
        return bound.error < SPEAKS * bound.trivial

    @property
    def leaf(self) -> int:
        """Rounds of a leaf: labels need several, since one round is no average."""
        return max(1, min(64, (self.horizon or UNKNOWN) // 64)) if self.outcomes == "labels" else 1

    @property
    def few(self) -> int:
        """Levels with which the bound is best at lengths that can be run."""
        return 2 if self.outcomes == "labels" or (self.horizon or UNKNOWN) < 256 else 3

    def wide(self, levels: int) -> int:
        """The branching that so many levels need for the horizon."""
        return max(2, root(-(-(self.horizon or UNKNOWN) // self.leaf), levels))

    @property
    def tree(self) -> dict[str, Any]:
        """Few levels where the theorem then speaks; else the many that err least on what was measured."""
        steps = -(-(self.horizon or UNKNOWN) // self.leaf)
        levels = self.few if self.speaks else max(1, min(12, (steps - 1).bit_length()))
        found = {"levels": levels, "branching": self.wide(levels), "leaf": self.leaf, "horizon": self.horizon}
        return {**found, **self.options}

    @property
    def bins(self) -> int:
        """Bins of a base forecast: enough rounds in each."""
        return int(np.clip(round((self.horizon or UNKNOWN) ** (1 / 3)), 2, 20))


METHODS: dict[str, Maker] = {
    "treecal": lambda c: TreeCal(c.dim, **c.tree),
    "peng": lambda c: PengCal(c.dim, **c.tree),
    "sample-treecal": lambda c: SampleTreeCal(
        c.dim, samples=c.tree["leaf"], **{k: v for k, v in c.tree.items() if k != "leaf"}
    ),
    "foster": lambda c: FosterGrid(c.dim, **{"horizon": c.horizon, **c.options}),
    "blum-mansour": lambda c: BlumMansourGrid(c.dim, **{"horizon": c.horizon, **c.options}),
    "blackwell": lambda c: BlackwellGrid(c.dim, **c.options),
    "mean": lambda c: FollowTheLeader(c.dim, **c.options),
    "discounted": lambda c: DiscountedMean(c.dim, **c.options),
    "hedge": lambda c: Hedge(c.dim, **c.options),
    "calibeating": lambda c: Calibeating(c.dim, **{"bins": c.bins, **c.options}),
    "platt": lambda c: OnlinePlatt(c.dim, **c.options),
    "platt+calibeating": lambda c: Chain(OnlinePlatt(c.dim), Calibeating(c.dim, **{"bins": c.bins, **c.options})),
    "kuleshov-ermon": lambda c: KuleshovErmon(c.dim, **{"bins": c.bins, **c.options}),
    "treecal-per-bin": lambda c: PerBin(TreeCal(c.dim, **c.tree), bins=c.bins),
}
ON_BASE = ("calibeating", "platt", "platt+calibeating", "kuleshov-ermon", "treecal-per-bin")


class Calibrator(OnlineForecaster):
    """A forecaster by name, or the one that suits the stream.

    Args:
        method: `"auto"` or one of `Calibrator.methods()`.
        dim: number of classes (or coordinates), or a convex set.
        horizon: number of rounds, as far as it is known.
        outcomes: `"labels"` where every outcome is one class (a corner of the simplex), else `"vectors"`.
        base: whether `predict(base)` will be given another model's forecast.
        seed: of `sample`.
        options: further arguments of the method.

    Attributes:
        method: the name of the method in use.
        reasons: why, a sentence each.

    Raises:
        InvalidInputError: for an unknown method, or one that needs a base forecast where there is none.

    Guarantee: that of the method in use.

    Example:
        >>> binary = Calibrator("auto", dim=2, horizon=4096)
        >>> binary.method, binary.reasons[0]
        ('foster', 'two classes: a grid has few cells, and wins at every length that was measured')
        >>> Calibrator("auto", dim=10, outcomes="vectors").method
        'treecal'

    Reference: the choices rest on the tables of the page on calibration.
    """

    def __init__(
        self,
        method: str = "auto",
        *,
        dim: int | ConvexSet = 2,
        horizon: int | None = None,
        outcomes: str = "labels",
        base: bool = False,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(dim, seed=seed)
        if outcomes not in OUTCOMES:
            raise InvalidInputError(f"`outcomes` must be {' or '.join(OUTCOMES)}, got {outcomes!r}")
        if horizon is not None and (isinstance(horizon, bool) or horizon < 1):
            raise InvalidInputError(f"`horizon` must be at least 1 or None, got {horizon!r}")
        choice = Choice(dim, horizon=horizon, outcomes=outcomes, base=base, options=options)
        self.method, self.reasons = (method, ["asked for"]) if method != "auto" else choose(choice)
        if self.method not in METHODS:
            raise InvalidInputError(f"`method` must be auto, {', '.join(METHODS)}; got {method!r}")
        if self.method in ON_BASE and not base:
            raise InvalidInputError(f"{self.method!r} builds on another model's forecasts: pass base=True")
        self.base = base
        self._arguments = {"horizon": horizon, "outcomes": outcomes, "base": base, **options}
        self.forecaster = METHODS[self.method](choice)

    @staticmethod
    def methods() -> tuple[str, ...]:
        """Names of all methods."""
        return tuple(METHODS)

    def predict(self, base: ArrayLike | None = None) -> tuple[Float[np.ndarray, "l d"], Float[np.ndarray, " l"]]:
        """The forecasts of this round and their weights."""
        return self.forecaster.predict(base)

    def _learn(self, y: np.ndarray) -> None:
        self.forecaster.update(y)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), **self._arguments, "method": self.method, "reasons": self.reasons}

    @classmethod
    def _made(cls, settings: dict[str, Any]) -> "Calibrator":
        reasons = settings.pop("reasons")
        made = cls(**settings)
        made.reasons = [str(r) for r in reasons]
        return made

    def _state(self) -> dict[str, Any]:
        return {"forecaster": self.forecaster.as_plain()}

    def _restore(self, state: dict[str, Any]) -> None:
        self.forecaster = from_plain(state["forecaster"])


def choose(c: Choice) -> tuple[str, list[str]]:
    """Method and reasons."""
    simplex = not isinstance(c.dim, ConvexSet) or isinstance(c.dim, Simplex)
    known = f"{c.horizon} rounds" if c.horizon else "unknown length"
    if c.base and simplex:
        adversarial = "for a guarantee against an adversary ask for treecal, which does without the model"
        scaled = "a model's probabilities are given: scaling them online keeps what they know"
        if c.d <= 2:
            return "platt+calibeating", [scaled, "calibeating on top takes out what the scaling leaves", adversarial]
        return "platt", [
            scaled,
            "no bins on top: bins of the top class forget what is known of the others",
            adversarial,
        ]
    if c.base:
        return "calibeating", ["a model's forecasts are given that are no probabilities: running means in their bins"]
    if simplex and c.d == 2 and c.outcomes == "labels":
        return "foster", [
            "two classes: a grid has few cells, and wins at every length that was measured",
            f"its grid is the cube root of the horizon ({known})",
        ]
    tree = c.tree
    reasons = ["vectors: no grid is small enough, and TreeCal is calibrated in every norm against any adversary"]
    if c.outcomes == "labels":
        reasons.append(f"outcomes are single classes: leaves of {tree['leaf']} rounds, since one round tells little")
    shape = f"{tree['levels']} levels, branching {tree['branching']} for {known}"
    told = (
        "few, so that the theorem says something"
        if c.speaks
        else "many: no tree of this length has a bound that speaks"
    )
    reasons.append(f"{shape}: {told}")
    return "treecal", reasons
