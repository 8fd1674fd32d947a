"""`gateway.toml`: upstreams, their prices and limits, budgets, routing, the ledger; every word is checked before use.

[upstreams.small]
url = "http://127.0.0.1:11434/v1"   # any OpenAI-compatible server; or folder = "runs/mine", a model of the library
model = "llama3.2:1b"               # its name there
input_price = 0.1                   # money for a million tokens
output_price = 0.4

[[budgets]]
money = 5.0
window = "1d"

Paths are relative to the file. Secrets stand in the environment (`key_env`) or in files (`key_file`), never here.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from corollary.errors import InvalidFileError, InvalidInputError

AUTO = "corollary/auto"
MAX_BYTES = 1 << 20
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def seconds(text: str) -> int | None:
    """A window as seconds; "forever" is None.

    Example:
        >>> seconds("90s"), seconds("1d"), seconds("forever")
        (90, 86400, None)
    """
    if text == "forever":
        return None
    found = re.fullmatch(r"([1-9]\d{0,6})([smhd])", text)
    if found is None:
        raise ValueError(f"a window is a number with s, m, h or d, or forever; got {text!r}")
    return int(found[1]) * UNITS[found[2]]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(_Table):
    """Where it listens, and what it takes.

    Example:
        >>> Server().host
        '127.0.0.1'
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8080, ge=0, le=65535)
    hosts: tuple[str, ...] = ()  # further names under which it may be called
    max_body: int = Field(default=1 << 20, ge=1024, le=1 << 28)  # bytes
    max_requests: int = Field(default=256, ge=1)  # at the same time
    body_timeout: float = Field(default=30.0, gt=0)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return self.host in LOOPBACK


class RoutingTable(_Table):
    """How `corollary/auto` chooses.

    Example:
        >>> RoutingTable().exploration
        0.0
    """

    price: float | None = Field(default=None, ge=0)  # quality per unit of cost; the router's own where absent
    exploration: float = Field(default=0.0, ge=0, le=1)  # share of requests whose model is drawn uniformly
    prompt: Literal["last", "all"] = "last"  # which user messages the router reads
    alpha: float = Field(default=0.01, gt=0, lt=0.5)  # probability of ever revoking a true certificate, of each monitor
    seed: int | None = None  # of the draws; None: the system's


class Budget(_Table):
    """A limit in a window, of all requests together or of every key by itself.

    Example:
        >>> Budget(money=1.0, window="1h").seconds
        3600
    """

    who: Literal["total", "key"] = "total"
    money: float | None = Field(default=None, ge=0, lt=1e9)
    tokens: int | None = Field(default=None, ge=0, lt=1 << 60)
    window: str = "1d"
    over: Literal["refuse", "cheaper"] = "refuse"

    @field_validator("window")
    @classmethod
    def _window(cls, text: str) -> str:
        seconds(text)
        return text

    @model_validator(mode="after")
    def _some(self) -> "Budget":
        if self.money is None and self.tokens is None:
            raise ValueError("a budget limits money, tokens, or both")
        return self

    @property
    def seconds(self) -> int | None:
        """Length of the window; None: for ever."""
        return seconds(self.window)


class LedgerTable(_Table):
    """Where requests are recorded.

    Example:
        >>> LedgerTable().prompts
        'hash'
    """

    url: str = "gateway.sqlite"
    prompts: Literal["hash", "text"] = "hash"
    unit: str = "money"


