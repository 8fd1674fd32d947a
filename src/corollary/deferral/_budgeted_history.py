"""What has been bought so far, and the protocol of a design: from that to the probabilities to buy with next."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float


@dataclass
class History:
    """What is known: features, labels (one stage), and per row and expert whether it was bought, how likely, at what.

    Example:
        >>> History.of(np.zeros((2, 1)), None, 3).weight.tolist()
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """

    x: Any
    y: np.ndarray | None
    classes: int
    cost: Float[np.ndarray, "n k"]
    probability: Float[np.ndarray, "n k"]
    asked: Bool[np.ndarray, "n k"]
    seen: np.ndarray

    @staticmethod
    def of(x: Any, y: np.ndarray | None, experts: int, *, classes: int = 0) -> "History":
        """Nothing bought yet."""
        shape = (x.shape[0], experts)
        nothing = np.full(shape, np.nan)
        return History(x, y, classes, nothing, np.zeros(shape), np.zeros(shape, dtype=bool), np.zeros(0, dtype=int))

    @property
    def known(self) -> Bool[np.ndarray, "n k"]:
        """Where a cost came back."""
        return self.asked & ~np.isnan(self.cost)

    @property
    def weight(self) -> Float[np.ndarray, "n k"]:
        """Q / p."""
        return np.where(self.known, 1 / np.where(self.known, self.probability, 1.0), 0.0)

    def gains(self, rows: Any, *, of_cost: bool = False) -> Float[np.ndarray, "m k"]:
        """(Q / p)(1 - c), or (Q / p) c."""
        c = np.where(self.known[rows], self.cost[rows], 0.0)
        return self.weight[rows] * (c if of_cost else 1 - c)


@runtime_checkable
class Design(Protocol):
    """How likely each cost of a block is to be bought."""

    def probabilities(self, history: History, rows: np.ndarray) -> Float[np.ndarray, "b k"]:
        """(B, K) before floor and budget."""

    def learn(self, history: History, rows: np.ndarray) -> None:
        """Take in a block that was just bought."""
