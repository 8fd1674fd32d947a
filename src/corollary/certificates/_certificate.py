"""The certificate: a statement, its claims, and everything needed to derive them again."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from corollary.certificates._claim import Assumption, Claim, Reference
from corollary.certificates._digest import as_array, digest
from corollary.certificates._rules import Rule, Undecided, find_rule
from corollary.errors import CorollaryError, InvalidInputError

COMPOSED = "all"


class Status(Enum):
    """What a check found; each member is a sentence.

    Guarantee: none; `Certificate.check` says what each stands for.

    Example:
        >>> print(Status.HOLDS)
        every claim follows from the evidence
    """

    HOLDS = "every claim follows from the evidence"
    VIOLATED = "a claim fails, or says more than the evidence allows"
    UNDECIDED = "the evidence decides nothing"

    def __str__(self) -> str:
        return self.value


class CertificateError(CorollaryError):
    """A certificate that does not hold, with the report that says why in `report`.

    Guarantee: none; it is a type to catch.

    Example:
        >>> Report(Status.UNDECIDED, "no evidence was given").raise_for_status()
        Traceback (most recent call last):
        ...
        corollary.certificates._certificate.CertificateError: UNDECIDED: no evidence was given
    """

    def __init__(self, report: "Report") -> None:
        self.report = report
        super().__init__(f"{report.status.name}: {report.reason}")


@dataclass(frozen=True)
class Report:
    """The outcome of a check: a status, the sentence that explains it, and the claims as derived again.

    Guarantee: none of its own; it is true exactly where the status is HOLDS.

    Example:
        >>> report = Report(Status.UNDECIDED, "no evidence was given")
        >>> bool(report), str(report)
        (False, 'UNDECIDED: no evidence was given')
    """

    status: Status
    reason: str
    claims: tuple[Claim, ...] = ()
    parts: tuple["Report", ...] = ()

    def __bool__(self) -> bool:
        return self.status is Status.HOLDS

    def raise_for_status(self) -> None:
        """Raise `CertificateError` unless the certificate holds."""
        if not self:
            raise CertificateError(self)

    def __str__(self) -> str:
        return f"{self.status.name}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A statement that follows from evidence, and what is needed to derive it again.

    Issue one with `Certificate.issue`, which lets the rule derive the claims.

    Args:
        rule: name of the rule that derives the claims, e.g. `gating.every_document`.
        statement: one sentence in words.
        claims: the comparisons, as derived when the certificate was issued.
        assumptions: what the statement rests on, each with how it was checked.
        confidence: probability that the statement is true, over the draw of the evidence; None when deterministic.
        reference: paper, theorem, fidelity.
        witness: what a checker needs beside the evidence (thresholds, seeds, names, levels): JSON values and arrays.
        digest: SHA-256 of the evidence under `evidence`, and of whatever else is pinned (`documents`, `models`).
        attempts: how often statements were drawn from this split, this one included.
        provenance: versions, sizes, seeds; for the reader.
        undecided: why nothing could be certified; empty otherwise.
        parts: the certificates that a composed one is made of.
        intact: False when the stored file was edited after it was issued.

    Guarantee: `check` reports HOLDS only if the rule, run again on evidence with the recorded digest, derives every
    claim at least as tight as stated. It guards against mistakes, stale files and edited numbers, not against a liar.

    Example:
        >>> from corollary.certificates import Certificate, Claim, Reference, Rule, register_rule
        >>> rule = register_rule(Rule("example.largest", needs=("x",),
        ...     derive=lambda witness, evidence: [Claim("largest x", evidence["x"].max(), "<=", witness["limit"])]))
        >>> certificate = Certificate.issue("example.largest", statement="No x exceeds 3.",
        ...     evidence={"x": [1.0, 2.0]}, witness={"limit": 3.0}, reference=Reference("none"))
        >>> certificate.check(x=[1.0, 2.0]).status.name, certificate.check().status.name
        ('HOLDS', 'UNDECIDED')
    """

    rule: str
    statement: str
    claims: tuple[Claim, ...]
    assumptions: tuple[Assumption, ...] = ()
    confidence: float | None = None
    reference: Reference = field(default_factory=lambda: Reference("none"))
    witness: Mapping[str, Any] = field(default_factory=dict)
    digest: Mapping[str, str] = field(default_factory=dict)
    attempts: int = 1
    provenance: Mapping[str, Any] = field(default_factory=dict)
    undecided: str = ""
    parts: tuple["Certificate", ...] = ()
    intact: bool = True

    @classmethod
    def issue(
        cls,
        rule: str,
        *,
        statement: str,
        evidence: Mapping[str, Any],
        witness: Mapping[str, Any],
        reference: Reference,
        assumptions: Sequence[Assumption] = (),
        confidence: float | None = None,
        pins: Mapping[str, str] | None = None,
        attempts: int = 1,
        provenance: Mapping[str, Any] | None = None,
    ) -> "Certificate":
        """Derive the claims by `rule` from `evidence` and `witness`, and record the digests.

        Args:
            evidence: the arrays named by the rule's `needs`.
            pins: further digests to record, e.g. `{"documents": ..., "models": ...}`.

        Raises:
            InvalidInputError: for an unknown rule or absent evidence.
        """
        known = find_rule(rule)
        if known is None:
            raise InvalidInputError(f"no rule is named {rule!r}; register it with corollary.certificates.register_rule")
        arrays = {name: as_array(evidence[name]) for name in known.needs if name in evidence}
        if missing := [name for name in known.needs if name not in arrays]:
            raise InvalidInputError(f"rule {rule!r} needs the evidence {', '.join(missing)}; pass it in `evidence`")
        claims, undecided = _derive(known, witness, arrays)
        return cls(
            rule=rule,
            statement=statement,
            claims=claims,
            assumptions=tuple(assumptions),
            confidence=confidence,
            reference=reference,
            witness=dict(witness),
            digest={"evidence": digest(**arrays), **(pins or {})},
            attempts=attempts,
            provenance=dict(provenance or {}),
            undecided=undecided,
        )

    @property
    def key(self) -> str:
        """Short name of this certificate's evidence, for `check` where several parts use the same array names."""
        return self.digest.get("evidence", "")[:12]

    @property
    def vacuous(self) -> bool:
        """Whether no claim is better than what would hold without the method."""
        return bool(self.claims) and all(claim.vacuous for claim in self.claims)

    def check(self, **evidence: Any) -> Report:
        """Derive every claim again from the witness and `evidence`, and compare.

        Args:
            evidence: the arrays named by the rule; for a composed certificate those of all parts, where an array that
                belongs to one part only may be passed as `**{f"{part.key}/name": array}`.

        Returns:
            The report: HOLDS, VIOLATED, or UNDECIDED where evidence is absent or of another digest.
        """
        return self._check(evidence, pinned=True)

    def check_rescored(self, stored: Mapping[str, Any], recomputed: Mapping[str, Any]) -> Report:
        """Check against evidence computed again, perhaps on another machine.

        The stored evidence must have the recorded digest, the recomputed one must agree with it within the rule's
        tolerances, and the claims are then derived from the recomputed arrays.
        """
        first = self.check(**stored)
        if not first:
            return first
        for part in self.parts or (self,):
            rule = find_rule(part.rule)
            for name in rule.needs if rule else ():
                old, new = part._pick(stored, name), part._pick(recomputed, name)
                if old is None or new is None:
                    return Report(Status.UNDECIDED, f"`{name}` was not recomputed")
                tolerance = rule.tolerances.get(name, 0.0) if rule else 0.0
                if old.shape != new.shape or not np.all(np.abs(old.astype(np.float64) - new) <= tolerance):
                    return Report(
                        Status.VIOLATED,
                        f"`{name}` computed again differs from the stored evidence by more than {tolerance:g}",
                    )
        return self._check(recomputed, pinned=False)

    def __and__(self, other: "Certificate") -> "Certificate":
        """Both statements at once: failure probabilities add, assumptions unite, digests chain."""
        if not isinstance(other, Certificate):
            return NotImplemented
        parts = tuple(p for c in (self, other) for p in (c.parts or (c,)))
        return Certificate(
            rule=COMPOSED,
            statement=" And: ".join(p.statement for p in parts),
            claims=tuple(c for p in parts for c in p.claims),
            assumptions=tuple(dict.fromkeys(a for p in parts for a in p.assumptions)),
            confidence=_joint_confidence(parts),
            reference=Reference("; ".join(dict.fromkeys(p.reference.paper for p in parts))),
            digest={"chain": _chain(parts)},
            attempts=max(p.attempts for p in parts),
            provenance=parts[0].provenance,
            parts=parts,
            intact=self.intact and other.intact,
        )

    def _pick_names(self) -> tuple[str, ...]:
        rule = find_rule(self.rule)
        return rule.needs if rule else ()

    def _pick(self, evidence: Mapping[str, Any], name: str) -> np.ndarray | None:
        value = evidence.get(f"{self.key}/{name}", evidence.get(name))
        return None if value is None else as_array(value)

    def _check(self, evidence: Mapping[str, Any], *, pinned: bool) -> Report:
        if not self.intact:
            return Report(Status.VIOLATED, "the file was edited after the certificate was issued")
        if self.rule == COMPOSED:
            return self._check_parts(evidence, pinned=pinned)
        rule = find_rule(self.rule)
        if rule is None:
            return Report(Status.UNDECIDED, f"no rule named {self.rule!r} is installed here")
        picked = {name: self._pick(evidence, name) for name in rule.needs}
        arrays = {name: array for name, array in picked.items() if array is not None}
        if len(arrays) < len(picked):
            absent = ", ".join(sorted(set(picked) - set(arrays)))
            return Report(Status.UNDECIDED, f"no evidence was given for: {absent}")
        if pinned and digest(**arrays) != self.digest.get("evidence"):
            return Report(Status.UNDECIDED, "the evidence is not the one that this certificate was issued on")
        derived, undecided = _derive(rule, self.witness, arrays)
        if undecided or self.undecided:
            return Report(Status.UNDECIDED, undecided or f"issued without a claim: {self.undecided}")
        return _compare(self.claims, derived, room=0.0 if pinned else rule.tolerances.get("claims", 0.0))

    def _check_parts(self, evidence: Mapping[str, Any], *, pinned: bool) -> Report:
        whole = self.parts and (
            self.claims == tuple(c for p in self.parts for c in p.claims)
            and self.confidence == _joint_confidence(self.parts)
            and self.digest.get("chain") == _chain(self.parts)
        )
        if not whole:
            return Report(Status.VIOLATED, "the whole does not follow from its parts")
        reports = tuple(p._check(evidence, pinned=pinned) for p in self.parts)
        claims = tuple(c for r in reports for c in r.claims)
        for status in (Status.VIOLATED, Status.UNDECIDED):
            if failed := [(p, r) for p, r in zip(self.parts, reports, strict=True) if r.status is status]:
                return Report(status, "; ".join(f"{p.rule}: {r.reason}" for p, r in failed), claims, reports)
        silent = all(p.vacuous for p in self.parts)
        return Report(Status.HOLDS, _holds_sentence(len(claims), silent=silent), claims, reports)

    def __str__(self) -> str:
        from corollary.certificates._text import certificate_text

        return certificate_text(self)


