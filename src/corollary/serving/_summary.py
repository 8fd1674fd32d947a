"""What a ledger's rows say together: spend and quality by model and key, and whether accounts and calls agree."""

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from corollary.deferral._ledger_schema import NANO
from corollary.serving import _tables as t

if TYPE_CHECKING:
    from corollary.serving._ledger import GatewayLedger

TOTAL = sa.func.coalesce


def summary(ledger: "GatewayLedger") -> dict[str, Any]:
    """Plain values; money in the unit."""
    calls, asked = t.call.c, t.request.c
    by_model = ledger.read(
        sa.select(
            calls.model, calls.state, sa.func.count().label("n"), sa.func.sum(calls.money).label("money"),
            TOTAL(sa.func.sum(calls.tokens_in), 0).label("i"), TOTAL(sa.func.sum(calls.tokens_out), 0).label("o"),
        ).group_by(calls.model, calls.state)
    )  # fmt: skip
    served = ledger.read(
        sa.select(asked.served, sa.func.count().label("n"), sa.func.avg(asked.score).label("score"),
                  sa.func.count(asked.score).label("scored")).group_by(asked.served)
    )  # fmt: skip
    by_key = ledger.read(
        sa.select(asked.key, sa.func.count(sa.distinct(asked.id)).label("n"),
                  TOTAL(sa.func.sum(calls.money), 0).label("money"))
        .select_from(t.request.join(t.call, calls.request == asked.id, isouter=True)).group_by(asked.key)
    )  # fmt: skip
    models: dict[str, dict[str, Any]] = {}
    states: Counter[str] = Counter()
    for row in by_model:
        found = models.setdefault(row["model"], {"calls": 0, "money": 0.0, "tokens_in": 0, "tokens_out": 0})
        found["calls"] += row["n"]
        found["money"] += int(row["money"]) / NANO
        found["tokens_in"] += int(row["i"])
        found["tokens_out"] += int(row["o"])
        states[row["state"]] += row["n"]
    for row in served:
        if row["served"] is not None:
            found = models.setdefault(row["served"], {"calls": 0, "money": 0.0, "tokens_in": 0, "tokens_out": 0})
            found |= {"requests": row["n"], "scored": row["scored"]}
            found["quality"] = None if row["score"] is None else round(float(row["score"]), 6)
    accounts = ledger.read(sa.select(t.account).order_by(t.account.c.name, t.account.c.start))
    return {
        "requests": sum(row["n"] for row in served),
        "charged": sum(int(row["money"]) for row in by_model) / NANO,
        "in_flight": ledger.in_flight() / NANO,
        "states": dict(states),
        "models": models,
        "keys": {row["key"]: {"requests": row["n"], "money": int(row["money"]) / NANO} for row in by_key},
        "accounts": [a | {"money": a["money"] / NANO} for a in accounts],
    }


def audit(ledger: "GatewayLedger") -> list[str]:
    """Sentences about accounts that differ from the sum of the calls that were charged to them."""
    money: Counter[tuple[str, int]] = Counter()
    tokens: Counter[tuple[str, int]] = Counter()
    for row in ledger.read(sa.select(t.call.c.accounts, t.call.c.money, t.call.c.tokens)):
        for name, start in json.loads(row["accounts"]):
            money[name, start] += row["money"]
            tokens[name, start] += row["tokens"]
    wrong = []
    for row in ledger.read(sa.select(t.account)):
        spot = (row["name"], row["start"])
        if (row["money"], row["tokens"]) != (money[spot], tokens[spot]):
            wrong.append(f"{spot[0]} from {spot[1]}: {row['money']} charged, its calls say {money[spot]}")
    return wrong
