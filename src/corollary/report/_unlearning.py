"""Sections of `corollary unlearn`: forget quality against utility, the sweeps, and answers before and after."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from corollary.report._plots import Line, line_plot
from corollary.report._render import render
from corollary.report._run import Run
from corollary.report._sections import Section, register_section

VERBS = ("unlearn",)


def opening(run: Run) -> str | None:
    """What was done, and what a reader must know before any figure."""
    return render("unlearn_opening.html", m=run.metrics) if "figures" in run.metrics else None


def figures(run: Run) -> str | None:
    """Every metric before and after, with its interval."""
    return render("unlearn_figures.html", m=run.metrics) if "figures" in run.metrics else None


def sweeps(run: Run) -> str | None:
    """Temperature and guidance: what is forgotten against what is kept."""
    from markupsafe import Markup

    rows = run.metrics.get("sweep")
    if not rows:
        return None
    t0, s0 = run.metrics["temperature"], run.metrics["guidance"]
    plots = [
        _sweep("Temperature", "temperature T", [r for r in rows if r["guidance"] == s0], "temperature"),
        _sweep("Guidance", "guidance s", [r for r in rows if r["temperature"] == t0], "guidance"),
    ]
    known = [r for r in rows if "forget quality" in r]
    if known:
        plots += [_against(known, "retain probability"), _against(known, "retain hits")]
    return Markup('<div class="plots">{}</div>').format(Markup("").join(plots))


def _sweep(title: str, axis: str, rows: Sequence[dict[str, Any]], by: str) -> str:
    rows = sorted({r[by]: r for r in rows}.values(), key=lambda r: r[by])
    x = np.array([r[by] for r in rows])
    names = ["forget probability", "retain probability", "retain hits", "forget quality"]
    shown = [n for n in names if all(n in r for r in rows)]
    lines = [Line(n, x, np.array([r[n] for r in rows]), i, i, 1.8) for i, n in enumerate(shown)]
    return line_plot(
        title,
        lines,
        x=axis,
        y="probability or share",
        caption="Likeliest tokens of retained answers (hits) stay where probabilities fall: tempering flattens them.",
        summary=f"{len(rows)} settings",
        limits=(0.0, 1.0),
    )


def _against(rows: Sequence[dict[str, Any]], utility: str) -> str:
    rows = sorted(rows, key=lambda r: r[utility])
    x, y = (np.array([r[n] for r in rows]) for n in (utility, "forget quality"))
    return line_plot(
        f"Forget quality against utility ({utility})",
        [Line("settings of both sweeps", x, y, 0, 0, 1.8)],
        x=utility,
        y="forget quality (p-value)",
        caption="A high p-value alone is no success: blurring everything raises it, too. Tempering costs probability "
        "while the likeliest tokens (hits) stay; read both.",
        summary=f"{len(rows)} settings",
        limits=(0.0, 1.0),
    )


def answers(run: Run) -> str | None:
    """Questions with the greedy answers of the base and of the tilted model."""
    return render("unlearn_answers.html", m=run.metrics) if run.metrics.get("examples") else None


register_section(Section("What was forgotten", opening, verbs=VERBS, opening=True))
register_section(Section("Figures before and after", figures, verbs=VERBS))
register_section(Section("Sweeps", sweeps, verbs=VERBS))
register_section(Section("Answers before and after", answers, verbs=VERBS))
