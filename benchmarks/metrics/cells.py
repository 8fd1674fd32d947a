"""Benchmark of `corollary.metrics`: METRO against its peers, all linear, on plain random splits of real tables.

A cell is one split of one data set and one metric; its result is the test metric of every method, so methods are paired
on the same rows. All methods share l2 = 1e-4 on standardised features, and 5 folds of the training rows for whatever
they tune. Real data is found through COROLLARY_DATA. Further cells: `c1`, `c2` (regression targets of the
specification), `macro` and `multilabel` (several classes or labels), `speed` (ratios of interleaved runs).
"""

import os
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

METRICS = ("f1", "f2", "jaccard", "balanced-accuracy")
L2 = 1e-4
POSITIVE = {
    "adult": ">50K",
    "mammography": "1",
    "phoneme": "1",
    "pima": "1",
    "haberman": "2",
    "german": "2",
    "abalone": "9",
}
FILES = {"pima": ("pima-indians-diabetes",), "adult": ("adult-train", "adult-test")}
SMALL = ("pima", "haberman", "german")
TRAIN = {"adult": 5_000}  # of 48,842; elsewhere 60 % of the rows


def cells(data, seeds, metrics=METRICS):
    """Whole seeds first."""
    return [{"data": d, "metric": m, "seed": s} for s in seeds for d in data for m in metrics]


EXTRA = [{"data": d, "metric": m, "seed": s} for s in range(5) for d in ("c1", "c2") for m in METRICS[:3]]
SEVERAL = [
    {"data": d, "metric": m, "seed": s} for s in range(5) for d in ("macro", "multilabel") for m in ("f1", "jaccard")
]
SPEED = [{"data": "speed", "metric": "f1", "seed": s} for s in range(3)]
REST = ("adult", "mammography", "phoneme", "abalone", "digits")
QUICK = [*cells((*SMALL, "digits"), range(2)), EXTRA[0], SPEED[0]]
DEFAULT = [*SPEED, *EXTRA, *SEVERAL, *cells((*SMALL, *REST), range(10)), *cells(SMALL, range(10, 20))]
FULL = [*DEFAULT, *cells(REST, range(10, 20))]


def run_cell(cell):
    """One cell of the grid, as plain values."""
    if cell["data"] == "speed":
        return speed_cell(cell)
    if cell["data"] in ("macro", "multilabel"):
        return several_cell(cell)
    X, y, Xt, yt, folds = binary_data(cell["data"], cell["seed"])
    return compare(methods(cell["metric"], folds), cell["metric"], X, y, Xt, yt)


def methods(metric, folds=5):
    """Every method by name; `folds` also may be a splitter."""
    from corollary import metrics as m

    shared = {"l2": L2, "validation": folds}
    beta = {"f2": 2.0}.get(metric, 1.0)
    return {
        "threshold 0": m.PlainClassifier(metric, l2=L2),
        "plug-in threshold": m.PlugInClassifier(metric, **shared),
        "Koyejo 1": m.PlugInClassifier(metric, l2=L2, validation=0.5, refit=False),
        "Koyejo 2": m.WeightedGridClassifier(metric, **shared),
        "Parambath": m.WeightedGridClassifier(metric, grid="f-beta", beta=beta, **shared),
        "Narasimhan": m.BisectionPlugIn(metric, **shared),
        "AnyLoss": m.SoftMetricClassifier(metric, l2=L2),
        "soft metric": m.SoftMetricClassifier(metric, amplify=None, l2=L2),
        "scikit-learn tuned": "tuned",
        "METRO grid": m.MetroClassifier(metric, **shared),
        "METRO bisect": m.MetroClassifier(metric, search="bisect", **shared),
        "METRO Dinkelbach": m.MetroClassifier(metric, search="dinkelbach", **shared),
        "METRO rho-margin": m.MetroClassifier(metric, surrogate="rho_margin", search="dinkelbach", **shared),
        "METRO auto": "auto",  # the one of grid and rho-margin that validation prefers, which are fitted anyway
        "METRO grid + threshold": m.MetroClassifier(metric, tune_threshold=True, **shared),
    }


