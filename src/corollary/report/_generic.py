"""Sections that fit every run: the figures of `metrics.json` as plain tables, and what the run was asked for."""

import json
from collections.abc import Mapping
from typing import Any

from corollary.report._render import number, render
from corollary.report._run import Run

MOST_ROWS = 200


def figures(run: Run) -> str | None:
    """Numbers as a list, tables of numbers as tables."""
    plain = {k: number(v) for k, v in run.metrics.items() if _scalar(v)}
    nested = {k: v for k, v in run.metrics.items() if not _scalar(v)}
    tables = [_table(name, value) for name, value in nested.items()]
    if not plain and not tables:
        return None
    return render("figures.html", plain=plain, tables=tables)


def settings(run: Run) -> str:
    """`config.toml`, and the certificate's provenance and digests."""
    flat = {k: v for k, v in run.config.items() if _scalar(v) or isinstance(v, list)}
    groups = {k: v for k, v in run.config.items() if isinstance(v, Mapping)}
    certificate = run.certificate
    provenance = dict((certificate.parts or (certificate,))[0].provenance) if certificate else {}
    return render(
        "settings.html",
        settings={k: _text(v) for k, v in flat.items()},
        groups={k: {n: _text(x) for n, x in v.items()} for k, v in groups.items()},
        provenance={k: _text(v) for k, v in provenance.items()},
    )


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _text(value: Any) -> str:
    return number(value, 6) if _scalar(value) else json.dumps(value, ensure_ascii=False)


def _table(name: str, value: Any) -> dict[str, Any]:
    """Rows by the outer key; columns by the inner one where all rows are alike."""
    items = list(value.items()) if isinstance(value, Mapping) else [(str(i), v) for i, v in enumerate(value)]
    inner = [v for _, v in items if isinstance(v, Mapping)]
    columns = list(dict.fromkeys(k for v in inner for k in v))
    rows = [
        (key, [_text(v.get(c)) for c in columns] if isinstance(v, Mapping) else [_text(v), *[""] * (len(columns) - 1)])
        for key, v in items
    ]
    return {
        "name": name,
        "columns": columns or [""],
        "rows": rows[:MOST_ROWS],
        "left_out": max(0, len(rows) - MOST_ROWS),
    }
