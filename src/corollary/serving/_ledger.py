r"""`GatewayLedger`: every request's decision, prices, tokens, outcome and feedback, and the budgets, in one database.

A call to a model goes pending -> answered | unknown | refused. The step to `pending` charges its maximum to every
budget that it counts against, and is on disk *before* the upstream is called; where a budget has no room nothing is
recorded and nothing is sent. Settling charges what it cost (answered), leaves the maximum (unknown) or gives it back
(refused).

At every moment, killed processes and several replicas included, if no call costs more than its maximum:
true spend <= charged <= budget, and charged - true spend <= the maxima of the calls pending or unknown.

All replicas of one database lock the accounts of a batch in the order of their names, so none waits for another in a
circle. Budgets are windows of the clock: replicas need clocks that agree to within the length of a request.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from corollary.errors import BudgetError
from corollary.serving import _tables as t
from corollary.serving._config import database_url
from corollary.serving._money import Limit
from corollary.serving._prepared import Statements
from corollary.serving._writer import Operation, Writer

PENDING, ANSWERED, UNKNOWN, REFUSED = "pending", "answered", "unknown", "refused"
Spot = tuple[str, int]  # an account's name and the start of its window


class OverBudget(BudgetError):
    """No room in a budget; `limits` are those that were too small."""

    def __init__(self, limits: Sequence[Limit]) -> None:
        self.limits = tuple(limits)
        super().__init__(f"the budget {self.limits[0].name} has no room for this request")


@dataclass
class Call:
    """One call to one model, reserved at its maximum."""

    id: str
    request: str
    model: str
    spots: tuple[Spot, ...]
    maximum: int
    maximum_tokens: int
    created: float
    settled: bool = False


@dataclass
class Reservation:
    """What is asked of the ledger: a call, the budgets it counts against, and the request's row at its first call."""

    call: Call
    limits: tuple[Limit, ...]
    row: dict[str, Any] | None = None


@dataclass
class Settlement:
    """How a call ended, and where the request ended with it, what is then known of the request."""

    call: Call
    state: str
    money: int
    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens: int = 0
    finish: dict[str, Any] = field(default_factory=dict)


