r"""A classifier that answers the same for all views of an input, at test time or distilled into one pass.

.. math:: g(x) \propto \prod_i f(t_i x)^{w_i}, \qquad \text{then}\quad \min_{h} \sum_x \sum_i w_i KL(g(x) \| h(t_i x))

Symbols: t_i the transformations, f the estimator, h its distilled successor. The first is the direct projection, the
second the second step of the two-step method on unlabelled inputs. [arXiv:2511.08440, reconstructed]
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils.validation import check_is_fitted

from corollary.coherence._divergences import Bregman
from corollary.coherence._orbits import make_views
from corollary.coherence._projection import Projection, project
from corollary.errors import InvalidInputError

_LOOKED_AT = 2000  # inputs of `improvement_`


class CoherentClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    r"""A classifier made coherent under transformations, without labels.

    Args:
        estimator: a scikit-learn classifier with `predict_proba`, or a `ModuleClassifier` around a torch module.
        transforms: functions from a batch to the transformed batch; include the identity where originals are served.
        samples: views drawn for every input; None for all of them.
        weights: (T,) share of each view in the traffic; equal by default.
        divergence: kl, squared, or a `Bregman`.
        floor: what probabilities of zero are raised to; trees give such.
        prefit: the estimator is fitted already and stays as it is.
        seed: of drawn views.

    Attributes:
        estimator_: the fitted estimator; classes_: its classes.
        rounds_: what each round of `distill` brought.
        improvement_: the projection of at most 2,000 of the inputs given to `fit` (after `distill`, of those it was
            judged on): what being coherent is worth there, `.gain`, and `.certificate`; computed when first asked for.

    Raises:
        InvalidInputError: for an estimator without probabilities, or no transformations.

    Guarantee: averaged over the views (with these weights), the expected log-loss of `predict_proba` is lower than the
        estimator's by the mean of `project_views(X).gain`, exactly, if the views of an input share one truth. With
        `samples` this holds for the views drawn, and in expectation over the draw. Nothing is claimed of accuracy.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.linear_model import LogisticRegression
        >>> from corollary.coherence import image_shifts
        >>> X, y = load_digits(return_X_y=True)
        >>> shifts = [lambda X, t=t: t(X.reshape(-1, 8, 8)).reshape(-1, 64) for t in image_shifts(1)]
        >>> model = CoherentClassifier(LogisticRegression(max_iter=500), shifts, floor=1e-9).fit(X[:600] / 16, y[:600])
        >>> found = model.project_views(X[600:700] / 16)
        >>> found.certificate.check(**found.evidence).status.name, bool(found.gain.mean() > 0.5)
        ('HOLDS', True)

    Reference: Mohri, Schneider and Wu (2025), arXiv:2511.08440; reconstructed from abstract and notes, may differ.
    """

    def __init__(
        self,
        estimator: Any,
        transforms: Sequence[Callable[[Any], Any]],
        *,
        samples: int | None = None,
        weights: ArrayLike | None = None,
        divergence: str | Bregman = "kl",
        floor: float | None = None,
        prefit: bool = False,
        seed: int = 0,
    ) -> None:
        self.estimator, self.transforms, self.samples, self.weights = estimator, transforms, samples, weights
        self.divergence, self.floor, self.prefit, self.seed = divergence, floor, prefit, seed

    def fit(self, X: Any, y: Any) -> "CoherentClassifier":
        """Fit the estimator on labelled rows, as they are; a fitted one is only looked at."""
        if not self.transforms:
            raise InvalidInputError("no transformation was given; name at least one, with the identity among them")
        self.estimator_ = self.estimator if self.prefit else clone(self.estimator).fit(X, y)
        if not hasattr(self.estimator_, "predict_proba"):
            raise InvalidInputError(f"{type(self.estimator_).__name__} gives no probabilities; wrap it in a calibrator")
        self.classes_ = self.estimator_.classes_
        self.rounds_: list[dict[str, float]] = []
        self._look_at(X)
        return self

    def _look_at(self, X: Any) -> None:
        few = np.random.default_rng([self.seed, 0x1007]).permutation(len(X))[:_LOOKED_AT]
        self._inputs = _take(X, np.sort(few))
        self._improvement: Projection | None = None

    @property
    def improvement_(self) -> Projection:
        """What being coherent is worth on inputs seen, with its certificate."""
        check_is_fitted(self)
        if self._improvement is None:
            self._improvement = self.project_views(self._inputs)
        return self._improvement

    def views(self, X: Any) -> tuple[list[Any], Float[np.ndarray, "v n k"]]:
        """The views of a batch, and the log-probabilities of each."""
        check_is_fitted(self)
        made = make_views(X, self.transforms, samples=self.samples, weights=self.weights, seed=self.seed)
        with np.errstate(divide="ignore"):
            return made, np.stack([self._logs(v) for v in made])

    def _logs(self, X: Any) -> Float[np.ndarray, "n k"]:
        """Log-probabilities of the estimator as it is, by its own method where it has one."""
        if hasattr(self.estimator_, "predict_log_proba") and hasattr(self.estimator_, "fit_soft"):
            return self.estimator_.predict_log_proba(X)
        return np.log(np.asarray(self.estimator_.predict_proba(X), dtype=np.float64))

    def project_views(self, X: Any) -> Projection:
        """The projection of a batch: `log_probs`, `gain`, `certificate`."""
        weights = self.weights if self.samples is None else None  # drawn views carry their weights in the draw
        return project(self.views(X)[1], weights=weights, divergence=self.divergence, floor=self.floor)

    def predict_proba(self, X: Any) -> Float[np.ndarray, "n k"]:
        """(N, K) probabilities, the same for all views of an input (where all views are used)."""
        return self.project_views(X).probs

    def predict_log_proba(self, X: Any) -> Float[np.ndarray, "n k"]:
        """(N, K) log-probabilities."""
        return self.project_views(X).log_probs

    def predict(self, X: Any) -> np.ndarray:
        """(N,) the likeliest class."""
        return self.classes_[self.predict_log_proba(X).argmax(1)]

    def distill(
        self, X: Any, *, rounds: int = 1, held_out: float = 0.2, tol: float = 1e-3, learner: Any = None
    ) -> "CoherentClassifier":
        r"""Teach the projection to one model, on unlabelled inputs: afterwards one forward pass has most of the gain.

        Args:
            X: (n, ...) unlabelled inputs.
            rounds: most rounds of projecting and teaching.
            held_out: share of the inputs on which a round is judged.
            tol: gain in nats below which the model counts as coherent.
            learner: what is taught, by default a clone of the estimator: must have `fit_soft` or take `sample_weight`.

        Returns:
            A fitted `CoherentClassifier` around the last model whose round was kept; `rounds_` tells of each.

        Guarantee: a round is kept only if on held-out inputs KL(projection || taught model) is below the gain, that is,
            if the taught model keeps a part of it when the projection is right. So over kept rounds the gain that is
            left never rises: gain' = min over coherent c of KL(c || taught) <= KL(projection || taught) = lost < gain.
            If the model class cannot hold the projection nothing is kept.
        """
        check_is_fitted(self)
        n = len(X)
        order = np.random.default_rng([self.seed, 0xD157]).permutation(n)
        held = max(1, round(held_out * n))
        if not 0 < held < n:
            raise InvalidInputError(f"{n} inputs cannot be split by held_out={held_out}; give more")
        judge, teach = _take(X, order[:held]), _take(X, order[held:])
        current = self._around(self.estimator_)
        for number in range(rounds):
            target = current.project_views(judge)
            if float(target.gain.mean()) < tol:
                break
            taught = _teach(learner if learner is not None else self.estimator, current, teach)
            candidate = self._around(taught)
            lost = candidate._distance_from(target, judge)
            kept = lost < float(target.gain.mean())
            told = {"round": number + 1.0, "gain": float(target.gain.mean()), "lost": lost, "kept": float(kept)}
            history = [*current.rounds_, told]
            if not kept:
                current.rounds_ = history
                break
            current, candidate.rounds_ = candidate, history
        current._look_at(judge)
        return current

    def _around(self, fitted: Any) -> "CoherentClassifier":
        other = CoherentClassifier(**{**self.get_params(deep=False), "estimator": fitted, "prefit": True})
        other.estimator_, other.classes_, other.rounds_ = fitted, fitted.classes_, []
        return other

    def _distance_from(self, target: Projection, X: Any) -> float:
        """Mean over inputs and views of KL(target || this model)."""
        _, logs = self.views(X)
        with np.errstate(invalid="ignore"):
            gap = np.where(target.probs > 0, target.probs * (target.log_probs - np.maximum(logs, -50.0)), 0.0)
        w = (
            np.full(len(logs), 1 / len(logs))
            if self.weights is None or self.samples is not None
            else np.asarray(self.weights)
        )
        return float(np.einsum("v,vnk->n", w / w.sum(), gap).mean())


def _take(X: Any, index: np.ndarray) -> Any:
    return X[index] if hasattr(X, "shape") else [X[i] for i in index]


def _teach(learner: Any, teacher: CoherentClassifier, X: Any) -> Any:
    """A clone of `learner` fitted to soft targets: every view once for each class, weighted by its probability."""
    views, _ = teacher.views(X)
    probs = teacher.project_views(X).probs
    if hasattr(learner, "fit_soft"):
        from copy import deepcopy

        start = teacher.estimator_ if learner is teacher.estimator else clone(learner)
        return deepcopy(start).fit_soft(views, probs)
    n, k = probs.shape
    if isinstance(X, np.ndarray):
        rows: Any = np.concatenate([np.repeat(v, k, axis=0) for v in views])
    else:
        rows = [one for v in views for one in v for _ in range(k)]
    labels, weight = np.tile(teacher.classes_, n * len(views)), np.tile(probs.ravel(), len(views))
    kept = weight > 1e-4  # what is left out moves the target by less than its rounding in float32 training
    return clone(learner).fit(_take(rows, np.flatnonzero(kept)), labels[kept], sample_weight=weight[kept])
