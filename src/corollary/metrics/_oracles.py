"""Cost-sensitive oracles: what trains at given costs. The built-in linear one, scikit-learn estimators, torch modules.

An oracle stands on fixed rows: `solve(costs)` gives a model, `score(X, model)` its scores, positive for the positive
class, `posterior(score)` the class probability under the costs (None where scores say nothing about it).
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError
from corollary.metrics._linear import LinearProblem
from corollary.metrics._metric import Costs
from corollary.metrics._posterior import PROPER, weighted_posterior


@runtime_checkable
class Oracle(Protocol):
    """What a search needs of a learner."""

    def solve(self, costs: Costs) -> Any:
        """A model trained with these costs."""

    def score(self, X: Any, model: Any) -> np.ndarray:
        """(n,) scores, above 0 for the positive class."""

    def posterior(self, score: np.ndarray) -> np.ndarray | None:
        """(n,) probabilities of the positive class under the costs trained with."""

    def forget_rows(self) -> None:
        """Let the training rows go; scores are still given."""


class LinearOracle(LinearProblem):
    """`LinearProblem` as an oracle."""

    def posterior(self, score: np.ndarray) -> np.ndarray | None:
        """The inverse link of the surrogate, where it has one."""
        return weighted_posterior(score, self.surrogate) if self.surrogate in PROPER else None


class EstimatorOracle:
    """Any scikit-learn classifier whose `fit` takes `sample_weight`: a clone is trained at every level.

    Args:
        estimator: the classifier; it stays as it is.
        X, y: rows, and truth (positive where larger than 0).
        sample_weight: (n,) weights that multiply the costs.

    Raises:
        InvalidInputError: where `fit` takes no `sample_weight`.
    """

    def __init__(self, estimator: Any, X: Any, y: ArrayLike, *, sample_weight: ArrayLike | None = None) -> None:
        from sklearn.utils.validation import has_fit_parameter

        if not has_fit_parameter(estimator, "sample_weight"):
            raise InvalidInputError(
                f"{type(estimator).__name__}.fit takes no `sample_weight`, which carries the costs; "
                "give an estimator that does, or leave `estimator=None` for the built-in linear one"
            )
        self.estimator, self.X, self.positive = estimator, X, np.asarray(y) > 0
        self.weight = np.ones(len(self.positive)) if sample_weight is None else np.asarray(sample_weight)

    def solve(self, costs: Costs) -> Any:
        """A fitted clone."""
        from sklearn.base import clone

        weight = self.weight * np.where(self.positive, costs.fn, costs.fp)
        return clone(self.estimator).fit(self.X, self.positive.astype(np.int64), sample_weight=weight)

    def score(self, X: Any, model: Any) -> Float[np.ndarray, " n"]:
        """Log-odds where the model has probabilities, else its decision function, else -1 or 1."""
        if hasattr(model, "predict_proba"):
            p = np.clip(model.predict_proba(X)[:, 1].astype(np.float64), 1e-15, 1 - 1e-15)
            return np.log(p) - np.log1p(-p)
        if hasattr(model, "decision_function"):
            return np.asarray(model.decision_function(X), dtype=np.float64)
        return np.where(np.asarray(model.predict(X)) > 0, 1.0, -1.0)

    def forget_rows(self) -> None:
        """Let the training rows go."""
        self.X = None

    def posterior(self, score: np.ndarray) -> np.ndarray | None:
        """The model's own probability, where it has one."""
        return weighted_posterior(score, "logistic") if hasattr(self.estimator, "predict_proba") else None


def make_oracle(estimator: Any, X: Any, y: ArrayLike, **options: Any) -> Oracle:
    """The oracle for `estimator`: None for the linear one, a torch module, or a scikit-learn classifier.

    Args:
        estimator: what learns.
        X, y: rows and truth.
        options: `surrogate`, `l2`, `rho`, `tol` of the linear oracle; `seed` for modules.
    """
    if estimator is None:
        return LinearOracle(X, y, **{k: options[k] for k in ("surrogate", "l2", "rho", "tol") if k in options})
    if hasattr(estimator, "state_dict") and hasattr(estimator, "forward"):
        from corollary.metrics._torch import ModuleOracle

        return ModuleOracle(estimator, X, y, surrogate=options.get("surrogate", "logistic"), seed=options["seed"])
    return EstimatorOracle(estimator, X, y)
