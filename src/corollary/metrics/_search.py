r"""Searches for the level \(M^*\) at which the cost-weighted problem and the metric agree.

Symbols: `evaluate(M)` trains with the costs of level M and returns the metric of what it found;
\(g(\lambda) = \inf_h E[l_\lambda(h)]\), \(\lambda = -M\), is concave and non-increasing with \(g(\lambda^*) = 0\), so
with an exact oracle `evaluate(M) >= M` iff M <= M*. [derived, tested: bisection closes in on M*, Dinkelbach's levels
do not fall]

With a trained, inexact oracle neither holds: every search keeps the best level it has seen.

Source: Mao, Mohri and Zhong (ICML 2025), Theorem 3.1; Dinkelbach (1967). The paper's own search is not known to us
beyond its name: reconstructed, may differ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from corollary.errors import InvalidInputError

Search = Literal["grid", "bisect", "dinkelbach"]
SEARCHES = get_args(Search)

PATIENCE = 3  # rounds without a better value; with an exact oracle every round but the first is better
Evaluate = Callable[[float], float]


@dataclass(frozen=True)
class SearchResult:
    """Where a search ended.

    Args:
        level: the level whose model had the best value.
        value: that value.
        levels, values: everything that was tried, in order.
        bracket: where the search places M*: the neighbours of the best grid point, the last interval of the bisection,
            or from the best value reached to the last level tried.

    Guarantee: none; it records a search.

    Example:
        >>> grid_search(lambda level: 1 - abs(level - 0.4), [0.2, 0.4, 0.8]).bracket
        (0.2, 0.8)
    """

    level: float
    value: float
    levels: tuple[float, ...]
    values: tuple[float, ...]
    bracket: tuple[float, float]


def grid_search(evaluate: Evaluate, levels: Sequence[float]) -> SearchResult:
    """Try every level, the highest first (each model starts the next); of equally good ones the median is taken."""
    grid = sorted(float(level) for level in levels)
    values = [float(evaluate(level)) for level in reversed(grid)][::-1]
    best = np.flatnonzero(np.array(values) == max(values))
    i = int(best[(len(best) - 1) // 2])
    bracket = (grid[max(best[0] - 1, 0)], grid[min(best[-1] + 1, len(grid) - 1)])
    return SearchResult(grid[i], values[i], tuple(grid), tuple(values), bracket)


def bisect_search(evaluate: Evaluate, low: float, high: float, *, tol: float = 1e-4) -> SearchResult:
    r"""Halve [low, high] until it is shorter than `tol`: raise the lower end where the metric reaches the level.

    Guarantee: with an exact oracle M* stays in the bracket (G4).
    """
    levels, values = [], []
    while high - low > tol:
        level = (low + high) / 2
        levels.append(level)
        values.append(float(evaluate(level)))
        low, high = (level, high) if values[-1] >= level else (low, level)
    return _best(levels, values, (low, high))


def dinkelbach_search(evaluate: Evaluate, start: float, *, rounds: int = 20, tol: float = 1e-4) -> SearchResult:
    """Take the metric of each model as the level of the next, until it moves less than `tol` or stops to improve.

    Guarantee: with an exact oracle the levels do not fall from the second on, and converge superlinearly (G3).
    """
    levels, values, level = [], [], float(start)
    for _ in range(rounds):
        levels.append(level)
        values.append(float(evaluate(level)))
        if abs(values[-1] - level) < tol or len(values) - int(np.argmax(values)) > PATIENCE:
            break
        level = values[-1]
    return _best(levels, values, (max(values), max(max(values), values[-1], levels[-1])))


def _best(levels: list[float], values: list[float], bracket: tuple[float, float]) -> SearchResult:
    i = len(values) - 1 - int(np.argmax(values[::-1]))  # of equals the last, where the search had come to rest
    return SearchResult(levels[i], values[i], tuple(levels), tuple(values), bracket)


def search_level(
    evaluate: Evaluate,
    *,
    search: str,
    span: tuple[float, float] = (0.0, 1.0),
    levels: int | Sequence[float] = 25,
    rounds: int = 20,
    tol: float = 1e-4,
) -> SearchResult:
    """One of the three searches over the metric's span.

    Args:
        evaluate: trains at a level and returns the metric reached there.
        search: `"grid"`, `"bisect"` or `"dinkelbach"`.
        span: smallest and largest value of the metric.
        levels: how many grid points (they keep .02 of the span away from its ends), or the levels themselves.
        rounds: most models that Dinkelbach trains.
        tol: width at which bisection stops, and the step at which Dinkelbach does.

    Raises:
        InvalidInputError: for an unknown search, or an empty or non-finite grid.

    Guarantee: with an exact oracle bisection and Dinkelbach's method end within `tol` of M* (G3, G4), and a grid loses
        at most its step times the ratio of the denominators (G5); with a trained oracle none.

    Example:
        >>> search_level(lambda level: 0.6, search="dinkelbach").level
        0.6
    """
    low, high = span
    if search == "grid":
        grid = (
            low + (high - low) * np.linspace(0.02, 0.98, levels)
            if isinstance(levels, int)
            else np.asarray(levels, dtype=np.float64)
        )
        if grid.ndim != 1 or len(grid) == 0 or not np.isfinite(grid).all():
            raise InvalidInputError(f"`levels` must be a positive number or finite levels, got {levels!r}")
        return grid_search(evaluate, grid.tolist())
    if search == "bisect":
        return bisect_search(evaluate, low, high, tol=tol)
    if search == "dinkelbach":
        return dinkelbach_search(evaluate, (low + high) / 2, rounds=rounds, tol=tol)
    raise InvalidInputError(f"`search` must be one of {', '.join(SEARCHES)}, got {search!r}")
