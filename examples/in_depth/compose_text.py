"""Compose three byte models into one that is good on any mixture of their domains: every stage by hand, in small.

`corollary demo` does the same at full size, and keeps a run folder that `corollary verify --rescore` checks again.
"""

import tempfile
from pathlib import Path

from corollary.datasets import mixed_documents, text_domains
from corollary.gating import Settings, compose, issue, metrics, train_experts
from corollary.runs import RunFolder

NAMES = ("code", "json", "logs")


def main() -> None:
    domains = text_domains(names=NAMES, documents=300, seed=0)
    mixed = {
        "splice": {
            split: mixed_documents(domains, kind="splice", split=split, count=100, seed=0).documents
            for split in ("gate", "certify")
        }
    }
    settings = Settings(order=5, steps=150, robust_steps=50)
    with tempfile.TemporaryDirectory() as folder, RunFolder(Path(folder) / "run", {"verb": "example"}) as run:
        experts, pooled = train_experts(run, domains, order=settings.order)
        composition = compose(run, domains, experts, pooled=pooled, mixed=mixed, settings=settings)
        certificate = issue(run, composition, settings, {"example": "compose_text"})
        table = metrics(composition, certificate, seed=settings.seed)["bits_per_byte"]

    print(f"{'bits per byte':<24}" + "".join(f"{group:>8}" for group in (*NAMES, "splice")))
    for method in ("composed", "fixed share", "Bayes posterior", "pooled", "uniform"):
        print(f"{method:<24}" + "".join(f"{table[method][group]:8.3f}" for group in (*NAMES, "splice")))
    print()
    print(certificate)


if __name__ == "__main__":
    main()
