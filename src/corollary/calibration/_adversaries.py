r"""Sequences that make calibration hard: adversaries that see what is announced, and oblivious ones.

An adversary is a function (forecasts (L, d), weights (L,), outcomes so far) -> outcome. `hard_sequence` is oblivious:
a tree visited depth first, with fresh randomness at every node, the shape of the lower bounds (Theorem 4.3 of
arXiv:2505.21460: any forecaster errs by eps T while T <= exp(c min(d^(1/14), eps^(-1/6)))).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from corollary.calibration._forecaster import OnlineForecaster
from corollary.calibration._schedule import root
from corollary.calibration._sets import Ball, Box, ConvexSet
from corollary.errors import InvalidInputError

Adversary = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
ADVERSARIES = ("anti-leader", "best-response", "bursts", "constant", "random")


class Game(NamedTuple):
    """What was announced and what happened.

    Guarantee: none.

    Example:
        >>> Game(np.zeros((1, 1, 2)), np.ones((1, 1)), np.zeros((1, 2)))._fields
        ('forecasts', 'weights', 'outcomes')
    """

    forecasts: Float[np.ndarray, "T L d"]
    weights: Float[np.ndarray, "T L"]
    outcomes: Float[np.ndarray, "T d"]


def play(forecaster: OnlineForecaster, adversary: Adversary, rounds: int) -> Game:
    """Let a forecaster and an adversary play: the forecaster announces, the adversary answers.

    Args:
        forecaster: anything with `predict()` and `update(y)` that announces the same number of forecasts each round.
        adversary: function of the forecasts, their weights, and the (t, d) outcomes so far.
        rounds: T.

    Guarantee: none; it records.

    Example:
        >>> from corollary.calibration import FollowTheLeader, Simplex, adversary, calibration_error
        >>> game = play(FollowTheLeader(Simplex(2)), adversary("anti-leader", Simplex(2)), 100)
        >>> calibration_error(*game) / 100 > 0.9
        True
    """
    dim = forecaster.dim
    outcomes = np.empty((rounds, dim))
    forecasts, weights = [], []
    for t in range(rounds):
        points, w = forecaster.predict()
        forecasts.append(points)
        weights.append(w)
        outcomes[t] = adversary(points, w, outcomes[:t])
        forecaster.update(outcomes[t])
    return Game(np.array(forecasts), np.array(weights), outcomes)


def adversary(name: str, domain: ConvexSet, *, seed: int = 0) -> Adversary:
    """An adversary by name.

    Args:
        name: `"anti-leader"` (the point farthest from the mean of the outcomes so far), `"best-response"` (the point of
            largest expected squared distance to the announced distribution), `"bursts"` (one random point for a random
            number of rounds, then another), `"constant"`, `"random"` (a point drawn afresh each round).
        domain: where outcomes lie; a set with corners, or a ball.
        seed: of what is random.

    Raises:
        InvalidInputError: for another name, or a set without corners that is no ball.

    Guarantee: none; outcomes lie in the set.

    Example:
        >>> from corollary.calibration import Simplex
        >>> answer = adversary("best-response", Simplex(3))
        >>> answer(np.array([[0.2, 0.3, 0.5]]), np.ones(1), np.empty((0, 3))).tolist()
        [1.0, 0.0, 0.0]
    """
    if name not in ADVERSARIES:
        raise InvalidInputError(f"`name` must be one of {', '.join(ADVERSARIES)}, got {name!r}")
    rng = np.random.default_rng([seed, 0xADF])
    extremes = _extremes(domain, rng)
    if name == "constant":
        return lambda p, w, past: extremes[0]
    if name == "random":
        return lambda p, w, past: extremes[rng.integers(len(extremes))]
    if name == "anti-leader":
        return lambda p, w, past: _farthest(domain, extremes, past.mean(0) if len(past) else domain.centre)
    if name == "best-response":
        return lambda p, w, past: _farthest(domain, extremes, w @ p)
    left, now = 0, extremes[0]

    def bursts(p: np.ndarray, w: np.ndarray, past: np.ndarray) -> np.ndarray:
        nonlocal left, now
        if left == 0:
            left, now = int(rng.geometric(1 / (1 + rng.integers(1, 60)))), extremes[rng.integers(len(extremes))]
        left -= 1
        return now

    return bursts


def _extremes(domain: ConvexSet, rng: np.random.Generator) -> np.ndarray:
    corners = domain.corners()
    if corners is not None:
        return corners
    if isinstance(domain, Ball):
        directions = rng.normal(size=(64, domain.dim))
        return directions * (domain.radius / np.maximum(_size(directions, domain.p), 1e-300))[:, None]
    if isinstance(domain, Box):
        chosen = rng.random((64, domain.dim)) < 0.5
        return np.where(chosen, domain.low, domain.high)
    raise InvalidInputError(f"no extreme points are known for {domain!r}")


def _size(x: np.ndarray, p: float) -> np.ndarray:
    from corollary.calibration._norms import norm_values

    return norm_values(x, p)


def _farthest(domain: ConvexSet, extremes: np.ndarray, point: np.ndarray) -> np.ndarray:
    size = float(np.linalg.norm(point))
    if isinstance(domain, Ball) and domain.p == 2 and size > 1e-12:
        return -point * (domain.radius / size)
    return extremes[int(np.argmax(np.square(extremes - point).sum(-1)))]


def hard_sequence(dim: int, rounds: int, *, depth: int | None = None, labels: bool = True, seed: int = 0) -> Any:
    r"""Outcomes that stay unpredictable at every time scale: a tree visited depth first, fresh at every node.

    Round t has the digits of t in base B; the node of each prefix drew a class of its own when it was entered. The
    outcome is the class of one node on the path, drawn at random (`labels`), or the mean over the path.

    Args:
        dim: number of classes d.
        rounds: T.
        depth: levels of the tree; None for log2 T, at most 12, so that every scale counts.
        labels: whether outcomes are vertices of the simplex.
        seed: of the draws.

    Returns:
        (T, d) outcomes in the simplex.

    Guarantee: none in numbers: Theorem 4.3 says that some oblivious sequence of T <= exp(c min(d^(1/14), eps^(-1/6)))
        rounds forces every forecaster to err by eps T in l1; its constants are such that no length that can be run
        falls under it. Knowing the whole past, the class of a node just entered is still uniform.

    Example:
        >>> hard_sequence(4, 3, depth=2, labels=False, seed=0).sum(1).tolist()
        [1.0, 1.0, 1.0]

    Reference: arXiv:2505.21460, Theorem 4.3 (statement read; the sequence is reconstructed, may differ from theirs).
    """
    if dim < 2 or rounds < 1 or (depth is not None and depth < 1):
        raise InvalidInputError(f"needs dim >= 2, rounds >= 1, depth >= 1, got {dim}, {rounds}, {depth}")
    levels = depth or max(1, min(12, int(np.ceil(np.log2(max(rounds, 2))))))
    base = max(2, root(rounds, levels))
    rng = np.random.default_rng([seed, 0x4A2D])
    t = np.arange(rounds)
    classes = np.empty((rounds, levels), dtype=np.int64)
    for level in range(levels):
        node = t // base ** (levels - 1 - level)
        classes[:, level] = rng.integers(dim, size=int(node[-1]) + 1)[node]
    if labels:
        return np.eye(dim)[classes[t, rng.integers(levels, size=rounds)]]
    out = np.zeros((rounds, dim))
    np.add.at(out, (t[:, None], classes), 1 / levels)
    return out
