r"""Linear-fractional metrics: two rows of four numbers.

Symbols: cells TP, FP, FN, TN as rates that sum to one, \(\pi = TP + FN\) the prevalence, numerator row n, denominator
row d (d >= 0), metric \(M = (n \cdot c) / (d \cdot c)\) with c = (TP, FP, FN, TN). At level M a cell costs
\(\kappa = -n + M d\); the costs of the two errors are \(c_{FN} = \kappa_{FN} - \kappa_{TP}\) and
\(c_{FP} = \kappa_{FP} - \kappa_{TN}\), and the Bayes rule predicts +1 where \(\eta c_{FN} > (1 - \eta) c_{FP}\).

The paper writes a loss L = -M with rows in the basis (hy, y, h, 1), and lambda = -M: `signed_rows` gives that form.

Source: Mao, Mohri and Zhong, "Principled Algorithms for Optimizing Generalized Metrics in Binary Classification",
ICML 2025; reconstructed from abstract and notes. The table of costs is our derivation, checked by brute force.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError

CELLS = ("TP", "FP", "FN", "TN")
BASIS = np.array([[1, 1, 1, 1], [-1, -1, 1, 1], [-1, 1, -1, 1], [1, -1, -1, 1]]) / 4  # cells in (hy, y, h, 1)
NOT_LINEAR_FRACTIONAL = {
    "gmean": "G-mean",
    "mcc": "MCC",
    "auc": "AUC",
    "rocauc": "AUC",
    "averageprecision": "average precision",
    "logloss": "log-loss",
    "brier": "Brier score",
}


class UndefinedMetricWarning(UserWarning):
    """A metric has no value on the counts given (no positives, say) and 0 was returned.

    Guarantee: none; it is a warning to filter.

    Example:
        >>> issubclass(UndefinedMetricWarning, UserWarning)
        True
    """


class Costs(NamedTuple):
    """What a missed positive and a false alarm cost at one level of the metric.

    Guarantee: none; a pair of numbers.

    Example:
        >>> FBeta(1.0).costs(0.5)
        Costs(fn=1.5, fp=0.5)
    """

    fn: float
    fp: float

    def scaled(self) -> "Costs":
        """Divided by the larger, so that a regulariser means the same at every level."""
        largest = max(self.fn, self.fp)
        return Costs(self.fn / largest, self.fp / largest) if largest > 0 else Costs(1.0, 1.0)


@dataclass(frozen=True)
class LinearFractionalMetric:
    r"""A ratio of two linear functions of the confusion matrix.

    .. math:: M = \frac{n_{TP} TP + n_{FP} FP + n_{FN} FN + n_{TN} TN}{d_{TP} TP + d_{FP} FP + d_{FN} FN + d_{TN} TN}

    Args:
        numerator: (4,) weights of TP, FP, FN, TN above the line.
        denominator: (4,) weights below the line, none negative, not all zero.
        name: how it is called in tables and statements.
        per_class: the rows multiply TP/pi, FP/(1-pi), FN/pi, TN/(1-pi) instead (balanced accuracy).

    Raises:
        InvalidInputError: for rows that are not four finite numbers, or a negative denominator.

    Guarantee: none; `corollary.metrics.MetroClassifier` optimises it, and the certificate bounds it.

    Example:
        >>> specificity = LinearFractionalMetric((0, 0, 0, 1), (0, 1, 0, 1), name="specificity")
        >>> specificity.value([30, 5, 10, 55]).round(4)
        np.float64(0.9167)

    Reference: Mao, Mohri and Zhong (2025); reconstructed from abstract and notes, may differ.
    """

    numerator: Sequence[float]
    denominator: Sequence[float]
    name: str = "custom metric"
    per_class: bool = False

    def __post_init__(self) -> None:
        for field in ("numerator", "denominator"):
            row = np.asarray(getattr(self, field), dtype=np.float64)
            if row.shape != (4,) or not np.isfinite(row).all():
                raise InvalidInputError(
                    f"`{field}` must be four finite numbers for TP, FP, FN, TN, got {getattr(self, field)!r}"
                )
            object.__setattr__(self, field, tuple(row.tolist()))
        if min(self.denominator) < 0 or max(self.denominator) == 0:
            raise InvalidInputError(
                f"`denominator` must be zero or more and not all zero, got {self.denominator}; multiply both rows by -1"
            )

    def rows(self, prevalence: float = 0.5) -> Float[np.ndarray, "2 4"]:
        """Numerator and denominator as they multiply rates, at this prevalence (it matters only `per_class`)."""
        rows = np.array([self.numerator, self.denominator])
        if self.per_class:
            if not 0 < prevalence < 1:
                raise InvalidInputError(
                    f"{self.name} needs both classes, got a prevalence of {prevalence:g}; add rows of the other class"
                )
            rows = rows / np.array([prevalence, 1 - prevalence, prevalence, 1 - prevalence])
        return rows

    def signed_rows(self, prevalence: float = 0.5) -> Float[np.ndarray, "2 4"]:
        """The paper's alpha and beta: rows of the loss -M in the basis (hy, y, h, 1)."""
        numerator, denominator = self.rows(prevalence)
        return np.stack([-numerator @ BASIS, denominator @ BASIS])

    def value(self, counts: ArrayLike, *, undefined: str = "warn") -> Float[np.ndarray, "..."] | np.float64:
        """The metric of confusion counts or rates.

        Args:
            counts: (..., 4) TP, FP, FN, TN, as counts or as rates.
            undefined: `"warn"` where there is no value, or `"zero"` to take it as 0 in silence.

        Returns:
            (...) values. Where the ratio is 0/0 the value is 0; without positives (`per_class`: without either class)
            it is undefined, 0 is returned, and a warning says so.

        Raises:
            InvalidInputError: for another last axis, negative or non-finite counts, or counts that are all zero.

        Example:
            >>> float(FBeta(1.0).value([30, 10, 10, 50]))
            0.75
        """
        c = np.asarray(counts, dtype=np.float64)
        if c.ndim == 0 or c.shape[-1] != 4:
            raise InvalidInputError(f"`counts` needs TP, FP, FN, TN along its last axis, got shape {c.shape}")
        if not (np.isfinite(c).all() and (c >= 0).all()) or not (c.sum(-1) > 0).all():
            raise InvalidInputError("`counts` must be finite, zero or more, and not all zero; check the counts")
        positives, negatives = c[..., 0] + c[..., 2], c[..., 1] + c[..., 3]
        valueless = (positives == 0) & (self.numerator[3] == 0)
        if self.per_class:
            valueless = (positives == 0) | (negatives == 0)
            with np.errstate(invalid="ignore", divide="ignore"):
                c = np.where(valueless[..., None], 0.0, c / np.stack([positives, negatives, positives, negatives], -1))
        if undefined == "warn" and valueless.any():
            missing = "positives" if (positives == 0).any() else "negatives"
            message = f"{self.name} is undefined where there are no {missing}; it is set to 0"
            warnings.warn(message, UndefinedMetricWarning, stacklevel=2)
        above, below = c @ np.array(self.numerator), c @ np.array(self.denominator)
        return np.divide(above, below, out=np.zeros_like(above), where=below > 0)[()]

    def score(self, y: ArrayLike, prediction: ArrayLike) -> float:
        """The metric of predictions: `value` of `confusion`."""
        return float(self.value(confusion(y, prediction)))

    def costs(self, level: float, *, prevalence: float = 0.5) -> Costs:
        r"""Costs of the two errors when the metric stands at `level`.

        .. math:: c_{FN} = \kappa_{FN} - \kappa_{TP}, \quad c_{FP} = \kappa_{FP} - \kappa_{TN}, \quad
            \kappa = -n + M d

        A negative cost, which a level outside the metric's range can give, becomes 0 and a warning says so.
        """
        numerator, denominator = self.rows(prevalence)
        tp, fp, fn, tn = -numerator + level * denominator
        costs = np.array([fn - tp, fp - tn])
        if (costs < -1e-12 * np.abs(costs).max()).any():
            warnings.warn(
                f"{self.name} has a negative cost at level {level:g}, which lies outside its range; it is set to 0",
                UserWarning,
                stacklevel=2,
            )
        fn, fp = np.maximum(costs, 0.0).tolist()
        return Costs(fn, fp)

    def bayes_threshold(self, level: float, *, prevalence: float = 0.5) -> float:
        r"""Smallest \(\eta\) that is predicted positive when the best metric is `level`: c_FP / (c_FN + c_FP)."""
        c = self.costs(level, prevalence=prevalence)
        return c.fp / (c.fn + c.fp) if c.fn + c.fp > 0 else 0.5

    def span(self, prevalence: float = 0.5) -> tuple[float, float]:
        """Smallest and largest value that any classifier can have at this prevalence.

        A linear-fractional function of (true positive rate, true negative rate) has its extremes at the corners.
        """
        p, q = prevalence, 1 - prevalence
        corners = np.array([[p, 0, 0, q], [p, q, 0, 0], [0, 0, p, q], [0, q, p, 0]])
        values = self.value(corners, undefined="zero")
        return float(np.min(values)), float(np.max(values))

    def as_plain(self) -> dict[str, Any]:
        """What `metric_from_plain` reads back: JSON values."""
        return {
            "name": self.name,
            "numerator": list(self.numerator),
            "denominator": list(self.denominator),
            "per_class": self.per_class,
        }