class UpstreamTable(_Table):
    """A model server, or a local model, with prices and limits.

    Example:
        >>> UpstreamTable(url="http://127.0.0.1:11434/v1", model="llama3.2:1b").retries
        2
    """

    url: str | None = None
    model: str | None = None
    key_env: str | None = None
    key_file: str | None = None
    folder: str | None = None  # a model or run of the library
    huggingface: str | None = None  # a local folder of a Hugging Face model
    function: str | None = None  # "module:name": called without arguments, gives a `LocalModel` or a token model
    heads: tuple[str, ...] = ()  # names that a request may switch on
    input_price: float = Field(default=0.0, ge=0, lt=1e9)  # for a million tokens
    output_price: float = Field(default=0.0, ge=0, lt=1e9)
    request_price: float = Field(default=0.0, ge=0, lt=1e6)
    max_tokens: int = Field(default=1024, ge=1, le=1_000_000)  # imposed where a request names none
    images: bool = False
    image_tokens: int = Field(default=2048, ge=1)  # at most, of one image
    embeddings: bool = False
    timeout: float = Field(default=60.0, gt=0)  # to the first byte
    idle_timeout: float = Field(default=60.0, gt=0)  # between two pieces of a stream
    connect_timeout: float = Field(default=5.0, gt=0)
    retries: int = Field(default=2, ge=0, le=10)
    concurrency: int = Field(default=64, ge=1)
    queue_timeout: float = Field(default=10.0, ge=0)  # waiting for a free place
    breaker_failures: int = Field(default=5, ge=1)
    breaker_seconds: float = Field(default=10.0, gt=0)
    idempotent: bool = False  # honours Idempotency-Key: documented by the server only
    unbilled_errors: bool = False  # 5xx are known to cost nothing
    fallback: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> "UpstreamTable":
        kinds = [k for k in ("url", "folder", "huggingface", "function") if getattr(self, k)]
        if len(kinds) != 1:
            raise ValueError("an upstream has one of url, folder, huggingface, function")
        if self.url is not None:
            parts = urlsplit(self.url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
                raise ValueError("`url` must be http(s)://host/..., without a password or a query")
            if not self.model:
                raise ValueError("an upstream with a url needs `model`, its name there")
        if self.key_env and self.key_file:
            raise ValueError("give `key_env` or `key_file`, not both")
        return self


class GatewayConfig(_Table):
    """All of a `gateway.toml`.

    Args:
        upstreams: name -> where the model is, its prices and limits.
        server, routing, budgets, ledger: see their tables in the documentation.

    Guarantee: none; it is what was asked, checked.

    Example:
        >>> config = GatewayConfig(upstreams={"small": {"url": "http://127.0.0.1:11434/v1", "model": "llama3.2:1b"}})
        >>> config.server.host, config.ledger.prompts
        ('127.0.0.1', 'hash')
    """

    upstreams: dict[str, UpstreamTable] = Field(min_length=1)
    server: Server = Server()
    routing: RoutingTable = RoutingTable()
    budgets: tuple[Budget, ...] = ()
    ledger: LedgerTable = LedgerTable()

    @model_validator(mode="after")
    def _names(self) -> "GatewayConfig":
        for name, table in self.upstreams.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no plain name of an upstream (letters, digits, . _ : -)")
            if lost := [f for f in table.fallback if f not in self.upstreams or f == name]:
                raise ValueError(f"upstreams.{name}: there is no other upstream {lost[0]!r} to fall back on")
        return self


def read_gateway(path: str | Path) -> GatewayConfig:
    r"""Read a `gateway.toml`; paths in it become absolute.

    Raises:
        InvalidFileError: for a missing file, no TOML, or a word that is unknown or out of range.

    Guarantee: none.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "gateway.toml"
        >>> _ = path.write_text('[upstreams.small]\nurl = "http://127.0.0.1:9/v1"\nmodel = "m"\n')
        >>> read_gateway(path).ledger.url == f"sqlite:///{path.parent.resolve()}/gateway.sqlite"
        True
    """
    source = Path(path)
    try:
        if source.stat().st_size > MAX_BYTES:
            raise InvalidFileError(source, "larger than 1 MB", "give a gateway's file")
        plain = tomllib.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidFileError(source, "there is no such file", "write one, or try `corollary serve --demo`") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise InvalidFileError(source, f"not TOML ({problem})", "correct it") from None
    try:
        return GatewayConfig.model_validate(_absolute(plain, source.resolve().parent))
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InvalidFileError(source, f"{where}: {first['msg'].removeprefix('Value error, ')}", "correct it") from None


def database_url(text: str, *, base: Path | None = None) -> str:
    """A ledger as a URL: one that is given, or the path of an SQLite file.

    Example:
        >>> database_url("postgresql://127.0.0.1/corollary")
        'postgresql+psycopg://127.0.0.1/corollary'
    """
    for start in ("postgresql://", "postgres://"):
        if text.startswith(start):
            return "postgresql+psycopg://" + text.removeprefix(start)
    if "://" in text:
        if not text.startswith(("sqlite://", "postgresql+psycopg://")):
            raise InvalidInputError("a ledger is an SQLite file or a postgresql:// URL; give one of these")
        return text
    return f"sqlite:///{(base or Path.cwd()).resolve() / text}"


def secret_of(name: str, table: UpstreamTable) -> str | None:
    """The key of an upstream, read now; it is kept in memory only.

    Raises:
        InvalidInputError: where the variable or the file is not there; the message names them, not the key.
    """
    if table.key_env is not None:
        if not os.environ.get(table.key_env):
            raise InvalidInputError(f"{name}: the environment variable {table.key_env} is not set; put the key there")
        return os.environ[table.key_env].strip()
    if table.key_file is not None:
        try:
            text = Path(table.key_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise InvalidInputError(f"{name}: the file {table.key_file} cannot be read; put the key there") from None
        if not text or not text.isprintable():
            raise InvalidInputError(f"{name}: the file {table.key_file} holds no key; put it there, on one line")
        return text
    return None


def _absolute(plain: Mapping[str, Any], base: Path) -> dict[str, Any]:
    out = dict(plain)
    ledger = dict(out.get("ledger") or {}) if isinstance(out.get("ledger", {}), dict) else out["ledger"]
    if isinstance(ledger, dict):
        ledger["url"] = database_url(str(ledger.get("url", "gateway.sqlite")), base=base)
        out["ledger"] = ledger
    if isinstance(out.get("upstreams"), dict):
        out["upstreams"] = {
            name: {k: str(base / v) if k in ("folder", "huggingface", "key_file") and isinstance(v, str) else v
                   for k, v in table.items()} if isinstance(table, dict) else table
            for name, table in out["upstreams"].items()
        }  # fmt: skip
    return out
