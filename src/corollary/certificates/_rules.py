"""The registry of rules: how the claims of each kind of certificate follow from its witness and evidence."""

import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from corollary.certificates._claim import Claim
from corollary.errors import CorollaryError, InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

MIN_UNITS = 30  # under this many exchangeable units a statistical statement is not made

Derivation = Callable[[Mapping[str, Any], Mapping[str, "np.ndarray"]], Sequence[Claim]]
Rescorer = Callable[["Path", Mapping[str, str]], dict[str, "np.ndarray"]]


class Undecided(CorollaryError):
    """Raised by a rule where the evidence allows no statement either way; the message is the reason.

    Guarantee: none; a check turns it into the status UNDECIDED.

    Example:
        >>> raise Undecided("12 documents in domain `json`, at least 30 are needed")
        Traceback (most recent call last):
        ...
        corollary.certificates._rules.Undecided: 12 documents in domain `json`, at least 30 are needed
    """


@dataclass(frozen=True)
class Rule:
    """How one kind of certificate is checked.

    Args:
        name: `theme.statement`, e.g. `gating.every_document`.
        needs: names of the evidence arrays, each finite and non-empty unless the rule says otherwise.
        derive: `(witness, evidence) -> claims`; raises `Undecided` where nothing can be said.
            It must not import a solver.
        rescore: `(run folder, digests) -> evidence`, recomputing the arrays from data and models, which it must find to
            be those of the recorded digests (`Undecided` otherwise); None where that is impossible.
        tolerances: name -> largest absolute difference of a rescored array from the stored one; under `claims` how far
            a claim derived from rescored arrays may fall behind the stated one.

    Guarantee: none; what a rule derives is as good as its theorem and its tests.

    Example:
        >>> import numpy as np
        >>> rule = Rule("example.mean", needs=("x",),
        ...     derive=lambda witness, evidence: [Claim("mean", evidence["x"].mean(), "<=", witness["limit"])])
        >>> rule.derive({"limit": 1.0}, {"x": np.array([0.5])})[0].holds
        True
    """

    name: str
    needs: tuple[str, ...]
    derive: Derivation
    rescore: Rescorer | None = None
    tolerances: Mapping[str, float] = field(default_factory=dict)


_RULES: dict[str, Rule] = {}
_NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")


def register_rule(rule: Rule) -> Rule:
    """Make `rule` known by its name; registering another rule under a taken name is an error.

    Raises:
        InvalidInputError: for a name that is not `theme.statement`, or is taken.

    Guarantee: none.

    Example:
        >>> rule = register_rule(Rule("example.always", needs=(), derive=lambda witness, evidence: []))
        >>> find_rule("example.always") is rule
        True
    """
    if not _NAME.fullmatch(rule.name):
        raise InvalidInputError(f"a rule is named `theme.statement` in lower case, got {rule.name!r}")
    if _RULES.get(rule.name, rule) is not rule:
        raise InvalidInputError(f"a rule named {rule.name!r} exists already; choose another name")
    _RULES[rule.name] = rule
    return rule


def find_rule(name: str) -> Rule | None:
    """The rule of that name, importing `corollary.<theme>._certificate` if need be; None where there is none.

    Guarantee: none.

    Example:
        >>> find_rule("gating.every_document").needs, find_rule("nobody.knows")
        (('bits',), None)
    """
    if name not in _RULES and _NAME.fullmatch(name):
        module = f"corollary.{name.split('.')[0]}._certificate"
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found:
            importlib.import_module(module)
    return _RULES.get(name)


def require_units(count: int, what: str) -> None:
    """Raise `Undecided` below `MIN_UNITS` exchangeable units.

    Guarantee: none; the number is a convention.

    Example:
        >>> require_units(12, "requests")
        Traceback (most recent call last):
        ...
        corollary.certificates._rules.Undecided: 12 requests, and at least 30 are needed for a statistical statement
    """
    if count < MIN_UNITS:
        raise Undecided(f"{count} {what}, and at least {MIN_UNITS} are needed for a statistical statement")
