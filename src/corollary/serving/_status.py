"""The figures of the page and the gauges of `/metrics`: read from the ledger, shared by all replicas."""

import time
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from corollary.deferral._ledger_schema import NANO
from corollary.serving import _tables as t
from corollary.serving._money import Limit, limits_of

if TYPE_CHECKING:
    from corollary.serving._gateway import Gateway


def status(gateway: "Gateway") -> dict[str, Any]:
    """Spend, who got what, estimated quality, budget left, certificate."""
    found = gateway.ledger.summary()
    del found["accounts"]
    latest = sa.select(
        t.request.c.id, t.request.c.created, t.request.c.served, t.request.c.status, t.request.c.seconds
    ).order_by(t.request.c.created.desc())
    return found | {
        "now": round(time.time(), 3),
        "unit": gateway.config.ledger.unit,
        "replica": gateway.replica,
        "ready": gateway.ready,
        "budgets": budgets(gateway),
        "certificate": gateway.watch.document(),
        "exploration": gateway.config.routing.exploration,
        "upstreams": {n: {"breaker": "open" if u.breaker.open else "closed"} for n, u in gateway.upstreams.items()},
        "latest": gateway.ledger.read(latest.limit(12)),
    }


def budgets(gateway: "Gateway") -> list[dict[str, Any]]:
    """What each budget of all requests still allows in this window, and those of keys that were used in it."""
    now = time.time()
    names = {row["key"] for row in gateway.ledger.read(sa.select(t.request.c.key).distinct())}
    own = {c.name: c.budget for c in gateway.keys.callers()}
    limits: dict[str, Limit] = {}
    for name in names or {"local"}:
        limits |= {limit.name: limit for limit in limits_of(gateway.config.budgets, name, own.get(name))}
    rows = gateway.ledger.read(sa.select(t.account).where(t.account.c.name.in_(list(limits))))
    held = {(row["name"], row["start"]): row for row in rows}
    found = []
    for limit in limits.values():
        row = held.get((limit.name, limit.start(now)), {"money": 0, "tokens": 0})
        found.append({
            "name": limit.name,
            "money": None if limit.money is None else limit.money / NANO,
            "money_left": None if limit.money is None else max(0, limit.money - row["money"]) / NANO,
            "tokens": limit.tokens,
            "tokens_left": None if limit.tokens is None else max(0, limit.tokens - row["tokens"]),
            "ends_in": None if (wait := limit.wait(now)) is None else round(wait),
        })  # fmt: skip
    return sorted(found, key=lambda b: b["name"])


def gauges(gateway: "Gateway") -> None:
    """Set the gauges to what stands now."""
    m = gateway.metrics
    m.flying.set(gateway.flying)
    for name, upstream in gateway.upstreams.items():
        m.breaker.labels(name).set(upstream.breaker.open)
    if gateway.ledger.writer is not None:
        m.waiting.set(gateway.ledger.writer.waiting)
        m.trouble.set(bool(gateway.ledger.writer.problem))
    for budget in budgets(gateway):
        if budget["name"].startswith("total/") and budget["money_left"] is not None:
            m.left.labels(budget["name"]).set(budget["money_left"])
