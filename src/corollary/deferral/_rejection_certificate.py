r"""What a rejector certifies, and how it is derived again; imports no solver and no trainer.

`deferral.accepted_error` [confidence 1 - delta]: on traffic exchangeable with the rows given, of the outputs that score
above the threshold at most a share e is bad, and at least a share C of all outputs is accepted. Thresholds 1..J were
put in order, and e and all C_j fixed, on other rows. Threshold j is tested at level delta for "error > e or coverage
< C_j"; both one-sided bounds at level delta must clear (the larger p-value counts). Given how many are accepted, the
number of bad ones is binomial, so Clopper-Pearson is exact. Testing goes on while every test rejects, so the
probability that any threshold passed that is a bad one is at most delta.

Learn then Test: Angelopoulos, Bates, Candes, Jordan, Lei (2021); Clopper and Pearson (1934). Reconstructed from the
published method.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from corollary.certificates import Claim, Rule, Undecided, clopper_pearson, register_rule, require_units


def accepted_bounds(
    score: np.ndarray, good: np.ndarray, thresholds: Any, *, delta: float
) -> tuple[Float[np.ndarray, " j"], Float[np.ndarray, " j"]]:
    """Upper bounds of the accepted error and lower bounds of the coverage, one a threshold, each at level delta.

    Args:
        score: (n,) of every output; accepted are those above the threshold.
        good: (n,) whether it is acceptable.
        thresholds: (J,).
        delta: level of every single bound.

    Example:
        >>> error, coverage = accepted_bounds(np.arange(100.0), np.arange(100) > 9, [49.5], delta=0.1)
        >>> bool(0 < error[0] < 0.06), bool(0.4 < coverage[0] < 0.5)
        (True, True)
    """
    error, coverage = [], []
    for t in np.atleast_1d(np.asarray(thresholds, dtype=np.float64)):
        taken = score > t
        kept, bad = int(taken.sum()), int((taken & ~good).sum())
        error.append(float(clopper_pearson(bad, kept, delta=delta, side="upper").upper) if kept else 1.0)
        coverage.append(float(clopper_pearson(kept, len(score), delta=delta, side="lower").lower))
    return np.array(error), np.array(coverage)


def thresholds_passed(error: np.ndarray, coverage: np.ndarray, limit: float, targets: np.ndarray) -> int:
    """How many thresholds pass before the first that fails.

    Example:
        >>> thresholds_passed(np.array([0.05, 0.2]), np.array([0.3, 0.6]), 0.1, np.array([0.2, 0.5]))
        1
    """
    fine = (error <= limit) & (coverage >= targets)
    return int(np.argmin(fine)) if not fine.all() else len(fine)


def accepted_error(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claims: evidence `score` (n,), `good` (n,) and `rows` (n,)."""
    score, good = evidence["score"], evidence["good"].astype(bool)
    thresholds, targets = (np.asarray(witness[k], dtype=np.float64) for k in ("thresholds", "coverage"))
    if not score.shape == good.shape == evidence["rows"].shape or thresholds.shape != targets.shape:
        raise Undecided("scores, judgements and rows, or thresholds and targets, are not of one length")
    chosen, limit = int(witness["chosen"]), float(witness["error"])
    require_units(len(np.unique(evidence["rows"])), "distinct outputs")
    error, coverage = accepted_bounds(score, good, thresholds, delta=witness["delta"])
    count = thresholds_passed(error, coverage, limit, targets)
    if count == 0:
        raise Undecided(
            f"already the first threshold fails: accepted error <= {error[0]:.4g} against {limit:.4g}, "
            f"coverage >= {coverage[0]:.4g} against {targets[0]:.4g}"
        )
    claims = [
        Claim("thresholds of the fixed sequence that pass, up to this one", min(count, chosen + 1), ">=", chosen + 1),
        Claim("share of bad outputs among the accepted", error[chosen], "<=", limit, 0.0, witness["error_of_all"]),
    ]
    if targets[chosen] > 0:
        claims.append(Claim("share of outputs accepted", coverage[chosen], ">=", targets[chosen], 0.0, 0.0))
    return claims


register_rule(
    Rule(
        "deferral.accepted_error",
        needs=("score", "good", "rows"),
        derive=accepted_error,
        tolerances={"score": 1e-6, "claims": 1e-9},
    )
)