def metric_from_plain(data: Mapping[str, Any]) -> LinearFractionalMetric:
    """The metric that `as_plain` wrote.

    Guarantee: equal to the metric written.

    Example:
        >>> metric_from_plain(Jaccard().as_plain()) == Jaccard()
        True
    """
    return LinearFractionalMetric(data["numerator"], data["denominator"], data["name"], bool(data["per_class"]))


def FBeta(beta: float = 1.0) -> LinearFractionalMetric:
    r"""\(F_\beta = (1+\beta^2) TP / ((1+\beta^2) TP + \beta^2 FN + FP)\).

    Args:
        beta: how many times recall weighs against precision; 1 balances them, 2 forgives false alarms.

    Raises:
        InvalidInputError: for a beta that is not positive and finite.

    Guarantee: costs (1 + beta^2 - M, M), so the Bayes threshold is M / (1 + beta^2).

    Example:
        >>> FBeta(2.0).bayes_threshold(0.5)
        0.1
    """
    if not (np.isfinite(beta) and beta > 0):
        raise InvalidInputError(f"`beta` must be positive and finite, got {beta}; use Precision() for its limit 0")
    b = float(beta) ** 2
    return LinearFractionalMetric((1 + b, 0, 0, 0), (1 + b, 1, b, 0), name=f"F{beta:g}")


