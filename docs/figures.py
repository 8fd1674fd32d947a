"""Draw the measured figures from benchmarks/results into docs/pictures; the tables beside them are `docs/tables.py`'s.

Run: python docs/figures.py [--check]. A figure whose cells have not been run is left out. Each carries the hash of the
cells it was drawn from; with --check nothing is drawn, and a figure of other cells than those stored is an error.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
COLOURS = {
    "leon": "C0", "leon-nesterov": "C6", "pion-1": "C9", "pion-8": "C2", "pion-32": "C4", "muon": "C1",
    "torch-muon": "C3", "soap": "C5", "one-sided-shampoo": "C7", "adamw": "black",
}  # fmt: skip
RIPPLES = {"muon": "Muon", "leon eta=1": "Leon", "pion k=1": "Pion, k = 1", "pion k=8": "Pion, k = 8",
           "pion k=32": "Pion, k = 32"}  # fmt: skip


def results(theme: str, kind: str | None = None) -> list[dict[str, Any]]:
    """Cells of a theme with their results; those whose `data` is `kind`."""
    cells = json.loads((ROOT / "benchmarks" / "results" / f"{theme}.json").read_text("utf-8"))["cells"]
    return [c for c in cells if kind is None or c["cell"]["data"] == kind]


def ripples() -> Figure | None:
    """Loss against steps at the paper's three rates: mean and range over the seeds."""
    found = [r["result"] for r in results("optim", "ripples")]
    if not found:
        return None
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, rate in zip(figure.subplots(1, 3, sharey=True), ("0.005", "0.01", "0.05"), strict=True):
        for i, (key, name) in enumerate(RIPPLES.items()):
            curves = np.array([r[f"curve {rate} {key}"] for r in found])
            steps = 5 * np.arange(curves.shape[1])
            axes.plot(steps, curves.mean(0), label=name, color=f"C{i}", lw=1.2)
            axes.fill_between(steps, curves.min(0), curves.max(0), color=f"C{i}", alpha=0.15, lw=0)
        axes.axhline(0.5, color="grey", lw=0.8, ls=":")
        axes.set(title=f"rate {rate}", xlabel="step", ylim=(0, 20))
    figure.axes[0].set_ylabel(f"loss, {len(found)} seeds")
    figure.axes[0].legend(frameon=False, fontsize="small")
    return figure


def trained() -> list[dict[str, Any]]:
    """Cells in which a network was trained."""
    return [c for c in results("optim") if "optimizer" in c["cell"]]


def networks() -> Iterator[tuple[str, dict[str, list[dict[str, Any]]]]]:
    """Each network that has cells: its name, and the results of each optimizer, one a seed."""
    cells = trained()
    for data in dict.fromkeys(c["cell"]["data"] for c in cells):
        here = [c for c in cells if c["cell"]["data"] == data]
        names = [n for n in COLOURS if any(c["cell"]["optimizer"] == n for c in here)]
        yield data, {n: [c["result"] for c in here if c["cell"]["optimizer"] == n] for n in names}


def panels(draw: Callable[[Any, str, list[dict[str, Any]]], None], x: str, **options: Any) -> Figure | None:
    """A panel a network, a line an optimizer."""
    found = list(networks())
    if not found:
        return None
    rows = -(-len(found) // 3)
    figure = Figure(figsize=(9, 2.8 * rows), layout="constrained")
    grid = figure.subplots(rows, 3, squeeze=False).flatten()
    for axes, (data, by) in zip(grid, found, strict=False):
        for name, seeds in by.items():
            draw(axes, name, seeds)
        axes.set(title=data, xlabel=x, **options)
    for axes in grid[len(found) :]:
        axes.remove()
    figure.axes[0].set_ylabel("validation loss")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize="small")
    return figure


def rates() -> Figure | None:
    """Final validation loss against the rate: how far from its best rate a method still works."""

    def draw(axes: Any, name: str, seeds: list[dict[str, Any]]) -> None:
        losses = np.array([s["losses"] for s in seeds])
        axes.errorbar(
            seeds[0]["rates"], losses.mean(0), losses.std(0), label=name, color=COLOURS[name], lw=1, marker=".", ms=4
        )

    return panels(draw, "rate", xscale="log")


def _curve(column: int) -> Callable[[Any, str, list[dict[str, Any]]], None]:
    def draw(axes: Any, name: str, seeds: list[dict[str, Any]]) -> None:
        curves = np.array([s["curve"] for s in seeds])  # (seeds, points, (step, seconds, loss))
        axes.plot(curves[:, :, column].mean(0), curves[:, :, 2].mean(0), label=name, color=COLOURS[name], lw=1)

    return draw


def steps() -> Figure | None:
    """Validation loss against steps, each at its best rate."""
    return panels(_curve(0), "step")


def seconds() -> Figure | None:
    """Validation loss against seconds of training on one core, each at its best rate."""
    return panels(_curve(1), "seconds", xscale="log")


FIGURES = {  # how it is drawn, and from which cells
    "optim-ripples": (ripples, lambda: results("optim", "ripples")),
    "optim-rates": (rates, trained),
    "optim-steps": (steps, trained),
    "optim-seconds": (seconds, trained),
}


def digest(cells: list[dict[str, Any]]) -> str:
    """What a figure carries of the cells it was drawn from."""
    told = json.dumps([[c["cell"], c["result"]] for c in cells], sort_keys=True)
    return f"cells {hashlib.sha256(told.encode()).hexdigest()}"


def main(arguments: list[str]) -> int:
    """Draw all of them; the same results give the same files. 1 where --check finds a stale one."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "corollary"
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: files a tenth as large
    stale = []
    for name, (draw, cells) in FIGURES.items():
        path, source = ROOT / "docs" / "pictures" / f"{name}.svg", digest(cells())
        if "--check" in arguments:
            if cells() and not (path.exists() and source in path.read_text("utf-8")):
                stale.append(path.name)
        elif figure := draw():
            figure.savefig(path, metadata={"Date": None, "Description": source})
            print(path.relative_to(ROOT))
    if stale:
        print(f"stale: {', '.join(stale)}; run python docs/figures.py")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
