"""Pictures of the losses and of their transforms T and Γ.

Run: python examples/in_depth/losses_pictures.py docs/pictures
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from corollary import losses
from corollary.losses.consistency import numeric_bound, plot_transforms


class Brier(losses.SurrogateLoss):
    """A loss of one's own: the squared distance of the softmax to the one-hot label."""

    bounded = proper = calibrated = True
    consistent_for = "zero-one"

    def at(self, z, y):  # noqa: D102
        s = torch.softmax(z, -1)
        return 1 + (s * s).sum(-1) - 2 * s.gather(1, y[:, None])[:, 0]


def curves() -> Figure:
    """Loss of the label against its score, two classes."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    f = torch.linspace(-4, 4, 200)
    z, y = torch.stack([f, torch.zeros_like(f)], 1), torch.zeros(200, dtype=torch.long)
    for tau in (0.0, 0.5, 1.0, 1.5, 2.0):
        left.plot(f, losses.comp_sum(z, y, tau=tau, reduction="none"), label=f"τ = {tau:g}")
    left.set(ylim=(0, 6), xlabel="score of the label minus the other", ylabel="comp-sum loss")
    left.legend(frameon=False)
    options = {"prior": [0.9, 0.1], "reduction": "none"}
    rare = torch.ones(200, dtype=torch.long)
    swapped = z.flip(1)
    for name, loss in {
        "cross-entropy": losses.comp_sum(swapped, rare, reduction="none"),
        "logit adjustment": losses.gla(swapped, rare, **options),
        "GLA, q = 0.3": losses.gla(swapped, rare, q=0.3, **options),
        "GCA": losses.gca(swapped, rare, **options),
        "focal": losses.focal(swapped, rare, reduction="none"),
    }.items():
        right.plot(f, loss, label=name)
    right.set(ylim=(0, 8), xlabel="score of the rare class (prior 0.1) minus the other", ylabel="loss")
    right.legend(frameon=False)
    return figure


def transforms() -> Figure:
    """T and Γ of the family at ten classes, and of a loss of one's own."""
    bounds = {f"τ = {tau:g}": losses.CompSumLoss(tau=tau).consistency_bound(classes=10) for tau in (0, 0.5, 1, 1.5, 2)}
    bounds["Brier (estimated)"] = numeric_bound(Brier(reduction="none"), classes=3, points=9, draws=8, steps=80)
    return plot_transforms(bounds)


def growth() -> Figure:
    """Zero-one regret against surrogate regret: slope one half, but for τ = 2."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes = figure.subplots()
    t = np.geomspace(1e-3, 1, 60)
    for tau in (0.0, 1.0, 1.5, 2.0):
        axes.loglog(losses.CompSumLoss(tau=tau).consistency_bound(classes=10).surrogate(t), t, label=f"τ = {tau:g}")
    axes.set(xlabel="surrogate regret", ylabel="largest zero-one regret")
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in {"losses": curves, "transforms": transforms, "growth": growth}.items():
        draw().savefig(folder / f"losses-{name}.svg")
        print(folder / f"losses-{name}.svg")
