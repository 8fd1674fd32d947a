"""E1 and E4 in worlds whose laws are known: how the trainer comes to the value of the game, what a student keeps.

- stability (E1): gap of the primal-dual trainer against its steps; every gate on the worst, even and random mixtures.
- distillation (E4): a whole-sequence gate over Markov experts, its samples by rejection, and students that stream.
"""

import dataclasses

import numpy as np
from scipy.special import rel_entr

from corollary import gating
from corollary.datasets import dirichlet_world, markov_world
from corollary.documents import Documents
from corollary.models import TransformerConfig, TransformerLM

STEPS = (250, 1000, 4000)
CELLS = [
    *({"data": "stability", "seed": s, "n": 100, "p": 4} for s in range(3)),
    {"data": "distillation", "seed": 0, "samples": 1500},
]
QUICK = [{"data": "distillation", "seed": 0, "samples": 200}]
MORE = [
    *({"data": "stability", "seed": s, "n": n, "p": p} for s in range(10) for n, p in ((30, 3), (100, 4), (500, 10))),
    *({"data": "distillation", "seed": s, "samples": 6000} for s in range(3)),
]


def run(cell):
    return {"stability": stability, "distillation": distillation}[cell["data"]](cell)


def stability(cell):
    """Exact value, then the trainer on full batches and on samples, at several numbers of steps."""
    p, n, seed = cell["p"], cell["n"], cell["seed"]
    world = dirichlet_world(p=p, n=n, seed=seed)
    domains, experts = world.domains, world.experts
    rng = np.random.default_rng(seed)
    lam = rng.dirichlet(np.ones(p), 500)
    exact = gating.robust_gate(domains, experts)

    def judged(pi):
        pi = pi / pi.sum()
        random = rel_entr(lam @ domains, pi).sum(1)
        return {
            "worst": float(rel_entr(domains, pi).sum(1).max()),
            "even": float(rel_entr(domains.mean(0), pi).sum()),
            "random": float(random.mean()), "random, largest": float(random.max()),
        }  # fmt: skip

    census = {
        "log_likelihoods": np.log(np.tile(experts.T, (p, 1))), "domain": np.repeat(np.arange(p), n),
        "features": np.tile(np.arange(n), p), "weight": domains.reshape(-1),
    }  # fmt: skip
    x = np.concatenate([rng.choice(n, 5000, p=q / q.sum()) for q in experts])
    all_points = {"samples_log_likelihoods": np.log(experts.T), "samples_features": np.arange(n), "samples_weight":
                  experts.mean(0)}  # fmt: skip
    drawn = {"samples_log_likelihoods": np.log(experts.T[x]), "samples_features": x}
    path = {}
    for steps in STEPS:
        full = gating.RobustGate(
            gate="tabular", entropy="empirical", steps=steps, batch_size=None, sample_batch_size=None, checkpoints=1,
            gate_floor=1e-6, mixture_floor=1e-6,
        ).fit(**census, **all_points, seed=seed)  # fmt: skip
        few = gating.RobustGate(
            gate="tabular", entropy="empirical", steps=steps, batch_size=32, sample_batch_size=96, checkpoints=1
        ).fit(**census, **drawn, seed=seed)
        path[str(steps)] = {
            "full": judged(density(full, experts))["worst"] - exact.lower, "gap": float(full.history_["gap"][-1]),
            "regret": float(full.history_["regret"][-1]),
            "stochastic": judged(density(few, experts))["worst"] - exact.lower,
        }  # fmt: skip
    bound = gating.theorem3_bound(domains, experts, np.eye(p), least_favourable=exact.mixture)
    rows = {
        "uniform": experts.mean(0), "sigma": gating.sigma_gate(domains, experts).weights @ experts,
        "best static": gating.best_static_gate(domains, experts).weights @ experts,
        "primal-dual": density(few, experts), "robust, exact": exact.pi,
    }  # fmt: skip
    return {
        "gates": {name: judged(pi) for name, pi in rows.items()}, "path": path, "value": exact.upper,
        "theorem 3": float(np.max(bound.value)), "capacity": float(gating.capacity(domains)),
    }  # fmt: skip


def density(gate, experts):
    return np.exp(gate.log_density(np.log(experts.T), np.arange(experts.shape[1]), normalised=False).numpy())


