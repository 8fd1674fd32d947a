"""How a certificate reads on a terminal: the statement, what was not checked, the claims."""

import textwrap
from collections.abc import Iterator

from corollary.certificates._certificate import COMPOSED, Certificate

WIDTH = 100


def certificate_text(certificate: Certificate) -> str:
    """The certificate as plain text, unchecked assumptions before the claims."""
    return "\n".join(_lines(certificate))


def _lines(certificate: Certificate) -> Iterator[str]:
    if certificate.rule == COMPOSED:
        level = _level(certificate)
        yield f"CERTIFICATE of {len(certificate.parts)} parts, {level}"
        for number, part in enumerate(certificate.parts, 1):
            yield ""
            yield f"({number}) {part.rule}, {_level(part)}"
            yield from _body(part)
    else:
        yield f"CERTIFICATE {certificate.rule}, {_level(certificate)}"
        yield from _body(certificate)


def _body(certificate: Certificate) -> Iterator[str]:
    yield from textwrap.wrap(certificate.statement, WIDTH, initial_indent="  ", subsequent_indent="  ")
    if certificate.undecided:
        yield from _wrapped("  UNDECIDED   ", certificate.undecided)
    for assumption in sorted(certificate.assumptions, key=lambda a: bool(a.checked)):
        label = "  assumes     " if not assumption.checked else "  checked     "
        text = assumption.text if not assumption.checked else f"{assumption.text} ({assumption.checked})"
        yield from _wrapped(label, text)
    for claim in certificate.claims:
        mark = "fails" if not claim.holds else "says nothing" if claim.vacuous else "holds"
        yield from _wrapped(f"  {mark:<11} ".ljust(14), str(claim))
    yield from _wrapped("  from        ", str(certificate.reference))
    digests = ", ".join(f"{name} {value[:12]}" for name, value in certificate.digest.items())
    yield from _wrapped("  sha-256     ", digests)
    if certificate.attempts > 1:
        yield f"  attempts    {certificate.attempts} statements were drawn from this split, this one included"


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=label, subsequent_indent=" " * len(label))


def _level(certificate: Certificate) -> str:
    if certificate.confidence is None:
        return "deterministic"
    return f"confidence {certificate.confidence:.4g}"
