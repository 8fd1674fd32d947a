"""`corollary cohere` as a user meets it."""

import json

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from conftest import run_command
from corollary.coherence import project_orbits


@pytest.fixture
def predictions(tmp_path):
    rng = np.random.default_rng(0)
    orbit, q = np.repeat([f"q{i}" for i in range(60)], 3), rng.dirichlet(np.ones(3), size=180)
    answer, index = project_orbits(np.log(q), orbit)
    tables = {"before": q, "after": answer.probs[index], "sharper": (s := q**2) / s.sum(1, keepdims=True)}
    for name, p in tables.items():
        columns = {"question": orbit, **{f"p_{k}": p[:, k] for k in range(3)}}
        parquet.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
    return tmp_path


def test_a_run_verifies_and_has_a_page(predictions):
    out = predictions / "run"
    done = run_command("cohere", predictions / "before.parquet", "--orbit", "question", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "predicted drop" in done.stdout
    again = run_command("verify", out)
    assert again.returncode == 0, again.stderr
    page = (out / "report.html").read_text()
    assert "average over the views" in page
    assert "Who moved most" in page
    assert page.index("average over the views") < page.index("whatever the labels are")  # the caution comes first
    second = run_command(
        "cohere", out / "coherent.parquet", "--orbit", "question", "--out", predictions / "b", "--json"
    )
    assert json.loads(second.stdout)["predicted_gain"] == pytest.approx(0, abs=1e-12)


def test_audits(predictions):
    before = predictions / "before.parquet"
    good = run_command("cohere", "audit", before, predictions / "after.parquet", "--orbit", "question", "--json")
    told = json.loads(good.stdout)
    assert told["guaranteed"] == pytest.approx(told["best"], abs=1e-9)
    assert told["share_guaranteed"] == 1.0
    bad = run_command("cohere", "audit", before, predictions / "sharper.parquet", "--orbit", "question")
    assert bad.returncode == 0, bad.stderr
    assert "can promise nothing" in bad.stdout
    alone = run_command("cohere", "audit", before, predictions / "after.parquet", "--json")
    assert json.loads(alone.stdout)["best"] == pytest.approx(0, abs=1e-12)


def test_errors_are_one_sentence(predictions):
    before = predictions / "before.parquet"
    for arguments, message in (
        ([before], "--orbit is needed"),
        ([before, "--orbit", "quest"], "no column 'quest'"),
        ([before, "--orbit", "question", "--proba", "logit_*"], "at least two classes"),
        (["audit", before], "takes two files"),
        ([predictions / "none.csv", "--orbit", "x"], "no such file"),
    ):
        done = run_command("cohere", *arguments, "--out", predictions / "bad")
        assert done.returncode == 1
        assert message in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
