r"""Online monitors: bets against a certificate while traffic comes; once the gambler is rich, it is revoked.

Symbols: values \(x_t\) in [0, top], the certified mean m, capital \(K_t = \prod_{s \le t} (1 + \lambda_s (x_s -
m))\) with bets chosen before \(x_t\) is seen. While the mean given the past is at most m, the capital is a nonnegative
supermartingale, and Ville's inequality bounds the probability that it ever reaches 1/alpha by alpha: a false alarm
in all time, not a day.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError


def value_gap(values: ArrayLike, costs: ArrayLike) -> Float[np.ndarray, " n"]:
    """(n,) what the best model is held to be worth above the cheapest: what routing turns on, and what drift moves.

    Args:
        values: (n, K) worths.
        costs: (K,) mean costs.

    Guarantee: none.

    Example:
        >>> value_gap([[0.5, 0.7], [0.9, 0.8]], [0.0, 1.0]).round(3).tolist()
        [0.2, 0.0]
    """
    worth = np.asarray(values, dtype=np.float64)
    return worth.max(1) - worth[:, int(np.argmin(np.asarray(costs)))]


class MeanMonitor:
    """Revokes the claim "the mean is at most `claimed`" (or "at least", with `side="at least"`).

    Args:
        claimed: the certified mean.
        top: what no value can exceed; values are at least 0.
        alpha: probability of ever revoking while the claim is true.
        side: "at most" for costs, "at least" for qualities.

    Raises:
        InvalidInputError: for a claim outside (0, top), or values outside [0, top].

    Guarantee: P(ever revoked) <= alpha while every value has conditional mean on the claimed side (Ville, 1939).

    Example:
        >>> monitor = MeanMonitor(0.3, alpha=0.01)
        >>> any(monitor.update(1.0) for _ in range(40))
        True

    Reference: Waudby-Smith and Ramdas (2024); reconstructed from the published formulas.
    """

    def __init__(self, claimed: float, *, top: float = 1.0, alpha: float = 0.01, side: str = "at most") -> None:
        if side not in ("at most", "at least"):
            raise InvalidInputError(f"`side` must be 'at most' or 'at least', got {side!r}")
        if not 0 < claimed < top or not 0 < alpha < 1:
            raise InvalidInputError(f"`claimed` must lie in (0, {top:g}) and `alpha` in (0, 1), got {claimed}, {alpha}")
        self.top, self.alpha, self.side = top, alpha, side
        share = claimed / top
        self.mean = share if side == "at most" else 1 - share
        self.log_capital, self.count, self.revoked = 0.0, 0, False
        self._sum, self._square = 0.5, 0.25

    def update(self, value: float) -> bool:
        """Take one value; True once the claim is revoked (and ever after)."""
        if not 0 <= value <= self.top:
            raise InvalidInputError(f"a value must lie in [0, {self.top:g}], got {value}")
        x = value / self.top if self.side == "at most" else 1 - value / self.top
        estimate, variance = self._sum / (self.count + 1), self._square / (self.count + 1)
        # the growth-optimal bet for what was seen so far, a half of what could ruin at most
        bet = np.clip((estimate - self.mean) / (variance + (estimate - self.mean) ** 2), 0.0, 0.5 / self.mean)
        self.log_capital += float(np.log1p(bet * (x - self.mean)))
        self.count += 1
        self._sum += x
        self._square += (x - self._sum / (self.count + 1)) ** 2
        self.revoked = self.revoked or bool(self.log_capital >= np.log(1 / self.alpha))
        return self.revoked


class DriftMonitor:
    r"""Revokes exchangeability with the calibration rows, without any feedback: a conformal test martingale.

    .. math:: p_t = \frac{\#\{i : s_i > s_t\} + u_t \#\{i : s_i = s_t\}}{n_t}, \qquad
              K_t = \tfrac13 \sum_{b} \prod_s b(p_s), \qquad
              b(p) \in \{\epsilon p^{\epsilon - 1},\ \epsilon (1 - p)^{\epsilon - 1},\ \text{their mean}\}

    over the calibration scores and all scores so far, the new one included: on exchangeable data the p are independent
    and uniform, so each gambler's capital is a martingale, and so is their mean. One bets on high scores, one on low
    ones, one on both tails.

    Args:
        scores: (n,) of the calibration rows: of any number computed from a prompt (the value gap, say).
        alpha: probability of ever revoking on exchangeable data.
        epsilon: of the bets, in (0, 1).
        seed: of the tie breaks.

    Guarantee: P(ever revoked) <= alpha for exchangeable scores (Ville).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> monitor = DriftMonitor(rng.normal(size=500))
        >>> any([monitor.update(x) for x in rng.normal(3.0, 1.0, size=100)])
        True

    Reference: Vovk, Gammerman, Shafer (2005), power martingales; textbook.
    """

    def __init__(self, scores: object, *, alpha: float = 0.01, epsilon: float = 0.7, seed: int = 0) -> None:
        seen = np.asarray(scores, dtype=np.float64)
        if seen.ndim != 1 or len(seen) == 0 or not np.isfinite(seen).all():
            raise InvalidInputError("`scores` must be a flat, finite, non-empty array: scores of the calibration rows")
        if not 0 < epsilon < 1 or not 0 < alpha < 1:
            raise InvalidInputError(f"`epsilon` and `alpha` must lie in (0, 1), got {epsilon}, {alpha}")
        self._seen = sorted(seen.tolist())
        self._rng = np.random.default_rng(seed)
        self.alpha, self.epsilon, self.log_capital, self.revoked = alpha, epsilon, 0.0, False
        self._capitals = np.zeros(3)  # logarithms: high scores, low scores, both tails

    def update(self, score: float) -> bool:
        """Take one score; True once exchangeability is refuted (and ever after)."""
        from bisect import bisect_left, bisect_right, insort

        if not np.isfinite(score):
            raise InvalidInputError(f"a score must be finite, got {score}")
        insort(self._seen, float(score))
        above = len(self._seen) - bisect_right(self._seen, score)
        tied = len(self._seen) - above - bisect_left(self._seen, score)
        p = min(max((above + self._rng.random() * tied) / len(self._seen), 1e-12), 1 - 1e-12)
        e = self.epsilon
        high, low = e * p ** (e - 1), e * (1 - p) ** (e - 1)
        self._capitals += np.log([high, low, (high + low) / 2])
        self.log_capital = float(np.logaddexp.reduce(self._capitals) - np.log(3))
        self.revoked = self.revoked or bool(self.log_capital >= np.log(1 / self.alpha))
        return self.revoked
