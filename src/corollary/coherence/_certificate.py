r"""What coherence certifies, and how it is derived again; imports no solver.

`coherence.gain` [exact]: the answer is the projection of the views, so for every truth that the views of an input
share, the mean expected divergence over these views drops by the stated gain: an identity, no label needed.
`coherence.orbit_gain` [confidence 1 - delta]: the views were drawn from a larger orbit; the mean gain over inputs and
orbits is at least the betting bound. Its range -log(floor) must be fixed beforehand by a floor.
`coherence.orbits` [exact]: the same for orbits of any sizes, from the sums over their rows.
`coherence.audit` [exact]: the least gain, over all truths that an orbit can share, of any claimed improvement.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from corollary.certificates import Claim, Rule, Undecided, betting, register_rule, require_units

CLOSE = 1e-9  # log-probabilities are derived again by the same formula in float64


def gains_again(
    views: np.ndarray, weights: np.ndarray, answer: np.ndarray, name: str
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    r"""(N,) least and (N,) largest drop over all truths p that the views share, of an answer given for all of them.

    The drop is linear in p, so it is least and largest at the corners of the simplex; at the projection all agree.
    """
    a = corner_gains(views, weights, np.broadcast_to(answer, views.shape), name)
    return a.min(-1), a.max(-1)


def corner_gains(before: np.ndarray, weights: np.ndarray, after: np.ndarray, name: str) -> Float[np.ndarray, "n k"]:
    r"""(N, K) \(\sum_i w_i (D(e_k \| q_i) - D(e_k \| f_i))\), the drop if the truth is surely class k."""
    if name == "kl":
        with np.errstate(invalid="ignore"):
            moved = after - before
        both = np.isneginf(after) & np.isneginf(before)
        return np.einsum("vn,vnk->nk", weights, np.where(both | (weights[..., None] == 0), 0.0, moved))
    if name == "squared":
        q, f = np.exp(before), np.exp(after)
        return np.einsum("vn,vnk->nk", weights, ((q**2).sum(-1) - (f**2).sum(-1))[..., None] + 2 * (f - q))
    raise Undecided(f"the divergence {name!r} is checked by its own potential, which a file cannot carry")


def gain(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claims: evidence `views` (V, N, K), `weights` (V, N), `answer` (N, K)."""
    views, weights, answer = evidence["views"], evidence["weights"], evidence["answer"]
    if views.ndim != 3 or weights.shape != views.shape[:2] or answer.shape != views.shape[1:]:
        raise Undecided("views, weights and answers are not of the same inputs")
    if not np.allclose(weights.sum(0), 1, atol=1e-9) or (weights < 0).any():
        raise Undecided("the weights of the views do not sum to one")
    if not np.allclose(np.exp(answer).sum(-1), 1, atol=1e-6) or not np.allclose(np.exp(views).sum(-1), 1, atol=1e-6):
        raise Undecided("some row is no distribution")
    least, largest = gains_again(views, weights, answer, witness["divergence"])
    with np.errstate(invalid="ignore"):
        spread = np.where(np.isinf(least) & (least == largest), 0.0, largest - least)
    return [
        Claim("the gain is the same whatever the truth, up to", float(spread.max()), "<=", float(witness["spread"])),
        Claim("mean drop over the views, needing no label", float(least.mean()), ">=", witness["gain"], trivial=0.0),
    ]


def orbit_gain(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claim: evidence `gain` (N,) of inputs whose views were drawn anew, in an order fixed beforehand."""
    x, high = evidence["gain"], float(witness["range"])
    require_units(len(x), "inputs")
    if not np.isfinite(x).all() or x.min() < -1e-9 or x.max() > high + 1e-9:
        raise Undecided(f"a gain lies outside [0, {high:g}], the range that the floor fixes")
    interval = betting(np.clip(x, 0, high), delta=witness["delta"], low=0.0, high=high)
    return [
        Claim("mean gain over whole orbits, lower bound", float(interval.lower), ">=", witness["lower"], trivial=0.0),
        Claim("mean gain over whole orbits, upper bound", float(interval.upper), "<=", witness["upper"], trivial=high),
    ]


def orbits(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claims: evidence `mean` (M, K) of (log-)probabilities, `square` (M,), `answer` (M, K)."""
    mean, square, answer = evidence["mean"], evidence["square"], evidence["answer"]
    if mean.ndim != 2 or answer.shape != mean.shape or square.shape != mean.shape[:1]:
        raise Undecided("means and answers are not of the same orbits")
    if not np.allclose(np.exp(answer).sum(-1), 1, atol=1e-6):
        raise Undecided("some answer is no distribution")
    if witness["divergence"] == "kl":
        with np.errstate(invalid="ignore"):
            corners = np.where(np.isneginf(answer) & np.isneginf(mean), np.nan, answer - mean)
    else:
        f = np.exp(answer)
        corners = (square - (f**2).sum(-1))[:, None] + 2 * (f - mean)
    least, largest = np.nanmin(corners, -1), np.nanmax(corners, -1)
    return [
        Claim(
            "the gain is the same whatever the truth, up to", float((largest - least).max()), "<=", witness["spread"]
        ),
        Claim("mean drop over the views, needing no label", float(least.mean()), ">=", witness["gain"], trivial=0.0),
    ]


def summed(rows: np.ndarray, index: np.ndarray) -> Float[np.ndarray, "m k"]:
    """(M, K) sums of the rows (R, K) of each orbit 0 to M - 1."""
    order = np.argsort(index, kind="stable")
    return np.add.reduceat(rows[order], np.flatnonzero(np.diff(index[order], prepend=-1)))


def audit(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claims: evidence `before` and `after` (R, K) log-probabilities, `orbit` (R,) numbers from 0."""
    before, after, orbit = evidence["before"], evidence["after"], evidence["orbit"].astype(np.int64)
    if before.ndim != 2 or after.shape != before.shape or orbit.shape != before.shape[:1]:
        raise Undecided("predictions before and after are not of the same rows")
    if not all(np.allclose(np.exp(x).sum(-1), 1, atol=1e-6) for x in (before, after)):
        raise Undecided("some row is no distribution")
    name, share = witness["divergence"], 1 / np.bincount(orbit)[orbit]
    least = summed(corner_gains(before[None], share[None], after[None], name), orbit).min(-1)
    if name == "kl":
        mean = summed(share[:, None] * before, orbit)
        best = -np.log(np.exp(mean).sum(-1))
    else:
        q = np.exp(before)
        mean = summed(share[:, None] * q, orbit)
        best = summed(share[:, None] * q**2, orbit).sum(-1) - (mean**2).sum(-1)
    return [
        Claim(
            "mean gain guaranteed for every truth the orbits can share",
            float(least.mean()),
            ">=",
            float(witness["least"]),
            trivial=0.0,  # what changing nothing guarantees
        ),
        Claim("what the coherent projection guarantees", float(best.mean()), ">=", witness["best"], trivial=0.0),
    ]


register_rule(Rule("coherence.gain", needs=("views", "weights", "answer"), derive=gain))
register_rule(Rule("coherence.orbit_gain", needs=("gain",), derive=orbit_gain))
register_rule(Rule("coherence.orbits", needs=("mean", "square", "answer"), derive=orbits))
register_rule(Rule("coherence.audit", needs=("before", "after", "orbit"), derive=audit))
