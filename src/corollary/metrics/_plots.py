"""The numbers behind the pictures of a fit: precision-recall plane, calibration, errors a class, confusion."""

from typing import Any

import numpy as np

from corollary.certificates import clopper_pearson
from corollary.metrics._classifier import MetroClassifier
from corollary.metrics._metric import LinearFractionalMetric, confusion

MOST_POINTS = 200
BINS = 10


def report_data(classifier: MetroClassifier, X: np.ndarray, y: np.ndarray, *, delta: float = 0.05) -> dict[str, Any]:
    """JSON values for the page of a fit.

    Args:
        classifier: fitted.
        X, y: rows it was not trained on.
        delta: of the intervals of the errors (each interval on its own).

    Returns:
        `plane` (precision and recall along all thresholds, the chosen point; two classes only), `calibration`,
        `per_class` (error with its Clopper-Pearson interval), `confusion` with `labels`.
    """
    guess = classifier.predict(X)
    labels = list(classifier.classes_)
    table = [[int(np.sum((y == a) & (guess == b))) for b in labels] for a in labels]
    errors = []
    for label in labels:
        here = y == label
        wrong, count = int(np.sum(here & (guess != label))), int(here.sum())
        interval = clopper_pearson(wrong, count, delta=delta)
        errors.append(
            {
                "label": str(label),
                "rows": count,
                "error": wrong / count if count else None,
                "low": float(interval.lower),
                "high": float(interval.upper),
            }
        )
    out: dict[str, Any] = {"labels": [str(v) for v in labels], "confusion": table, "per_class": errors}
    if classifier.kind_ == "binary":
        truth = y == labels[1]
        out["plane"] = plane(truth, classifier.decision_function(X)) | {"metric": classifier.metric_.as_plain()}
        if hasattr(classifier, "predict_proba"):
            out["calibration"] = calibration(truth, classifier.predict_proba(X)[:, 1])
    return out


def plane(truth: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    """Precision and recall along all thresholds, at most 200 of them, and at threshold 0."""
    order = np.argsort(-score, kind="stable")
    tp, cut = np.cumsum(truth[order]), np.arange(1, len(score) + 1)
    last = np.append(np.diff(score[order]) != 0, True)  # a threshold cannot part equal scores
    keep = np.flatnonzero(last)
    keep = keep[np.unique(np.linspace(0, len(keep) - 1, MOST_POINTS).astype(int))]
    tp0, fp0, fn0, _ = confusion(truth, score > 0)
    total = max(int(truth.sum()), 1)
    return {
        "recall": np.round(tp[keep] / total, 5).tolist(),
        "precision": np.round(tp[keep] / cut[keep], 5).tolist(),
        "chosen": {"recall": float(tp0 / max(tp0 + fn0, 1)), "precision": float(tp0 / max(tp0 + fp0, 1))},
        "prevalence": float(truth.mean()),
    }


def iso_line(metric: LinearFractionalMetric, value: float, recall: np.ndarray, prevalence: float) -> np.ndarray:
    """The precision that gives `value` at each recall (NaN where none does): a line of equal metric in the plane.

    With TP = pi r and FP = x the metric is a ratio of linear functions of x, so x follows; precision = TP / (TP + x).

    Guarantee: exact; the metric of every point returned is `value`.

    Example:
        >>> from corollary.metrics import FBeta
        >>> iso_line(FBeta(1.0), 0.5, np.array([0.5]), 0.2).round(6).tolist()
        [0.5]
    """
    n, d = metric.rows(prevalence)
    tp, fn = prevalence * recall, prevalence * (1 - recall)
    negatives = 1 - prevalence  # TN = negatives - FP
    rest = (n[0] - value * d[0]) * tp + (n[2] - value * d[2]) * fn + (n[3] - value * d[3]) * negatives
    slope = (n[1] - value * d[1]) - (n[3] - value * d[3])
    with np.errstate(divide="ignore", invalid="ignore"):
        fp = -rest / slope
        precision = tp / (tp + fp)
    return np.where((fp >= 0) & (fp <= negatives) & (tp > 0), precision, np.nan)


def calibration(truth: np.ndarray, p: np.ndarray) -> dict[str, list[float]]:
    """Mean probability, share of positives and rows in ten bins of equal size."""
    bins = np.array_split(np.argsort(p, kind="stable"), min(BINS, len(p)))
    return {
        "probability": [float(p[b].mean()) for b in bins],
        "share": [float(truth[b].mean()) for b in bins],
        "rows": [float(len(b)) for b in bins],
    }
