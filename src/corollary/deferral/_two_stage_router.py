r"""`TwoStageRouter`: a router between K given experts, learned from their costs.

Symbols and losses as in `_two_stage`. At decision time a price is set against the scores: the action is
\(\arg\max_k v_k(x) - \lambda\, price_k\) with \(v = \sigma(r)\) for the VALUE loss (an estimate of \(E[1 - c_k |
x]\)) and \(v = softmax(r)\) for the others (their policy).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator

from corollary.deferral._inputs import not_fitted, validated
from corollary.deferral._training import Linear, as_dense, fit_linear, fit_network, standard_network
from corollary.deferral._two_stage import PROPERTIES, properties, two_stage_cost, two_stage_loss
from corollary.deferral._worth import values_of
from corollary.errors import InvalidInputError


class TwoStageRouter(BaseEstimator):
    r"""Learn which of K experts to ask, from features and the experts' costs.

    .. math:: \min_r \frac1N \sum_i L(r(x_i), c_i), \qquad a(x) = \arg\max_k v_k(x) - \lambda\, price_k

    Args:
        loss: a kind of `two_stage_loss`. "compsum-log" by default; "value" where prices are set after training; "ec",
            "t1", "t2" where some router makes (almost) no mistakes.
        model: "linear" (sparse or dense features), "mlp", or a function `(d, K) -> torch.nn.Module` (dense features).
        q: exponent of "compsum-gce".
        l2: penalty on the weights, 1 / C in scikit-learn's terms.
        prices: (K,) price of each expert, in the unit of the costs; None: all zero.
        hidden: width of the two layers of "mlp".
        iterations: of L-BFGS at most.
        epochs, rate, optimizer, batch: for networks; "adam" or another name of `make_optimizer`, like "leon".
        seed: of networks.

    Raises:
        InvalidInputError: for features or costs of wrong shape, NaN, or an unknown loss or model.

    Guarantee: the loss's `properties`; they speak about all measurable routers, a trained one may be far from them.

    Example:
        >>> x = np.array([[1.0], [-1.0]] * 30); costs = np.array([[0.0, 1.0], [1.0, 0.0]] * 30)
        >>> router = TwoStageRouter(prices=[0.0, 1.0], l2=0.01).fit(x, costs)
        >>> router.predict(x[:2]).tolist(), router.route(x[:2], price=2.0).tolist()
        ([0, 1], [0, 0])

    Reference: Mao, C. Mohri, M. Mohri, Zhong (NeurIPS 2023); Mao, Mohri, Zhong (ICML 2025); reconstructed from
        abstracts and notes, may differ.
    """

    def __init__(
        self,
        *,
        loss: str = "compsum-log",
        model: str | Callable[[int, int], torch.nn.Module] = "linear",
        q: float = 0.7,
        l2: float = 2.0,
        prices: Any = None,
        hidden: int = 64,
        iterations: int = 100,
        epochs: int = 40,
        rate: float = 3e-3,
        optimizer: str = "adam",
        batch: int = 256,
        seed: int = 0,
    ) -> None:
        self.loss, self.model, self.q, self.l2, self.prices = loss, model, q, l2, prices
        self.hidden, self.iterations, self.epochs, self.rate, self.batch = hidden, iterations, epochs, rate, batch
        self.optimizer = optimizer
        self.seed = seed

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.target_tags.single_output = False
        return tags

    def fit(self, X: Any, costs: Any, *, cell_weight: Any = None) -> "TwoStageRouter":
        """Learn from N inputs and what every expert cost on them.

        Args:
            X: (N, d) features, dense or scipy sparse.
            costs: (N, K) in [0, 1]; NaN where the expert was not asked (weight 0 then).
            cell_weight: (N, K) weight of every cost, one over the probability that it was asked for; None: 1.
        """
        properties(self.loss)
        if costs is None:
            raise InvalidInputError("requires y to be passed, but the target y is None: give the costs of the experts")
        x, _ = validated(self, X, costs, wide=True)
        c, cells = checked_costs(costs, cell_weight, rows=x.shape[0])
        if cells is None and np.isnan(c).any():
            cells = np.where(np.isnan(c), 0.0, 1.0)
        self.n_experts_ = int(c.shape[1])
        self.prices_ = checked_prices(self.prices, self.n_experts_)
        target = torch.from_numpy(c)
        weight = None if cells is None else torch.from_numpy(cells)
        self.fallback_ = False
        if self.model == "linear":
            self._fit_linear(x, target, weight)
        else:
            self._fit_network(x, target, weight)
        return self

    def scores(self, X: Any) -> Float[np.ndarray, "n k"]:
        """(N, K) scores r."""
        if not hasattr(self, "n_experts_"):
            raise not_fitted(self, "scores")
        x, _ = validated(self, X)
        if self.model == "linear":
            return np.asarray(x @ self.coef_) + self.intercept_
        with torch.no_grad():
            return self.network_((as_dense(x) - self.mean_) / self.spread_).double().numpy()

    def values(self, X: Any) -> Float[np.ndarray, "n k"]:
        """(N, K) what each expert is worth before its price, in [0, 1]."""
        return values_of(self.scores(X), self.loss)

    def route(self, X: Any, *, price: float = 0.0) -> Int[np.ndarray, " n"]:
        """(N,) the expert for each input when a unit of `prices` weighs `price` units of quality."""
        return np.argmax(self.values(X) - price * self.prices_, axis=1)

    def predict(self, X: Any) -> Int[np.ndarray, " n"]:
        """(N,) the expert for each input, at price 0."""
        return self.route(X)

    def coverage(self, X: Any, *, price: float = 0.0) -> Float[np.ndarray, " k"]:
        """(K,) share of the inputs that each expert gets."""
        return np.bincount(self.route(X, price=price), minlength=self.n_experts_) / X.shape[0]

    def score(self, X: Any, costs: Any) -> float:
        """One minus the mean cost of the chosen experts."""
        chosen = np.asarray(costs)[np.arange(X.shape[0]), self.predict(X)]
        return 1.0 - float(np.mean(chosen))

    def _objective(self, target: torch.Tensor, weight: torch.Tensor | None, kind: str) -> Callable[..., torch.Tensor]:
        def loss(scores: torch.Tensor, rows: Any = slice(None)) -> torch.Tensor:
            cells = None if weight is None else weight[rows]
            c = target[rows].to(scores.dtype)
            return two_stage_loss(scores, c, kind=kind, q=self.q, cell_weight=cells)

        return loss

    def _fit_linear(self, x: Any, target: torch.Tensor, weight: torch.Tensor | None) -> None:

        def solve(kind: str, start: Linear | None = None) -> Linear:
            loss, k = self._objective(target, weight, kind), self.n_experts_
            return fit_linear(x, loss, outputs=k, l2=self.l2, start=start, iterations=self.iterations)

        convex = PROPERTIES[self.loss].convex
        found = solve(self.loss if convex else "compsum-log")
        if not convex:
            start, found = found, solve(self.loss, found)
            self.fallback_ = self._cost(x, found, target, weight) > self._cost(x, start, target, weight)
            found = start if self.fallback_ else found
        self.coef_, self.intercept_, self.n_iter_ = found.weight, found.intercept, found.iterations

    @staticmethod
    def _cost(x: Any, found: Linear, target: torch.Tensor, weight: torch.Tensor | None) -> float:
        chosen = np.argmax(np.asarray(x @ found.weight) + found.intercept, axis=1)
        rows = np.arange(len(chosen))
        cells = np.ones(len(chosen)) if weight is None else weight.numpy()[rows, chosen]
        return float(np.average(np.nan_to_num(target.numpy()[rows, chosen]), weights=cells)) if cells.any() else 0.0

    def _fit_network(self, x: Any, target: torch.Tensor, weight: torch.Tensor | None) -> None:
        dense = as_dense(x)
        self.mean_, self.spread_ = dense.mean(0), dense.std(0, correction=0).clamp_min(1e-6)
        soft = self._objective(target, weight, self.loss)
        filled = torch.nan_to_num(target, nan=1.0)
        with torch.random.fork_rng(devices=[]):  # initial weights and dropout follow the seed, the caller's state stays
            torch.manual_seed(self.seed)
            self.network_ = standard_network(self.model, self.n_features_in_, self.n_experts_, hidden=self.hidden)
            self._train(dense, soft, filled)

    def _train(self, dense: torch.Tensor, soft: Callable[..., torch.Tensor], filled: torch.Tensor) -> None:
        self.history_ = fit_network(
            self.network_,
            (dense - self.mean_) / self.spread_,
            soft,
            lambda s, rows: two_stage_cost(s, filled[rows].to(s.dtype)).item() + 1e-3 * soft(s, rows).item(),
            rate=self.rate,
            optimizer=self.optimizer,
            epochs=self.epochs,
            batch=self.batch,
            share=0.15,
            seed=self.seed,
        )


def checked_prices(prices: Any, k: int) -> Float[np.ndarray, " k"]:
    """(K,) finite prices of zero or more."""
    given = np.zeros(k) if prices is None else np.asarray(prices, dtype=np.float64)
    if given.shape != (k,) or not np.isfinite(given).all() or (given < 0).any():
        raise InvalidInputError(f"`prices` must be {k} finite numbers of at least 0, got {prices!r}")
    return given


def checked_costs(costs: Any, cell_weight: Any, *, rows: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(N, K) costs and weights that fit together."""
    c = np.asarray(costs, dtype=np.float64)
    if c.ndim != 2 or len(c) != rows or c.shape[1] < 2:
        raise InvalidInputError(f"`costs` must be ({rows}, K) with K >= 2 experts, got shape {c.shape}")
    seen = ~np.isnan(c)
    if not seen.any(0).all():
        raise InvalidInputError(f"expert {int(np.argmin(seen.any(0)))} has no cost at all; leave it out, or ask it")
    if (c[seen] < 0).any() or (c[seen] > 1).any():
        raise InvalidInputError("`costs` must lie in [0, 1]; divide all, prices included, by their largest value")
    if cell_weight is None:
        return c, None
    cells = np.asarray(cell_weight, dtype=np.float64)
    if cells.shape != c.shape or not np.isfinite(cells).all() or (cells < 0).any() or not cells.any():
        raise InvalidInputError("`cell_weight` must be finite, not negative, not all zero, and of the shape of `costs`")
    return c, np.where(seen, cells, 0.0)
