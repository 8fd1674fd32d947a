"""Which inputs are views of one another: from transformations, and from pairs that mean the same."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError


def connected_orbits(count: int, pairs: ArrayLike) -> Int[np.ndarray, " n"]:
    """(n,) the orbit of each input: the connected components of the graph of equivalent pairs.

    Args:
        count: inputs.
        pairs: (m, 2) indices of inputs that mean the same; what follows by transitivity is added.

    Raises:
        InvalidInputError: for indices outside the inputs.

    Guarantee: the finest grouping that joins every pair.

    Example:
        >>> connected_orbits(5, [[0, 1], [1, 4]]).tolist()
        [0, 0, 1, 2, 0]
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
    if count < 1 or (edges.size and (edges.min() < 0 or edges.max() >= count)):
        raise InvalidInputError(f"pairs must name inputs 0 to {count - 1}, got {edges.min()} to {edges.max()}")
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def make_views(
    X: Any,
    transforms: Sequence[Callable[[Any], Any]],
    *,
    samples: int | None = None,
    weights: ArrayLike | None = None,
    seed: int | np.random.Generator = 0,
) -> list[Any]:
    """Views of a batch: one for each transformation, or `samples` drawn by their weights, anew for every input.

    Args:
        X: (N, ...) inputs; an array, or a list.
        transforms: functions from a batch to the transformed batch; include the identity where the original counts.
        samples: how many views to draw (with replacement); None for one view a transformation.
        weights: (T,) probability of each transformation when drawing; equal by default.
        seed: of the draw.

    Returns:
        A list of batches, each like X.

    Raises:
        InvalidInputError: without transformations, or where one changes the number of inputs.

    Guarantee: drawn views are independent given the inputs.

    Example:
        >>> [v.tolist() for v in make_views(np.array([[1, 2]]), [lambda x: x, lambda x: x[:, ::-1]])]
        [[[1, 2]], [[2, 1]]]
    """
    if not transforms:
        raise InvalidInputError("no transformation was given; name at least one, with the identity among them")
    views = [t(X) for t in transforms]
    for one, t in zip(views, transforms, strict=True):
        if len(one) != len(X):
            name = getattr(t, "__name__", repr(t))
            raise InvalidInputError(f"the transformation {name} made {len(one)} inputs of {len(X)}; it must keep them")
    if samples is None:
        return views
    if samples < 1:
        raise InvalidInputError(f"`samples` must be one or more, got {samples}")
    rng = np.random.default_rng(seed)
    p = np.full(len(views), 1 / len(views)) if weights is None else np.asarray(weights, dtype=float)
    picks = rng.choice(len(views), size=(samples, len(X)), p=p / p.sum())
    if isinstance(X, np.ndarray):
        stacked = np.stack(views)
        return [stacked[row, np.arange(len(X))] for row in picks]
    return [[views[t][i] for i, t in enumerate(row)] for row in picks]
