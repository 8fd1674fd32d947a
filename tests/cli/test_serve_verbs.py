"""`corollary serve`, `keys`, `ledger` and `route fit --from-ledger`, as a user types them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from corollary.cli import app
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.serving import GatewayLedger
from corollary.serving import _tables as t

runner = CliRunner()
CONFIG = """
[upstreams.small]
url = "http://127.0.0.1:9/v1"
model = "m"

[upstreams.large]
url = "http://127.0.0.1:9/v1"
model = "m"
"""


def call(*words, good=True):
    result = runner.invoke(app, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert not good or result.exit_code == 0, result.output
    return result


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "gateway.toml"
    path.write_text(CONFIG)
    return path


def fill(path, n=600, *, seed=0, text=True):
    """A ledger as a gateway with exploration and feedback leaves it: the small model fails on what is hard."""
    from corollary.serving._wanted import prompt_hash

    rng = np.random.default_rng(seed)
    ledger = GatewayLedger(str(path))
    requests, calls, prompts = [], [], []
    for i in range(n):
        hard = rng.random() < 0.4
        prompt = f"{'prove the theorem' if hard else 'say hello'} {seed} {i}"
        greedy = "large" if hard else "small"
        chance = {"small": 0.25 + 0.5 * (greedy == "small"), "large": 0.25 + 0.5 * (greedy == "large")}
        drawn = "small" if rng.random() < chance["small"] else "large"
        score = float(rng.random() < (0.9 if drawn == "large" or not hard else 0.2))
        prompts.append(prompt)
        worth = json.dumps({"small": 0.5, "large": 0.9})
        requests.append({
            "id": f"r{i}", "created": float(i), "replica": "x", "key": "local", "asked": "corollary/auto",
            "drawn": drawn, "greedy": greedy, "served": drawn, "policy": "p", "price": 0.3, "worth": worth,
            "propensity": json.dumps(chance), "hash": prompt_hash(prompt), "prompt": prompt if text else None,
            "status": 200, "seconds": 0.1, "score": score,
        })  # fmt: skip
        money = 10**6 if drawn == "small" else 10**7
        calls.append({
            "id": f"r{i}.0", "request": f"r{i}", "model": drawn, "accounts": "[]", "state": "answered", "created": 0.0,
            "maximum": money, "maximum_tokens": 9, "money": money, "tokens": 9, "tokens_in": 4, "tokens_out": 5,
        })  # fmt: skip
    with ledger.engine.begin() as link:
        link.execute(t.request.insert(), requests)
        link.execute(t.call.insert(), calls)
    ledger.close()
    return prompts


def test_keys_are_made_listed_and_revoked(config, tmp_path):
    text = call(
        "keys", "add", "ann", "--ledger", config, "--money", 1.5, "--window", "1h", "--models", "small,large"
    ).stdout
    assert re.fullmatch(r"sk-corollary-[0-9a-f]{12}-[\w-]{43}\n", text)
    made = json.loads(call("keys", "add", "bob", "--ledger", tmp_path / "gateway.sqlite", "--json").stdout)
    assert made["name"] == "bob"
    listed = call("keys", "list", "--ledger", config).stdout
    assert "ann" in listed
    assert "1.5 money in 1h" in listed
    assert text.strip()[-43:] not in listed
    call("keys", "revoke", "ann", "--ledger", config)
    rows = json.loads(call("keys", "list", "--ledger", config, "--json").stdout)["keys"]
    assert [(r["name"], r["revoked"] is not None) for r in rows] == [("ann", True), ("bob", False)]
    with pytest.raises(InvalidInputError, match="no valid key"):
        call("keys", "revoke", "ann", "--ledger", config)
    with pytest.raises(InvalidInputError, match="scopes are"):
        call("keys", "add", "eve", "--ledger", config, "--scopes", "root")


def test_a_ledger_is_summarised_valued_and_exported(tmp_path):
    path = tmp_path / "gateway.sqlite"
    fill(path)
    told = json.loads(call("ledger", "summary", path, "--json").stdout)
    assert told["requests"] == 600
    assert told["wrong"] == []
    large = told["policies"]["always large"]["dr"]
    assert large["lower"] < 0.9 < large["upper"]
    small = told["policies"]["always small"]["ips"]
    assert small["lower"] < 0.6 * 0.9 + 0.4 * 0.2 < small["upper"]
    shown = call("ledger", "summary", path).stdout
    assert "doubly robust" in shown
    for suffix in (".jsonl", ".csv"):
        out = tmp_path / f"out{suffix}"
        call("ledger", "export", path, "--out", out)
        assert len(out.read_text().splitlines()) == 600 + (suffix == ".csv")
    row = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert row["propensity"].keys() == {"small", "large"}
    assert call("ledger", "export", path, "--out", tmp_path / "x.txt", good=False).exit_code == 2
    with GatewayLedger(str(path)).engine.begin() as link:
        link.execute(t.account.insert().values(name="total/1d", start=0, money=5, tokens=5))
    broken = call("ledger", "summary", path, good=False)
    assert broken.exit_code == 3
    with pytest.raises(InvalidFileError):
        call("ledger", "summary", tmp_path / "absent.toml")


def test_a_router_is_fitted_from_a_ledger(tmp_path):
    from corollary.deferral.routing import load

    path = tmp_path / "gateway.sqlite"
    fill(path)
    call("route", "fit", "--from-ledger", path, "--out", tmp_path / "run", "--repeats", 0, "--quiet", "--threads", 1)
    router = load(tmp_path / "run")
    assert router.models == ("large", "small")
    assert router.decide("prove the theorem now", price=20.0).model == "large"
    assert router.decide("say hello now", price=20.0).model == "small"
    assert call("route", "fit", good=False).exit_code == 2
    assert call("route", "fit", path, "--from-ledger", path, good=False).exit_code == 2


def test_hashed_prompts_are_found_again_by_their_texts(tmp_path):
    path = tmp_path / "gateway.sqlite"
    prompts = fill(path, n=120, text=False)
    with pytest.raises(InvalidInputError, match="hashes of prompts only"):
        call("route", "fit", "--from-ledger", path, "--out", tmp_path / "run", "--quiet")
    (tmp_path / "prompts.txt").write_text("\n".join(prompts))
    known = ("--texts", tmp_path / "prompts.txt", "--repeats", 0, "--threads", 1)
    call("route", "fit", "--from-ledger", path, *known, "--out", tmp_path / "run", "--quiet")
    assert (tmp_path / "run" / "router").is_dir()


def listening(*words, cwd):
    """A child, and the address that it prints."""
    child = subprocess.Popen(
        [sys.executable, "-m", "corollary", "serve", *map(str, words)], cwd=cwd, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env=os.environ,
    )  # fmt: skip
    line = ""
    while "http://" not in line:
        line = child.stdout.readline()
        assert line, child.stderr.read()
    return child, re.search(r"http://[\d.:]+", line)[0]


def ended(child):
    child.send_signal(signal.SIGINT)
    out, err = child.stdout.read(), child.stderr.read()
    child.wait(30)
    child.stdout.close()
    child.stderr.close()
    assert "Traceback" not in err, err
    return out


def test_the_demo_answers_without_a_key_and_says_what_to_type(tmp_path):
    begun = time.monotonic()
    child, base = listening("--demo", "--port", 0, "--out", tmp_path / "demo", cwd=tmp_path)
    try:
        body = json.dumps({"model": "corollary/auto", "messages": [{"role": "user", "content": "say hello to paris"}]})
        request = urllib.request.Request(
            base + "/v1/chat/completions", body.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as reply:
            headers, answer = dict(reply.headers), json.loads(reply.read())
        assert "You asked: say hello to paris" in answer["choices"][0]["message"]["content"]
        assert headers["x-corollary-certificate"] == "holds"
        with urllib.request.urlopen(base + "/v1/certificate", timeout=20) as reply:
            assert json.loads(reply.read())["status"] == "holds"
        assert begun > 0
    finally:
        out = ended(child)
    assert "curl" in out
    found = json.loads(call("ledger", "summary", tmp_path / "demo" / "gateway.sqlite", "--json").stdout)
    assert found["requests"] == 1


def test_serve_names_what_is_wrong(config, tmp_path):
    with pytest.raises(InvalidFileError, match="serve --demo"):
        call("serve", "--config", tmp_path / "absent.toml")
    with pytest.raises(InvalidFileError):
        call("serve", tmp_path / "no-router", "--config", config)
    assert call("serve", tmp_path, "--demo", good=False).exit_code == 2
    done = runner.invoke(app, ["serve", "--config", str(config), "--host", "0.0.0.0"])
    assert done.exit_code == 1
    assert "there is no key" in done.output


def test_a_taken_port_is_one_sentence(config, tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [
            sys.executable,
            "-m",
            "corollary",
            "serve",
            "--config",
            config,
            "--port",
            str(taken.getsockname()[1]),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert "cannot be listened on" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_models_of_the_tables_are_those_of_the_migrations(tmp_path):
    ledger = GatewayLedger(str(tmp_path / "x.sqlite"))
    names = set(sa.inspect(ledger.engine).get_table_names())
    ledger.close()
    assert names == {table.name for table in t.metadata.sorted_tables}
