"""`corollary fit`: a classifier for the metric you are judged by, from a table, with a certificate."""

from pathlib import Path
from typing import Annotated, Any

import typer

from corollary.cli import _console as ui
from corollary.runs import RunFolder


def run(
    data: Annotated[Path, typer.Argument(help="A table: .csv (any of , ; tab |) or .parquet.")],
    target: Annotated[str, typer.Option(help="Column of labels, by name or position (-1 is the last).")] = "-1",
    metric: Annotated[str, typer.Option(help="f1, f2, f0.5, jaccard, balanced-accuracy, accuracy, precision.")] = "f1",
    model: Annotated[str, typer.Option(help="linear, mlp or gbdt.")] = "linear",
    loss: Annotated[
        str | None, typer.Option(help="Loss that trains an mlp's hidden layer: gla, gca, immax, comp_sum, ...")
    ] = None,
    surrogate: Annotated[str, typer.Option(help="METRO's surrogate; auto also tries the bounded one.")] = "logistic",
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/fit"),
    search: Annotated[str, typer.Option(help="How the level is found: grid, bisect or dinkelbach.")] = "grid",
    no_header: Annotated[bool, typer.Option("--no-header", help="The first row is data, not names.")] = False,
    positive: Annotated[str | None, typer.Option(help="The positive label; by default the rarer of two.")] = None,
    test: Annotated[
        Path | None, typer.Option(help="Further rows to certify and compare on, instead of holding rows out.")
    ] = None,
    certify: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of rows held out to certify on.")] = 0.25,
    delta: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Probability that the certificate fails.")] = 0.05,
    l2: Annotated[float, typer.Option(min=0.0, help="Regularisation of linear models.")] = 1e-4,
    no_peers: Annotated[bool, typer.Option("--no-peers", help="Do not fit the methods it is compared with.")] = False,
    seed: ui.Seed = 0,
    threads: ui.Threads = None,
    overwrite: ui.Overwrite = False,
    as_json: ui.Json = False,
    quiet: ui.Quiet = False,
) -> None:
    """Fit for a metric, certify it on rows held out, compare with the usual methods. Goes on where it was stopped."""
    from corollary.metrics import fit_table
    from corollary.report import write_report

    ui.set_threads(threads)
    options: dict[str, Any] = {
        "target": target,
        "metric": metric,
        "model": model,
        "loss": loss,
        "surrogate": surrogate,
        "search": search,
        "header": not no_header,
        "positive": positive,
        "certify": certify,
        "delta": delta,
        "l2": l2,
        "peers": not no_peers,
        "seed": seed,
    }
    paths = {"data": str(data.resolve()), "test": str(test.resolve()) if test else None}
    with (
        RunFolder(out, {"verb": "fit", **options, **paths}, overwrite=overwrite) as folder,
        ui.progress(quiet=quiet or as_json) as tell,
    ):
        result = fit_table(folder, data, test=test, tell=tell, **options)
    page = write_report(out)
    if as_json:
        ui.emit({"run": str(out), **{k: v for k, v in result.items() if k != "report"}})
    elif not quiet:
        rows = [["METRO", f"{result['value']:.4f}"], *([n, f"{v:.4f}"] for n, v in result.get("peers", {}).items())]
        ui.table(f"{result['metric']} on {result['rows']['held out']} rows that nothing was chosen on", ["", ""], rows)
        for name, why in result["dropped"].items():
            ui.say(f"column {name!r} is not used: {why}")
        ui.say(result["certified"])
        ui.say(f"run {out}, report {page}")
