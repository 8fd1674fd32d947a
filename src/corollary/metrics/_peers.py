r"""What METRO is compared with, as binary scikit-learn estimators on the same linear class.

- `PlainClassifier`: the surrogate at threshold 0.
- `PlugInClassifier`: \(\eta\) estimated, then the threshold that maximises the metric on validation rows. Algorithm 1
  of Koyejo et al. (NeurIPS 2014) where `validation=0.5`; cross-validated where it is a number of folds.
- `WeightedGridClassifier`: Algorithm 2 of Koyejo et al.: errors weighted (1 - delta, delta) on a grid of delta; with
  `grid="f-beta"` the costs (1 + beta^2 - t, t) of Parambath, Usunier and Grandvalet (NeurIPS 2014).
- `BisectionPlugIn`: Narasimhan et al. (ICML 2015): bisection on M with plug-in \(\eta\),
  h = 1[eta c_FN > (1-eta) c_FP].
- `SoftMetricClassifier`: the metric of soft counts, amplified by A(p) = 1/(1 + exp(-L(p - 1/2))): AnyLoss (Han, Moniz
  and Chawla, KDD 2024); L=None is the home-made soft-F1, A(p) = p.

Fidelity: reconstructed from abstracts and notes, may differ; all share our solver, so that only the method differs.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from corollary.errors import InvalidInputError
from corollary.metrics._linear import LinearProblem
from corollary.metrics._metric import Costs, LinearFractionalMetric, confusion, get_metric
from corollary.metrics._metro import Fold, make_folds
from corollary.metrics._posterior import weighted_posterior
from corollary.metrics._search import bisect_search
from corollary.metrics._targets import encode_targets
from corollary.metrics._threshold import best_threshold

PLAIN = Costs(1.0, 1.0)
STEPS = 300  # of the descent on soft counts, which is not convex and may crawl


class _LinearPeer(ClassifierMixin, BaseEstimator):
    """Shared by the peers: checks, the linear class, prediction at an offset; children say how to `_choose`."""

    metric: Any
    l2: float
    tol: float
    validation: Any
    seed: int

    def fit(self, X: Any, y: Any) -> "_LinearPeer":
        """Fit on (n, p) features and (n,) labels of two classes."""
        metric = get_metric(self.metric)
        X, y = validate_data(self, X, y, dtype=np.float64)
        Y, self.classes_, kind = encode_targets(y)
        if kind != "binary":
            raise InvalidInputError("Only binary classification is supported. This peer takes two classes; use METRO")
        truth = Y[:, 0]
        self.theta_, self.offset_ = self._choose(metric, X, truth)
        self.coef_, self.intercept_ = self.theta_[None, :-1], self.theta_[-1:] - self.offset_
        return self

    def _choose(self, metric: LinearFractionalMetric, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
        raise NotImplementedError

    def _problem(self, X: np.ndarray, y: np.ndarray) -> LinearProblem:
        return LinearProblem(X, y, l2=self.l2, tol=self.tol)

    def _folds(self, X: np.ndarray, y: np.ndarray) -> list[Fold]:
        folds = make_folds(self.validation, X, y[:, None], seed=self.seed)
        return folds or [(np.arange(len(y)), np.arange(len(y)))]

    def _out_of_fold(self, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Plain scores of validation rows, and their truth."""
        scores, truth = [], []
        for train, test in self._folds(X, y):
            problem = self._problem(X[train], y[train])
            scores.append(problem.score(X[test], problem.solve(PLAIN)))
            truth.append(y[test])
        return np.concatenate(scores), np.concatenate(truth)

    def decision_function(self, X: Any) -> Float[np.ndarray, " n"]:
        """(n,) scores; above 0 the larger label is predicted."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return X @ self.coef_[0] + self.intercept_[0]

    def predict(self, X: Any) -> np.ndarray:
        """(n,) labels."""
        positive = self.decision_function(X) > 0
        return self.classes_[positive.astype(np.int64)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


class PlainClassifier(_LinearPeer):
    """The logistic surrogate at threshold 0: what everybody does first.

    Guarantee: none for metrics other than accuracy.

    Example:
        >>> PlainClassifier().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]).predict([[3.0]]).tolist()
        [1]
    """

    def __init__(self, metric: Any = "f1", *, l2: float = 1e-4, tol: float = 1e-5) -> None:
        self.metric = metric
        self.l2 = l2
        self.tol = tol

    def _choose(self, metric: LinearFractionalMetric, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
        return self._problem(X, y).solve(PLAIN), 0.0


class PlugInClassifier(_LinearPeer):
    """A logistic fit, and the threshold that is best on validation rows (a tuned threshold).

    Args:
        metric: what the threshold maximises.
        validation: folds, a share (0.5: Koyejo's Algorithm 1), a splitter, or None.
        refit: fit on all rows afterwards; Algorithm 1 does not.
        l2, tol: of the linear solver.
        seed: of the folds.

    Guarantee: consistent over all measurable classifiers (Koyejo et al. 2014); none for a restricted class.

    Example:
        >>> PlugInClassifier(validation=None).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]).predict([[3.0]]).tolist()
        [1]
    """

    def __init__(
        self,
        metric: Any = "f1",
        *,
        validation: Any = 5,
        refit: bool = True,
        l2: float = 1e-4,
        tol: float = 1e-5,
        seed: int = 0,
    ) -> None:
        self.metric = metric
        self.validation = validation
        self.refit = refit
        self.l2 = l2
        self.tol = tol
        self.seed = seed

    def _choose(self, metric: LinearFractionalMetric, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
        scores, truth = self._out_of_fold(X, y)
        cut, _ = best_threshold(metric, truth, scores)
        rows = np.arange(len(y)) if self.refit else self._folds(X, y)[0][0]
        return self._problem(X[rows], y[rows]).solve(PLAIN), cut


class WeightedGridClassifier(_LinearPeer):
    """A grid of error weights, the best kept on validation rows.

    Args:
        metric: what validation measures.
        grid: `"delta"`, weights (1 - delta, delta) (Koyejo's Algorithm 2), or `"f-beta"`, weights
            (1 + beta^2 - t, t) with t in (0, 1 + beta^2) (Parambath).
        beta: of the `"f-beta"` grid.
        steps: grid points.
        validation: folds, a share, a splitter, or None.
        l2, tol: of the linear solver.
        seed: of the folds.

    Guarantee: consistent over all measurable classifiers (Koyejo et al. 2014, Parambath et al. 2014).

    Example:
        >>> X, y = [[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]
        >>> WeightedGridClassifier(validation=None, steps=5).fit(X, y).predict([[3.0]]).tolist()
        [1]
    """

    def __init__(
        self,
        metric: Any = "f1",
        *,
        grid: str = "delta",
        beta: float = 1.0,
        steps: int = 25,
        validation: Any = 5,
        l2: float = 1e-4,
        tol: float = 1e-5,
        seed: int = 0,
    ) -> None:
        self.metric = metric
        self.grid = grid
        self.beta = beta
        self.steps = steps
        self.validation = validation
        self.l2 = l2
        self.tol = tol
        self.seed = seed

    def _weights(self) -> list[Costs]:
        share = np.linspace(0.98, 0.02, self.steps)
        if self.grid == "delta":
            return [Costs(1 - d, d).scaled() for d in share]
        if self.grid == "f-beta":
            whole = 1 + self.beta**2
            return [Costs(whole - t, t).scaled() for t in whole * share]
        raise InvalidInputError(f"`grid` must be 'delta' or 'f-beta', got {self.grid!r}")

    def _choose(self, metric: LinearFractionalMetric, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
        grid = self._weights()
        counts = np.zeros((len(grid), 4))
        for train, test in self._folds(X, y):
            problem = self._problem(X[train], y[train])
            for i, costs in enumerate(grid):
                counts[i] += confusion(y[test], problem.score(X[test], problem.solve(costs)) > 0)
        self.costs_ = grid[int(np.argmax(metric.value(counts)))]
        return self._problem(X, y).solve(self.costs_), 0.0


class BisectionPlugIn(_LinearPeer):
    """Bisection on the level with plugged-in probabilities (Narasimhan et al. 2015).

    Args:
        metric: what is maximised.
        validation: rows on which the level is compared with the metric: a share, folds, a splitter, or None.
        l2, tol: of the linear solver.
        seed: of the folds.

    Guarantee: consistent over all measurable classifiers (Narasimhan et al. 2015); none for a restricted class.

    Example:
        >>> BisectionPlugIn(validation=None).fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]).predict([[3.0]]).tolist()
        [1]
    """

    def __init__(
        self, metric: Any = "f1", *, validation: Any = 5, l2: float = 1e-4, tol: float = 1e-5, seed: int = 0
    ) -> None:
        self.metric = metric
        self.validation = validation
        self.l2 = l2
        self.tol = tol
        self.seed = seed

    def _choose(self, metric: LinearFractionalMetric, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
        scores, truth = self._out_of_fold(X, y)
        prevalence = float(y.mean())

        def cut(level: float) -> float:
            t = float(np.clip(metric.bayes_threshold(level, prevalence=prevalence), 1e-12, 1 - 1e-12))
            return float(np.log(t / (1 - t)))

        low, high = metric.span(prevalence)
        found = bisect_search(
            lambda level: float(metric.value(confusion(truth, scores > cut(level)), undefined="zero")),
            low,
            high,
            tol=1e-5,
        )
        self.level_ = sum(found.bracket) / 2
        return self._problem(X, y).solve(PLAIN), cut(self.level_)


class SoftMetricClassifier(_LinearPeer):
    r"""The metric of soft counts, maximised directly: AnyLoss, or soft-F1 where `amplify` is None.

    .. math:: \max_{w} M(\text{TP} = \text{mean}(A y), \dots), \quad A = 1 / (1 + e^{-L(\sigma(w \cdot x) - 1/2)})

    Args:
        metric: any linear-fractional metric.
        amplify: L; 10 is steep enough and still has gradients, 73 is what is usually quoted [recalled].
        l2, tol: of the linear solver that starts it, and of the descent.

    Guarantee: none; not convex, started from the logistic fit.

    Example:
        >>> SoftMetricClassifier().fit([[0.0], [1.0], [2.0], [3.0]], [0, 0, 1, 1]).predict([[3.0]]).tolist()
        [1]
    """

    def __init__(
        self, metric: Any = "f1", *, amplify: float | None = 10.0, l2: float = 1e-4, tol: float = 1e-5
    ) -> None:
        self.metric = metric
        self.amplify = amplify
        self.l2 = l2
        self.tol = tol

    def _choose(self, metric: LinearFractionalMetric, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
        from scipy.optimize import minimize

        start = self._problem(X, y).solve(PLAIN)
        scale = np.append(np.maximum(X.std(0), 1e-12), 1.0)
        above, below = metric.rows(float(y.mean()))
        truth, penalty = y.astype(np.float64), np.append(np.full(X.shape[1], self.l2), 0.0)

        def objective(v: np.ndarray) -> tuple[float, np.ndarray]:
            theta = v / scale
            a, slope = self._soft(X @ theta[:-1] + theta[-1])
            tp, fp = float(truth @ a) / len(a), float((1 - truth) @ a) / len(a)
            pi = truth.mean()
            cells = np.array([tp, fp, pi - tp, 1 - pi - fp])
            n, d = above @ cells, below @ cells
            by_cell = (above * d - below * n) / d**2
            by_a = np.where(y, by_cell[0] - by_cell[2], by_cell[1] - by_cell[3]) * slope / len(a)
            gradient = -np.append(by_a @ X, by_a.sum()) + penalty * theta
            return float(-n / d + (penalty * theta) @ theta / 2), gradient / scale

        found = minimize(
            objective, start * scale, jac=True, method="L-BFGS-B", options={"gtol": self.tol, "maxiter": STEPS}
        )
        return found.x / scale, 0.0

    def _soft(self, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Soft decisions and their slope in the score."""
        p = weighted_posterior(score, "logistic")
        if self.amplify is None:
            return p, p * (1 - p)
        a = weighted_posterior(self.amplify * (p - 0.5), "logistic")
        return a, self.amplify * a * (1 - a) * p * (1 - p)
