r"""Projection on the coherent models: one answer for all views of an input, as close as possible to what they said.

.. math:: g = \arg\min_{p} \sum_i w_i D_F(p \| q_i), \qquad \nabla F(g) = \sum_i w_i \nabla F(q_i) + c

Symbols: q_i the model's distribution on view i of an input; w_i the share of view i in the traffic; c the multiplier
that makes g sum to one. For KL, \(g = \prod_i q_i^{w_i} / Z\), and for ANY truth p that all views share

.. math:: \sum_i w_i KL(p \| q_i) - KL(p \| g) = -\log Z \ge 0:

the drop in expected log-loss over the views is a number that needs no label. The dual (right) projection is the
arithmetic mean for every F; its gain is in \(D_F(q_i \| p)\), and in the Brier score, where both coincide.

Source: Mohri, Schneider and Wu, "Coherence Mechanisms for Provable Self-Improvement" (arXiv:2511.08440), of which only
the abstract could be read; formulas derived from Bregman geometry and tested.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from corollary.coherence._divergences import KL, Bregman, get_divergence
from corollary.coherence._inputs import as_views, as_weights
from corollary.errors import InvalidInputError

BLOCK = 1 << 15  # inputs handled at once: a block of 8 views of 10 classes stays in the cache
HALVINGS = 200  # of the bracket of the multiplier; each solve ends at float64 resolution long before


@dataclass(frozen=True, eq=False)
class Projection:
    """What the views agree on, and what agreeing is worth.

    Args:
        log_probs: (N, K) log-probabilities of the coherent answer.
        gain: (N,) drop in expected divergence over the views of each input, for every truth that they share.
        divergence: its name.
        side: left or right.
        views, weights: (V, N, K) and (V, N), what was projected.

    Guarantee: the identity above for the left projection of any divergence.

    Example:
        >>> views = np.log([[[0.9, 0.1]], [[0.5, 0.5]]])  # two views of one input
        >>> found = project(views)
        >>> np.exp(found.log_probs).round(3).tolist(), found.gain.round(3).tolist()
        ([[0.75, 0.25]], [0.112])
        >>> found.certificate.check(**found.evidence).status.name
        'HOLDS'
    """

    log_probs: Float[np.ndarray, "n k"]
    gain: Float[np.ndarray, " n"]
    divergence: str
    side: str = "left"
    views: np.ndarray | None = field(default=None, repr=False)
    weights: np.ndarray | None = field(default=None, repr=False)

    @property
    def probs(self) -> Float[np.ndarray, "n k"]:
        """(N, K) probabilities."""
        return np.exp(self.log_probs)

    @property
    def evidence(self) -> dict[str, np.ndarray]:
        """The arrays that `certificate.check` takes."""
        if self.views is None or self.weights is None:
            raise InvalidInputError("orbits of several sizes keep no views; `cohere_table` certifies them from a file")
        return {"views": self.views, "weights": np.ascontiguousarray(self.weights), "answer": self.log_probs}

    @functools.cached_property
    def certificate(self) -> Any:
        """The certificate of the gain on these inputs; issued when first asked for."""
        from corollary.coherence._issue import issue_gain

        return issue_gain(self)


def project(
    log_probs: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    divergence: str | Bregman = "kl",
    side: str = "left",
    floor: float | None = None,
) -> Projection:
    r"""Project the distributions of several views of each input on one.

    .. math:: g \propto \prod_i q_i^{w_i} \;\text{(kl)}, \qquad g = \sum_i w_i q_i \;\text{(squared, or side="right")}

    Args:
        log_probs: (V, N, K) log-probabilities of V views of N inputs over K classes. -inf is a probability of zero.
        weights: (V,) or (V, N) share of each view in the traffic; equal by default. The gain is about this average:
            where users send the first view only, weights of (1, 0, ...) describe them, and there is nothing to gain.
        divergence: kl (log-loss), squared (Brier score), logistic, itakura-saito, or a `Bregman`.
        side: left minimises D(g || q_i), right D(q_i || g).
        floor: what zeros are raised to before they are projected; None leaves them, and a class that one view excludes
            stays excluded. A floor changes the views by as much.

    Returns:
        A `Projection`.

    Raises:
        InvalidInputError: for NaN, rows that do not sum to one, other shapes, or views that exclude all classes.

    Guarantee: for every truth p shared by all views of an input, the weighted mean of D(p || q_i) drops by `gain`
        exactly (left side; equality because coherent models form an affine set). Nothing is claimed for one single
        view, nor where a transformation changes the answer.

    Example:
        >>> q = np.log([[[0.7, 0.2, 0.1]], [[0.2, 0.5, 0.3]]])
        >>> kl, brier = project(q), project(q, divergence="squared")
        >>> p = np.array([0.3, 0.3, 0.4])  # any truth that both views share
        >>> before = np.mean([p @ (np.log(p) - v[0]) for v in q])
        >>> bool(np.isclose(before - p @ (np.log(p) - kl.log_probs[0]), kl.gain[0]))
        True
        >>> brier.probs.round(2).tolist()
        [[0.45, 0.35, 0.2]]

    Reference: Mohri, Schneider and Wu (2025), arXiv:2511.08440; reconstructed from abstract and notes, may differ.
    """
    chosen = get_divergence(divergence)
    if side not in ("left", "right"):
        raise InvalidInputError(f"`side` must be left or right, got {side!r}")
    shape = np.shape(log_probs)
    if len(shape) != 3 or 0 in shape:
        as_views(log_probs)  # says what is wrong
    given = np.asarray(log_probs)
    w = as_weights(weights, shape[0], shape[1])
    views = np.empty(shape)
    answer, gain = np.empty(shape[1:]), np.empty(shape[1])
    for begin in range(0, shape[1], BLOCK):
        rows = slice(begin, begin + BLOCK)
        try:
            views[:, rows] = as_views(given[:, rows], floor=floor)
            answer[rows], gain[rows] = project_block(views[:, rows], w[:, rows], chosen, side)
        except InvalidInputError as problem:
            raise _relocated(problem, begin) from None
    return Projection(answer, gain, chosen.name, side, views, w)


def project_block(
    views: np.ndarray, weights: np.ndarray, divergence: Bregman, side: str
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " n"]]:
    """(N, K) log-probabilities of the projection and (N,) gains, of normalised views (V, N, K)."""
    if side == "left" and divergence.name == "kl":
        return _geometric(views, weights)
    q = np.exp(views)
    if side == "right" or divergence.name == "squared":
        g = np.einsum("vn,vnk->nk", weights, q)
    else:
        g = _by_gradient(q, weights, divergence)
    pairs = (g[None], q) if side == "left" else (q, g[None])
    gain = np.einsum("vn,vn->n", weights, divergence.between(*pairs))
    with np.errstate(divide="ignore"):
        return np.log(g), gain


def _geometric(views: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counted = np.where(weights[..., None] > 0, views, 0.0) if np.isneginf(views).any() else views
    m = np.einsum("vn,vnk->nk", weights, counted)
    top = m.max(-1, keepdims=True)
    if np.isneginf(top).any():
        row = int(np.flatnonzero(np.isneginf(top[:, 0]))[0])
        raise InvalidInputError(
            f"the views of input {row} leave no class that all of them allow; give a floor, for instance floor=1e-6"
        )
    log_z = (top + np.log(np.exp(m - top).sum(-1, keepdims=True)))[:, 0]
    return m - log_z[:, None], np.maximum(-log_z, 0.0)


def _by_gradient(q: np.ndarray, weights: np.ndarray, divergence: Bregman) -> Float[np.ndarray, "n k"]:
    """(N, K) on the simplex with gradient sum_i w_i grad F(q_i) + c; c by bisection, all inputs at once."""
    if (q <= 0).any() or (q >= 1).any():
        raise InvalidInputError(
            f"the divergence {divergence.name!r} needs probabilities above 0 and below 1; give a floor"
        )
    m = np.einsum("vn,vnk->nk", weights, divergence.gradient(q))
    low, high = np.full(len(m), -1.0), np.full(len(m), 1.0)

    def total(c: np.ndarray) -> np.ndarray:
        return divergence.inverse(m + c[:, None]).sum(-1)

    for _ in range(HALVINGS):
        if not (wide := total(low) > 1).any():
            break
        low = np.where(wide, 2 * low, low)
    for _ in range(HALVINGS):
        if not (wide := total(high) < 1).any():
            break
        high = np.where(wide, 2 * high, high)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = total(middle) > 1
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    g = divergence.inverse(m + low[:, None])
    return g / g.sum(-1, keepdims=True)


def project_values(
    values: ArrayLike, *, weights: ArrayLike | None = None, divergence: str | Bregman = "squared", side: str = "left"
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    r"""Project values that are no distributions: regressions, Bernoulli probabilities, spectra.

    .. math:: g = \nabla F^{-1}\Big(\sum_i w_i \nabla F(q_i)\Big)

    Args:
        values: (V, N, d) what the model said of V views of N inputs, inside the domain of the divergence.
        weights: (V,) or (V, N).
        divergence: squared, logistic (each coordinate a probability: logits are averaged), itakura-saito, a `Bregman`.
        side: left, or right for the mean.

    Returns:
        (N, d) values and (N,) gains.

    Raises:
        InvalidInputError: for NaN, other shapes, or values outside the domain.

    Guarantee: that of `project`.

    Example:
        >>> g, gain = project_values([[[1.0]], [[3.0]]])
        >>> g.tolist(), gain.tolist()
        ([[2.0]], [1.0])

    Reference: as `project`.
    """
    chosen, q = get_divergence(divergence), np.asarray(values, dtype=np.float64)
    if q.ndim != 3 or 0 in q.shape or not np.isfinite(q).all():
        raise InvalidInputError(f"`values` must be finite and have shape (views, inputs, d), got {q.shape}")
    w = as_weights(weights, q.shape[0], q.shape[1])
    with np.errstate(all="ignore"):
        gradient = chosen.gradient(q)
    if not np.isfinite(gradient).all():
        raise InvalidInputError(f"`values` leave the domain of the divergence {chosen.name!r}; clip them into it")
    if side == "right":
        g = np.einsum("vn,vnk->nk", w, q)
        return g, np.einsum("vn,vn->n", w, chosen.between(q, g[None]))
    g = chosen.inverse(np.einsum("vn,vnk->nk", w, gradient))
    return g, np.einsum("vn,vn->n", w, chosen.between(g[None], q))


def project_orbits(
    log_probs: ArrayLike,
    orbit: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    divergence: str | Bregman = "kl",
    floor: float | None = None,
) -> tuple[Projection, Int[np.ndarray, " r"]]:
    """Project rows that are grouped in orbits of any sizes, as a table of predictions has them.

    Args:
        log_probs: (R, K) log-probabilities, one row a view.
        orbit: (R,) which input each row is a view of; any values.
        weights: (R,) share of each row within its orbit; equal by default.
        divergence: kl or squared (others need equal sizes: `project`).
        floor: as in `project`.

    Returns:
        A `Projection` of the orbits in the order of `numpy.unique`, and (R,) the orbit of each row.

    Raises:
        InvalidInputError: as `project`.

    Guarantee: that of `project`.

    Example:
        >>> q = np.log([[0.9, 0.1], [0.5, 0.5], [0.3, 0.7]])
        >>> found, index = project_orbits(q, ["a", "a", "b"])
        >>> found.probs.round(2).tolist(), index.tolist(), found.gain.round(3).tolist()
        ([[0.75, 0.25], [0.3, 0.7]], [0, 0, 1], [0.112, 0.0])

    Reference: as `project`.
    """
    chosen = get_divergence(divergence)
    if chosen.name not in ("kl", "squared"):
        raise InvalidInputError(f"orbits of several sizes are projected by kl or squared, got {chosen.name!r}")
    rows, names = np.asarray(log_probs), np.asarray(orbit)
    if rows.ndim != 2 or names.shape != (len(rows),):
        raise InvalidInputError(f"rows (R, K) and orbits (R,) are needed, got {rows.shape} and {names.shape}")
    flat = as_views(rows[None], floor=floor)[0]
    _, index = np.unique(names, return_inverse=True)
    order = np.argsort(index, kind="stable")
    starts = np.flatnonzero(np.diff(index[order], prepend=-1))
    w = np.ones(len(rows)) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (len(rows),) or not np.isfinite(w).all() or (w < 0).any():
        raise InvalidInputError("`weights` must be finite, not negative, one a row")
    totals = np.add.reduceat(w[order], starts)
    if (totals <= 0).any():
        raise InvalidInputError("some orbit has no row with a positive weight")
    share = (w / totals[index])[order, None]
    sorted_rows = flat[order]
    if chosen is KL:
        m = np.add.reduceat(np.where(share > 0, share * np.where(share > 0, sorted_rows, 0.0), 0.0), starts)
        answer, gain = _geometric(m[None], np.ones((1, len(m))))
        return Projection(answer, gain, "kl"), index
    q = np.exp(sorted_rows)
    g = np.add.reduceat(share * q, starts)
    gain = np.add.reduceat(share[:, 0] * ((q - g[index[order]]) ** 2).sum(-1), starts)
    with np.errstate(divide="ignore"):
        return Projection(np.log(g), gain, "squared"), index


def _relocated(problem: InvalidInputError, begin: int) -> InvalidInputError:
    """The same sentence, with the number of the input counted from the first."""
    import re

    return InvalidInputError(re.sub(r"input (\d+)", lambda m: f"input {int(m[1]) + begin}", str(problem)))
