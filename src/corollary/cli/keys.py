"""`corollary keys`: make, list and revoke keys of a gateway."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from corollary.cli import _console as ui

app = typer.Typer(name="keys", help="Keys of a gateway.", no_args_is_help=True, add_completion=False)

Where = Annotated[
    str, typer.Option("--ledger", help="The gateway's gateway.toml, its SQLite file, or a postgresql:// URL.")
]
DEFAULT = "gateway.toml"


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="Shown in lists and in the ledger.")],
    ledger: Where = DEFAULT,
    money: Annotated[float | None, typer.Option(min=0.0, help="Its own budget of money in a window.")] = None,
    tokens: Annotated[int | None, typer.Option(min=0, help="Its own budget of tokens in a window.")] = None,
    window: Annotated[str, typer.Option(help="Window of its budget: 90s, 15m, 1h, 1d, forever.")] = "1d",
    over: Annotated[str, typer.Option(help="When its budget ends: refuse, or cheaper.")] = "refuse",
    models: Annotated[str | None, typer.Option(help="Models it may use, A,B,...; all by default.")] = None,
    scopes: Annotated[str, typer.Option(help="chat, feedback, read (metrics, status).")] = "chat,feedback",
    as_json: ui.Json = False,
) -> None:
    """Make a key. It is printed once and stored as a hash only."""
    from corollary.serving._keys import add_key

    engine = open_engine(ledger)
    try:
        made = add_key(
            engine, name, scopes=_words(scopes), models=None if models is None else _words(models), money=money,
            tokens=tokens, window=window, over=over,
        )  # fmt: skip
    finally:
        engine.dispose()
    if as_json:
        ui.emit({"name": made.name, "key": made.text})
    else:
        ui.say(made.text)


@app.command("list")
def list_(ledger: Where = DEFAULT, as_json: ui.Json = False) -> None:
    """Show the keys: names, rights, budgets; never the keys themselves."""
    from corollary.deferral._ledger_schema import NANO
    from corollary.serving._keys import list_keys

    engine = open_engine(ledger)
    try:
        rows = list_keys(engine)
    finally:
        engine.dispose()
    for row in rows:
        row["money"] = None if row["money"] is None else row["money"] / NANO
    if as_json:
        ui.emit({"keys": rows})
        return
    ui.table("keys", ["name", "scopes", "models", "budget", "made", "state"], [_row(r) for r in rows])


@app.command()
def revoke(name: Annotated[str, typer.Argument(help="Of the key.")], ledger: Where = DEFAULT) -> None:
    """End a key's rights; running gateways follow within seconds."""
    from corollary.serving._keys import revoke_key

    engine = open_engine(ledger)
    try:
        revoke_key(engine, name)
    finally:
        engine.dispose()
    ui.say(f"{name} may do nothing any more")


def open_engine(where: str) -> Any:
    """The database that a `gateway.toml`, a file or a URL names."""
    from corollary.serving._tables import open_database

    return open_database(ledger_url(where))


def ledger_url(where: str) -> str:
    """The URL that a `gateway.toml`, a file or a URL names."""
    from corollary.serving._config import database_url, read_gateway

    return read_gateway(Path(where)).ledger.url if where.endswith(".toml") else database_url(where)


def _words(text: str) -> list[str]:
    return [w.strip() for w in text.split(",") if w.strip()]


def _row(row: dict[str, Any]) -> list[str]:
    parts = [f"{row['money']:g} money" if row["money"] is not None else ""]
    parts.append(f"{row['tokens']} tokens" if row["tokens"] is not None else "")
    budget = " and ".join(p for p in parts if p)
    day = time.strftime("%Y-%m-%d", time.gmtime(row["created"]))
    told = f"{budget} in {row['window']}, then {row['over']}" if budget else "–"
    state = "revoked" if row["revoked"] else "valid"
    return [row["name"], row["scopes"], row["models"] or "all", told, day, state]
