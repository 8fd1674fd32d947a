"""Benchmark of `corollary.coherence`: predicted against realised gain, beside averaging, votes, and training on views.

Cells: `digits` (section 5 of the specification: 9 cyclic shifts, logistic regression), `cifar` (a small convolutional
network on half of the images with labels, shifts and mirror images as views, distilled on the other half without
labels, beside a network trained on the same views with labels), `speed` (a million inputs). All log-losses are means
over the orbit unless they say `original`.
"""

import io
import os
import time
from pathlib import Path

import numpy as np

QUICK = [{"data": "digits", "seed": 0}]
DEFAULT = [
    *({"data": "digits", "seed": s} for s in range(6)),
    *({"data": "cifar", "seed": s} for s in range(3)),
    *({"data": "tofu", "seed": s} for s in range(3)),
    {"data": "speed", "seed": 0},
]
FULL = DEFAULT


def run_cell(cell):
    """One cell of the grid, as plain values."""
    return {"digits": digits, "cifar": cifar, "tofu": tofu, "speed": speed}[cell["data"]](cell["seed"])


def figures(views, y):
    """Log-loss, Brier score and accuracy of the views, of both means, and of the majority of the views."""
    from corollary.coherence import project

    n, k = views.shape[1:]
    rows, truth = np.arange(n), np.eye(k)[y]
    kl, mean = project(views), project(views, divergence="squared")
    votes = np.stack([np.bincount(column, minlength=k) for column in views.argmax(-1).T])

    def brier(p):
        return float(((p - truth) ** 2).sum(-1).mean())

    before = float(-views[:, rows, y].mean())
    found = {
        "log-loss": before,
        "log-loss original": float(-views[0][rows, y].mean()),
        "log-loss geometric": float(-kl.log_probs[rows, y].mean()),
        "log-loss arithmetic": float(-mean.log_probs[rows, y].mean()),
        "predicted drop": float(kl.gain.mean()),
        "Brier": brier(np.exp(views)),
        "Brier arithmetic": brier(mean.probs),
        "predicted Brier drop": float(mean.gain.mean()),
        "accuracy": float((views.argmax(-1) == y).mean()),
        "accuracy original": float((views[0].argmax(-1) == y).mean()),
        "accuracy geometric": float((kl.log_probs.argmax(-1) == y).mean()),
        "accuracy arithmetic": float((mean.log_probs.argmax(-1) == y).mean()),
        "accuracy votes": float((votes.argmax(-1) == y).mean()),
    }
    found["error of the prediction"] = abs(before - found["log-loss geometric"] - found["predicted drop"])
    return found


