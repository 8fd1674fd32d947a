"""Cells on rejection and on deferral to simulated experts: the regression targets of the notes, redone small.

`reject`: scikit-learn's digits, a weak frozen predictor (20 pixels, 150 images), 1,000 judged images, 647 test images.
`gaussians`: single stage, a realizable mixture of Gaussians with one expert (system accuracy by surrogate).
`digits`: two stages, a predictor of 60 images and one to three experts on parts of the classes, price .05.
`adult`: a cheap and a dear model of the census table; the router sees what the cheap one sees.
"""

import csv
import os
import time
from pathlib import Path

import numpy as np

KINDS = ("reject", "gaussians", "digits", "adult")
CELLS = [{"data": kind, "seed": s} for s in range(3) for kind in KINDS]
MORE = [{"data": kind, "seed": s} for s in range(3, 8) for kind in KINDS]


def run(cell):
    return {"reject": reject, "gaussians": gaussians, "digits": digits, "adult": adult}[cell["data"]](cell["seed"])


def weak_digits(seed):
    """((features, probabilities, good) of the judged rows, of the test rows)."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    x, y = load_digits(return_X_y=True)
    order = rng.permutation(len(y))
    x, y = x[order] / 16, y[order]
    seen = rng.permutation(64)[:20]
    predictor = LogisticRegression(C=0.15, max_iter=500).fit(x[:150][:, seen], y[:150])
    p = predictor.predict_proba(x[:, seen])
    good = predictor.classes_[p.argmax(1)] == y
    features = np.column_stack([np.maximum(x @ rng.normal(size=(64, 300)) / 8 + 0.3 * rng.normal(size=300), 0), p])
    return [(features[rows], p[rows], good[rows]) for rows in (slice(150, 1150), slice(1150, None))]


def reject(seed):
    """Coverage at half the error (threshold on the test rows), AURC, and what the built-in threshold does."""
    from corollary.deferral import (
        Rejector,
        chow_scores,
        coverage_at,
        coverage_limit,
        max_probability,
        rejection_cost,
        risk_coverage_area,
    )

    (train, _, judged), (test, p, good) = weak_digits(seed)
    error = float((~good).mean()) / 2
    scores = {"MaxProb": max_probability(p) - 2.0, "Chow": chow_scores(p, cost=error)}  # MaxProb has no threshold
    for name, options in {
        "cross-entropy": {"loss": "cross-entropy"},
        "surrogate, alpha 1": {},
        "surrogate, alpha 4": {"alpha": 4.0},
        "hinge, alpha 4": {"loss": "hinge"},
        "selective": {"loss": "selective", "coverage": 0.7},
    }.items():
        scores[name] = Rejector(cost=error, **options).fit(train, judged).decision_function(test)
    out = {"error of the predictor": 2 * error, "limit": coverage_limit(2 * error, error), "methods": {}}
    for name, s in scores.items():
        taken = s > 0
        out["methods"][name] = {
            "coverage": coverage_at(s, good, error=error),
            "aurc": risk_coverage_area(s, good),
            "built-in coverage": float(taken.mean()),
            "built-in error": float((~good[taken]).mean()) if taken.any() else None,
            "rejection loss": rejection_cost(s, good, cost=error).item(),
        }
    return out


def mixture(n, rng, world):
    """Realizable: a random linear rejector defers to an expert right there; elsewhere a linear classifier is right."""
    centre, spread, reject_by, label_by, edge = world
    k = rng.integers(len(centre), size=n)
    x = centre[k] + spread[k] * rng.normal(size=(n, centre.shape[1]))
    away = x @ reject_by > edge
    y = np.where(away, rng.integers(2, size=n), (x @ label_by > 0).astype(int))
    return x, y, 1.0 - np.where(away, True, rng.random(n) < 0.5)[:, None]


def gaussians(seed):
    """System accuracy of single-stage surrogates at three sizes; the best is 1."""
    from corollary.deferral import DeferralClassifier

    rng, d, k = np.random.default_rng(seed), 10, 10
    centre, spread = rng.normal(size=(k, d)), rng.random((k, d))
    reject_by, label_by = rng.normal(size=(2, d))
    draw = (centre[rng.integers(k, size=4000)] + rng.normal(size=(4000, d)) * spread.mean()) @ reject_by
    world = centre, spread, reject_by, label_by, np.quantile(draw, rng.uniform(0.2, 0.8))
    test = mixture(5000, rng, world)
    out = {}
    for n in (500, 2000, 7000):
        x, y, costs = mixture(n, rng, world)
        for loss in ("softmax", "one-versus-all", "log", "gce", "mae"):
            model = DeferralClassifier(loss=loss, l2=1e-3, iterations=400).fit(x, y, costs=costs)
            out[f"{loss}, n = {n}"] = 1 - model.cost(*test)
    return out


def digits(seed):
    """System accuracy, and the same less the price of .05 a question, with one, two, three experts."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    from corollary.deferral import TwoStageRouter, deferral_costs

    rng = np.random.default_rng(seed)
    x, y = load_digits(return_X_y=True)
    order = rng.permutation(len(y))
    x, y = x[order] / 16, y[order]
    predictor = LogisticRegression(max_iter=500).fit(x[:60], y[:60])
    own = predictor.predict(x)
    known = ((0, 1, 2, 3), (4, 5, 6), (7, 8, 9))
    experts = np.stack([np.where(np.isin(y, s), y, rng.integers(10, size=len(y))) for s in known], 1)
    rows, test = slice(60, 1000), slice(1000, None)
    out = {"predictor": float((own[test] == y[test]).mean())}
    every = np.arange(len(y[test]))
    for count in (1, 2, 3):
        answers = np.column_stack([own, experts[:, :count]])
        costs = deferral_costs(answers, y, beta=[0.0] + [0.05] * count).numpy()
        for loss in ("compsum-log", "t1", "t2", "ec", "value"):
            router = TwoStageRouter(loss=loss, l2=0.1).fit(x[rows], costs[rows])
            chosen = answers[test][every, router.predict(x[test])]
            out[f"{count} experts, {loss}"] = float((chosen == y[test]).mean())
            out[f"{count} experts, {loss}, less price"] = router.score(x[test], costs[test])
    return out


