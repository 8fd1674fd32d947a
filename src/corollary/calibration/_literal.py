r"""TreeCal round by round as its Algorithm 1 is printed: the slow reference of the streaming form and of `replay`.

Every node keeps the outcomes of its block; a new node averages the means of its finished siblings,
\(p_{k,h} = (1/h) \sum_{i<h} \nu_{k,i}\). Memory O(T).
"""

import numpy as np

from corollary.calibration._schedule import Schedule


class LiteralTreeCal:
    """One tree of L levels over at most H^L rounds."""

    def __init__(self, dim: int, levels: int, branching: int, *, origin: np.ndarray) -> None:
        self.dim, self.levels, self.branching, self.origin = dim, levels, branching, origin
        self.t = 0
        self.sums: dict[tuple[int, ...], np.ndarray] = {}
        self.counts: dict[tuple[int, ...], int] = {}
        self.forecasts: dict[tuple[int, ...], np.ndarray] = {}

    def digits(self) -> tuple[int, ...]:
        """h_1 .. h_L of this round."""
        rest, found = self.t, []
        for _ in range(self.levels):
            rest, h = divmod(rest, self.branching)
            found.append(h)
        return tuple(reversed(found))

    def predict(self) -> np.ndarray:
        """(L, d) the forecasts of this round."""
        digits = self.digits()
        for level in range(1, self.levels + 1):
            node = digits[:level]
            if node not in self.forecasts:
                k, h = node[:-1], node[-1]
                means = [self.sums[*k, i] / self.counts[*k, i] for i in range(h)]
                self.forecasts[node] = sum(means, np.zeros(self.dim)) / h if h else self.origin
        return np.array([self.forecasts[digits[:level]] for level in range(1, self.levels + 1)])

    def update(self, y: np.ndarray) -> None:
        """Add the outcome to the L nodes of this round."""
        digits = self.digits()
        for level in range(1, self.levels + 1):
            node = digits[:level]
            self.sums[node] = np.add(self.sums[node], y) if node in self.sums else y
            self.counts[node] = self.counts.get(node, 0) + 1
        self.t += 1


def literal_forecasts(outcomes: np.ndarray, schedule: Schedule, *, origin: np.ndarray) -> np.ndarray:
    """(T, L, d) forecasts of the algorithm as printed, restarted where an epoch ends; leaves of one round."""
    out = np.empty((len(outcomes), schedule.levels, outcomes.shape[1]))
    for epoch, count in schedule.epochs(len(outcomes)):
        tree = LiteralTreeCal(outcomes.shape[1], epoch.levels, epoch.branching, origin=origin)
        for t in range(epoch.begin, epoch.begin + count):
            out[t] = tree.predict()
            tree.update(outcomes[t])
    return out
