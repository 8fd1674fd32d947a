"""The paper's experiment and theorems, measured: ripples, regret, rounds, stationarity, accuracy of the iterations."""

import time

import numpy as np

SEEDS = (0, 1, 2, 3)
RIPPLES = (*("muon", "leon eta=1", "leon eta=.3", "leon .9/.81", "pion k=1", "pion k=8", "pion k=32"),)
CELLS = [
    *({"data": "ripples", "seed": s} for s in SEEDS),
    *({"data": "regret", "seed": s} for s in range(3)),
    *({"data": "rounds", "m": m, "seed": 0} for m in (16, 32, 64, 128, 256, 512)),
    *({"data": "stationarity", "seed": s} for s in range(3)),
    {"data": "accuracy", "seed": 0},
]
MORE = [{"data": "ripples", "seed": s} for s in range(10)]
QUICK = [{"data": "regret", "seed": 0}, {"data": "accuracy", "seed": 0}]
PAPER = {  # the specification's reproduction of figure 1: mean of the last 50 steps
    "0.005": (2.24, 2.07, 2.07, 2.13, 2.28, 2.09, 2.13),
    "0.01": (2.72, 2.08, 2.07, 2.16, 2.85, 2.15, 2.15),
    "0.05": (8.55, 2.44, 2.11, 2.95, 11.4, 4.1, 2.69),
}


def run(cell):
    kinds = {"ripples": ripples, "regret": regret, "rounds": rounds, "stationarity": stationarity, "accuracy": accuracy}
    return kinds[cell["data"]](cell)