def digits(seed):
    """Section 5: 600 images, each shifted at random, train; the nine shifts of 800 others are the views."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    from corollary.coherence import CoherentClassifier, image_shifts

    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    learn, test = order[:600], order[600:1400]
    shifts = [lambda X, t=t: t(X.reshape(-1, 8, 8)).reshape(-1, 64) for t in image_shifts(1, wrap=True)]
    drawn = np.stack([t(X / 16) for t in shifts])[rng.integers(0, 9, 600), learn]
    model = CoherentClassifier(LogisticRegression(max_iter=2000), shifts).fit(drawn, y[learn])
    found = figures(model.views(X[test] / 16)[1], y[test])
    rest = order[1400:]
    student = _taught_logistic(model, X[np.concatenate([learn, rest])] / 16, shifts)
    found |= {f"distilled {k}": v for k, v in figures(_views(student, X[test] / 16, shifts), y[test]).items()}
    return _rounded(found)


def _taught_logistic(model, X, shifts):
    """The same linear model, taught the projection on all views (kept or not: the specification's figure)."""
    from corollary.coherence._classifier import _teach

    return _teach(model.estimator, model, X)


def _views(estimator, X, transforms):
    with np.errstate(divide="ignore"):
        return np.log(np.stack([estimator.predict_proba(t(X)) for t in transforms]).clip(1e-12))


def network():
    """A small convolutional network for images of 16 x 16."""
    from torch import nn

    def block(i, o):
        return [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*block(3, 24), *block(24, 48), *block(48, 96), nn.Flatten(), nn.Linear(96 * 4, 10))


def cifar(seed):
    """Half of the training images with labels, half without; ten views, five shifts and their mirror images."""
    import torch

    from corollary.coherence import CoherentClassifier, ModuleClassifier

    (X, y), (Xt, yt) = images("cifar10_train15k"), images("cifar10_test5k")
    order = np.random.default_rng(seed).permutation(len(y))
    half = len(y) // 2
    learn, free = order[:half], order[half:]

    def moved(down, right, mirror):
        def apply(Z):
            rows = np.clip(np.arange(16) - down, 0, 15)
            columns = np.clip(np.arange(16) - right, 0, 15)
            Z = Z[:, :, rows][:, :, :, columns]
            return np.ascontiguousarray(Z[..., ::-1]) if mirror else Z

        return apply

    steps = ((0, 0), (0, 2), (0, -2), (2, 0), (-2, 0))
    transforms = [moved(d, r, m) for m in (False, True) for d, r in steps]
    torch.manual_seed(seed)
    net = network()
    shared = {"epochs": 12, "learning_rate": 3e-3, "seed": seed}
    begun = time.perf_counter()
    base = ModuleClassifier(net, **shared).fit(X[learn], y[learn])
    seconds = {"training": time.perf_counter() - begun}
    model = CoherentClassifier(base, transforms, prefit=True).fit(X[learn], y[learn])
    begun = time.perf_counter()
    found = figures(model.views(Xt)[1], yt)
    seconds["ten views of the test images"] = time.perf_counter() - begun
    begun = time.perf_counter()
    student = model.distill(np.concatenate([X[free], X[learn]]))
    seconds["distilling"] = time.perf_counter() - begun
    found |= {f"distilled {k}": v for k, v in figures(student.views(Xt)[1], yt).items()}
    found["distilled share of the gain"] = (found["log-loss"] - found["distilled log-loss"]) / found["predicted drop"]
    peer = ModuleClassifier(net, **shared).fit_soft([t(X[learn]) for t in transforms], np.eye(10)[y[learn]], start=net)
    views = CoherentClassifier(peer, transforms, prefit=True).fit(X[learn], y[learn]).views(Xt)[1]
    found |= {f"trained on views {k}": v for k, v in figures(views, yt).items()}
    return _rounded(found) | {"seconds": {k: round(v, 1) for k, v in seconds.items()}, "rounds": student.rounds_}


def images(name):
    """(n, 3, 16, 16) images in about [-1, 1], halved by averaging, and (n,) labels."""
    from PIL import Image
    from pyarrow import parquet

    folder = os.environ.get("COROLLARY_DATA")
    if not folder:
        raise SystemExit("set COROLLARY_DATA to the folder with images/*.parquet; see the page on data")
    table = parquet.read_table(Path(folder) / "images" / f"{name}.parquet").to_pydict()
    label = next(k for k in table if "label" in k)
    pixels = next(k for k in table if k != label)
    raw = [p["bytes"] if isinstance(p, dict) else p for p in table[pixels]]
    X = np.stack([np.asarray(Image.open(io.BytesIO(one)).convert("RGB"), dtype=np.float32) for one in raw])
    X = X.reshape(-1, 16, 2, 16, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(X / 64 - 2), np.asarray(table[label])


def tofu(seed):
    """One right and five wrong answers to 400 questions: two phrasings; on a quarter the options in cyclic orders."""
    import json
    import re

    from corollary.coherence import option_orders
    from corollary.documents import Documents
    from corollary.models import TransformerConfig, TransformerLM

    folder = os.environ.get("COROLLARY_DATA")
    if not folder:
        raise SystemExit("set COROLLARY_DATA to the folder with tofu/*.json; see the page on data")
    lines = (Path(folder) / "tofu" / "forget10_perturbed.json").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines if line.strip()]

    def words(text):
        return re.findall(r"\w+|[^\w\s]", text.lower())

    texts = [t for r in rows for t in (r["question"], r["answer"], r["paraphrased_question"])]
    known = sorted({w for t in texts for w in words(t)})
    number = {w: i + 3 for i, w in enumerate(known)}  # 0: unknown, 1: end of the question, 2: an option begins

    def coded(text):
        return [number.get(w, 0) for w in words(text)]

    learned = [[*coded(r["question"]), 1, *coded(r["answer"])] for r in rows]
    config = TransformerConfig(vocab_size=len(known) + 3, width=128, layers=2, heads=4, context=512)
    documents = Documents.from_sequences(learned, dtype=np.int32)
    begun = time.perf_counter()
    model = TransformerLM.fit(documents, config=config, steps=250, batch_tokens=4096, lr=3e-3, seed=seed)
    seconds = time.perf_counter() - begun
    memorised = float(np.exp(model.log_probs(documents).mean()))
    options = [[r["paraphrased_answer"], *r["perturbed_answer"]] for r in rows]

    def distribution(prompts, options):
        """(N, 6) log-probabilities: each option's geometric mean probability a token, normalised."""
        sequences, lengths = [], []
        for prompt, given in zip(prompts, options, strict=True):
            for option in given:
                answer = coded(option)
                sequences.append([*prompt, 1, *answer])
                lengths.append(len(answer))
        scored = Documents.from_sequences(sequences, dtype=np.int32)
        logs = np.append(0.0, np.cumsum(model.log_probs(scored), dtype=np.float64))
        last = scored.offsets[1:]
        z = ((logs[last] - logs[last - np.array(lengths)]) / lengths).reshape(-1, 6)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    def listed(question, given, order):
        return [*coded(question), *(token for i in order for token in (2, *coded(given[i])))]

    phrasings = [[coded(r[name]) for r in rows] for name in ("question", "paraphrased_question")]
    right = np.zeros(len(rows), dtype=int)
    found = {"probability of a memorised token": memorised, "training seconds": seconds}
    found |= {
        f"phrasings {k}": v for k, v in figures(np.stack([distribution(p, options) for p in phrasings]), right).items()
    }
    some, given_some = rows[::4], options[::4]
    orders = [
        distribution([listed(r[name], given, order) for r, given in zip(some, given_some, strict=True)], given_some)
        for name in ("question", "paraphrased_question")
        for order in option_orders(6)
    ]
    return _rounded(found | {f"orders {k}": v for k, v in figures(np.stack(orders), right[::4]).items()})


def speed(seed):
    """A million inputs of 10 classes and 8 views, in memory and from a Parquet file."""
    import tempfile

    import pyarrow as pa
    from pyarrow import parquet

    from corollary.coherence import Columns, cohere_table, project
    from corollary.runs import RunFolder

    rng, n = np.random.default_rng(seed), 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        path, writer = Path(folder) / "p.parquet", None
        for start in range(0, n, n // 10):
            q = rng.gamma(1.0, size=(8 * n // 10, 10)).astype(np.float32)
            q /= q.sum(-1, keepdims=True)
            columns = {"x": np.repeat(np.arange(start, start + n // 10), 8), **{f"p_{k}": q[:, k] for k in range(10)}}
            table = pa.table(columns)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
        writer.close()
        begun = time.perf_counter()
        with RunFolder(Path(folder) / "run", {}) as run:
            cohere_table(run, path, Columns("x", ("p_*",)))
        streamed = time.perf_counter() - begun
    views = np.log(rng.dirichlet(np.ones(10), size=(8, n // 10)).astype(np.float32))
    views = np.concatenate([views] * 10, axis=1)
    begun = time.perf_counter()
    project(views)
    return {
        "seconds in memory": round(time.perf_counter() - begun, 2),
        "seconds from Parquet to Parquet": round(streamed, 2),
    }


def _rounded(found):
    return {k: float(f"{v:.6g}") for k, v in found.items()}


def table(records):
    """Means and spreads over the seeds, a column a method."""
    lines = []
    for data in ("digits", "cifar"):
        results = [r["result"] for r in records if r["cell"]["data"] == data]
        if not results:
            continue

        def cell(name, results=results):
            values = [r[name] for r in results if name in r]
            return f"{np.mean(values):.4f} ± {np.std(values):.4f}" if values else "–"

        lines += [f"{data}, {len(results)} seeds, mean over the views unless said otherwise:", ""]
        lines += ["| | log-loss | Brier | accuracy |", "|---|---|---|---|"]
        methods = {
            "each view by itself": ("log-loss", "Brier", "accuracy"),
            "the original only": ("log-loss original", None, "accuracy original"),
            "geometric mean (projection)": ("log-loss geometric", None, "accuracy geometric"),
            "arithmetic mean (test-time averaging)": ("log-loss arithmetic", "Brier arithmetic", "accuracy arithmetic"),
            "majority of the views": (None, None, "accuracy votes"),
            "distilled without labels, one pass": ("distilled log-loss", "distilled Brier", "distilled accuracy"),
        }
        if data == "cifar":
            own = "trained on views"
            methods["trained on the views with labels, one pass"] = (
                f"{own} log-loss",
                f"{own} Brier",
                f"{own} accuracy",
            )
        for method, names in methods.items():
            lines.append(f"| {method} | " + " | ".join("–" if n is None else cell(n) for n in names) + " |")
        error = max(r["error of the prediction"] for r in results)
        told = f"Predicted without labels: log-loss drops by {cell('predicted drop')}, Brier score by "
        told += f"{cell('predicted Brier drop')}; largest difference from the measured drop {error:.1e}."
        if data == "cifar":
            told += f" Distilling keeps {cell('distilled share of the gain')} of the gain."
        lines += ["", told, ""]
    asked = [r["result"] for r in records if r["cell"]["data"] == "tofu"]
    if asked:
        names = ("log-loss", "log-loss geometric", "predicted drop", "accuracy", "accuracy geometric", "accuracy votes")
        lines += [f"TOFU, {len(asked)} seeds, 400 questions with one right and five wrong answers:", ""]
        lines += ["| views | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
        for kind, told in (
            ("phrasings", "two phrasings"),
            ("orders", "two phrasings, options listed in six orders (100 questions)"),
        ):
            means = [np.mean([r[f"{kind} {n}"] for r in asked]) for n in names]
            lines.append(f"| {told} | " + " | ".join(f"{m:.4f}" for m in means) + " |")
        lines.append("")
    timed = [r["result"] for r in records if r["cell"]["data"] == "speed"]
    if timed:
        told = ", ".join(f"{v:.1f} {k}" for k, v in timed[0].items())
        lines += [f"A million inputs, 10 classes, 8 views: {told}."]
    return "\n".join(lines).strip()
