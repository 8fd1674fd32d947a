"""The command as a user meets it: what it prints, its exit codes, and what it says when something is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import WORDS, compose_arguments, run_command
from corollary.runs import read_tensors, write_tensors


def test_compose_writes_a_run_that_verifies(composed):
    names = {p.name for p in composed.iterdir()}
    assert {
        "config.toml",
        "metrics.json",
        "certificate.json",
        "certificate.safetensors",
        "report.html",
        "model",
    } <= names
    metrics = json.loads((composed / "metrics.json").read_text())
    assert metrics["worst_domain"]["composed"] < metrics["worst_domain"]["pooled"]
    assert metrics["largest_excess_bits"]["composed"] <= metrics["excess_limit_bits"] + 1e-6
    for extra in ([], ["--rescore"]):
        done = run_command("verify", composed, *extra)
        assert done.returncode == 0, done.stderr
        assert "HOLDS" in done.stdout
    told = json.loads(run_command("verify", composed, "--json").stdout)
    assert told["status"] == "holds"
    assert any("every mixture" in c["name"] for c in told["claims"])


def test_the_same_command_again_only_tells(composed, texts):
    before = (composed / "metrics.json").read_bytes()
    done = run_command(*compose_arguments(texts, composed, "--json"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["metrics"] == json.loads(before)
    refused = run_command(*compose_arguments(texts, composed, "--seed", "1"))
    assert refused.returncode == 1
    assert "seed: 0 there, 1 now" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.fixture
def copy(composed, tmp_path):
    """A copy of the run that a test may spoil."""
    return shutil.copytree(composed, tmp_path / "copy")


def test_edited_numbers_are_violated(copy):
    path = copy / "certificate.json"
    data = json.loads(path.read_text())
    claim = data["certificate"]["parts"][1]["claims"][0]
    claim["rhs"] = float(claim["rhs"]) + 0.5
    path.write_text(json.dumps(data))
    done = run_command("verify", copy)
    assert done.returncode == 3
    assert "VIOLATED" in done.stdout


def test_missing_or_other_evidence_is_undecided(copy, tmp_path):
    tensors = read_tensors(copy / "certificate.safetensors")
    evidence = {n.removeprefix("evidence/"): a for n, a in tensors.items()}
    moved = tmp_path / "evidence.safetensors"
    write_tensors(moved, evidence)
    assert run_command("verify", copy, "--data", moved).returncode == 0
    write_tensors(moved, {**evidence, "bits": evidence["bits"] + 0.001})
    assert run_command("verify", copy, "--data", moved).returncode == 4
    (copy / "certificate.safetensors").unlink()
    done = run_command("verify", copy / "certificate.json")
    assert done.returncode == 4
    assert "no evidence was given" in done.stdout


def test_what_cannot_be_certified_is_undecided_with_its_reason(texts, tmp_path):
    arguments = compose_arguments(texts, tmp_path / "run", "--top", "1", "--quiet")
    assert run_command(*arguments).returncode == 0
    done = run_command("verify", tmp_path / "run")
    assert done.returncode == 4
    assert "void under top-m truncation" in done.stdout


def test_rescoring_notices_other_documents_and_other_models(copy):
    documents = copy / "data" / "certify.safetensors"
    tensors = read_tensors(documents)
    tensors["tokens"][5] ^= 1
    write_tensors(documents, tensors)
    done = run_command("verify", copy, "--rescore")
    assert done.returncode == 4
    assert "documents are not those" in done.stdout
    tensors["tokens"][5] ^= 1
    write_tensors(documents, tensors)
    weights = copy / "model" / "gate" / "gate.safetensors"
    gate = read_tensors(weights)
    gate["head.bias"] = gate["head.bias"] + np.float32(0.5)
    write_tensors(weights, gate)
    done = run_command("verify", copy, "--rescore")
    assert done.returncode == 1
    assert "parts changed since it was saved" in done.stderr


@pytest.mark.parametrize("content", [b"hello", b"{}", b"\x80\x04\x95pickle", b""])
def test_foreign_files_get_one_sentence(tmp_path, content):
    target = tmp_path / "certificate.json"
    target.write_bytes(content)
    done = run_command("verify", target)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_generate_continues_a_prompt(composed):
    done = run_command("generate", composed, "logs: the ", "--max-tokens", "20", "--temperature", "0", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert told["trust"]["logs"] > 0.5
    assert set(told["text"].split()[1:-1]) <= set(WORDS)
    again = run_command("generate", composed, "logs: the ", "--max-tokens", "20", "--temperature", "0")
    assert again.stdout.strip("\n") == told["text"].strip("\n")
    assert run_command("generate", composed / "stages", "x").returncode == 1


def test_given_experts_and_known_mixtures(composed, texts, tmp_path):
    experts = [p for n in texts for p in ("--expert", f"{n}={composed / 'model' / 'experts' / n}")]
    data = [p for n in ("prose", "sums") for p in ("--data", f"{n}={texts[n]}")]
    done = run_command(
        "compose",
        *experts,
        *data,
        "--mixture",
        "prose>=0.4",
        "--steps",
        "20",
        "--out",
        tmp_path / "run",
        "--json",
        "--seed",
        "3",
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    assert metrics["domains"] == ["prose", "sums"]  # three experts, two domains
    assert metrics["least_favourable_mixture"]["prose"] >= 0.4 - 1e-6
    assert "pooled" not in metrics["bits_per_byte"]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--data", "prose"], 2, "NAME=PATH"),
        (["--data", "prose=nowhere.txt"], 2, "no expert"),
        (["--data", "prose=nowhere.txt", "--train"], 1, "nowhere.txt"),
        (["--data", "a={prose}", "--data", "a={prose}", "--train"], 2, "twice"),
        (["--data", "../a={prose}", "--train"], 2, "plain name"),
        (["--data", "prose={prose}", "--train", "--mixture", "code>=0.2"], 2, "names 'code'"),
        (["--data", "prose={prose}", "--train", "--mixture", "prose>2"], 2, "SHARE"),
        (
            [
                "--data",
                "prose={prose}",
                "--data",
                "b={sums}",
                "--train",
                "--mixture",
                "prose<=0.2",
                "--mixture",
                "b<=0.3",
            ],
            1,
            "",
        ),
        (["--data", "prose={empty}", "--train"], 1, "empty"),
        (["--data", "prose={binary}", "--train"], 1, "NUL"),
        (["--data", "prose={prose}", "--train", "--field", "body"], 1, "text"),
    ],
)
def test_wrong_arguments_get_one_clear_sentence(texts, tmp_path, arguments, code, sentence):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"\x00\x01\x02" * 50)
    places = {**texts, "empty": tmp_path / "empty.txt", "binary": tmp_path / "binary.txt"}
    done = run_command("compose", *(a.format(**places) for a in arguments), "--out", tmp_path / "run", "--steps", "5")
    assert done.returncode == code
    assert sentence in done.stderr.replace("\n", " ").replace("│ ", "")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "certificate.json").exists()


def test_killed_in_the_middle_it_goes_on_and_ends_with_the_same_numbers(composed, texts, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "corollary", *map(str, compose_arguments(texts, out, "--quiet"))]
    for stage in ("stages/model-experts-prose.done", "stages/robust.safetensors"):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while not (out / stage).exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert (out / stage).exists()
    done = run_command(*compose_arguments(texts, out, "--quiet"))
    assert done.returncode == 0, done.stderr
    assert (out / "metrics.json").read_bytes() == (composed / "metrics.json").read_bytes()
    assert run_command("verify", out, "--quiet").returncode == 0
    left = [p.name for p in out.rglob("*") if p.name.startswith(".") and p.name != ".lock"]
    assert len(left) <= 3  # at most one temporary file for each kill


def test_report_doctor_bench_and_help(composed, tmp_path):
    page = (composed / "report.html").read_bytes()
    done = run_command("report", composed, "--out", tmp_path / "again.html", "--json")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.html").read_bytes() == page
    assert json.loads(run_command("doctor", "--json").stdout)["core"]["torch"]
    assert run_command("--version").stdout.startswith("corollary 0.")
    shown = run_command("--help").stdout
    for verb in ("demo", "compose", "generate", "verify", "report", "bench", "doctor"):
        assert verb in shown
    done = run_command("bench", "nothing", "--folder", tmp_path)
    assert done.returncode == 1
    assert "no benchmark" in done.stderr


def test_bench_keeps_what_is_done(tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "cells.py").write_text(
        "from pathlib import Path\n"
        "QUICK = [{'seed': s} for s in range(2)]\nDEFAULT = [{'seed': s} for s in range(3)]\nFULL = DEFAULT\n"
        "def run_cell(cell):\n"
        "    log = Path(__file__).with_name('calls'); log.open('a').write('x')\n"
        "    return {'value': cell['seed'] * 2.0}\n"
    )
    first = json.loads(run_command("bench", "toy", "--quick", "--folder", tmp_path, "--json").stdout)
    assert (first["done"], first["declared"]) == (2, 2)
    second = run_command("bench", "toy", "--folder", tmp_path)
    assert "3 of 3 cells of the default grid are done" in second.stdout
    assert (tmp_path / "toy" / "calls").read_text() == "xxx"
    record = json.loads((tmp_path / "results" / "toy.json").read_text())["cells"][0]
    assert record["result"] == {"value": 0.0}
    assert record["versions"]["torch"]
    one = json.loads(run_command("bench", "toy", "--only", "2", "--folder", tmp_path, "--json").stdout)
    assert [r["cell"] for r in one["cells"]] == [{"seed": 2}]
    assert "has a setting '9'" in run_command("bench", "toy", "--only", "9", "--folder", tmp_path).stderr