def tuned_threshold(metric, n, folds):
    """What a scikit-learn user has today, on the same linear model."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import TunedThresholdClassifierCV

    from corollary.metrics import get_metric

    def quiet(y, h):
        from corollary.metrics import confusion

        return float(get_metric(metric).value(confusion(y, h), undefined="zero"))

    model = LogisticRegression(C=1 / (L2 * n), max_iter=2000)
    return TunedThresholdClassifierCV(model, scoring=make_scorer(quiet), cv=folds)


def compare(candidates, metric, X, y, Xt, yt):
    """Test metric of every candidate."""
    from corollary.metrics import confusion, get_metric

    out, measured = {}, {}
    for name, model in candidates.items():
        if model == "auto":
            better = max(("METRO grid", "METRO rho-margin"), key=measured.__getitem__)
            out[name] = out[better]
            continue
        if isinstance(model, str):
            model = tuned_threshold(metric, len(y), candidates["METRO grid"].validation)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # solvers of peers that stop at their limit
            guess = model.fit(X, y).predict(Xt)
        out[name] = round(float(get_metric(metric).value(confusion(yt, guess), undefined="zero")), 5)
        measured[name] = getattr(model, "validation_score_", None)
    return out


def binary_data(name, seed):
    """Standardised features and truth of a plain random split, and the folds for tuning."""
    if name == "c1":
        return c1_world(seed)
    if name in ("digits", "c2"):
        X, y = digits()
    else:
        X, y = real_table(name)
    rng = np.random.default_rng([seed, 0x11])
    order = rng.permutation(len(y))
    if name == "c2":  # 5 % of the labels flipped; 800 / 400 / 597 rows
        y = y ^ (rng.random(len(y)) < 0.05)
        X = X / 16
        train, test = order[:1200], order[1200:]
        return X[train], y[train], X[test], y[test], last_rows(800, 1200)
    count = TRAIN.get(name, round(0.6 * len(y)))
    train, test = order[:count], order[count:]
    mean, scale = X[train].mean(0), np.maximum(X[train].std(0), 1e-9)
    return (X[train] - mean) / scale, y[train], (X[test] - mean) / scale, y[test], 5


def last_rows(first, count):
    """One fold: the rows from `first` on validate."""
    from sklearn.model_selection import PredefinedSplit

    return PredefinedSplit(np.where(np.arange(count) < first, -1, 0))


def digits():
    """The digit 8 against the rest."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return X, y == 8


def real_table(name):
    """Features and truth of a table below COROLLARY_DATA."""
    from corollary.metrics import fit_encoder, read_table, split_target

    folder = os.environ.get("COROLLARY_DATA")
    if not folder:
        raise SystemExit("set COROLLARY_DATA to the folder with tabular/*.csv; see the page on data")
    parts = [
        split_target(read_table(Path(folder) / "tabular" / f"{file}.csv", header=False), "-1")
        for file in FILES.get(name, (name,))
    ]
    encoder = fit_encoder(parts[0][0])
    X = np.vstack([encoder.transform(features) for features, _ in parts])
    return X, np.concatenate([labels for _, labels in parts]) == POSITIVE[name]


def c1_world(seed):
    """Run C1 of the specification: 8 % positives, a cloud of negatives inside them, lines only."""
    rng = np.random.default_rng([seed, 0xC1])
    n = 46_000
    kind = rng.choice(3, size=n, p=[0.08, 0.72, 0.20])
    centre = np.array([[0.0, 0.0], [-7.0, 0.0], [1.0, 1.6]])
    spread = np.array([[2.0, 0.5], [1.0, 1.0], [1.5, 0.6]])
    X, y = centre[kind] + spread[kind] * rng.normal(size=(n, 2)), kind == 0
    return X[:6000], y[:6000], X[6000:], y[6000:], last_rows(4000, 6000)


