"""The plots of a composed model: mixtures, convergence, training loss, excess over the best expert."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from corollary.report._plots import Line, line_plot, step_plot
from corollary.report._render import number
from corollary.report._run import Run

DRAWS = 400  # random mixtures of the curves
ABOVE = 1.1  # methods whose worst mixture is this much above the composed model's would flatten the others
SHOWN = (
    "composed",
    "gate",
    "fixed share, many rates",
    "fixed share",
    "Bayes posterior",
    "pooled",
    "pooled, equal size",
    "static, robust",
    "uniform",
)
MOST_LINES = 7


def plots(run: Run, experts: Sequence[str], told: Mapping[str, str]) -> str | None:
    """All plots whose files are there, side by side."""
    from markupsafe import Markup

    made = [mixtures(run, told), excess(run, experts, told), convergence(run), training(run)]
    inside = Markup("\n").join(m for m in made if m is not None)
    return Markup('<div class="plots">{}</div>').format(inside) if inside else None


def _evaluation(run: Run) -> dict[str, np.ndarray] | None:
    found = run.arrays("stages/evaluation.safetensors", bits=2, size=1, group=1)
    if found is not None and found["bits"].shape != (len(found["size"]), len(run.metrics["bits_per_byte"])):
        raise ValueError(f"evaluation holds {found['bits'].shape} bits for {len(run.metrics['bits_per_byte'])} methods")
    return found


def mixtures(run: Run, told: Mapping[str, str]) -> str | None:
    """Bits per byte of each method over the simplex of mixtures, each curve sorted by itself."""
    found, p = _evaluation(run), len(run.metrics["domains"])
    if found is None:
        return None
    groups = [found["group"] == k for k in range(p)]
    if not all(g.any() for g in groups):
        return None
    weights = np.random.default_rng(int(run.config.get("seed", 0))).dirichlet(np.ones(p), size=DRAWS)
    weights = np.concatenate([weights, np.eye(p)])
    bits = np.stack([found["bits"][g].mean(0) for g in groups])
    size = np.array([found["size"][g].mean() for g in groups])
    curves = np.sort((weights @ bits) / (weights @ size)[:, None], axis=0)
    methods = list(run.metrics["bits_per_byte"])
    chosen = [m for m in SHOWN if m in methods]
    limit = ABOVE * curves[-1, methods.index("composed")]
    drawn = [m for m in chosen if curves[-1, methods.index(m)] <= limit][:MOST_LINES]
    x = np.linspace(0, 100, len(weights))
    lines = [
        Line(told.get(m, m), x, curves[:, methods.index(m)], colour=i, dash=i, width=2.2 if m == "composed" else 1.3)
        for i, m in enumerate(drawn)
    ]
    beyond = [f"{m} ({curves[-1, methods.index(m)]:.3f})" for m in chosen if m not in drawn]
    caption = (
        f"{DRAWS} random mixtures of the {p} domains and each domain alone, sorted for each method by itself; "
        "the right end is the worst mixture, which always is one domain alone."
    )
    caption += f" Not drawn, worst mixture: {', '.join(beyond)}." if beyond else ""
    return line_plot(
        "Worst case over all mixtures",
        lines,
        x="share of the mixtures, %",
        y="bits per byte",
        caption=caption,
        summary="; ".join(f"{line.name}: worst mixture {line.y[-1]:.3f}" for line in lines),
    )


def excess(run: Run, experts: Sequence[str], told: Mapping[str, str]) -> str | None:
    """Bits of each document above its best expert, the gate alone against the composed model."""
    found = _evaluation(run)
    if found is None or not experts:
        return None
    best = found["bits"][:, 2 : 2 + len(experts)].min(1)
    above = {told["composed"]: found["bits"][:, 0] - best, told["gate"]: found["bits"][:, 1] - best}
    limit = float(run.metrics.get("excess_limit_bits", "inf"))
    finite = np.isfinite(limit)
    highest = max(*(float(a.max()) for a in above.values()), limit if finite else 0.0)
    lowest = max(min(float(a.min()) for a in above.values()), -max(highest, 40.0))
    width = max((highest - lowest) / 60, 1e-9)
    anchor = limit if finite else highest  # an edge lies at the limit: no bar crosses it
    left, right = np.ceil((anchor - lowest) / width), np.ceil((highest - anchor) / width)
    edges = anchor + width * np.arange(-left, right + 2)
    further = max(int((a < edges[0]).sum()) for a in above.values())
    caption = f"Left of zero a document costs less than under its best expert. {len(best)} documents"
    caption += f"; up to {further} lie further left." if further else "."
    if finite:
        caption += f" The vertical line is what the certificate allows the composed model: {number(limit)} bits."
    return step_plot(
        "Excess of each document over its best expert",
        {name: np.histogram(a, edges)[0] for name, a in above.items()},
        edges,
        x="bits above the best expert, whole document",
        y="documents",
        mark=limit if finite else None,
        caption=caption,
        summary="; ".join(f"{name}: largest {a.max():.2f} bits" for name, a in above.items()),
    )


def convergence(run: Run) -> str | None:
    """Primal and dual values of the robust whole-sequence gate; the worst domain alone where it has no dual value."""
    file = "stages/robust.safetensors"
    found = run.arrays(file, finite=False, history_step=1, history_primal=1, history_dual=1)
    if found is None or not np.isfinite(found["history_primal"] + found["history_dual"]).sum() >= 2:
        return _worst_domain(run.arrays(file, finite=False, history_step=1, history_worst=1))
    step, primal, dual = (found[f"history_{n}"].astype(float) for n in ("step", "primal", "dual"))
    known = np.isfinite(primal + dual)
    step, primal, dual = step[known], primal[known], dual[known]
    return line_plot(
        "The robust gate converges",
        [
            Line("primal: on the worst domain", step, primal, colour=0, dash=0, width=2.0),
            Line("dual: at the least favourable mixture", step, dual, colour=1, dash=1, width=2.0),
        ],
        x="step",
        y="nats",
        caption="Payoffs of the averaged whole-sequence gate, per token above the own expert. At a saddle point "
        f"the curves meet; last difference {number(float(primal[-1] - dual[-1]))} nats.",
        summary=f"primal from {primal[0]:.3f} to {primal[-1]:.3f}, dual from {dual[0]:.3f} to {dual[-1]:.3f} nats",
    )


def _worst_domain(found: dict[str, np.ndarray] | None) -> str | None:
    if found is None or np.isfinite(found["history_worst"]).sum() < 2:
        return None
    known = np.isfinite(found["history_worst"])
    step, worst = found["history_step"][known].astype(float), 1e3 * found["history_worst"][known]
    return line_plot(
        "The robust gate converges",
        [Line("worst domain", step, worst, colour=0, dash=0, width=2.0)],
        x="step",
        y="thousandths of a nat per byte",
        caption="Whole-sequence gate: largest excess of a domain over its own expert (below zero: better than it). "
        "A gate that is a network has no dual value to compare with.",
        summary=f"from {worst[0]:.3f} to {worst[-1]:.3f} thousandths of a nat per byte",
    )


def training(run: Run) -> str | None:
    """Training loss of the causal gate."""
    found = run.arrays("model/gate/history.safetensors", loss=2)
    if found is None or len(found["loss"]) < 2 or found["loss"].shape[1] != 2:
        return None
    step, loss = found["loss"].T.astype(float)
    loss = loss / np.log(2)
    lines: list[Any] = [Line("each record", step, loss, colour=9, dash=0, width=0.7, alpha=0.55)]
    window = len(loss) // 20
    if window >= 2:
        smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
        lines.append(Line(f"mean of {window}", step[window // 2 :][: len(smooth)], smooth, colour=0, dash=0, width=2.0))
    low, high = np.quantile(loss, [0.0, 0.98])
    return line_plot(
        "Training of the causal gate",
        lines,
        x="step",
        y="bits per byte",
        limits=(low - 0.05 * (high - low), high + 0.05 * (high - low)) if high > low else None,
        caption="Loss on the documents of the gate's split, mixed documents among them.",
        summary=f"from {loss[0]:.3f} to {loss[-1]:.3f} bits per byte",
    )