def Jaccard() -> LinearFractionalMetric:
    """Intersection over union, TP / (TP + FP + FN).

    Guarantee: costs (1, M), so the Bayes threshold is M / (1 + M).

    Example:
        >>> float(Jaccard().value([30, 10, 20, 40]))
        0.5
    """
    return LinearFractionalMetric((1, 0, 0, 0), (1, 1, 1, 0), name="Jaccard")


def Tversky(a: float, b: float) -> LinearFractionalMetric:
    """TP / (TP + a FP + b FN), with a, b >= 0; a = b = 1 is Jaccard, a = b = 1/2 is F1.

    Guarantee: costs (1 - M + b M, a M).

    Example:
        >>> float(Tversky(0.5, 0.5).value([30, 10, 20, 40]) - FBeta(1.0).value([30, 10, 20, 40]))
        0.0
    """
    return LinearFractionalMetric((1, 0, 0, 0), (1, a, b, 0), name=f"Tversky({a:g}, {b:g})")


def Precision() -> LinearFractionalMetric:
    """TP / (TP + FP). Degenerate as a goal: one sure positive attains it.

    Guarantee: costs (1 - M, M).

    Example:
        >>> float(Precision().value([30, 10, 20, 40]))
        0.75
    """
    return LinearFractionalMetric((1, 0, 0, 0), (1, 1, 0, 0), name="precision")


def Accuracy() -> LinearFractionalMetric:
    """TP + TN.

    Guarantee: costs (1, 1) at every level: METRO is then a plain fit.

    Example:
        >>> float(Accuracy().value([30, 10, 20, 40]))
        0.7
    """
    return LinearFractionalMetric((1, 0, 0, 1), (1, 1, 1, 1), name="accuracy")


