"""The part that `demo` and `compose` share: run the stages, certify, tell."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from corollary.cli import _console as ui
from corollary.documents import Documents
from corollary.errors import InvalidInputError, MissingExtraError
from corollary.runs import RunFolder, read_json, write_json


def as_splits(mixed: dict[str, Any]) -> dict[str, Any]:
    """Mixed documents of each split, with the labels of those that are held out."""
    return {**{split: m.documents for split, m in mixed.items()}, "labels": mixed["certify"].label}


Data = Callable[[], tuple[dict[str, Any], dict[str, Any]]]
SHOWN = (
    "composed",
    "fixed share, many rates",
    "fixed share",
    "Bayes posterior",
    "pooled",
    "pooled, equal size",
    "static, robust",
    "uniform",
)


def compose_and_report(
    out: Path,
    config: dict[str, Any],
    data: Data,
    *,
    experts: dict[str, str] | None,
    seed: int,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    options: dict[str, Any] | None = None,
    then: Callable[[], dict[str, Any]] | None = None,
) -> None:
    """Compose in the folder `out`, do what comes `then`, and print the outcome; a finished run is only told again."""
    from corollary.certificates import load_certificate

    with RunFolder(out, config, overwrite=overwrite) as run, ui.progress(quiet=quiet or as_json) as tell:
        if not (run.path / "metrics.json").exists():
            _compute(run, data, experts or {}, {"seed": seed, **(options or {})}, tell)
        told = "" if (run.path / "report.html").exists() else _report(run, tell)
        certificate, _ = load_certificate(run.path)
        metrics = read_json(run.path / "metrics.json")
    more = then() if then is not None else {}
    if as_json:
        ui.emit({"run": str(out), "metrics": metrics, "certificate": str(out / "certificate.json"), **more})
    elif not quiet:
        tell_outcome(out, metrics, str(certificate))
        if told:
            ui.say(f"no report was written: {told}")


def _compute(run: RunFolder, data: Data, experts: dict[str, str], options: dict[str, Any], tell: Any) -> None:
    from corollary.gating import Settings, compose, issue, metrics, train_experts

    settings = Settings(**options)
    tell("reading text", 0.0)
    domains, mixed = data()
    given = {n: open_model(Path(path)) for n, path in experts.items()}
    lacking = {n: d for n, d in domains.items() if n not in experts}
    domains, mixed = in_tokens(domains, mixed, given, trained=list(lacking), longest=settings.longest)
    tell("training experts", 0.0)
    own, pooled = train_experts(run, lacking, order=settings.order, pooled=len(lacking) == len(domains))
    models = {n: (own | given)[n] for n in [*domains, *(n for n in experts if n not in domains)]}
    composition = compose(run, domains, models, pooled=pooled, mixed=mixed, settings=settings, progress=tell)
    tell("certifying", 0.0)
    certificate = issue(run, composition, settings, provenance())
    write_json(run.inside("metrics.json"), metrics(composition, certificate, seed=settings.seed))


def open_model(folder: Path) -> Any:
    """A model that `save` of this library wrote, or the plain folder of a causal model of Hugging Face."""
    from corollary.models import load

    if (folder / "config.json").is_file() and not (folder / "model.json").exists():
        from corollary.integrations import HFExpert

        return HFExpert(folder, options={"local_files_only": True})
    return load(folder)


def in_tokens(
    domains: dict[str, Any], mixed: dict[str, Any], experts: dict[str, Any], *, trained: list[str], longest: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Texts as the given experts read them: bytes, or ids where they have a tokenizer.

    Certification documents are cut at `longest` bytes before: their size in bytes must be bounded beforehand.
    """
    from corollary.datasets import Domain
    from corollary.models._speakers import check_vocabularies, speaker_of

    if experts:
        check_vocabularies(experts)
    speaker = next((s for s in map(speaker_of, experts.values()) if s is not None), None)
    if speaker is None:
        return domains, mixed
    if trained:
        raise InvalidInputError(
            f"the given experts have a tokenizer, the one trained for `{trained[0]}` would read bytes; give an expert"
            " with that tokenizer for each domain"
        )

    def encoded(documents: Documents, length: int | None = None) -> Documents:
        held = documents if length is None else documents.truncate(length)
        return speaker.documents([text.decode("utf-8", "ignore") for text in held])

    found = {}
    for n, d in domains.items():
        train, gate, validation = map(encoded, (d.train, d.gate, d.validation))
        found[n] = Domain(n, train, gate, validation, encoded(d.certify, longest), d.provenance)
    held = {
        kind: {"gate": encoded(splits["gate"]), "certify": encoded(splits["certify"], longest)}  # labels are of bytes
        for kind, splits in mixed.items()
    }
    return found, held


def _report(run: RunFolder, tell: Any) -> str:
    """Write the page; without its extra, the sentence that says what is missing."""
    from corollary.report import write_report

    tell("writing the report", 0.0)
    try:
        write_report(run.path)
    except MissingExtraError as problem:
        return str(problem)
    return ""


def provenance() -> dict[str, str]:
    """Versions, for the reader of a certificate."""
    import platform
    from importlib.metadata import version

    import corollary

    return {
        "corollary": corollary.__version__,
        "python": platform.python_version(),
        **{p: version(p) for p in ("numpy", "torch")},
    }


def tell_outcome(out: Path, metrics: dict[str, Any], certificate: str) -> None:
    """Tables, the certificate, and what to type next."""
    groups, table = list(metrics["groups"]), metrics["bits_per_byte"]
    if metrics["separable"]["nearly"]:
        gap = metrics["separable"]["bayes_above_own_expert"]
        ui.say(
            f"These domains are nearly separable: the untrained Bayes posterior stays within {gap:.3f} bits per byte "
            "of each domain's own expert."
        )
        ui.say()
    rows = [
        [
            "own expert (needs the label)",
            *(f"{metrics['own_expert'].get(g, float('nan')):.3f}" for g in groups),
            f"{max(metrics['own_expert'].values()):.3f}",
        ]
    ]
    rows[0] = [cell.replace("nan", "-") for cell in rows[0]]
    for method in SHOWN:
        if method in table:
            rows.append(
                [method, *(f"{table[method][g]:.3f}" for g in groups), f"{metrics['worst_domain'][method]:.3f}"]
            )
    ui.table("bits per byte on held-out documents (lower is better)", ["", *groups, "worst domain"], rows)
    ui.say()
    ui.say(certificate)
    ui.say()
    ui.say("next:")
    ui.say(f"  corollary verify {out} --rescore      check the certificate from the models and documents")
    ui.say(f'  corollary generate {out} "import "    continue a prompt')
    ui.say(f"  {out / 'report.html'}                 tables, plots, and whom the gate trusts byte by byte")
