r"""What a ledger certifies, and how it is derived again from its rows; imports no solver and no trainer.

`deferral.ledger` [deterministic]: charged <= budget; true spend <= charged, and by no more than the maxima of the rows
in flight. Row by row: an answered query is charged at its cost, which does not exceed its maximum; one whose outcome is
unknown at its maximum; one that was refused or never sent at nothing; and whoever honours no idempotency keys has at
most one send whose outcome is not a refusal. Money in whole billionths of the unit, so sums are exact.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from corollary.certificates import Assumption, Certificate, Claim, Reference, Rule, Undecided, digest, register_rule
from corollary.deferral._ledger import STATES, Ledger
from corollary.deferral._ledger_schema import NANO

NAMES = ("state", "maximum", "charge", "sends", "refusals", "idempotent")
FILE = "ledger.sqlite"
KNOWN = {"planned": 0, "refused": 0, "answered": 1, "pending": 2, "unknown": 2}  # nothing, its cost, its maximum


def ledger_evidence(ledger: Ledger) -> dict[str, np.ndarray]:
    """The rows of a ledger as whole numbers: states (as in `STATES`), money in billionths, sends.

    Guarantee: none; it is a copy.

    Example:
        >>> import tempfile
        >>> with Ledger(Path(tempfile.mkdtemp()) / "ledger.sqlite", budget=1.0) as ledger:
        ...     _ = ledger.intend("a question", "large", maximum=0.4)
        ...     ledger_evidence(ledger)["charge"].tolist()
        [400000000]
    """
    rows = ledger.queries()
    columns = [[STATES.index(q.state), q.maximum, q.charge, q.sends, q.refusals, int(q.idempotent)] for q in rows]
    table = np.array(columns, dtype=np.int64).reshape(len(rows), len(NAMES))
    return {name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(NAMES)}


def certify_ledger(
    ledger: Ledger, *, everything: float | None = None, provenance: Mapping[str, Any] | None = None
) -> tuple[Certificate, dict[str, np.ndarray]]:
    """The certificate of a ledger with a budget, and its evidence.

    Args:
        ledger: with a budget.
        everything: what asking everyone everything could cost: what would hold without a budget.
        provenance: for the reader.

    Raises:
        Undecided: for a ledger without a budget.

    Guarantee: `Ledger`'s, derived from every row.

    Example:
        >>> import tempfile
        >>> with Ledger(Path(tempfile.mkdtemp()) / "ledger.sqlite", budget=1.0) as ledger:
        ...     ledger.settle(ledger.intend("a question", "large", maximum=0.4), "answer", cost=0.1)
        ...     certificate, evidence = certify_ledger(ledger, everything=4.0)
        >>> certificate.check(**evidence).status.name
        'HOLDS'

    Reference: ours.
    """
    if ledger.budget is None:
        raise Undecided("the ledger has no budget; open it with one")
    evidence = ledger_evidence(ledger)
    witness = {"budget": ledger.budget, "unit": ledger.unit, "everything": everything}
    flying = ledger.in_flight
    certificate = Certificate.issue(
        "deferral.ledger",
        statement=(
            f"The queries cost at most {ledger.charged:g} {ledger.unit} in all, within the budget of "
            f"{ledger.budget:g}, and at least {ledger.charged - flying:g}."
        ),
        evidence=evidence,
        witness=witness,
        reference=Reference("ours", "intents before calls", "derived"),
        assumptions=(
            Assumption("no call costs more than its declared maximum", "against the cost of every answer"),
            Assumption("experts said to honour idempotency keys charge a key once, refusals are free of charge"),
            Assumption("nothing is asked beside the ledger"),
        ),
        pins={"ledger": digest(**evidence)},
        provenance=provenance,
    )
    return certificate, evidence


def ledger_claims(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claims from the rows."""
    state, maximum, charge = evidence["state"], evidence["maximum"], evidence["charge"]
    sizes = {evidence[name].shape for name in NAMES}
    if len(sizes) != 1 or state.ndim != 1 or ((state < 0) | (state >= len(STATES))).any():
        raise Undecided("the rows are not those of a ledger")
    kind = np.array([KNOWN[s] for s in STATES])[state]
    flying = kind == 2
    total, open_charge = int(charge.sum()), int(charge[flying].sum())
    wrong = np.where(kind == 0, charge != 0, np.where(kind == 1, charge > maximum, charge < maximum)) | (charge < 0)
    again = (evidence["sends"] - evidence["refusals"])[evidence["idempotent"] == 0]
    unsent = flying | (kind == 1)
    silent = unsent & (evidence["sends"] <= evidence["refusals"])
    unit, known = witness["unit"], total - open_charge
    gap = int(maximum[flying].sum()) / NANO
    return [
        Claim(f"charged in all, {unit}", total / NANO, "<=", witness["budget"], 0.0, witness["everything"]),
        Claim(f"charged beyond what answers cost, {unit}", (total - known) / NANO, "<=", gap, 1e-9),
        Claim("rows charged at another amount than their state asks for", int(wrong.sum()), "==", 0),
        Claim("rows charged without a send on record", int(silent.sum()), "==", 0),
        Claim("sends without a refusal to whoever honours no keys, the most", int(again.max(initial=0)), "<=", 1),
    ]


def _rescore(folder: Path, digests: Mapping[str, str]) -> dict[str, np.ndarray]:
    if not (folder / FILE).is_file():
        raise Undecided(f"there is no {FILE} in {folder} to read again")
    with Ledger(folder / FILE, read_only=True) as ledger:
        evidence = ledger_evidence(ledger)
    if digest(**evidence) != digests.get("ledger"):
        raise Undecided(f"{FILE} is not the ledger that this certificate was issued on")
    return evidence


register_rule(Rule("deferral.ledger", needs=NAMES, derive=ledger_claims, rescore=_rescore, tolerances={"claims": 1e-9}))
