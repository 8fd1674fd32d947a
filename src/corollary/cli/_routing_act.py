r"""The demo's second act: requests routed between the models that the first act made, the cheap and the dear.

A request is the beginning of a held-out document. The worth of a model on it is \(2^{-b}\), b its bits per byte on the
document: the geometric mean of the probability that it gives to what comes next, between 0 and 1. The cost is the
number of models run per byte: one for an expert, all of them and the gate for the composed model.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from corollary.cli import _console as ui
from corollary.documents import Documents
from corollary.runs import RunFolder, read_json, read_tensors, write_atomically

PREFIX = 160  # bytes of a document that a request shows
BUDGET = 3.0  # models run per byte, of the eight that the composed one takes
LOG = "requests.jsonl"


def write_log(run: Path) -> Path:
    """The log of requests of a finished composition, as `corollary route fit` reads it."""
    metrics = read_json(run / "metrics.json")
    methods, experts = list(metrics["bits_per_byte"]), list(metrics["own_expert"])
    stored = read_tensors(run / "data" / "certify.safetensors")
    scored = read_tensors(run / "stages" / "evaluation.safetensors")
    documents = Documents(stored["tokens"], stored["offsets"])
    models = [*experts, "composed"]
    columns = [methods.index(m) for m in models]
    worth = 2.0 ** -(scored["bits"][:, columns] / scored["size"][:, None])
    cost = [1] * len(experts) + [len(experts) + 2]  # the experts, the pooled anchor and the gate
    lines = []
    for row, (begin, end) in zip(worth, zip(documents.offsets, documents.offsets[1:], strict=False), strict=True):
        text = documents.tokens[begin : min(begin + PREFIX, end)].tobytes().decode("utf-8", "replace")
        request: dict[str, Any] = {"prompt": text}
        for model, value, price in zip(models, row, cost, strict=True):
            request |= {model: round(float(value), 5), f"{model}_cost": price}
        lines.append(json.dumps(request, ensure_ascii=False))
    path = run / LOG
    write_atomically(path, "\n".join(lines) + "\n")
    return path


def route_between(run: Path, *, seed: int, quiet: bool) -> Path:
    """Fit, certify and report a router between the models of `run`, in its folder `routing`; a finished one stays."""
    from corollary.deferral.routing import read_log
    from corollary.deferral.routing._fit import fit_run
    from corollary.errors import MissingExtraError
    from corollary.report import write_report

    out = run / "routing"
    log = run / LOG if (run / LOG).exists() else write_log(run)
    config = {"verb": "route", "log": LOG, "budget": BUDGET, "seed": seed}
    with RunFolder(out, config) as folder, ui.progress(quiet=quiet) as tell:
        if not (out / "metrics.json").exists():
            fit_run(folder, read_log(log), budget=BUDGET, repeats=20, seed=seed, tell=tell)
    if not (out / "report.html").exists():
        with contextlib.suppress(MissingExtraError):  # the first act has said so
            write_report(out)
    return out


def tell_routing(out: Path) -> None:
    """What the router does and what is certified of it."""
    from corollary.certificates import load_certificate

    metrics = read_json(out / "metrics.json")
    certificate, _ = load_certificate(out)
    policy, single = metrics["policy"], metrics["models"]
    rows = [[m, f"{v['cost']:.1f}", f"{v['quality']:.4f}", f"{policy['share'][m]:.0%}"] for m, v in single.items()]
    rows.append(["router", f"{policy['cost']:.2f}", f"{policy['quality']:.4f}", ""])
    ui.say()
    ui.say("Second act: each request goes to the model that is worth its cost, on the first bytes of its text alone.")
    ui.say()
    columns = ["", "models run per byte", "worth", "gets"]
    ui.table(f"on {metrics['prompts']} requests kept aside", columns, rows)
    ui.say("worth: geometric mean of the probability of each next byte")
    ui.say()
    ui.say(str(certificate))
    ui.say()
    ui.say("next:")
    ui.say(f"  corollary verify {out}")
    ui.say(f'  corollary route explain "import os" --router {out}    where a request goes, and why')
