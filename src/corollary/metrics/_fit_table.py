"""From a table to a certified classifier, and from a run to predictions: what `corollary fit` and `predict` do.

Rows: `certify` of them (or the whole of `test`) are held out by a plain draw; the others train, their folds choose the
level. Peers are fitted on the same training rows and measured on the same held-out rows, after everything was chosen.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from corollary.certificates import save_certificate
from corollary.errors import InvalidInputError
from corollary.metrics._average import averaged
from corollary.metrics._certify import describe, hold_out
from corollary.metrics._classifier import MetroClassifier
from corollary.metrics._encoder import TableEncoder, fit_encoder
from corollary.metrics._metric import confusion, get_metric
from corollary.metrics._network import NetworkFeatures, fit_network
from corollary.metrics._plots import report_data
from corollary.metrics._storage import KINDS, load_classifier, make_mlp, save_classifier
from corollary.metrics._table import Table, read_table, split_target
from corollary.runs import RunFolder, write_atomically, write_json

Tell = Callable[..., None]
HIDDEN = 64  # units of the network
TREES = 100
COSTLY: dict[str, dict[str, Any]] = {
    "mlp": {"levels": 9, "validation": 0.25},
    "gbdt": {"levels": 9, "validation": 0.25},
}


def fit_table(
    run: RunFolder,
    data: str | Path,
    *,
    target: str = "-1",
    metric: Any = "f1",
    model: str = "linear",
    loss: str | None = None,
    surrogate: str = "logistic",
    search: str = "grid",
    header: bool = True,
    positive: str | None = None,
    test: str | Path | None = None,
    certify: float = 0.25,
    delta: float = 0.05,
    l2: float = 1e-4,
    peers: bool = True,
    seed: int = 0,
    tell: Tell | None = None,
) -> dict[str, Any]:
    r"""Fit a classifier for a metric on a table, certify it, compare it, and fill a run folder.

    Args:
        run: the open run folder; gets `model/`, `certificate.json` with its evidence, and `metrics.json`.
        data: CSV or Parquet file.
        target: name or position of the column of labels.
        metric: a name or a `LinearFractionalMetric`.
        model: `linear`, `mlp` (one hidden layer) or `gbdt` (boosted trees).
        loss: a loss of `corollary.losses` by name (`gla`, `gca`, `comp_sum`, ...) that trains the hidden layer of an
            `mlp`; METRO then trains the last one. By default METRO's own surrogate trains both.
        surrogate: METRO's; `auto` also tries the bounded one and lets validation decide.
        search: `grid`, `bisect` or `dinkelbach`.
        header: whether a CSV file's first row names the columns.
        positive: the positive label; by default the rarer of two. With more than two labels: this one against the rest.
        test: a file of further rows to certify and compare on, instead of holding rows out.
        certify: share of rows held out.
        delta: probability that the certificate may fail.
        l2: regularisation of the linear model and of the peers.
        peers: also fit the peers (two labels only).
        seed: of every draw.
        tell: called with (what, share) as work goes on.

    Returns:
        What `metrics.json` holds: `value`, `bound`, `certified` (a sentence), `level`, `peers`, `report`, ...

    Raises:
        InvalidInputError, InvalidFileError: for tables that cannot be used; one sentence says why.

    Guarantee: that of `certify_metric` on the held-out rows.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> lines = [f"{i % 10},{'yes' if i % 10 > 6 else 'no'}" for i in range(400)]
        >>> _ = (folder / "t.csv").write_text("\n".join(["x,label", *lines]))
        >>> with RunFolder(folder / "run", {"verb": "fit"}) as run:
        ...     result = fit_table(run, folder / "t.csv", target="label", peers=False)
        >>> result["value"], result["bound"] > 0.8
        (1.0, True)
    """
    say: Tell = tell or (lambda *_: None)
    if model not in KINDS:
        raise InvalidInputError(f"`model` must be one of {', '.join(KINDS)}, got {model!r}")
    if loss is not None and model != "mlp":
        raise InvalidInputError(f"`loss` trains a network, but the model is {model!r}; choose the model mlp with it")
    m = get_metric(metric)
    say("reading", 0.0)
    origin: dict[str, Any] = {"data": str(Path(data).resolve()), "test": str(Path(test).resolve()) if test else None}
    origin |= {"target": target, "header": header, "certify": certify, "seed": seed}
    (table, labels), (held_table, held_labels) = learned_and_held(**origin)
    names = check_labels(labels, positive, source=str(data) if test else f"{data}, the rows held out aside,")
    held_names = set(held_labels) - set(names["labels"])
    if held_names and names["positive"] is None:
        raise InvalidInputError(f"{test or data} holds the label {sorted(held_names)[0]!r}, which no training row has")

    def coded(values: np.ndarray) -> np.ndarray:
        """Two labels as rest and positive, in an order that makes the positive one the larger."""
        return values if names["positive"] is None else np.where(values == names["positive"], 1, 0)

    def make(folder: Path) -> None:
        say("training", 0.1)
        columns = fit_encoder(table)
        encoder: TableEncoder | NetworkFeatures = columns
        options: dict[str, Any] = {"search": search, "surrogate": surrogate, "delta": delta, "l2": l2, "seed": seed}
        kind = model
        if loss is not None:
            encoder, options["validation"] = fit_network(
                columns, table, coded(labels), loss=loss, hidden=HIDDEN, seed=seed
            )
            kind = "linear"
        X = encoder.transform(table)
        fitted = make_model(kind, m, X.shape[1], **options).fit(X, coded(labels))
        extra = {"positive": names["positive"], "rest": names["rest"], "origin": origin}
        extra |= {"validation": fitted.validation_score_, "bracket": np.reshape(fitted.bracket_, -1).tolist()}
        save_classifier(folder, fitted, encoder, kind=kind, extra=extra)

    classifier, encoder, extra = run.once("model", make, load_classifier)
    if names["positive"] is not None:
        classifier.classes_ = np.array([0, 1])
    say("certifying", 0.6)
    X, y = encoder.transform(held_table), coded(held_labels)
    truth = classifier._columns(y)
    if test is None:
        note = f"{len(y)} rows held out by a plain draw, seed {seed}"
        certificate = classifier._issue(X, truth, held_out=note)
    else:
        certificate = classifier.certify(X, y)
    save_certificate(run.path, certificate, classifier.evidence_)
    counts = confusion(truth, classifier._columns(classifier.predict(X)))
    result = {
        "verb": "fit",
        "metric": m.name,
        "model": model,
        "loss": loss,
        "rows": {"training": len(labels), "held out": len(y)},
        "features": len(encoder.features),
        "dropped": encoder.dropped,
        "labels": names,
        "level": np.reshape(classifier.level_, -1).tolist(),
        "bracket": extra["bracket"],
        "value": averaged(m, counts, average=classifier.average, undefined="zero"),
        "validation": extra["validation"],
        "bound": certificate.claims[0].rhs if certificate.claims else None,
        "certified": describe(m, certificate),
        "report": report_data(classifier, X, y),
    }
    if peers and names["positive"] is not None:
        say("peers", 0.7)
        plain = encoder.encoder if isinstance(encoder, NetworkFeatures) else encoder
        Z, Zt = plain.transform(table), plain.transform(held_table)

        def measure() -> dict[str, np.ndarray]:
            return fit_peers(m, Z, coded(labels), Zt, y, l2=l2, tell=say)

        result["peers"] = {name: float(value) for name, value in run.stage("peers", measure).items()}
    write_json(run.inside("metrics.json"), result)
    say("done", 1.0)
    return result


def learned_and_held(
    *, data: str, test: str | None, target: str, header: bool, certify: float, seed: int
) -> tuple[tuple[Table, np.ndarray], tuple[Table, np.ndarray]]:
    """Columns and labels of the rows to learn from, and of those to certify on."""
    table, labels = split_target(read_table(data, header=header), target)
    if test is not None:
        return (table, labels), split_target(read_table(test, header=header), target)
    learn, held = hold_out(len(labels), certify, seed=seed)
    return (table.rows(learn), labels[learn]), (table.rows(held), labels[held])


def rescored(run: Path, witness: Any) -> dict[str, np.ndarray]:
    """Truth and predictions of the held-out rows, computed again from the table and the stored model."""
    classifier, encoder, extra = load_classifier(Path(run) / "model")
    _, (table, labels) = learned_and_held(**extra["origin"])
    if extra["positive"] is not None:
        classifier.classes_, labels = np.array([0, 1]), np.where(labels == extra["positive"], 1, 0)
    truth = classifier._columns(labels)
    guess = classifier._columns(classifier.predict(encoder.transform(table)))
    one = truth.shape[1] == 1
    return {"truth": (truth[:, 0] if one else truth) * 1, "prediction": (guess[:, 0] if one else guess) * 1}


def check_labels(labels: np.ndarray, positive: str | None, *, source: str) -> dict[str, Any]:
    """The labels there are, and which is positive (None: several classes, macro average)."""
    found, counts = np.unique(labels.astype(str), return_counts=True)
    if len(found) < 2:
        raise InvalidInputError(f"{source} holds one label only ({found[0]!r}); a classifier needs rows of two classes")
    if positive is not None and positive not in found:
        shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
        raise InvalidInputError(f"{source} has no row labelled {positive!r}; its labels are {shown}")
    if positive is None and len(found) > 2:
        if len(found) > max(20, len(labels) // 5):
            raise InvalidInputError(
                f"the target of {source} has {len(found)} different values in {len(labels)} rows; is it a number? "
                "METRO classifies: choose another target, or name one label as positive"
            )
        return {"labels": found.tolist(), "positive": None, "rest": None}
    chosen = positive if positive is not None else str(found[int(np.argmin(counts))])
    others = [label for label in found.tolist() if label != chosen]
    return {"labels": found.tolist(), "positive": chosen, "rest": others[0] if len(others) == 1 else f"not {chosen}"}


def make_model(kind: str, metric: Any, inputs: int, *, seed: int, **options: Any) -> MetroClassifier:
    """The METRO classifier of a kind of model."""
    estimator: Any = None
    if kind == "mlp":
        estimator = make_mlp(inputs, HIDDEN, seed=seed)
    elif kind == "gbdt":
        from sklearn.ensemble import HistGradientBoostingClassifier

        estimator = HistGradientBoostingClassifier(max_iter=TREES, random_state=seed)
    return MetroClassifier(metric, estimator, seed=seed, **(COSTLY.get(kind, {}) | options))


def fit_peers(
    metric: Any, X: np.ndarray, y: np.ndarray, Xt: np.ndarray, yt: np.ndarray, *, l2: float, tell: Tell
) -> dict[str, np.ndarray]:
    """The metric of every peer, all linear, trained and tuned on the same training rows."""
    from corollary.metrics import _peers as p

    beta = float(metric.name[1:]) if metric.name[:1] == "F" else 1.0
    several = {
        "threshold 0": p.PlainClassifier(metric, l2=l2),
        "plug-in threshold": p.PlugInClassifier(metric, l2=l2),
        "Koyejo 1": p.PlugInClassifier(metric, l2=l2, validation=0.5, refit=False),
        "Koyejo 2": p.WeightedGridClassifier(metric, l2=l2),
        "Parambath": p.WeightedGridClassifier(metric, grid="f-beta", beta=beta, l2=l2),
        "Narasimhan": p.BisectionPlugIn(metric, l2=l2),
        "AnyLoss": p.SoftMetricClassifier(metric, l2=l2),
        "soft metric": p.SoftMetricClassifier(metric, amplify=None, l2=l2),
    }
    out = {}
    for i, (name, peer) in enumerate(several.items()):
        tell(name, 0.7 + 0.3 * i / len(several))
        counts = confusion(yt, peer.fit(X, y).predict(Xt))
        out[name] = np.array(metric.value(counts, undefined="zero"))
    return out


def predict_table(
    run: str | Path, data: str | Path, *, header: bool = True, out: str | Path | None = None
) -> dict[str, np.ndarray]:
    """Predict the rows of a table by the classifier of a run.

    Args:
        run: a folder that `fit_table` filled.
        data: CSV or Parquet file with the columns it was fitted on; further ones are ignored, the target may be absent.
        header: whether a CSV file's first row names the columns.
        out: a CSV file to write: `prediction`, and `p(label)` for each label.

    Returns:
        `prediction` (n,) labels, `score` (n,) or (n, K), `probability` (n, K) where the model has one.

    Raises:
        InvalidFileError, InvalidInputError: for a run or a table that cannot be used.

    Guarantee: none for single rows; the run's certificate is about rows drawn as its held-out rows were.

    Example:
        >>> predict_table("no/such/run", "new.csv")
        Traceback (most recent call last):
        ...
        corollary.errors.InvalidFileError: no/such/run/model/model.json: there is no such file; check the path
    """
    classifier, encoder, extra = load_classifier(Path(run) / "model")
    X = encoder.transform(read_table(data, header=header))
    if extra["positive"] is not None:
        classifier.classes_ = np.array([extra["rest"], extra["positive"]], dtype=object)
    result = {"prediction": classifier.predict(X), "score": classifier.decision_function(X)}
    if hasattr(classifier, "predict_proba"):
        result["probability"] = classifier.predict_proba(X)
    if out is not None:
        write_atomically(Path(out), _as_csv(classifier.classes_, result))
    return result


def _as_csv(classes: np.ndarray, result: dict[str, np.ndarray]) -> str:
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    shown = result.get("probability")
    writer.writerow(["prediction", *(f"p({c})" for c in classes if shown is not None)])
    for i, label in enumerate(result["prediction"]):
        writer.writerow([label, *(f"{p:.6g}" for p in (shown[i] if shown is not None else ()))])
    return buffer.getvalue()