def several_cell(cell):
    """Macro metric of several classes, or of labels: METRO against one tuned threshold a column and the plain rule."""
    from sklearn.datasets import load_digits, make_multilabel_classification
    from sklearn.linear_model import LogisticRegression

    from corollary.metrics import MetroClassifier, best_threshold, get_metric, metric_score, one_against_rest

    metric, seed = cell["metric"], cell["seed"]
    rng = np.random.default_rng([seed, 0x3E])
    if cell["data"] == "macro":  # digits with the classes thinned out, 1 to 10
        X, y = load_digits(return_X_y=True)
        keep = rng.random(len(y)) < np.geomspace(1.0, 0.1, 10)[y]
        X, y = X[keep] / 16 + 0.35 * rng.normal(size=(keep.sum(), 64)), y[keep]
    else:
        X, y = make_multilabel_classification(3000, 20, n_classes=6, n_labels=2, random_state=100 + seed)
        X = (X - X.mean(0)) / X.std(0) + 0.5 * rng.normal(size=X.shape)
    order = rng.permutation(len(X))
    half = len(X) // 2
    train, test = order[:half], order[half:]
    Y = one_against_rest(y, np.unique(y)) if y.ndim == 1 else y > 0
    plain, tuned, held = [], [], np.zeros((half, Y.shape[1]))
    fold = np.empty(half, dtype=int)  # classes dealt out evenly, so that each is in every fold
    fold[np.argsort(y[train], kind="stable") if y.ndim == 1 else np.arange(half)] = np.arange(half) % 5
    for j in range(Y.shape[1]):
        scores = np.zeros(half)
        for k in range(5):
            inside = fold != k
            model = LogisticRegression(C=1 / (1e-3 * inside.sum()), max_iter=3000)
            scores[~inside] = model.fit(X[train][inside], Y[train, j][inside]).decision_function(X[train][~inside])
        model = LogisticRegression(C=1 / (1e-3 * half), max_iter=3000).fit(X[train], Y[train, j])
        cut, _ = best_threshold(get_metric(metric), Y[train, j], scores)
        plain.append(model.decision_function(X[test]))
        held[:, j] = scores
        tuned.append(plain[-1] - cut)
    out = {}
    for name, score in (("threshold 0", np.stack(plain, 1)), ("plug-in threshold", np.stack(tuned, 1))):
        guess = np.unique(y)[score.argmax(1)] if y.ndim == 1 else (score > 0).astype(int)
        out[name] = metric_score(y[test], guess, metric=metric)
    proba = 1 / (1 + np.exp(-np.stack(plain, 1)))
    if (guess := xcolumns(Y[train], 1 / (1 + np.exp(-held)), proba, metric, k=int(y.ndim == 1))) is not None:
        out["xCOLUMNs"] = metric_score(y[test], np.unique(y)[guess.argmax(1)] if y.ndim == 1 else guess, metric=metric)
    for name, surrogate in (("METRO grid", "logistic"), ("METRO auto", "auto")):
        metro = MetroClassifier(metric, l2=1e-3, surrogate=surrogate).fit(X[train], y[train])
        out[name] = metric_score(y[test], metro.predict(X[test]), metric=metric)
    return {name: round(value, 5) for name, value in out.items()}


def xcolumns(truth, proba, test, metric, *, k):
    """What xCOLUMNs predicts, in the environment named by COROLLARY_XCOLUMNS_PYTHON; None without one."""
    python = os.environ.get("COROLLARY_XCOLUMNS_PYTHON")
    if not python:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.npz", Path(folder) / "out.npy"
        np.savez(source, truth=truth, proba=proba, test=test, metric=metric, k=k)
        subprocess.run([python, Path(__file__).with_name("xcolumns_peer.py"), source, target], check=True)
        return np.load(target).astype(int)


