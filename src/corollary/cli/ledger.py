"""`corollary ledger`: what a gateway's ledger says, and its rows as a file."""

import csv
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from corollary.cli import _console as ui
from corollary.cli.keys import DEFAULT, ledger_url

app = typer.Typer(name="ledger", help="The ledger of a gateway.", no_args_is_help=True, add_completion=False)

Where = Annotated[str, typer.Argument(metavar="LEDGER", help="gateway.toml, an SQLite file, or a postgresql:// URL.")]


@app.command()
def summary(
    ledger: Where = DEFAULT,
    router: Annotated[
        Path | None, typer.Option(help="A router to value on the log too (prompts kept as text).")
    ] = None,
    delta: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Probability that an interval misses.")] = 0.05,
    as_json: ui.Json = False,
) -> None:
    """Spend, tokens, outcomes, what policies would have been worth, whether it adds up. Exit code 3: it does not."""
    from corollary.deferral.routing import load
    from corollary.serving._from_ledger import policy_values
    from corollary.serving._ledger import GatewayLedger

    book = GatewayLedger(ledger_url(ledger), read_only=True)
    try:
        found, wrong = book.summary(), book.audit()
        values = policy_values(book, router=None if router is None else load(router), delta=delta)
    finally:
        book.close()
    if as_json:
        plain = {name: {k: v._asdict() for k, v in pair.items()} for name, pair in values.items()}
        ui.emit(found | {"wrong": wrong, "policies": plain})
    else:
        show(found, values)
        for line in wrong:
            typer.echo(f"does not add up: {line}", err=True)
    if wrong:
        raise typer.Exit(3)


@app.command()
def export(
    ledger: Where = DEFAULT,
    out: Annotated[Path, typer.Option(help="File to write: .jsonl or .csv.")] = Path("ledger.jsonl"),
) -> None:
    """Every request, one line each; prompts only where the configuration keeps them."""
    from corollary.deferral._ledger_schema import NANO
    from corollary.runs import write_atomically
    from corollary.serving._ledger import GatewayLedger

    if out.suffix not in (".jsonl", ".csv"):
        raise typer.BadParameter(f"--out ends in .jsonl or .csv, got {out.name!r}")
    book = GatewayLedger(ledger_url(ledger), read_only=True)
    try:
        rows = [row | {"money": None if row["money"] is None else int(row["money"]) / NANO} for row in book.requests()]
    finally:
        book.close()
    write_atomically(out, lambda path: _write(path, rows, csv_=out.suffix == ".csv"))
    ui.say(f"{len(rows)} requests in {out}")


def _write(path: Path, rows: list[dict[str, Any]], *, csv_: bool) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if not csv_:
            file.writelines(json.dumps(row, ensure_ascii=False, default=int) + "\n" for row in rows)
        elif rows:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({k: json.dumps(v) if isinstance(v, dict) else v for k, v in row.items()} for row in rows)


def show(found: dict[str, Any], values: dict[str, Any]) -> None:
    """The tables."""
    states = ", ".join(f"{n} {state}" for state, n in found["states"].items())
    ui.say(
        f"{found['requests']} requests, {found['charged']:g} charged, {found['in_flight']:g} of it unknown or in flight"
    )
    ui.say(f"calls: {states or 'none'}")
    rows = []
    for name, m in found["models"].items():
        score = "–" if m.get("quality") is None else f"{m['quality']:.4f}"
        counts = [
            str(m.get("requests", 0)),
            str(m["calls"]),
            f"{m['money']:.6g}",
            str(m["tokens_in"]),
            str(m["tokens_out"]),
        ]
        rows.append([name, *counts, score, str(m.get("scored", 0))])
    ui.table("models", ["model", "requests", "calls", "money", "tokens in", "tokens out", "mean score", "judged"], rows)
    ui.table(
        "keys",
        ["key", "requests", "money"],
        [[k, str(v["requests"]), f"{v['money']:.6g}"] for k, v in found["keys"].items()],
    )
    rows = []
    for name, p in values.items():
        told = [f"{v.value:.4f} [{v.lower:.4f}, {v.upper:.4f}]" for v in (p["ips"], p["dr"])]
        rows.append([name, *told, f"{p['ips'].effective:.0f}"])
    if rows:
        ui.table(
            "what policies would have been worth", ["policy", "inverse propensity", "doubly robust", "effective"], rows
        )
