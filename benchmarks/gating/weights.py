"""One model for all domains, by every rule for their weights: what the choice of the mixture alone is worth.

All models have one small size, start alike, and have the same number of updates; DoReMi has a proxy of half
the width, MDE and the gate have experts, whose training is their price.
"""

import numpy as np

from corollary import gating

from . import transformers as main

texts, trained = main.texts, main.trained
CELLS = [{"data": "weights", "seed": 0, "width": 32, "steps": 400}]
QUICK = []
MORE = [{"data": "weights", "seed": s, "width": w, "steps": 1600} for s in range(3) for w in (32, 64)]


def run(cell):
    """Worst-domain and mean bits per byte of each rule, and its weights."""
    seed, width, steps = cell["seed"], cell["width"], cell["steps"]
    data = texts.domains(seed, gate=120, test=200)
    names, p = list(data), len(data)
    pools, even = [data[n]["train"] for n in names], np.full(len(data), 1 / len(data))
    start = trained.model(width=width, seed=seed)

    def train(weights, **options):
        return trained.train(start, pools, weights, steps, seed=seed, **options)

    experts = [trained.train(start, pools, np.eye(p)[k], steps // p, seed=seed + 100 * k) for k in range(p)]
    held = [gating.score_experts(experts, data[n]["gate"]) for n in names]
    flat = np.concatenate([g.log_probs for g in held])
    group = np.repeat(np.arange(p), [len(g.log_probs) for g in held])
    proxy = trained.model(width=width // 2, seed=seed)
    reference = trained.train(proxy, pools, even, steps // 2, seed=seed)
    doremi = gating.DoReMi([trained.bits(reference, data[n]["gate"]) * np.log(2) for n in names], rate=0.1)
    trained.train(proxy, pools, even, steps // 2, seed=seed, rule=doremi)
    dro, federated = gating.GroupDRO(p, rate=0.1), gating.AgnosticFederated(p, rate=0.02)
    sizes = np.array([len(d) for d in pools])
    models = {
        "as it lies there": (train(sizes / sizes.sum()), sizes / sizes.sum()),
        "uniform": (train(even), even),
        "Group DRO": (train(even, rule=dro), dro),
        "agnostic federated": (train(even, rule=federated), federated),
    }
    for name, weights in {
        "DoReMi": doremi.average,
        "experts' mixture (MDE), mean": gating.fit_static_gate(flat, tol=1e-3).weights,
        "experts' mixture (MDE), worst": gating.fit_static_gate(flat, group, tol=1e-3).weights,
        "least favourable for the gate": np.asarray(main.robust_gate(held, experts, seed).mixture_),
    }.items():
        models[name] = train(weights), weights
    out = {}
    for name, (network, weights) in models.items():
        bits = [trained.bits(network, data[n]["test"]) for n in names]
        used = np.asarray(getattr(weights, "average", weights))
        out[name] = {"bits": bits, "worst": max(bits), "mean": float(np.mean(bits)), "weights": used.tolist()}
    return {"rules": out, "domains": names}


def table(records):
    """Means over the seeds."""
    lines = []
    for setting in sorted({(r["cell"]["width"], r["cell"]["steps"]) for r in records}):
        here = [r["result"] for r in records if (r["cell"]["width"], r["cell"]["steps"]) == setting]
        names = here[0]["domains"]
        lines += [
            f"| one model of width {setting[0]}, {setting[1]} updates, seeds: {len(here)} | "
            f"{' | '.join(f'weight of {n}' for n in names)} | mean bits per byte | worst domain |",
            "|---" * (len(names) + 3) + "|",
        ]
        for rule in here[0]["rules"]:
            weights = np.mean([r["rules"][rule]["weights"] for r in here], axis=0)
            mean, worst = (np.mean([r["rules"][rule][c] for r in here]) for c in ("mean", "worst"))
            lines.append(f"| {rule} | {' | '.join(f'{w:.2f}' for w in weights)} | {mean:.3f} | {worst:.3f} |")
        lines.append("")
    return "\n".join(lines)
