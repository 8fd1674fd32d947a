"""`corollary route`: a router between models, learned from a log of what they got right; no key, no network."""

from pathlib import Path
from typing import Annotated, Any

import typer

from corollary.cli import _console as ui
from corollary.cli._route_collect import collect
from corollary.errors import InvalidInputError
from corollary.runs import RunFolder, write_json

app = typer.Typer(
    name="route", help="Route requests between models under a budget.", no_args_is_help=True, add_completion=False
)
app.command()(collect)

Log = Annotated[Path, typer.Argument(metavar="LOG", help="Log of requests: .jsonl, .csv or .parquet, wide or long.")]
Router = Annotated[Path, typer.Argument(metavar="DIR", help="Run folder of `corollary route fit`.")]
Prompt = Annotated[str | None, typer.Option("--prompt", help="Column of the prompts; found by itself.")]
Models = Annotated[str | None, typer.Option("--models", help="Models to route between, A,B,...; all by default.")]
Group = Annotated[
    str | None, typer.Option("--group", help="Column of clusters (subject, user): split and resampled whole.")
]
Exclude = Annotated[Path | None, typer.Option("--exclude", help="JSONL of prompts to drop first (decontamination).")]
Prices = Annotated[str | None, typer.Option("--prices", help="Cost of a request, A=0.1,B=3, where the log has none.")]
Budget = Annotated[float | None, typer.Option("--budget", min=0.0, help="Mean cost per request, in the log's unit.")]
Quality = Annotated[
    float | None, typer.Option("--quality", min=0.0, help="Mean quality, as a share of the best model's.")
]
Delta = Annotated[float, typer.Option(min=1e-6, max=0.5, help="Probability that the certified statement is false.")]