def census():
    """Numbers and categories of adult: (train x, train y, test x, test y), columns as strings."""
    folder = os.environ.get("COROLLARY_DATA")
    if not folder:
        raise SystemExit("set COROLLARY_DATA to the folder of the benchmark data (see docs/embedded-data.md)")
    tables = []
    for name in ("adult-train", "adult-test"):
        with (Path(folder) / "tabular" / f"{name}.csv").open() as file:
            rows = [[v.strip() for v in row] for row in csv.reader(file) if len(row) == 15]
        table = np.array(rows)
        tables += [table[:, :14], np.char.startswith(table[:, 14], ">50K")]
    return tables


def adult(seed):
    """Cheap: logistic regression on age, hours, education; dear: boosted trees on all columns. Price 1 a dear call."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import OrdinalEncoder, StandardScaler

    from corollary.deferral import TwoStageRouter
    from corollary.deferral.routing import resamples

    x, y, xt, yt = census()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    first, second = order[: len(y) // 2], order[len(y) // 2 :]
    numbers = [0, 2, 4, 10, 11, 12]
    words = [c for c in range(14) if c not in numbers]
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1).fit(x[:, words])

    def full(table):
        return np.column_stack([table[:, numbers].astype(float), encoder.transform(table[:, words])])

    def few(table):
        return table[:, [0, 4, 12]].astype(float)

    scaler = StandardScaler().fit(few(x))
    cheap = LogisticRegression().fit(scaler.transform(few(x[first])), y[first])
    dear = HistGradientBoostingClassifier(random_state=seed).fit(full(x[first]), y[first])

    def seen(table):
        """What the router sees: the cheap model's columns in bins, and how sure it is."""
        z = scaler.transform(few(table))
        p = cheap.predict_proba(z)[:, 1]
        cells = np.clip(np.round(2 * z), -4, 4)
        bins = np.column_stack([(cells == v) for v in range(-4, 5)]).astype(float)
        return np.column_stack([z, z**2, p, np.abs(p - 0.5), bins])

    def wrong(table, truth):
        pair = (
            cheap.predict(scaler.transform(few(table))) != truth,
            dear.predict(full(table)) != truth,
        )
        return np.column_stack(pair).astype(float)

    begun = time.perf_counter()
    router = TwoStageRouter(loss="value", prices=[0.0, 1.0], l2=1.0).fit(seen(x[second]), wrong(x[second], y[second]))
    seconds = time.perf_counter() - begun
    paid, worth = wrong(xt, yt), router.values(seen(xt))
    gain = worth[:, 1] - worth[:, 0]
    parts = {"cheap": 1 - float(paid[:, 0].mean()), "dear": 1 - float(paid[:, 1].mean())}
    out = {"parts": parts, "seconds": round(seconds, 2), "at share": {}}
    for share in (0.25, 0.5, 0.75):
        away = gain > np.quantile(gain, 1 - share)
        right = 1 - np.where(away, paid[:, 1], paid[:, 0])
        mixed = 1 - (share * paid[:, 1] + (1 - share) * paid[:, 0])  # the random mixture of equal cost
        gap = right - mixed
        spread = [gap[rows].mean() for rows in resamples(len(gap), repeats=200, seed=seed)]
        out["at share"][str(share)] = {
            "dear calls": float(away.mean()),
            "accuracy": float(right.mean()),
            "mixture": float(mixed.mean()),
            "gain": float(gap.mean()),
            "interval": [float(v) for v in np.percentile(spread, [2.5, 97.5])],
        }
    return out


