"""Tables: reading, encoding as scikit-learn does, fitting, storing, predicting; bad tables in one sentence each."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from corollary.certificates import load_certificate
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.losses import SurrogateClassifier
from corollary.metrics import (
    FBeta,
    fit_encoder,
    fit_table,
    iso_line,
    load_classifier,
    predict_table,
    read_table,
    split_target,
)
from corollary.metrics._encoder import TableEncoder
from corollary.metrics._fit_table import rescored
from corollary.metrics._network import EPOCHS, fit_network
from corollary.metrics._table import Words
from corollary.runs import RunFolder


def write_rows(path, n=900, seed=0, *, header=True, classes=2):
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=n), rng.integers(0, 3, n)
    score = 1.5 * x + z - 2.5 + rng.logistic(size=n)
    y = (score > 0).astype(int) + (score > 2 if classes == 3 else 0)
    names = [["no", "yes", "sure"][v] for v in y]
    lines = ["x, job, same, 'label'"] if header else []
    for i in range(n):
        value = "?" if i % 50 == 7 else f"{x[i]:.6f}"
        lines.append(f" {value}, '{['clerk', 'smith', 'none'][z[i]]}', 1, \"{names[i]}{'.' if i % 2 else ''}\"")
    path.write_text("\n".join(lines) + "\n\n")
    return path


def test_reading_rules(tmp_path):
    table = read_table(write_rows(tmp_path / "t.csv"))
    assert table.names == ["x", "job", "same", "label"]
    assert np.isnan(table.columns["x"]).sum() == 18
    assert set(table.columns["job"].texts()) == {"clerk", "smith", ""}
    features, labels = split_target(table, "label")
    assert set(labels) == {"yes", "no"}
    assert features.names == ["x", "job", "same"]
    assert (split_target(table, "-1")[1] == labels).all()
    bare = read_table(write_rows(tmp_path / "u.csv", header=False), header=False)
    assert bare.names == ["0", "1", "2", "3"]
    (tmp_path / "s.csv").write_text("a;b\n1;2,5\n")
    assert read_table(tmp_path / "s.csv").columns["b"].texts().tolist() == ["2,5"]


def test_parquet_equals_csv(tmp_path):
    table = read_table(write_rows(tmp_path / "t.csv"))
    columns = {n: c.texts() if isinstance(c, Words) else c for n, c in table.columns.items()}
    parquet.write_table(
        pa.table({n: pa.array(c, from_pandas=True) for n, c in columns.items()}), tmp_path / "t.parquet"
    )
    again = read_table(tmp_path / "t.parquet")
    assert np.array_equal(fit_encoder(again).transform(again), fit_encoder(table).transform(table))


def test_encoder_is_scikit_learns(tmp_path):
    table, _ = split_target(read_table(write_rows(tmp_path / "t.csv")), "label")
    encoder = fit_encoder(table)
    assert encoder.dropped == {"same": "constant"}
    ours = encoder.transform(table)
    raw = np.column_stack([table.columns["x"], table.columns["job"].texts()]).astype(object)
    theirs = ColumnTransformer(
        [("x", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), [0]), ("j", OneHotEncoder(), [1])]
    ).fit_transform(raw)
    assert np.allclose(ours[:, 0], theirs[:, 0].astype(float), atol=1e-12)
    assert {tuple(c) for c in ours[:, [1, 2, 4]].T} == {tuple(c) for c in theirs[:, 1:].astype(float).T}
    again = TableEncoder.from_plain(encoder.as_plain())
    assert np.array_equal(again.transform(table), ours)
    table.columns["job"] = Words(np.zeros(len(table), np.int32), ["baker"])
    assert again.transform(table)[:, 3].all()  # a word never seen is a rare one


def test_fit_certify_store_predict(tmp_path):
    data = write_rows(tmp_path / "t.csv")
    with RunFolder(tmp_path / "run", {"verb": "fit"}) as run:
        result = fit_table(run, data, target="label", metric="f1")
        again = fit_table(run, data, target="label", metric="f1")
    assert result == again  # what was finished is read, not computed
    assert result["labels"]["positive"] == "yes"
    assert result["bound"] < result["value"]
    assert result["certified"].startswith("F1 ≥")
    assert set(result["peers"]) >= {"threshold 0", "plug-in threshold", "AnyLoss"}
    certificate, evidence = load_certificate(tmp_path / "run")
    assert certificate.check(**evidence).status.name == "HOLDS"
    out = predict_table(tmp_path / "run", data, out=tmp_path / "p.csv")
    assert set(out["prediction"]) == {"yes", "no"}
    truth = split_target(read_table(data), "label")[1]
    assert FBeta().score(truth == "yes", out["prediction"] == "yes") == pytest.approx(result["value"], abs=0.1)
    first = (tmp_path / "p.csv").read_text().splitlines()
    assert first[0] == "prediction,p(no),p(yes)"
    assert len(first) == 901
    assert not list((tmp_path / "run").rglob("*.pkl"))


@pytest.mark.parametrize("model", ["linear", "mlp", "gbdt"])
@pytest.mark.parametrize("classes", [2, 3])
def test_every_model_comes_back_the_same(tmp_path, model, classes):
    data = write_rows(tmp_path / "t.csv", n=400, classes=classes)
    with RunFolder(tmp_path / "run", {}) as run:
        result = fit_table(run, data, model=model, peers=False, certify=0.3, search="dinkelbach")
    classifier, encoder, _ = load_classifier(tmp_path / "run" / "model")
    table, labels = split_target(read_table(data), "label")
    out = predict_table(tmp_path / "run", data)
    assert (out["score"] == classifier.decision_function(encoder.transform(table))).all()
    assert (out["prediction"] == labels).mean() > 0.55
    assert result["labels"]["positive"] == ("yes" if classes == 2 else None)
    assert np.sum(result["report"]["confusion"]) == result["rows"]["held out"]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("loss", ["gla", "comp_sum"])
def test_metro_over_a_network_that_a_loss_trained(tmp_path, loss, classes):
    data = write_rows(tmp_path / "t.csv", n=500, classes=classes)
    with RunFolder(tmp_path / "run", {}) as run:
        result = fit_table(run, data, model="mlp", loss=loss, peers=classes == 2, certify=0.3)
    classifier, encoder, _ = load_classifier(tmp_path / "run" / "model")
    table, _ = split_target(read_table(data), "label")
    assert (encoder.loss, encoder.transform(table).shape) == (loss, (500, 64))
    out = predict_table(tmp_path / "run", data)
    assert (out["score"] == classifier.decision_function(encoder.transform(table))).all()
    assert result["value"] > (0.5 if classes == 2 else 0.35)
    assert result["features"] == 5
    certificate, stored = load_certificate(tmp_path / "run")
    if classes == 2:  # three classes leave fewer than 30 rows to one
        assert certificate.check(**stored).status.name == "HOLDS"
    for name, again in rescored(tmp_path / "run", None).items():
        assert (stored[name] == again).all()
    weights = tmp_path / "run" / "model" / "model.json"
    weights.write_text(weights.read_text().replace('"layers": 1', '"layers": 2'))
    with pytest.raises(InvalidFileError, match="do not fit together"):
        load_classifier(tmp_path / "run" / "model")


def test_the_network_of_a_loss_does_not_see_the_rows_that_choose(tmp_path):
    table, labels = split_target(read_table(write_rows(tmp_path / "t.csv", n=400)), "label")
    encoder = fit_encoder(table)
    _, split = fit_network(encoder, table, labels, loss="gla", hidden=8, seed=3)
    ((learn, choose),) = split.split(labels)
    other = labels.copy()
    other[choose] = np.roll(other[choose], 1)
    one = fit_network(encoder, table, labels, loss="gla", hidden=8, seed=3)[0]
    X = encoder.transform(table)
    options = {"loss": "gla", "hidden": (8,), "epochs": EPOCHS, "seed": 3}
    network = SurrogateClassifier(**options).fit(X[learn], labels[learn])
    assert np.allclose(one.transform(table), network.hidden_features(X), atol=1e-5)  # float32 there
    two = fit_network(encoder, table, other, loss="gla", hidden=8, seed=3)[0]
    assert sorted([*learn, *choose]) == list(range(400))
    assert (one.layers[0][0] == two.layers[0][0]).all()


def test_a_loss_wants_a_network(tmp_path):
    data = write_rows(tmp_path / "t.csv", n=200)
    for options, message in (
        ({"loss": "gla"}, "choose the model mlp"),
        ({"model": "mlp", "loss": "glad"}, "`loss` must be one of"),
    ):
        with RunFolder(tmp_path / "run", {}, overwrite=True) as run, pytest.raises(InvalidInputError, match=message):
            fit_table(run, data, peers=False, **options)


def test_a_test_file_and_a_named_positive(tmp_path):
    data, test = write_rows(tmp_path / "t.csv", classes=3), write_rows(tmp_path / "u.csv", seed=1, classes=3)
    with RunFolder(tmp_path / "run", {}) as run:
        result = fit_table(run, data, test=test, positive="sure", metric="balanced-accuracy", peers=False)
    assert result["rows"] == {"training": 900, "held out": 900}
    assert set(predict_table(tmp_path / "run", test)["prediction"]) == {"sure", "not sure"}
    plane = result["report"]["plane"]
    assert 0 < plane["chosen"]["recall"] <= 1
    assert len(plane["recall"]) == len(plane["precision"]) <= 200


def test_iso_lines_are_level_sets():
    recall, value, pi = np.linspace(0.4, 0.99, 30), 0.5, 0.2
    for metric in (FBeta(1.0), FBeta(2.0)):
        precision = iso_line(metric, value, recall, pi)
        known = ~np.isnan(precision)
        tp = pi * recall[known]
        fp = tp / precision[known] - tp
        counts = np.stack([tp, fp, pi - tp, 1 - pi - fp], -1)
        assert known.sum() > 10
        assert np.allclose(metric.value(counts), value)


BAD_FILES = {
    "empty": ("", "empty"),
    "header only": ("a,b\n", "no rows"),
    "ragged": ("a,b\n1,2\n1,2,3\n", "line 3 has 3 values where 2"),
    "twice": ("a,a\n1,2\n", "two columns are named 'a'"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(tmp_path, name):
    content, message = BAD_FILES[name]
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(InvalidFileError, match=message):
        read_table(tmp_path / "t.csv")


def test_foreign_files(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00\x81" * 9)
    with pytest.raises(InvalidFileError, match="not a text file"):
        read_table(tmp_path / "t.csv")
    (tmp_path / "t.parquet").write_bytes(b"no")
    with pytest.raises(InvalidFileError, match="not a Parquet file"):
        read_table(tmp_path / "t.parquet")
    with pytest.raises(InvalidFileError, match="no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(InvalidFileError):
        load_classifier(tmp_path)
    parquet.write_table(pa.table({"x": [[1], [2]]}), tmp_path / "l.parquet")
    with pytest.raises(InvalidFileError, match="holds list"):
        read_table(tmp_path / "l.parquet")


BAD_TABLES = {
    "one label": ("x,y\n" + "1,a\n2,a\n" * 20, {}, "one label only"),
    "no target": ("x,y\n1,a\n2,b\n", {"target": "z"}, "has no column 'z'"),
    "missing labels": ("x,y\n1,a\n2,\n3,b\n", {}, "1 of 3 rows have no 'y'"),
    "only a target": ("y\na\nb\n", {}, "no column beside"),
    "only constants": ("x,y\n" + "1,a\n1,b\n" * 20, {}, "no column of .* can be learned"),
    "a number to regress on": ("x,y\n" + "".join(f"{i},{i / 7}\n" for i in range(60)), {}, "is it a number"),
    "no such positive": ("x,y\n" + "1,a\n2,b\n" * 20, {"positive": "c"}, "no row labelled 'c'"),
    "infinite": ("x,y\n" + "inf,a\n2,b\n" * 20, {}, "infinite"),
    "too few": ("x,y\n1,a\n2,b\n", {}, "one label only|leaves nothing"),
    "unknown model": ("x,y\n1,a\n2,b\n", {"model": "tree"}, "`model` must be"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables(tmp_path, name, as_shipped):
    content, options, message = BAD_TABLES[name]
    (tmp_path / "t.csv").write_text(content)
    with RunFolder(tmp_path / "run", {}) as run, pytest.raises(InvalidInputError, match=message):
        fit_table(run, tmp_path / "t.csv", **options)


def test_words_where_numbers_are_due_and_absent_columns(tmp_path):
    with RunFolder(tmp_path / "run", {}) as run:
        fit_table(run, write_rows(tmp_path / "t.csv"), peers=False)
    (tmp_path / "u.csv").write_text("x,job,same\nhigh,clerk,1\n")
    with pytest.raises(InvalidInputError, match="'high' where numbers are due"):
        predict_table(tmp_path / "run", tmp_path / "u.csv")
    (tmp_path / "u.csv").write_text("x,same\n1,1\n")
    with pytest.raises(InvalidInputError, match="lacks the columns job"):
        predict_table(tmp_path / "run", tmp_path / "u.csv")


def test_damaged_models(tmp_path):
    with RunFolder(tmp_path / "run", {}) as run:
        fit_table(run, write_rows(tmp_path / "t.csv", n=300), model="gbdt", peers=False, search="dinkelbach")
    trees = tmp_path / "run" / "model" / "trees0.skops"
    trees.write_bytes(trees.read_bytes()[:100])
    with pytest.raises(InvalidFileError, match="not a skops file"):
        load_classifier(tmp_path / "run" / "model")
    weights = tmp_path / "run" / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(InvalidFileError, match="not a safetensors"):
        load_classifier(tmp_path / "run" / "model")


def test_a_label_of_a_test_file_that_training_never_saw(tmp_path):
    data, test = write_rows(tmp_path / "t.csv", classes=3), tmp_path / "u.csv"
    test.write_text("x,job,same,label\n" + "1,clerk,1,maybe\n" * 40)
    with RunFolder(tmp_path / "run", {}) as run, pytest.raises(InvalidInputError, match="'maybe', which no training"):
        fit_table(run, data, test=test)


@pytest.mark.slow
def test_a_million_rows_within_memory(tmp_path):
    import resource

    path, rng = tmp_path / "big.csv", np.random.default_rng(0)
    with path.open("w") as file:
        file.write("a,b,c,job,y\n")
        for _ in range(100):
            x = rng.normal(size=(10_000, 3))
            y = x[:, 0] + rng.logistic(size=10_000) > 2
            file.writelines(
                f"{a:.5f},{b:.5f},{c:.5f},w{int(9 * abs(b))},{int(v)}\n" for (a, b, c), v in zip(x, y, strict=True)
            )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with RunFolder(tmp_path / "run", {}) as run:
        result = fit_table(run, path, peers=False)
    assert result["bound"] > 0.3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4 << 20  # KiB: under 4 GiB
