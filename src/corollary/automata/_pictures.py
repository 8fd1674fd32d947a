"""Pictures of automata: Graphviz text, and matplotlib."""

import math
from typing import Any

from corollary.automata._dfa import DFA
from corollary.automata._transducer import Transducer
from corollary.automata._wfa import WFA
from corollary.errors import InvalidInputError, MissingExtraError


def _edges(automaton: DFA | Transducer | WFA) -> dict[tuple[int, int], str]:
    """Labels of the edges, symbols between the same states together; of weighted automata with their weights."""
    labels: dict[tuple[int, int], list[str]] = {}
    if isinstance(automaton, WFA):
        for x, M in zip(automaton.alphabet, automaton.matrices, strict=True):
            for after, q in zip(*M.nonzero(), strict=True):
                labels.setdefault((int(q), int(after)), []).append(f"{x} / {_number(M[after, q])}")
        return {pair: ", ".join(told) for pair, told in labels.items()}
    for q, row in enumerate(automaton.transitions.tolist()):
        for x, after in enumerate(row):
            if after >= 0:
                told = str(automaton.alphabet[x])
                if isinstance(automaton, Transducer) and automaton.outputs[q, x] >= 0:
                    told += f" / {automaton.outputs[q, x]}"
                labels.setdefault((q, after), []).append(told)
    return {pair: ", ".join(told) for pair, told in labels.items()}


def _number(weight: Any) -> str:
    return f"{weight:.4g}" if isinstance(weight, float) else str(weight)


def _states(automaton: DFA | Transducer | WFA) -> tuple[list[str], list[bool], dict[int, str]]:
    """Names of the states (weighted ones with their final weight), which accept, and where it starts (with what)."""
    if isinstance(automaton, WFA):
        names = [f"{q} / {_number(w)}" if w != 0 else str(q) for q, w in enumerate(automaton.final)]
        return (
            names,
            [bool(w != 0) for w in automaton.final],
            {q: _number(w) for q, w in enumerate(automaton.initial) if w != 0},
        )
    accepting = automaton.accepting.tolist() if isinstance(automaton, DFA) else [False] * automaton.states
    return [str(q) for q in range(automaton.states)], accepting, {automaton.start: ""}


def to_dot(automaton: DFA | Transducer | WFA) -> str:
    """Graphviz text: `dot -Tsvg` draws it.

    Args:
        automaton: a DFA (accepting states are double circles), a transducer (answers after a slash) or a weighted
            automaton (weights after a slash; those that are zero are left out).

    Returns:
        The text; labels are escaped.

    Guarantee: every reachable and unreachable state and transition is in it.

    Example:
        >>> from corollary.automata import DFA, to_dot
        >>> print(to_dot(DFA.from_regex("a*", "a")))
        digraph {
          rankdir=LR;
          start [shape=point];
          start -> 0;
          0 [shape=doublecircle];
          0 -> 0 [label="a"];
        }
    """
    names, accepting, starts = _states(automaton)
    lines = ["digraph {", "  rankdir=LR;", "  start [shape=point];"]
    lines += [f"  start -> {q}{_label(told)};" for q, told in starts.items()]
    for q, (name, yes) in enumerate(zip(names, accepting, strict=True)):
        shape = "doublecircle" if yes else "circle"
        lines.append(f"  {q} [shape={shape}];" if name == str(q) else f'  {q} [shape={shape}, label="{name}"];')
    lines += [f"  {a} -> {b}{_label(told)};" for (a, b), told in _edges(automaton).items()]
    return "\n".join([*lines, "}"])


def _label(told: str) -> str:
    escaped = told.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f' [label="{escaped}"]' if told else ""


def draw(automaton: DFA | Transducer | WFA, *, axes: Any = None) -> Any:
    """Draw the automaton on a circle with matplotlib.

    Args:
        automaton: at most 40 states.
        axes: where to draw; None makes a figure.

    Returns:
        The axes.

    Raises:
        InvalidInputError: for more than 40 states.
        MissingExtraError: without matplotlib.

    Guarantee: none; it is a picture.

    Example:
        >>> from corollary.automata import DFA, draw
        >>> axes = draw(DFA.from_regex("(ab)*", "ab"))
        >>> len(axes.patches) > 3
        True
    """
    names, accepting, starts = _states(automaton)
    n = len(names)
    if n > 40:
        raise InvalidInputError(f"{n} states are too many for a picture; use `to_dot`")
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Circle, FancyArrowPatch
    except ImportError:
        raise MissingExtraError("matplotlib", "report", "drawing an automaton") from None
    ax = axes if axes is not None else Figure(figsize=(5, 5)).add_subplot()
    places = [(math.sin(2 * math.pi * q / n), math.cos(2 * math.pi * q / n)) for q in range(n)]
    radius = min(0.18, 1.6 / n)
    for q, (x, y) in enumerate(places):
        ax.add_patch(Circle((x, y), radius, fill=False, lw=2.5 if q in starts else 1.5))
        if accepting[q]:
            ax.add_patch(Circle((x, y), radius * 0.8, fill=False))
        ax.text(x, y, names[q], ha="center", va="center")
    for (a, b), label in _edges(automaton).items():
        (x, y), (u, v) = places[a], places[b]
        if a == b:
            out = (x * (1 + 2.4 * radius), y * (1 + 2.4 * radius))
            ax.add_patch(Circle(((x + out[0]) / 2 * 1.06, (y + out[1]) / 2 * 1.06), radius * 0.7, fill=False, lw=0.8))
            ax.text(out[0] * 1.12, out[1] * 1.12, label, ha="center", va="center", fontsize=8)
            continue
        style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 12, "connectionstyle": "arc3,rad=0.15"}
        ax.add_patch(FancyArrowPatch((x, y), (u, v), shrinkA=radius * 90, shrinkB=radius * 90, lw=0.8, **style))
        ax.text(0.42 * x + 0.58 * u, 0.42 * y + 0.58 * v, label, fontsize=8)
    ax.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), aspect="equal")
    ax.axis("off")
    return ax
