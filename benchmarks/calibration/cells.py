"""Benchmark of `corollary.calibration`: calibration error and Brier score online, on binary, vector and real streams.

Kinds of cells: `binary` and `classes` (the table of our notes redone), `vectors` (a model's class probabilities under
drift, softmax AR(1), points in a ball), `adversary`, `posthoc`, `speed`. Errors are l1, a round's share: `exact` counts
forecasts as equal to 1e-12, `cells` merges those in one cell of width 1/10. CIFAR-10 is found through COROLLARY_DATA.
"""

import io
import os
import time
from pathlib import Path

import numpy as np

T = 4096
SHAPES = ((2, 12), (4, 6), (8, 4), (16, 3), (64, 2))
BINARY = ("iid", "drift", "alternating", "blocks", "anti-leader")
CLASSES = ("iid d=2", "iid d=5", "iid d=10", "iid d=20", "ar1 d=3", "ar1 d=10")
VECTORS = ("ar1 d=3", "ar1 d=10", "ar1 d=50", "ball d=3", "digits", "cifar10")
PLAYERS = ("anti-leader", "best-response", "bursts", "constant")


def cells(data, streams, seeds):
    """Whole seeds first."""
    return [{"data": data, "stream": s, "seed": k} for k in seeds for s in streams]


SPEED = [{"data": "speed", "stream": f"{n} rounds", "seed": 0} for n in (100_000, 1_000_000)]
QUICK = [*cells("binary", BINARY, [0]), *cells("classes", CLASSES, [0]), *cells("vectors", ("ar1 d=3", "digits"), [0])]
DEFAULT = [
    *cells("binary", BINARY, range(3)),
    *cells("classes", CLASSES, range(3)),
    *cells("vectors", VECTORS, range(3)),
    *cells("adversary", PLAYERS, range(3)),
    *cells("posthoc", ("digits",), range(3)),
    *SPEED,
]
FULL = [*DEFAULT, *cells("binary", BINARY, range(3, 10)), *cells("vectors", VECTORS, range(3, 10))]


def run_cell(cell):
    """One cell of the grid, as plain values."""
    return globals()[cell["data"]](cell["stream"], cell["seed"])


def rng_of(seed, name):
    """Data has generators of its own: never the seeds of the forecasters' coins."""
    return np.random.default_rng([seed, *name.encode()])


# streams


def bits(name, rng):
    if name == "iid":
        return (rng.random(T) < 0.3).astype(int)
    if name == "drift":
        return (rng.random(T) < np.linspace(0, 1, T)).astype(int)
    if name == "alternating":
        return np.arange(T) % 2
    if name == "blocks":
        return np.arange(T) // 97 % 2
    y = np.zeros(T, dtype=int)
    for t in range(T):
        y[t] = t == 0 or y[:t].mean() <= 0.5
    return y


def ar1(d, rng, rounds=T):
    """Softmax of independent AR(1) processes: shares of a market."""
    z, out = np.zeros(d), np.empty((rounds, d))
    for t in range(rounds):
        z = 0.98 * z + 0.2 * rng.normal(size=d)
        out[t] = np.exp(z - z.max())
    return out / out.sum(1, keepdims=True)


def ball(d, rng):
    """A sensor's position: a slow orbit in the unit ball with noise."""
    t = np.arange(T)[:, None]
    x = 0.6 * np.sin(2 * np.pi * t / np.array([997.0, 461.0, 1511.0])[:d] + np.arange(d)) + 0.15 * rng.normal(
        size=(T, d)
    )
    return x / np.maximum(1.0, np.linalg.norm(x, axis=1, keepdims=True))


def online_classifier(X, y, classes, rate):
    """Class probabilities of softmax regression that learns as it goes, each told before its label."""
    W, out = np.zeros((X.shape[1] + 1, classes)), np.empty((len(y), classes))
    for t, (x, label) in enumerate(zip(X, y, strict=True)):
        u = np.append(x, 1.0)
        z = u @ W
        p = np.exp(z - z.max())
        out[t] = p / p.sum()
        W -= rate * np.outer(u, out[t] - np.eye(classes)[label])
    return out


