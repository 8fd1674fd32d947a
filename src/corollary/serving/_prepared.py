"""Statements compiled once and run on the driver's cursor.

On the path of every request SQLAlchemy's own way costs more than the database's work, and while the writer's thread
computes, the event loop waits.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from corollary.serving import _tables as t


class Prepared:
    """The text of a statement for one dialect, and the order of its parameters.

    Args:
        statement: with bound parameters by name.
        dialect: of the engine.
        columns: of an INSERT.
    """

    def __init__(self, statement: Any, dialect: sa.Dialect, columns: Sequence[str] | None = None) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=columns)
        self.text, self.order = compiled.string, compiled.positiontup

    def given(self, row: Mapping[str, Any]) -> Any:
        """A row as the driver wants it."""
        return row if self.order is None else tuple(row[name] for name in self.order)

    def run(self, link: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute for every row; for none, nothing."""
        if rows:
            _cursor(link).executemany(self.text, [self.given(row) for row in rows])


class Statements:
    """All that the writer's thread executes.

    Args:
        dialect: of the engine.
    """

    def __init__(self, dialect: sa.Dialect) -> None:
        self.dialect = dialect
        insert = postgresql.insert if dialect.name == "postgresql" else sqlite.insert

        def inserted(table: sa.Table) -> Prepared:
            return Prepared(table.insert(), dialect, [c.name for c in table.c])

        def updated(table: sa.Table, where: Any, columns: Sequence[str]) -> Prepared:
            return Prepared(table.update().where(where).values({c: sa.bindparam(c) for c in columns}), dialect)

        spot = (t.account.c.name == sa.bindparam("n")) & (t.account.c.start == sa.bindparam("s"))
        self.open = Prepared(insert(t.account).on_conflict_do_nothing(), dialect, [c.name for c in t.account.c])
        self.move = updated(t.account, spot, ("money", "tokens"))
        self.request, self.call = inserted(t.request), inserted(t.call)
        outcome = ("state", "money", "tokens", "tokens_in", "tokens_out")
        self.end = updated(t.call, t.call.c.id == sa.bindparam("i"), outcome)
        self.finish = updated(t.request, t.request.c.id == sa.bindparam("i"), ("served", "status", "seconds"))
        self._look: dict[int, Prepared] = {}

    def look(self, link: sa.Connection, spots: Sequence[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
        """What is charged to these accounts; their rows are locked, in the order of their names."""
        n = len(spots)
        if n not in self._look:
            a = t.account.c
            which = sa.or_(*((a.name == sa.bindparam(f"n{i}")) & (a.start == sa.bindparam(f"s{i}")) for i in range(n)))
            query = sa.select(a.name, a.start, a.money, a.tokens).where(which).order_by(a.name, a.start)
            if len(self._look) > 64:
                self._look.clear()
            self._look[n] = Prepared(query.with_for_update(), self.dialect)
        prepared = self._look[n]
        given = prepared.given({k: v for i, (n, s) in enumerate(spots) for k, v in ((f"n{i}", n), (f"s{i}", s))})
        cursor = _cursor(link)
        cursor.execute(prepared.text, given)
        return {(r[0], r[1]): (r[2], r[3]) for r in cursor.fetchall()}


def _cursor(link: sa.Connection) -> Any:
    """The driver's own; its errors are the driver's too."""
    driver: Any = link.connection.dbapi_connection
    return driver.cursor()
