"""`corollary route collect`: ask a pool of experts within a budget, and fit a router from the answers."""

import hashlib
from pathlib import Path
from typing import Annotated, Any

import typer

from corollary.cli import _console as ui
from corollary.errors import InvalidInputError
from corollary.runs import RunFolder


def collect(
    prompts: Annotated[Path, typer.Argument(metavar="PROMPTS", help="Prompts: .jsonl, .csv or .parquet.")],
    pool: Annotated[Path, typer.Option(help="The experts, their prices, and how answers are judged (TOML).")],
    budget: Annotated[float, typer.Option(min=0.0, help="Most that all queries may cost, in the pool's money.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same again goes on.")] = Path("runs/collected"),
    prompt: Annotated[str | None, typer.Option(help="Column of the prompts; found by itself.")] = None,
    unit: Annotated[str, typer.Option(help="Name of the money, for the reader.")] = "money",
    method: Annotated[str, typer.Option(help="What is worth asking: committee, uniform, full.")] = "committee",
    floor: Annotated[float, typer.Option(min=0.001, max=1.0, help="Least probability of any query.")] = 0.05,
    features: Annotated[str, typer.Option(help="As for `route fit`.")] = "hash",
    loss: Annotated[str, typer.Option(help="Surrogate, as for `route fit`.")] = "value",
    weights: Annotated[
        str, typer.Option(help="Of answers in the fit: equal (they vary less), or inverse (1 / propensity).")
    ] = "equal",
    l2: Annotated[float, typer.Option(min=0.0, help="Penalty on the weights.")] = 2.0,
    seed: ui.Seed = 0,
    threads: ui.Threads = None,
    as_json: ui.Json = False,
    quiet: ui.Quiet = False,
) -> None:
    """Ask experts within a budget, every query through a ledger, then fit a router. Exit code 3: a price was broken."""
    from corollary.certificates import load_certificate
    from corollary.cli.verify import EXIT
    from corollary.deferral import read_pool
    from corollary.deferral.routing._collect import collect_run, read_prompts

    if method not in ("committee", "uniform", "full"):
        raise typer.BadParameter(f"--method is committee, uniform or full, got {method!r}")
    if weights not in ("equal", "inverse"):
        raise typer.BadParameter(f"--weights is equal or inverse, got {weights!r}")
    ui.set_threads(threads)
    pool_file = read_pool(pool)
    rows, column = read_prompts(prompts, prompt=prompt, reference=pool_file.reference)
    config = {
        "verb": "route",
        "job": "collect",
        "prompts": str(prompts.resolve()),
        "prompts_sha256": hashlib.sha256(prompts.read_bytes()).hexdigest(),
        "experts": [e.name for e in pool_file.experts],
        "budget": budget,
        "unit": unit,
        "prompt": column,
        "method": method,
        "floor": floor,
        "features": features,
        "loss": loss,
        "weights": weights,
        "l2": l2,
        "seed": seed,
    }
    with _folder(out, config) as run, ui.progress(quiet=quiet or as_json) as tell:
        metrics, certificate = collect_run(
            run, rows, pool_file,
            prompt=column, budget=budget, unit=unit, method=method, floor=floor,
            features=features, loss=loss, weights=weights, l2=l2, seed=seed, tell=tell,
        )  # fmt: skip
    if as_json:
        ui.emit(metrics)
    elif not quiet:
        show(metrics["collection"])
        ui.say(str(certificate))
    report = certificate.check(**load_certificate(out)[1])
    if not report:
        typer.echo(str(report), err=True)
        raise typer.Exit(EXIT[report.status])


def _folder(out: Path, config: dict[str, Any]) -> RunFolder:
    try:
        return RunFolder(out, config)
    except InvalidInputError as problem:  # a ledger of paid answers is never thrown away by an option
        raise InvalidInputError(
            str(problem).replace(", or add --overwrite", "; what was paid for stays there")
        ) from None


def show(found: dict[str, Any]) -> None:
    """The account as a table."""
    rows = [
        [name, str(v["answered"]), f"{v['mean_quality']:.4f}", f"{v['effective_answers']:.0f}"]
        for name, v in found["experts"].items()
    ]
    title = (
        f"{found['charged']:.6g} of {found['budget']:g} {found['unit']} charged, {found['in_flight']:g} of it unknown"
    )
    ui.table(title, ["expert", "answers", "mean quality", "effective answers"], rows)
    alike = found["uniform_at_equal_spend"]["answers_of_each_expert"]
    ui.say(f"uniform sampling at equal spend: {alike:.0f} answers of each expert")
