"""Issuing the certificates of coherence."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from corollary.certificates import Assumption, Certificate, Reference, Undecided, betting
from corollary.certificates._concentration import check_level
from corollary.coherence._certificate import gains_again
from corollary.errors import InvalidInputError

PAPER = Reference(
    "Mohri, Schneider and Wu (2025), arXiv:2511.08440",
    "Pythagorean identity of the Bregman projection on coherent models",
    "abstract read; formulas derived here",
)
LOSS = {"kl": "log-loss (nats)", "squared": "Brier score"}
SHARED = "all views of an input have one true distribution of labels: the transformations preserve the task"

OVER_VIEWS = (
    Assumption(SHARED),
    Assumption("the weights are the shares of the views in the traffic; single views are not covered"),
)


def issue_gain(projection: Any) -> Certificate:
    """The certificate of a left projection by kl or squared, on its own inputs."""
    if projection.views is None or projection.side != "left" or projection.divergence not in LOSS:
        raise InvalidInputError("certificates are issued for left projections by kl or squared that hold their views")
    evidence = projection.evidence
    with np.errstate(invalid="ignore"):
        least, largest = gains_again(evidence["views"], evidence["weights"], evidence["answer"], projection.divergence)
        spread = np.nanmax(np.where(np.isinf(largest), 0.0, largest - least), initial=0.0)
    total = float(least.mean())
    witness = {"divergence": projection.divergence, "spread": float(spread) * 2 + 1e-9, "gain": total - 1e-9}
    n, v = len(projection.gain), len(evidence["views"])
    return Certificate.issue(
        "coherence.gain",
        statement=f"On these {n} inputs the expected {LOSS[projection.divergence]}, averaged over their {v} views, "
        f"drops by {total:.4f}, whatever the labels are, if the views of an input share one truth.",
        evidence=evidence,
        witness=witness,
        reference=PAPER,
        assumptions=OVER_VIEWS,
        provenance={"inputs": n, "views": v},
    )


def issue_orbit_gain(
    gain: ArrayLike, *, floor: float, delta: float = 0.05, attempts: int = 1
) -> tuple[Certificate, dict[str, np.ndarray]]:
    r"""Certify the mean gain over whole orbits from views that were drawn at random, anew for every input.

    .. math:: E\Big[\tfrac1k \sum_i KL(p \| q_i) - KL(p \| g_k)\Big] = E[-\log Z_k] \le -\log \text{floor}

    Args:
        gain: (N,) gains of inputs drawn independently, each with k views drawn independently from its orbit.
        floor: the floor that no probability fell below, fixed before the views were drawn; it bounds the gains.
        delta: probability that the interval fails.
        attempts: statements drawn from these inputs, this one included.

    Returns:
        The certificate and its evidence. Under 30 inputs it is UNDECIDED.

    Raises:
        InvalidInputError: for a floor outside (0, 1).

    Guarantee: the interval misses the mean drop in log-loss over inputs and their whole orbits, when k fresh views are
        projected, with probability at most delta.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> certificate, evidence = issue_orbit_gain(rng.uniform(0, 1, 2000), floor=1e-3)
        >>> [round(claim.rhs, 2) for claim in certificate.claims]
        [0.49, 0.52]

    Reference: derived here; betting bounds after Waudby-Smith and Ramdas (2024).
    """
    check_level(delta, "lower")
    if not 0 < floor < 1:
        raise InvalidInputError(f"`floor` must lie in (0, 1), got {floor}")
    evidence = {"gain": np.asarray(gain, dtype=np.float64)}
    high = float(-np.log(floor))
    witness = {"delta": delta, "range": high, "lower": 0.0, "upper": high}
    try:
        interval = betting(np.clip(evidence["gain"], 0, high), delta=delta, low=0.0, high=high)
        witness |= {"lower": float(interval.lower), "upper": float(interval.upper)}
    except (Undecided, InvalidInputError):  # `issue` records the reason
        pass
    certificate = Certificate.issue(
        "coherence.orbit_gain",
        statement=f"With confidence {1 - delta:.6g} projecting freshly drawn views lowers the expected log-loss "
        f"over whole orbits by {witness['lower']:.4f} to {witness['upper']:.4f} nats, if their views share one truth.",
        evidence=evidence,
        witness=witness,
        reference=PAPER,
        assumptions=(
            Assumption(SHARED),
            Assumption("inputs are independent draws, and so are the views of each from its orbit"),
        ),
        confidence=1 - delta,
        attempts=attempts,
    )
    return certificate, evidence
