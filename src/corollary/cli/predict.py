"""`corollary predict`: the rows of a table, by the classifier of a run."""

from pathlib import Path
from typing import Annotated

import typer

from corollary.cli import _console as ui


def run(
    folder: Annotated[Path, typer.Argument(help="The run folder of `corollary fit`.")],
    data: Annotated[Path, typer.Argument(help="A table with the same columns; the target may be absent.")],
    out: Annotated[Path | None, typer.Option(help="CSV file to write; without it, labels go to the terminal.")] = None,
    no_header: Annotated[bool, typer.Option("--no-header", help="The first row is data, not names.")] = False,
    as_json: ui.Json = False,
    quiet: ui.Quiet = False,
) -> None:
    """Predict labels, and probabilities where the model has them."""
    import numpy as np

    from corollary.metrics import predict_table

    result = predict_table(folder, data, header=not no_header, out=out)
    labels, counts = np.unique(result["prediction"].astype(str), return_counts=True)
    told = dict(zip(labels.tolist(), counts.tolist(), strict=True))
    if as_json:
        ui.emit({"rows": len(result["prediction"]), "predicted": told, "out": str(out) if out else None})
    elif out is None:
        for label in result["prediction"]:
            ui.say(str(label))
    elif not quiet:
        ui.say(f"{len(result['prediction'])} rows: {', '.join(f'{n} {label}' for label, n in told.items())}; {out}")
