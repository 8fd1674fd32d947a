"""Sections of a composed model (`corollary demo`, `corollary compose`): bits per byte, plots, whom the gate trusts."""

from typing import Any

from corollary.report._composition_plots import SHOWN, plots
from corollary.report._render import render
from corollary.report._run import Run
from corollary.report._sections import Section, register_section
from corollary.report._trust import trusted_bytes

VERBS = ("demo", "compose")
TOLD = {"composed": "composed model", "gate": "learned gate alone"}  # methods as the reader meets them


def experts_of(run: Run) -> list[str]:
    """Names of the experts: after the composed model and its gate in the order of the methods."""
    certificate = run.certificate
    parts = (certificate.parts or (certificate,)) if certificate else ()
    known = [int(p.witness["experts"]) for p in parts if "experts" in p.witness]
    count = known[0] if known else len(run.metrics["domains"])
    return list(run.metrics["bits_per_byte"])[2 : 2 + count]


def separable(run: Run) -> str | None:
    """Told first where the untrained posterior already finds the domain: then a learned gate may not be worth it."""
    told, table = run.metrics.get("separable"), run.metrics.get("bits_per_byte")
    if not told or not table or not (told["nearly"] or told["bayes_wins"]):
        return None
    bayes, composed, domains = table["Bayes posterior"], table["composed"], run.metrics["domains"]
    gap, changing = told["bayes_above_own_expert"], [g for g in run.metrics["groups"] if g not in domains]
    above = f"within {gap:.3f} bits per byte of" if gap >= 0 else "below"
    reason = f"The Bayes posterior, which needs no training, stays {above} each domain's own expert."
    gains = {g: bayes[g] - composed[g] for g in domains}
    if told["bayes_wins"]:
        lost = [g for g in domains if gains[g] <= 0]
        reason += f" On {_listed(lost)} it is at least as good as the composed model: use it there."
    else:
        reason += f" On whole documents of one domain the composed model gains {_span(list(gains.values()))} over it."
    if not changing:
        return render("separable.html", reason=reason, advice="Documents that change domain inside were not tried.")
    advice = f"On documents that change domain inside ({_listed(changing)}) the composed model "
    advice += f"gains {_span([bayes[g] - composed[g] for g in changing])} over the Bayes posterior."
    return render("separable.html", reason=reason, advice=advice)


def _span(gains: list[float]) -> str:
    low, high = f"{min(gains):.3f}", f"{max(gains):.3f}"
    return f"{low} bits per byte" if low == high else f"{low} to {high} bits per byte"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def bits(run: Run) -> str | None:
    """Methods by groups, worst domain, and mixtures; the best of each column marked."""
    m = run.metrics
    if "bits_per_byte" not in m:
        return None
    table, groups, experts = m["bits_per_byte"], list(m["groups"]), experts_of(run)
    random = m.get("random_mixtures", {})

    def cells(method: str) -> list[float | None]:
        drawn = random.get(method, {})
        rest = [m["worst_domain"].get(method), m["even_mixture"].get(method), drawn.get("mean"), drawn.get("worst")]
        return [*(table[method].get(g) for g in groups), *rest]

    methods = [name for name in SHOWN if name in table]
    methods += [name for name in table if name not in experts and name not in SHOWN]
    values = {name: cells(name) for name in methods}
    least = [min((v for v in column if v is not None), default=None) for column in zip(*values.values(), strict=True)]
    own = m["own_expert"]
    oracle = [*(own.get(g) for g in groups), max(own.values()), None, None, None]
    rows: list[dict[str, Any]] = [
        {
            "name": "own expert (needs the label)",
            "kind": "oracle",
            "cells": [{"value": v, "best": False} for v in oracle],
        }
    ]
    rows += [
        {
            "name": TOLD.get(name, name),
            "kind": "main" if name == "composed" else "",
            "cells": [
                {"value": v, "best": v is not None and best is not None and f"{v:.3f}" == f"{best:.3f}"}
                for v, best in zip(values[name], least, strict=True)
            ],
        }
        for name in methods
    ]
    added = ["worst domain", "even mixture", "random, mean", "random, worst"]
    columns = [{"name": n, "part": i in (len(m["domains"]), len(groups))} for i, n in enumerate([*groups, *added])]
    return render(
        "bits.html",
        groups=m["groups"],
        columns=columns,
        rows=rows,
        experts={name: [table[name].get(g) for g in groups] for name in experts},
        excess={TOLD.get(k, k): v for k, v in m.get("largest_excess_bits", {}).items()},
        limit=m.get("excess_limit_bits"),
    )


def trust(run: Run) -> str | None:
    """The mixed document as coloured text."""
    return trusted_bytes(run, experts_of(run), list(run.metrics["domains"])) if "bits_per_byte" in run.metrics else None


def mixture(run: Run) -> str | None:
    """The least favourable mixture as bars."""
    found = run.metrics.get("least_favourable_mixture")
    if not found:
        stored = run.arrays("stages/robust.safetensors", mixture=1)
        found = dict(zip(run.metrics.get("domains", []), stored["mixture"].tolist(), strict=True)) if stored else None
    return render("mixture.html", mixture=found) if found else None


def figures(run: Run) -> str | None:
    """The plots."""
    return plots(run, experts_of(run), TOLD) if "bits_per_byte" in run.metrics else None


register_section(Section("Before you use this", separable, verbs=VERBS, opening=True))
register_section(Section("Bits per byte", bits, verbs=VERBS))
register_section(Section("Plots", figures, verbs=VERBS))
register_section(Section("Which expert is trusted, byte by byte", trust, verbs=VERBS))
register_section(Section("Least favourable mixture", mixture, verbs=VERBS))
