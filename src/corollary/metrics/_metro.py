r"""METRO: train with the costs of a level, measure on validation rows, search over the level.

.. math:: \min_f \frac1n \sum_i \left( c_{FN}(M) 1[y_i = 1] \Phi(f(x_i)) + c_{FP}(M) 1[y_i = -1] \Phi(-f(x_i)) \right)

Symbols: Y (n, L) truth, a column for each label (one for a binary problem); a level shared by all columns (micro) or
one for each (macro); folds, pairs of training and validation rows.

Source: Mao, Mohri and Zhong (ICML 2025); reconstructed from abstract and notes. [derived]: the metric that drives the
search is pooled over validation folds, since a ratio must not be averaged over parts, and since the training metric
flatters flexible models.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from corollary.errors import InvalidInputError
from corollary.metrics._metric import Costs, LinearFractionalMetric, confusion
from corollary.metrics._oracles import Oracle
from corollary.metrics._search import SearchResult, search_level

Fold = tuple[np.ndarray, np.ndarray]
MakeOracle = Callable[[np.ndarray, np.ndarray], Oracle]


class Validation:
    """Columns trained together at many levels, each measured on rows that it was not trained on.

    Args:
        metric: what is measured.
        X: (n, p) rows.
        Y: (n, L) truth.
        folds: pairs of training and validation rows; without any, the training rows are measured.
        make_oracle: `(X, y) -> Oracle`.

    Guarantee: none; a trained oracle is inexact, so the search keeps the best level measured.
    """

    def __init__(
        self,
        metric: LinearFractionalMetric,
        X: np.ndarray,
        Y: Bool[np.ndarray, "n l"],
        folds: Sequence[Fold],
        make_oracle: MakeOracle,
    ) -> None:
        self.metric, self.X, self.Y = metric, X, Y
        everything = np.arange(len(Y))
        self.parts: list[tuple[int, np.ndarray, Oracle, float]] = []
        for column in range(Y.shape[1]):
            usable = [f for f in folds if 0 < Y[f[0], column].sum() < len(f[0])] or [(everything, everything)]
            for train, test in usable:
                y = Y[train, column]
                self.parts.append((column, test, make_oracle(X[train], y), float(y.mean())))
        self._scores: dict[tuple[Costs, ...], list[np.ndarray]] = {}

    def scores(self, level: float) -> list[np.ndarray]:
        """Validation scores of every part when trained at `level`; costs met before are not trained again."""
        costs = [self.metric.costs(level, prevalence=prevalence).scaled() for *_, prevalence in self.parts]
        key = tuple(Costs(round(c.fn, 12), round(c.fp, 12)) for c in costs)
        if key not in self._scores:
            parts = zip(self.parts, costs, strict=True)
            self._scores[key] = [oracle.score(self.X[rows], oracle.solve(c)) for (_, rows, oracle, _), c in parts]
        return self._scores[key]

    def counts(self, level: float) -> Float[np.ndarray, "l 4"]:
        """Confusion counts of every column, pooled over the folds."""
        counts = np.zeros((self.Y.shape[1], 4))
        for (column, rows, *_), score in zip(self.parts, self.scores(level), strict=True):
            counts[column] += confusion(self.Y[rows, column], score > 0)
        return counts

    def evaluate(self, level: float) -> float:
        """The metric, pooled over folds and columns."""
        return float(self.metric.value(self.counts(level).sum(0), undefined="zero"))

    def search(self, search: str, **options: Any) -> SearchResult:
        """Search over the span of the metric at this prevalence."""
        span = self.metric.span(float(np.clip(self.Y.mean(), 1e-9, 1 - 1e-9)))
        return search_level(self.evaluate, search=search, span=span, **options)

    def out_of_fold(self, level: float) -> tuple[Float[np.ndarray, "n l"], Bool[np.ndarray, "n l"]]:
        """Validation scores laid out as rows by columns, and which entries have one."""
        out, known = np.zeros(self.Y.shape), np.zeros(self.Y.shape, dtype=bool)
        for (column, rows, *_), score in zip(self.parts, self.scores(level), strict=True):
            out[rows, column], known[rows, column] = score, True
        return out, known


def make_folds(validation: Any, X: np.ndarray, Y: Bool[np.ndarray, "n l"], *, seed: int) -> list[Fold]:
    """Training and validation rows: a number of folds, a held-out share, a scikit-learn splitter, or None.

    Args:
        validation: 2 or more folds; a share in (0, 1); an object with `split`; None to measure on the training rows.
        X, Y: rows and truth.
        seed: of the shuffling; folds are stratified unless rows carry several labels.

    Raises:
        InvalidInputError: for anything else.
    """
    from sklearn.model_selection import KFold, ShuffleSplit, StratifiedKFold, StratifiedShuffleSplit

    if validation is None:
        return []
    single = Y.shape[1] == 1 or bool((Y.sum(1) == 1).all())
    labels = Y @ np.arange(1, Y.shape[1] + 1)
    if hasattr(validation, "split"):
        return list(validation.split(X, labels if single else Y))
    rarest = int(np.unique(labels, return_counts=True)[1].min())
    integral = isinstance(validation, int | np.integer) and not isinstance(validation, bool)
    if integral and validation >= 2:
        k = min(int(validation), len(Y), rarest if single else len(Y))
        if k < 2:
            return []
        folder = StratifiedKFold if single else KFold
        return list(folder(k, shuffle=True, random_state=seed).split(X, labels if single else None))
    if isinstance(validation, float | np.floating) and 0 < validation < 1:
        stratify = single and rarest >= 2 and min(validation, 1 - validation) * len(Y) >= 2
        chooser = StratifiedShuffleSplit if stratify else ShuffleSplit
        return list(chooser(1, test_size=float(validation), random_state=seed).split(X, labels if single else None))
    raise InvalidInputError(
        f"`validation` must be 2 or more folds, a share in (0, 1), a splitter or None, got {validation!r}"
    )
