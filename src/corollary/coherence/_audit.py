r"""What a claimed self-improvement asserts about the truth, and the gain that it can guarantee, if any.

.. math:: D(p \| q) - D(p \| f) = \langle \nabla F(f) - \nabla F(q), p \rangle + \text{const}

Symbols: q the model before, f after, p the truth. The drop is linear in p, so {p : drop >= D(f || q)} is a half-space
with f on its border: every improvement without labels asserts one linear inequality about the truth. Over an orbit
whose views share p, the drops add up; the guaranteed gain is their least corner. The projection attains the largest
that can be: -log Z at every corner (rigidity). Without orbits no change can be guaranteed to help.

Source: section 4 (G7, G8) of our notes on Mohri, Schneider and Wu (2025); derived here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from corollary.certificates import Assumption, Certificate
from corollary.coherence._certificate import corner_gains, summed
from corollary.coherence._inputs import as_views
from corollary.coherence._issue import LOSS, PAPER, SHARED
from corollary.coherence._projection import project_orbits
from corollary.errors import InvalidInputError


@dataclass(frozen=True, eq=False)
class Audit:
    r"""Orbit by orbit, what the change asserts and guarantees.

    Args:
        corners: (M, K) drop in divergence if the truth is surely class k.
        guaranteed: (M,) least drop over all truths that the orbit can share.
        best: (M,) what the coherent projection guarantees; no mechanism guarantees more.
        direction, offset: (M, K) and (M,) the half-space {p : direction . p >= offset} on which the drop is at least
            the distance moved.
        coherent: (M,) whether the rows after it agree within each orbit.
        divergence: its name.
        certificate, evidence: what is certified, and the arrays that `certificate.check` takes.

    Guarantee: `guaranteed` is exact: some shared truth attains it.

    Example:
        >>> before = np.log([[0.9, 0.1], [0.5, 0.5]])
        >>> after = np.log([[0.75, 0.25], [0.75, 0.25]])
        >>> found = audit(before, after, orbit=[0, 0])
        >>> found.guaranteed.round(3).tolist(), found.best.round(3).tolist()
        ([0.112], [0.112])
        >>> bool(audit(before, after).guaranteed.max() < 0)  # each row for itself: a loss for some truth
        True
    """

    corners: Float[np.ndarray, "m k"]
    guaranteed: Float[np.ndarray, " m"]
    best: Float[np.ndarray, " m"]
    direction: Float[np.ndarray, "m k"]
    offset: Float[np.ndarray, " m"]
    coherent: Bool[np.ndarray, " m"]
    divergence: str
    certificate: Any = field(default=None, repr=False)
    evidence: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    def asserts(self, truth: ArrayLike) -> Bool[np.ndarray, " m"]:
        """(M,) whether these truths (M, K) lie in the half-spaces that the change asserts."""
        return (np.asarray(truth) * self.direction).sum(-1) >= self.offset - 1e-12


def audit(
    before: ArrayLike,
    after: ArrayLike,
    *,
    orbit: ArrayLike | None = None,
    divergence: str = "kl",
    floor: float | None = None,
) -> Audit:
    """Audit any claimed self-improvement from predictions before and after it.

    Args:
        before, after: (R, K) log-probabilities of the same rows.
        orbit: (R,) which rows are views of one input; None for each its own.
        divergence: kl (log-loss) or squared (Brier score).
        floor: as in `project`; a class that becomes impossible loses without bound under kl.

    Returns:
        An `Audit` with its certificate.

    Raises:
        InvalidInputError: for shapes that differ, or rows that are no distributions.

    Guarantee: that of `Audit`.

    Example:
        >>> sharper = np.log([[0.99, 0.01]])
        >>> float(audit(np.log([[0.9, 0.1]]), sharper).guaranteed[0].round(3))
        -2.303

    Reference: derived here, after the characterization that the abstract of arXiv:2511.08440 announces.
    """
    if divergence not in LOSS:
        raise InvalidInputError(f"`divergence` must be kl or squared here, got {divergence!r}")
    rows = np.shape(before)
    if len(rows) != 2 or np.shape(after) != rows:
        raise InvalidInputError(
            f"`before` and `after` must have one shape (rows, classes), got {rows}, {np.shape(after)}"
        )
    q, f = (as_views(np.asarray(x)[None], floor=floor)[0] for x in (before, after))
    names = np.arange(len(q)) if orbit is None else np.asarray(orbit)
    whole, index = project_orbits(q, names, divergence=divergence)
    share = 1 / np.bincount(index)[index]
    corners, direction, offset = (summed(x, index) for x in _terms(q, f, share, divergence))
    low, high = np.full_like(whole.log_probs, np.inf), np.full_like(whole.log_probs, -np.inf)
    np.minimum.at(low, index, f)
    np.maximum.at(high, index, f)
    with np.errstate(invalid="ignore"):
        coherent = ~((high - low > 1e-6) & ~(np.isneginf(high) & np.isneginf(low))).any(-1)
    guaranteed = corners.min(-1)
    least, best = float(guaranteed.mean()) - 1e-9, float(whole.gain.mean()) - 1e-9
    witness = {"divergence": divergence, "least": least if np.isfinite(least) else str(least), "best": best}
    evidence = {"before": q, "after": f, "orbit": index.astype(np.int64)}
    certificate = Certificate.issue(
        "coherence.audit",
        statement=f"For every truth that the {len(corners)} orbits can share, this change lowers the expected "
        f"{LOSS[divergence]} by at least {least:.4f} on average; no change without labels can promise more "
        f"than {best:.4f}.",
        evidence=evidence,
        witness=witness,
        reference=PAPER,
        assumptions=(Assumption(SHARED),),
        provenance={"rows": rows[0]},
    )
    return Audit(corners, guaranteed, whole.gain, direction, offset[:, 0], coherent, divergence, certificate, evidence)


def _terms(q: np.ndarray, f: np.ndarray, share: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per row: weighted corners (R, K), normal (R, K), and offset (R, 1) of the half-space."""
    corners = corner_gains(q[None], share[None], f[None], name)
    if name == "kl":
        normal = corners
        probs = np.exp(f)
        offset = np.where(probs > 0, probs * np.where(probs > 0, corners, 0.0), 0.0).sum(-1, keepdims=True)
        return corners, normal, offset
    normal = 2 * share[:, None] * (np.exp(f) - np.exp(q))
    return corners, normal, (normal * np.exp(f)).sum(-1, keepdims=True)
