"""Benchmark of `corollary.gating`: composition of embedded text against its peers; the exact solver on finite worlds.

A text cell runs the demo's pipeline for one seed and returns bits per byte of every method on every held-out set. The
other kinds lie beside this file: transformer experts on four domains, and the studies around them.
"""

import json
import resource
import tempfile
import time
from pathlib import Path

from . import million, speed, studies, transformers, weights, worlds

PARTS = (worlds, million, studies, weights, speed, transformers)  # CELLS, QUICK, MORE, run(cell), table(records)
QUICK = [
    {"data": "text", "seed": 0},
    {"data": "finite", "seed": 0, "n": 100, "p": 4},
    *(c for part in PARTS for c in part.QUICK),
]
DEFAULT = [
    *({"data": "text", "seed": seed} for seed in range(3)),
    *({"data": "finite", "seed": s, "n": n, "p": p} for n, p in ((30, 3), (100, 4), (500, 10)) for s in range(3)),
    *(c for part in PARTS for c in part.CELLS),
]
FULL = [
    *({"data": "text", "seed": seed} for seed in range(10)),
    *({"data": "finite", "seed": s, "n": n, "p": p} for n, p in ((30, 3), (100, 4), (500, 10)) for s in range(20)),
    *(c for part in PARTS for c in (*part.CELLS, *part.MORE)),
]


def run_cell(cell):
    """One cell of the grid, as plain values."""
    for part in PARTS:
        if cell in (*part.QUICK, *part.CELLS, *part.MORE):
            return part.run(cell)
    return {"text": text_cell, "finite": finite_cell}[cell["data"]](cell)


def text_cell(cell):
    """The demo for one seed, through the command itself."""
    import subprocess
    import sys

    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "corollary",
            "demo",
            "--out",
            f"{folder}/run",
            "--seed",
            str(cell["seed"]),
            "--quiet",
        ]
        begun = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - begun
        metrics = json.loads(Path(folder, "run", "metrics.json").read_text())
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    kept = (
        "bits_per_byte",
        "worst_domain",
        "own_expert",
        "even_mixture",
        "random_mixtures",
        "largest_excess_bits",
        "claims",
    )
    return {**{k: metrics[k] for k in kept}, "wall_seconds": round(seconds, 1), "memory_gib": round(memory, 2)}


def finite_cell(cell):
    """A Dirichlet world: worst-domain KL of every gate, the exact value with its gap, and the bound of Theorem 3."""
    import numpy as np
    from scipy.special import rel_entr

    from corollary import gating
    from corollary.datasets import dirichlet_world

    world = dirichlet_world(p=cell["p"], n=cell["n"], seed=cell["seed"])
    p_k, q_k = world.domains, world.experts

    def worst(pi):
        return float(rel_entr(p_k, pi).sum(1).max())

    begun = time.perf_counter()
    exact = gating.robust_gate(p_k, q_k)
    seconds = time.perf_counter() - begun
    even = np.full(cell["p"], 1 / cell["p"])
    sigma = gating.sigma_gate(p_k, q_k)
    static = gating.best_static_gate(p_k, q_k)
    bound = gating.theorem3_bound(p_k, q_k, np.eye(cell["p"]), least_favourable=exact.mixture)
    return {
        "uniform": worst(even @ q_k),
        "sigma": worst(sigma.weights @ q_k),
        "best static": worst(static.weights @ q_k),
        "robust, exact": exact.upper,
        "gap": exact.upper - exact.lower,
        "theorem 3": float(np.max(bound.value)),
        "log sum e^eps": float(gating.sigma_bound(gating.expert_errors(p_k, q_k))),
        "solver_seconds": round(seconds, 3),
    }


METHODS = (
    "composed",
    "gate",
    "fixed share, many rates",
    "fixed share",
    "Bayes posterior",
    "pooled",
    "pooled, equal size",
    "static, robust",
    "uniform",
)


def table(records):
    """Markdown: bits per byte, mean and spread over seeds; then the finite worlds."""
    import numpy as np

    text = [r["result"] for r in records if r["cell"]["data"] == "text"]
    lines = []
    if text:
        groups = list(text[0]["bits_per_byte"]["composed"])
        lines += [
            f"| bits per byte, {len(text)} seeds | {' | '.join(groups)} | worst domain |",
            "|---" * (len(groups) + 2) + "|",
        ]
        own = [[*(r["own_expert"].get(g, np.nan) for g in groups), max(r["own_expert"].values())] for r in text]
        shown = ["–" if np.isnan(m) else f"{m:.3f}" for m in np.mean(own, axis=0)]
        lines.append(f"| *own expert (needs the label)* | {' | '.join(shown)} |")
        for method in METHODS:
            values = np.array(
                [[*(r["bits_per_byte"][method][g] for g in groups), r["worst_domain"][method]] for r in text]
            )
            cells = [f"{m:.3f}" for m in values.mean(0)]
            cells[-1] += f" ± {values[:, -1].std():.3f}"
            lines.append(f"| {method} | {' | '.join(cells)} |")
    finite = [r for r in records if r["cell"]["data"] == "finite"]
    if finite:
        columns = ("uniform", "sigma", "best static", "robust, exact", "gap", "theorem 3", "log sum e^eps")
        lines += ["", f"| worst-domain KL, nats | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for n, p in sorted({(r["cell"]["n"], r["cell"]["p"]) for r in finite}):
            here = [r["result"] for r in finite if (r["cell"]["n"], r["cell"]["p"]) == (n, p)]
            means = [np.mean([r[c] for r in here]) for c in columns]
            shown = [f"{m:.1g}" if c == "gap" else f"{m:.4f}" for c, m in zip(columns, means, strict=True)]
            lines.append(f"| n = {n}, p = {p} | {' | '.join(shown)} |")
    for part in PARTS:
        here = [r for r in records if r["cell"] in (*part.QUICK, *part.CELLS, *part.MORE)]
        lines += ["", part.table(here)] if here else []
    return "\n".join(lines)
