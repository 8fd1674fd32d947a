r"""A threshold for a wanted accepted error, and its certificate, for any acceptance score.

Rows are split by their hashes: "choosing" rows put thresholds in an order, from the one that most surely passes to
the one of largest coverage, and fix each one's coverage target; "certifying" rows test them in that order
(Learn then Test).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from corollary.certificates import Assumption, Certificate, Reference, digest
from corollary.deferral._coverage import precision_coverage
from corollary.deferral._rejection_certificate import accepted_bounds, thresholds_passed
from corollary.errors import InvalidInputError

SEQUENCE = 8  # thresholds tried
SAFE, BOLD = 2.5, 0.0  # standard errors of room beyond the bound's own width, for the first and the last of them
RULE = "deferral.accepted_error"
LTT = Reference(
    "Angelopoulos, Bates, Candes, Jordan, Lei (2021), Learn then Test; Clopper and Pearson (1934)",
    "fixed-sequence testing of joint nulls, exact binomial bounds",
    "reconstructed from the published method",
)


class CertifiedThreshold(NamedTuple):
    """The threshold, the certificate, its evidence.

    Guarantee: none; the certificate's.

    Example:
        >>> CertifiedThreshold._fields
        ('threshold', 'certificate', 'evidence')
    """

    threshold: float
    certificate: Certificate
    evidence: dict[str, np.ndarray]


def certify_accepted_error(
    scores: Any,
    acceptable: Any,
    *,
    error: float,
    delta: float = 0.05,
    share: float = 0.5,
    threshold: float | None = None,
    rows: Any = None,
    assumptions: Sequence[Assumption] = (),
    pins: Mapping[str, str] | None = None,
    attempts: int = 1,
) -> CertifiedThreshold:
    r"""Choose the acceptance threshold of largest coverage for an accepted error, and certify it.

    .. math:: P(bad \mid score > t) \le e, \qquad P(score > t) \ge C \qquad \text{with confidence } 1 - \delta

    Args:
        scores: (N,) acceptance scores of outputs that trained nothing.
        acceptable: (N,) judgements: booleans, 0/1, or -1/+1.
        error: e, largest share of bad outputs among the accepted.
        delta: probability that the statement is false.
        share: of the rows that choose; the rest certifies.
        threshold: certify this one alone, fixed before these rows were seen; all rows certify then, and no coverage is
            claimed.
        rows: (N,) hashes of the rows; by default of score and judgement (equal rows then fall on one side).
        assumptions, pins, attempts: recorded in the certificate.

    Returns:
        The threshold, the certificate (undecided where nothing could be certified), its evidence.

    Raises:
        InvalidInputError: for scores and judgements that do not fit, or numbers out of range.

    Guarantee: for exchangeable outputs the certified statement is false with probability at most delta, over the
        certifying rows.

    Example:
        >>> rng = np.random.default_rng(0); x = rng.random(2000)
        >>> found = certify_accepted_error(x, rng.random(2000) < x, error=0.2)
        >>> found.certificate.check(**found.evidence).status.name, found.threshold > 0.5
        ('HOLDS', True)

    Reference: as the module head; order and margins are ours.
    """
    if not (0 < error < 1 and 0 < delta < 1 and 0 < share < 1):
        raise InvalidInputError(
            f"`error`, `delta` and `share` must lie strictly between 0 and 1, got {error}, {delta}, {share}"
        )
    precision_coverage(scores, acceptable)  # refuses what is no score or no judgement
    r, good = np.asarray(scores, dtype=np.float64), np.asarray(acceptable) > 0
    keys = _keys(r, good) if rows is None else np.asarray(rows, dtype=np.uint64)
    if keys.shape != r.shape:
        raise InvalidInputError(f"`rows` must be one hash a score, got {keys.shape} for {r.shape}")
    if threshold is None:
        choosing = (keys >> np.uint64(20)) % np.uint64(10_000) < share * 10_000
        if min(choosing.sum(), (~choosing).sum()) < 2:
            raise InvalidInputError(f"{len(r)} rows are too few to choose and to certify; give at least 60")
        thresholds, targets = _plan(r[choosing], good[choosing], int((~choosing).sum()), error=error, delta=delta)
        error_of_all: float | None = float((~good[choosing]).mean())
    else:
        choosing = np.zeros(len(r), dtype=bool)
        thresholds, targets, error_of_all = np.array([float(threshold)]), np.zeros(1), None
    evidence: dict[str, np.ndarray] = {
        "score": r[~choosing],
        "good": good[~choosing].astype(np.uint8),
        "rows": keys[~choosing],
    }
    count = thresholds_passed(
        *accepted_bounds(evidence["score"], good[~choosing], thresholds, delta=delta), error, targets
    )
    chosen = max(count - 1, 0)
    witness = {
        "delta": delta,
        "error": error,
        "thresholds": thresholds[: chosen + 1].tolist(),
        "coverage": targets[: chosen + 1].tolist(),
        "chosen": chosen,
        "error_of_all": error_of_all,
    }
    certificate = Certificate.issue(
        RULE,
        statement=_statement(witness, count),
        evidence=evidence,
        witness=witness,
        reference=LTT,
        assumptions=[
            Assumption("outputs are independent and come from the traffic that these were drawn from"),
            *assumptions,
        ],
        confidence=1 - delta,
        pins={"choosing": digest(rows=keys[choosing]), **(pins or {})},
        attempts=attempts,
    )
    return CertifiedThreshold(float(thresholds[chosen]), certificate, evidence)


def _plan(
    r: np.ndarray, good: np.ndarray, size: int, *, error: float, delta: float
) -> tuple[Float[np.ndarray, " j"], Float[np.ndarray, " j"]]:
    """Thresholds in the order of testing, and the coverage each must reach: all from the choosing rows."""
    curve = precision_coverage(r, good)
    below = np.append(curve.threshold[1:], curve.threshold[-1] - 1.0)
    cut = (curve.threshold + below) / 2  # accept the scores above: those down to this group of equal ones
    p, share, log = 1 - curve.precision, curve.coverage, np.log(1 / delta)
    kept = np.maximum(share * size, 1.0)
    width = np.sqrt(2 * p * (1 - p) * log / kept) + log / kept
    spread = np.sqrt(p * (1 - p) * (1 / np.maximum(share * len(r), 1.0) + 1 / kept))
    picks: list[int] = []
    for room in np.linspace(SAFE, BOLD, SEQUENCE):
        fits = np.flatnonzero(p + width + room * spread <= error)
        if len(fits) and int(fits[-1]) not in picks:
            picks.append(int(fits[-1]))
    picks = picks or [int(np.argmin(p + width))]
    c = share[picks]
    slack = np.sqrt(2 * c * (1 - c) * log / size) + log / size + SAFE * np.sqrt(c * (1 - c) * (1 / len(r) + 1 / size))
    return cut[picks], np.maximum(c - slack, 0.0)


def _keys(r: np.ndarray, good: np.ndarray) -> np.ndarray:
    bits = (r + 0.0).view(np.uint64) ^ good.astype(np.uint64)
    with np.errstate(over="ignore"):
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _statement(witness: Mapping[str, Any], count: int) -> str:
    if count == 0:
        return "Nothing could be certified for this score at this error."
    at, least = witness["thresholds"][witness["chosen"]], witness["coverage"][witness["chosen"]]
    covered = f", and at least {least:.1%} of all outputs are accepted" if least > 0 else ""
    return (
        f"On traffic exchangeable with the certifying rows at most {witness['error']:.2%} of the outputs that score "
        f"above {at:.4g} are bad{covered}, with confidence {1 - witness['delta']:g}."
    )
