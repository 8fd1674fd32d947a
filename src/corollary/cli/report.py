"""`corollary report`: write the page of a run folder again."""

from pathlib import Path
from typing import Annotated

import typer

from corollary.cli import _console as ui


def run(
    path: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; report.html in the run folder by default.")] = None,
    as_json: ui.Json = False,
) -> None:
    """Write report.html of a finished run: tables, plots, certificate; one file, no external resource."""
    from corollary.report import write_report

    target = write_report(path, out)
    ui.emit({"report": str(target)}) if as_json else ui.say(str(target))
