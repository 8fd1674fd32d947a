"""`corollary unlearn`: make a frozen model forget, measure it, certify it, and generate with the heads on or off."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from corollary.cli import _console as ui
from corollary.errors import InvalidFileError
from corollary.runs import RunFolder

app = typer.Typer(
    name="unlearn", help="Make a frozen model forget, by a switch.", no_args_is_help=True, add_completion=False
)
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder of `corollary unlearn fit`.")]
Heat = Annotated[float | None, typer.Option("--temperature", min=1e-3, help="T of the outputs; 1 only tilts.")]
Guide = Annotated[float | None, typer.Option("--guidance", min=0.0, help="s; 0 only tempers.")]
Reference = Annotated[
    Path | None, typer.Option(help="Folder of a model retrained without the forget set, for forget quality.")
]


@app.command()
def fit(
    model: Annotated[
        Path | None, typer.Option(help="Folder of the base: ours, or of Hugging Face; trained here by default.")
    ] = None,
    forget: Annotated[
        Path | None,
        typer.Option(
            help="Questions to forget, with `question` and `answer`, perhaps more, as forget10_perturbed.json."
        ),
    ] = None,
    retain: Annotated[Path | None, typer.Option(help="Questions to retain, as retain_perturbed.json.")] = None,
    reference: Reference = None,
    unseen: Annotated[
        Path | None, typer.Option(help="Questions the base never saw: membership, and what the head does elsewhere.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/unlearn"),
    authors: Annotated[int, typer.Option(min=5, max=400, help="Without files: authors to make up.")] = 10,
    temperature: Annotated[
        float, typer.Option(min=1e-3, help="T of the outputs; 1 only tilts, see the sweep of the report.")
    ] = 1.0,
    guidance: Annotated[float, typer.Option(min=0.0, help="s; 0 only tempers.")] = 1.0,
    rank: Annotated[int, typer.Option(min=1, help="m, of the head.")] = 20,
    epochs: Annotated[int, typer.Option(min=1, help="Over the forget set.")] = 100,
    learning_rate: Annotated[float, typer.Option("--lr", min=0.0, help="Of the head.")] = 1e-2,
    weight_decay: Annotated[float, typer.Option(min=0.0, help="Of the head.")] = 1e-2,
    share: Annotated[
        float | None, typer.Option(help="Share of the forget set in the base's data, for the prior correction.")
    ] = None,
    delta: Annotated[float, typer.Option(min=1e-6, max=0.5, help="Probability that a certified claim fails.")] = 0.06,
    seed: ui.Seed = 0,
    threads: ui.Threads = None,
    overwrite: ui.Overwrite = False,
    as_json: ui.Json = False,
    quiet: ui.Quiet = False,
) -> None:
    """Fit a head on cached states, then measure and certify; without files, on authors and a base made here."""
    from corollary.unlearning import HeadTraining
    from corollary.unlearning._asked import content_of
    from corollary.unlearning._run import fit_run

    ui.set_threads(threads)
    paths: dict[str, Any] = {
        "model": model,
        "forget": forget,
        "retain": retain,
        "reference": reference,
        "unseen": unseen,
    }
    config: dict[str, Any] = {"verb": "unlearn", **{k: str(p.resolve()) if p else None for k, p in paths.items()}}
    options: dict[str, Any] = {"authors": authors, "temperature": temperature, "guidance": guidance, "delta": delta}
    trained: dict[str, Any] = {
        "rank": rank,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
    }
    config |= {**options, **trained, "share": share, "seed": seed}
    if contents := {k: content_of(p) for k in ("forget", "retain", "unseen") if (p := paths[k]) is not None}:
        config["contents"] = contents  # a file that changed since is another run
    training = HeadTraining(**trained, share=share, seed=seed)
    with RunFolder(out, config, overwrite=overwrite) as folder, ui.progress(quiet=quiet or as_json) as tell:
        result = fit_run(folder, **paths, **options, training=training, tell=tell)
    _finish(out, result, as_json=as_json, quiet=quiet)


@app.command(name="eval")
def evaluate(
    run: Run,
    temperature: Heat = None,
    guidance: Guide = None,
    reference: Reference = None,
    as_json: ui.Json = False,
    quiet: ui.Quiet = False,
) -> None:
    """Measure and certify a run again, perhaps at other settings or with a retrained reference.

    The settings stay with the run: `generate`, the gateway and the report use them afterwards.
    """
    from corollary.unlearning._measured import evaluate_run

    with RunFolder(run, _config(run)) as folder, ui.progress(quiet=quiet or as_json) as tell:
        result = evaluate_run(folder, temperature=temperature, guidance=guidance, reference=reference, tell=tell)
    _finish(run, result, as_json=as_json, quiet=quiet)


@app.command()
def generate(
    run: Run,
    question: Annotated[str, typer.Argument(help="What to ask.")],
    heads: Annotated[
        str | None, typer.Option(help="Names of the heads that are on, with commas; all by default, none with ''.")
    ] = None,
    temperature: Heat = None,
    guidance: Guide = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 60,
    sampling: Annotated[float, typer.Option(min=0.0, help="Temperature of sampling; 0 takes the likeliest.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Sample among the k likeliest only.")] = None,
    top_p: Annotated[float, typer.Option(min=1e-6, max=1.0, help="Sample within this mass only.")] = 1.0,
    beams: Annotated[int, typer.Option(min=1, help="Beams.")] = 1,
    seed: ui.Seed = 0,
    as_json: ui.Json = False,
) -> None:
    """Ask the model, with its heads and without."""
    from corollary.unlearning._model import ends_of
    from corollary.unlearning._opened import Opened

    _config(run)
    opened = Opened(run)
    model, tokenizer = opened.model(temperature=temperature, guidance=guidance), opened.base[1]
    prompt = [*([] if tokenizer.start is None else [tokenizer.start]), *tokenizer.prompt(question)]
    named = None if heads is None else [h.strip() for h in heads.split(",") if h.strip()]
    told = {}
    for name, on in (("with", named), ("without", [])):
        found = model.generate(
            [prompt],
            max_new_tokens=max_tokens,
            heads=on,
            end=ends_of(model.base, tokenizer.end),
            temperature=sampling,
            top_k=top_k,
            top_p=top_p,
            beams=beams,
            seed=seed,
        )
        told[name] = tokenizer.decode(found[0])
    if as_json:
        ui.emit({"question": question, "answer": told["with"], "base": told["without"]})
        return
    ui.say(told["with"])
    ui.say(f"(without the heads: {told['without']})")


def _config(run: Path) -> dict[str, Any]:
    path = run / "config.toml"
    if not path.is_file() or not (run / "setup.json").is_file():
        raise InvalidFileError(run, "no finished run of `corollary unlearn fit`", "fit one first")
    config = tomllib.loads(path.read_text("utf-8"))
    if config.get("verb") != "unlearn":
        raise InvalidFileError(run, f"a run of {config.get('verb')!r}", "give one of `corollary unlearn fit`")
    return config


def _finish(out: Path, result: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    from corollary.certificates import load_certificate
    from corollary.report import write_report

    page = write_report(out)
    if as_json:
        ui.emit({"run": str(out), **{k: v for k, v in result.items() if k not in ("examples", "sweep")}})
        return
    if quiet:
        return
    before, after = result["figures"]["before"], result["figures"]["after"]
    rows = [[name, f"{before[name]:.4f}", f"{after[name]:.4f}"] for name in before]
    quality = result["forget_quality"]
    if quality:
        rows.append(
            ["forget quality (p)", f"{result['forget_quality_before']['pvalue']:.3g}", f"{quality['pvalue']:.3g}"]
        )
    ui.table(f"T = {result['temperature']:g}, s = {result['guidance']:g}", ["", "base", "with the head"], rows)
    share = f" of {result['base_parameters']}" if result["base_parameters"] else ""
    took = result["training"]
    ui.say(
        f"{result['trained_parameters']} parameters trained{share}, {took['seconds']:.1f} s on states cached in "
        f"{took['caching']:.1f} s"
    )
    if not quality:
        ui.say("forget quality: UNDECIDED, no retrained reference was given (--reference)")
    if result.get("dropped"):
        ui.say(f"{result['dropped']} rows were left out: their question and answer came before in the same file")
    if result.get("wrong_answers_borrowed"):
        ui.say("no question has `perturbed_answer`: truth ratios compare with the answers of other questions")
    ui.say(str(load_certificate(out)[0]))
    ui.say(f"run {out}, report {page}")
