r"""`DeferralClassifier`: a classifier that may hand an input to one of J experts, trained in one stage.

Symbols and losses as in `_single_stage`. The surrogates are not convex: training starts from the minimiser of the
convex softmax baseline, goes to "log" and from there to the wanted member, and goes back to the last stage where the
deferral cost on the training rows got worse. Networks go from "log" to the wanted member, by the cost on held-out rows.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets

from corollary.deferral._inputs import not_fitted, validated
from corollary.deferral._single_stage import (
    PSI,
    one_versus_all_deferral_loss,
    single_stage_cost,
    single_stage_loss,
    softmax_deferral_loss,
)
from corollary.deferral._training import Linear, as_dense, fit_linear, fit_network, standard_network
from corollary.errors import InvalidInputError

BASELINES: dict[str, Callable[..., torch.Tensor]] = {
    "softmax": softmax_deferral_loss,
    "one-versus-all": one_versus_all_deferral_loss,
}


class DeferralClassifier(ClassifierMixin, BaseEstimator):
    r"""Predict a label, or defer to one of J experts.

    .. math:: \min_h \frac1N \sum_i L(h(x_i), y_i, c_i), \qquad a(x) = \arg\max_k h_k(x)

    Args:
        loss: "mae" (Bayes-consistent and realizable), "log", "gce" (realizable), or a baseline: "softmax",
            "one-versus-all".
        q: exponent of "gce".
        model: "linear" (sparse or dense features), "mlp", or a function `(d, classes + J) -> torch.nn.Module`.
        l2: penalty on the weights of the linear model, 1 / C in scikit-learn's terms.
        iterations: of L-BFGS at most, each stage.
        hidden, epochs, rate, optimizer, batch, seed: of networks, as in `TwoStageRouter`; epochs of each stage.

    Raises:
        InvalidInputError: for features, labels or costs that do not fit together, NaN, or an unknown loss.

    Guarantee: the loss's, see `single_stage_loss`; a trained linear classifier may be far from it.

    Example:
        >>> x = np.array([[-1.0], [1.0]] * 20)
        >>> y = np.array(["a", "b"] * 20)
        >>> costs = np.array([[1.0], [0.0]] * 20)  # the expert is good where x > 0
        >>> model = DeferralClassifier(l2=0.01).fit(x, y, costs=costs)
        >>> model.predict(x[:1]).tolist(), bool(model.cost(x, y, costs) < 0.01)
        (['a'], True)

    Reference: as `single_stage_loss`.
    """

    def __init__(
        self,
        *,
        loss: str = "mae",
        q: float = 0.7,
        model: str | Callable[[int, int], torch.nn.Module] = "linear",
        l2: float = 1.0,
        iterations: int = 200,
        hidden: int = 64,
        epochs: int = 40,
        rate: float = 3e-3,
        optimizer: str = "adam",
        batch: int = 256,
        seed: int = 0,
    ) -> None:
        self.loss, self.q, self.model, self.l2, self.iterations = loss, q, model, l2, iterations
        self.hidden, self.epochs, self.rate, self.batch, self.seed = hidden, epochs, rate, batch, seed
        self.optimizer = optimizer

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: Any, *, costs: Any = None) -> "DeferralClassifier":
        """Learn from N inputs, their labels, and what every expert cost on them.

        Args:
            X: (N, d) features, dense or scipy sparse.
            y: (N,) labels.
            costs: (N, J) in [0, 1]; None: no experts.
        """
        if self.loss not in (*PSI, *BASELINES):
            raise InvalidInputError(f"`loss` must be one of {', '.join((*PSI, *BASELINES))}, got {self.loss!r}")
        if y is None:
            raise InvalidInputError("requires y to be passed, but the target y is None: give the labels of `X`")
        x, labels = validated(self, X, y)
        check_classification_targets(labels)
        c = np.zeros((len(labels), 0)) if costs is None else np.asarray(costs, dtype=np.float64)
        self.classes_, index = np.unique(labels, return_inverse=True)
        self.n_experts_ = int(c.shape[-1])
        if len(self.classes_) + self.n_experts_ < 2:
            raise InvalidInputError("one class and no expert leave nothing to learn; give another class, or an expert")
        target, given = torch.from_numpy(index.astype(np.int64)), torch.from_numpy(c)
        if self.model != "linear":
            self._fit_network(x, target, given)
            return self
        path = [self.loss] if self.loss in BASELINES else list(dict.fromkeys(["softmax", "log", self.loss]))
        found, best, self.stage_ = None, np.inf, ""
        for stage in path:
            tried = self._solve(x, target, given, stage, found)
            paid = single_stage_cost(torch.from_numpy(_scores(x, tried)), target, given).item()
            if found is None or paid <= best:
                found, best, self.stage_ = tried, paid, stage
        assert found is not None
        self.coef_, self.intercept_, self.n_iter_ = found.weight, found.intercept, max(found.iterations, 1)
        return self

    def scores(self, X: Any) -> Float[np.ndarray, "n k"]:
        """(N, classes + experts) scores h."""
        if not hasattr(self, "classes_"):
            raise not_fitted(self, "scores")
        x, _ = validated(self, X)
        if self.model != "linear":
            with torch.no_grad():
                return self.network_((as_dense(x) - self.mean_) / self.spread_).double().numpy()
        return np.asarray(x @ self.coef_) + self.intercept_

    def decide(self, X: Any, *, coverage: float | None = None, price: Any = 0.0) -> Int[np.ndarray, " n"]:
        """(N,) the expert for each input, -1 where the classifier keeps it.

        Args:
            X: (N, d) features.
            coverage: share of these inputs that the classifier keeps, the surest first; None: argmax.
            price: taken off the experts' probabilities, one for all or (J,); 0 is the rule that was trained.
        """
        h = self.scores(X)
        n = len(self.classes_)
        if self.n_experts_ == 0:
            return np.full(len(h), -1)
        paid = np.broadcast_to(np.asarray(price, dtype=np.float64), (self.n_experts_,))
        if paid.any():
            h = softmax(h, axis=1)
            h[:, n:] -= paid
        margin = h[:, n:].max(1) - h[:, :n].max(1)
        away = margin > 0
        if coverage is not None:
            if not 0 <= coverage <= 1:
                raise InvalidInputError(f"`coverage` must lie in [0, 1], got {coverage}")
            away = np.ones(len(h), dtype=bool)
            away[np.argsort(margin, kind="stable")[: round(coverage * len(h))]] = False
        return np.where(away, h[:, n:].argmax(1), -1)

    def coverage(self, X: Any, *, price: Any = 0.0) -> Float[np.ndarray, " k"]:
        """(1 + J,) share of the inputs that the classifier keeps, and that each expert gets."""
        away = self.decide(X, price=price)
        return np.bincount(away + 1, minlength=1 + self.n_experts_) / len(away)

    def predict(self, X: Any) -> np.ndarray:
        """(N,) the classifier's own label for each input, deferred or not."""
        h = self.scores(X)
        return self.classes_[h[:, : len(self.classes_)].argmax(1)]

    def cost(self, X: Any, y: Any, costs: Any) -> float:
        """Mean deferral cost of the whole system: error where it predicts, the expert's cost where it defers."""
        away = self.decide(X)
        wrong = (self.predict(X) != np.asarray(y)).astype(np.float64)
        paid = np.asarray(costs, dtype=np.float64)[np.arange(len(away)), away] if self.n_experts_ else wrong
        return float(np.where(away >= 0, paid, wrong).mean())

    def _objective(self, y: torch.Tensor, c: torch.Tensor, stage: str) -> Callable[..., torch.Tensor]:
        def loss(h: torch.Tensor, rows: Any = slice(None)) -> torch.Tensor:
            costs = c[rows].to(h.dtype)
            if stage in BASELINES:
                return BASELINES[stage](h, y[rows], costs)
            return single_stage_loss(h, y[rows], costs, psi=stage, q=self.q)

        return loss

    def _fit_network(self, x: Any, y: torch.Tensor, c: torch.Tensor) -> None:
        dense = as_dense(x)
        self.mean_, self.spread_ = dense.mean(0), dense.std(0, correction=0).clamp_min(1e-6)
        dense = (dense - self.mean_) / self.spread_
        path = [self.loss] if self.loss in BASELINES else list(dict.fromkeys(["log", self.loss]))
        best: dict[str, torch.Tensor] = {}
        least, self.stage_ = np.inf, ""

        def held_out(h: torch.Tensor, rows: torch.Tensor) -> float:
            return single_stage_cost(h, y[rows], c[rows].to(h.dtype)).item()

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            outputs = len(self.classes_) + self.n_experts_
            self.network_ = standard_network(self.model, dense.shape[1], outputs, hidden=self.hidden)
            for stage in path:  # from the last one's best weights
                history = fit_network(
                    self.network_, dense, self._objective(y, c, stage), held_out,
                    rate=self.rate, optimizer=self.optimizer, epochs=self.epochs, batch=self.batch, share=0.15,
                    seed=self.seed,
                )  # fmt: skip
                if min(history) < least:
                    least, self.stage_ = min(history), stage
                    best = {k: v.clone() for k, v in self.network_.state_dict().items()}
        self.network_.load_state_dict(best)
        self.network_.eval()

    def _solve(self, x: Any, y: torch.Tensor, c: torch.Tensor, stage: str, start: Linear | None) -> Linear:
        loss = self._objective(y, c, stage)
        outputs = len(self.classes_) + self.n_experts_
        return fit_linear(x, loss, outputs=outputs, l2=self.l2, start=start, iterations=self.iterations)


def _scores(x: Any, found: Linear) -> np.ndarray:
    return np.asarray(x @ found.weight) + found.intercept
