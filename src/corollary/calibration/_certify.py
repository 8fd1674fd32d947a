"""Issuing the certificate of a realised sequence of forecasts and outcomes."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from corollary.calibration._certificate import realised
from corollary.calibration._groups import announced
from corollary.calibration._norms import norm_name, order_of
from corollary.calibration._sets import ConvexSet
from corollary.calibration._tree import SampleTreeCal, TreeCal
from corollary.certificates import Assumption, Certificate, Reference
from corollary.errors import InvalidInputError

NORMS = (1, 2, np.inf)


def certify_stream(
    forecasts: ArrayLike,
    weights: ArrayLike | None,
    outcomes: ArrayLike,
    *,
    domain: ConvexSet,
    forecaster: Any = None,
    norms: Iterable[Any] = NORMS,
    assumptions: tuple[Assumption, ...] = (),
    provenance: Mapping[str, Any] | None = None,
) -> tuple[Certificate, dict[str, np.ndarray]]:
    """Certify the calibration error of what was announced and what happened.

    Args:
        forecasts: (T, L, d), or (T, d) for one a round.
        weights: (T, L), or None for equal ones.
        outcomes: (T, d).
        domain: the set of the outcomes; its diameter is the trivial bound.
        forecaster: the `TreeCal` that made the forecasts, to claim its theorem too; None for any other method.
        norms: l_p norms of the error.
        assumptions: further assumptions and how they were checked.
        provenance: for the reader.

    Returns:
        The certificate, and the evidence that `certificate.check(**evidence)` takes.

    Raises:
        InvalidInputError: for shapes that do not fit, or NaN, naming the round.

    Guarantee: deterministic: every number is a function of the evidence. It speaks of these rounds, not of later ones;
        that TreeCal's bound holds on every sequence is the theorem's part.

    Example:
        >>> from corollary.calibration import Simplex, TreeCal, adversary, play
        >>> forecaster = TreeCal(Simplex(2), levels=2, branching=16)
        >>> game = play(forecaster, adversary("best-response", Simplex(2)), 256)
        >>> certificate, evidence = certify_stream(*game, domain=Simplex(2), forecaster=forecaster)
        >>> certificate.check(**evidence).status.name, len(certificate.claims)
        ('HOLDS', 11)

    Reference: arXiv:2505.21460 (read in full); constants derived.
    """
    data = announced(forecasts, weights, outcomes)
    names = [_plain(n) for n in norms]
    witness: dict[str, Any] = {"set": domain.as_plain(), "norms": names, "errors": [np.inf] * len(names), "tree": None}
    if forecaster is not None:
        witness["tree"] = tree_settings(forecaster)
    evidence = data._asdict()
    found = {c.name: c.lhs for c in realised(witness, evidence)}
    witness["errors"] = [found[name] for name in found if name.endswith("calibration error a round")]
    T, told = (
        len(data.outcomes),
        ", ".join(f"{e:.4f} ({n})" for n, e in zip(map(norm_name, names), witness["errors"], strict=True)),
    )
    certificate = Certificate.issue(
        "calibration.realised",
        statement=f"Over these {T} rounds the calibration error a round is at most {told}"
        + (", within TreeCal's bound for every sequence." if witness["tree"] else "."),
        evidence=evidence,
        witness=witness,
        reference=Reference(
            "Fishelson, Golowich, Mohri and Schneider, arXiv:2505.21460",
            "Lemma 2.2 and Theorem 3.1" if witness["tree"] else "Lemma 2.2",
            "paper read in full" + ("; constants of the bound derived" if witness["tree"] else ""),
        ),
        assumptions=(
            Assumption("each forecast was announced before its outcome was known"),
            Assumption("outcomes lie in the set", "all of these do"),
            *assumptions,
        ),
        provenance=dict(provenance or {}),
    )
    return certificate, evidence


def tree_settings(forecaster: Any) -> dict[str, Any]:
    """The arguments of `replay` that repeat this forecaster's forecasts."""
    if not isinstance(forecaster, TreeCal) or isinstance(forecaster, SampleTreeCal):
        raise InvalidInputError(f"the theorem is claimed for TreeCal only, not for {type(forecaster).__name__}")
    start = forecaster.start
    if not isinstance(start, str) or start == "centre":  # as a point: a number of dimensions has no set
        start = (forecaster.centre if isinstance(start, str) else start).tolist()
    return {**forecaster.schedule.as_plain(), "start": start, "mixing": forecaster.mixing}


def _plain(norm: Any) -> Any:
    p = order_of(norm)
    if p is None:
        raise InvalidInputError("a certificate takes l_p norms; give the number p")
    return "linf" if p == np.inf else p
