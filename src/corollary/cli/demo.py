"""`corollary demo`: the main job on text that every Python installation holds."""

from pathlib import Path
from typing import Annotated

import typer

from corollary.cli import _console as ui
from corollary.cli._composition import as_splits, compose_and_report


def run(
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/demo"),
    seed: ui.Seed = 0,
    threads: ui.Threads = None,
    overwrite: ui.Overwrite = False,
    as_json: ui.Json = False,
    quiet: ui.Quiet = False,
) -> None:
    """Compose six experts on embedded text, certify the result, write a report. About a minute; no download.

    Six frozen byte models, each trained on one domain (code, prose, numpydoc, C, JSON, logs), are combined by a gate
    learned once,
    so that the whole is good on ANY mixture of the domains. The certificate says what is guaranteed, and `corollary
    verify` checks it again.
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

    compose_and_report(out, config, data, experts=None, seed=seed, overwrite=overwrite, as_json=as_json, quiet=quiet)


MIXED = {"splice": {"gate": 600, "certify": 400}, "natural": {"gate": 100, "certify": 300}}  # documents
