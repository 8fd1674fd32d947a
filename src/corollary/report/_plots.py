"""Plots as inline SVG: text stays text, colours are those of the page, the same data gives the same bytes."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from corollary.report._render import COLOURS, render

SIZE = (5.2, 3.3)  # inches of 72 units: small, so that text is readable where the page is narrow
DASHES = ("", "6 2.5", "2 2", "7 2 2 2", "4 1.5", "1.5 1.5", "9 3", "3 3")
INK, GRID = "#0b0b01", "#0b0b02"
SERIES = 0x10  # '#0b0b10' stands for the first colour of the page
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "corollary",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "axes.formatter.useoffset": False,
    "axes.formatter.use_mathtext": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.color": GRID,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "path.simplify": True,
}


@dataclass(frozen=True, eq=False)
class Line:
    """A curve: its name, its points, and how it is drawn."""

    name: str
    x: np.ndarray
    y: np.ndarray
    colour: int
    dash: int
    width: float
    alpha: float = 1.0


def line_plot(
    title: str,
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    caption: str,
    summary: str,
    limits: tuple[float, float] | None = None,
) -> str:
    """A figure of curves, with its legend as text."""

    def draw(axes: Any) -> None:
        for line in reversed(lines):  # the first lies on top
            style = {"color": _series(line.colour), "linewidth": line.width, "linestyle": _dash(line.dash, line.width)}
            axes.plot(line.x, line.y, alpha=line.alpha, **style)
        axes.set(xlabel=x, ylabel=y)
        if limits is not None:
            axes.set_ylim(*limits)

    legend = [_entry(line.name, line.colour, line.dash, line.width) for line in lines]
    return _figure(title, draw, caption=caption, summary=summary, legend=legend)


def step_plot(
    title: str,
    counts: Mapping[str, np.ndarray],
    edges: np.ndarray,
    *,
    x: str,
    y: str,
    mark: float | None,
    caption: str,
    summary: str,
) -> str:
    """A figure of histograms on a logarithmic axis of counts, with a line at `mark`."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    def draw(axes: Any) -> None:
        for i, values in reversed(list(enumerate(counts.values()))):
            axes.stairs(values, edges, baseline=0.5, color=_series(i), linewidth=1.6, linestyle=_dash(i, 1.6))
        if mark is not None:
            axes.axvline(mark, color=_series(4), linewidth=1.4)
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set(xlabel=x, ylabel=y)

    legend = [_entry(name, i, i, 2.0) for i, name in enumerate(counts)]
    if mark is not None:
        legend.append(_entry("allowed", 4, 0, 2.0))
    return _figure(title, draw, caption=caption, summary=summary, legend=legend)


def _figure(
    title: str, draw: Callable[[Any], None], *, caption: str, summary: str, legend: list[dict[str, Any]]
) -> str:
    from markupsafe import Markup

    svg = Markup(_svg(title, draw, summary))  # noqa: S704  (made here; title and summary are escaped)
    return render("figure.html", title=title, svg=svg, caption=caption, legend=legend)


def _svg(title: str, draw: Callable[[Any], None], summary: str) -> str:
    import matplotlib.style
    from markupsafe import escape
    from matplotlib.figure import Figure

    with matplotlib.style.context(["default", STYLE]):  # whatever the user's own style says
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.grid(visible=True, axis="y")
        axes.set_axisbelow(True)
        draw(axes)
        buffer = io.StringIO()
        empty = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=empty)
    body = buffer.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    name = re.sub(r"[^a-z]+", "-", title.lower())
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"(url\(|href=\")#(?![0-9a-f]{6}\b)", rf"\1#{name}-", body)
    body = re.sub(r"#0b0b([0-9a-f]{2})", lambda m: _variable(int(m[1], 16)), body)
    view = re.search(r'viewBox="[^"]*"', body)
    opening = (
        f'<svg class="plot" role="img" aria-labelledby="{name}-t {name}-d" {view[0] if view else ""} '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(summary)}</desc>'
    )
    return opening + body[body.index(">") + 1 :].strip()


def _series(index: int) -> str:
    return f"#0b0b{SERIES + index % COLOURS:02x}"


def _variable(code: int) -> str:
    return {1: "rgb(var(--ink))", 2: "rgb(var(--line))"}.get(code, f"rgb(var(--c{code - SERIES}))")


def _dash(index: int, width: float) -> Any:
    pattern = DASHES[index % len(DASHES)]
    return (0, [float(v) / width for v in pattern.split()]) if pattern else "solid"


def _entry(name: str, colour: int, dash: int, width: float) -> dict[str, Any]:
    return {"name": name, "colour": colour % COLOURS, "dash": DASHES[dash % len(DASHES)], "width": f"{width:g}"}
