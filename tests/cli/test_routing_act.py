"""The demo's second act on a small composition: its log, the router between the models, its certificate."""

import json
import shutil

import numpy as np
import pytest

from conftest import run_command
from corollary.certificates import load_certificate
from corollary.cli._routing_act import BUDGET, LOG, route_between, tell_routing, write_log
from corollary.deferral.routing import load, read_log
from corollary.runs import read_json, read_tensors


@pytest.fixture(scope="module")
def run(composed, tmp_path_factory):
    """A copy of the small composition, with its second act."""
    copy = shutil.copytree(composed, tmp_path_factory.mktemp("act") / "run")
    assert route_between(copy, seed=0, quiet=True) == copy / "routing"
    return copy


def test_the_log_holds_what_the_first_act_measured(run):
    log, metrics = read_log(run / LOG), read_json(run / "metrics.json")
    assert log.models == ("prose", "sums", "logs", "composed")
    assert np.unique(log.costs, axis=0).tolist() == [[1.0, 1.0, 1.0, 5.0]]
    scored = read_tensors(run / "stages" / "evaluation.safetensors")
    column = list(metrics["bits_per_byte"]).index("composed")
    assert np.allclose(-np.log2(log.quality[:, 3]), scored["bits"][:, column] / scored["size"], atol=1e-2)  # 5 digits
    tokens = read_tensors(run / "data" / "certify.safetensors")
    assert log.prompts[0].encode() == tokens["tokens"][: min(160, tokens["offsets"][1])].tobytes()


def test_the_router_is_certified_and_beats_every_single_expert(run, capsys):
    certificate, evidence = load_certificate(run / "routing")
    assert certificate.check(**evidence).status.name == "HOLDS"
    policy = read_json(run / "routing" / "metrics.json")["policy"]
    worth = {m: v["quality"] for m, v in read_json(run / "routing" / "metrics.json")["models"].items()}
    assert policy["cost"] <= BUDGET
    assert policy["quality"] > max(v for m, v in worth.items() if m != "composed")
    assert load(run / "routing").decide("logs: the of and").model in worth
    assert (run / "routing" / "report.html").exists()
    tell_routing(run / "routing")
    assert "cost_and_quality" in capsys.readouterr().out
    done = run_command("verify", run / "routing")
    assert done.returncode == 0, done.stderr


def test_a_second_time_only_tells_and_the_log_serves_the_command(run, tmp_path):
    before = (run / "routing" / "metrics.json").read_bytes()
    route_between(run, seed=0, quiet=True)
    assert (run / "routing" / "metrics.json").read_bytes() == before
    assert (write_log(run).read_text() + "\n").count("\n") - 1 == len(read_log(run / LOG))
    done = run_command("route", "fit", run / LOG, "--budget", "2", "--out", tmp_path / "other", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"]["composed"]["cost"] == 5.0
