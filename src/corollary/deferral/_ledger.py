r"""The ledger of paid queries: what was asked of which expert, with which probability, and what it cost at most.

SQLite with a write-ahead log, one row a query. A row goes through

    planned -> pending -> answered | unknown | refused,

and the step to `pending` (the intent, charged at the query's maximum price) is committed *before* the expert is called.

- answered: charged at what it cost.
- unknown: sent, no answer known (a crash, a timeout, an error after sending). It stays charged at its maximum, and is
  never sent again unless the expert honours idempotency keys: then the same key makes the second call free of charge.
- refused: the expert certainly did nothing and charges nothing; it may be sent again.

What follows at every moment, killed process included, if no call costs more than its maximum and keys are honoured
where declared: true spend <= charged <= budget, and charged - true spend <= the maxima of the pending and unknown rows.

This module imports no torch and no numpy: a gateway keeps its accounts with it.
"""

import hashlib
import json
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from corollary.deferral._ledger_schema import NANO, connect, create, guarded, lock, to_nano
from corollary.errors import BudgetError, InvalidInputError, LedgerError

PLANNED, PENDING, ANSWERED, UNKNOWN, REFUSED = STATES = ("planned", "pending", "answered", "unknown", "refused")


class Query(NamedTuple):
    """One row of a ledger; money in billionths of the ledger's unit.

    Args:
        id, item, expert: which question, to whom.
        probability: with which it was drawn, fixed before the draw.
        maximum, charge: the most it can cost, and what it is charged at now.
        idempotent: whether the expert honours idempotency keys.
        state: planned, pending, answered, unknown or refused.
        sends, refusals: calls made, and calls that the expert certainly did nothing for.
        answer: what came back (any JSON value), None before.
        score: what the answer was worth, None before it was judged.

    Guarantee: none; it is a record.

    Example:
        >>> Query._fields[:4]
        ('id', 'item', 'expert', 'probability')
    """

    id: int
    item: str
    expert: str
    probability: float
    maximum: int
    charge: int
    idempotent: bool
    state: str
    sends: int
    refusals: int
    answer: Any
    score: float | None

    @property
    def may_be_sent(self) -> bool:
        """Whether the record allows to send it (again)."""
        return self.state in (PLANNED, REFUSED) or (self.state == UNKNOWN and self.idempotent)


_COLUMNS = "id, item, expert, probability, maximum, charge, idempotent, state, sends, refusals, answer, score"