def digits(rng):
    """Digits in random order, three times; priors drift, and from the middle on the pictures are turned upside down."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    order = np.concatenate([rng.permutation(len(y)) for _ in range(3)])
    drift = 0.5 + 0.5 * np.sin(2 * np.pi * (np.arange(len(order)) / 1500 + y[order] / 10))
    order = order[rng.random(len(order)) < drift]
    X, y = X[order] / 16, y[order]
    X[len(X) // 2 :] = X[len(X) // 2 :, ::-1]
    return online_classifier(X, y, 10, 0.5), np.eye(10)[y]


def cifar10(rng):
    """CIFAR-10 at 8 x 8, an online linear classifier; classes come in waves."""
    import pyarrow.parquet as pq
    from PIL import Image

    folder = os.environ.get("COROLLARY_DATA")
    if not folder:
        raise SystemExit("set COROLLARY_DATA to the folder with images/cifar10_train15k.parquet; see the page on data")
    table = pq.read_table(Path(folder) / "images" / "cifar10_train15k.parquet").to_pydict()
    label = next(k for k in table if "label" in k)
    picture = next(k for k in table if k != label)
    raw = [v["bytes"] if isinstance(v, dict) else v for v in table[picture]]
    X = np.array([np.asarray(Image.open(io.BytesIO(b)).convert("RGB").resize((8, 8))).reshape(-1) for b in raw]) / 255.0
    y = np.array(table[label])
    order = rng.permutation(len(y))
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (np.arange(len(order)) / 3000 + y[order] / 10))
    order = order[rng.random(len(order)) < wave]
    return online_classifier(X[order] - X.mean(0), y[order], 10, 0.02), np.eye(10)[y[order]]


# what is measured


def score(forecasts, weights, y):
    """l1 errors a round, exact and by cells, ECE of the mean forecasts, and the Brier score with its refinement."""
    from corollary.calibration import (
        brier_decomposition,
        calibration_error,
        expected_calibration_error,
        reliability_vectors,
    )

    parts = brier_decomposition(forecasts, weights, y)
    mean = forecasts if weights is None else np.einsum("tl,tld->td", weights, forecasts)
    simplex = mean.ndim == 2 and mean.min() >= 0 and np.allclose(mean.sum(1), 1) and y.min() >= 0
    ece = {"ece": round(expected_calibration_error(mean, y, kind="classwise"), 4)} if simplex else {}
    grid = reliability_vectors(forecasts, weights, y, resolution=10)
    return {
        "exact": round(calibration_error(forecasts, weights, y) / len(y), 4),
        "cells": round(float(grid.weight @ np.abs(grid.forecast - grid.outcome).sum(1)), 4),
        **ece,
        "brier": round(parts.brier, 4),
        "refinement": round(parts.refinement, 4),
    }


def follow(forecaster, y, base=None):
    """Announced forecasts (T, L, d) and weights (T, L)."""
    forecasts, weights = [], []
    for t in range(len(y)):
        points, w = forecaster.predict(None if base is None else base[t])
        forecasts.append(points)
        weights.append(w)
        forecaster.update(y[t])
    widest = max(map(len, weights))
    wide = [np.concatenate([p, np.repeat(p[:1], widest - len(p), 0)]) for p in forecasts]
    return np.array(wide), np.array([np.pad(w, (0, widest - len(w))) for w in weights])


class OneAgainstRest:
    """A grid forecaster for each class, their means normalised: what a user of binary methods has for vectors."""

    def __init__(self, d):
        from corollary.calibration import FosterGrid

        self.grids = [FosterGrid(1, resolution=16) for _ in range(d)]

    def predict(self, base=None):
        """The means of the grids, normalised."""
        p = np.array([float(w @ points[:, 0]) for points, w in (g.predict() for g in self.grids)])
        return (p / p.sum() if p.sum() > 0 else np.full(len(p), 1 / len(p)))[None], np.ones(1)

    def update(self, y):
        """Each grid learns its coordinate."""
        for grid, v in zip(self.grids, y, strict=True):
            grid.update(v)


def binary(stream, seed):
    from corollary.calibration import BlumMansourGrid, Calibrator, FosterGrid, calibration_bound, replay
    from corollary.calibration import Simplex as S

    y = np.eye(2)[bits(stream, rng_of(seed, stream))]
    out = {}
    for H, L in SHAPES:
        out[f"H{H},L{L}"] = score(replay(y, L, H).forecasts(), None, y)["exact"]
    out["FTL"] = score(replay(y, 1, T).forecasts(), None, y)["exact"]
    out["H8,L2, leaves of 64"] = score(replay(y, 2, 8, leaf=64).forecasts(), None, y)["exact"]
    for name, made in (("Foster, m=16", FosterGrid(2)), ("Blum-Mansour, m=16", BlumMansourGrid(2))):
        out[name] = score(*follow(made, y), y)["exact"]
    chosen = Calibrator("auto", dim=2, horizon=T)
    out["auto"] = score(*follow(chosen, y), y)["exact"]
    bound = calibration_bound(S(2), T, 2, 64, outcomes=y)
    out |= {"theorem H64,L2": round(bound.error, 4), "theorem H8,L4": round(calibration_bound(S(2), T).error, 4)}
    return {**out, "trivial": bound.trivial, "auto is": chosen.method}


def classes(stream, seed):
    from corollary.calibration import Calibrator, Simplex, calibration_bound, replay

    kind, d = stream.split(" d=")
    rng, d = rng_of(seed, stream), int(d)
    y = np.eye(d)[rng.integers(d, size=T)] if kind == "iid" else ar1(d, rng)
    out = {f"H{H},L{L}": score(replay(y, L, H).forecasts(), None, y)["exact"] for H, L in ((8, 4), (2, 12), (64, 2))}
    out["FTL"] = score(replay(y, 1, T).forecasts(), None, y)["exact"]
    chosen = Calibrator("auto", dim=d, horizon=T, outcomes="labels" if kind == "iid" else "vectors")
    out["auto"] = score(*follow(chosen, y), y)["exact"]
    out["theorem H64,L2"] = round(calibration_bound(Simplex(d), T, 2, 64, outcomes=y).error, 4)
    return {**out, "trivial": 2.0, "auto is": chosen.method}


def vectors(stream, seed):
    from corollary import calibration as c

    rng, base = rng_of(seed, stream), None
    kind, _, d = stream.partition(" d=")
    if kind == "ar1":
        y = ar1(int(d), rng)
        base = np.vstack([np.full((1, int(d)), 1 / int(d)), y[:-1]])  # the model: as the round before
        domain = c.Simplex(int(d))
    elif kind == "ball":
        y = ball(int(d), rng)
        base = np.vstack([np.zeros((1, int(d))), y[:-1]])
        domain = c.Ball(int(d))
    else:
        base, y = digits(rng) if kind == "digits" else cifar10(rng)
        domain = c.Simplex(10)
    labels = "labels" if kind in ("digits", "cifar10") else "vectors"
    n = len(y)
    own = {
        "TreeCal": c.Calibrator("treecal", dim=domain, horizon=n, outcomes=labels),
        "plain average": c.FollowTheLeader(domain),
        "fading average": c.DiscountedMean(domain),
    }
    on_base = {
        "TreeCal per bin": c.PerBin(c.TreeCal(domain, 2, 8), bins=5),
        "calibeating": c.Calibeating(domain, bins=5),
    }
    if isinstance(domain, c.Simplex):
        own["Hedge"] = c.Hedge(domain)
        if domain.dim <= 10:
            own["Foster, one against the rest"] = OneAgainstRest(domain.dim)
        on_base["online Platt"] = c.OnlinePlatt(domain)
        on_base["Platt + calibeating"] = c.Chain(c.OnlinePlatt(domain), c.Calibeating(domain, bins=5))
    if domain.dim == 3 and isinstance(domain, c.Simplex):
        own["Blackwell grid"] = c.BlackwellGrid(domain, resolution=5)
    result = {"the model": score(base, None, y)}
    for name, made in own.items():
        result[name] = score(*follow(made, y), y)
    for name, made in on_base.items():
        result[name] = score(*follow(made, y, base), y)
    tree = own["TreeCal"].forecaster
    options = {**tree.schedule.as_plain(), "outcomes": y}
    return {
        **result,
        "rounds": n,
        "theorem": round(c.calibration_bound(domain, n, **options).error, 4),
        "trivial": domain.diameter(1),
    }


def adversary(stream, seed):
    from corollary import calibration as c

    out, rounds = {}, 1024
    for d in (2, 5):
        domain = c.Simplex(d)
        players = {
            f"TreeCal H32,L2 d={d}": c.TreeCal(domain, 2, 32),
            f"TreeCal H4,L5 d={d}": c.TreeCal(domain, 5, 4),
            f"plain average d={d}": c.FollowTheLeader(domain),
            f"Hedge d={d}": c.Hedge(domain),
        }
        if d == 2:
            players["Foster, m=11 d=2"] = c.FosterGrid(2, horizon=rounds)
        for name, made in players.items():
            kept = []

            rule, y = c.adversary(stream, domain, seed=seed), np.empty((rounds, d))
            for t in range(rounds):
                kept.append(made.predict())
                y[t] = rule(*kept[-1], y[:t])
                made.update(y[t])
            widest = max(len(w) for _, w in kept)
            p = np.array([np.concatenate([p, np.repeat(p[:1], widest - len(p), 0)]) for p, _ in kept])
            out[name] = score(p, np.array([np.pad(w, (0, widest - len(w))) for _, w in kept]), y)["exact"]
    return {
        **out,
        "theorem H32,L2 d=2": round(c.calibration_bound(c.Simplex(2), rounds, 2, 32).error, 4),
        "trivial": 2.0,
    }


def posthoc(stream, seed):
    """ECE (classwise) and log-loss of an overfitted linear model on held-out digits, before and after."""
    import warnings

    from sklearn.datasets import load_digits
    from sklearn.naive_bayes import GaussianNB

    from corollary import calibration as c

    X, y = load_digits(return_X_y=True)
    order = rng_of(seed, stream).permutation(len(y))
    fit, hold, test = np.split(order, [600, 1200])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = GaussianNB(var_smoothing=1e-3).fit(X[fit], y[fit])
    P, Q = (model.predict_proba(X[i]) for i in (hold, test))
    found = {"none": Q}
    for name in ("Temperature", "Vector", "Platt"):
        found[name.lower()] = getattr(c, f"{name}Scaling")().fit(P, y[hold]).predict_proba(Q)
    for name in ("Dirichlet", "Beta", "Isotonic"):
        found[name.lower()] = getattr(c, f"{name}Calibration")().fit(P, y[hold]).predict_proba(Q)
    found["histogram"] = c.HistogramBinning(bins=10).fit(P, y[hold]).predict_proba(Q)
    loss = {n: -np.log(np.maximum(p[np.arange(len(test)), y[test]], 1e-7)).mean() for n, p in found.items()}
    ece = {n: c.expected_calibration_error(p, y[test], kind="top", scheme="mass") for n, p in found.items()}
    return {n: {"ece": round(ece[n], 4), "log-loss": round(float(loss[n]), 4)} for n in found}


def speed(stream, seed):
    """Speed of the literal algorithm, the streaming form and the replay (median of three, between) on one stream."""
    from corollary.calibration import TreeCal, replay
    from corollary.calibration._literal import literal_forecasts
    from corollary.calibration._schedule import Schedule

    rounds, d = int(stream.split()[0]), 10
    y = rng_of(seed, stream).dirichlet(np.ones(d), rounds)
    seconds = {"replay": [], "streaming": [], "literal": []}
    found = {}

    def replayed():
        begun = time.perf_counter()
        found["replay"] = replay(y, 4, 8).forecasts()
        seconds["replay"].append(time.perf_counter() - begun)

    replayed()
    forecaster, found["streaming"] = TreeCal(d, 4, 8), np.empty((rounds, 4, d))
    begun = time.perf_counter()
    for t in range(rounds):
        found["streaming"][t] = forecaster.predict()[0]
        forecaster.update(y[t])
    seconds["streaming"].append(time.perf_counter() - begun)
    replayed()
    begun = time.perf_counter()
    found["literal"] = literal_forecasts(y, Schedule(4, 8), origin=np.full(d, 1 / d))
    seconds["literal"].append(time.perf_counter() - begun)
    replayed()
    median = {name: float(np.median(s)) for name, s in seconds.items()}
    gap = max(float(np.abs(found["replay"] - found[n]).max()) for n in ("streaming", "literal"))
    return {
        "literal / replay": round(median["literal"] / median["replay"], 1),
        "literal / slowest replay": round(median["literal"] / max(seconds["replay"]), 1),
        "literal / streaming": round(median["literal"] / median["streaming"], 2),
        "streaming rounds a second": round(rounds / median["streaming"]),
        "replay rounds a second": round(rounds / median["replay"]),
        "largest difference": gap,
    }


# tables


def table(records):
    """One table for each kind of cells."""
    parts = []
    for kind in ("binary", "classes", "vectors", "adversary", "posthoc", "speed"):
        chosen = [r for r in records if r["cell"]["data"] == kind]
        if chosen:
            parts.append((vector_table if kind in ("vectors", "posthoc") else flat_table)(chosen))
    return "\n\n".join(parts)


def grouped(records):
    found = {}
    for r in records:
        found.setdefault(r["cell"]["stream"], []).append(r["result"])
    return found


def number(values):
    if isinstance(values[0], str):
        return values[0]
    mean = float(np.mean(values))
    return f"{mean:,.0f}" if abs(mean) >= 1000 else f"{mean:.1e}" if 0 < abs(mean) < 1e-4 else f"{mean:.3f}"


def flat_table(records):
    groups = grouped(records)
    names = list(next(iter(groups.values()))[0])
    lines = [f"| {records[0]['cell']['data']} | seeds | {' | '.join(names)} |", "|" + "---|" * (len(names) + 2)]
    for stream, results in groups.items():
        lines.append(f"| {stream} | {len(results)} | {' | '.join(number([r[n] for r in results]) for n in names)} |")
    return "\n".join(lines)


def vector_table(records):
    groups = grouped(records)
    inner = [n for n, v in next(iter(groups.values()))[0].items() if isinstance(v, dict)]
    columns = list(next(iter(groups.values()))[0][inner[0]])
    lines = [f"| stream, method | seeds | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 2)]
    for stream, results in groups.items():
        about = {n: number([r[n] for r in results]) for n, v in results[0].items() if not isinstance(v, dict)}
        if about:
            told = ", ".join(f"{n} {v}" for n, v in about.items())
            lines.append(f"| **{stream}** ({told}) | {len(results)} |" + " |" * len(columns))
        for name, value in results[0].items():
            if isinstance(value, dict):
                row = [number([r[name][k] for r in results]) if k in value else "–" for k in columns]
                lines.append(f"| {stream}, {name} | {len(results)} | {' | '.join(row)} |")
    return "\n".join(lines)
