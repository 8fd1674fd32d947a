"""`corollary fit`, `predict` and `verify` on a small table, as a user meets them."""

import json

import numpy as np
import pytest

from conftest import run_command


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """900 rows, a quarter positive, with words and gaps."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("table") / "t.csv"
    x, z = rng.normal(size=900), rng.integers(0, 3, 900)
    y = 1.5 * x + z - 2.5 + rng.logistic(size=900) > 0
    lines = [
        f"{v:.4f},{'abc'[k]},{'?' if i % 30 == 0 else i % 7},{'yes' if t else 'no'}"
        for i, (v, k, t) in enumerate(zip(x, z, y, strict=True))
    ]
    path.write_text("\n".join(["x,kind,n,label", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def fitted(table):
    out = table.parent / "run"
    done = run_command("fit", table, "--target", "label", "--metric", "f2", "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_fit_prints_the_table_and_the_certificate(fitted):
    out, said = fitted
    assert "plug-in threshold" in said
    assert "F2 ≥" in said
    page = (out / "report.html").read_text()
    for heading in ("Against its peers", "Precision and recall", "Calibration", "Confusion matrix"):
        assert heading in page


def test_verify_and_rescore(fitted):
    for extra in ([], ["--rescore"]):
        done = run_command("verify", fitted[0], *extra)
        assert done.returncode == 0, done.stderr + done.stdout
        assert "HOLDS" in done.stdout


def test_predict(fitted, table, tmp_path):
    done = run_command("predict", fitted[0], table, "--out", tmp_path / "p.csv", "--json")
    assert done.returncode == 0, done.stderr
    assert sum(json.loads(done.stdout)["predicted"].values()) == 900
    assert (tmp_path / "p.csv").read_text().startswith("prediction,p(no),p(yes)\n")


def test_a_network_trained_by_a_balanced_loss(table, tmp_path):
    options = ["--model", "mlp", "--loss", "gla", "--surrogate", "auto", "--no-peers", "--out", tmp_path / "run"]
    done = run_command("fit", table, "--target", "label", *options)
    assert done.returncode == 0, done.stderr
    again = run_command("verify", tmp_path / "run", "--rescore")
    assert again.returncode == 0, again.stderr + again.stdout


def test_errors_are_one_sentence(table, tmp_path):
    for arguments, message in (
        (["fit", table, "--target", "lable"], "has no column 'lable'"),
        (["fit", table, "--metric", "mcc"], "not a ratio of linear functions"),
        (["fit", tmp_path / "none.csv"], "no such file"),
        (["fit", table, "--loss", "gla"], "choose the model mlp"),
        (["predict", tmp_path, table], "no such file"),
    ):
        more = ["--out", tmp_path / "run", "--overwrite"] if arguments[0] == "fit" else []
        done = run_command(*arguments, *more)
        assert done.returncode == 1
        assert message in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
