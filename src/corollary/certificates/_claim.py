"""What a certificate is made of: claims, assumptions, and the paper they follow from."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from corollary.errors import InvalidInputError

Relation = Literal["<=", ">=", "=="]
RELATIONS = ("<=", ">=", "==")


@dataclass(frozen=True)
class Claim:
    """One comparison: what the evidence gives (`lhs`) against what is claimed (`rhs`).

    A claim holds when `slack >= -tol`, where the slack is `rhs - lhs`, `lhs - rhs` or `-|lhs - rhs|` for
    `<=`, `>=` and `==`. NaN never holds.

    Args:
        name: what is compared, with its unit.
        lhs: the number that the evidence gives (for statistical claims, its confidence bound).
        relation: `"<="`, `">="` or `"=="`.
        rhs: the number that is claimed.
        tol: slack below zero that is still accepted (round-off, never statistics).
        trivial: what would hold without the method, in the place of `rhs`; None where there is no such number.

    Raises:
        InvalidInputError: for an unknown relation or a negative tolerance.

    Guarantee: none; a claim is only as good as the certificate that carries it.

    Example:
        >>> claim = Claim("mean cost per request", 0.28, "<=", 0.30, trivial=1.0)
        >>> claim.holds, round(claim.slack, 2), claim.vacuous
        (True, 0.02, False)
        >>> Claim("anything", float("nan"), "<=", 1.0).holds
        False
    """

    name: str
    lhs: float | int
    relation: Relation
    rhs: float | int
    tol: float | int = 0.0
    trivial: float | int | None = None

    def __post_init__(self) -> None:
        if self.relation not in RELATIONS:
            raise InvalidInputError(f"`relation` must be one of {', '.join(RELATIONS)}, got {self.relation!r}")
        if not self.tol >= 0:
            raise InvalidInputError(f"`tol` must be zero or more, got {self.tol}; it absorbs round-off only")
        for field in ("lhs", "rhs", "tol"):
            object.__setattr__(self, field, float(getattr(self, field)))
        if self.trivial is not None:
            object.__setattr__(self, "trivial", float(self.trivial))

    @property
    def slack(self) -> float:
        """Room left before the claim fails; negative where it fails."""
        if self.lhs == self.rhs:  # also where both are the same infinity
            return 0.0
        if self.relation == "<=":
            return self.rhs - self.lhs
        if self.relation == ">=":
            return self.lhs - self.rhs
        return -abs(self.lhs - self.rhs)

    @property
    def holds(self) -> bool:
        """Whether the comparison is true up to `tol`; False for NaN."""
        return self.slack >= -self.tol

    @property
    def vacuous(self) -> bool:
        """Whether `rhs` is no better than what would hold without the method."""
        if self.trivial is None:
            return False
        if self.relation == "<=":
            return self.rhs >= self.trivial
        if self.relation == ">=":
            return self.rhs <= self.trivial
        return self.rhs == self.trivial

    def tighter_than(self, derived: "Claim", *, room: float = 0.0) -> str:
        """Why this claim says more than `derived` does by more than `room` (empty where it does not)."""

        def beyond(mine: float, theirs: float, sign: int) -> bool:
            allowed = max(room, derived.tol, 1e-9 * max(1.0, abs(theirs)))
            return not (mine == theirs or sign * (mine - theirs) <= allowed)  # NaN counts as beyond

        if self.relation != derived.relation:
            return f"states `{self.relation}` where the evidence gives `{derived.relation}`"
        signs = {"<=": (-1,), ">=": (1,), "==": (-1, 1)}[self.relation]
        for side in ("lhs", "rhs"):
            mine, theirs = getattr(self, side), getattr(derived, side)
            if any(beyond(mine, theirs, sign) for sign in signs):
                return f"states {side} = {mine:.6g}, tighter than the {theirs:.6g} that the evidence allows"
        if self.tol > derived.tol:
            return f"states a tolerance of {self.tol:.3g}, wider than the rule's {derived.tol:.3g}"
        if (self.trivial is None) != (derived.trivial is None) or (
            self.trivial is not None
            and derived.trivial is not None
            and not math.isclose(self.trivial, derived.trivial, rel_tol=1e-9)
        ):
            return f"states a trivial bound of {self.trivial} where the rule has {derived.trivial}"
        return ""

    def __str__(self) -> str:
        sign = {"<=": "≤", ">=": "≥", "==": "="}[self.relation]
        trivial = "" if self.trivial is None else f"   (without the method: {self.trivial:.5g})"
        return f"{self.name}: {self.lhs:.5g} {sign} {self.rhs:.5g}{trivial}"


@dataclass(frozen=True)
class Assumption:
    """Something the statement rests on, and how it was checked (empty: it was not).

    Guarantee: none; where it is false, so may be the statement.

    Example:
        >>> Assumption("documents are drawn independently").checked
        ''
    """

    text: str
    checked: str = ""

    def __str__(self) -> str:
        return f"{self.text} [{'checked: ' + self.checked if self.checked else 'not checked'}]"


@dataclass(frozen=True)
class Reference:
    """The source of the theorem, and how faithful the code is to it.

    Guarantee: none; it is for the reader.

    Example:
        >>> print(Reference("Clopper and Pearson (1934)", "exact binomial limits", "textbook"))
        Clopper and Pearson (1934), exact binomial limits (fidelity: textbook)
    """

    paper: str
    theorem: str = ""
    fidelity: str = ""

    def __str__(self) -> str:
        theorem = f", {self.theorem}" if self.theorem else ""
        fidelity = f" (fidelity: {self.fidelity})" if self.fidelity else ""
        return f"{self.paper}{theorem}{fidelity}"


def as_plain(thing: Claim | Assumption | Reference) -> dict[str, Any]:
    """The JSON form of one part; infinities and NaN become strings, since JSON has none."""

    def plain(value: Any) -> Any:
        return repr(value) if isinstance(value, float) and not math.isfinite(value) else value

    return {key: plain(value) for key, value in asdict(thing).items()}


def claim_from_plain(data: dict[str, Any]) -> Claim:
    """The claim in `data`, as `as_plain` wrote it."""
    trivial = None if data["trivial"] is None else float(data["trivial"])
    return Claim(data["name"], float(data["lhs"]), data["relation"], float(data["rhs"]), float(data["tol"]), trivial)
