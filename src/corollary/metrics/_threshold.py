"""The best threshold on scores for a metric, on given rows: every cut at once, by sorting."""

import numpy as np
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError
from corollary.metrics._metric import LinearFractionalMetric


def best_threshold(metric: LinearFractionalMetric, y: ArrayLike, score: ArrayLike) -> tuple[float, float]:
    """The threshold above which rows are predicted positive, and the metric it reaches on these rows.

    Args:
        metric: what to maximise.
        y: (n,) truth, positive where larger than 0.
        score: (n,) scores; rows with a score above the threshold are predicted positive.

    Returns:
        (threshold, value); the threshold lies midway between two scores, or beyond the extreme ones.

    Raises:
        InvalidInputError: for no rows, different lengths, or NaN scores.

    Guarantee: no other threshold is better on these rows (an exhaustive search in O(n log n)).

    Example:
        >>> from corollary.metrics import FBeta
        >>> best_threshold(FBeta(1.0), [0, 1, 0, 1], [0.1, 0.4, 0.2, 0.9])
        (0.30000000000000004, 1.0)
    """
    truth, s = np.asarray(y) > 0, np.asarray(score, dtype=np.float64)
    if truth.shape != s.shape or s.ndim != 1 or len(s) == 0 or np.isnan(s).any():
        raise InvalidInputError(f"truth and scores must be (n,) without NaN, got {truth.shape} and {s.shape}")
    order = np.argsort(-s, kind="stable")
    ranked, t = s[order], truth[order]
    tp = np.append(0, np.cumsum(t))
    fp = np.append(0, np.cumsum(~t))
    counts = np.stack([tp, fp, tp[-1] - tp, fp[-1] - fp], -1)
    values = np.asarray(metric.value(counts, undefined="zero"))
    possible = np.append(True, np.append(ranked[1:] < ranked[:-1], True))  # a cut cannot part equal scores
    i = int(np.argmax(np.where(possible, values, -np.inf)))
    edge = np.concatenate([[ranked[0] + 1.0], (ranked[1:] + ranked[:-1]) / 2, [ranked[-1] - 1.0]])
    return float(edge[i]), float(values[i])
