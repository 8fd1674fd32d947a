"""The certificate in words and tables: what is claimed, on what it rests, and what the check said just now."""

from typing import Any

from corollary.certificates import Certificate, Claim
from corollary.certificates import Report as Check
from corollary.report._render import render
from corollary.report._run import Run

SIGN = {"<=": "≤", ">=": "≥", "==": "="}


def certificate_section(run: Run) -> str:
    """The certificate of a run, each part of a composed one by itself."""
    certificate, check = run.certificate, run.check
    if certificate is None or check is None:
        return render("no_certificate.html")
    if certificate.parts and len(check.parts) == len(certificate.parts):
        parts = [_card(p, r) for p, r in zip(certificate.parts, check.parts, strict=True)]
    else:  # one part, or a whole that was found broken before its parts were looked at
        parts = [_card(p, check) for p in certificate.parts or (certificate,)]
    return render("certificate.html", certificate=certificate, check=check, status=check.status.name, parts=parts)


def _card(part: Certificate, check: Check) -> dict[str, Any]:
    again = {c.name: c for c in check.claims}
    return {
        "part": part,
        "status": check.status.name,
        "reason": check.reason,
        "unchecked": [a for a in part.assumptions if not a.checked],
        "checked": [a for a in part.assumptions if a.checked],
        "claims": [_row(c, again.get(c.name)) for c in part.claims],
    }


def _row(stated: Claim, derived: Claim | None) -> dict[str, Any]:
    if derived is None or not stated.holds:
        said = "fails" if not stated.holds else "not derived"
    else:
        said = "holds, but says nothing" if stated.vacuous else "holds"
    return {"claim": stated, "sign": SIGN[stated.relation], "derived": derived, "said": said}
