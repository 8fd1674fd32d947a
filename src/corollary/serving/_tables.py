"""The tables of the gateway's ledger, their migrations, and how SQLite and PostgreSQL are opened."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from corollary.errors import InvalidFileError, LedgerError

CHECKPOINT = 16_000  # pages of the log after which a commit folds it into the file; `fold` keeps it far below

metadata = sa.MetaData()
Big = sa.BigInteger

request = sa.Table(
    "gateway_request", metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("created", sa.Float, nullable=False, index=True),
    sa.Column("replica", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("asked", sa.Text, nullable=False),  # the model that the request names
    sa.Column("drawn", sa.Text, nullable=False),  # the model that routing gave
    sa.Column("greedy", sa.Text, nullable=False),  # the model that it would give without exploration
    sa.Column("served", sa.Text),  # the model that answered; None where none did
    sa.Column("policy", sa.Text, nullable=False),  # the router's fingerprint; empty where none chose
    sa.Column("price", sa.Float),
    sa.Column("worth", sa.Text),  # model -> estimated worth, JSON
    sa.Column("propensity", sa.Text),  # model -> probability of being drawn, JSON
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("prompt", sa.Text),
    sa.Column("status", sa.Integer),
    sa.Column("seconds", sa.Float),
    sa.Column("score", sa.Float),
)  # fmt: skip

call = sa.Table(
    "gateway_call", metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("request", sa.Text, nullable=False, index=True),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("accounts", sa.Text, nullable=False),  # [[name, start], ...], JSON
    sa.Column("state", sa.Text, nullable=False),  # pending, answered, unknown, refused
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("maximum", Big, nullable=False),
    sa.Column("maximum_tokens", Big, nullable=False),
    sa.Column("money", Big, nullable=False),  # what it is charged at now
    sa.Column("tokens", Big, nullable=False),
    sa.Column("tokens_in", Big),
    sa.Column("tokens_out", Big),
    sa.CheckConstraint("state IN ('pending', 'answered', 'unknown', 'refused')"),
    sa.CheckConstraint("state NOT IN ('pending', 'unknown') OR (money = maximum AND tokens = maximum_tokens)"),
    sa.CheckConstraint("state <> 'refused' OR (money = 0 AND tokens = 0)"),
    sa.CheckConstraint("maximum >= 0 AND money >= 0 AND tokens >= 0"),
)  # fmt: skip

OPEN = call.c.state.in_(["pending", "unknown"])
sa.Index("gateway_call_open", call.c.state, sqlite_where=OPEN, postgresql_where=OPEN)

account = sa.Table(
    "gateway_account", metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("start", Big, primary_key=True),
    sa.Column("money", Big, nullable=False),
    sa.Column("tokens", Big, nullable=False),
)  # fmt: skip

key = sa.Table(
    "gateway_key", metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("digest", sa.Text, nullable=False),  # SHA-256 of the secret
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("models", sa.Text),
    sa.Column("money", Big),
    sa.Column("tokens", Big),
    sa.Column("window", sa.Text, nullable=False),
    sa.Column("over", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("revoked", sa.Float),
)  # fmt: skip

event = sa.Table(
    "gateway_event", metadata,
    sa.Column("policy", sa.Text, nullable=False, index=True),
    sa.Column("what", sa.Text, nullable=False),  # revoked
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)  # fmt: skip

version = sa.Table("gateway_version", metadata, sa.Column("version", sa.Integer, nullable=False))


def _first(link: sa.Connection) -> None:
    metadata.create_all(link, tables=[request, call, account, key, event])


MIGRATIONS: list[Callable[[sa.Connection], None]] = [_first]  # each is run once, in order; never change an old one


def open_database(url: str, *, pages: int | None = None, read_only: bool = False) -> sa.Engine:
    """An engine whose tables are of this version; older ones are brought up to it, in one transaction.

    Args:
        url: as `database_url` gives it.
        pages: most pages that an SQLite file may grow to; None: the disk decides.
        read_only: create and change nothing.

    Raises:
        InvalidFileError: for a foreign or damaged file, or a ledger of a later version.
        LedgerError: where the database cannot be reached.
    """
    engine = _engine(url, pages)
    shown = engine.url.render_as_string(hide_password=True)
    try:
        with engine.begin() as link:
            _migrate(link, shown, read_only=read_only)
    except (sa.exc.OperationalError, sa.exc.InterfaceError) as problem:
        engine.dispose()
        raise LedgerError(f"{shown}: the ledger cannot be opened ({_said(problem)}); check path and rights") from None
    except sa.exc.DatabaseError as problem:
        engine.dispose()
        raise InvalidFileError(shown, f"no ledger of a gateway ({_said(problem)})", "give its true path") from None
    except BaseException:
        engine.dispose()
        raise
    return engine


def _said(problem: Exception) -> str:
    """The database's own words, one line, without statement or URL."""
    lines = str(getattr(problem, "orig", problem)).strip().splitlines()
    return (lines[0] if lines else type(problem).__name__)[:200]


def _migrate(link: sa.Connection, shown: str, *, read_only: bool) -> None:
    names = set(sa.inspect(link).get_table_names())
    if version.name not in names:
        if read_only:
            raise InvalidFileError(shown, "no ledger of a gateway", "give its true path")
        if names and link.dialect.name == "sqlite":
            raise InvalidFileError(shown, "a database of something else", "give another path")
        if link.dialect.name == "postgresql":  # two replicas may start at once
            link.exec_driver_sql("SELECT pg_advisory_xact_lock(7024111)")
        version.create(link, checkfirst=True)
    if link.dialect.name == "postgresql" and not read_only:
        link.exec_driver_sql("SELECT pg_advisory_xact_lock(7024111)")
    done = link.execute(sa.select(sa.func.max(version.c.version))).scalar() or 0
    if done > len(MIGRATIONS):
        raise InvalidFileError(shown, f"of version {done}, this corollary reads {len(MIGRATIONS)}", "update corollary")
    if done < len(MIGRATIONS) and read_only:
        raise InvalidFileError(shown, f"of the older version {done}", "start the gateway once, which brings it up")
    for number, migrate in enumerate(MIGRATIONS[done:], done + 1):
        migrate(link)
        link.execute(version.insert().values(version=number))


def _engine(url: str, pages: int | None) -> sa.Engine:
    if not url.startswith("sqlite"):
        return sa.create_engine(
            url, pool_size=2, max_overflow=2, pool_pre_ping=True, connect_args={"connect_timeout": 5}
        )
    engine = sa.create_engine(url, poolclass=NullPool, connect_args={"timeout": 5.0, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def _connect(link: Any, record: Any) -> None:
        link.isolation_level = None  # transactions are begun below, so that a writer takes its lock at once
        link.execute("PRAGMA journal_mode = WAL")
        link.execute("PRAGMA synchronous = FULL")  # a reservation must outlive a power cut
        link.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
        if pages is not None:
            link.execute(f"PRAGMA max_page_count = {int(pages)}")

    @sa.event.listens_for(engine, "begin")
    def _begin(link: sa.Connection) -> None:
        reads = link.get_execution_options().get("reads", False)
        link.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine


def fold(engine: sa.Engine) -> None:
    """Fold SQLite's log into its file, beside the writer and without keeping it waiting."""
    if engine.dialect.name == "sqlite":
        link = engine.raw_connection()
        try:
            link.cursor().execute("PRAGMA wal_checkpoint(PASSIVE)")
        finally:
            link.close()
