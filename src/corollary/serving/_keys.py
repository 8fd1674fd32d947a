"""Keys of the gateway: made, listed, revoked; stored as SHA-256 of 256 random bits, compared in constant time.

A key reads `sk-corollary-<id>-<secret>`. The id finds the row, the secret proves the right. A random secret of 256 bits
needs no slow hash: there is nothing to guess from a dictionary.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa

from corollary.deferral._ledger_schema import to_nano
from corollary.errors import InvalidInputError
from corollary.serving import _tables as t
from corollary.serving._config import seconds

SCOPES = ("chat", "feedback", "read")  # ask models; judge answers; metrics, status and the ledger's figures
FORM = re.compile(r"sk-corollary-([0-9a-f]{12})-([A-Za-z0-9_-]{43})")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
NOTHING = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Caller:
    """Who asks, and what they may.

    Example:
        >>> Caller("ann", frozenset({"chat"})).may_use("any-model")
        True
    """

    name: str
    scopes: frozenset[str] = field(default_factory=lambda: frozenset(SCOPES))
    models: frozenset[str] | None = None
    budget: dict[str, Any] | None = None

    def may_use(self, model: str) -> bool:
        """Whether the key allows this model."""
        return self.models is None or model in self.models


LOCAL = Caller("local")  # where the gateway listens on this machine alone and no key was ever made


class NewKey(NamedTuple):
    """A key that was just made; `text` is shown once and stored nowhere."""

    name: str
    text: str


def add_key(
    engine: sa.Engine,
    name: str,
    *,
    scopes: Sequence[str] = ("chat", "feedback"),
    models: Sequence[str] | None = None,
    money: float | None = None,
    tokens: int | None = None,
    window: str = "1d",
    over: str = "refuse",
) -> NewKey:
    """Make a key and store its hash.

    Args:
        engine: of the ledger.
        name: shown in lists, the ledger and the budgets.
        scopes: of `SCOPES`.
        models: names that it may use; None: all.
        money, tokens, window, over: its own budget.

    Raises:
        InvalidInputError: for a taken or strange name, an unknown scope, a senseless budget.
    """
    if not NAME.fullmatch(name) or name == LOCAL.name:
        raise InvalidInputError(f"{name!r} cannot name a key; use letters, digits, . _ @ -, up to 64 of them")
    if not scopes or not set(scopes) <= set(SCOPES):
        raise InvalidInputError(f"scopes are {', '.join(SCOPES)}, got {', '.join(scopes) or 'none'}")
    if models is not None and any(not m or "," in m for m in models):
        raise InvalidInputError("a model's name must not be empty; separate names by commas")
    if over not in ("refuse", "cheaper"):
        raise InvalidInputError(f"when the budget ends: refuse or cheaper, got {over!r}")
    try:
        seconds(window)
    except ValueError as problem:
        raise InvalidInputError(str(problem)) from None
    if tokens is not None and not 0 <= tokens < 1 << 60:
        raise InvalidInputError(f"a budget of tokens must be at least 0, got {tokens}")
    nano = None if money is None else to_nano(money, "budget", up=False)
    identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    row = {
        "id": identity, "name": name, "digest": digest_of(secret), "scopes": ",".join(dict.fromkeys(scopes)),
        "models": None if models is None else ",".join(models), "money": nano, "tokens": tokens, "window": window,
        "over": over, "created": time.time(), "revoked": None,
    }  # fmt: skip
    try:
        with engine.begin() as link:
            link.execute(t.key.insert().values(row))
    except sa.exc.IntegrityError:
        raise InvalidInputError(f"there is a key named {name!r} already; take another name") from None
    return NewKey(name, f"sk-corollary-{identity}-{secret}")


def revoke_key(engine: sa.Engine, name: str) -> None:
    """End a key's rights; its name stays taken, so that the ledger stays clear."""
    change = t.key.update().where(t.key.c.name == name, t.key.c.revoked.is_(None)).values(revoked=time.time())
    with engine.begin() as link:
        if not link.execute(change).rowcount:
            raise InvalidInputError(f"there is no valid key named {name!r}; `corollary keys list` shows them")


def list_keys(engine: sa.Engine) -> list[dict[str, Any]]:
    """All keys without their digests."""
    columns = [c for c in t.key.c if c.name != "digest"]
    with engine.connect().execution_options(reads=True) as link:
        return [dict(row) for row in link.execute(sa.select(*columns).order_by(t.key.c.created)).mappings()]


def digest_of(secret: str) -> str:
    """SHA-256 of a secret, as stored."""
    return hashlib.sha256(secret.encode()).hexdigest()


class KeyRing:
    """The valid keys in memory, read again every few seconds.

    Args:
        rows: of the table of keys.
    """

    def __init__(self, rows: Sequence[Any] = ()) -> None:
        self.any = False
        self._rows: dict[str, tuple[str, Caller]] = {}
        self.replace(rows)

    def replace(self, rows: Sequence[Any]) -> None:
        """Take what the table holds now; revoked keys lose their rights with it."""
        found = {}
        for row in rows:
            if row["revoked"] is None:
                budget = {k: row[k] for k in ("money", "tokens", "window", "over")}
                models = None if row["models"] is None else frozenset(row["models"].split(","))
                caller = Caller(row["name"], frozenset(row["scopes"].split(",")), models, budget)
                found[row["id"]] = (row["digest"], caller)
        self._rows, self.any = found, bool(rows)

    def callers(self) -> list[Caller]:
        """All who hold a valid key."""
        return [caller for _, caller in self._rows.values()]

    def caller(self, header: str | None) -> Caller | None:
        """Who an `Authorization` header belongs to; None: nobody."""
        kind, _, text = (header or "").partition(" ")
        found = FORM.fullmatch(text.strip()) if kind.lower() == "bearer" else None
        identity, secret = (found[1], found[2]) if found else ("", "")
        stored, caller = self._rows.get(identity, (NOTHING, None))
        same = hmac.compare_digest(stored, digest_of(secret or "-"))  # the same work whether the id is known or not
        return caller if same else None


def read_keys(engine: sa.Engine) -> list[dict[str, Any]]:
    """All rows, for a `KeyRing`."""
    with engine.connect().execution_options(reads=True) as link:
        return [dict(row) for row in link.execute(sa.select(t.key)).mappings()]
