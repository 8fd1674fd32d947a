r"""`BudgetedDeferral`: learn to defer while paying only for the experts' costs that matter.

Rows are taken in the order given, block after block: a design turns what was bought so far into probabilities p, draws
are made from p alone by a generator of their own, and only what was drawn is bought. The router learns from weights
Q / p. Designs: `_version_space` (the theory), `_margin_ranges`, `_committee`; uniform beside each of them.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError as Unfitted
from sklearn.utils.validation import validate_data

from corollary.deferral._budgeted_designs import Finite, Margins, Uniform
from corollary.deferral._budgeted_history import Design, History
from corollary.deferral._committee import Committee, fit_weighted, scale_to_budget
from corollary.deferral._two_stage import properties
from corollary.deferral._two_stage_router import checked_prices
from corollary.deferral._worth import values_of
from corollary.errors import InvalidInputError, NotFittedError

METHODS = ("committee", "finite", "convex", "ellipsoid", "uniform", "full")
STAGES = ("two-stage", "single-stage")
Ask = Callable[[np.ndarray, np.ndarray], Any]


@runtime_checkable
class Market(Protocol):
    """Where costs are bought, for something that writes down its plans, as a ledger does.

    With a method `left(done) -> share` it also says how much of what asking everything about the rows from `done` on
    would cost is still there; else the estimator keeps the account by `prices`.

    Guarantee: none; the protocol.

    Example:
        >>> isinstance(object(), Market)
        False
    """

    def plan(self, number: int, rows: np.ndarray, p: np.ndarray, drawn: np.ndarray) -> tuple[Any, Any, Any]:
        """The rows, probabilities and draws of this round.

        Those given, those written down earlier, or the first of them where money ends (each row decided before its own
        draws are looked at); no row: the end.
        """

    def ask(self, rows: np.ndarray, experts: np.ndarray) -> Any:
        """(m,) costs in [0, 1] of pairs; NaN where none came back."""


class BudgetedDeferral(BaseEstimator):
    r"""Learn a router while buying only some of the experts' costs.

    .. math:: \min_r \sum_i \sum_k \frac{Q_{ik}}{p_{ik}} (1 - c_{ik})\, \ell(r, x_i, k),
              \qquad Q_{ik} \sim Bernoulli(p_{ik})

    Args:
        method: "committee" (any linear router; p is the spread of bootstrap members), "finite" (the theory, for the
            `candidates`), "convex" (two experts, exact ranges), "ellipsoid" (few features), "uniform", "full".
        stage: "two-stage" (experts only) or "single-stage" (labels and experts in one model; needs `y`).
        candidates: (R, d, K) weights of linear routers, or a function X -> (R, N, K) scores; in one stage labels first.
        loss: surrogate of the trained router, a kind of `two_stage_loss` (one stage: the logistic).
        weights: "inverse" (1 / p, unbiased for the risk of every router) or "equal": what was drawn depends on the
            input and on earlier answers only, so equal weights are consistent where the model fits, and vary less. Not
            for finite classes.
        bounded: "mae", "log" or "ec": the bounded loss of finite classes; "ec" where some candidate makes no mistakes.
        deviation: radius of finite classes: "azuma" (that of importance-weighted active learning), or "bernstein",
            which falls with what is still bought; both with the same guarantee.
        multiplier: \(C_0\), scales the theory's radius; 1 is the theorem's, .03 to .1 saves queries at a few thousand
            examples, without a guarantee.
        delta: probability that the finite theory fails.
        budget: share of the money that asking everything would cost; probabilities are scaled to spend it. None: p as
            the design gives it.
        prices: (K,) price of a query; None: all the same.
        floor: least p, so that no weight exceeds 1 / floor; 0 for finite classes.
        warm: rows bought in full at the start (not by finite classes and uniform).
        every: rows of a block; None: 1 for finite classes, 250 otherwise.
        members: of the committee.
        limit: bound on scores for the bounded logistic loss.
        l2, iterations: of the trained router.
        experts: K, where `costs` is a function and no prices tell it.
        compare: whether to fit uniform sampling at equal spend beside (needs an array of costs).
        seed: of the draws and the committee.

    Raises:
        InvalidInputError: for data that do not fit together, an unknown method, or a budget that the warm-up exceeds.

    Guarantee: "finite" with `multiplier` 1 (1/2 is enough), no budget, one example a block or any other blocks: with
        probability 1 - delta the best candidate is never removed and the chosen one is within \(2 \Delta_T\) of it
        (G1 to G3 of `_version_space`). Others: weights are unbiased while p > 0; nothing else.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(800, 2)); costs = np.stack([x[:, 0] > 0, x[:, 0] < 0], 1) * 1.0
        >>> model = BudgetedDeferral(warm=100, every=100, l2=0.1).fit(x, costs)
        >>> bool(model.share_ < 0.6), bool(model.cost(x, costs) < 0.05), model.uniform_.method
        (True, True, 'uniform')

    Reference: DeSalvo, C. Mohri, M. Mohri, Zhong, arXiv:2510.26706; abstract and a summary read, the rest derived from
        importance-weighted active learning, may differ.
    """

    def __init__(
        self,
        *,
        method: str = "committee",
        stage: str = "two-stage",
        candidates: Any = None,
        loss: str = "compsum-log",
        weights: str = "inverse",
        bounded: str = "mae",
        deviation: str = "azuma",
        multiplier: float = 0.05,
        delta: float = 0.05,
        budget: float | None = None,
        prices: Any = None,
        floor: float = 0.03,
        warm: int = 250,
        every: int | None = None,
        members: int = 8,
        limit: float = 5.0,
        l2: float = 2.0,
        iterations: int = 100,
        experts: int | None = None,
        compare: bool = True,
        seed: int = 0,
    ) -> None:
        self.method, self.stage, self.candidates, self.loss, self.bounded = method, stage, candidates, loss, bounded
        self.weights, self.deviation = weights, deviation
        self.multiplier, self.delta, self.budget, self.prices, self.floor = multiplier, delta, budget, prices, floor
        self.warm, self.every, self.members, self.limit, self.l2 = warm, every, members, limit, l2
        self.iterations, self.experts, self.compare, self.seed = iterations, experts, compare, seed

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.required = True
        return tags

    def fit(self, X: Any, costs: Any, y: Any = None) -> "BudgetedDeferral":
        """Buy costs and learn.

        Args:
            X: (N, d) features, dense or scipy sparse.
            costs: (N, K) in [0, 1], of which only what is drawn is looked at; or `(rows, experts) -> costs`, called
                with the pairs that were drawn; or a `Market`.
            y: (N,) labels, in one stage.
        """
        if costs is None:
            raise InvalidInputError("requires y to be passed, but the target y is None: give the costs of the experts")
        x = _features(self, X, reset=True)
        self._check()
        market, k = self._market(costs, x.shape[0])
        label = self._labels(y, x.shape[0])
        self.n_experts_ = k
        self.prices_ = checked_prices(np.ones(k) if self.prices is None else self.prices, k)
        if not self.prices_.any():
            raise InvalidInputError("all `prices` are zero: there is nothing to save; use method 'full'")
        history = History.of(x, label, k, classes=len(self.classes_))
        self.design_ = self._design(history)
        self._buy(history, market)
        self.asked_, self.probability_, self.costs_ = history.asked, history.probability, history.cost
        self.queries_ = int(history.asked.sum())
        self.spent_ = float((history.asked * self.prices_).sum())
        self.share_ = self.spent_ / float(self.prices_.sum() * len(history.asked))
        if isinstance(self.design_, Finite):
            self.chosen_, self.alive_ = self.design_.space.best, self.design_.space.alive.copy()
            self.radius_, self.survivors_ = np.array(self.design_.radii), np.array(self.design_.survivors)
        else:
            self._check_asked(history)
            found = fit_weighted(history, self.loss, self.l2, iterations=self.iterations, weights=self.weights)
            self.coef_, self.intercept_ = found.weight, found.intercept
        self.uniform_: BudgetedDeferral | None = None
        if self.compare and self.method not in ("uniform", "full") and not (callable(costs) or hasattr(costs, "ask")):
            settings = self.get_params() | {"method": "uniform", "budget": min(self.share_, 1.0), "compare": False}
            self.uniform_ = BudgetedDeferral(**settings).fit(X, costs, y)
        return self

    def scores(self, X: Any) -> Float[np.ndarray, "n k"]:
        """(N, K) scores; in one stage (N, labels + K), labels first."""
        if not hasattr(self, "n_experts_"):
            both = type("NotFittedError", (NotFittedError, Unfitted), {})  # scikit-learn knows its own
            raise both(self, "scores")
        x = _features(self, X, reset=False)
        if isinstance(self.design_, Finite):
            return self.design_.scores(x)[self.chosen_]
        return np.asarray(x @ self.coef_) + self.intercept_

    def values(self, X: Any) -> Float[np.ndarray, "n k"]:
        """(N, K) what each expert (in one stage also each label) is worth, in [0, 1]."""
        scores = self.scores(X)
        policy = isinstance(self.design_, Finite) or self.stage == "single-stage"
        return values_of(scores, "softmax" if policy else self.loss)

    def predict(self, X: Any) -> Int[np.ndarray, " n"]:
        """(N,) the action: an expert's index; in one stage a label's index, or labels + expert."""
        return np.argmax(self.scores(X), axis=1)

    def cost(self, X: Any, costs: Any, y: Any = None) -> float:
        """Mean deferral cost: of the chosen experts, and in one stage the errors of the labels predicted."""
        action, c = self.predict(X), np.asarray(costs, dtype=np.float64)
        n = len(self.classes_)
        paid = c[np.arange(len(action)), np.maximum(action - n, 0)]
        if not n:
            return float(paid.mean())
        wrong = self.classes_[np.minimum(action, n - 1)] != np.asarray(y)
        return float(np.where(action < n, wrong, paid).mean())

    def report(self, X: Any, costs: Any, y: Any = None) -> dict[str, dict[str, float]]:
        """This and uniform sampling at equal spend, on other rows: queries, share of the money, mean deferral cost."""
        rows = {self.method: self} | ({"uniform": self.uniform_} if self.uniform_ is not None else {})
        return {
            name: {"queries": float(m.queries_), "share": m.share_, "cost": m.cost(X, costs, y)}
            for name, m in rows.items()
        }

    def _buy(self, history: History, market: Market) -> None:
        total, block = history.cost.shape[0], self.every or (1 if self.method == "finite" else 250)
        whole = self.prices_.sum()
        money = np.inf if self.budget is None else self.budget * whole * total
        draws = np.random.default_rng([self.seed, 1])
        warm = self.warm if self.method not in ("finite", "uniform", "full") else 0
        left = getattr(market, "left", None)
        if left is None and money < warm * whole:
            raise InvalidInputError(
                f"the budget buys {money / whole:.0f} rows in full, fewer than the warm-up of {warm}; lower `warm`"
            )
        done, number = 0, 0
        while done < total:
            rows = np.arange(done, min(done + (warm if done == 0 and warm else block), total))
            share = money / (whole * (total - done)) if left is None else left(done)
            p = self._probabilities(history, rows, in_full=done < warm, share=share)
            drawn = draws.random(p.shape) < p
            kept, p, drawn = (np.asarray(a) for a in market.plan(number, rows, p, drawn))
            history.probability[kept], history.asked[kept] = p, drawn
            i, j = np.nonzero(drawn)
            if len(i):
                history.cost[kept[i], j] = _checked(market.ask(kept[i], j), len(i))
            money -= float((drawn * self.prices_).sum())
            history.seen = np.arange(done + len(kept))
            if not len(kept):
                break
            self.design_.learn(history, kept)
            done, number = done + len(kept), number + 1

    def _probabilities(self, history: History, rows: np.ndarray, *, in_full: bool, share: float) -> np.ndarray:
        if in_full or self.method == "full":
            return np.ones((len(rows), self.n_experts_))
        p = self.design_.probabilities(history, rows)
        floor = 0.0 if self.method == "finite" and self.budget is None else self.floor
        if self.budget is None:
            return np.clip(p, floor, 1.0)
        return scale_to_budget(p, float(np.clip(share, 0.0, 1.0)), floor=floor, prices=self.prices_)

    def _design(self, history: History) -> Design:
        shared: dict[str, Any] = {"delta": self.delta, "multiplier": self.multiplier}
        if self.candidates is not None:
            more: dict[str, Any] = {"experts": self.n_experts_, "stage": self.stage, "kind": self.bounded}
            more["deviation"] = self.deviation
            if self.method not in ("finite", "uniform", "full"):
                raise InvalidInputError(f"`candidates` are for the method 'finite', got {self.method!r}")
            return Finite(self.candidates, prune=self.method == "finite", **more, **shared)
        if self.method == "finite":
            raise InvalidInputError("method 'finite' needs `candidates`: (R, d, K) weights, or a function of X")
        if self.method in ("convex", "ellipsoid"):
            if history.classes:
                raise InvalidInputError(f"method {self.method!r} is for two stages; use 'committee' or 'finite'")
            return Margins(exact=self.method == "convex", l2=self.l2, limit=self.limit, **shared)
        if self.method == "committee":
            rows = history.cost.shape[0]
            more = {"l2": self.l2, "rows": rows, "seed": self.seed, "weights": self.weights}
            return Committee(members=self.members, loss=self.loss, **more)
        return Uniform()

    def _check(self) -> None:
        properties(self.loss)
        if self.method not in METHODS or self.stage not in STAGES:
            raise InvalidInputError(
                f"`method` is one of {', '.join(METHODS)} and `stage` of {', '.join(STAGES)}, got {self.method!r}, "
                f"{self.stage!r}"
            )
        if self.weights not in ("inverse", "equal") or (self.weights == "equal" and self.candidates is not None):
            raise InvalidInputError(f"`weights` is 'inverse', or 'equal' for trained routers, got {self.weights!r}")
        if self.loss == "t1":
            raise InvalidInputError("`t1` needs all costs of a row; choose another loss")
        if self.budget is not None and not 0 < self.budget <= 1:
            raise InvalidInputError(f"`budget` is a share of the full price in (0, 1], got {self.budget}")
        if self.method == "uniform" and self.budget is None:
            raise InvalidInputError("method 'uniform' needs a `budget`: the probability of every query")
        if not 0 <= self.floor < 1 or self.warm < 0 or (self.every is not None and self.every < 1) or self.members < 2:
            raise InvalidInputError("0 <= floor < 1, warm >= 0, every >= 1 and members >= 2 are needed")
        if self.floor == 0 and self.method not in ("finite", "uniform", "full"):
            raise InvalidInputError("`floor` must be positive: with p = 0 nothing corrects a wrong committee")

    def _market(self, costs: Any, rows: int) -> tuple[Market, int]:
        if isinstance(costs, Market):
            return costs, self._experts()
        if callable(costs):
            return _Asked(costs), self._experts()
        c = np.asarray(costs, dtype=np.float64)
        if c.ndim != 2 or len(c) != rows or c.shape[1] < (1 if self.stage == "single-stage" else 2):
            raise InvalidInputError(f"`costs` must be ({rows}, K), got shape {c.shape}")
        return _Asked(lambda i, j: c[i, j]), c.shape[1]

    def _experts(self) -> int:
        if self.experts is None and self.prices is None:
            raise InvalidInputError("a function of costs does not tell how many experts there are; give `experts`")
        return int(self.experts) if self.experts is not None else len(self.prices)

    def _labels(self, y: Any, rows: int) -> np.ndarray | None:
        if self.stage == "two-stage":
            self.classes_ = np.zeros(0)
            return None
        labels = np.asarray(y)
        if y is None or labels.shape != (rows,):
            raise InvalidInputError(
                f"one stage needs `y` of shape ({rows},), got {None if y is None else labels.shape}"
            )
        self.classes_, index = np.unique(labels, return_inverse=True)
        return index

    def _check_asked(self, history: History) -> None:
        lacking = np.flatnonzero(~history.known.any(0))
        if len(lacking):
            raise InvalidInputError(f"expert {lacking[0]} gave no cost at all; raise the budget, `warm` or `floor`")


class _Asked:
    """A function of pairs as a market without a memory."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask

    def plan(self, number: int, rows: np.ndarray, p: np.ndarray, drawn: np.ndarray) -> tuple[Any, Any, Any]:
        return rows, p, drawn


def _features(estimator: BaseEstimator, X: Any, *, reset: bool) -> Any:
    """(N, d) finite features as scikit-learn checks them, sparse ones as CSR."""
    try:
        return validate_data(estimator, X, reset=reset, accept_sparse="csr", dtype=np.float64)
    except ValueError as problem:
        told = str(problem)
        raise InvalidInputError(told if "X" in told else f"`X` cannot be used: {told}") from None


def _checked(costs: Any, count: int) -> np.ndarray:
    c = np.asarray(costs, dtype=np.float64)
    if c.shape != (count,):
        raise InvalidInputError(f"{count} costs were asked for, got shape {c.shape}")
    seen = c[~np.isnan(c)]
    if not ((seen >= 0) & (seen <= 1)).all():
        raise InvalidInputError("costs must lie in [0, 1]; divide all of them by their largest possible value")
    return c
