"""Tables of the benchmark: methods on both splits, the spike, speed, and the size of a head."""

import numpy as np

ORDER = ("base", "retrain", "T3", "tilt only", "temper only", "GradDiff", "NPO", "SimNPO", "RMU", "ULD")
COLUMNS = (
    *("forget quality", "D", "forget truth ratio", "forget probability", "forget ROUGE", "extraction"),
    *("membership AUC", "retain probability", "retain ROUGE", "seconds", "trained"),
)


LLAMA = {"width": 4096, "vocab_size": 128_256}  # 3.1, 8 B; its size is checked by the tests
LLAMA_PARAMETERS = 8_030_261_248


def table(records):
    """Everything that was measured, as Markdown."""
    parts = []
    for split in ("forget10", "forget01"):
        found = [r for r in records if r["cell"]["data"] == split]
        parts += methods(split, found) if found else []
    parts += ["Trained parameters of a head, m (d + V), beside the N of its base:", "", *heads(records), ""]
    spikes = [r["result"] for r in records if r["cell"]["data"] == "spike"]
    parts += spike(spikes) if spikes else []
    speeds = [r["result"] for r in records if r["cell"]["data"] == "speed"]
    if speeds:
        s = speeds[0]
        parts += [
            f"Generation, {s['parameters'] / 1e6:.1f} M parameters, vocabulary 8,000, batch 8: "
            f"{s['ratio to the base']:.3f} x the tokens a second of the base (median of 7 interleaved pairs, "
            f"{s['least']:.3f} to {s['most']:.3f}).",
            "",
        ]
    return "\n".join(parts).strip()


def methods(split, records):
    """One row a method, medians over the seeds with their range for forget quality."""
    for r in records:
        r["name"] = r["cell"]["method"] + (f", {r['cell']['epochs']} epochs" if "epochs" in r["cell"] else "")
    names = [r["name"] for r in records]
    order = [m for m in ORDER if m in names] + sorted(set(names) - set(ORDER))
    seeds = len({r["cell"]["seed"] for r in records})
    lines = [f"{split}, up to {seeds} seeds; forget quality: median (least, most) over the seeds, the rest means:", ""]
    lines += ["| method | seeds | " + " | ".join(COLUMNS) + " |", "|---|---|" + "---|" * len(COLUMNS)]
    for method in order:
        own = [r["result"] for r in records if r["name"] == method]
        lines.append(f"| {method} | {len(own)} | " + " | ".join(_cell(own, c) for c in COLUMNS) + " |")
    lines += ["", *_notes(records), ""]
    return lines


def _cell(results, column):
    values = [r[column] for r in results if column in r]
    if not values:
        return "–"
    if column == "forget quality":
        shown = f"{np.median(values):.2g}"
        return shown if len(values) == 1 else f"{shown} ({min(values):.1g}, {max(values):.2g})"
    mean = float(np.mean(values))
    if column == "trained":
        return f"{mean:,.0f}"
    return f"{mean:.1f}" if column == "seconds" else f"{mean:.3f}"


def _notes(records):
    ours = [r["result"] for r in records if r["cell"]["method"] == "T3"]
    if not ours:
        return []
    caching = np.mean([r["caching seconds"] for r in ours])
    chosen = "; ".join(sorted({r["setting"] for r in ours}))
    told = f"T3: caching the states took {caching:.1f} s beside the seconds of training shown; chosen: {chosen}."
    fine = [(r["name"], r["result"]) for r in records if r["cell"]["method"] not in ("base", "retrain", *ORDER[2:5])]
    reached = min(r["forget quality"] for r in ours)
    good = [(r["seconds"], m) for m, r in fine if r["forget quality"] >= reached]
    if fine and good:
        seconds, name = min(good)
        share = np.mean([r["seconds"] for r in ours]) / seconds
        told += f" Fastest fine-tuning at the same forget quality: {name}, {seconds:.1f} s; T3 takes {share:.3f} of it."
    elif fine:
        told += " No fine-tuning method reached its forget quality."
    return [told]


def heads(records):
    """Sizes of the head measured, where there is one, and of heads for a model of 8 B: m (d + V) / N."""
    from corollary.unlearning import TemperTiltHead

    from ._tofu_models import SIZES

    lines = ["| base | m | d | V | m (d + V) | N | share |", "|---" * 7 + "|"]
    trained = {int(r["result"]["trained"]) for r in records if r["cell"].get("method") == "T3"}
    whole = {int(r["result"][k]) for r in records for k in ("training parameters",) if k in r["result"]}
    if trained and whole:
        (own,), (n,), m, d = trained, whole, 20, SIZES["width"]
        lines.append(f"| the one above | {m} | {d} | {own // m - d:,} | {own:,} | {n:,} | {own / n:.1%} |")
    for m in (20, 50):
        own, (d, v) = TemperTiltHead.count(**LLAMA, rank=m), LLAMA.values()
        share = own / LLAMA_PARAMETERS
        lines.append(f"| Llama 3.1 8B | {m} | {d:,} | {v:,} | {own:,} | {LLAMA_PARAMETERS:,} | {share:.3%} |")
    return lines


def spike(results):
    """Medians over seeds: forget error at T = 1, 2, 2.5 and the best T, by width and draws."""
    keys = sorted({k.rsplit(" forget T=1", 1)[0] for k in results[0] if k.endswith("forget T=1")}, key=_spike_order)
    names = ("forget T=1", "forget T=2", "forget T=2.5", "best T", "forget best T", "retain T=1", "retain T=2.5")
    lines = [
        f"Finite samples, {len(results)} seeds (medians): classifiers fitted on n forget draws, spike of width w:",
        "",
    ]
    lines += ["| classifier, w, n | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for key in keys:
        values = [np.median([r[f"{key} {n}"] for r in results]) for n in names]
        lines.append(f"| {key} | " + " | ".join(f"{v:.3g}" for v in values) + " |")
    return [*lines, ""]


def _spike_order(key):
    name, width, draws = key.split(" ")
    return name, -float(width[2:]), int(draws[2:])