@app.command()
def fit(
    log: Annotated[
        Path | None, typer.Argument(metavar="[LOG]", help="Log of requests: .jsonl, .csv or .parquet, wide or long.")
    ] = None,
    from_ledger: Annotated[
        str | None,
        typer.Option("--from-ledger", help="Instead: judged requests of a gateway (its gateway.toml or ledger)."),
    ] = None,
    texts: Annotated[Path | None, typer.Option(help="With a ledger of hashes: a file with the prompts.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/router"),
    budget: Budget = None,
    quality: Quality = None,
    prompt: Prompt = None,
    models: Models = None,
    group: Group = None,
    exclude: Exclude = None,
    prices: Prices = None,
    features: Annotated[
        str,
        typer.Option(help="hash[-words|-characters], tfidf[-characters], statistics, sentence, none, averaged."),
    ] = "hash",
    loss: Annotated[str, typer.Option(help="Surrogate: value, compsum-log, ec, t1, t2, ...")] = "value",
    l2: Annotated[float, typer.Option(min=0.0, help="Penalty on the weights.")] = 2.0,
    delta: Delta = 0.05,
    repeats: Annotated[int, typer.Option(min=0, help="Bootstrap samples of the intervals.")] = 100,
    seed: ui.Seed = 0,
    threads: ui.Threads = None,
    overwrite: ui.Overwrite = False,
    as_json: ui.Json = False,
    quiet: ui.Quiet = False,
) -> None:
    """Learn a router and its price sweep; with --budget or --quality also certify one policy on rows kept aside."""
    from corollary.deferral.routing._fit import fit_run

    if budget is not None and quality is not None:
        raise typer.BadParameter("--budget and --quality exclude each other")
    if (log is None) == (from_ledger is None):
        raise typer.BadParameter("give a LOG, or --from-ledger")
    ui.set_threads(threads)
    config = {
        "verb": "route",
        "log": str(log.resolve()) if log is not None else None,
        "ledger": from_ledger,
        "budget": budget,
        "quality": quality,
        "prompt": prompt,
        "models": models,
        "group": group,
        "exclude": str(exclude.resolve()) if exclude else None,
        "prices": prices,
        "features": features,
        "loss": loss,
        "l2": l2,
        "delta": delta,
        "seed": seed,
    }
    with RunFolder(out, config, overwrite=overwrite) as run, ui.progress(quiet=quiet or as_json) as tell:
        tell("reading", 0.05)
        if log is None:
            data = _of_ledger(from_ledger or "", texts)
        else:
            data = read(log, prompt=prompt, models=models, group=group, exclude=exclude, prices=prices)
        if not (quiet or as_json):
            echo(data)
        metrics, certificate = fit_run(
            run, data, budget=budget, quality=quality, features=features, loss=loss, l2=l2, delta=delta,
            repeats=repeats, seed=seed, tell=tell,
        )  # fmt: skip
    told = report_of(out)
    if as_json:
        ui.emit(metrics)
    elif not quiet:
        show(metrics)
        if certificate is not None:
            ui.say(str(certificate))
        ui.say(told)


@app.command("eval")
def evaluate_(
    folder: Router,
    log: Log,
    prompt: Prompt = None,
    group: Group = None,
    exclude: Exclude = None,
    prices: Prices = None,
    repeats: Annotated[int, typer.Option(min=0, help="Bootstrap samples of the intervals.")] = 100,
    seed: ui.Seed = 0,
    as_json: ui.Json = False,
) -> None:
    """Measure a router on a log, beside single models, random, length alone, nearest neighbours and the oracle."""
    from corollary.deferral.routing import load
    from corollary.deferral.routing._fit import evaluate_router, load_peers

    router = load(folder)
    data = read(log, prompt=prompt, models=",".join(router.models), group=group, exclude=exclude, prices=prices)
    metrics = evaluate_router(router, data, peers=load_peers(folder), repeats=repeats, seed=seed)
    if as_json:
        ui.emit(metrics)
    else:
        echo(data)
        show(metrics)


@app.command()
def calibrate(
    folder: Router,
    log: Log,
    budget: Budget = None,
    quality: Quality = None,
    prompt: Prompt = None,
    exclude: Exclude = None,
    prices: Prices = None,
    delta: Delta = 0.05,
    as_json: ui.Json = False,
    quiet: ui.Quiet = False,
) -> None:
    """Certify a policy of a fitted router on further rows, and make it the router's own. Exit code 4: undecided."""
    from corollary.cli.verify import EXIT, as_plain
    from corollary.deferral.routing import load
    from corollary.deferral.routing._fit import calibrate_run

    router = load(folder)
    data = read(log, prompt=prompt, models=",".join(router.models), group=None, exclude=exclude, prices=prices)
    found = calibrate_run(folder, router, data, budget=budget, quality=quality, delta=delta)
    report = found.certificate.check(**found.evidence)
    if as_json:
        price = found.price if found.price != float("inf") else "infinite"
        ui.emit({"price": price, **as_plain(found.certificate, report)})
    elif not quiet:
        ui.say(str(found.certificate))
        ui.say()
        ui.say(str(report))
    raise typer.Exit(EXIT[report.status])


@app.command()
def explain(
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    router: Annotated[Path, typer.Option(help="Run folder of `corollary route fit`.")] = Path("runs/router"),
    most: Annotated[int, typer.Option(min=1, help="Features to show.")] = 10,
    as_json: ui.Json = False,
) -> None:
    """Where a prompt goes, and which of its features decide it."""
    from corollary.deferral.routing import load

    found = load(router).explain(prompt, most=most)
    if as_json:
        ui.emit(found)
        return
    ui.say(f"to {found['model']}, rather than {found['runner_up']} (price {found['price']})")
    rows = [[m, f"{v:.3f}", f"{found['costs'][m]:.4g}"] for m, v in found["values"].items()]
    ui.table("worth of each model", ["model", "worth", "cost"], rows)
    evidence = [[e["feature"], f"{e['adds']:+.3f}"] for e in found["evidence"]]
    evidence += [["all other features", f"{found['rest']:+.3f}"], ["before any feature", f"{found['bias']:+.3f}"]]
    ui.table(f"for {found['model']} (+) or {found['runner_up']} (-)", ["feature", "adds"], evidence)


@app.command()
def export(
    folder: Router,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("router.json"),
    form: Annotated[
        str, typer.Option(help="plain (runs without corollary), or vllm-sr (an artifact of the vLLM semantic router).")
    ] = "plain",
) -> None:
    """The linear router as JSON, to be run without corollary."""
    from corollary.deferral.routing import export as plain
    from corollary.deferral.routing import load, vllm_artifact

    forms = {"plain": plain, "vllm-sr": vllm_artifact}
    if form not in forms:
        raise typer.BadParameter(f"--form is one of {', '.join(forms)}, got {form!r}")
    if not out.parent.is_dir():
        raise InvalidInputError(f"{out.parent} is no folder; make it, or give another --out")
    write_json(out, forms[form](load(folder)))
    ui.say(str(out))


def _of_ledger(where: str, texts: Path | None) -> Any:
    """The judged requests of a gateway."""
    from corollary.cli.keys import ledger_url
    from corollary.serving._config import read_gateway
    from corollary.serving._from_ledger import ledger_log, texts_of
    from corollary.serving._ledger import GatewayLedger

    unit = read_gateway(where).ledger.unit if where.endswith(".toml") else "money"
    book = GatewayLedger(ledger_url(where), read_only=True)
    try:
        return ledger_log(book, prompts=None if texts is None else texts_of(texts), unit=unit)
    finally:
        book.close()


def read(
    path: Path, *, prompt: str | None, models: str | None, group: str | None, exclude: Path | None, prices: str | None
) -> Any:
    """The log that the options describe."""
    from corollary.deferral.routing import read_log

    names = [m.strip() for m in models.split(",") if m.strip()] if models else None
    return read_log(path, prompt=prompt, models=names, group=group, exclude=exclude, prices=parse_prices(prices))


def report_of(out: Path) -> str:
    """Write the report; a sentence that says where, or what is missing."""
    from corollary.errors import MissingExtraError
    from corollary.report import write_report

    try:
        return str(write_report(out))
    except MissingExtraError as problem:
        return f"no report was written: {problem}"


def parse_prices(text: str | None) -> dict[str, float] | None:
    """`A=0.1,B=3` as a dictionary."""
    if text is None:
        return None
    found = {}
    for part in text.split(","):
        name, equals, value = part.rpartition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise typer.BadParameter(f"--prices takes NAME=NUMBER,..., got {part!r}")
    return found


def echo(log: Any) -> None:
    """What each column was taken for."""
    rows = [[column, role] for column, role in log.roles.items()]
    ui.table(f"{len(log)} prompts, {len(log.models)} models; costs: {log.unit}", ["column", "taken for"], rows)


def show(metrics: dict[str, Any]) -> None:
    """The tables of an evaluation."""
    rows = [[m, f"{v['cost']:.4g}", f"{v['quality']:.4f}"] for m, v in metrics["models"].items()]
    ui.table("models", ["model", "mean cost", "mean quality"], rows)
    two = "apgr" in metrics
    columns = ["router", "AIQ", *(["APGR", "CPT20", "CPT50", "CPT80"] if two else [])]
    rows = []
    for name, found in metrics["routers"].items():
        low, high = found["interval"].get("aiq", (None, None))
        spread = "" if low is None else f" [{low:.4f}, {high:.4f}]"
        cells = [f"{found[k]:.3f}" if found.get(k) is not None else "" for k in ("apgr", "cpt20", "cpt50", "cpt80")]
        rows.append([name, f"{found['aiq']:.4f}{spread}", *(cells if two else [])])
    ui.table(f"on {metrics['prompts']} prompts", columns, rows)
    readings = [k for k in metrics["routers"].get("router", {}) if k.startswith(("quality_at", "cost_at"))]
    if readings:
        rows = [[name, *(reading(found, k) for k in readings)] for name, found in metrics["routers"].items()]
        heads = [k.replace("_at_", " at ") + (" % cost" if k[0] == "q" else " % quality") for k in readings]
        title = "quality at a share of the range of costs, cost at a share of the best model's quality"
        ui.table(title, ["router", *heads], rows)


def reading(found: dict[str, Any], key: str) -> str:
    """A figure with its interval."""
    if found.get(key) is None:
        return "never"
    low, high = found["interval"].get(key, (None, None))
    return f"{found[key]:.4g}" + ("" if low is None else f" [{low:.4g}, {high:.4g}]")
