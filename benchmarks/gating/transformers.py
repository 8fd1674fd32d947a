"""E2, the main experiment: transformer experts of equal size from one trunk, their gate, and one model for all.

Every model continues from the same trunk (trained on all domains alike), with the same optimiser and schedule. The
pooled models are given as many updates as all experts together; one more has those of a single expert.
"""

import time
from functools import partial

import numpy as np

from corollary import gating
from corollary.models import merge_models, sample

from . import texts, trained

LEON = [{"data": "transformers", "seed": s, "width": 128, "steps": 220, "optimiser": "leon"} for s in range(3)]
CELLS = [*({"data": "transformers", "seed": s, "width": 128, "steps": 220} for s in range(3)), LEON[0]]
QUICK = [{"data": "transformers", "seed": 0, "width": 32, "steps": 60}]
MORE = [
    *({"data": "transformers", "seed": s, "width": w, "steps": 1500} for s in range(3) for w in (128, 256)),
    *LEON[1:],
]
EPS = 0.05
ROWS = (
    *("composed", "gate", "fixed share, many rates", "Bayes posterior", "static, robust", "uniform"),
    *("pooled, equal size", "pooled, one expert's updates", "on the least favourable mixture", "Group DRO"),
    *("pooled, total size", "parameter average", "task arithmetic"),
)


def run(cell):
    """One seed: bits per byte of every method on every test set, and what the theory says of them."""
    begun, seed, width, steps = time.perf_counter(), cell["seed"], cell["width"], cell["steps"]
    by = cell.get("optimiser", "adamw")
    train = partial(trained.train, seed=seed, by=by)
    data = texts.domains(seed, **({"gate": 60, "test": 60} if steps < 100 else {}))
    names, p = list(data), len(data)
    pools = [data[n]["train"] for n in names]
    natural = np.array([len(d) for d in pools]) / sum(map(len, pools))
    even, own = np.full(p, 1 / p), np.eye(p)
    trunk = train(trained.model(width=width, seed=seed), pools, even, steps)
    experts = [train(trunk, pools, own[k], steps, seed=seed + 100 * k) for k in range(p)]
    held = [gating.score_experts(experts, data[n]["gate"]) for n in names]
    mixed = gating.score_experts(experts, texts.splices(data, "gate", len(held[0].offsets) - 1, seed))
    robust = robust_gate(held, experts, seed)
    lam = np.asarray(robust.mixture_)
    shares = np.append(0.7 * (lam + even) / 2, 0.3)
    gate = gating.CausalGate(steps=800 if steps >= 100 else 100, batch=2048, seed=seed).fit(
        [*held, mixed], weights=shares
    )
    share = gating.FixedShareGate(p, (0.0005, 0.005, 0.02, 0.08))
    composed = gating.ComposedLM(dict(zip(names, experts, strict=True)), gate, eps=EPS, anchors={"fixed share": share})
    dro = gating.GroupDRO(p, rate=0.1)
    monoliths = {
        "pooled, equal size": train(trunk, pools, natural, p * steps),
        "pooled, one expert's updates": train(trunk, pools, natural, steps),
        "on the least favourable mixture": train(trunk, pools, lam, p * steps),
        "Group DRO": train(trunk, pools, even, p * steps, rule=dro),
        "pooled, total size": big(train, width, pools, natural, even, steps, seed),
        "parameter average": merge_models(experts),
        "task arithmetic": best_merge(experts, trunk, [data[n]["gate"] for n in names]),
    }
    static = static_weights(held, seed)
    tests = {n: data[n]["test"] for n in names}
    tests["splice"] = texts.splices(data, "test", len(held[0].offsets) - 1, seed)
    found = {row: {} for row in ROWS}
    experts_bits, excess, totals = {}, 0.0, []
    for name, documents in tests.items():
        scores = gating.score_experts(experts, documents)
        parts = composed.component_log_probs(scores)
        whole = gating.sequence_mixture(parts, scores.offsets, composed.prior)
        found["composed"][name] = per_byte(whole)
        found["gate"][name] = per_byte(parts[:, 0])
        for row, g in (
            ("fixed share, many rates", share), ("Bayes posterior", gating.BayesGate(p)),
            ("static, robust", gating.StaticGate(tuple(static))), ("uniform", gating.StaticGate(tuple(even))),
        ):  # fmt: skip
            found[row][name] = per_byte(gating.gate_log_probs(g, scores))
        for row, network in monoliths.items():
            found[row][name] = trained.bits(network, documents)
        experts_bits[name] = [per_byte(c) for c in scores.log_probs.T]
        of_components = documents.sums(parts[:, 1:]).max(1) - documents.sums(whole)
        excess = max(excess, float(of_components.max() / np.log(2)))
        totals.append(scores.totals())
    jsd = gating.domain_divergence(
        np.concatenate(totals[:p]), np.repeat(np.arange(p), [len(tests[n]) for n in names])
    )  # fmt: skip
    return {
        "bits_per_byte": found,
        "own_expert": {n: experts_bits[n][k] for k, n in enumerate(names)},
        "worst_domain": {row: max(v[n] for n in names) for row, v in found.items()},
        "shift": shift(found, names, natural, seed),
        "least_favourable": dict(zip(names, lam.tolist(), strict=True)),
        "group_dro": dict(zip(names, dro.average.tolist(), strict=True)),
        "natural": dict(zip(names, natural.tolist(), strict=True)),
        "static": dict(zip(names, static.tolist(), strict=True)),
        "largest_excess_bits": excess,
        "excess_bound_bits": composed.excess_bits,
        "documents": int(sum(map(len, tests.values()))),
        "divergence_nats": {"estimate": jsd.estimate, "lower": jsd.lower, "entropy": jsd.entropy},
        "normaliser": [float(v) for v in robust.normaliser_],
        "parameters": int(sum(t.numel() for t in trunk.parameters())),
        "optimiser": by,
        "wall_seconds": round(time.perf_counter() - begun, 1),
    }


