"""Studies around the main experiment, each with small transformers on the same four domains.

- conflict (E3): share of pairs of domains whose gradients point apart while one model learns all, against its width.
- overlap: gap of one model for all to the composition, against the divergence of the domains, as they come to overlap.
- generalisation: gap between training and test of the gate, against the gate's size and against the experts' size.
"""

import numpy as np

from corollary import gating
from corollary.documents import Documents
from corollary.models import NgramModel

from . import texts, trained

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
CELLS = [
    *({"data": "conflict", "seed": 0, "width": w, "steps": 150} for w in (16, 32, 64, 128)),
    *({"data": "overlap", "seed": s, "share": a, "model": "ngram"} for s in range(3) for a in SHARES),
    *({"data": "overlap", "seed": 0, "share": a, "model": "transformer", "steps": 150} for a in SHARES),
    *({"data": "generalisation", "seed": s, "model": "ngram"} for s in range(3)),
    {"data": "generalisation", "seed": 0, "model": "transformer", "steps": 100},
]
QUICK = [{"data": "conflict", "seed": 0, "width": 16, "steps": 40}]
MORE = [
    *(
        {"data": "overlap", "seed": s, "share": a, "model": "transformer", "steps": n}
        for n in (150, 1000)
        for s in range(1 if n == 150 else 0, 3)
        for a in SHARES
    ),
    *({"data": "conflict", "seed": s, "width": w, "steps": 600} for s in range(3) for w in (16, 32, 64, 128, 256)),
    *({"data": "generalisation", "seed": s, "model": "transformer", "steps": n} for n in (100, 600) for s in range(3)),
]


def run(cell):
    return {"conflict": conflict, "overlap": overlap, "generalisation": generalisation}[cell["data"]](cell)


