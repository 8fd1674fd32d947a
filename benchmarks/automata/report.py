"""Tables of the benchmark of `corollary.automata`, in Markdown."""

import numpy as np


def lines(records, *, recipes, bins, peers, four, published):
    """All tables that these records fill."""
    by = {}
    for r in records:
        by.setdefault(r["cell"]["data"], []).append((r["cell"], r["result"]))
    out = []
    if "track" in by or "words" in by:
        out += _track(by.get("track", []) + by.get("words", []), recipes, bins)
    if "peer" in by:
        out += _peers(by["peer"], by.get("track", []), peers, four, published)
    if "paper" in by:
        out += _paper(by["paper"])
    if "string" in by:
        out += _strings(by["string"])
    for _, result in by.get("gap", []):
        out += [
            "Smallest dimension that solves mod k on all words of 6 bits:",
            "",
            "| | random | learned, certified |",
            "|---|---|---|",
        ]
        out += [f"| mod {k} | {result[f'mod {k} random']} | {result[f'mod {k} learned']} |" for k in (2, 3, 5)]
        out.append("")
    for _, result in by.get("speed", []):
        out += _speed(result)
    return out


def _mean(values, digits=2):
    values = [v for v in values if v is not None]
    return f"{np.mean(values):.{digits}f}" if values else "–"


def _track(found, recipes, bins):
    out = [
        "Last answer right, percent, mean over seeds (least seed in brackets); certified: equal to the task's "
        "automaton at all lengths:",
        "",
    ]
    out += [
        "| task | seeds | "
        + " | ".join(f"trained {b}" for b in bins)
        + " | snapped 41-256 | snapped 1000 | certified | states | seconds |"
    ]
    out += ["|---|---|" + "---|" * (len(bins) + 5)]
    names = list(dict.fromkeys((c.get("task") or f"{c['group']}, {c['generators']} generators") for c, _ in found))
    for name in names:
        rs = [r for c, r in found if (c.get("task") or f"{c['group']}, {c['generators']} generators") == name]

        def cell(key, rs=rs):
            values = [r[key] for r in rs if key in r]
            return f"{np.mean(values):.1f} ({min(values):.1f})" if values else "–"

        states = "/".join(sorted({str(r["states"]) for r in rs if "states" in r}, key=int)) or "–"
        row = [name, str(len(rs)), *(cell(f"trained {b}") for b in bins), cell("snapped 41-256"), cell("snapped 1000")]
        row += [
            f"{sum(r['certified'] for r in rs)} of {len(rs)}",
            states,
            _mean([r["training seconds"] for r in rs], 1),
        ]
        out.append("| " + " | ".join(row) + " |")
    exact = [r for c, r in found if c.get("task") == "addition" and "snapped words exact 1000" in r]
    out.append("")
    if exact:
        told = [_mean([r[f"{k} words exact 1000"] for r in exact], 1) for k in ("trained", "snapped")]
        out += [f"Addition, all of 1,000 digits right: {told[0]} percent as trained, {told[1]} snapped.", ""]
    return out


def _peers(found, ours, peers, four, published):
    out = [
        "Lengths 41 to 256, trained up to 40, percent (tasks of PD-SSM's table; below: their published figures):",
        "",
    ]
    out += ["| model | " + " | ".join(four) + " | mean |", "|---|" + "---|" * (len(four) + 1)]

    def row(name, cells):
        means = [np.mean(v) if v else None for v in cells]
        mean = None if any(m is None for m in means) else np.mean(means)
        return f"| {name} | " + " | ".join("–" if m is None else f"{m:.1f}" for m in (*means, mean)) + " |"

    for key, name in (("trained 41-256", "transductor, as trained"), ("snapped 41-256", "transductor, snapped")):
        out.append(row(name, [[r[key] for c, r in ours if c["task"] == t and key in r] for t in four]))
    budgets = dict.fromkeys(c.get("steps") for c, _ in found)
    for steps in budgets:
        for method in peers:
            here = [(c, r) for c, r in found if c["method"] == method and c.get("steps") == steps]
            name = method if steps is None else f"{method}, {steps} steps, seed 0"
            if here:
                out.append(row(name, [[r["41-256"] for c, r in here if c["task"] == t] for t in four]))
    out += [
        f"| *{name}, published* | " + " | ".join(f"*{v}*" for v in values) + " |" for name, values in published.items()
    ]
    return [*out, ""]


def _strings(found):
    methods = list(dict.fromkeys(c["method"] for c, _ in found))
    out = [
        "String tasks, tokens of the output right, percent, inputs of 41 to 128 symbols (in brackets: of 40), trained "
        "up to 40:",
        "",
        "| task | chance | " + " | ".join(methods) + " |",
        "|---|---|" + "---|" * len(methods),
    ]
    for name in dict.fromkeys(c["task"] for c, _ in found):
        cells = [[r for c, r in found if c["task"] == name and c["method"] == m] for m in methods]
        shown = [
            f"{_mean([r['41-128'] for r in rs], 1)} ({_mean([r['40'] for r in rs], 1)})" if rs else "–" for rs in cells
        ]
        chance = next(r["chance"] for rs in cells for r in rs)
        out.append(f"| {name} | {chance:.0f} | " + " | ".join(shown) + " |")
    return [*out, ""]


def _paper(found):
    out = []
    for experiment, told in (
        ("mod5", "Counting mod 5, trained up to 50"),
        ("addition", "Addition, whole sums right, trained on 10 to 40 digits"),
    ):
        rs = [r for c, r in found if c["experiment"] == experiment]
        if not rs:
            continue
        keys = [k.removeprefix("transductor ") for k in rs[0] if k.startswith("transductor ") and "param" not in k]
        out += [f"{told}, two layers with attention, {len(rs)} seeds, percent (least seed):", ""]
        out += ["| | parameters | " + " | ".join(keys) + " |", "|---|---|" + "---|" * len(keys)]
        for model, size in (("transductor", "transductor"), ("snapped", "transductor"), ("transformer", "transformer")):
            cells = [[r[f"{model} {k}"] for r in rs if f"{model} {k}" in r] for k in keys]
            shown = " | ".join(f"{np.mean(v):.1f} ({min(v):.1f})" if v else "–" for v in cells)
            out.append(f"| {model} | {rs[0][f'{size} parameters']} | {shown} |")
        out.append("")
    rs = [r for c, r in found if c["experiment"] == "base2"]
    if rs:
        out += [
            "Value of 64 bits, squared error: "
            + ", ".join(f"{k.removeprefix('squared error ')} {np.mean([r[k] for r in rs]):.2g}" for k in rs[0])
            + ".",
            "",
        ]
    return out


def _speed(result):
    out = [
        "Scan, forward and backward, V = 5, milliseconds:",
        "",
        "| T, d, B | ours | einsum loop | best unbind loop | times einsum | times unbind |",
        "|---|---|---|---|---|---|",
    ]
    for size, r in result["scan"].items():
        out.append(
            f"| {size} | "
            + " | ".join(
                str(r[k]) for k in ("ours ms", "einsum loop ms", "best unbind loop ms", "times einsum", "times unbind")
            )
            + " |"
        )
    t = result["training"]
    out += [
        "",
        f"Training, 4 layers, width 128, T 256, batch 32, state 16, seconds a step: "
        f"{t['seconds a step with head']} with "
        f"the head, {t['seconds a step without']} without: {t['share of the speed']:.2f} of its speed.",
        "",
    ]
    return out