def BalancedAccuracy() -> LinearFractionalMetric:
    """The arithmetic mean (AM) of the two recalls, TP / (2 pi) + TN / (2 (1 - pi)).

    Guarantee: costs (1 / (2 pi), 1 / (2 (1 - pi))) at every level: one fit is enough, the Bayes threshold is pi.

    Example:
        >>> float(BalancedAccuracy().value([30, 10, 20, 40]))
        0.7
    """
    return LinearFractionalMetric((0.5, 0, 0, 0.5), (0.5, 0.5, 0.5, 0.5), name="balanced accuracy", per_class=True)


def WeightedAccuracy(w_tp: float, w_tn: float, w_fn: float, w_fp: float) -> LinearFractionalMetric:
    """(w1 TP + w2 TN) / (w1 TP + w2 TN + w3 FN + w4 FP), the weights in the order TP, TN, FN, FP.

    Guarantee: costs (w1 (1 - M) + w3 M, w2 (1 - M) + w4 M).

    Example:
        >>> float(WeightedAccuracy(1, 1, 1, 1).value([30, 10, 20, 40]))
        0.7
    """
    return LinearFractionalMetric((w_tp, 0, 0, w_tn), (w_tp, w_fp, w_fn, w_tn), name="weighted accuracy")


def get_metric(metric: Any) -> LinearFractionalMetric:
    """The metric of a name: `f1`, `f2`, `f0.5` (any F_beta), `jaccard`, `balanced-accuracy`, `accuracy`, `precision`.

    Raises:
        InvalidInputError: for names that are unknown, or known and not linear-fractional.

    Guarantee: none; it looks a name up.

    Example:
        >>> get_metric("f0.5").name, get_metric("balanced_accuracy").name
        ('F0.5', 'balanced accuracy')
    """
    if isinstance(metric, LinearFractionalMetric):
        return metric
    if isinstance(metric, str):
        name = re.sub(r"[\s_-]", "", metric.lower())
        named = {"jaccard": Jaccard, "iou": Jaccard, "accuracy": Accuracy, "precision": Precision}
        named |= {"balancedaccuracy": BalancedAccuracy, "am": BalancedAccuracy}
        if name in named:
            return named[name]()
        if match := re.fullmatch(r"f(?:beta)?(\d+(?:\.\d+)?)", name):
            return FBeta(float(match[1]))
        if name in NOT_LINEAR_FRACTIONAL:
            raise InvalidInputError(
                f"{NOT_LINEAR_FRACTIONAL[name]} is not a ratio of linear functions of the confusion matrix, "
                "so METRO cannot optimise it; choose f1, jaccard, balanced-accuracy, or give your own two rows"
            )
    raise InvalidInputError(
        f"`metric` must be a LinearFractionalMetric or one of f1, f2, f0.5, jaccard, balanced-accuracy, accuracy, "
        f"precision, got {metric!r}"
    )


def confusion(y: ArrayLike, prediction: ArrayLike) -> Float[np.ndarray, "*columns 4"]:
    """Confusion counts TP, FP, FN, TN over the first axis.

    Args:
        y: (n, ...) truth; positive where larger than 0 (so 0/1, -1/+1 and booleans all work).
        prediction: (n, ...) likewise.

    Returns:
        (..., 4) counts.

    Raises:
        InvalidInputError: for different shapes, no rows, or NaN.

    Guarantee: none; a definition.

    Example:
        >>> confusion([1, 1, 0, 0], [1, 0, 0, 0]).tolist()
        [1.0, 0.0, 1.0, 2.0]
    """
    truth, guess = np.asarray(y), np.asarray(prediction)
    if truth.shape != guess.shape or truth.ndim == 0 or len(truth) == 0:
        raise InvalidInputError(
            f"truth and prediction need the same non-empty shape, got {truth.shape} and {guess.shape}"
        )
    if truth.dtype.kind not in "biuf" or guess.dtype.kind not in "biuf":
        raise InvalidInputError("truth and prediction must be numbers or booleans; encode labels first")
    if np.isnan(truth).any() or np.isnan(guess).any():
        raise InvalidInputError("truth or prediction holds NaN; drop those rows")
    p, h = truth > 0, guess > 0
    cells = [p & h, ~p & h, p & ~h, ~p & ~h]
    return np.stack([cell.sum(0) for cell in cells], -1).astype(np.float64)
