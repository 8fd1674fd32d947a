"""What the gate costs beside the experts' forward passes, and what running one expert a token saves and loses.

Both sides of a ratio take turns, token by token, in one process; medians over tokens of processor time, so that what
else the machine does counts on neither side.
"""

import time

import numpy as np

from corollary import gating
from corollary.documents import Documents
from corollary.models import NgramModel, TransformerConfig, TransformerLM

from . import texts, trained

SHAPES = ((128, 256, 1), (128, 256, 8), (128, 8000, 1), (128, 8000, 8), (256, 256, 1), (256, 8000, 8))
CELLS = [
    *({"data": "overhead", "width": w, "vocab": v, "batch": b} for w, v, b in SHAPES),
    *({"data": "routed", "seed": s, "width": 128, "steps": 120} for s in range(3)),
]
QUICK = [
    {"data": "overhead", "width": 64, "vocab": 256, "batch": 1},
    {"data": "routed", "seed": 0, "width": 32, "steps": 20},
]
MORE = [{"data": "routed", "seed": s, "width": 256, "steps": 600} for s in range(3)]
TOKENS = 120


def run(cell):
    """One cell."""
    return overhead(cell) if cell["data"] == "overhead" else routed(cell)


def overhead(cell):
    """A composed model of four transformers against the same four by themselves."""
    rng, vocab, batch = np.random.default_rng(0), cell["vocab"], cell["batch"]
    config = TransformerConfig(vocab_size=vocab, width=cell["width"], layers=4, heads=4, context=256)
    experts = [TransformerLM(config, seed=k) for k in range(4)]
    kind = np.uint8 if vocab <= 256 else np.int32
    held = Documents.from_sequences([rng.integers(1, vocab, 100) for _ in range(20)], dtype=kind)
    gate = gating.CausalGate(steps=20, batch=512).fit([gating.score_experts(experts, held)])
    composed = gating.ComposedLM({f"e{k}": e for k, e in enumerate(experts)}, gate)
    state, alone, spent = composed.start(batch), [e.start(batch) for e in experts], []
    for _ in range(TOKENS):
        token = rng.integers(1, vocab, batch)
        a = time.process_time()
        for expert, own in zip(experts, alone, strict=True):
            expert.next_log_probs(own)
        alone = [e.advance(s, token) for e, s in zip(experts, alone, strict=True)]
        b = time.process_time()
        composed.next_log_probs(state)
        state = composed.advance(state, token)
        spent.append((b - a, time.process_time() - b))
    one, other = np.median(np.array(spent[10:]), axis=0)
    return {"experts_ms": one * 1e3, "composed_ms": other * 1e3, "overhead": other / one - 1}


def routed(cell):
    """Trained experts, n-gram guides: speed against one expert, bits per byte against the composed model, switches."""
    seed, steps = cell["seed"], cell["steps"]
    data = texts.domains(seed, gate=60, test=60)
    names, p = list(data), len(data)
    pools = [data[n]["train"] for n in names]
    trunk = trained.train(trained.model(width=cell["width"], layers=4, seed=seed), pools, np.ones(p), steps, seed=seed)
    experts = {n: trained.train(trunk, pools, np.eye(p)[k], steps, seed=seed + k) for k, n in enumerate(names)}
    guides = {n: NgramModel.fit(texts.as_documents(data[n]["train"][:2000]), order=3) for n in names}
    held = [gating.score_experts(list(experts.values()), data[n]["gate"]) for n in names]
    composed = gating.ComposedLM(experts, gating.CausalGate(steps=300, batch=2048, seed=seed).fit(held))
    one_at_a_time = gating.RoutedLM(experts, guides)
    tests = {n: data[n]["test"] for n in names} | {"splice": texts.splices(data, "test", 60, seed)}
    found = {
        row: {n: trained.bits(m, d) for n, d in tests.items()}
        for row, m in (("composed", composed), ("routed", one_at_a_time))
    }
    found["own expert"] = {n: trained.bits(experts[n], tests[n]) for n in names}
    speed, wall = [], []
    for name in names:  # prompts of one domain
        text = tests[name][0]
        state, own = one_at_a_time.start(1), experts[name].start(1)
        for byte in text[:TOKENS]:
            token = np.array([byte])
            a = time.process_time()
            experts[name].next_log_probs(own)
            own = experts[name].advance(own, token)
            b = time.process_time()
            one_at_a_time.next_log_probs(state)
            state = one_at_a_time.advance(state, token)
            speed.append((b - a, time.process_time() - b))
    switches, caught = 0, 0
    for i in range(12):  # documents that change their domain
        state = one_at_a_time.start(1)
        for byte in tests["splice"][i]:
            before, a = state["caught_up"].sum(), time.process_time()
            one_at_a_time.next_log_probs(state)
            more = int(state["caught_up"].sum() - before)
            if more > 8:
                wall.append((time.process_time() - a, more))
            state = one_at_a_time.advance(state, np.array([byte]))
        switches, caught = switches + int(state["switches"][0]), caught + int(state["caught_up"][0])
    one, other = np.median(np.array(speed), axis=0)
    return {
        "bits_per_byte": found,
        "speed": one / other,
        "speed_in_all": float(np.sum([a for a, _ in speed]) / np.sum([b for _, b in speed])),
        "switches_a_splice": switches / 12,
        "tokens_caught_up_a_splice": caught / 12,
        "ms_a_switch": float(np.median([t for t, _ in wall]) * 1e3) if wall else 0.0,
        "token_ms": other * 1e3,
    }


def table(records):
    """Overheads; then speed, bits and switches."""
    lines = []
    costs = [r for r in records if r["cell"]["data"] == "overhead"]
    if costs:
        lines += ["| four experts | experts, ms a token | composed | overhead |", "|---|---|---|---|"]
        for r in costs:
            c, v = r["cell"], r["result"]
            lines.append(
                f"| width {c['width']}, vocabulary {c['vocab']:,}, batch {c['batch']} | {v['experts_ms']:.2f} | "
                f"{v['composed_ms']:.2f} | {v['overhead']:.1%} |"
            )
        lines.append("")
    one = [r for r in records if r["cell"]["data"] == "routed"]
    for setting in sorted({(r["cell"]["width"], r["cell"]["steps"]) for r in one}):
        here = [r["result"] for r in one if (r["cell"]["width"], r["cell"]["steps"]) == setting]
        names = list(here[0]["bits_per_byte"]["composed"])
        head = f"width {setting[0]}, {len(here)} seed{'s' * (len(here) > 1)}"
        lines += [f"| bits per byte; {head} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for row in ("own expert", "composed", "routed"):
            values = [np.mean([r["bits_per_byte"][row].get(n, np.nan) for r in here]) for n in names]
            lines.append(f"| {row} | {' | '.join('–' if np.isnan(v) else f'{v:.3f}' for v in values)} |")
        mean = {k: np.mean([r[k] for r in here]) for k in here[0] if k != "bits_per_byte"}
        lines += [
            "",
            f"On prompts of one domain the routed model has {mean['speed']:.2f} x the speed of one expert a token "
            f"({mean['speed_in_all']:.2f} x with all that was read). A document that changes its domain switches "
            f"{mean['switches_a_splice']:.1f} times and reads {mean['tokens_caught_up_a_splice']:.0f} missed tokens; a "
            f"switch takes {mean['ms_a_switch']:.1f} ms where a token takes {mean['token_ms']:.1f} ms.",
            "",
        ]
    return "\n".join(lines)
