"""`corollary demo`: the main job on text that every Python installation holds."""

from pathlib import Path
from typing import Annotated, Any

import typer

from corollary.cli import _console as ui
from corollary.cli._composition import as_splits, compose_and_report
from corollary.cli._routing_act import route_between, tell_routing


def run(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    seed: ui.Seed = 0,
    threads: ui.Threads = None,
    overwrite: ui.Overwrite = False,
    as_json: ui.Json = False,
    quiet: ui.Quiet = False,
) -> None:
    """Compose six experts on embedded text, certify the result, write a report; then route requests between them.

    Takes about a minute and downloads nothing. Six frozen byte models, each trained on one domain (code, prose,
    numpydoc, C, JSON, logs), are combined by a gate learned once, so that the whole is good on ANY mixture of the
    domains. A router then sends each request to the cheapest of these models that is worth it, under a budget.
    Certificates say what is guaranteed, and `corollary verify` checks them again.
    """
    from corollary.datasets import mixed_documents, text_domains

    ui.set_threads(threads)
    config = {"verb": "demo", "seed": seed}

    def data() -> tuple[dict, dict]:
        domains = text_domains(seed=seed)
        mixed = {
            kind: as_splits(
                {s: mixed_documents(domains, kind=kind, split=s, count=n, seed=seed) for s, n in sizes.items()}
            )
            for kind, sizes in MIXED.items()
        }
        return domains, mixed

    def second() -> dict[str, Any]:
        return {"routing": str(route_between(out, seed=seed, quiet=quiet or as_json))}

    compose_and_report(
        out, config, data, experts=None, seed=seed, overwrite=overwrite, as_json=as_json, quiet=quiet, then=second
    )
    if not (quiet or as_json):
        tell_routing(out / "routing")


MIXED = {"splice": {"gate": 600, "certify": 400}, "natural": {"gate": 100, "certify": 300}}  # documents