def table(records):
    """Markdown of these cells."""
    lines = []
    found = {kind: [r["result"] for r in records if r["cell"]["data"] == kind] for kind in KINDS}
    if found["reject"]:
        here = found["reject"]
        lines += [f"rejection on digits, {len(here)} seeds: coverage at half the error, AURC, built-in threshold", ""]
        lines += [
            "| rejector | coverage | AURC | built-in coverage | built-in error | rejection loss |",
            "|---" * 6 + "|",
        ]
        for name in here[0]["methods"]:
            keys = ("coverage", "aurc", "built-in coverage", "built-in error", "rejection loss")
            cells = [[h["methods"][name][k] for h in here if h["methods"][name][k] is not None] for k in keys]
            lines.append(f"| {name} | " + " | ".join(f"{np.mean(c):.3f}" if c else "" for c in cells) + " |")
        lines += [f"| limit | {np.mean([h['limit'] for h in here]):.3f} | | | | |", ""]
    for kind, title in (
        ("gaussians", "realizable mixture of Gaussians, system accuracy"),
        ("digits", "digits, system accuracy"),
    ):
        if found[kind]:
            lines += [f"{title}, {len(found[kind])} seeds", "", "| setting | mean | sd |", "|---" * 3 + "|"]
            for key in found[kind][0]:
                v = [h[key] for h in found[kind]]
                lines.append(f"| {key} | {np.mean(v):.3f} | {np.std(v):.3f} |")
            lines.append("")
    if found["adult"]:
        here = found["adult"]
        means = {p: np.mean([h["parts"][p] for h in here]) for p in ("cheap", "dear")}
        lines += [f"adult, {len(here)} seeds: cheap {means['cheap']:.4f}, dear {means['dear']:.4f}", ""]
        lines += [
            "| share of dear calls | routed | mixture of equal cost | gain, 95 % (first seed) |",
            "|---" * 4 + "|",
        ]
        for share in here[0]["at share"]:
            at = [h["at share"][share] for h in here]
            low, high = at[0]["interval"]
            a, m, g = (np.mean([v[k] for v in at]) for k in ("accuracy", "mixture", "gain"))
            lines.append(f"| {share} | {a:.4f} | {m:.4f} | {g:+.4f} ({low:+.4f} to {high:+.4f}) |")
        lines.append("")
    return lines
