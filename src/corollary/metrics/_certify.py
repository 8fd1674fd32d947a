"""Issuing the certificate of a metric: rows held out plainly, or fresh rows that were not trained on."""

import contextlib
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from corollary.certificates import Assumption, Certificate, Reference, Undecided
from corollary.certificates._concentration import check_level
from corollary.errors import InvalidInputError
from corollary.metrics._certificate import METHODS, at_least, choose_method
from corollary.metrics._metric import LinearFractionalMetric, confusion, get_metric


def certify_metric(
    truth: ArrayLike,
    prediction: ArrayLike,
    *,
    metric: Any = "f1",
    delta: float = 0.05,
    average: str = "macro",
    method: str = "auto",
    attempts: int = 1,
    assumptions: tuple[Assumption, ...] = (),
    provenance: dict[str, Any] | None = None,
) -> tuple[Certificate, dict[str, np.ndarray]]:
    """Certify the metric of given predictions, of any classifier.

    Args:
        truth: (n,) or (n, L) truth, positive where larger than 0.
        prediction: the same shape.
        metric: a name or a `LinearFractionalMetric`.
        delta: probability that the certificate may fail.
        average: over columns, `"macro"` or `"micro"`.
        method: `"auto"`, or a bound by name, chosen before the rows are seen.
        attempts: statements drawn from these rows, this one included (recorded, not corrected for).
        assumptions: further assumptions and how they were checked.
        provenance: for the reader.

    Returns:
        The certificate, and the evidence that `certificate.check(**evidence)` takes.

    Raises:
        InvalidInputError: for shapes that differ, no rows, or an unknown method.

    Guarantee: the stated bound exceeds the metric on the population with probability at most delta, over the draw of
        the rows, if they are independent draws that neither trained nor chose the classifier. Under 30 rows that bear
        on the metric nothing is stated.

    Example:
        >>> y = np.repeat([1, 1, 0, 0], [80, 20, 20, 380])
        >>> h = np.repeat([1, 0, 1, 0], [80, 20, 20, 380])
        >>> certificate, evidence = certify_metric(y, h, metric="f1")
        >>> certificate.check(**evidence).status.name, round(certificate.claims[0].rhs, 3)
        ('HOLDS', 0.741)

    Reference: Clopper and Pearson (1934), Waudby-Smith and Ramdas (2024); textbook, and derived here.
    """
    m = get_metric(metric)
    check_level(delta, "lower")
    if method not in METHODS:
        raise InvalidInputError(f"`method` must be one of {', '.join(METHODS)}, got {method!r}")
    confusion(truth, prediction)  # refuses shapes that differ, no rows, NaN
    evidence = {
        "truth": (np.asarray(truth) > 0).astype(np.uint8),
        "prediction": (np.asarray(prediction) > 0).astype(np.uint8),
    }
    used = choose_method(m) if method == "auto" else method
    witness = {"metric": m.as_plain(), "delta": delta, "method": used, "average": average, "bound": 0.0}
    with contextlib.suppress(Undecided):  # `issue` records the reason
        witness["bound"] = at_least(witness, evidence)[0].lhs
    bound = witness["bound"]
    shape = evidence["truth"].shape
    of = m.name if len(shape) == 1 or shape[1] == 1 else f"{average} {m.name}"
    certificate = Certificate.issue(
        "metrics.at_least",
        statement=f"With confidence {1 - delta:.6g} the {of} of this classifier is at least {bound:.4f} on rows "
        f"drawn as these {shape[0]} were.",
        evidence=evidence,
        witness=witness,
        reference=Reference(*SOURCES[used]),
        assumptions=(Assumption("the rows are independent draws of the population named"), *assumptions),
        confidence=1 - delta,
        attempts=attempts,
        provenance=provenance or {},
    )
    return certificate, evidence


SOURCES = {
    "exact": ("Clopper and Pearson (1934)", "binomial limits given the rows that bear on the metric", "textbook"),
    "class-wise": ("Clopper and Pearson (1934)", "binomial limits of both recalls at delta/2", "textbook"),
    "betting": (
        "Waudby-Smith and Ramdas (2024)",
        "betting against num - m den, inverted over a fixed grid of m",
        "reconstructed from the published formulas, may differ",
    ),
    "bernstein": (
        "Maurer and Pontil (2009)",
        "Theorem 4 for num - m den, inverted over a fixed grid of m",
        "textbook",
    ),
}


def hold_out(count: int, share: Any, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to learn from and rows to certify on, drawn plainly (not stratified: the rows must stay independent)."""
    if isinstance(share, bool) or not 0 < share < 1:
        raise InvalidInputError(f"`certify` must be a share in (0, 1) or None, got {share!r}")
    held = round(count * float(share))
    if not 0 < held < count:
        raise InvalidInputError(f"`certify={share}` of {count} rows leaves nothing to learn from or to certify on")
    order = np.random.default_rng([seed, 0xCE27]).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def describe(metric: LinearFractionalMetric, certificate: Certificate) -> str:
    """One line for a table: the bound, or why there is none."""
    if certificate.undecided:
        return f"{metric.name}: nothing certified ({certificate.undecided})"
    return f"{metric.name} ≥ {certificate.claims[0].rhs:.4f} with confidence {certificate.confidence:.4g}"
