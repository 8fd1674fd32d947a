"""Precision and coverage of a score that accepts or rejects: curves, coverage at an error, area, intervals.

Accept the m highest scores, ties together; coverage = m / N, precision = share of good outputs among them. AURC is the
area under the curve of the accepted error over coverage (Geifman and El-Yaniv 2017; textbook).
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from corollary.deferral._rejection import judged
from corollary.errors import InvalidInputError


class CoverageCurve(NamedTuple):
    """Precision and coverage as the threshold falls: accept the m highest scores, ties together.

    Guarantee: none; see the functions that use it.

    Example:
        >>> precision_coverage([3.0, 2.0, 1.0], [True, False, True]).coverage.round(2).tolist()
        [0.33, 0.67, 1.0]
    """

    threshold: Float[np.ndarray, " m"]
    coverage: Float[np.ndarray, " m"]
    precision: Float[np.ndarray, " m"]


def precision_coverage(scores: Any, acceptable: Any) -> CoverageCurve:
    """The precision-coverage curve of a score.

    Args:
        scores: (N,) larger is better.
        acceptable: (N,) judgements.

    Guarantee: none; thresholds chosen on it are to be certified on other rows.

    Example:
        >>> precision_coverage([3.0, 2.0], [True, False]).precision.tolist()
        [1.0, 0.5]
    """
    r, a = (v.numpy() for v in judged(np.asarray(scores, dtype=np.float64), acceptable))
    order = np.argsort(-r, kind="stable")
    count = np.arange(1, len(r) + 1)
    good = np.cumsum(a[order] > 0)
    last = np.append(r[order][1:] != r[order][:-1], True)
    return CoverageCurve(r[order][last], (count / len(r))[last], (good / count)[last])


def coverage_at(scores: Any, acceptable: Any, *, error: float) -> float:
    """Largest coverage at which no more than a share `error` of what is accepted is bad; 0 where none is.

    Args:
        scores, acceptable: as in `precision_coverage`.
        error: in [0, 1].

    Guarantee: none on other rows.

    Example:
        >>> coverage_at([3.0, 2.0, 1.0], [True, True, False], error=0.1) == 2 / 3
        True
    """
    curve = precision_coverage(scores, acceptable)
    fits = curve.precision >= 1 - error - 1e-12
    return float(curve.coverage[fits].max()) if fits.any() else 0.0


def coverage_limit(error_rate: float, error: float) -> float:
    r"""Coverage of a perfect ordering: \(\min(1, (1 - err) / (1 - e))\).

    Args:
        error_rate: share of bad outputs.
        error: share allowed among the accepted ones.

    Guarantee: exact for a large sample.

    Example:
        >>> round(coverage_limit(0.355, 0.1775), 3)
        0.784
    """
    return min(1.0, (1 - error_rate) / (1 - error))


def risk_coverage_area(scores: Any, acceptable: Any) -> float:
    """AURC: mean share of bad outputs among the m highest scores, over m = 1..N; smaller is better.

    Args:
        scores, acceptable: as in `precision_coverage`; equal scores share the error of their group.

    Guarantee: none on other rows.

    Example:
        >>> risk_coverage_area([3.0, 2.0], [True, False])
        0.25
    """
    curve = precision_coverage(scores, acceptable)
    return float(np.dot(np.diff(curve.coverage, prepend=0.0), 1 - curve.precision))


class CoverageInterval(NamedTuple):
    """A coverage with its bootstrap interval.

    Guarantee: none; see the functions that use it.

    Example:
        >>> CoverageInterval(0.7, 0.65, 0.74).coverage
        0.7
    """

    coverage: float
    lower: float
    upper: float


def coverage_intervals(
    scores: Any, acceptable: Any, *, errors: Any, repeats: int = 200, level: float = 0.95, seed: int = 0
) -> dict[float, CoverageInterval]:
    """Coverage at each of several accepted errors, with percentile bootstrap intervals over the rows.

    Args:
        scores, acceptable: as in `precision_coverage`.
        errors: the accepted errors, each in [0, 1].
        repeats, level, seed: of the bootstrap; the threshold is chosen anew in every sample.

    Raises:
        InvalidInputError: for an error outside [0, 1] or no repeats.

    Guarantee: none in finite samples; thresholds are chosen on the rows that measure them, so coverage is optimistic by
        O(1 / sqrt(N)). `certify_accepted_error` states what holds on other rows.

    Example:
        >>> found = coverage_intervals(np.arange(100.0), np.arange(100) > 30, errors=[0.1], repeats=20)[0.1]
        >>> found.lower <= found.coverage <= found.upper
        True
    """
    wanted = [float(e) for e in np.atleast_1d(np.asarray(errors, dtype=np.float64))]
    if repeats < 1 or not all(0 <= e <= 1 for e in wanted):
        raise InvalidInputError(f"`errors` must lie in [0, 1] and `repeats` be at least 1, got {wanted}, {repeats}")
    r, a = (v.numpy() for v in judged(np.asarray(scores, dtype=np.float64), acceptable))
    rng = np.random.default_rng(seed)
    drawn = np.empty((repeats, len(wanted)))
    for i in range(repeats):
        rows = rng.integers(len(r), size=len(r))
        drawn[i] = [coverage_at(r[rows], a[rows], error=e) for e in wanted]
    tail = 50 * (1 - level)
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
    return {
        e: CoverageInterval(coverage_at(r, a, error=e), float(low[j]), float(high[j])) for j, e in enumerate(wanted)
    }
