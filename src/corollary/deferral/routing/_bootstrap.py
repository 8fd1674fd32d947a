"""Bootstrap intervals over prompts or clusters of prompts (subjects, users), paired where routers are compared."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int


def resamples(count: int, *, group: Any = None, repeats: int = 200, seed: int = 0) -> Iterator[Int[np.ndarray, " m"]]:
    """Row indices of bootstrap samples; whole groups are drawn where `group` (N,) is given.

    Example:
        >>> first = next(resamples(4, group=["a", "a", "b", "b"], repeats=1, seed=1))
        >>> sorted(first.tolist()) in ([0, 0, 1, 1], [0, 1, 2, 3], [2, 2, 3, 3])
        True
    """
    rng = np.random.default_rng(seed)
    if group is None:
        for _ in range(repeats):
            yield rng.integers(count, size=count)
        return
    _, label = np.unique(np.asarray(group), return_inverse=True)
    order = np.argsort(label, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    for _ in range(repeats):
        yield np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])


def intervals(
    metrics: Callable[[Int[np.ndarray, " m"]], Mapping[str, float]],
    count: int,
    *,
    group: Any = None,
    repeats: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, list[float]]:
    """Percentile intervals of named metrics; give differences under names of their own for paired comparisons.

    Args:
        metrics: row indices -> named numbers.
        count: number of rows.
        group: (N,) cluster of every row.
        repeats, level, seed: of the bootstrap.

    Returns:
        name -> [lower, upper]; names whose metric was never finite are left out.

    Guarantee: none in finite samples; the percentile bootstrap is asymptotic.

    Example:
        >>> x = np.arange(100) / 100
        >>> low, high = intervals(lambda rows: {"mean": x[rows].mean()}, 100)["mean"]
        >>> low < 0.495 < high
        True
    """
    found: dict[str, list[float]] = {}
    for rows in resamples(count, group=group, repeats=repeats, seed=seed):
        for name, value in metrics(rows).items():
            if np.isfinite(value):
                found.setdefault(name, []).append(value)
    tail = 50 * (1 - level)
    return {n: [round(float(v), 6) for v in np.percentile(values, [tail, 100 - tail])] for n, values in found.items()}
