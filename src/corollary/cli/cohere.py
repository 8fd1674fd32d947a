"""`corollary cohere`: answers that agree, from saved predictions; and the audit of any claimed self-improvement."""

from pathlib import Path
from typing import Annotated, Any

import typer

from corollary.cli import _console as ui
from corollary.runs import RunFolder


def run(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="PREDICTIONS | audit BEFORE AFTER", help="Table of predictions, .parquet or .csv, one row a view."
        ),
    ],
    orbit: Annotated[str | None, typer.Option(help="Column that names the input a row is a view of.")] = None,
    proba: Annotated[str, typer.Option(help="Columns of probabilities: names or patterns, with commas.")] = "p_*",
    weight: Annotated[str | None, typer.Option(help="Column of each view's share in the traffic.")] = None,
    transform: Annotated[str | None, typer.Option(help="Column that names the transformation, for the report.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of true classes, to show the realised gain too.")] = None,
    divergence: Annotated[str, typer.Option(help="kl (log-loss) or squared (Brier score).")] = "kl",
    floor: Annotated[float | None, typer.Option(help="What probabilities of zero are raised to.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/cohere"),
    overwrite: ui.Overwrite = False,
    as_json: ui.Json = False,
    quiet: ui.Quiet = False,
) -> None:
    """Make predictions agree on views of one input: the drop in log-loss is known without labels, and certified.

    `corollary cohere predictions.parquet --orbit question --proba "p_*"` writes the improved predictions; `corollary
    cohere audit BEFORE AFTER --orbit question` says what gain any other change of predictions can guarantee.
    """
    from corollary.coherence import Columns
    from corollary.errors import InvalidInputError

    patterns = tuple(p.strip() for p in proba.split(",") if p.strip())
    if files[0] == "audit":
        if len(files) != 3:
            raise InvalidInputError(f"audit takes two files, BEFORE and AFTER, got {len(files) - 1}")
        _audit(files[1], files[2], orbit=orbit, patterns=patterns, divergence=divergence, floor=floor, as_json=as_json)
        return
    if len(files) != 1:
        raise InvalidInputError(f"one table of predictions is taken at a time, got {len(files)}")
    if orbit is None:
        raise InvalidInputError("--orbit is needed: the column that names the input a row is a view of")
    source = Path(files[0])
    config: dict[str, Any] = {"verb": "cohere", "source": str(source.resolve()), "orbit": orbit, "proba": proba}
    config |= {"weight": weight, "transform": transform, "label": label, "divergence": divergence, "floor": floor}
    from corollary.coherence._table import cohere_table
    from corollary.report import write_report
    from corollary.runs import read_json

    with (
        RunFolder(out, config, overwrite=overwrite) as folder,
        ui.progress(quiet=quiet or as_json) as tell,
    ):
        if (out / "metrics.json").exists():
            metrics = read_json(out / "metrics.json")
        else:
            columns = Columns(orbit, patterns, weight, transform, label)
            metrics = cohere_table(folder, source, columns, divergence=divergence, floor=floor, tell=tell)
    page = write_report(out)
    if as_json:
        ui.emit({"run": str(out), **metrics})
    elif not quiet:
        _tell(out, metrics, page)


def _tell(out: Path, metrics: dict[str, Any], page: Any) -> None:
    from corollary.certificates import load_certificate

    rows = [
        ["log-loss, predicted drop over the views (nats)", f"{metrics['predicted_gain']:.4f}"],
        ["Brier score, predicted drop of the mean", f"{metrics['brier_gain']:.4f}"],
        ["inputs that agreed before", f"{metrics['coherent_before']:.1%}"],
    ]
    if "log_loss" in metrics:
        before, after = metrics["log_loss"]["before"], metrics["log_loss"]["after"]
        rows.append(["log-loss on the labels given", f"{before:.4f} to {after:.4f}"])
    ui.table(f"{metrics['orbits']} inputs, {metrics['rows']} views", ["", ""], rows)
    ui.say(str(load_certificate(out)[0]))
    ui.say(f"predictions {out / 'coherent.parquet'}, report {page}")


def _audit(
    before: str,
    after: str,
    *,
    orbit: str | None,
    patterns: tuple[str, ...],
    divergence: str,
    floor: float | None,
    as_json: bool,
) -> None:
    from corollary.coherence import audit
    from corollary.coherence._stream import Columns, read_rows
    from corollary.errors import InvalidInputError

    def rows(path: str) -> tuple[Any, Any]:
        return read_rows(path, Columns(orbit if orbit is not None else first(path), patterns), floor=floor)

    def first(path: str) -> str:
        from corollary.coherence._stream import column_names

        return column_names(Path(path))[0]

    (names, q), (others, f) = rows(before), rows(after)
    if orbit is not None and (names.shape != others.shape or (names != others).any()):
        raise InvalidInputError(f"{before} and {after} do not hold the same inputs in the same order; sort both alike")
    found = audit(q, f, orbit=names if orbit is not None else None, divergence=divergence)
    told = {
        "orbits": len(found.guaranteed),
        "guaranteed": float(found.guaranteed.mean()),
        "best": float(found.best.mean()),
        "share_guaranteed": float((found.guaranteed > 1e-12).mean()),
        "coherent_after": float(found.coherent.mean()),
    }
    if as_json:
        ui.emit({k: v if abs(v) != float("inf") else "-infinite" for k, v in told.items()})
        return
    ui.table(
        f"{told['orbits']} orbits",
        ["", "mean"],
        [
            ["gain guaranteed for every truth they can share", f"{told['guaranteed']:.4f}"],
            ["most that any change without labels can guarantee", f"{told['best']:.4f}"],
            ["orbits with a guarantee above zero", f"{told['share_guaranteed']:.1%}"],
            ["orbits that agree afterwards", f"{told['coherent_after']:.1%}"],
        ],
    )
    if told["guaranteed"] <= 0:
        ui.say("This change can promise nothing: for some truth it makes the predictions worse.")
    ui.say(str(found.certificate))
