"""`corollary compose`: your experts and your text, one model that is good on any mixture of the domains."""

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from corollary.cli import _console as ui
from corollary.cli._composition import as_splits, compose_and_report
from corollary.cli._mixture import parse_constraints
from corollary.documents import Documents
from corollary.errors import InvalidInputError


def run(
    data: Annotated[
        list[str], typer.Option("--data", help="NAME=PATH of a domain's text: .jsonl, .txt, .json or a folder.")
    ],
    expert: Annotated[
        list[str] | None,
        typer.Option(
            "--expert",
            help="NAME=PATH of a saved model, or of a Hugging Face folder; one for every domain, more are welcome.",
        ),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train a byte n-gram expert for each domain without one.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/composed"),
    field: Annotated[str | None, typer.Option(help="Field of .jsonl records that holds the text.")] = None,
    mixture: Annotated[
        list[str] | None,
        typer.Option("--mixture", help="What is known of the mixture, e.g. 'code>=0.2'. May be repeated."),
    ] = None,
    order: Annotated[int, typer.Option(min=1, max=7, help="Longest n-gram of experts trained here.")] = 6,
    eps: Annotated[float, typer.Option(min=0.0, max=0.5, help="Mass of the safe part on the experts.")] = 0.05,
    delta: Annotated[
        float, typer.Option(min=1e-6, max=0.5, help="Probability that a statistical statement fails.")
    ] = 0.05,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of the causal gate.")] = 800,
    longest: Annotated[
        int, typer.Option(min=50, help="Bytes at which certification documents are cut, each still counting as one.")
    ] = 2000,
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against", help="Baseline that the certified gain is over: 'fixed share', 'pooled'; may be repeated."
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Experts used per token; voids the every-document bound.")
    ] = None,
    seed: ui.Seed = 0,
    threads: ui.Threads = None,
    device: ui.Device = "cpu",
    overwrite: ui.Overwrite = False,
    as_json: ui.Json = False,
    quiet: ui.Quiet = False,
) -> None:
    """Combine frozen experts by a learned causal gate; certify; report. An interrupted run goes on when repeated."""
    paths, models = ui.named_paths(data, "--data"), ui.named_paths(expert or [], "--expert")
    lacking = [n for n in paths if n not in models]
    if lacking and not train:
        raise typer.BadParameter(
            f"domain {lacking[0]!r} has no expert; give --expert {lacking[0]}=PATH, or --train to make n-gram experts"
        )
    for name in against or []:
        if name not in ("fixed share", "pooled"):
            raise typer.BadParameter(f"--against knows 'fixed share' and 'pooled', got {name!r}")
    constraints = parse_constraints(mixture or [], list(paths))
    ui.set_threads(threads)
    config = {
        "verb": "compose",
        "seed": seed,
        "order": order,
        "eps": eps,
        "delta": delta,
        "steps": steps,
        "device": device,
        "longest": longest,
        "top": top,
        "field": field,
        "mixture": mixture,
        "against": against,
        "data": {n: str(Path(p).resolve()) for n, p in paths.items()},
        "experts": {n: str(Path(p).resolve()) for n, p in models.items()},
    }

    def read() -> tuple[dict[str, Any], dict[str, Any]]:
        return read_domains(paths, trained=set(lacking), field=field, seed=seed)

    compose_and_report(
        out,
        config,
        read,
        experts=models,
        seed=seed,
        overwrite=overwrite,
        as_json=as_json,
        quiet=quiet,
        options={
            "order": order,
            "eps": eps,
            "delta": delta,
            "steps": steps,
            "device": ui.check_device(device),
            "longest": longest,
            "top": top,
            "mixture": constraints,
            **({"against": tuple(against)} if against else {}),
        },
    )


# Shares of a user's documents for expert (where it is trained here), gate, validation and certificate.
TRAINED = (0.6, 0.12, 0.03, 0.25)
GIVEN = (0.3, 0.1, 0.6)
SPLICES = {"gate": 400, "certify": 300}


def _check_enough(name: str, count: int, needed: dict[str, Documents]) -> None:
    """Each part of a domain must have a document; which one it falls to is drawn, so that a few are not enough."""
    from corollary.certificates import MIN_UNITS

    if empty := [part for part, documents in needed.items() if not len(documents)]:
        share = TRAINED[-1] if "train" in needed else GIVEN[-1]
        raise InvalidInputError(
            f"domain {name!r} has {count} documents, too few to leave any for `{empty[0]}`; give it 30 or more, and"
            f" about {math.ceil(MIN_UNITS / share)} for a certified gain"
        )


def read_domains(
    paths: dict[str, str], *, trained: set[str], field: str | None, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read and split users' own text; documents that change domain are spliced from it."""
    from corollary.datasets import Domain, mixed_documents, read_documents, split_documents

    domains = {}
    for name, path in paths.items():
        documents = read_documents(path, text_field=field)
        fractions = TRAINED if name in trained else GIVEN
        splits: tuple[Documents, ...] = split_documents(documents, fractions=fractions, seed=seed)
        if name not in trained:
            splits = (documents.select([]), *splits)
        train, gate, validation, certify = splits
        _check_enough(
            name, len(documents), {"gate": gate, "certify": certify, **({"train": train} if name in trained else {})}
        )
        domains[name] = Domain(name, train, gate, validation, certify, {"origin": path})
    if len(domains) < 2:
        return domains, {}
    splices = {s: mixed_documents(domains, kind="splice", split=s, count=n, seed=seed) for s, n in SPLICES.items()}
    return domains, {"splice": as_splits(splices)}
