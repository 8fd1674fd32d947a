"""Sections of a fitted classifier (`corollary fit`): against its peers, precision and recall, calibration, errors."""

from typing import Any

import numpy as np

from corollary.report._plots import Line, line_plot
from corollary.report._render import render
from corollary.report._run import Run
from corollary.report._sections import Section, register_section

VERBS = ("fit",)
LEVELS = (0.2, 0.4, 0.6, 0.8)  # values of the metric that get a line in the plane


def against_peers(run: Run) -> str | None:
    """The metric on held-out rows, of METRO and of every peer; the certified bound below it."""
    m = run.metrics
    if "value" not in m:
        return None
    rows = [{"name": "METRO", "value": m["value"], "kind": "main"}]
    rows += [{"name": name, "value": value, "kind": ""} for name, value in m.get("peers", {}).items()]
    return render("fit_peers.html", m=m, rows=rows)


def errors(run: Run) -> str | None:
    """The confusion matrix, and each class's error with its interval."""
    report = run.metrics.get("report")
    return render("fit_errors.html", report=report) if report else None


def figures(run: Run) -> str | None:
    """The precision-recall plane with lines of equal metric and the chosen point; the calibration curve."""
    from markupsafe import Markup

    report = run.metrics.get("report") or {}
    made = [plane(report["plane"]) if "plane" in report else None]
    made.append(calibration(report["calibration"]) if "calibration" in report else None)
    inside = Markup("\n").join(m for m in made if m is not None)
    return Markup('<div class="plots">{}</div>').format(inside) if inside else None


def plane(data: dict[str, Any]) -> str:
    """Precision against recall along all thresholds, with lines of equal metric through the plane."""
    from corollary.metrics import iso_line, metric_from_plain

    metric, pi = metric_from_plain(data["metric"]), float(data["prevalence"])
    recall, precision = (np.array(data[n], dtype=float) for n in ("recall", "precision"))
    chosen = data["chosen"]
    x, y = (np.array([float(chosen[n])]) for n in ("recall", "precision"))
    cross = 0.012
    lines = [
        Line(
            "chosen point",
            x + cross * np.array([-1, 1, 0, 0, 0]),
            y + 2 * cross * np.array([0, 0, 0, -1, 1]),
            4,
            0,
            2.4,
        ),
        Line("all thresholds of this model", recall, precision, 0, 0, 1.8),
    ]
    grid = np.linspace(0.005, 1.0, 200)
    for i, level in enumerate(LEVELS):
        curve = iso_line(metric, level, grid, pi)
        if np.isfinite(curve).any():
            lines.append(Line(f"{metric.name} = {level:g}", grid, curve, 9, i + 1, 1.0, alpha=0.8))
    return line_plot(
        "Precision and recall",
        lines,
        x="recall",
        y="precision",
        limits=(0.0, 1.03),
        caption=f"On the held-out rows, {pi:.1%} of them positive. Along a thin line the {metric.name} stays the same.",
        summary=f"chosen point: recall {float(x[0]):.3f}, precision {float(y[0]):.3f}",
    )


def calibration(data: dict[str, Any]) -> str:
    """Share of positives against the mean probability, in ten bins of equal size."""
    p, share = (np.array(data[n], dtype=float) for n in ("probability", "share"))
    top = max(float(p.max()), float(share.max()), 0.05)
    return line_plot(
        "Calibration",
        [
            Line("this model", p, share, 0, 0, 2.0),
            Line("perfectly calibrated", np.array([0.0, top]), np.array([0.0, top]), 9, 1, 1.0),
        ],
        x="mean probability of the bin",
        y="share of positives",
        caption="Probabilities after the logit shift that takes the costs out again; bins of equal size.",
        summary=f"largest difference of a bin {float(np.abs(p - share).max()):.3f}",
    )


register_section(Section("Against its peers", against_peers, verbs=VERBS))
register_section(Section("Plots", figures, verbs=VERBS))
register_section(Section("Errors", errors, verbs=VERBS))
