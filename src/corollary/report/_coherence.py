"""Sections of coherent predictions (`corollary cohere`): the gain, who moved most, and by which transformation."""

import numpy as np

from corollary.report._plots import Line, line_plot
from corollary.report._render import render
from corollary.report._run import Run
from corollary.report._sections import Section, register_section

VERBS = ("cohere",)


def opening(run: Run) -> str | None:
    """What the guarantee is about, said first."""
    return render("cohere_opening.html", m=run.metrics) if "predicted_gain" in run.metrics else None


def moved(run: Run) -> str | None:
    """The inputs whose views agreed least, and how far each transformation stood from the common answer."""
    return render("cohere_moved.html", m=run.metrics) if run.metrics.get("moved") else None


def spread(run: Run) -> str | None:
    """Quantiles of the gain over the inputs: coherence before; afterwards it is zero for all."""
    from markupsafe import Markup

    values = run.metrics.get("incoherence")
    if not values:
        return None
    share = np.linspace(0, 1, len(values))
    plot = line_plot(
        "Incoherence of the inputs",
        [
            Line("before", share, np.array(values, dtype=float), 0, 0, 2.0),
            Line("after", share, np.zeros(len(values)), 9, 1, 1.2),
        ],
        x="share of the inputs",
        y="gain in nats" if run.metrics["divergence"] == "kl" else "gain in Brier score",
        caption="How much the views of an input disagreed: the drop that the projection brings on it.",
        summary=f"median {values[len(values) // 2]:.4f}, largest {values[-1]:.4f}",
    )
    return Markup('<div class="plots">{}</div>').format(plot)


register_section(Section("What this is about", opening, verbs=VERBS, opening=True))
register_section(Section("Plots", spread, verbs=VERBS))
register_section(Section("Who moved most", moved, verbs=VERBS))
