r"""`MetroClassifier`: METRO as a scikit-learn estimator, binary, multiclass and multilabel.

Symbols: a column is a label, a class against the rest, or the one positive class; \(M_l\) its level,
\(D_l\) the denominator of its metric, \(\eta_l(x)\) its probability.

Multiclass macro: near the optimum a step of the classifier moves the average of ratios N_l / D_l by
\(\sum_l (dN_l - M_l dD_l) / D_l\), so the best label is the argmax over l of
\([\eta_l (c_{FN,l} + c_{FP,l}) - c_{FP,l}] / D_l\) [derived; the paper treats the binary case]. It needs good
probabilities: where the argmax of the plain scores does better on the validation rows, that is the rule.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from corollary.certificates import Assumption, hash_rows, refuse_seen
from corollary.errors import InvalidInputError, NotFittedError
from corollary.metrics._average import AVERAGES, averaged, column_denominators
from corollary.metrics._certify import certify_metric, hold_out
from corollary.metrics._metric import confusion, get_metric
from corollary.metrics._metro import Validation, make_folds
from corollary.metrics._oracles import make_oracle
from corollary.metrics._posterior import PROPER, unweighted
from corollary.metrics._search import SEARCHES
from corollary.metrics._surrogates import check_surrogate
from corollary.metrics._targets import encode_targets
from corollary.metrics._threshold import best_threshold

ROUNDS = 10  # of the multiclass rule
EXPECTED_FAILED_CHECKS = {
    "check_classifiers_train": "wants predict == argmax predict_proba; the metric's threshold is not 1/2, on purpose",
}


def _has_posterior(self: "MetroClassifier") -> bool:
    surrogate = getattr(self, "surrogate_", self.surrogate)
    proper = surrogate in (*PROPER, "auto") if self.estimator is None else hasattr(self.estimator, "predict_proba")
    if proper or hasattr(self.estimator, "state_dict"):
        return True
    raise AttributeError(f"scores of the {surrogate} surrogate say nothing about probabilities; use logistic")


class _ShareAndMethod:
    """`certify`: the share given at construction, in `vars(owner)`; on access the method that certifies fresh rows."""

    def __set__(self, owner: "MetroClassifier", share: float | None) -> None:
        owner.__dict__["certify"] = share

    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else owner._certify


class MetroClassifier(ClassifierMixin, BaseEstimator):
    r"""A classifier trained for the metric that is measured.

    .. math:: \min_f \frac1n \sum_i c_{y_i}(M) \Phi(y_i f(x_i)) \quad \text{over } f, \text{ at the level } M
        \text{ whose classifier has the best validation metric}

    Args:
        metric: a name (`"f1"`, `"f2"`, `"jaccard"`, `"balanced-accuracy"`, ...) or a `LinearFractionalMetric`.
        estimator: None for the built-in linear model (fast, warm starts), a scikit-learn classifier whose `fit` takes
            `sample_weight`, or a `torch.nn.Module` that gives one logit per row.
        search: `"grid"`, `"bisect"` or `"dinkelbach"`. The grid is the steadiest; bisection and Dinkelbach train fewer
            models and suit dear estimators.
        surrogate: `"logistic"`, `"exponential"`, `"hinge"`, `"squared_hinge"` or `"rho_margin"` (linear and torch);
            `"auto"` also trains the rho-margin by Dinkelbach's method and keeps it where validation prefers it: take it
            where a line may be the wrong model.
        validation: folds (5), a share to hold out (0.2), a splitter, or None for the training rows.
        certify: share of the rows held out, drawn plainly, for `certificate_`; None for none.
        delta: probability that the certificate may fail.
        average: `"macro"`, `"micro"` (one shared level) or `"weighted"`; for several classes or labels.
        levels: grid points, or the levels themselves.
        l2: weight of the squared norm of the linear model; raise it for few rows or many columns.
        rho: margin of the rho-margin surrogate.
        tol: accuracy of the linear solver.
        max_rounds: most rounds of Dinkelbach.
        tune_threshold: tune a threshold on top, on the validation rows.
        seed: of folds and of held-out rows.

    Attributes:
        level_: the level chosen, a float or one a column; `bracket_`: where the search places M*.
        search_: the `SearchResult` of every group of columns; `validation_score_`: the metric measured there.
        surrogate_: the surrogate trained with, of those that `"auto"` tried.
        costs_: what the errors of every column cost; `models_`: a model a column; `coef_`, `intercept_` if linear.
        certificate_: the certificate, after `certify=` or `.certify`.

    Raises:
        InvalidInputError: for options or data that cannot be used; one sentence says why.

    Guarantee: Theorem 3.1 for exact minimisers; with a surrogate the bound G7 of the tests for complete classes, plus
        minimizability gaps for restricted ones (paper's claim, not restated). What the fitted classifier does is
        stated by its certificate.

    Example:
        >>> from sklearn.datasets import make_classification
        >>> X, y = make_classification(2000, weights=[0.9], class_sep=0.7, random_state=0)
        >>> model = MetroClassifier("f1", certify=0.3).fit(X, y)
        >>> model.certificate_.check(**model.evidence_).status.name
        'HOLDS'

    Reference: Mao, Mohri and Zhong, ICML 2025; reconstructed from abstract and notes, may differ.
    """

    certify = _ShareAndMethod()

    def __init__(
        self,
        metric: Any = "f1",
        estimator: Any = None,
        *,
        search: str = "grid",
        surrogate: str = "logistic",
        validation: Any = 5,
        certify: float | None = None,
        delta: float = 0.05,
        average: str = "macro",
        levels: Any = 25,
        l2: float = 1e-4,
        rho: float = 1.0,
        tol: float = 1e-5,
        max_rounds: int = 20,
        tune_threshold: bool = False,
        seed: int = 0,
    ) -> None:
        self.metric = metric
        self.estimator = estimator
        self.search = search
        self.surrogate = surrogate
        self.validation = validation
        self.certify = certify
        self.delta = delta
        self.average = average
        self.levels = levels
        self.l2 = l2
        self.rho = rho
        self.tol = tol
        self.max_rounds = max_rounds
        self.tune_threshold = tune_threshold
        self.seed = seed

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters; `certify` as the share that was given."""
        return {**super().get_params(deep=deep), "certify": vars(self)["certify"]}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.target_tags.single_output = True
        return tags

    def fit(self, X: Any, y: Any) -> "MetroClassifier":
        """Choose the level on validation rows, refit on all rows that are not held out.

        Args:
            X: (n, p) features, finite numbers.
            y: (n,) labels of any type, or (n, L) indicators.
        """
        metric, share = self._checked_metric(), vars(self)["certify"]
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True)
        Y, self.classes_, self.kind_ = encode_targets(y)
        learn = np.arange(len(X))
        if share is not None:
            learn, held = hold_out(len(X), share, seed=self.seed)
            learned = Y[learn]
            if learned.all(0).any() or not learned.any(0).all():
                raise InvalidInputError("the rows left to learn from hold one class only; lower `certify`, add rows")
        self.metric_ = metric
        self._learn(X[learn], Y[learn])
        self._trained = hash_rows(X[learn], Y[learn])
        self._statements: dict[bytes, int] = {}
        if share is not None:
            note = f"{len(held)} rows held out by a plain draw, seed {self.seed}"
            self._issue(X[held], Y[held], held_out=note)
        return self

    def _checked_metric(self) -> Any:
        metric = get_metric(self.metric)
        if self.surrogate != "auto":
            check_surrogate(self.surrogate)
        if self.search not in SEARCHES:
            raise InvalidInputError(f"`search` must be one of {', '.join(SEARCHES)}, got {self.search!r}")
        if self.average not in AVERAGES:
            raise InvalidInputError(f"`average` must be one of {', '.join(AVERAGES)}, got {self.average!r}")
        if not 0 < self.delta < 1:
            raise InvalidInputError(f"`delta` must lie in (0, 1), got {self.delta}; 0.05 asks for 95 % confidence")
        return metric

    def _oracle(self, X: np.ndarray, y: np.ndarray) -> Any:
        options = {"surrogate": self.surrogate_, "l2": self.l2, "rho": self.rho, "tol": self.tol, "seed": self.seed}
        return make_oracle(self.estimator, X, y, **options)

    def _learn(self, X: np.ndarray, Y: np.ndarray) -> None:
        """Learn with the surrogate, or with each that `"auto"` tries, and keep what validation measured best."""
        auto = (("logistic", self.search), ("rho_margin", "dinkelbach"))
        tried = []
        for surrogate, search in auto if self.surrogate == "auto" else ((self.surrogate, self.search),):
            self.surrogate_ = surrogate
            self._learn_by(search, X, Y)
            tried.append({k: v for k, v in vars(self).items() if k.endswith("_") or k == "_oracles"})
        self.__dict__.update(max(tried, key=lambda learnt: learnt["validation_score_"]))

    def _learn_by(self, search: str, X: np.ndarray, Y: np.ndarray) -> None:
        columns, metric = Y.shape[1], self.metric_
        groups = [list(range(columns))] if self.average == "micro" else [[j] for j in range(columns)]
        options = {"levels": self.levels, "rounds": self.max_rounds, "tol": max(self.tol, 1e-4)}
        self.search_, level = [], np.zeros(columns)
        scores, known = np.zeros(Y.shape), np.zeros(Y.shape, dtype=bool)
        folds = make_folds(self.validation, X, Y, seed=self.seed)
        for group in groups:
            study = Validation(metric, X, Y[:, group], folds, self._oracle)
            found = study.search(search, **options)
            self.search_.append(found)
            level[group] = found.level
            scores[:, group], known[:, group] = study.out_of_fold(found.level)
        shares = np.clip(Y.mean(0), 1e-9, 1 - 1e-9)
        self.costs_ = [metric.costs(m, prevalence=float(p)).scaled() for m, p in zip(level, shares, strict=True)]
        self._oracles = [self._oracle(X, Y[:, j]) for j in range(columns)]
        self.models_ = [oracle.solve(c) for oracle, c in zip(self._oracles, self.costs_, strict=True)]
        self._forget_rows()
        self.level_ = float(level[0]) if columns == 1 else level
        self.bracket_ = [s.bracket for s in self.search_] if len(self.search_) > 1 else self.search_[0].bracket
        self.offset_ = np.zeros(columns)
        if self.tune_threshold and self.kind_ != "multiclass":
            cuts = [best_threshold(metric, Y[k, j], scores[k, j])[0] for j, k in enumerate(known.T)]
            self.offset_ = np.array(cuts)
        self._weigh(Y, scores, known)

    def _weigh(self, Y: np.ndarray, scores: np.ndarray, known: np.ndarray) -> None:
        """The validation score; of several classes also the rule that picks one, the better of two."""
        rows, metric, columns = known.all(1), self.metric_, Y.shape[1]
        Y, scores = Y[rows], scores[rows]
        self.gain_, self.rule_ = np.ones((columns, 2)), "score"
        if not len(Y):  # a splitter of the user's that leaves no row with all columns measured
            self.validation_score_ = float("nan")
            return

        def measured(prediction: np.ndarray) -> float:
            return averaged(metric, confusion(Y, prediction), average=self.average, undefined="zero")

        if self.kind_ != "multiclass":
            self.validation_score_ = measured(scores > self.offset_)
            return
        one = np.arange(columns)
        plain = scores.argmax(1)[:, None] == one
        self.validation_score_ = measured(plain)
        if self.average == "micro" or self._posteriors(scores) is None:
            return
        best = self.gain_, "score"
        self.rule_ = "gain"
        for counts in (confusion(Y, plain), confusion(Y, scores > 0)):  # Dinkelbach's method from two starts
            for _ in range(ROUNDS):
                self.gain_ = self._gain_of(counts, np.clip(Y.mean(0), 1e-9, 1 - 1e-9))
                prediction = self._gains(scores).argmax(1)[:, None] == one
                if (value := measured(prediction)) > self.validation_score_:
                    self.validation_score_, best = value, (self.gain_, "gain")
                counts = confusion(Y, prediction)
        self.gain_, self.rule_ = best

    def _gain_of(self, counts: np.ndarray, shares: np.ndarray) -> Float[np.ndarray, "l 2"]:
        """(L, 2) costs of every class at the level of its counts, over the denominator of its ratio."""
        levels = self.metric_.value(counts, undefined="zero")
        below = np.maximum(column_denominators(self.metric_, counts), 1e-9)
        pairs = zip(levels.tolist(), shares.tolist(), strict=True)
        return np.array([self.metric_.costs(m, prevalence=p) for m, p in pairs]) / below[:, None]

    def _forget_rows(self) -> None:
        """Oracles keep the training rows for warm starts; a fitted classifier has no use for them."""
        for oracle in self._oracles:
            oracle.forget_rows()
        if self.estimator is None:
            theta = np.stack(self.models_)
            self.coef_, self.intercept_ = theta[:, :-1], theta[:, -1]

    def _scores(self, X: Any) -> Float[np.ndarray, "n l"]:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return np.stack([o.score(X, m) for o, m in zip(self._oracles, self.models_, strict=True)], 1)

    def _posteriors(self, scores: np.ndarray) -> Float[np.ndarray, "n l"] | None:
        columns = []
        for j, (oracle, costs) in enumerate(zip(self._oracles, self.costs_, strict=True)):
            weighted = oracle.posterior(scores[:, j])
            if weighted is None:
                return None
            columns.append(unweighted(weighted, costs))
        return np.stack(columns, 1)

    def _gains(self, scores: np.ndarray) -> Float[np.ndarray, "n l"]:
        """What predicting each class adds to the macro metric, or the raw scores, whichever validation preferred."""
        if self.rule_ == "score":
            return scores
        eta = self._posteriors(scores)
        assert eta is not None
        fn, fp = self.gain_.T
        return eta * (fn + fp) - fp

    def decision_function(self, X: Any) -> Float[np.ndarray, "..."]:
        """(n,) scores of a binary problem, (n, K) otherwise; above 0, or the largest, is predicted."""
        scores = self._scores(X)
        if self.kind_ == "multiclass":
            return self._gains(scores)
        scores = scores - self.offset_
        return scores[:, 0] if self.kind_ == "binary" else scores

    def predict(self, X: Any) -> np.ndarray:
        """(n,) labels, or (n, L) indicators."""
        decision = self.decision_function(X)
        if self.kind_ == "multilabel":
            return (decision > 0).astype(np.int64)
        return self.classes_[decision.argmax(1) if self.kind_ == "multiclass" else (decision > 0).astype(np.int64)]

    @available_if(_has_posterior)
    def predict_proba(self, X: Any) -> Float[np.ndarray, "n k"]:
        """(n, K) probabilities by the logit shift, (n, L) for labels: the costs are taken out again.

        Exact for a well-specified model. The prediction is NOT their argmax: that is the point of the metric.
        """
        eta = self._posteriors(self._scores(X))
        assert eta is not None
        if self.kind_ == "binary":
            return np.stack([1 - eta[:, 0], eta[:, 0]], 1)
        return eta if self.kind_ == "multilabel" else eta / np.maximum(eta.sum(1, keepdims=True), 1e-300)

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """The metric itself on these rows (not accuracy)."""
        if sample_weight is not None:
            raise InvalidInputError("`score` counts every row once; drop `sample_weight`")
        prediction = self.predict(X)
        if self.kind_ == "multilabel":
            return averaged(self.metric_, confusion(np.asarray(y), prediction), average=self.average)
        truth, guess = (self._columns(v) for v in (np.asarray(y), prediction))
        return averaged(self.metric_, confusion(truth, guess), average=self.average)

    def _columns(self, labels: np.ndarray) -> np.ndarray:
        if self.kind_ == "multilabel":
            return np.asarray(labels) > 0
        indicators = labels[:, None] == self.classes_
        return indicators[:, 1:] if self.kind_ == "binary" else indicators

    def _certify(self, X: Any, y: Any, *, delta: float | None = None, method: str = "auto") -> Any:
        """Certify the metric on fresh rows: `certificate_`, with its evidence in `evidence_`.

        Args:
            X, y: rows that neither trained nor chose this classifier.
            delta: probability that the certificate may fail; by default the estimator's.
            method: a bound by name, chosen beforehand; `"auto"` decides by the metric.

        Raises:
            ReusedRowsError: where training has seen the rows.
        """
        if not hasattr(self, "models_"):
            raise NotFittedError(self, "certify")
        X = validate_data(self, X, dtype=np.float64, reset=False)
        truth = self._columns(np.asarray(y))
        return self._issue(X, truth, delta=delta, method=method)

    def _issue(self, X: Any, Y: Any, *, delta: float | None = None, method: str = "auto", held_out: str = "") -> Any:
        rows = hash_rows(X, Y)
        check = Assumption("nothing saw the certifying rows before", held_out) if held_out else None
        check = check or refuse_seen(rows, self._trained)
        key = np.sort(rows).tobytes()
        self._statements[key] = self._statements.get(key, 0) + 1
        self.certificate_, self.evidence_ = certify_metric(
            Y if Y.shape[1] > 1 else Y[:, 0],
            self._columns(self.predict(X)) if Y.shape[1] > 1 else self._columns(self.predict(X))[:, 0],
            metric=self.metric_,
            delta=self.delta if delta is None else delta,
            average=self.average,
            method=method,
            attempts=self._statements[key],
            assumptions=(check,),
            provenance={"estimator": repr(self), "rows": len(rows)},
        )
        return self.certificate_
