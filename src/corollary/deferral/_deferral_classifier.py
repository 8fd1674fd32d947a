r"""`DeferralClassifier`: a linear classifier that may hand an input to one of J experts, trained in one stage.

Symbols and losses as in `_single_stage`. The surrogates are not convex: training starts from the minimiser of the
convex softmax baseline, goes to "log" and from there to the wanted member, and goes back to the last stage where the
deferral cost on the training rows got worse.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
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
from corollary.deferral._training import Linear, fit_linear
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
        l2: penalty on the weights, 1 / C in scikit-learn's terms.
        iterations: of L-BFGS at most, each stage.

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

    def __init__(self, *, loss: str = "mae", q: float = 0.7, l2: float = 1.0, iterations: int = 200) -> None:
        self.loss, self.q, self.l2, self.iterations = loss, q, l2, iterations

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
        if not hasattr(self, "coef_"):
            raise not_fitted(self, "scores")
        x, _ = validated(self, X)
        return np.asarray(x @ self.coef_) + self.intercept_

    def decide(self, X: Any, *, coverage: float | None = None) -> Int[np.ndarray, " n"]:
        """(N,) the expert for each input, -1 where the classifier keeps it.

        Args:
            X: (N, d) features.
            coverage: share of these inputs that the classifier keeps, the surest first; None: argmax.
        """
        h = self.scores(X)
        n = len(self.classes_)
        if self.n_experts_ == 0:
            return np.full(len(h), -1)
        margin = h[:, n:].max(1) - h[:, :n].max(1)
        away = margin > 0
        if coverage is not None:
            if not 0 <= coverage <= 1:
                raise InvalidInputError(f"`coverage` must lie in [0, 1], got {coverage}")
            away = np.ones(len(h), dtype=bool)
            away[np.argsort(margin, kind="stable")[: round(coverage * len(h))]] = False
        return np.where(away, h[:, n:].argmax(1), -1)

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

    def _solve(self, x: Any, y: torch.Tensor, c: torch.Tensor, stage: str, start: Linear | None) -> Linear:
        def loss(h: torch.Tensor) -> torch.Tensor:
            if stage in BASELINES:
                return BASELINES[stage](h, y, c)
            return single_stage_loss(h, y, c, psi=stage, q=self.q)

        outputs = len(self.classes_) + self.n_experts_
        return fit_linear(x, loss, outputs=outputs, l2=self.l2, start=start, iterations=self.iterations)


def _scores(x: Any, found: Linear) -> np.ndarray:
    return np.asarray(x @ found.weight) + found.intercept