class Ledger:
    """An account of paid queries in one file; one process writes, any number may read.

    Args:
        path: the file; made where there is none.
        budget: most that may be charged, in `unit`; None: no limit. A ledger that exists keeps its own: give the same,
            or None.
        unit: of the money, for the reader.
        read_only: look, and change nothing.
        patience: seconds to wait for a lock of another program on the file.
        pages: most pages of 4 KiB that the file may grow to; None: the disk decides.

    Raises:
        InvalidInputError: for another budget than the ledger's.
        InvalidFileError: for a foreign or damaged file.
        LedgerError: where another process writes it, or the disk is full.

    Guarantee: if no call costs more than its declared maximum, and experts that are said to honour idempotency keys do:
        true spend <= `charged` <= budget at every moment, and they differ by at most the maxima of the rows in flight.

    Example:
        >>> import tempfile
        >>> with Ledger(Path(tempfile.mkdtemp()) / "ledger.sqlite", budget=1.0) as ledger:
        ...     query = ledger.intend("What is 2 + 2?", "large", maximum=0.4)
        ...     before = ledger.charged
        ...     ledger.settle(query, "4", cost=0.1)
        ...     before, ledger.charged, ledger.remaining
        (0.4, 0.1, 0.9)

    Reference: ours; write-ahead intents as in transaction processing.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        budget: float | None = None,
        unit: str = "money",
        read_only: bool = False,
        patience: float = 5.0,
        pages: int | None = None,
    ) -> None:
        self.path, self.read_only = Path(path), read_only
        if not self.path.parent.is_dir():
            raise InvalidInputError(f"{self.path.parent} is no folder; make it, or give another path")
        limit = None if budget is None else to_nano(budget, "budget", up=False)
        self._guard = threading.RLock()
        self._lock = None if read_only else lock(self.path)
        try:
            if not read_only and (not self.path.exists() or self.path.stat().st_size == 0):
                create(self.path, secrets.token_hex(16), unit, limit)
            self._link = connect(self.path, patience=patience, read_only=read_only, pages=pages)
            try:
                self._open(limit)
            except BaseException:
                self._link.close()
                raise
        except BaseException:
            self._release()
            raise

    def _open(self, limit: int | None) -> None:
        with guarded(self.path):
            self.name, self.unit, self._budget = self._link.execute("SELECT name, unit, budget FROM account").fetchone()
        if limit is not None and limit != self._budget:
            stored = "none" if self._budget is None else f"{self._budget / NANO:g}"
            raise InvalidInputError(
                f"{self.path} was opened with another budget ({stored}); give that one, or a new ledger"
            )
        if not self.read_only:
            with self._transaction() as link:  # whoever left intents behind is gone: the lock is ours
                link.execute("UPDATE query SET state = 'unknown' WHERE state = 'pending'")

    # what is owed

    @property
    def budget(self) -> float | None:
        """Most that may be charged; None: no limit."""
        return None if self._budget is None else self._budget / NANO

    @property
    def charged(self) -> float:
        """What all queries are charged at together: never less than the true spend."""
        return self._one("SELECT charged FROM account") / NANO

    @property
    def in_flight(self) -> float:
        """Maxima of the queries whose outcome is not known: how much less the true spend can be."""
        return self._one("SELECT coalesce(sum(charge), 0) FROM query WHERE state IN ('pending', 'unknown')") / NANO

    @property
    def remaining(self) -> float:
        """What may still be charged."""
        return float("inf") if self._budget is None else max(0, self._budget - self._nano_charged()) / NANO

    def counts(self) -> dict[str, int]:
        """How many queries are in each state."""
        with self._guard, guarded(self.path):
            found = dict(self._link.execute("SELECT state, count(*) FROM query GROUP BY state").fetchall())
        return {state: int(found.get(state, 0)) for state in STATES}

    def queries(self, *, state: str | None = None) -> list[Query]:
        """All rows in the order in which they were written, or those of one state."""
        where, given = ("", ()) if state is None else (" WHERE state = ?", (state,))
        with self._guard, guarded(self.path):
            rows = self._link.execute(f"SELECT {_COLUMNS} FROM query{where} ORDER BY id", given).fetchall()  # noqa: S608
        return [_query(row) for row in rows]

    def find(self, item: str, expert: str) -> Query | None:
        """The row of a question to an expert; None where there is none."""
        with self._guard, guarded(self.path):
            text = f"SELECT {_COLUMNS} FROM query WHERE item = ? AND expert = ?"  # noqa: S608
            row = self._link.execute(text, (item, expert)).fetchone()
        return None if row is None else _query(row)

    def key(self, query: Query) -> str:
        """The idempotency key of a query: the same at every send, different in every other ledger."""
        return hashlib.sha256(f"{self.name}\n{query.expert}\n{query.item}".encode()).hexdigest()[:40]

    # plans: draws are written down before anything is asked

    def plan(self, number: int, body: Mapping[str, Any], draws: Iterable[tuple[str, str, float, float, bool]]) -> None:
        """Write a round of draws: all of them or none, before the first is asked.

        Args:
            number: of the round; each is planned once.
            body: what the planner needs to go on after a crash: JSON values.
            draws: (item, expert, probability, maximum price, whether keys are honoured) of each query that was drawn.
        """
        rows = [(i, e, float(p), to_nano(m, "maximum"), int(k)) for i, e, p, m, k in draws]
        text = "INSERT INTO query (item, expert, probability, maximum, idempotent, state) "
        with self._transaction() as link:
            link.execute("INSERT INTO round VALUES (?, ?)", (number, json.dumps(body)))
            link.executemany(text + "VALUES (?, ?, ?, ?, ?, 'planned')", rows)

    def rounds(self) -> list[dict[str, Any]]:
        """The bodies of the planned rounds, in order."""
        with self._guard, guarded(self.path):
            rows = self._link.execute("SELECT body FROM round ORDER BY number").fetchall()
        return [json.loads(body) for (body,) in rows]

    # the life of a query

    def intend(
        self,
        item: str,
        expert: str,
        *,
        maximum: float | None = None,
        probability: float = 1.0,
        idempotent: bool = False,
    ) -> Query:
        """Commit the intent to ask, charged at its maximum; only then may the expert be called.

        Args:
            item: the question, or its name; with `expert` it is asked once in a ledger.
            expert: who is asked.
            maximum: most that the call can cost; a planned query has it, and a larger one takes its place.
            probability: with which it was drawn.
            idempotent: whether the expert honours idempotency keys (`key`).

        Raises:
            BudgetError: where the maximum does not fit into what remains; nothing is recorded.
            LedgerError: where the record forbids to send it (again).
        """
        with self._transaction() as link:
            query = self.find(item, expert)
            if query is None:
                if maximum is None:
                    raise InvalidInputError("`maximum` is needed for a query that was not planned")
                most = to_nano(maximum, "maximum")
                self._afford(most, item, expert)
                text = "INSERT INTO query (item, expert, probability, maximum, idempotent, state, sends, charge) "
                row = (item, expert, float(probability), most, int(idempotent), most)
                link.execute(text + "VALUES (?, ?, ?, ?, ?, 'pending', 1, ?)", row)
            else:
                if not query.may_be_sent:
                    raise LedgerError(f"{expert} was asked this before ({query.state}); it is not sent again")
                most = max(query.maximum, 0 if maximum is None else to_nano(maximum, "maximum"))
                self._afford(most - query.charge, item, expert)
                change = "state = 'pending', sends = sends + 1, maximum = ?, charge = ?"
                link.execute(f"UPDATE query SET {change} WHERE id = ?", (most, most, query.id))  # noqa: S608
            found = self.find(item, expert)
        assert found is not None
        return found

    def settle(self, query: Query, answer: Any, *, cost: float | None = None) -> None:
        """The answer has come: charge what it cost (the maximum where that is not said), and keep it.

        A cost above the maximum breaks the expert's word: it is charged in full, and the certificate says so.
        """
        paid = query.maximum if cost is None else to_nano(cost, "cost")
        text = json.dumps(answer, ensure_ascii=False)
        self._step(query, "state = 'answered', charge = ?, answer = ?", (paid, text), frm=(PENDING, UNKNOWN))

    def lose(self, query: Query) -> None:
        """Whether it was done is not known: it stays charged at its maximum."""
        self._step(query, "state = 'unknown'", (), frm=(PENDING,))

    def refuse(self, query: Query) -> None:
        """This send certainly did nothing; charged at nothing, unless an earlier send is still open."""
        change = "refusals = refusals + 1, state = CASE WHEN sends = refusals + 1 THEN 'refused' ELSE 'unknown' END, "
        change += "charge = CASE WHEN sends = refusals + 1 THEN 0 ELSE charge END"
        self._step(query, change, (), frm=(PENDING,))

    def judge(self, scores: Mapping[int, float]) -> None:
        """Keep what answers were worth: query id -> score."""
        with self._transaction() as link:
            link.executemany("UPDATE query SET score = ? WHERE id = ?", [(float(s), i) for i, s in scores.items()])

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        with self._guard:
            self._link.close()
            self._release()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # within

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _one(self, text: str) -> int:
        with self._guard, guarded(self.path):
            return int(self._link.execute(text).fetchone()[0])

    def _nano_charged(self) -> int:
        return self._one("SELECT charged FROM account")

    def _afford(self, more: int, item: str, expert: str) -> None:
        if self._budget is not None and self._nano_charged() + more > self._budget:
            left = f"{self.remaining:g} of {self._budget / NANO:g} {self.unit} remain"
            raise BudgetError(f"asking {expert} could cost {more / NANO:g}, but {left}; nothing was sent")

    def _step(self, query: Query, change: str, values: tuple[Any, ...], *, frm: tuple[str, ...]) -> None:
        allowed = ", ".join(f"'{s}'" for s in frm)
        with self._transaction() as link:
            text = f"UPDATE query SET {change} WHERE id = ? AND state IN ({allowed})"  # noqa: S608
            if link.execute(text, (*values, query.id)).rowcount != 1:
                raise LedgerError(f"query {query.id} is not {' or '.join(frm)}; its outcome is recorded already")

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        if self.read_only:
            raise LedgerError(f"{self.path} was opened to be read only")
        with self._guard, guarded(self.path):
            self._link.execute("BEGIN IMMEDIATE")
            try:
                yield self._link
                self._link.execute("COMMIT")
            except BaseException:
                if self._link.in_transaction:
                    self._link.execute("ROLLBACK")
                raise


def _query(row: tuple[Any, ...]) -> Query:
    found = Query(*row)
    answer = None if found.answer is None else json.loads(found.answer)
    return found._replace(idempotent=bool(found.idempotent), answer=answer)
