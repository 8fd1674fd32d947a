r"""`Rejector`: which outputs of a frozen predictor to accept, learned from judged outputs.

Symbols and surrogate as in `_rejection`: score r, accept iff r > 0, price c of rejecting. The built-in threshold 0
bounds the error of every accepted point by c, so the error of all accepted ones lies below c; for a wanted error e the
price is chosen on held-out rows (`error=e`), or the threshold is moved and certified (`certify`).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets

from corollary.certificates import hash_rows, refuse_seen
from corollary.deferral._certified_rejection import certify_accepted_error
from corollary.deferral._coverage import CoverageCurve, CoverageInterval, coverage_intervals, precision_coverage
from corollary.deferral._inputs import not_fitted, validated
from corollary.deferral._rejection import FORMS, calibrated_beta, rejection_cost, rejection_loss
from corollary.deferral._rejection_peers import selective_loss
from corollary.deferral._training import Linear, as_dense, fit_linear, fit_network, standard_network
from corollary.errors import InvalidInputError

LOSSES = ("exponential", "hinge", "cross-entropy", "selective")
PRICES = tuple(np.linspace(0.02, 0.48, 24).round(2).tolist())  # tried where `error` is wanted
HELD_OUT = 0.25  # of the rows, to choose among them
EXPECTED_FAILED_CHECKS = {  # of the calibrated surrogates, with the reason; cross-entropy passes
    "check_classifiers_train": "wants accuracy; an output is accepted only where P(bad) < cost, on purpose",
}


class Rejector(ClassifierMixin, BaseEstimator):
    r"""Accept or reject the outputs of a fixed predictor.

    .. math:: \min_r \frac1N \sum_i e^{(\alpha/2)(r(x_i) - a_i)} + c\, e^{-\beta r(x_i)}, \qquad
        \text{accept iff } r(x) > 0

    A classifier of two labels: the larger one (True, 1, +1, "good" after "bad") means acceptable. Features may hold
    anything known when the output is there: the input, the output, the predictor's probabilities.

    Args:
        cost: price c of rejecting, in (0, 1/2): accept where an output is bad with probability below c.
        error: wanted share of bad outputs among the accepted; the price is then chosen on held-out rows and `cost`
            ignored.
        loss: "exponential" (calibrated), "hinge" (calibrated, alpha above 2), or a peer: "cross-entropy" (accept iff
            P(good) > 1 - c) or "selective" (SelectiveNet-style, needs `coverage`).
        alpha: slope of the surrogate; smaller is safer against outliers.
        coverage: share to be accepted, for "selective".
        model: "linear", "mlp", or a function `(d, 1) -> torch.nn.Module`.
        l2: penalty on the weights, 1 / C in scikit-learn's terms, in the score's own unit 1 / (alpha / 2 + beta).
        hidden, epochs, rate, optimizer, batch: of networks, as in `TwoStageRouter`.
        iterations: of L-BFGS at most.
        seed: of networks and of held-out rows.

    Attributes:
        threshold_: accept above it; 0 until `choose_threshold` or `certify` moves it.
        cost_: the price; sweep_: (price, coverage, error) of all prices tried, where `error` was given.
        certificate_, evidence_: after `certify`.

    Raises:
        InvalidInputError: for features and judgements that do not fit, NaN, one class, or options out of range.

    Guarantee: the loss's (`rejection_loss`), over all measurable scores; a trained one may be far from it, and
        `certify` states what this one does.

    Example:
        >>> rng = np.random.default_rng(0); x = rng.random((3000, 1))
        >>> good = rng.random(3000) > x[:, 0]          # bad with probability x
        >>> rejector = Rejector(cost=0.3, l2=0.1).fit(x[:1000], good[:1000])
        >>> rejector.accept([[0.1], [0.5]]).tolist()
        [True, False]
        >>> rejector.certify(x[1000:], good[1000:], error=0.25).check(**rejector.evidence_).status.name
        'HOLDS'

    Reference: Mohri et al. (ICLR 2024); reconstructed from abstract, reviews and notes, may differ.
    """

    def __init__(
        self,
        *,
        cost: float = 0.1,
        error: float | None = None,
        loss: str = "exponential",
        alpha: float | None = None,
        coverage: float = 0.8,
        model: str | Callable[[int, int], torch.nn.Module] = "linear",
        l2: float = 0.3,
        hidden: int = 64,
        iterations: int = 200,
        epochs: int = 60,
        rate: float = 3e-3,
        optimizer: str = "adam",
        batch: int = 128,
        seed: int = 0,
    ) -> None:
        self.cost, self.error, self.loss, self.alpha, self.coverage = cost, error, loss, alpha, coverage
        self.model, self.l2, self.hidden, self.iterations = model, l2, hidden, iterations
        self.epochs, self.rate, self.batch, self.seed = epochs, rate, batch, seed
        self.optimizer = optimizer

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: Any) -> "Rejector":
        """Learn from N outputs.

        Args:
            X: (N, d) features of input and output, dense or scipy sparse.
            y: (N,) judgements: booleans, 0/1, -1/+1, or any two labels of which the larger means acceptable.
        """
        if self.loss not in LOSSES:
            raise InvalidInputError(f"`loss` must be one of {', '.join(LOSSES)}, got {self.loss!r}")
        if self.error is not None and not 0 < self.error < 0.5:
            raise InvalidInputError(f"`error` must lie in (0, 1/2), got {self.error}")
        x, y = validated(self, X, y)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) != 2:
            kind = "one class" if len(self.classes_) == 1 else f"{len(self.classes_)} classes"
            raise InvalidInputError(
                f"Only binary classification is supported: `y` holds {kind}; judgements are good or bad, give both"
            )
        good = y == self.classes_[1]
        self.cost_, self.threshold_ = float(self.cost), 0.0
        if self.error is not None:
            self._choose_price(x, good)
        self._learn(x, good)
        self._seen = hash_rows(x, good)
        self._statements: dict[bytes, int] = {}
        return self

    def decision_function(self, X: Any) -> Float[np.ndarray, " n"]:
        """(N,) scores r."""
        if not hasattr(self, "classes_"):
            raise not_fitted(self, "decision_function")
        x, _ = validated(self, X)
        return self._scores(x)

    def accept(self, X: Any) -> Bool[np.ndarray, " n"]:
        """(N,) whether to accept: score above `threshold_`."""
        return self.decision_function(X) > self.threshold_

    def predict(self, X: Any) -> np.ndarray:
        """(N,) the label that `accept` stands for."""
        taken = self.accept(X)
        return self.classes_[taken.astype(np.int64)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """One minus the mean rejection loss at price `cost_`."""
        r = self.decision_function(X) - self.threshold_
        paid = rejection_cost(r, self._good(y), cost=self.cost_, reduction="none").numpy()
        return 1.0 - float(np.average(paid, weights=sample_weight))

    def curve(self, X: Any, y: Any) -> CoverageCurve:
        """The precision-coverage curve on these rows."""
        return precision_coverage(self.decision_function(X), self._good(y))

    def coverage_at(self, X: Any, y: Any, *, error: float, repeats: int = 200, seed: int = 0) -> CoverageInterval:
        """Coverage at an accepted error on these rows, with its bootstrap interval."""
        scores = self.decision_function(X)
        return coverage_intervals(scores, self._good(y), errors=[error], repeats=repeats, seed=seed)[float(error)]

    def choose_threshold(self, X: Any, y: Any, by: Callable[[np.ndarray, np.ndarray], Any]) -> "Rejector":
        """Move the threshold to where a function of judgements and scores says; those rows cannot certify any more.

        Args:
            X, y: judged outputs, best others than those of `fit`.
            by: `(good, scores) -> threshold`, or `(threshold, ...)`: `functools.partial(best_threshold, FBeta(0.5))` of
                `corollary.metrics` sets it where that metric is largest.
        """
        x, _ = validated(self, X)
        scores, good = self._scores(x), self._good(y)
        found = by(good, scores)
        threshold = float(found[0] if isinstance(found, tuple) else found)
        if not np.isfinite(threshold):
            raise InvalidInputError(f"`by` must give a finite threshold, it gave {threshold}")
        self.threshold_ = threshold
        self._seen = np.concatenate([self._seen, hash_rows(x, good)])
        return self

    def certify(
        self, X: Any, y: Any, *, error: float | None = None, delta: float = 0.05, share: float = 0.5, move: bool = True
    ) -> Any:
        """Certify the share of bad outputs among the accepted, on rows that `fit` has not seen.

        Args:
            X, y: judged outputs.
            error: largest share of bad outputs among the accepted; by default the price `cost_`.
            delta: probability that the statement is false.
            share: of the rows that choose the threshold; the rest certifies.
            move: choose the threshold of largest coverage; False certifies the present one on all rows.

        Returns:
            The certificate, also in `certificate_`, with its evidence in `evidence_`. Where it states something,
            `threshold_` is the one it speaks of.

        Raises:
            ReusedRowsError: where the rows were used to train or to choose.
        """
        if not hasattr(self, "classes_"):
            raise not_fitted(self, "certify")
        x, _ = validated(self, X)
        good = self._good(y)
        rows = hash_rows(x, good)
        checked = refuse_seen(rows, self._seen, use="training")
        key = np.sort(rows).tobytes()
        self._statements[key] = self._statements.get(key, 0) + 1
        found = certify_accepted_error(
            self._scores(x), good, error=self.cost_ if error is None else error, delta=delta, share=share,
            threshold=None if move else self.threshold_, rows=rows, assumptions=(checked,),
            attempts=self._statements[key],
        )  # fmt: skip
        self.certificate_, self.evidence_ = found.certificate, found.evidence
        if found.certificate.claims:
            self.threshold_ = found.threshold
        return self.certificate_

    def _good(self, y: Any) -> Bool[np.ndarray, " n"]:
        labels = np.asarray(y)
        if not np.isin(labels, self.classes_).all():
            raise InvalidInputError(f"judgements must be {self.classes_[0]!r} or {self.classes_[1]!r}, as in `fit`")
        return labels == self.classes_[1]

    def _choose_price(self, x: Any, good: np.ndarray) -> None:
        """The price of largest coverage whose accepted error on held-out rows, at threshold 0, stays within `error`."""
        order = np.random.default_rng(self.seed).permutation(len(good))
        cut = max(1, round(HELD_OUT * len(good)))
        held, kept = order[:cut], order[cut:]
        self.sweep_: list[tuple[float, float, float]] = []
        for price in PRICES:
            self.cost_ = price
            self._learn(x[kept], good[kept])
            taken = self._scores(x[held]) > 0
            wrong = float((~good[held][taken]).mean()) if taken.any() else 0.0
            self.sweep_.append((price, float(taken.mean()), wrong))
        fits = [s for s in self.sweep_ if s[2] <= float(self.error or 0)]
        self.cost_ = max(fits, key=lambda s: s[1])[0] if fits else PRICES[0]

    def _objective(self, good: np.ndarray) -> Callable[..., torch.Tensor]:
        target = torch.from_numpy(good)
        alpha = self.alpha if self.alpha is not None else (4.0 if self.loss == "hinge" else 1.0)
        shift = float(np.log((1 - self.cost_) / self.cost_))
        # the minimiser is a logarithm divided by alpha / 2 + beta: in that unit solvers and penalties mean the same at
        # every price and alpha
        calibrated = self.loss in FORMS
        beta = calibrated_beta(self.cost_, alpha, form=self.loss) if calibrated else 0.0
        self.unit_ = 1 / (alpha / 2 + beta) if calibrated else 1.0

        def loss(scores: torch.Tensor, rows: Any = slice(None)) -> torch.Tensor:
            r, a = self.unit_ * scores[:, 0], target[rows]
            if self.loss == "cross-entropy":  # r = logit P(good) - logit(1 - c)
                return torch.nn.functional.binary_cross_entropy_with_logits(r + shift, a.to(r.dtype))
            if self.loss == "selective":
                return selective_loss(r, a, coverage=self.coverage)
            return rejection_loss(r, a, cost=self.cost_, alpha=alpha, form=self.loss)

        return loss

    def _learn(self, x: Any, good: np.ndarray) -> None:
        loss = self._objective(good)
        if self.model == "linear":
            start = None
            if self.loss == "selective":  # not convex: from the minimiser of the cross-entropy
                target = torch.from_numpy(good).double()
                bce = torch.nn.functional.binary_cross_entropy_with_logits
                start = self._solve(x, lambda s: bce(s[:, 0], target), None)
            found = self._solve(x, loss, start)
            self.coef_, self.intercept_ = self.unit_ * found.weight[:, 0], self.unit_ * found.intercept
            self.n_iter_ = max(found.iterations, 1)
            return
        dense = as_dense(x)
        self.mean_, self.spread_ = dense.mean(0), dense.std(0, correction=0).clamp_min(1e-6)
        target = torch.from_numpy(good)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.network_ = standard_network(self.model, x.shape[1], 1, hidden=self.hidden)
            self.history_ = fit_network(
                self.network_, (dense - self.mean_) / self.spread_, loss,
                lambda s, rows: rejection_cost(s[:, 0], target[rows], cost=self.cost_).item()
                + 1e-3 * loss(s, rows).item(),
                rate=self.rate, optimizer=self.optimizer, epochs=self.epochs, batch=self.batch, share=0.15,
                seed=self.seed,
            )  # fmt: skip

    def _solve(self, x: Any, loss: Callable[[torch.Tensor], torch.Tensor], start: Linear | None) -> Linear:
        return fit_linear(x, loss, outputs=1, l2=self.l2, start=start, iterations=self.iterations)

    def _scores(self, x: Any) -> Float[np.ndarray, " n"]:
        if self.model == "linear":
            return np.asarray(x @ self.coef_) + self.intercept_[0]
        dense = as_dense(x)
        with torch.no_grad():
            return self.unit_ * self.network_((dense - self.mean_) / self.spread_)[:, 0].double().numpy()