def _derive(rule: Rule, witness: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[tuple[Claim, ...], str]:
    try:
        return tuple(rule.derive(witness, arrays)), ""
    except Undecided as reason:
        return (), str(reason)
    except (KeyError, IndexError, TypeError, ValueError) as problem:  # a witness or evidence of another make
        return (
            (),
            f"rule {rule.name!r} cannot read this witness and evidence ({type(problem).__name__}: {problem})",
        )


def _compare(stated: Sequence[Claim], derived: Sequence[Claim], *, room: float) -> Report:
    derived = tuple(derived)
    by_name = {claim.name: claim for claim in derived}
    for claim in stated:
        if claim.name not in by_name:
            return Report(Status.VIOLATED, f"`{claim.name}` is claimed, but the rule does not derive it", derived)
        if why := claim.tighter_than(by_name[claim.name], room=room):
            return Report(Status.VIOLATED, f"`{claim.name}` {why}", derived)
        again = by_name[claim.name]
        # What is stated must itself be true, and follow from what the evidence gives.
        if not claim.holds or not again.slack >= -max(again.tol, room):
            return Report(Status.VIOLATED, f"`{claim.name}` fails: {again}", derived)
    if not stated:
        return Report(Status.UNDECIDED, "the certificate makes no claim")
    return Report(Status.HOLDS, _holds_sentence(len(stated), silent=all(c.vacuous for c in stated)), derived)


def _holds_sentence(count: int, *, silent: bool) -> str:
    if silent:
        return "holds, but says nothing: no claim is better than what would hold without the method"
    return f"all {count} claims follow from the evidence" if count > 1 else "the claim follows from the evidence"


def _joint_confidence(parts: Sequence[Certificate]) -> float | None:
    levels = [1.0 - p.confidence for p in parts if p.confidence is not None]
    return max(0.0, 1.0 - sum(levels)) if levels else None


def _chain(parts: Sequence[Certificate]) -> str:
    state = hashlib.sha256()
    for part in parts:
        for name in sorted(part.digest):
            state.update(f"{part.rule}:{name}:{part.digest[name]};".encode())
    return state.hexdigest()
