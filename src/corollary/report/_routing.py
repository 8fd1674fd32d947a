"""Sections of a router (`corollary route`): cost and quality beside floors and ceilings, who gets what, calibration."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from corollary.report._plots import Line, line_plot
from corollary.report._render import render
from corollary.report._run import Run
from corollary.report._sections import Section, register_section

VERBS = ("route",)
MAIN, CEILING = "router", "oracle"
COLUMNS = {"aiq": "AIQ", "apgr": "APGR", "cpt20": "CPT 20 %", "cpt50": "CPT 50 %", "cpt80": "CPT 80 %"}


def against(run: Run) -> str | None:
    """The router beside its floors and ceilings, and every single model."""
    m = run.metrics
    if not m.get("routers"):
        return None
    names = sorted(m["routers"], key=lambda n: (n != MAIN, -(m["routers"][n].get("aiq") or 0.0)))
    shown = [c for c in COLUMNS if any(m["routers"][n].get(c) is not None for n in names)]
    rows = [
        {
            "name": n,
            "kind": {MAIN: "main", CEILING: "oracle"}.get(n, ""),
            "cells": [(m["routers"][n].get(c), m["routers"][n]["interval"].get(c)) for c in shown],
        }
        for n in names
    ]
    return render("route_against.html", m=m, rows=rows, columns=[COLUMNS[c] for c in shown])


def shares(run: Run) -> str | None:
    """Who gets what at the router's own price."""
    policy = run.metrics.get("policy")
    return render("route_shares.html", policy=policy, m=run.metrics) if policy and policy.get("share") else None


def figures(run: Run) -> str | None:
    """The cost-quality frontier, and the calibration of the estimated worths."""
    from markupsafe import Markup

    m = run.metrics
    made = [frontier(m) if m.get("routers") else None]
    made.append(calibration(m["calibration"]) if m.get("calibration") else None)
    inside = Markup("\n").join(x for x in made if x is not None)
    return Markup('<div class="plots">{}</div>').format(inside) if inside else None


def frontier(m: Mapping[str, Any]) -> str:
    """Mean quality against mean cost: what each router reaches over all its prices, the single models as crosses."""
    lines = []
    models = list(m["models"].values())
    width = max(v["cost"] for v in models) - min(v["cost"] for v in models) or 1.0
    height = max(v["quality"] for v in models) - min(v["quality"] for v in models) or 0.1
    if (policy := m.get("policy")) is not None:
        lines.append(_cross("this policy", policy["cost"], policy["quality"], 0.02 * width, 0.06 * height, 4))
    named = [n for n in (MAIN, *m["routers"]) if m["routers"].get(n, {}).get("frontier")]
    for i, name in enumerate(dict.fromkeys(named)):
        points = m["routers"][name]["frontier"]
        x, y = (np.array([float(p[k]) for p in points]) for k in ("cost", "quality"))
        top = max(float(x.max()), max(v["cost"] for v in models))
        colour = 9 if name == CEILING else i
        lines.append(Line(name, np.append(x, top), np.append(y, y[-1]), colour, i, 2.0 if name == MAIN else 1.2))
    order = sorted(models, key=lambda v: v["cost"])
    cost, quality = (np.array([float(v[k]) for v in order]) for k in ("cost", "quality"))
    lines.append(_cross("single models", cost, quality, 0.012 * width, 0.04 * height, 8))
    best = m["routers"].get(MAIN, {}).get("frontier") or [{"quality": float("nan")}]
    return line_plot(
        "Cost and quality",
        lines,
        x=f"mean cost per request ({m['unit']})",
        y="mean quality",
        caption="Each line: all prices of a router, and what mixing them reaches. On rows that trained nothing.",
        summary=f"the router reaches quality {best[-1]['quality']:.4f} at most",
    )


def calibration(data: Mapping[str, Any]) -> str:
    """What each model was held to be worth against what it was worth."""
    lines, worst = [], 0.0
    for i, (model, found) in enumerate(data.items()):
        x, y = (np.array(found[n], dtype=float) for n in ("worth", "quality"))
        worst = max(worst, float(np.abs(x - y).max()))
        lines.append(Line(model, x, y, i, i, 1.6))
    ends = np.array([0.0, 1.0])
    lines.append(Line("perfectly calibrated", ends, ends, 9, 1, 1.0))
    return line_plot(
        "Calibration",
        lines,
        x="estimated worth, mean of the bin",
        y="mean quality",
        caption="Ten bins of equal size a model. Routing needs the differences between models to be right.",
        summary=f"largest difference of a bin {worst:.3f}",
    )


def _cross(name: str, x: Any, y: Any, dx: float, dy: float, colour: int) -> Line:
    """A cross at each point; gaps of NaN keep them apart."""
    across, up = dx * np.array([-1, 1, np.nan, 0, 0, np.nan]), dy * np.array([0, 0, np.nan, -1, 1, np.nan])
    points = np.atleast_1d(x)[:, None] + across, np.atleast_1d(y)[:, None] + up
    return Line(name, points[0].ravel(), points[1].ravel(), colour, 0, 2.0)


register_section(Section("Against floors and ceilings", against, verbs=VERBS))
register_section(Section("Who gets what", shares, verbs=VERBS))
register_section(Section("Plots", figures, verbs=VERBS))