def distillation(cell):
    """Teacher: the robust gate on whole sequences. Students see prefixes. KL in nats a token, and the worst domain."""
    seed, count = cell["seed"], cell["samples"]
    world = markov_world(p=3, symbols=12, order=1, length=24, concentration=0.4, noise=0.3, seed=seed)
    sampler = dataclasses.replace(world, start=world.start[::-1], step=world.step[::-1])  # draws from the experts

    def draw(k, generator):
        sequences, who = sampler.sample(len(k), seed=int(generator.integers(2**31)))
        mine = np.array([np.flatnonzero(who == j)[i] for i, j in enumerate(k)])
        return sequences[mine], world.log_probability(sequences[mine])

    rng = np.random.default_rng(seed)
    learn, domain = world.sample(500, seed=seed + 1)
    fresh = draw(rng.integers(3, size=1500), rng)[1]
    teacher = gating.RobustGate(steps=1000, checkpoints=2).fit(
        world.log_probability(learn), domain, samples_log_likelihoods=fresh, seed=seed
    )

    def weights(logq, sequences):
        return teacher.log_gate(logq).exp().numpy()

    drawn = gating.rejection_sample(draw, weights, size=count + 1000, experts=3, seed=seed, batch=2048)
    sequences = np.asarray(drawn.sequences)
    train, test = scores(world, sequences[:count]), scores(world, sequences[count:])
    resampled = gating.importance_resample(draw, weights, size=count, experts=3, proposals=4 * count, seed=seed)
    by_weight = scores(world, np.asarray(resampled.sequences))
    judge, own = world.sample(500, seed=seed + 2)
    truth, judged = world.log_probability(judge, of="domains")[np.arange(len(own)), own], scores(world, judge)
    log_teacher = teacher.log_density(drawn.log_likelihoods[count:]).numpy()
    of_teacher = teacher.log_density(world.log_probability(judge)).numpy()
    length = world.length

    def worst(log_density):
        return max(float((truth - log_density)[own == k].mean()) for k in range(3))

    out = {"teacher": {"to teacher": 0.0, "worst": worst(of_teacher)}}
    options = {"steps": 400, "batch": 2400, "hidden": 32, "seed": seed}
    students = {
        "Bayes router": gating.BayesGate(3), "fixed share": gating.FixedShareGate(3),
        "static, even": gating.StaticGate((1 / 3, 1 / 3, 1 / 3)),
        **{f"router, {n}": gating.CausalGate(network=n, **options).fit([train]) for n in ("mlp", "gru", "transformer")},
        "router, mlp, on SIR draws": gating.CausalGate(**options).fit([by_weight]),
    }  # fmt: skip
    for name, gate in students.items():
        on_teacher, on_domains = sums(gate, test), sums(gate, judged)
        out[name] = {"to teacher": float((log_teacher - on_teacher).mean()) / length, "worst": worst(on_domains)}
    single = TransformerLM.fit(
        documents(sequences[:count]), config=TransformerConfig(vocab_size=13, width=32, layers=2, heads=4, context=32),
        steps=400, batch_tokens=2048, seed=seed,
    )  # fmt: skip
    on_teacher, on_domains = (documents(s) for s in (sequences[count:], judge))
    out["one model, distilled"] = {
        "to teacher": float((log_teacher - on_teacher.sums(single.log_probs(on_teacher))).mean()) / length,
        "worst": worst(on_domains.sums(single.log_probs(on_domains))),
    }
    return {
        "students": out, "acceptance": drawn.acceptance, "effective_share": resampled.acceptance,
        "normaliser": [float(v) for v in teacher.normaliser_],
    }  # fmt: skip


def sums(gate, judged):
    """Log-likelihood of each document under a gate."""
    return np.add.reduceat(gating.gate_log_probs(gate, judged).astype(np.float64), judged.offsets[:-1])


def documents(sequences):
    """Symbols from 1: token 0 ends a document."""
    return Documents(
        (sequences + 1).astype(np.int32).reshape(-1), np.arange(len(sequences) + 1) * sequences.shape[1]
    )  # fmt: skip


def scores(world, sequences):
    """Per-token log-probabilities under every expert, for an order of one."""
    n, length = sequences.shape
    out = np.empty((n, length, world.start.shape[1]), dtype=np.float32)
    out[:, 0] = np.log(world.start[1][:, sequences[:, 0]]).T
    for t in range(1, length):
        out[:, t] = np.log(world.step[1][:, sequences[:, t - 1], sequences[:, t]]).T
    flat = out.reshape(n * length, -1)
    return gating.ExpertScores(np.arange(n + 1) * length, flat, np.zeros((*flat.shape, 3), dtype=np.float16))


def table(records):
    """The trainer against its steps, the gates on several mixtures, the students."""
    lines = []
    here = [r["result"] for r in records if r["cell"]["data"] == "stability"]
    if here:
        columns = ("full", "gap", "regret", "stochastic")
        lines += [
            f"| steps of the primal-dual trainer, {len(here)} worlds | excess over the value, full batches | "
            "its duality gap | its mean regret | excess, samples of 32 |",
            "|---|---|---|---|---|",
        ]
        for steps in here[0]["path"]:
            means = [np.mean([r["path"][steps][c] for r in here]) for c in columns]
            lines.append(f"| {steps} | {' | '.join(f'{m:.4f}' for m in means)} |")
        columns = ("worst", "even", "random", "random, largest")
        lines += ["", f"| KL in nats | {' | '.join(columns)} |", "|---" * 5 + "|"]
        for name in here[0]["gates"]:
            means = [np.mean([r["gates"][name][c] for r in here]) for c in columns]
            lines.append(f"| {name} | {' | '.join(f'{m:.4f}' for m in means)} |")
        means = [np.mean([r[c] for r in here]) for c in ("value", "theorem 3", "capacity")]
        lines += [
            "",
            "Value of the game {:.4f}, Theorem 3 {:.4f}, divergence of the domains at most {:.4f}.".format(*means),
        ]
    here = [r for r in records if r["cell"]["data"] == "distillation"]
    for count in sorted({r["cell"]["samples"] for r in here}):
        some = [r["result"] for r in here if r["cell"]["samples"] == count]
        lines += [
            "", f"| student, {count} samples of the teacher | KL to the teacher, nats a token | worst domain, KL in "
            "nats a sequence |", "|---|---|---|",
        ]  # fmt: skip
        for name in some[0]["students"]:
            a, b = (np.mean([r["students"][name][c] for r in some]) for c in ("to teacher", "worst"))
            lines.append(f"| {name} | {a:.4f} | {b:.3f} |")
        lines.append(
            f"\nRejection keeps {np.mean([r['acceptance'] for r in some]):.3f} of the proposals (1/3 for a normalised "
            f"gate); resampling has an effective share of {np.mean([r['effective_share'] for r in some]):.3f}."
        )
    return "\n".join(lines)