def sensing(seed):
    """f(X) = mean |u| (1 - 0.9 cos 3u) + 0.5, u = <A_k, X>, its gradient, and a start."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(100, 400, generator=generator, dtype=torch.float64)
    start = torch.randn(20, 20, generator=generator, dtype=torch.float64)

    def loss(X):
        u = A @ X.flatten()
        value = (u.abs() * (1 - 0.9 * (3 * u).cos()) + 0.5).mean()
        slope = u.sign() * (1 - 0.9 * (3 * u).cos()) + 2.7 * u.abs() * (3 * u).sin()
        return float(value), (slope @ A / 100).view(20, 20)

    return loss, start


def ripples(cell):
    """Section 5: mean loss of the last 50 of 200 steps, and the curves."""
    import torch

    from corollary.optim import Leon, Muon, Pion

    def build(name, p, lr):
        if name == "muon":
            return Muon([p], lr, momentum=0.9, nesterov=False, scale=None, method="eigh")
        if name.startswith("leon"):
            betas = (0.9, 0.81) if "81" in name else (0.9, 0.9)
            return Leon([p], lr, betas=betas, eta=0.3 if ".3" in name else 1.0)
        return Pion([p], lr, betas=(0.9, 0.9), samples=int(name.split("=")[1]), seed=cell["seed"])

    loss, start = sensing(cell["seed"])
    found = {}
    for lr in (0.005, 0.01, 0.05):
        for name in RIPPLES:
            p = torch.nn.Parameter(start.clone())
            optimizer, values = build(name, p, lr), []
            for _ in range(200):
                value, p.grad = loss(p.data)
                values.append(value)
                optimizer.step()
            found[f"{lr} {name}"] = round(float(np.mean(values[-50:])), 4)
            found[f"curve {lr} {name}"] = [round(v, 3) for v in values[::5]]
    return found


def streams(seed, T=400, m=3, n=8):
    """Random, alternating, rank-one drift, heavy-tailed: gradients of operator norm at most 1."""
    from corollary.optim import alternating_stream

    rng = np.random.default_rng(seed)

    def unit(G):
        return G / np.maximum(1.0, np.linalg.norm(G, 2, axis=(1, 2)))[:, None, None]

    random = rng.standard_normal((T, m, n))
    u, v = rng.standard_normal((T, m)).cumsum(0), rng.standard_normal((T, n)).cumsum(0)
    drift = u[:, :, None] * v[:, None, :]
    heavy = rng.standard_t(1.5, (T, m, n))
    return {
        "random": random / np.linalg.norm(random, 2, axis=(1, 2))[:, None, None],
        "alternating": alternating_stream(T, (m, n), seed=seed),
        "drift": drift / np.linalg.norm(drift, 2, axis=(1, 2))[:, None, None],
        "heavy-tailed": unit(heavy / 20),
    }


def regret(cell):
    """Regret after 400 rounds of 3 x 8, and the bounds."""
    from corollary.optim import FAML, FTPL, FTRL, FollowTheLeader, OneSidedShampooOGD, ShampooOGD, play

    found = {}
    for name, G in streams(cell["seed"]).items():
        shape = G.shape[1:]
        for make in (FollowTheLeader, FAML, FTPL, FTRL, OneSidedShampooOGD, ShampooOGD):
            game = play(make(shape), G)
            found[f"{name} {make.name}"] = round(game.regret, 3)
            found[f"{name} {make.name} bound"] = None if game.bound is None else round(game.bound, 2)
    return found


def rounds(cell):
    """Milliseconds of a round (update and action), n = 2 m; projections to a relative gap of 1e-4."""
    from corollary.optim import FAML, FTPL, FTRL, OneSidedShampooOGD, ShampooOGD

    m = cell["m"]
    rng = np.random.default_rng(0)
    G = rng.standard_normal((16, m, 2 * m))
    G /= np.linalg.norm(G, 2, axis=(1, 2))[:, None, None]
    learners = {
        "FAML": FAML(G.shape[1:]), "FTPL k=1": FTPL(G.shape[1:], samples=1), "FTRL": FTRL(G.shape[1:], tolerance=1e-4),
        "one-sided Shampoo": OneSidedShampooOGD(G.shape[1:], tolerance=1e-4),
        "Shampoo": ShampooOGD(G.shape[1:], tolerance=1e-4),
    }  # fmt: skip
    count = 12 if m <= 128 else 4 if m == 256 else 2
    times = {name: [] for name in learners}
    for t in range(count):
        for name, learner in learners.items():
            begun = time.process_time()
            learner.update(G[t])
            learner.predict()
            times[name].append(time.process_time() - begun)
    return {name: round(1e3 * min(v[count // 2 :]), 3) for name, v in times.items()}


def stationarity(cell):
    """Theory mode on sensing with ripples: nuclear norm of the mean gradient against T, with 1 - beta = T^(-2/3)."""
    import torch

    from corollary.optim import OnlineToNonconvex

    generator = torch.Generator().manual_seed(cell["seed"])
    m, n, rho = 4, 8, 1.0
    A = torch.randn(30, m * n, generator=generator, dtype=torch.float64)
    start = torch.randn(m, n, generator=generator, dtype=torch.float64)
    bound = float(torch.linalg.matrix_norm((A.abs().mean(0) * 20).view(m, n), 2))

    def slope(X):
        u = A @ X.flatten()
        s = u.sign() * (1 - 0.5 * (3 * u).cos()) + 1.5 * u.abs().clamp(max=3) * (3 * u).sin() * (u.abs() < 3)
        return (s @ A / len(A)).view(m, n)

    found = {}
    for T in (250, 500, 1000, 2000, 4000):
        for learner in ("faml", "ftl"):
            run_ = OnlineToNonconvex(
                start, rho=rho, discount=1 - T ** (-2 / 3), learner=learner, grad_bound=bound, seed=cell["seed"]
            )
            norms = []
            for t in range(T):
                run_.update(slope(run_.point()))
                if t >= T // 2:
                    norms.append(float(torch.linalg.matrix_norm(run_.mean_gradient, "nuc")))
            found[f"{learner} {T}"] = round(float(np.mean(norms)), 5)
    return found | stall(cell["seed"])


def stall(seed):
    """A stream on which Muon stalls: |w1| + |w2|, noise five times the slope: it takes full steps for ever."""
    import torch

    from corollary.optim import Leon, Muon

    found = {}
    for name in ("leon", "muon"):
        p = torch.nn.Parameter(torch.tensor([[1.0, 1.0]], dtype=torch.float64))
        optimizer = (
            Leon([p], 0.05, betas=(0.9, 0.81))
            if name == "leon"
            else Muon([p], 0.05, momentum=0.9, nesterov=False, scale=None, method="eigh")
        )
        generator = torch.Generator().manual_seed(seed)
        tail = []
        for t in range(2000):
            noise = torch.randn(1, 2, generator=generator, dtype=torch.float64)
            p.grad = p.data.sign() * 0.2 + noise
            optimizer.step()
            if t >= 1000:
                tail.append(float(p.data.abs().sum()))
        found[f"stall {name}"] = round(float(np.mean(tail)), 4)
    return found


def accuracy(cell):
    """Section 3.6: largest entry of the error against eigh by iteration, steps and condition number."""
    import torch

    from corollary.optim import leon_direction

    generator = torch.Generator().manual_seed(0)
    m, n = 32, 64

    def orthogonal(rows, columns):
        return torch.linalg.qr(torch.randn(columns, rows, generator=generator, dtype=torch.float64))[0].T

    found = {}
    for cond in (1e1, 1e2, 1e3, 1e4):
        s = torch.logspace(0, -np.log10(cond), m, dtype=torch.float64)
        augmented = orthogonal(m, m) * s @ orthogonal(m, n + m)  # [S, L] with the given singular values
        S, L = augmented[:, :n], augmented[:, n:]
        M = L @ L.T
        exact = leon_direction(S, M)

        def error(options, S=S, M=M, exact=exact):
            return float((leon_direction(S.to(options.pop("dtype")), M, **options).double() - exact).abs().max())

        f64, f32 = torch.float64, torch.float32
        for k in (8, 12, 20, 30):
            found[f"{cond:.0e} cubic {k}"] = error({"dtype": f64, "method": "newton_schulz", "steps": k})
        for k in (5, 8, 12):
            found[f"{cond:.0e} Polar Express {k}"] = error({"dtype": f64, "method": "polar_express", "steps": k})
        for name, options in {
            "cubic 40": {"method": "newton_schulz", "steps": 40, "damping": 0.0},
            "Polar Express 10": {"method": "polar_express", "steps": 10, "damping": 0.0},
            "coupled 40": {"method": "coupled", "steps": 40, "damping": 0.0},
            "eigh": {"method": "eigh"},
            "augmented 12": {"method": "augmented", "steps": 12, "damping": 0.0},
            "default": {"method": "polar_express"},
        }.items():
            found[f"{cond:.0e} float32 {name}"] = error({"dtype": f32, **options})
    return {k: float(f"{v:.2g}") if np.isfinite(v) else None for k, v in found.items()}


def table(records):
    by = {}
    for r in records:
        by.setdefault(r["cell"]["data"], []).append(r)
    lines = []
    if "ripples" in by:
        results = [r["result"] for r in by["ripples"]]
        lines += [
            f"Ripples (section 5), {len(results)} seeds, mean loss of the last 50 of 200 steps; below, in italics,"
        ]
        lines += ["the reproduction in our notes:", "", "| rate | " + " | ".join(RIPPLES) + " |", "|---|" + "---|" * 7]
        for lr, noted in PAPER.items():
            cells = [[r[f"{lr} {name}"] for r in results] for name in RIPPLES]
            lines.append(f"| {lr} | " + " | ".join(f"{np.mean(c):.2f} ± {np.std(c):.2f}" for c in cells) + " |")
            lines.append("| | " + " | ".join(f"*{v:g}*" for v in noted) + " |")
        lines.append("")
    if "regret" in by:
        results = [r["result"] for r in by["regret"]]
        names = ("ftl", "faml", "ftpl", "ftrl", "one_sided_shampoo", "shampoo")
        lines += [f"Regret after 400 rounds of 3 x 8, {len(results)} seeds; in brackets the theorem's bound:", ""]
        lines += ["| stream | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        for stream in ("random", "alternating", "drift", "heavy-tailed"):
            row = []
            for name in names:
                bounds = [r[f"{stream} {name} bound"] for r in results]
                told = "" if bounds[0] is None else f" ({np.mean(bounds):.0f})"
                row.append(f"{np.mean([r[f'{stream} {name}'] for r in results]):.1f}{told}")
            lines.append(f"| {stream} | " + " | ".join(row) + " |")
        lines.append("")
    if "rounds" in by:
        names = list(by["rounds"][0]["result"])
        lines += [
            "Milliseconds of processor time of a round, n = 2 m, float64, projections to a relative gap of 1e-4:",
            "",
        ]
        lines += ["| m | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        for r in by["rounds"]:
            lines.append(f"| {r['cell']['m']} | " + " | ".join(f"{r['result'][k]:.3g}" for k in names) + " |")
        lines.append("")
    if "stationarity" in by:
        lines += _stationarity_table([r["result"] for r in by["stationarity"]])
    if "accuracy" in by:
        lines += _accuracy_table(by["accuracy"][0]["result"])
    return "\n".join(lines)


def _stationarity_table(results):
    rounds_ = sorted({int(k.split()[1]) for k in results[0] if k.startswith("faml")})
    means = {name: [np.mean([r[f"{name} {T}"] for r in results]) for T in rounds_] for name in ("faml", "ftl")}
    slopes = {name: np.polyfit(np.log(rounds_), np.log(v), 1)[0] for name, v in means.items()}
    lines = [
        f"Nuclear norm of the mean gradient in theory mode (rho = 1, 1 - beta = T^(-2/3)), {len(results)} seeds:",
        "",
    ]
    lines += [
        "| T | " + " | ".join(map(str, rounds_)) + " | slope (theory -1/3) |",
        "|---|" + "---|" * (len(rounds_) + 1),
    ]
    for name, told in (("faml", "Leon's learner"), ("ftl", "Muon's learner")):
        lines.append(f"| {told} | " + " | ".join(f"{v:.3f}" for v in means[name]) + f" | {slopes[name]:.2f} |")
    leon, muon = (np.mean([r[f"stall {name}"] for r in results]) for name in ("leon", "muon"))
    return [*lines, "", f"Noisy |w|, rate 0.05: mean |w| of the last half, Leon {leon:.3f}, Muon {muon:.3f}.", ""]


def _accuracy_table(result):
    kinds = list(dict.fromkeys(k.split(" ", 1)[1] for k in result))
    lines = ["Largest entry of the error against eigh (m = 32, n = 64), by condition number of [S, L / eta]:", ""]
    lines += ["| iteration | 1e1 | 1e2 | 1e3 | 1e4 |", "|---|---|---|---|---|"]
    for kind in kinds:
        values = [result[f"1e+0{i} {kind}"] for i in (1, 2, 3, 4)]
        lines.append(f"| {kind} | " + " | ".join("not finite" if v is None else f"{v:.1e}" for v in values) + " |")
    return [*lines, ""]
