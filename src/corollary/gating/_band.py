r"""The set of gated models on a finite space: a band between the smallest and the largest expert.

Symbols: experts \(q_j\), \(lo(x) = \min_j q_j(x)\), \(hi(x) = \max_j q_j(x)\). A gate enters only through the model
\(\pi_g(x) = \sum_j g(x, j) q_j(x)\), and the models of all gates are exactly \(\{\pi : lo \le \pi \le hi\}\); those of
normalised gates also sum to one. That set is empty where \(\sum hi < 1\) or \(\sum lo > 1\), which happens when experts
do not sum to one on the points given.

Source: arXiv:2602.17554, section 2 for the set-up; the band and the water-filling solution are derived, and checked in
the tests.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError

SUM_TOLERANCE = 1e-9


class Band(NamedTuple):
    """Lower and upper envelope of the experts, and whether the model may sum to less than one."""

    low: Float[np.ndarray, " n"]
    high: Float[np.ndarray, " n"]
    short: bool  # even the upper envelope sums to less than one, and that is allowed


class Filling(NamedTuple):
    """The best model for one mixture, and the points where neither envelope binds."""

    pi: Float[np.ndarray, " n"]
    free: Bool[np.ndarray, " n"]


def distributions(name: str, rows: ArrayLike, *, sum_to_one: bool) -> np.ndarray:
    """`rows` as (k, n) float64, after the checks that all solvers share."""
    array = np.asarray(rows, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise InvalidInputError(
            f"`{name}` must be (rows, n) with at least one row and one point, got shape {array.shape}"
        )
    if not np.isfinite(array).all() or (array < 0).any():
        raise InvalidInputError(f"`{name}` holds NaN, infinite or negative values; give probabilities")
    sums = array.sum(1)
    if sum_to_one and (np.abs(sums - 1) > SUM_TOLERANCE).any():
        worst = int(np.abs(sums - 1).argmax())
        raise InvalidInputError(f"row {worst} of `{name}` sums to {sums[worst]:.9g}; divide every row by its sum")
    if (sums == 0).any():
        raise InvalidInputError(f"row {int(sums.argmin())} of `{name}` is all zeros; drop it or give it mass")
    return array


def band(experts: np.ndarray, *, normalise: str) -> Band:
    """The envelopes, after making sure that some normalised gate exists."""
    low, high = experts.min(0), experts.max(0)
    most, least = float(high.sum()), float(low.sum())
    sums = experts.sum(1)
    if least > 1 + SUM_TOLERANCE:
        worst = int(sums.argmax())
        raise InvalidInputError(
            f"no gate gives a model that sums to one or less: the smallest expert at every point already "
            f"sums to "
            f"{least:.6g}; expert {worst} sums to {sums[worst]:.6g}; pass normalise='experts' to rescale "
            f"the experts"
        )
    if most < 1 - SUM_TOLERANCE and normalise != "inequality":
        worst = int(sums.argmin())
        raise InvalidInputError(
            f"no gate gives a model that sums to one on these {len(high)} points: the largest expert at "
            f"every point "
            f"sums to {most:.6g}; expert {worst} sums to {sums[worst]:.6g}, {1 - sums[worst]:.6g} of its "
            f"mass lies "
            "elsewhere; pass normalise='experts' to rescale the experts, or normalise='inequality' to allow "
            "sums below one"
        )
    return Band(low, high, most < 1 - SUM_TOLERANCE)


def fill(mixture: np.ndarray, limits: Band) -> Filling:
    r"""The model of the band closest to a mixture: \(\arg\min_\pi -\sum_x p_\lambda(x) \log \pi(x)\).

    It is \(\mathrm{clip}(p_\lambda / \mu, lo, hi)\). The sum is piecewise linear in 1/mu with breakpoints lo/p and
    hi/p, so mu
    follows from one sort. Where the points of the mixture are full before the model sums to one, the rest goes to the
    others.
    """
    low, high = limits.low, limits.high
    if limits.short:
        return Filling(high.copy(), np.zeros(len(high), dtype=bool))
    live = mixture > 1e-290  # below this a quotient may overflow, and the point cannot matter
    p, a, b = mixture[live], low[live] / mixture[live], high[live] / mixture[live]
    idle = low[~live].sum()
    order = np.argsort(points := np.concatenate([a, b]), kind="stable")
    at = points[order]
    slope = np.cumsum(np.concatenate([p, -p])[order])
    mass = idle + low[live].sum() + np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(at))])
    pi, free = low.copy(), np.zeros(len(low), dtype=bool)
    reach = int(np.searchsorted(mass, 1.0))
    if reach == len(mass):  # every point of the mixture is full, up to round-off
        pi[live] = high[live]
    else:
        middle = (at[max(reach - 1, 0)] + at[reach]) / 2
        inside, full = (a < middle) & (middle < b), b <= middle
        weight = p[inside].sum()
        rest = 1.0 - idle - high[live][full].sum() - low[live][~inside & ~full].sum()
        scale = rest / weight if weight > 0 else at[reach]
        pi[live] = np.clip(scale * p, low[live], high[live])
        free[live] = inside
    return Filling(_spread(pi, low, high, live), free)


def _spread(pi: np.ndarray, low: np.ndarray, high: np.ndarray, live: np.ndarray) -> np.ndarray:
    """Move what is missing to the points outside the mixture first; the rest is round-off."""
    for where in (~live, live):
        missing = 1.0 - pi.sum()
        room = np.where(where, high - pi if missing > 0 else pi - low, 0.0)
        total = room.sum()
        if total > 0:
            pi = np.clip(pi + np.clip(missing / total, -1.0, 1.0) * room, low, high)
    return pi


def gate_from_density(pi: ArrayLike, experts: ArrayLike) -> Float[np.ndarray, "p n"]:
    r"""A gate whose model is `pi`: at each point it mixes the largest and the smallest expert.

    .. math:: g(x, \arg\max_j q_j) = \frac{\pi(x) - lo(x)}{hi(x) - lo(x)}, \qquad
              g(x, \arg\min_j q_j) = 1 - g(x, \arg\max_j q_j)

    Args:
        pi: (n,) model with \(lo \le \pi \le hi\).
        experts: (p, n) experts, one a row.

    Returns:
        (p, n) gate; columns sum to one, and `(gate * experts).sum(0)` is `pi`.

    Raises:
        InvalidInputError: where `pi` leaves the band; no gate can give it.

    Guarantee: exact up to round-off (1e-12 in the tests).

    Example:
        >>> gate_from_density([0.5, 0.5], [[0.8, 0.2], [0.2, 0.8]]).round(12).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    q = distributions("experts", experts, sum_to_one=False)
    target = np.asarray(pi, dtype=np.float64)
    low, high = q.min(0), q.max(0)
    if target.shape != low.shape:
        raise InvalidInputError(
            f"`pi` has shape {target.shape} and the experts {len(low)} points; give one value a point"
        )
    outside = ~((target >= low - 1e-12) & (target <= high + 1e-12))
    if outside.any():
        x = int(outside.argmax())
        raise InvalidInputError(
            f"`pi` is {target[x]:.6g} at point {x}, outside the experts' [{low[x]:.6g}, {high[x]:.6g}]; no "
            f"gate gives it"
        )
    wide = high > low
    top = np.where(wide, (np.clip(target, low, high) - low) / np.where(wide, high - low, 1.0), 0.5)
    gate, columns = np.zeros_like(q), np.arange(len(low))
    gate[q.argmin(0), columns] += 1 - top
    gate[q.argmax(0), columns] += top
    return gate
