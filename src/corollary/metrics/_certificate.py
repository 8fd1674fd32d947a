r"""What is certified of a fitted classifier, and how it is derived again; imports no solver.

`metrics.at_least` [confidence 1 - delta]: on rows exchangeable with the n given, the metric of the classifier is at
least m. Three bounds, chosen by the metric, not by the data:

exact: where the cells carry only two different nonzero pairs (numerator, denominator) u and v, the metric is a monotone
function of \(q = P(u) / (P(u) + P(v))\), and given \(n' = \#\{u \text{ or } v\}\) the count of u is Bin(n', q):
Clopper-Pearson. Jaccard: TP ~ Bin(n', J), F1 = 2J / (1 + J); also accuracy, precision, Tversky(a, a).

class-wise (`per_class` metrics: balanced accuracy): each recall by Clopper-Pearson at delta/2; the metric does not fall
in either.

betting or bernstein: at a level m fixed beforehand, the hypothesis "M <= m" is E[num - m den] <= 0; it is tested by
betting (order fixed by the digest) or by empirical Bernstein. The bound ends the run of grid levels that are rejected:
it exceeds the truth only if the smallest grid level above the truth was rejected, a true hypothesis, at level delta.
Rows with num = den = 0 say nothing and are left out, which conditions on their number.

Several classes or labels: macro, each at delta / L, averaged; micro, the sums over the labels of a row as its unit.

[derived]; Clopper and Pearson (1934), Waudby-Smith and Ramdas (2024), Maurer and Pontil (2009).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

from corollary.certificates import (
    Claim,
    Rule,
    Undecided,
    clopper_pearson,
    digest,
    log_capital,
    order_from_digest,
    register_rule,
    require_units,
)
from corollary.certificates import empirical_bernstein as bernstein_bound
from corollary.metrics._metric import LinearFractionalMetric, metric_from_plain

GRID = 0.002  # of the span, between the levels that are tested
METHODS = ("auto", "exact", "class-wise", "betting", "bernstein")
CHUNK = 2_000_000  # cells of a (rows, levels) table held at once


class TwoValued(NamedTuple):
    """The pairs (numerator, denominator) of the better and the worse cells, and which cells carry them."""

    better: Bool[np.ndarray, "4"]
    worse: Bool[np.ndarray, "4"]
    high: tuple[float, float]
    low: tuple[float, float]


def two_valued(metric: LinearFractionalMetric) -> TwoValued | None:
    """The metric as a monotone function of one binomial proportion, where it is one.

    Example:
        >>> from corollary.metrics import FBeta
        >>> two_valued(FBeta(1.0)).worse.tolist(), two_valued(FBeta(2.0))
        ([False, True, True, False], None)
    """
    if metric.per_class:
        return None
    cells = list(zip(metric.numerator, metric.denominator, strict=True))
    kinds = sorted({c for c in cells if c != (0.0, 0.0)})
    if len(kinds) != 2:
        return None
    (n0, d0), (n1, d1) = kinds
    if n1 * d0 == n0 * d1:
        return None  # a constant
    high, low = (kinds[1], kinds[0]) if n1 * d0 > n0 * d1 else (kinds[0], kinds[1])
    return TwoValued(np.array([c == high for c in cells]), np.array([c == low for c in cells]), high, low)


def choose_method(metric: LinearFractionalMetric) -> str:
    """The bound that `auto` means for this metric."""
    if metric.per_class:
        return "class-wise"
    return "exact" if two_valued(metric) else "betting"


def lower_bound(
    metric: LinearFractionalMetric, cells: Float64[np.ndarray, "n 4"], *, delta: float, method: str = "auto"
) -> float:
    r"""A level that the metric reaches with confidence 1 - delta.

    Args:
        metric: what is bounded.
        cells: (n, 4) one unit a row: how often it is TP, FP, FN, TN (one-hot for single labels).
        delta: probability of failure.
        method: `"exact"`, `"class-wise"`, `"betting"`, `"bernstein"`, or `"auto"`, which decides by the metric.

    Raises:
        Undecided: under 30 units that bear on the metric, or where a method does not apply to it.

    Guarantee: exceeds the metric of the classifier on the population with probability at most delta, for independent
        rows and a classifier, metric and method fixed beforehand.

    Example:
        >>> from corollary.metrics import FBeta
        >>> cells = np.repeat(np.eye(4), [80, 20, 20, 380], axis=0)
        >>> round(lower_bound(FBeta(1.0), cells, delta=0.05), 4)
        0.7415
    """
    method = choose_method(metric) if method == "auto" else method
    if method in ("exact", "class-wise") and not np.isin(cells.sum(1), (0.0, 1.0)).all():
        method = "betting"  # several labels a unit: the counts are not binomial
    if method == "exact":
        return _exact(metric, cells.sum(0), delta)
    if method == "class-wise":
        return _class_wise(metric, cells.sum(0), delta)
    if method in ("betting", "bernstein"):
        return _inverted(metric, cells, delta, method)
    raise Undecided(f"`method` must be one of {', '.join(METHODS)}, got {method!r}")


def _exact(metric: LinearFractionalMetric, counts: Float[np.ndarray, "4"], delta: float) -> float:
    form = two_valued(metric)
    if form is None:
        raise Undecided(f"{metric.name} is not a function of one proportion; use betting")
    better, trials = counts[form.better].sum(), counts[form.better | form.worse].sum()
    require_units(int(trials), f"rows that bear on {metric.name}")
    q = clopper_pearson(better, trials, delta=delta, side="lower").lower.item()
    above, below = (q * h + (1 - q) * w for h, w in zip(form.high, form.low, strict=True))
    return above / below


def _class_wise(metric: LinearFractionalMetric, counts: Float[np.ndarray, "4"], delta: float) -> float:
    tp, fp, fn, tn = counts
    if not metric.per_class:
        raise Undecided(f"{metric.name} depends on the prevalence too; use betting")
    if min(metric.costs(m).fn * metric.costs(m).fp for m in metric.span()) < 0:
        raise Undecided(f"{metric.name} falls as a recall grows")
    for size, name in ((tp + fn, "positives"), (tn + fp, "negatives")):
        require_units(int(size), name)
    a = clopper_pearson(tp, tp + fn, delta=delta / 2, side="lower").lower.item()
    b = clopper_pearson(tn, tn + fp, delta=delta / 2, side="lower").lower.item()
    return float(metric.value([a, 1 - b, 1 - a, b], undefined="zero"))


def _inverted(metric: LinearFractionalMetric, cells: Float64[np.ndarray, "n 4"], delta: float, method: str) -> float:
    if metric.per_class:
        raise Undecided(f"{metric.name} is a ratio within each class; use class-wise")
    above, below = cells @ np.array(metric.numerator), cells @ np.array(metric.denominator)
    bears = (above != 0) | (below != 0)
    require_units(int(bears.sum()), f"rows that bear on {metric.name}")
    above, below = above[bears], below[bears]
    if method == "betting":
        order = order_from_digest(digest(cells=cells), len(above))
        above, below = above[order], below[order]
    labels = float(cells.sum(1).max())
    pairs = np.array([metric.numerator, metric.denominator])
    low, high = metric.span()
    grid = low + (high - low) * np.arange(0.0, 1.0, GRID)
    width = max(1, CHUNK // len(above))
    for start in range(0, len(grid), width):
        m = grid[start : start + width]
        extremes = labels * (pairs[0][:, None] - pairs[1][:, None] * m)  # (4, g) what a row can be at most
        floor, ceiling = np.minimum(extremes.min(0), 0.0), np.maximum(extremes.max(0), 0.0)
        values = np.clip((above[:, None] - m * below[:, None] - floor) / (ceiling - floor), 0.0, 1.0)
        zero = np.abs(floor) / (ceiling - floor)  # not -0.0, which would turn a bound of the bets around
        if method == "betting":
            rejected = log_capital(values, zero, delta=delta) >= np.log(1 / delta)
        else:
            rejected = bernstein_bound(values, delta=delta, side="lower").lower > zero
        if not rejected.all():
            first = start + int(np.argmin(rejected))
            return float(grid[first - 1]) if first else low
    return float(grid[-1])


def to_cells(truth: np.ndarray, prediction: np.ndarray) -> Float64[np.ndarray, "n l 4"]:
    """(n, L, 4) one-hot cells TP, FP, FN, TN of every row and column."""
    y, h = truth.astype(bool), prediction.astype(bool)
    return np.stack([y & h, ~y & h, y & ~h, ~y & ~h], -1).astype(np.float64)


def constant_value(metric: LinearFractionalMetric, truth: np.ndarray) -> float:
    """The better of the two constant predictions on these rows, averaged over the columns: what needs no learning."""
    share = truth.reshape(len(truth), -1).mean(0)
    inside = share[(share > 0) & (share < 1)]
    if len(inside) == 0:
        return 0.0
    corners = np.stack([[inside, 1 - inside, 0 * inside, 0 * inside], [0 * inside, 0 * inside, inside, 1 - inside]])
    return float(np.mean(np.max(metric.value(np.moveaxis(corners, 1, -1), undefined="zero"), 0)))


def at_least(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claim: evidence `truth` and `prediction`, (n,) or (n, L), 0 or 1."""
    metric = metric_from_plain(witness["metric"])
    truth, prediction = evidence["truth"], evidence["prediction"]
    require_units(len(truth), "rows")
    if not (np.isin(truth, (0, 1)).all() and np.isin(prediction, (0, 1)).all()) or truth.shape != prediction.shape:
        raise Undecided("truth and prediction must be 0 or 1 and of one shape")
    cells = to_cells(truth.reshape(len(truth), -1), prediction.reshape(len(truth), -1))
    options = {"delta": witness["delta"], "method": witness["method"]}
    columns, average = cells.shape[1], witness["average"]
    if columns == 1:
        bound = lower_bound(metric, cells[:, 0], **options)
    elif average == "micro":
        bound = lower_bound(metric, cells.sum(1), **options)
    elif average == "macro":
        options["delta"] = witness["delta"] / columns
        bound = float(np.mean([lower_bound(metric, cells[:, j], **options) for j in range(columns)]))
    else:
        raise Undecided("the weights of a weighted average are themselves estimated; certify macro or micro")
    average_name = "" if columns == 1 else f"{average} "
    name = f"{average_name}{metric.name} on fresh rows, lower confidence bound"
    return [Claim(name, bound, ">=", witness["bound"], 1e-9, constant_value(metric, truth))]


def rescore(run: Path, witness: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Evidence of a run of `corollary fit`, from its table and its stored model."""
    from corollary.metrics._fit_table import rescored

    return rescored(run, witness)


register_rule(
    Rule(
        "metrics.at_least",
        needs=("truth", "prediction"),
        derive=at_least,
        rescore=rescore,
        tolerances={"prediction": 1.0, "claims": 0.002},  # a score at the threshold may fall on either side elsewhere
    )
)
