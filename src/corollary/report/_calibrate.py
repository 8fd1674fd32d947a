"""Sections of a calibrated stream (`corollary calibrate`): errors and bounds over time, Brier, reliability."""

from typing import Any

import numpy as np

from corollary.report._plots import Line, line_plot
from corollary.report._render import fixed, render
from corollary.report._run import Run
from corollary.report._sections import Section, register_section

VERBS = ("calibrate",)
COLUMNS = {
    "l1": "l1 error",
    "l2": "l2 error",
    "swap_regret": "swap regret",
    "external_regret": "external regret",
    "theorem": "theorem, l1",
    "theorem_spread": "theorem for this spread, l1",
    "trivial": "trivial bound, l1",
}


def over_time(run: Run) -> str | None:
    """The table after every power of two."""
    rows = run.metrics.get("checkpoints")
    if not rows:
        return None
    shown = [k for k in COLUMNS if k in rows[-1]]
    table = [(c["rounds"], [fixed(float(c[k]), 4) for k in shown]) for c in rows]
    return render("calibrate_time.html", m=run.metrics, columns=[COLUMNS[k] for k in shown], rows=table)


def figures(run: Run) -> str | None:
    """Errors and bounds against the logarithm of the rounds; the reliability diagram."""
    from markupsafe import Markup

    made = [curves(run.metrics["checkpoints"])] if len(run.metrics.get("checkpoints", ())) > 1 else []
    if "reliability" in run.metrics:
        made.append(diagram(run.metrics["reliability"]))
    return Markup('<div class="plots">{}</div>').format(Markup("\n").join(made)) if made else None


def curves(rows: list[dict[str, Any]]) -> str:
    """The l1 error a round with its bounds."""
    x = np.log2([float(c["rounds"]) for c in rows])
    kinds = {
        "l1": "measured",
        "theorem": "theorem",
        "theorem_spread": "theorem, this spread",
        "trivial": "trivial bound",
    }
    lines = [
        Line(name, x, np.array([float(c[k]) for c in rows]), i, i, 2.2 if i == 0 else 1.3)
        for i, (k, name) in enumerate(kinds.items())
        if k in rows[-1]
    ]
    return line_plot(
        "Calibration error as the stream runs",
        lines,
        x="rounds, as a power of two",
        y="l1 error a round",
        limits=(0.0, 1.05 * max(float(line.y.max()) for line in lines)),
        caption="On the rounds of equal forecasts, the distance of the mean outcome from the forecast, averaged.",
        summary=f"after {rows[-1]['rounds']} rounds {rows[-1]['l1']:.4f}, trivial bound {rows[-1]['trivial']:.4f}",
    )


def diagram(data: dict[str, dict[str, list[float]]]) -> str:
    """Mean outcome against mean forecast, over bins of all classes."""
    lines, worst = [], {}
    for i, (name, part) in enumerate(data.items()):
        p, y = (np.array(part[k], dtype=float) for k in ("forecast", "outcome"))
        lines.append(Line(name, p, y, i, i, 2.0))
        worst[name] = float(np.abs(p - y).max())
    ends = np.array([0.0, 1.0])
    lines.append(Line("perfectly calibrated", ends, ends, 9, 1, 1.0))
    told = ", ".join(f"{name} {gap:.3f}" for name, gap in worst.items())
    return line_plot(
        "Reliability",
        lines,
        x="mean forecast of the bin",
        y="mean outcome",
        limits=(0.0, 1.03),
        caption="All classes in bins of equal width; for a distribution over forecasts, their mean.",
        summary=f"largest gap of a bin: {told}",
    )


register_section(Section("Error and bounds over time", over_time, verbs=VERBS))
register_section(Section("Plots", figures, verbs=VERBS))
