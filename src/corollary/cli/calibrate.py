"""`corollary calibrate`: calibrated forecasts of a stream, recorded or live, with the theorem's bound beside."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from corollary.cli import _console as ui
from corollary.errors import InvalidInputError
from corollary.runs import RunFolder


def run(
    data: Annotated[
        Path | None, typer.Argument(help="CSV file with a header, a row for each round; none with --follow.")
    ] = None,
    outcome: Annotated[str, typer.Option(help="Column of the outcome; a pattern like 'y_*' for vectors.")] = "y",
    forecast: Annotated[
        str | None, typer.Option(help="A model's columns, e.g. 'p_*': its stream is calibrated, not only the outcomes.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/calibrate"),
    method: Annotated[
        str, typer.Option(help="auto, treecal, foster, calibeating, platt, ... (see the page).")
    ] = "auto",
    follow: Annotated[
        bool, typer.Option("--follow", help="Read standard input, answer each line with a forecast.")
    ] = False,
    classes: Annotated[
        str | None, typer.Option(help="Names of the classes, apart by commas; needed to follow labels.")
    ] = None,
    domain: Annotated[str, typer.Option("--set", help="Of vector outcomes: auto, simplex, ball or box.")] = "auto",
    low: Annotated[float, typer.Option(help="With --follow and numbers: the least outcome.")] = 0.0,
    high: Annotated[float, typer.Option(help="With --follow and numbers: the largest outcome.")] = 1.0,
    levels: Annotated[int | None, typer.Option(min=1, help="Levels of the tree.")] = None,
    branching: Annotated[int | None, typer.Option(min=2, help="Branching of the tree.")] = None,
    leaf: Annotated[int | None, typer.Option(min=1, help="Rounds in a leaf of the tree.")] = None,
    seed: ui.Seed = 0,
    overwrite: ui.Overwrite = False,
    as_json: ui.Json = False,
    quiet: ui.Quiet = False,
) -> None:
    """Forecast online, measure the calibration error at every power of two, certify. Goes on where it was stopped."""
    names = [c.strip() for c in classes.split(",")] if classes else None
    if follow:
        if data is not None:
            raise InvalidInputError("--follow reads standard input; give no file")
        if levels or branching or leaf:
            raise InvalidInputError("--levels, --branching and --leaf are for recorded streams; leave them out")
        settings: dict[str, Any] = {"outcome": outcome, "forecast": forecast, "classes": names}
        settings |= {"set": domain, "low": low, "high": high, "method": method, "seed": seed}
        _follow(out, settings, overwrite=overwrite, quiet=quiet)
        return
    if data is None:
        raise InvalidInputError("give a CSV file, or --follow to read standard input")
    from corollary.calibration import calibrate_stream

    options: dict[str, Any] = {"outcome": outcome, "forecast": forecast, "method": method, "set": domain}
    options |= {"classes": names, "levels": levels, "branching": branching, "leaf": leaf, "seed": seed}
    config = {"verb": "calibrate", **options, "data": str(data.resolve())}
    with RunFolder(out, config, overwrite=overwrite) as folder, ui.progress(quiet=quiet or as_json) as tell:
        result = calibrate_stream(folder, data, tell=tell, **options)
    page = _report(out)
    if as_json:
        ui.emit({"run": str(out), **{k: v for k, v in result.items() if k != "reliability"}})
    elif not quiet:
        tell_result(result)
        ui.say(f"run {out}, report {page}")


def tell_result(result: dict[str, Any]) -> None:
    """The table of checkpoints and what was chosen."""
    tree = "theorem" in result["checkpoints"][-1]
    head = ["rounds", "l1", "l2", "swap regret", "external regret"]
    head += ["theorem", "theorem, this spread"] if tree else []
    keys = ["l1", "l2", "swap_regret", "external_regret", *(["theorem", "theorem_spread"] if tree else []), "trivial"]
    rows = [[str(c["rounds"]), *(f"{c[k]:.4f}" for k in keys)] for c in result["checkpoints"]]
    ui.table("calibration error a round; theorem and trivial bound of l1", [*head, "trivial"], rows)
    ui.say(f"method {result['method']}: {'; '.join(result['reasons'])}")
    parts = result["brier"]
    told = f"Brier {parts['brier']:.4f} = calibration {parts['calibration']:.4f} + refinement {parts['refinement']:.4f}"
    ui.say(told + (f"; the model's own {result['base_brier']:.4f}" if "base_brier" in result else ""))
    ui.say(result["certified"])


def _follow(out: Path, settings: dict[str, Any], *, overwrite: bool, quiet: bool) -> None:
    from corollary.calibration._follow import Follower, finish

    with RunFolder(out, {"verb": "calibrate", "follow": True, **settings}, overwrite=overwrite) as folder:
        follower = Follower(folder.path, **settings)
        for answer in follower.answer(sys.stdin):
            if answer.problem:
                sys.stderr.write(f"error {answer.problem}\n")
                sys.stderr.flush()
            said = {k: v for k, v in answer._asdict().items() if k != "problem"}
            sys.stdout.write(json.dumps(said | ({"refused": answer.problem} if answer.problem else {})) + "\n")
            sys.stdout.flush()
        result = finish(folder, follower, settings)
    if result:
        page = _report(out)
        if not quiet:
            sys.stderr.write(f"{result['certified']}\nrun {out}, report {page}\n")


def _report(out: Path) -> Path:
    from corollary.report import write_report

    return write_report(out)
