"""Tables of predictions: streamed, written, certified; audits; bad tables in one sentence each."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from corollary.certificates import load_certificate
from corollary.coherence import Columns, cohere_table, project, project_orbits
from corollary.coherence import _stream as module
from corollary.coherence._stream import read_rows
from corollary.coherence._table import Sums
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.runs import RunFolder


def write_table(path, q, orbit, **more):
    columns = {"x": orbit, **{f"p_{k}": q[:, k] for k in range(q.shape[1])}, **more}
    parquet.write_table(pa.table(columns), path)
    return path


@pytest.fixture
def table(tmp_path, rng):
    """600 rows of 150 orbits in any order, with weights, transformations and labels."""
    orbit = rng.permutation(np.repeat(np.arange(150), 4))
    q = rng.dirichlet(np.ones(3), size=600)
    more = {
        "w": rng.uniform(0.1, 1, 600),
        "t": rng.choice(["plain", "lower"], 600),
        "y": rng.integers(0, 3, 600).astype(str),
    }
    return write_table(tmp_path / "p.parquet", q, orbit, **more), q, orbit, more


@pytest.mark.parametrize("divergence", ["kl", "squared"])
@pytest.mark.parametrize("batch", [64, 1 << 16])
def test_streamed_equals_in_memory(table, tmp_path, divergence, batch, monkeypatch):
    path, q, orbit, more = table
    monkeypatch.setattr(module, "BATCH", batch)
    columns = Columns("x", ("p_*",), weight="w", transform="t", label="y")
    with RunFolder(tmp_path / "run", {"verb": "cohere"}) as run:
        told = cohere_table(run, path, columns, divergence=divergence)
    found, index = project_orbits(np.log(q), orbit, weights=more["w"], divergence=divergence)
    name = "predicted_gain" if divergence == "kl" else "brier_gain"
    assert told[name] == pytest.approx(found.gain.mean(), abs=1e-12)
    written = parquet.read_table(tmp_path / "run" / "coherent.parquet")
    assert np.allclose(np.stack([written[f"p_{k}"] for k in range(3)], 1), found.probs[index])
    assert written["x"].to_pylist() == orbit.tolist()
    assert written["w"].to_pylist() == more["w"].tolist()
    certificate, evidence = load_certificate(tmp_path / "run")
    assert certificate.check(**evidence).status.name == "HOLDS"
    other = {**evidence, "answer": np.log(np.full_like(evidence["answer"], 1 / 3))}
    assert certificate.check(**other).status.name != "HOLDS"
    assert sum(one["rows"] for one in told["by_transform"].values()) == 600
    share = more["w"] / np.bincount(index, more["w"])[index] / 150
    y = more["y"].astype(int)
    assert told["log_loss"]["before"] == pytest.approx(-(share * np.log(q[np.arange(600), y])).sum())
    assert told["log_loss"]["after"] == pytest.approx(-(share * found.log_probs[index, y]).sum())


def test_realised_equals_predicted_where_all_views_have_one_label(tmp_path, rng):
    q, y = rng.dirichlet(np.ones(3), size=(4, 50)), rng.integers(0, 3, 50)
    path = write_table(tmp_path / "p.parquet", q.reshape(-1, 3), np.tile(np.arange(50), 4), y=np.tile(y, 4).astype(str))
    with RunFolder(tmp_path / "run", {}) as run:
        told = cohere_table(run, path, Columns("x", ("p_*",), label="y"))
    assert told["log_loss"]["before"] - told["log_loss"]["after"] == pytest.approx(told["predicted_gain"], abs=1e-12)
    assert told["predicted_gain"] == pytest.approx(project(np.log(q)).gain.mean(), abs=1e-12)


def test_csv_and_named_classes(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("q,prob_cat,prob_dog,y\none,0.9,0.1,cat\none,0.5,0.5,cat\ntwo,0.3,0.7,dog\n")
    with RunFolder(tmp_path / "run", {}) as run:
        told = cohere_table(run, path, Columns("q", ("prob_*",), label="y"))
    assert told["moved"][0]["orbit"] == "one"
    assert told["orbits"] == 2
    assert told["coherent_before"] == 0.5


BAD = {
    "foreign": ("p.parquet", b"not a table", InvalidFileError, "not a readable table"),
    "ending": ("p.txt", b"x", InvalidFileError, "not known"),
    "sums": ("p.csv", b"x,p_0,p_1\na,0.9,0.1\na,0.9,0.3\n", InvalidInputError, "row 1 .* sum to 1.2"),
    "negative": ("p.csv", b"x,p_0,p_1\na,1.1,-0.1\n", InvalidInputError, "row 0 .* negative"),
    "missing": ("p.csv", b"x,p_0,p_1\na,,0.1\n", InvalidInputError, "row 0 .* missing"),
    "text": ("p.csv", b"x,p_0,p_1\na,high,low\n", InvalidInputError, "holds text"),
    "one class": ("p.csv", b"x,p_0\na,1.0\n", InvalidInputError, "at least two classes"),
    "no orbit": ("p.csv", b"z,p_0,p_1\na,0.5,0.5\n", InvalidInputError, "no column 'x' for --orbit"),
    "no rows": ("p.csv", b"x,p_0,p_1\n", (InvalidFileError, InvalidInputError), "no rows|at least"),
    "disjoint": ("p.csv", b"x,p_0,p_1\na,1,0\na,0,1\n", InvalidInputError, "give --floor"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_tables(tmp_path, name, as_shipped):
    file, content, kind, message = BAD[name]
    (tmp_path / file).write_bytes(content)
    with RunFolder(tmp_path / "run", {}) as run, pytest.raises(kind, match=message):
        cohere_table(run, tmp_path / file, Columns("x", ("p_*",)))
    assert not (tmp_path / "run" / "coherent.parquet").exists()


def test_other_columns_are_refused(table, tmp_path, as_shipped):
    path = table[0]
    for columns, message in (
        (Columns("x", ("p_*",), label="t"), "none of the classes"),
        (Columns("x", ("p_*",), weight="t"), "holds text"),
    ):
        with RunFolder(tmp_path / "run", {}, overwrite=True) as run, pytest.raises(InvalidInputError, match=message):
            cohere_table(run, path, columns)
    with (
        RunFolder(tmp_path / "run", {}, overwrite=True) as run,
        pytest.raises(InvalidInputError, match="kl or squared"),
    ):
        cohere_table(run, path, Columns("x", ("p_*",)), divergence="tv")


def test_a_full_disk_leaves_nothing_half_written(table, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet.ParquetWriter, "write_table", full)
    with RunFolder(tmp_path / "run", {}) as run, pytest.raises(OSError, match="No space"):
        cohere_table(run, table[0], Columns("x", ("p_*",)))
    left = {p.name for p in (tmp_path / "run").iterdir()}
    assert not left & {"coherent.parquet", "coherent.partial", "metrics.json", "certificate.json"}


def test_memory_grows_with_the_orbits_only(rng):
    sums = Sums(3, False)
    for i in range(60):
        names = module.Names(np.repeat(np.arange(10), 4), list(range(5 * i, 5 * i + 10)))  # half of them seen before
        logs = np.log(rng.dirichlet(np.ones(3), size=40))
        sums.add(module.Part(names, logs, np.ones(40), None, None, None))
    assert len(sums.number) == 305
    assert len(sums.weight) <= 2 * 305
    assert sums.answer("kl")[1].shape == (305,)


def test_rows_for_audits(table):
    orbit, logs = read_rows(table[0], Columns("x", ("p_*",)))
    assert orbit.tolist() == [str(o) for o in table[2]]
    assert np.allclose(np.exp(logs), table[1])


def test_metrics_are_plain(table, tmp_path):
    with RunFolder(tmp_path / "run", {}) as run:
        told = cohere_table(run, table[0], Columns("x", ("p_*",), transform="t"))
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == json.loads(json.dumps(told))
    shutil.rmtree(tmp_path / "run")
