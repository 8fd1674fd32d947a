r"""The tree over time: epochs, levels, blocks.

An epoch of N rounds has L levels; a node of level l = 1..L covers \(b_l = S H^{L - l}\) rounds in a row (S = `leaf`),
with the least H such that \(S H^L \ge N\), never below the `branching` asked for. When an epoch ends, one of twice its
length begins.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from corollary.errors import InvalidInputError


@dataclass(frozen=True)
class Epoch:
    """One tree: when it begins, how long it may run, its branching."""

    begin: int
    horizon: int
    levels: int
    branching: int
    leaf: int

    @property
    def blocks(self) -> tuple[int, ...]:
        """Rounds in a node, by level."""
        return tuple(self.leaf * self.branching ** (self.levels - l) for l in range(1, self.levels + 1))  # noqa: E741


@dataclass(frozen=True)
class Schedule:
    """How the rounds are cut into epochs and blocks.

    Args:
        levels: L, how many averages are announced at once.
        branching: H, children of a node.
        horizon: length of the first epoch; None for S H^L.
        leaf: S, rounds in a node of the last level.
    """

    levels: int = 4
    branching: int = 8
    horizon: int | None = None
    leaf: int = 1

    def __post_init__(self) -> None:
        limits = {"levels": 1, "branching": 2, "leaf": 1} | ({"horizon": 1} if self.horizon is not None else {})
        for name, least in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise InvalidInputError(f"`{name}` must be a whole number of at least {least}, got {value!r}")

    def epoch(self, number: int, begin: int) -> Epoch:
        """The epoch of that number, which begins at round `begin` (from 0)."""
        first = self.leaf * self.branching**self.levels if self.horizon is None else int(self.horizon)
        length = first << number
        branching = max(self.branching, root(-(-length // self.leaf), self.levels))
        return Epoch(begin, length, self.levels, branching, self.leaf)

    def epochs(self, rounds: int) -> Iterator[tuple[Epoch, int]]:
        """The epochs of a stream of that many rounds, each with the number of rounds that it got."""
        begin = number = 0
        while begin < rounds:
            epoch = self.epoch(number, begin)
            count = min(epoch.horizon, rounds - begin)
            yield epoch, count
            begin, number = begin + count, number + 1

    def as_plain(self) -> dict[str, Any]:
        """JSON values."""
        return {"levels": self.levels, "branching": self.branching, "horizon": self.horizon, "leaf": self.leaf}


def root(n: int, degree: int) -> int:
    """The least whole h with h ** degree >= n."""
    h = max(1, round(n ** (1 / degree)))
    while h**degree >= n and h > 1:
        h -= 1
    while h**degree < n:
        h += 1
    return h
