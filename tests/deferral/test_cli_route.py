"""The verbs of `corollary route`, as a user runs them."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from corollary.certificates import load_certificate
from corollary.cli.route import app
from corollary.deferral import routing
from corollary.errors import InvalidInputError, ReusedRowsError

runner = CliRunner()


def write_log(path, n, *, seed=0, models=("small", "large")):
    rng = np.random.default_rng(seed)
    hard = rng.random(n) < 0.4
    with path.open("w") as file:
        for i, h in enumerate(hard):
            row = {"prompt": f"{'prove the theorem' if h else 'say hello'} {seed} {i}", "topic": f"t{i % 20}"}
            row[models[0]] = bool(rng.random() < (0.2 if h else 0.9))
            row[models[1]] = bool(rng.random() < 0.9)
            file.write(json.dumps(row) + "\n")
    return path


def call(*words):
    result = runner.invoke(app, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("route")
    log = write_log(folder / "log.jsonl", 1600)
    result = call("fit", log, "--out", folder / "run", "--budget", 0.6, "--repeats", 10, "--json", "--threads", 1)
    assert result.exit_code == 0, result.output
    return folder / "run", json.loads(result.stdout), log


def test_fit_with_a_budget_certifies(fitted):
    run, metrics, _ = fitted
    assert metrics["policy"]["cost"] <= 0.6
    assert {"random", "oracle", "length", "nearest neighbours", "router"} == set(metrics["routers"])
    assert metrics["routers"]["router"]["aiq"] > metrics["routers"]["random"]["aiq"]
    certificate, evidence = load_certificate(run)
    certificate.check(**evidence).raise_for_status()
    assert routing.load(run).decide("prove the theorem now").model == "large"
    assert routing.load(run).decide("say hello now").model == "small"


def test_fit_alone_stores_a_sweep_and_learns_from_all_rows(tmp_path):
    log = write_log(tmp_path / "log.jsonl", 200)
    assert call("fit", log, "--out", tmp_path / "run", "--repeats", 0, "--quiet", "--group", "topic").exit_code == 0
    router = routing.load(tmp_path / "run")
    assert len(router.sweep) > 2
    assert not (tmp_path / "run" / "certificate.json").exists()
    from corollary.runs import read_tensors

    assert len(read_tensors(tmp_path / "run" / "router" / "trained.safetensors")["rows"]) == 200


def test_eval_prints_one_object(fitted, tmp_path):
    run, _, _ = fitted
    other = write_log(tmp_path / "other.jsonl", 400, seed=1)
    result = call("eval", run, other, "--json", "--repeats", 5)
    found = json.loads(result.stdout)
    assert {"apgr", "cpt20", "cpt50", "cpt80", "aiq", "frontier"} <= found.keys()
    assert 0.5 < found["apgr"] < found["routers"]["oracle"]["apgr"]
    assert "router" in call("eval", run, other, "--repeats", 0).stdout


def test_calibrate_on_fresh_rows_only(fitted, tmp_path):
    made, _, log = fitted
    run = shutil.copytree(made, tmp_path / "run")
    fresh = write_log(tmp_path / "fresh.jsonl", 1200, seed=2)
    result = call("calibrate", run, fresh, "--quality", 0.9, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["status"] == "holds"
    assert routing.load(run).price == found["price"]
    with pytest.raises(ReusedRowsError):
        call("calibrate", run, log, "--quality", 0.9)
    hopeless = call("calibrate", run, fresh, "--budget", 0.0001, "--json")
    assert hopeless.exit_code in (0, 4)
    assert call("calibrate", run, fresh, "--quality", 1.3, "--quiet").exit_code == 4


def test_explain_and_export(fitted, tmp_path):
    run, _, _ = fitted
    found = json.loads(call("explain", "prove the theorem", "--router", run, "--json").stdout)
    assert found["model"] == "large"
    assert "theorem" in call("explain", "prove the theorem", "--router", run).stdout
    assert call("export", run, "--out", tmp_path / "plain.json").exit_code == 0
    assert json.loads((tmp_path / "plain.json").read_text())["models"] == ["small", "large"]
    with pytest.raises(InvalidInputError, match="no folder"):
        call("export", run, "--out", tmp_path / "absent" / "plain.json")


def test_averaged_routers_from_the_command_line(tmp_path):
    log = write_log(tmp_path / "log.jsonl", 300)
    call("fit", log, "--out", tmp_path / "run", "--features", "averaged", "--repeats", 0, "--quiet")
    assert routing.load(tmp_path / "run").decide("prove the theorem now").model == "large"
    found = json.loads(call("eval", tmp_path / "run", log, "--json", "--repeats", 0).stdout)
    assert found["routers"]["router"]["aiq"] > found["routers"]["random"]["aiq"]


def test_more_than_two_models_without_routellm_metrics(tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"question": f"q {i}", **{f"m-{b}b": float(rng.random()) for b in (1, 7, 70)}} for i in range(120)]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(r) + "\n" for r in rows))
    call("fit", log, "--out", tmp_path / "run", "--repeats", 0, "--quiet")
    found = json.loads(call("eval", tmp_path / "run", log, "--json", "--repeats", 0).stdout)
    assert "apgr" not in found
    assert found["aiq"] > 0
    assert found["frontier"]


@pytest.mark.parametrize("known", [True, False])
def test_a_long_log_with_one_answer_a_request(tmp_path, known):
    """The kind that services have; the certificate names what it rests on."""
    rng = np.random.default_rng(3)
    lines = []
    for i in range(1600):
        hard, dear = rng.random() < 0.4, rng.random() < 0.5
        right = rng.random() < (0.9 if dear or not hard else 0.2)
        row = {"prompt": f"{'prove the theorem' if hard else 'say hello'} {i}", "quality": float(right)}
        row |= {"model": "large" if dear else "small", "cost": 2.0 if dear else 0.1}
        lines.append(json.dumps(row | ({"propensity": 0.5} if known else {})))
    log = tmp_path / "long.jsonl"
    log.write_text("\n".join(lines))
    found = call("fit", log, "--out", tmp_path / "run", "--budget", 1.4, "--repeats", 0, "--json", "--threads", 1)
    assert "not measured" in json.loads(found.stdout)["note"]
    certificate, evidence = load_certificate(tmp_path / "run")
    certificate.check(**evidence).raise_for_status()
    texts = " ".join(a.text for a in certificate.assumptions)
    assert ("propensities" in texts) == known
    assert ("asked at random" in texts) != known
    assert routing.load(tmp_path / "run").decide("say hello now").model in ("small", "large")


def test_mistakes_of_use(tmp_path):
    log = write_log(tmp_path / "log.jsonl", 100)
    assert call("fit", log, "--out", tmp_path / "a", "--budget", 0.1, "--quality", 0.9).exit_code == 2
    assert call("fit", log, "--out", tmp_path / "b", "--prices", "small=x").exit_code == 2
    with pytest.raises(InvalidInputError, match="column"):
        call("fit", log, "--out", tmp_path / "c", "--group", "absent", "--quiet")
    call("fit", log, "--out", tmp_path / "run", "--repeats", 0, "--quiet")
    more = write_log(tmp_path / "more.jsonl", 100, seed=5)
    with pytest.raises(InvalidInputError, match="either"):
        call("calibrate", tmp_path / "run", more)