def per_byte(log_probs):
    return float(-np.mean(log_probs, dtype=np.float64) / np.log(2))


def big(train, width, pools, natural, even, steps, seed):
    """One model with as many weights as all experts together: twice the width is four times the weights."""
    trunk = train(trained.model(width=2 * width, seed=seed), pools, even, steps)
    return train(trunk, pools, natural, len(pools) * steps)


def best_merge(experts, trunk, held):
    """Task arithmetic at the scale that is best for the worst domain on part of the gate's documents."""
    scales = (0.25, 0.4, 0.6, 0.8)
    merged = [merge_models(experts, weights=[s] * len(experts), base=trunk) for s in scales]
    worst = [max(trained.bits(m, d.select(np.arange(min(40, len(d))))) for d in held) for m in merged]
    return merged[int(np.argmin(worst))]


def robust_gate(held, experts, seed):
    """The whole-sequence gate on the domains' gate documents: excess over the own expert, per token."""
    from corollary.documents import Documents

    drawn = [sample(e, 24, max_tokens=texts.PIECE, seed=seed + k) for k, e in enumerate(experts)]
    found = Documents.from_texts([d for part in drawn for d in part if d])
    own = np.array([-g.totals()[:, k].mean() for k, g in enumerate(held)])
    return gating.RobustGate(objective="token", entropy=own, steps=800).fit(
        np.concatenate([g.totals() for g in held]),
        np.repeat(np.arange(len(held)), [len(g.offsets) - 1 for g in held]),
        lengths=np.concatenate([np.diff(g.offsets) for g in held]),
        samples_log_likelihoods=gating.score_experts(experts, found).totals(),
        seed=seed,
    )


def static_weights(held, seed):
    rng = np.random.default_rng(seed)
    rows = [g.log_probs[rng.integers(len(g.log_probs), size=5000)] for g in held]
    return gating.fit_static_gate(np.concatenate(rows), np.repeat(np.arange(len(held)), 5000), tol=1e-4).weights


def shift(found, names, natural, seed):
    """Bits per byte of every method under other mixtures of the domains than it was made for."""
    lam = np.random.default_rng([seed, 3]).dirichlet(np.ones(len(names)), 1000)
    out = {}
    for row, values in found.items():
        v = np.array([values[n] for n in names])
        drawn = lam @ v
        out[row] = {"natural": float(natural @ v), "uniform": float(v.mean()), "random, mean": float(drawn.mean()),
                    "random, 95 %": float(np.quantile(drawn, 0.95)), "worst": float(v.max())}  # fmt: skip
    return out


def table(records):
    """Bits per byte, then the shift of the mixture, then what is guaranteed."""
    lines = []

    def setting_of(cell):
        return cell["width"], cell["steps"], cell.get("optimiser", "adamw")

    for setting in sorted({setting_of(r["cell"]) for r in records}):
        here = [r["result"] for r in records if setting_of(r["cell"]) == setting]
        names = list(here[0]["own_expert"])
        sets = [*names, "splice"]
        head = f"width {setting[0]}, {setting[1]} updates an expert, {setting[2]}, seeds: {len(here)}"
        lines += [f"| bits per byte; {head} | {' | '.join(sets)} | worst domain |", "|---" * (len(sets) + 2) + "|"]
        own = np.mean([[r["own_expert"][n] for n in names] for r in here], axis=0)
        lines.append(
            f"| *own expert (needs the label)* | {' | '.join(f'{v:.3f}' for v in own)} | – | {own.max():.3f} |"
        )
        for row in ROWS:
            values = np.array([[r["bits_per_byte"][row][n] for n in sets] for r in here])
            worst = np.array([r["worst_domain"][row] for r in here])
            shown = " | ".join(f"{v:.3f}" for v in values.mean(0))
            lines.append(f"| {row} | {shown} | {worst.mean():.3f} ± {worst.std():.3f} |")
        columns = list(here[0]["shift"]["gate"])
        lines += ["", f"| mixture of the domains | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for row in ROWS:
            values = np.mean([[r["shift"][row][c] for c in columns] for r in here], axis=0)
            lines.append(f"| {row} | {' | '.join(f'{v:.3f}' for v in values)} |")
        excess, bound = max(r["largest_excess_bits"] for r in here), here[0]["excess_bound_bits"]
        jsd = [r["divergence_nats"] for r in here]
        lam = {n: np.mean([r["least_favourable"][n] for r in here]) for n in names}
        lines += [
            "",
            f"Largest excess over the best expert and the anchor on {sum(r['documents'] for r in here)} documents: "
            f"{excess:.3f} bits (bound {bound:.3f}). Divergence of the domains: estimate "
            f"{np.mean([j['estimate'] for j in jsd]):.3f} nats, at least {min(j['lower'] for j in jsd):.3f} with 95 % "
            f"confidence in each seed (at most {jsd[0]['entropy']:.3f}). Least favourable mixture: "
            + ", ".join(f"{n} {v:.2f}" for n, v in lam.items()) + ".",
            "",
        ]  # fmt: skip
    return "\n".join(lines)
