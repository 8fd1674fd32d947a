r"""A committee of bootstrap members as a measure of disagreement, and a hard budget for any probabilities.

With rows weighted by Poisson(1) copies each member is a plausible router; experts that no member would send an input to
are not worth asking there. Reconstructed from the idea of query by committee; no theorem covers it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from corollary.deferral._budgeted_history import History
from corollary.deferral._training import Linear, fit_linear
from corollary.deferral._two_stage import two_stage_loss
from corollary.deferral._worth import values_of
from corollary.errors import InvalidInputError


class Committee:
    """Members trained on Poisson(1) bootstraps; their spread is the disagreement.

    Example:
        >>> Committee(members=8, loss="compsum-log", l2=2.0, rows=10, seed=0).copies.shape
        (8, 10)
    """

    def __init__(self, *, members: int, loss: str, l2: float, rows: int, seed: int, weights: str = "inverse") -> None:
        self.loss, self.l2, self.weights = loss, l2, weights
        self.copies = np.random.default_rng([seed, 2]).poisson(1.0, (members, rows))
        self.fits: list[Linear | None] = [None] * members

    def learn(self, history: History, rows: np.ndarray) -> None:
        """Fit every member to its bootstrap of all that was bought, from where it stood."""
        seen = history.seen
        for m, before in enumerate(self.fits):
            self.fits[m] = fit_weighted(
                history,
                self.loss,
                self.l2,
                copies=self.copies[m][seen],
                start=before,
                iterations=40,
                weights=self.weights,
            )

    def probabilities(self, history: History, rows: np.ndarray) -> Float[np.ndarray, "b k"]:
        """The spread of the members' values."""
        k = history.cost.shape[1]
        if self.fits[0] is None:
            return np.ones((len(rows), k))
        x = history.x[rows]
        kind = "softmax" if history.classes else self.loss
        values = [values_of(np.asarray(x @ f.weight) + f.intercept, kind)[:, -k:] for f in self.fits if f is not None]
        return np.clip(committee_spread(values), 0.0, 1.0)  # a squared surrogate may leave [0, 1]


def committee_spread(values: Sequence[Any]) -> Float[np.ndarray, "n k"]:
    r"""Disagreement of a committee: \(\max_m v_m - \min_m v_m\).

    Args:
        values: M arrays (N, K) of what each member holds each expert to be worth, in [0, 1].

    Guarantee: at least the disagreement of any two members; nothing about routers outside the committee.

    Example:
        >>> committee_spread([[[0.2, 0.8]], [[0.5, 0.5]]]).round(3).tolist()
        [[0.3, 0.3]]

    Reference: derived, after query by committee.
    """
    stack = np.asarray(values, dtype=np.float64)
    if stack.ndim != 3 or not np.isfinite(stack).all():
        raise InvalidInputError(f"`values` must be M finite arrays (N, K), got shape {stack.shape}")
    return stack.max(0) - stack.min(0)


def scale_to_budget(p: Any, budget: float, *, floor: float = 0.0, prices: Any = None) -> Float[np.ndarray, "n k"]:
    r"""A multiplier for probabilities so that the expected share of the money is the budget, by bisection.

    .. math:: \sum price_k\, clip(m\, p_{ik} / \sqrt{price_k},\, floor,\, 1) = b \sum price_k

    Args:
        p: (N, K) in [0, 1].
        budget: b, share of what asking everything would cost.
        floor: least probability, so that no weight exceeds 1 / floor; lowered to b where it alone costs more.
        prices: (K,) price of a query; None: all the same.

    Raises:
        InvalidInputError: for values out of range.

    Guarantee: the expected spend is the budget up to 1e-9 wherever p > 0 allows it; the saving that the theory proves
        is lost: all of the budget is spent.

    Example:
        >>> scale_to_budget([[0.1, 0.3]], 0.5).round(3).tolist()
        [[0.25, 0.75]]

    Reference: derived; dividing by the root of the price minimises a sum of variances p -> 1/p at a given spend.
    """
    given = np.asarray(p, dtype=np.float64)
    if given.ndim != 2 or not ((given >= 0) & (given <= 1)).all() or not 0 <= budget <= 1 or not 0 <= floor <= 1:
        raise InvalidInputError(f"`p`, `budget` and `floor` must lie in [0, 1], got {given.shape}, {budget}, {floor}")
    price = np.ones(given.shape[1]) if prices is None else np.asarray(prices, dtype=np.float64)
    if price.shape != given.shape[1:] or (price < 0).any() or not np.isfinite(price).all():
        raise InvalidInputError(f"`prices` must be {given.shape[1]} finite numbers of at least 0, got {prices!r}")
    wanted, free = budget * price.sum() * len(given), price == 0
    floor = min(floor, budget)
    base = given / np.sqrt(np.where(free, 1.0, price))
    if budget == 1 or not (base[:, ~free] > 0).any():
        return np.where(free, 1.0, np.full(given.shape, budget))

    def scaled(m: float) -> np.ndarray:
        return np.where(free, 1.0, np.clip(m * base, floor, 1.0))

    low, high = 0.0, 1.0 / base[base > 0].min()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if (scaled(middle) @ price).sum() > wanted else (middle, high)
    return scaled(low)


def fit_weighted(
    history: History,
    loss: str,
    l2: float,
    *,
    copies: np.ndarray | None = None,
    start: Linear | None = None,
    iterations: int = 100,
    weights: str = "inverse",
) -> Linear:
    """A linear router by the weighted surrogate of all that was bought; in two stages weights are scaled to mean one.

    Example:
        >>> history = History.of(np.array([[1.0], [-1.0]]), None, 2)
        >>> history.cost, history.asked, history.seen = np.eye(2), np.ones((2, 2), dtype=bool), np.arange(2)
        >>> history.probability = np.ones((2, 2))
        >>> (history.x @ fit_weighted(history, "compsum-log", 0.1).weight).argmax(1).tolist()
        [1, 0]
    """
    rows = history.seen
    base = history.weight[rows] if weights == "inverse" else history.known[rows].astype(np.float64)
    weight = base if copies is None else base * copies[:, None]
    if not weight.any():
        weight = base
    if not history.classes:  # in one stage the label's term has weight one, and the experts' must stay beside it
        weight = weight / (weight.sum() / max((weight > 0).sum(), 1))
    cost = np.where(weight > 0, np.nan_to_num(history.cost[rows]), 1.0)
    w, c = torch.from_numpy(weight), torch.from_numpy(cost)
    if history.classes:
        assert history.y is not None
        label = torch.nn.functional.one_hot(torch.from_numpy(history.y[rows]), history.classes).double()
        if copies is not None:
            label = label * torch.from_numpy(copies.astype(np.float64))[:, None]
        gains = torch.cat([label, w * (1 - c)], 1)

        def single(scores: Tensor) -> Tensor:
            return -(gains * torch.log_softmax(scores, 1)).sum(1).mean()

        objective: Callable[[Tensor], Tensor] = single
    else:

        def two(scores: Tensor) -> Tensor:
            return two_stage_loss(scores, c, kind=loss, cell_weight=w)

        objective = two
    outputs = history.classes + history.cost.shape[1]
    return fit_linear(history.x[rows], objective, outputs=outputs, l2=l2, start=start, iterations=iterations)
