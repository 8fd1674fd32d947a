"""One thread that writes, many coroutines that wait: operations of a moment share one transaction and one sync to disk.

A reservation is waited for by its request and is committed at once, together with whatever else stands in the queue.
Settlements are waited for by nobody: alone, they wait a little for company. The event loop never touches the database.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from corollary.errors import LedgerError

LINGER = 0.05  # seconds that a settlement alone waits for company
LARGEST = 512  # operations of one transaction
AGAIN = 1.0  # seconds between tries to write what nobody waits for
KEPT = 100_000  # operations kept while the database cannot be written; beyond, charges stay at their maximum


class Operation(NamedTuple):
    """Work on the database, and who waits for it (nobody: it may wait for company)."""

    kind: str
    body: Any
    loop: asyncio.AbstractEventLoop | None
    done: "asyncio.Future[Any] | None"


class Writer:
    """The thread, its queue, and its one connection.

    Args:
        engine: of the database.
        commit: called with a connection in a transaction and a list of operations; gives one outcome each (an exception
            is raised where it is waited for). Raising undoes the whole transaction.
    """

    def __init__(self, engine: sa.Engine, commit: Callable[[sa.Connection, Sequence[Operation]], list[Any]]) -> None:
        self.engine, self.commit = engine, commit
        self.problem = ""  # why the last transaction failed; empty while all is well
        self.commits = 0
        self._queue: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._late: list[Operation] = []  # settlements that could not be written yet
        self._link: sa.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="corollary-ledger", daemon=True)
        self._thread.start()

    def wait_for(self, kind: str, body: Any) -> "asyncio.Future[Any]":
        """Put an operation, to be awaited."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._queue.put(Operation(kind, body, loop, done))
        return done

    def leave(self, kind: str, body: Any) -> None:
        """Put an operation for which nobody waits."""
        self._queue.put(Operation(kind, body, None, None))

    @property
    def waiting(self) -> int:
        """Operations not yet committed, about."""
        return self._queue.qsize() + len(self._late)

    def close(self, *, patience: float = 10.0) -> None:
        """Write what is left, and end."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(patience)

    def _run(self) -> None:
        while True:
            batch, last = self._next()
            if self._late and batch:
                batch, self._late = self._late + batch, []
            if batch:
                self._write(batch)
            if last:
                if self._late:
                    self._write(self._late)
                if self._link is not None:
                    self._link.close()
                return

    def _next(self) -> tuple[list[Operation], bool]:
        """The next operations, and whether the end has come."""
        try:
            first = self._queue.get(timeout=AGAIN if self._late else None)
        except queue.Empty:
            late, self._late = self._late, []
            return late, False
        if first is None:
            return [], True
        batch = [first]
        until = time.monotonic() + LINGER
        while batch[-1].done is None and (left := until - time.monotonic()) > 0:
            try:
                found = self._queue.get(timeout=left)
            except queue.Empty:
                break
            if found is None:
                return batch, True
            batch.append(found)
        while len(batch) < LARGEST and not self._queue.empty():
            found = self._queue.get()
            if found is None:
                return batch, True
            batch.append(found)
        return batch, False

    def _write(self, batch: list[Operation]) -> None:
        outcomes: list[Any]
        try:
            outcomes = self._try(batch)
            self.problem = ""
        except Exception as problem:  # whatever the database says, those who wait must hear it
            from corollary.serving._tables import _said

            self.problem = _said(problem)
            full = "; the disk is full" if "full" in self.problem else ""
            told = LedgerError(f"the ledger cannot be written{full}; nothing was sent")
            outcomes = [told] * len(batch)
            self._late = [op for op in batch if op.done is None][-KEPT:]
        groups: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any]]] = {}
        for op, outcome in zip(batch, outcomes, strict=True):
            if op.loop is not None and op.done is not None:
                groups.setdefault(op.loop, []).append((op.done, outcome))
        for loop, pairs in groups.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_tell, pairs)

    def _try(self, batch: Sequence[Operation]) -> list[Any]:
        for attempt in (1, 2):
            try:
                if self._link is None:
                    self._link = self.engine.connect()
                with self._link.begin():
                    outcomes = self.commit(self._link, batch)
                self.commits += 1
                return outcomes
            except Exception as problem:
                lost = self._lost(problem)
                self._drop()
                if attempt == 2 or not lost:
                    raise
        raise AssertionError

    def _lost(self, problem: Exception) -> bool:
        """Whether the connection broke, so that a new one may help."""
        if isinstance(problem, sa.exc.DBAPIError):
            return problem.connection_invalidated
        dialect = self.engine.dialect
        known = isinstance(problem, dialect.loaded_dbapi.Error)
        broken: Any = problem
        return known and self._link is not None and dialect.is_disconnect(broken, self._link.connection, None)

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            try:
                link.close()
            except Exception:
                link.invalidate()


def _tell(pairs: list[tuple["asyncio.Future[Any]", Any]]) -> None:
    for done, outcome in pairs:
        if done.done():
            continue
        if isinstance(outcome, BaseException):
            done.set_exception(outcome)
        else:
            done.set_result(outcome)