def conflict(cell):
    """One model on all domains alike: conflict of the gradients over the run, worst domain at the end."""
    data = texts.domains(cell["seed"], gate=10, test=120)
    pools, names, rng = [d["train"] for d in data.values()], list(data), np.random.default_rng([cell["seed"], 9])
    seen = []

    def watch(step, network):
        if step % 10 == 5:
            seen.append(trained.conflict(network, pools, rng))

    network = trained.train(
        trained.model(width=cell["width"], seed=cell["seed"]), pools, np.ones(len(pools)), cell["steps"] * len(pools),
        seed=cell["seed"], watch=watch,
    )  # fmt: skip
    bits = {n: trained.bits(network, data[n]["test"]) for n in names}
    half = np.array(seen[len(seen) // 2 :])
    return {
        "conflict, first half": float(np.mean([s[0] for s in seen[: len(seen) // 2]])),
        "conflict, second half": float(half[:, 0].mean()), "cosine, second half": float(half[:, 1].mean()),
        "bits_per_byte": bits, "worst_domain": max(bits.values()),
        "parameters": int(sum(p.numel() for p in network.parameters())),
    }  # fmt: skip


def overlap(cell):
    """Domains that share a part of their text; experts, their composition, and one model of an expert's size."""
    seed, small = cell["seed"], cell["model"] == "ngram"
    data = blended(texts.domains(seed, gate=160, test=160), cell["share"], seed)
    names = list(data)
    pools = [data[n]["train"] for n in names]
    experts, pooled = tables(pools, seed) if small else networks(pools, cell["steps"], seed)
    held = [gating.score_experts(experts, data[n]["gate"]) for n in names]
    gate = gating.CausalGate(steps=300, batch=2048, seed=seed).fit(held)
    tests = [gating.score_experts(experts, data[n]["test"]) for n in names]
    found = gating.domain_divergence(*labelled(tests), calibration=labelled(held))
    composed = [-float(gating.gate_log_probs(gate, t).mean()) / np.log(2) for t in tests]
    single = [trained.bits(pooled, data[n]["test"]) for n in names]
    own = [-float(t.log_probs[:, k].mean()) / np.log(2) for k, t in enumerate(tests)]
    return {
        "divergence": found.estimate, "divergence_lower": found.lower, "entropy": found.entropy,
        "composed, worst": max(composed), "pooled, worst": max(single), "own expert, worst": max(own),
        "gap, worst": max(single) - max(composed), "gap, mean": float(np.mean(single) - np.mean(composed)),
    }  # fmt: skip


def branches(pools, steps, seed, width):
    """A trunk, and a branch of it for every domain."""
    p = len(pools)
    trunk = trained.train(trained.model(width=width, seed=seed), pools, np.ones(p), steps, seed=seed)
    return trunk, [trained.train(trunk, pools, np.eye(p)[k], steps, seed=seed + 100 * k) for k in range(p)]


def labelled(groups):
    """Log-likelihoods of the documents of all domains, and the domain of each."""
    counts = [len(g.offsets) - 1 for g in groups]
    return np.concatenate([g.totals() for g in groups]), np.repeat(np.arange(len(groups)), counts)


def networks(pools, steps, seed, width=32):
    """Branches, and a pooled model that has the updates of all of them."""
    trunk, experts = branches(pools, steps, seed, width)
    return experts, trained.train(trunk, pools, np.ones(len(pools)), len(pools) * steps, seed=seed)


def tables(pools, seed, *, count=2400, order=5):
    """N-grams, whose size is what they have counted: the pooled one counts as many pieces as each expert."""
    rng = np.random.default_rng([seed, 41])
    kept = [pool[rng.permutation(len(pool))[:count]] for pool in pools]
    experts = [NgramModel.fit(texts.as_documents(k), order=order) for k in kept]
    even = np.concatenate([k[: count // len(pools)] for k in kept])
    return experts, NgramModel.fit(texts.as_documents(even), order=order)


def blended(data, share, seed):
    """Every piece of a domain is, with probability `share`, one of any domain instead."""
    rng, names = np.random.default_rng([seed, 31]), list(data)
    out = {}
    for name in names:
        parts = {}
        for split in ("train", "gate", "test"):
            flat = {m: as_pieces(data[m][split]) for m in names}
            mixed = flat[name].copy()
            for i in np.flatnonzero(rng.random(len(mixed)) < share):
                other = flat[names[rng.integers(len(names))]]
                mixed[i] = other[rng.integers(len(other))]
            parts[split] = mixed if split == "train" else texts.as_documents(mixed)
        out[name] = parts
    return out


def as_pieces(found):
    return found.tokens.reshape(-1, texts.PIECE) if isinstance(found, Documents) else found


def generalisation(cell):
    """Few documents for the gate: its advantage over fixed share, there and elsewhere, by its size and the experts'."""
    seed, few = cell["seed"], 6
    data = texts.domains(seed, gate=few, test=160)
    names, p = list(data), len(data)
    pools = [data[n]["train"] for n in names]
    share, out = gating.FixedShareGate(p), {"gate": {}, "expert": {}}

    def gap(held, tests, hidden):
        gate = gating.CausalGate(hidden=hidden, steps=400, batch=1024, weight_decay=0.0, seed=seed).fit(held)

        def gain(groups):
            return float(
                np.mean([(gating.gate_log_probs(gate, g) - gating.gate_log_probs(share, g)).mean() for g in groups])
            )

        learned, new = gain(held) / np.log(2), gain(tests) / np.log(2)
        return {"train": learned, "test": new, "gap": learned - new}

    sizes, middle = ((2, 3, 4, 5, 6), 4) if cell["model"] == "ngram" else ((16, 32, 64), 32)
    for size in sizes:
        if cell["model"] == "ngram":
            experts = tables(pools, seed, order=size)[0]
        else:
            experts = branches(pools, cell["steps"], seed, size)[1]
        held = [gating.score_experts(experts, data[n]["gate"]) for n in names]
        tests = [gating.score_experts(experts, data[n]["test"]) for n in names]
        out["expert"][str(size)] = gap(held, tests, 64)
        if size == middle:
            out["gate"] = {str(h): gap(held, tests, h) for h in (4, 16, 64, 256)}
    return out | {"documents_a_domain": few}


def table(records):
    """One table a study; means over the seeds."""
    lines = []
    for kind in ("conflict", "overlap", "generalisation"):
        here = [r for r in records if r["cell"]["data"] == kind]
        for steps in sorted({r["cell"].get("steps", 0) for r in here}):
            some = [r for r in here if r["cell"].get("steps", 0) == steps]
            lines += [*_TABLES[kind](some, steps), ""]
    return "\n".join(lines)


def _seeds(records):
    count = len({r["cell"]["seed"] for r in records})
    return f"{count} seed{'s' * (count > 1)}"


def _conflict(records, steps):
    lines = [
        f"| one model, {4 * steps} updates, {_seeds(records)} | parameters | pairs of domains in conflict, first half "
        "| second half | mean cosine | worst domain, bits per byte |",
        "|---|---|---|---|---|---|",
    ]
    for width in sorted({r["cell"]["width"] for r in records}):
        r = [r["result"] for r in records if r["cell"]["width"] == width]
        mean = {k: np.mean([v[k] for v in r]) for k in r[0] if k != "bits_per_byte"}
        lines.append(
            f"| width {width} | {int(mean['parameters']):,} | {mean['conflict, first half']:.3f} | "
            f"{mean['conflict, second half']:.3f} | {mean['cosine, second half']:.3f} | {mean['worst_domain']:.3f} |"
        )
    return lines


def _overlap(records, steps):
    what = f"transformers of width 32, {steps} updates an expert" if steps else "n-grams of equal size"
    lines = [
        f"| text in common; {what}, {_seeds(records)} | divergence, nats (95 % lower end) "
        "| pooled, worst | composed, worst | gap, worst | gap, mean |",
        "|---|---|---|---|---|---|",
    ]
    for share in sorted({r["cell"]["share"] for r in records}):
        r = [r["result"] for r in records if r["cell"]["share"] == share]
        mean = {k: np.mean([v[k] for v in r]) for k in r[0]}
        lines.append(
            f"| {share:.0%} | {mean['divergence']:.3f} ({mean['divergence_lower']:.3f}) | "
            f"{mean['pooled, worst']:.3f} | {mean['composed, worst']:.3f} | "
            f"{mean['gap, worst']:+.3f} | {mean['gap, mean']:+.3f} |"
        )
    return lines


def _generalisation(records, steps):
    lines = [
        f"| gain over fixed share, bits per byte; {records[0]['result']['documents_a_domain']} documents a domain, "
        f"{_seeds(records)} | on them | on others | gap |",
        "|---|---|---|---|",
    ]
    for part, text in (
        ("gate", "gate of width {}"),
        ("expert", "experts of width {}" if steps else "n-gram experts of order {}"),
    ):
        for size in records[0]["result"][part]:
            mean = {k: np.mean([r["result"][part][size][k] for r in records]) for k in ("train", "test", "gap")}
            lines.append(f"| {text.format(size)} | {mean['train']:+.4f} | {mean['test']:+.4f} | {mean['gap']:+.4f} |")
    return lines


_TABLES = {"conflict": _conflict, "overlap": _overlap, "generalisation": _generalisation}