def speed_cell(cell):
    """The 25-point grid on adult in units of one plain fit of the same model; interleaved, medians of three."""
    from sklearn.linear_model import LogisticRegression

    from corollary.metrics import Costs, FBeta, LinearProblem

    X, y, *_ = binary_data("adult", cell["seed"])
    grid, metric = np.linspace(0.98, 0.02, 25), FBeta(1.0)

    def plain():
        LinearProblem(X, y, l2=L2).solve(Costs(1.0, 1.0))

    def path():
        problem = LinearProblem(X, y, l2=L2)
        for level in grid:
            problem.solve(metric.costs(level).scaled())

    def cold():
        for level in grid[::6]:
            LinearProblem(X, y, l2=L2).solve(metric.costs(level).scaled())

    def sklearn():
        LogisticRegression(C=1 / (L2 * len(y)), max_iter=2000).fit(X, y)

    seconds = {f.__name__: [] for f in (plain, path, cold, sklearn)}
    for _ in range(5):
        for f in (plain, path, cold, sklearn):
            begun = time.perf_counter()
            f()
            seconds[f.__name__].append(time.perf_counter() - begun)
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        "grid / plain fit": round(median["path"] / median["plain"], 3),
        "grid cold / plain fit": round(median["cold"] / 5 * 25 / median["plain"], 3),
        "grid / scikit-learn fit": round(median["path"] / median["sklearn"], 3),
    }


def table(records):
    """Mean test metric by data set, mean ranks, and paired tests of METRO against the tuned threshold."""
    from scipy.stats import rankdata, wilcoxon

    shown = ("threshold 0", "plug-in threshold", "scikit-learn tuned", "Koyejo 2", "AnyLoss")
    own = ("METRO grid", "METRO auto")
    head = [*shown, *own, *(f"{n} - plug-in, p" for n in own)]
    lines = ["| data, metric | splits | " + " | ".join(head) + " |", "|" + "---|" * (len(head) + 2)]
    ranks, names, groups = [], list(methods("f1")), {}
    for record in records:
        cell = record["cell"]
        if cell["data"] != "speed":
            groups.setdefault((cell["data"], cell["metric"]), []).append(record["result"])

    def mean(results, name):
        return f"{np.mean([r[name] for r in results]):.3f}" if all(name in r for r in results) else "–"

    def against(results, name):
        if not all(name in r for r in results):
            return "–"
        gap = np.array([r[name] - r["plug-in threshold"] for r in results])
        p = f"{wilcoxon(gap).pvalue:.3f}" if len(gap) >= 6 and gap.any() else "–"
        return f"{gap.mean():+.3f}, {p}"

    for (data, metric), results in groups.items():
        row = [*(mean(results, n) for n in (*shown, *own)), *(against(results, n) for n in own)]
        lines.append(f"| {data}, {metric} | {len(results)} | {' | '.join(row)} |")
        if all(set(names) <= set(r) for r in results):
            ranks.append(np.mean([rankdata([-r[n] for n in names]) for r in results], 0))
    if ranks:
        average = np.mean(ranks, 0)
        told = ", ".join(f"{names[i]} {average[i]:.1f}" for i in np.argsort(average))
        lines += ["", f"Mean rank of {len(names)} methods over {len(ranks)} pairs of data and metric: {told}."]
    peer = [f"{' '.join(k)} {mean(r, 'xCOLUMNs')}" for k, r in groups.items() if "xCOLUMNs" in r[0]]
    if peer:
        lines += ["", f"xCOLUMNs on the probabilities of the plain fits: {', '.join(peer)}."]
    speed = [r["result"] for r in records if r["cell"]["data"] == "speed"]
    if speed:
        told = ", ".join(f"{name} {np.median([s[name] for s in speed]):.2f}" for name in speed[0])
        lines += ["", f"Speed, adult with 5,000 training rows, interleaved medians: {told}."]
    return "\n".join(lines)
