r"""Losses without consistency: points where the surrogate regret is zero and the zero-one regret is not.

Any bound R_01 - R*_01 <= f(R - R*) with nondecreasing f then has f(t) >= that regret for every t >= 0.
Awasthi, Mao, Mohri, Zhong (NeurIPS 2022, ICML 2022); instances constructed here and tested by linear programming.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from corollary.losses.consistency._worlds import zero_one_regret


@dataclass(frozen=True)
class Counterexample:
    """A label distribution and scores that minimise the surrogate and predict a worse class.

    Example:
        >>> round(max_hinge_counterexample().regret, 6), round(sum_hinge_counterexample().regret, 6)
        (0.5, 0.166667)
    """

    eta: Float64[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"]

    @property
    def regret(self) -> float:
        """The zero-one regret under the tie rule that predicts the worst of the largest scores."""
        tied = self.scores == self.scores.max()
        worst = np.where(tied, self.eta, np.inf).argmin()
        return float(zero_one_regret(self.eta, np.eye(len(self.eta))[worst]))


def max_hinge_counterexample(classes: int = 3) -> Counterexample:
    """Convex losses of the margin h_y - max h_y' (Crammer-Singer), n > 2: any bound has f >= 1/2.

    With eta = (1/2, 1/2, 0, ...) the margins of the two classes add up to at most zero, so by convexity equal scores
    are optimal, and a tie may predict the class of probability zero.

    Example:
        >>> max_hinge_counterexample().eta.tolist()
        [0.5, 0.5, 0.0]
    """
    return Counterexample(np.array([0.5, 0.5] + [0.0] * (classes - 2)), np.zeros(classes))


def sum_hinge_counterexample() -> Counterexample:
    """The sum of hinges over pairs (Weston-Watkins), n = 3: any bound has f >= 1/6.

    With eta = (1/2, 1/3, 1/6) the scores (1, 1, 0) are optimal (risk 3/2).

    Example:
        >>> sum_hinge_counterexample().scores.tolist()
        [1.0, 1.0, 0.0]
    """
    return Counterexample(np.array([1 / 2, 1 / 3, 1 / 6]), np.array([1.0, 1.0, 0.0]))
