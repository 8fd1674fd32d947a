r"""Which transformation does not keep the task: an exact test on inputs whose views were labelled one by one.

.. math:: d = \tfrac14 \big( s(y_1) - s(y_t) \big), \qquad s = \log q_t - \log q_1

Symbols: \(y_1, y_t\) the labels that somebody gave to the original and to its transformed view; d the drop in log-loss
of the two views that was realised, minus the drop -log Z that coherence predicts. If both labels come from one truth
they can be exchanged, so d is symmetric about zero: flipping signs gives an exact test. A transformation that changes
classes draws \(y_t\) towards \(q_t\), and d below zero (G9).

The transformed views need labels of their own. With the original's label on all views the identity holds for ANY
transformation, since \(\log g(y) - \sum_i w_i \log q_i(y) = -\log Z\) for every y: nothing could be found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.coherence._inputs import as_views
from corollary.coherence._projection import project
from corollary.errors import InvalidInputError


@dataclass(frozen=True)
class Contrast:
    """A transformation beside the original.

    Args:
        name: of the transformation.
        predicted: mean drop in log-loss if it kept the task.
        realised: mean drop on the labelled rows.
        pvalue: of "it keeps the task", corrected for all transformations tested.

    Guarantee: where views share one truth and are labelled independently, `pvalue` <= a has probability at most a.

    Example:
        See `contrast`.
    """

    name: str
    predicted: float
    realised: float
    pvalue: float


def contrast(
    log_probs: ArrayLike,
    labels: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    floor: float | None = 1e-9,
    draws: int = 2000,
    seed: int = 0,
) -> list[Contrast]:
    """Test each view against the first one.

    Args:
        log_probs: (V, N, K) log-probabilities; the first view is the original.
        labels: (V, N) integers below K: the label that each view was given, looked at by itself.
        names: of the views after the first.
        floor: of the probabilities.
        draws: sign flips.
        seed: of the flips.

    Returns:
        One `Contrast` for each view after the first.

    Raises:
        InvalidInputError: for fewer than two views, or labels out of range.

    Guarantee: that of `Contrast`; many labels are needed to find a transformation that rarely changes the task.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> p = rng.dirichlet([1.0, 1.0, 1.0], size=300)
        >>> turned = p[:, ::-1]  # a transformation that exchanges the first class and the last
        >>> draw = lambda q: (rng.random((300, 1)) > q.cumsum(1)).sum(1)
        >>> views = np.log([p, 0.9 * p + 1 / 30, turned])
        >>> labels = [draw(p), draw(p), draw(turned)]
        >>> [t.pvalue < 0.05 for t in contrast(views, labels, names=("blurred", "turned"))]
        [False, True]

    Reference: G9 of our notes on arXiv:2511.08440; the test is ours.
    """
    views, y = as_views(log_probs, floor=floor), np.asarray(labels)
    if len(views) < 2:
        raise InvalidInputError("a contrast needs the original and at least one further view")
    fits = y.shape == views.shape[:2] and np.issubdtype(y.dtype, np.integer)
    if not fits or y.min() < 0 or y.max() >= views.shape[2]:
        raise InvalidInputError(
            f"`labels` must be integers below {views.shape[2]}, one for each view of each input, {views.shape[:2]}; "
            f"got shape {y.shape}. Views need labels of their own: with the original's the test could find nothing"
        )
    called = list(names) if names is not None else [f"view {i}" for i in range(1, len(views))]
    if len(called) != len(views) - 1:
        raise InvalidInputError(f"{len(views) - 1} names are needed, got {len(called)}")
    rng, rows = np.random.default_rng(seed), np.arange(views.shape[1])
    signs = rng.integers(0, 2, size=(draws, len(rows)), dtype=np.int8) * np.int8(2) - np.int8(1)
    found = []
    for view, label in zip(views[1:], y[1:], strict=True):
        both = project(np.stack([views[0], view]))
        after = both.log_probs[rows, y[0]] + both.log_probs[rows, label]
        realised = (after - views[0][rows, y[0]] - view[rows, label]) / 2
        found.append((float(both.gain.mean()), float(realised.mean()), _sign_flip(realised - both.gain, signs)))
    corrected = _holm(np.array([p for *_, p in found]))
    return [Contrast(n, a, b, float(p)) for n, (a, b, _), p in zip(called, found, corrected, strict=True)]


def _sign_flip(d: Float[np.ndarray, " n"], signs: np.ndarray) -> float:
    """One-sided p-value of "the mean is not negative"."""
    return float((1 + (signs @ d <= d.sum()).sum()) / (1 + len(signs)))


def _holm(p: Float[np.ndarray, " t"]) -> Float[np.ndarray, " t"]:
    order = np.argsort(p)
    steps = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(p), 0, -1)))
    out = np.empty_like(p)
    out[order] = steps
    return out
