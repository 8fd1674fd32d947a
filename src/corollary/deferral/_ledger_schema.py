"""The tables of the ledger, its money, and how its file is opened; imports neither torch nor numpy.

Money is counted in whole billionths of the unit, so that sums are exact: maxima and costs are rounded up, the budget
down. The database itself keeps the account: triggers add up the charges, and a CHECK refuses what exceeds the budget.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, InvalidOperation
from pathlib import Path
from typing import IO
from urllib.parse import quote

from corollary.errors import BudgetError, InvalidFileError, InvalidInputError, LedgerError

NANO = 10**9
LARGEST = 2**62
APPLICATION, VERSION = 0x436F4C65, 1  # "CoLe", so that another program's database is known as foreign

SCHEMA = """
CREATE TABLE account (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  name TEXT NOT NULL,
  unit TEXT NOT NULL,
  budget INTEGER,
  charged INTEGER NOT NULL DEFAULT 0,
  overrun INTEGER NOT NULL DEFAULT 0,
  CHECK (budget IS NULL OR charged - overrun <= budget)
);
CREATE TABLE round (number INTEGER PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE query (
  id INTEGER PRIMARY KEY,
  item TEXT NOT NULL,
  expert TEXT NOT NULL,
  probability REAL NOT NULL CHECK (probability > 0 AND probability <= 1),
  maximum INTEGER NOT NULL CHECK (maximum >= 0),
  idempotent INTEGER NOT NULL CHECK (idempotent IN (0, 1)),
  state TEXT NOT NULL CHECK (state IN ('planned', 'pending', 'answered', 'unknown', 'refused')),
  sends INTEGER NOT NULL DEFAULT 0,
  refusals INTEGER NOT NULL DEFAULT 0 CHECK (refusals <= sends),
  charge INTEGER NOT NULL DEFAULT 0 CHECK (charge >= 0),
  answer TEXT,
  score REAL,
  UNIQUE (item, expert),
  CHECK (state NOT IN ('pending', 'unknown') OR charge = maximum),
  CHECK (state NOT IN ('planned', 'refused') OR charge = 0),
  CHECK (idempotent = 1 OR sends - refusals <= 1)
);
CREATE INDEX query_state ON query (state);
CREATE TRIGGER query_insert AFTER INSERT ON query BEGIN
  UPDATE account SET charged = charged + NEW.charge, overrun = overrun + max(0, NEW.charge - NEW.maximum);
END;
CREATE TRIGGER query_update AFTER UPDATE OF charge ON query BEGIN
  UPDATE account SET charged = charged + NEW.charge - OLD.charge,
    overrun = overrun + max(0, NEW.charge - NEW.maximum) - max(0, OLD.charge - OLD.maximum);
END;
CREATE TRIGGER query_delete BEFORE DELETE ON query BEGIN
  SELECT RAISE(ABORT, 'a ledger forgets nothing');
END;
"""


def to_nano(value: float | int, name: str, *, up: bool = True) -> int:
    """Money as whole billionths of the unit, rounded up (down for a budget).

    Example:
        >>> to_nano(0.002, "price"), to_nano(0.1 + 0.2, "cost"), to_nano(1e-10, "price")
        (2000000, 300000001, 1)
    """
    try:
        exact = Decimal(repr(float(value))).scaleb(9)
        whole = int(exact.to_integral_value(ROUND_CEILING if up else ROUND_FLOOR))
    except (InvalidOperation, OverflowError, TypeError, ValueError):
        raise InvalidInputError(f"`{name}` must be a finite amount of money, got {value!r}") from None
    if not 0 <= whole <= LARGEST:
        raise InvalidInputError(f"`{name}` must lie between 0 and {LARGEST // NANO}, got {value!r}")
    return whole


@contextmanager
def guarded(path: Path) -> Iterator[None]:
    """SQLite's errors as one clear sentence."""
    try:
        yield
    except sqlite3.IntegrityError as problem:
        if "charged" in str(problem):
            raise BudgetError(f"{path}: the query would exceed the budget; nothing was sent") from None
        raise LedgerError(f"{path}: the record forbids this step ({problem}); read the state of the query") from None
    except sqlite3.OperationalError as problem:
        text = str(problem)
        if "full" in text:
            remedy = "free space and run again; queries in flight stay charged at their maximum"
            raise LedgerError(f"{path}: the disk is full; {remedy}") from None
        if "locked" in text or "busy" in text:
            raise LedgerError(f"{path}: locked by another program; close it and run again") from None
        raise LedgerError(f"{path}: cannot be used ({text}); check the folder and its permissions") from None
    except sqlite3.DatabaseError as problem:
        raise InvalidFileError(
            path, f"not a ledger of Corollary, or a damaged one ({problem})", "give its true path"
        ) from None


def lock(path: Path) -> IO[str]:
    """The sidecar `<path>.lock`, held by the one process that may write."""
    handle = path.with_name(path.name + ".lock").open("w")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise LedgerError(f"{path}: another process writes this ledger; wait for it, or use another file") from None
    return handle


def connect(path: Path, *, patience: float, read_only: bool, pages: int | None) -> sqlite3.Connection:
    """A connection to a ledger that exists; a foreign file is refused and left as it was."""
    if not path.exists():
        raise InvalidFileError(path, "there is no such ledger", "check the path")
    with guarded(path):
        link = _open(path, "ro" if read_only else "rw", patience)
        try:
            _recognise(link, path)
            if not read_only:
                if pages is not None:
                    link.execute(f"PRAGMA max_page_count = {int(pages)}")
                link.execute("PRAGMA synchronous = FULL")  # an intent must outlive a power cut, not only the process
        except BaseException:
            link.close()
            raise
    return link


def create(path: Path, name: str, unit: str, budget: int | None) -> None:
    """A new ledger, made beside its place and moved there whole: whoever is killed leaves it or nothing."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    try:
        with guarded(path):
            link = _open(draft, "rwc", 0.0)
            try:
                link.execute("PRAGMA journal_mode = WAL")
                link.execute(f"PRAGMA application_id = {APPLICATION}")
                link.execute(f"PRAGMA user_version = {VERSION}")
                link.executescript(SCHEMA)
                link.execute("INSERT INTO account (id, name, unit, budget) VALUES (1, ?, ?, ?)", (name, unit, budget))
            finally:
                link.close()  # folds the log into the file
        for rest in ("-wal", "-shm"):  # of a ledger that was deleted: they are not this one's
            path.with_name(path.name + rest).unlink(missing_ok=True)
        draft.replace(path)
    finally:
        for rest in ("", "-wal", "-shm"):
            draft.with_name(draft.name + rest).unlink(missing_ok=True)


def _open(path: Path, mode: str, patience: float) -> sqlite3.Connection:
    target = f"file:{quote(str(path.resolve()))}?mode={mode}"
    return sqlite3.connect(target, uri=True, timeout=patience, isolation_level=None, check_same_thread=False)


def _recognise(link: sqlite3.Connection, path: Path) -> None:
    tables = {row[0] for row in link.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    application = link.execute("PRAGMA application_id").fetchone()[0]
    version = link.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION or not {"account", "round", "query"} <= tables:
        raise InvalidFileError(path, "a database, but no ledger of Corollary", "give another path")
    if version != VERSION:
        raise InvalidFileError(path, f"a ledger of version {version}, this one reads {VERSION}", "update corollary")