class GatewayLedger:
    """The accounts of a gateway.

    Args:
        url: an SQLite file, or a `postgresql://` URL where several replicas share it.
        pages: most pages that an SQLite file may grow to; None: the disk decides.
        read_only: look, and change nothing.

    Raises:
        InvalidFileError: for a foreign or damaged file.
        LedgerError: where the database cannot be reached or written.

    Guarantee: if no call costs more than its maximum (input tokens bounded by bytes, output by `max_tokens`): true
        spend <= charged <= budget at every moment, over all replicas, and charged - true spend is at most the maxima
        of the calls that are pending or unknown.

    Example:
        >>> import tempfile
        >>> ledger = GatewayLedger(f"{tempfile.mkdtemp()}/gateway.sqlite")
        >>> ledger.summary()["requests"]
        0
        >>> ledger.close()

    Reference: ours; write-ahead intents as in transaction processing.
    """

    def __init__(self, url: str, *, pages: int | None = None, read_only: bool = False) -> None:
        self.url = database_url(url)
        self.engine = t.open_database(self.url, pages=pages, read_only=read_only)
        self._known: set[Spot] = set()
        self._sql = Statements(self.engine.dialect)
        self.writer: Writer | None = None if read_only else Writer(self.engine, self._commit)

    def close(self) -> None:
        """Write what is left, and close the database."""
        if self.writer is not None:
            self.writer.close()
        self.engine.dispose()

    # what the gateway does: coroutines wait for a commit, settlements do not

    async def reserve(self, wanted: Reservation) -> Call:
        """Charge a call's maximum; it is on disk when this returns.

        Raises:
            OverBudget: where a budget has no room; nothing is recorded.
            LedgerError: where the ledger cannot be written.
        """
        assert self.writer is not None
        done = self.writer.wait_for("reserve", wanted)
        try:
            found: Call = await asyncio.shield(done)
        except asyncio.CancelledError:  # whoever waited is gone, and will not send: give it back once it is written
            done.add_done_callback(
                lambda f: None if f.cancelled() or f.exception() else self.settle(_unsent(f.result()))
            )
            raise
        return found

    def settle(self, settlement: Settlement) -> None:
        """The call has ended; once for each call, a second time does nothing."""
        assert self.writer is not None
        if not settlement.call.settled:
            settlement.call.settled = True
            self.writer.leave("settle", settlement)

    def note(self, row: Mapping[str, Any]) -> None:
        """Record a request that led to no call."""
        assert self.writer is not None
        self.writer.leave("note", dict(row))

    def finish_request(self, request: str, status: int, seconds: float) -> None:
        """A request ended without an answer."""
        assert self.writer is not None
        self.writer.leave("finish", {"i": request, "served": None, "status": status, "seconds": seconds})

    async def write(self, work: Callable[[sa.Connection], Any]) -> Any:
        """Anything else in a transaction of the writer's."""
        assert self.writer is not None
        return await self.writer.wait_for("work", work)

    async def score(self, request: str, key: str | None, score: float) -> bool:
        """Feedback on a request of this key (None: of any); False where there is none."""
        where = t.request.c.id == request
        where = where if key is None else where & (t.request.c.key == key)
        change = t.request.update().where(where).values(score=score)
        return bool(await self.write(lambda link: link.execute(change).rowcount))

    def _commit(self, link: sa.Connection, batch: Sequence[Operation]) -> list[Any]:
        settled = [op.body for op in batch if op.kind == "settle"]
        reserved = [op.body for op in batch if op.kind == "reserve"]
        now = time.time()
        outcome: dict[int, Any] = {}
        if settled or reserved:
            for wanted in reserved:
                wanted.call.spots = tuple((limit.name, limit.start(now)) for limit in wanted.limits)
            spots = sorted({s for x in (*settled, *reserved) for s in x.call.spots})
            before = self._balances(link, spots)
            after = {spot: list(held) for spot, held in before.items()}
            self._settle(link, settled, after)
            outcome = self._reserve(link, reserved, after)
            moved = [(spot, held) for spot, held in after.items() if tuple(held) != before[spot]]
            rows = [{"n": n, "s": s, "money": held[0], "tokens": held[1]} for (n, s), held in moved]
            self._sql.move.run(link, rows)
        self._sql.request.run(link, [op.body for op in batch if op.kind == "note"])
        self._sql.finish.run(link, [op.body for op in batch if op.kind == "finish"])
        found = []
        for op in batch:
            if op.kind == "work":
                found.append(op.body(link))
            else:
                found.append(outcome.get(id(op.body)))
        return found

    def _balances(self, link: sa.Connection, spots: Sequence[Spot]) -> dict[Spot, tuple[int, int]]:
        """What is charged to each account, its row locked until the transaction ends."""
        if not spots:
            return {}
        fresh = [{"name": n, "start": s, "money": 0, "tokens": 0} for n, s in spots if (n, s) not in self._known]
        self._sql.open.run(link, fresh)
        found = self._sql.look(link, spots)
        if not found.keys() >= set(spots):  # opened in a transaction that then failed
            self._known.clear()
            return self._balances(link, spots)
        self._known = {*spots} | (self._known if len(self._known) < 10_000 else set())
        return found

    def _settle(self, link: sa.Connection, settled: Sequence[Settlement], held: dict[Spot, list[int]]) -> None:
        if not settled:
            return
        rows, ends = [], []
        for s in settled:
            if s.state != UNKNOWN:
                for spot in s.call.spots:
                    held[spot][0] += s.money - s.call.maximum
                    held[spot][1] += s.tokens - s.call.maximum_tokens
            money, tokens = (s.call.maximum, s.call.maximum_tokens) if s.state == UNKNOWN else (s.money, s.tokens)
            rows.append({
                "i": s.call.id, "state": s.state, "money": money, "tokens": tokens,
                "tokens_in": s.tokens_in, "tokens_out": s.tokens_out,
            })  # fmt: skip
            if s.finish:
                ends.append({"i": s.call.request, **{k: s.finish.get(k) for k in ("served", "status", "seconds")}})
        self._sql.end.run(link, rows)
        self._sql.finish.run(link, ends)

    def _reserve(
        self, link: sa.Connection, reserved: Sequence[Reservation], held: dict[Spot, list[int]]
    ) -> dict[int, Any]:
        outcome: dict[int, Any] = {}
        requests, calls = [], []
        for wanted in reserved:
            c = wanted.call
            short = [
                limit
                for limit, spot in zip(wanted.limits, c.spots, strict=True)
                if (limit.money is not None and held[spot][0] + c.maximum > limit.money)
                or (limit.tokens is not None and held[spot][1] + c.maximum_tokens > limit.tokens)
            ]
            if short:
                outcome[id(wanted)] = OverBudget(short)
                continue
            for spot in c.spots:
                held[spot][0] += c.maximum
                held[spot][1] += c.maximum_tokens
            outcome[id(wanted)] = c
            if wanted.row is not None:
                requests.append(wanted.row)
            calls.append({
                "id": c.id, "request": c.request, "model": c.model, "accounts": json.dumps(c.spots), "state": PENDING,
                "created": c.created, "maximum": c.maximum, "maximum_tokens": c.maximum_tokens,
                "money": c.maximum, "tokens": c.maximum_tokens, "tokens_in": None, "tokens_out": None,
            })  # fmt: skip
        self._sql.request.run(link, requests)
        self._sql.call.run(link, calls)
        return outcome

    def give_up(self, *, older: float) -> int:
        """Mark calls that have been pending for longer as unknown: their gateway is gone. They stay charged."""
        old = (t.call.c.state == PENDING) & (t.call.c.created < time.time() - older)
        with self.engine.begin() as link:
            return int(link.execute(t.call.update().where(old).values(state=UNKNOWN)).rowcount)

    # what is read

    def read(self, query: sa.Select[Any]) -> list[dict[str, Any]]:
        """Rows as dictionaries, from a connection of their own."""
        with self.engine.connect().execution_options(reads=True) as link:
            return [dict(row) for row in link.execute(query).mappings()]

    def requests(self) -> Iterator[dict[str, Any]]:
        """Every request with its money and tokens, oldest first."""
        for row in self.read(_JOINED):
            yield row | {k: json.loads(row[k]) if row[k] else None for k in ("worth", "propensity")}

    def in_flight(self) -> int:
        """Maxima of the calls whose outcome is not known, in billionths."""
        query = sa.select(sa.func.coalesce(sa.func.sum(t.call.c.money), 0).label("x"))
        return int(self.read(query.where(t.call.c.state.in_([PENDING, UNKNOWN])))[0]["x"])

    def summary(self) -> dict[str, Any]:
        """Spend, tokens and calls by model and key, feedback, what is in flight, and the accounts."""
        from corollary.serving._summary import summary

        return summary(self)

    def audit(self) -> list[str]:
        """What does not add up: accounts against the calls that were charged to them. Empty where all does."""
        from corollary.serving._summary import audit

        return audit(self)


def _unsent(call: Call) -> Settlement:
    return Settlement(call, REFUSED, 0)


_CALLS = (
    sa.select(
        t.call.c.request,
        sa.func.sum(t.call.c.money).label("money"),
        sa.func.sum(t.call.c.tokens_in).label("tokens_in"),
        sa.func.sum(t.call.c.tokens_out).label("tokens_out"),
        sa.func.count().label("calls"),
    )
    .group_by(t.call.c.request)
    .subquery()
)
_JOINED = (
    sa.select(t.request, _CALLS.c.money, _CALLS.c.tokens_in, _CALLS.c.tokens_out, _CALLS.c.calls)
    .join(_CALLS, t.request.c.id == _CALLS.c.request, isouter=True)
    .order_by(t.request.c.created)
)
