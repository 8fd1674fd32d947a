r"""A recorded stream through TreeCal at once: block sums by level, and running sums inside each parent.

No loop over rounds: level l has one sum a block, the sums of level l - 1 are those of H neighbours, and a node's
forecast is the exclusive running sum of its siblings over the rounds they hold.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from corollary.calibration._forecaster import short, vector
from corollary.calibration._schedule import Epoch
from corollary.calibration._sets import ConvexSet
from corollary.errors import InvalidInputError


@dataclass(frozen=True, eq=False)
class Nodes:
    """The nodes of one level of one tree: forecast, first round, rounds, sum of the outcomes of its rounds."""

    points: np.ndarray
    first: np.ndarray
    rounds: np.ndarray
    sums: np.ndarray


@dataclass(frozen=True, eq=False)
class Replay:
    """What TreeCal forecast on a recorded stream: `points` and the other attributes have a row for each node.

    Args:
        outcomes: (T, d) the stream.
        levels: L.
        trees: of each epoch its schedule, the rounds it got, and its nodes by level, the coarsest first.

    Attributes:
        points: (N, d) forecast of every node, level by level.
        first: (N,) the round (from 0) in which it begins.
        rounds: (N,) rounds that it got.
        level: (N,) its level, 0 the coarsest.
        sums: (N, d) sum of the outcomes of its rounds.

    Guarantee: none; `replay` says what it holds.

    Example:
        >>> import numpy as np
        >>> run = replay(np.eye(2)[[0, 1, 1, 0]], levels=2, branching=2)
        >>> run.points.tolist()
        [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]
    """

    outcomes: Float[np.ndarray, "T d"]
    levels: int
    trees: tuple[tuple[Epoch, int, tuple[Nodes, ...]], ...]

    def forecasts(self) -> Float[np.ndarray, "T L d"]:
        """The forecasts of every round, as `predict` announced them."""
        d = self.outcomes.shape[1]
        out = np.empty((len(self.outcomes), self.levels, d))
        for epoch, count, nodes in self.trees:
            rows = out[epoch.begin : epoch.begin + count]
            for j, (block, level) in enumerate(zip(epoch.blocks, nodes, strict=True)):
                whole = count // block
                inside = rows[: whole * block].reshape(whole, block, self.levels, d)
                inside[:, :, j] = level.points[:whole, None]
                rows[whole * block :, j] = level.points[whole:]
        return out

    def weights(self) -> Float[np.ndarray, "T L"]:
        """1 / L everywhere."""
        return np.full((len(self.outcomes), self.levels), 1 / self.levels)

    @property
    def epochs(self) -> tuple[tuple[Epoch, int], ...]:
        """The trees, with the rounds each got."""
        return tuple((epoch, count) for epoch, count, _ in self.trees)

    def _all(self, name: str) -> np.ndarray:
        return np.concatenate([getattr(n[j], name) for j in range(self.levels) for *_, n in self.trees])

    points = cached_property(lambda self: self._all("points"))
    first = cached_property(lambda self: self._all("first"))
    rounds = cached_property(lambda self: self._all("rounds"))
    sums = cached_property(lambda self: self._all("sums"))

    @cached_property
    def level(self) -> Int[np.ndarray, " N"]:
        """(N,) level of every node."""
        sizes = [sum(len(n[j].rounds) for *_, n in self.trees) for j in range(self.levels)]
        return np.repeat(np.arange(self.levels), sizes)


def replay(
    outcomes: ArrayLike,
    levels: int = 4,
    branching: int = 8,
    horizon: int | None = None,
    *,
    leaf: int = 1,
    start: Any = "centre",
    mixing: float = 0.0,
    domain: ConvexSet | None = None,
) -> Replay:
    """What `TreeCal` with these arguments forecasts on a recorded stream, without a loop over its rounds.

    Args:
        outcomes: (T, d) the stream, in order.
        levels, branching, horizon, leaf, start, mixing: as in `TreeCal`.
        domain: the convex set; None where `TreeCal` was made with a number.

    Returns:
        The nodes; `.forecasts()` expands them to (T, L, d).

    Raises:
        InvalidInputError: for arguments out of range, or an outcome that `TreeCal` would refuse, naming its round.

    Guarantee: equal to the streaming form up to round-off of the sums (tested at 1e-12), restarts included.

    Example:
        >>> import numpy as np
        >>> outcomes = np.eye(3)[[0, 1, 0, 2, 0, 1]]
        >>> from corollary.calibration import TreeCal
        >>> forecaster, seen = TreeCal(3, levels=2, branching=3), []
        >>> for y in outcomes:
        ...     seen.append(forecaster.predict()[0])
        ...     forecaster.update(y)
        >>> bool(np.allclose(replay(outcomes, levels=2, branching=3).forecasts(), seen))
        True

    Reference: arXiv:2505.21460, Algorithm 1 (read in full); this form derived.
    """
    from corollary.calibration._tree import TreeCal

    y = stream(outcomes, domain)
    made = TreeCal(domain or y.shape[1], levels, branching, horizon, leaf=leaf, start=start, mixing=mixing)
    origin = made._origin()
    trees = []
    for epoch, count in made.schedule.epochs(len(y)):
        means = _means_before(y, epoch, count) if _wants_mean(made.start) else None
        nodes = nodes_of(y[epoch.begin : epoch.begin + count], epoch, origin, means)
        if mixing:
            nodes = tuple(replace(n, points=n.points + mixing * (made.centre - n.points)) for n in nodes)
        trees.append((epoch, count, nodes))
    return Replay(y, levels, tuple(trees))


def learned(forecaster: Any, outcomes: np.ndarray) -> None:
    """Put a `TreeCal` that has seen nothing into the state after these outcomes, without a loop over them."""
    f, (epoch, count) = forecaster, list(forecaster.schedule.epochs(len(outcomes)))[-1]
    f._number, f.rounds, f._total = len(list(f.schedule.epochs(len(outcomes)))) - 1, len(outcomes), outcomes.sum(0)
    if count == epoch.horizon:
        f._number += 1
        epoch, count = f.schedule.epoch(f._number, len(outcomes)), 0
    f._epoch = epoch
    for level, block in enumerate(epoch.blocks):
        node, parent = count - count % block, count - count % (block * epoch.branching)
        here = outcomes[epoch.begin + parent :]
        f._sums[level], f._counts[level] = here.sum(0), len(here)
        if node > parent:
            f._points[level] = here[: node - parent].mean(0)
        else:
            before = outcomes[: epoch.begin + parent]
            f._points[level] = before.mean(0) if _wants_mean(f.start) and len(before) else f._origin()


def _wants_mean(start: Any) -> bool:
    return isinstance(start, str) and start == "mean"


def _means_before(y: np.ndarray, epoch: Epoch, count: int) -> np.ndarray:
    """(count, d) mean of all outcomes before each round of the epoch; the first row of a stream is not used."""
    running = np.cumsum(y[: epoch.begin + count], axis=0)
    running = np.vstack([np.zeros_like(y[:1]), running[:-1]])[epoch.begin :]
    return running / np.maximum(np.arange(epoch.begin, epoch.begin + count), 1)[:, None]


def nodes_of(y: np.ndarray, epoch: Epoch, origin: np.ndarray, means: np.ndarray | None) -> tuple[Nodes, ...]:
    """The nodes of one tree, level by level from the coarsest."""
    count, d, H = *y.shape, epoch.branching
    sums = y if epoch.leaf == 1 else np.add.reduceat(y, np.arange(0, count, epoch.leaf), axis=0)
    found: list[Nodes] = []
    for level in range(epoch.levels - 1, -1, -1):
        block, nodes = epoch.blocks[level], len(sums)
        parents = -(-nodes // H)
        inside = np.zeros((parents, H, d)) if nodes % H else sums.reshape(parents, H, d)
        if nodes % H:
            inside.reshape(-1, d)[:nodes] = sums
        points, running = np.empty((parents, H, d)), np.zeros((parents, d))
        points[:, 0] = origin if means is None else means[np.arange(parents) * block * H]
        if means is not None and epoch.begin == 0:
            points[0, 0] = origin  # nothing was seen yet
        if parents > H:
            for h in range(1, H):
                running += inside[:, h - 1]
                np.divide(running, block * h, out=points[:, h])
            running = running + inside[:, H - 1]
        else:
            whole = np.cumsum(inside, axis=1)
            points[:, 1:] = whole[:, :-1] / (block * np.arange(1, H))[:, None]
            running = whole[:, -1]
        first = np.arange(nodes) * block
        rounds = np.minimum(first + block, count) - first
        found.append(Nodes(points.reshape(-1, d)[:nodes], first + epoch.begin, rounds, sums))
        sums = running
    return tuple(found[::-1])


def stream(outcomes: Any, domain: ConvexSet | None = None) -> np.ndarray:
    """Outcomes as (T, d) float64; the first that cannot be one is named by its round."""
    y = np.asarray(outcomes, dtype=np.float64)
    if y.ndim == 1:
        y = y[:, None]
    if y.ndim != 2 or 0 in y.shape:
        raise InvalidInputError(f"`outcomes` must be (T, d) with at least one round, got shape {y.shape}")
    if not np.isfinite(y).all():
        t = int(np.argmin(np.isfinite(y).all(1)))
        vector(y[t], y.shape[1], f"round {t + 1}: the outcome")
    if domain is not None:
        if domain.dim != y.shape[1]:
            raise InvalidInputError(f"outcomes have {y.shape[1]} coordinates, the set has {domain.dim}")
        inside = domain.contains(y)
        if not inside.all():
            t = int(np.argmin(inside))
            raise InvalidInputError(f"round {t + 1}: the outcome {short(y[t])} lies outside of the set ({domain!r})")
    return y
