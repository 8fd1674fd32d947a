"""`corollary route collect`: from prompts and a pool to a router, through the ledger; and experts behind a URL."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from corollary.certificates import load_certificate
from corollary.cli.route import app
from corollary.deferral import ExpertPool, Ledger, Question, chat_expert, read_pool, routing
from corollary.deferral.routing._collect import LedgerMarket, read_prompts
from corollary.errors import InvalidFileError, InvalidInputError

SOURCE = Path(__file__).parents[2] / "src"
MINE = """
import os, time
from pathlib import Path
from corollary.deferral import Reply

TILL = Path(__file__).parent / "till"

def small(prompt):
    a, b = prompt.split(":")[1].split("+")
    return answer("small", prompt, str(int(a) + int(b) + (int(a) > 9)), 0.01)

def large(prompt):
    a, b = prompt.split(":")[1].split("+")
    return answer("large", prompt, str(int(a) + int(b)), 0.08)

def answer(name, prompt, text, cost):
    with TILL.open("a") as file:
        file.write(f"{name} {prompt} {cost}\\n")
    time.sleep(float(os.environ.get("SLOW", 0)))
    return Reply(text, cost)

def judge(row, answer):
    return float(str(row["answer"]) == answer)

def senseless(row, answer):
    return 7.0
"""
POOL = """
[quality]
kind = "exact"
reference = "answer"
[experts.small]
function = "mine_of_tests:small"
price = 0.01
[experts.large]
function = "mine_of_tests:large"
price = 0.1
concurrency = 8
"""
runner = CliRunner()


@pytest.fixture
def place(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(150):
        hard = rng.random() < 0.5
        a, b = int(rng.integers(10, 99) if hard else rng.integers(0, 10)), int(rng.integers(0, 9))
        word = "large sum of two numbers" if hard else "tiny one"
        rows.append({"prompt": f"{word} {i}: {a} + {b}", "answer": a + b})
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "mine_of_tests.py").write_text(MINE)
    (tmp_path / "pool.toml").write_text(POOL)
    monkeypatch.setitem(sys.modules, "mine_of_tests", None)
    del sys.modules["mine_of_tests"]
    yield tmp_path
    sys.modules.pop("mine_of_tests", None)


def call(place, *words, budget=6.0, out="run"):
    words = ["collect", place / "prompts.jsonl", "--pool", place / "pool.toml", "--budget", budget, *words]
    result = runner.invoke(app, [*map(str, words), "--out", str(place / out), "--threads", "1"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def till(place):
    lines = (place / "till").read_text().splitlines() if (place / "till").exists() else []
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines), [line.rsplit(" ", 1)[0] for line in lines]


def test_a_router_from_half_of_the_money(place):
    done = call(place, "--json")
    assert done.exit_code == 0, done.output
    metrics = json.loads(done.stdout)["collection"]
    spent, asked = till(place)
    assert spent == pytest.approx(metrics["charged"], abs=1e-6)
    assert 0.5 * 6 < spent <= 6.0
    assert len(asked) == len(set(asked)) == sum(metrics["queries"].values())
    assert metrics["in_flight"] == 0
    assert metrics["experts"]["large"]["mean_quality"] == 1.0
    assert 0.3 < metrics["experts"]["small"]["mean_quality"] < 0.7  # weighted: of all prompts, not of those asked
    assert metrics["uniform_at_equal_spend"]["answers_of_each_expert"] > 10
    router = routing.load(place / "run")
    assert router.decide("large sum of two numbers 999: 55 + 3").model == "large"
    log = routing.read_log(place / "run" / "log.jsonl")
    assert log.propensity is not None
    assert not log.complete
    assert np.nanmin(log.propensity) >= 0.05 - 1e-12
    certificate, evidence = load_certificate(place / "run")
    assert certificate.rule == "deferral.ledger"
    certificate.check(**evidence).raise_for_status()
    for extra in ([], ["--rescore"]):
        verify = [sys.executable, "-m", "corollary", "verify", str(place / "run"), *extra]
        assert subprocess.run(verify, check=False, capture_output=True).returncode == 0
    # the same command again asks nothing and says the same; a router can be fitted from the log by itself
    again = call(place, "--json")
    assert json.loads(again.stdout)["collection"] == metrics
    assert till(place)[1] == asked
    fitted = ["fit", str(place / "run" / "log.jsonl"), "--out", str(place / "by-itself"), "--quiet", "--repeats", "0"]
    assert runner.invoke(app, fitted).exit_code == 0
    shown = call(place)
    assert "uniform sampling at equal spend" in shown.output
    with pytest.raises(InvalidInputError, match="what was paid for stays there"):
        call(place, budget=9.0)


def test_killed_while_asking_and_resumed(place):
    """The command itself: what was in flight stays charged, nothing is paid for twice."""
    words = ["route", "collect", place / "prompts.jsonl", "--pool", place / "pool.toml", "--budget", 5.0]
    words += ["--out", place / "run", "--quiet", "--threads", "1"]
    command = [sys.executable, "-m", "corollary", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "SLOW": "0.02"}
    rng, before = np.random.default_rng(0), 0
    for _ in range(1):
        child = subprocess.Popen(command, env=environment)
        while len(till(place)[1]) < before + 5 and child.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.2))
        child.send_signal(signal.SIGKILL)
        child.wait()
        before = len(till(place)[1])
        with Ledger(place / "run" / "ledger.sqlite", read_only=True) as ledger:
            spent = till(place)[0]
            assert spent <= ledger.charged + 1e-9 <= 5.0 + 2e-9
            assert ledger.charged - spent <= ledger.in_flight + 1e-9
    assert subprocess.run(command, env=environment | {"SLOW": "0"}, check=False).returncode == 0
    spent, asked = till(place)
    assert len(asked) == len(set(asked))  # the experts honour no keys: what may have been paid for is not sent again
    certificate, evidence = load_certificate(place / "run")
    certificate.check(**evidence).raise_for_status()
    with Ledger(place / "run" / "ledger.sqlite", read_only=True) as ledger:
        counts = ledger.counts()
        assert counts["pending"] == 0
        assert spent <= ledger.charged + 1e-9 <= 5.0 + 2e-9
        assert counts["answered"] + counts["unknown"] >= len(asked)


@pytest.mark.parametrize("method", ["uniform", "full"])
def test_other_methods(place, method):
    done = call(place, "--method", method, "--json", budget=100.0 if method == "full" else 6.0)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["collection"]
    assert (found["share_of_all_queries"] == 1.0) == (method == "full")


def test_plans_are_kept_and_money_ends_between_prompts(place):
    """Mutation: a prompt taken in because its own draws fit would bias the propensities of the last prompts."""
    rows, name = read_prompts(place / "prompts.jsonl", prompt=None, reference="answer")
    pool_file = read_pool(place / "pool.toml")
    with Ledger(place / "ledger", budget=0.35) as ledger:
        market = LedgerMarket(ExpertPool(pool_file.experts, ledger), rows, name, pool_file.judge)
        assert market.left(0) == pytest.approx(0.35 / (150 * 0.11))
        p, drawn = np.full((10, 2), 0.5), np.zeros((10, 2), dtype=bool)
        drawn[:, 1] = True  # .1 each: three fit, but after two another .11 would still fit, after three not
        kept, kept_p, kept_drawn = market.plan(0, np.arange(10), p, drawn)
        assert kept.tolist() == [0, 1, 2]
        assert kept_p.shape == kept_drawn.shape == (3, 2)
        cost = market.ask(np.array([0, 1, 2]), np.array([1, 1, 1]))
        assert cost.tolist() == [0.0] * 3
        again = market.plan(0, np.arange(10), 1 - p, ~drawn)  # as written down, whatever is drawn now
        assert (again[0] == kept).all()
        assert (again[2] == kept_drawn).all()
        assert market.left(3) == pytest.approx(0.11 / (147 * (0.01 + 0.08)))  # the large one costs .08, not .1
        other = LedgerMarket(ExpertPool(pool_file.experts[::-1], ledger), rows, name, pool_file.judge)
        with pytest.raises(InvalidInputError, match="other experts"):
            other.plan(0, np.arange(10), p, drawn)


def test_an_expert_dearer_than_its_price_is_told(place):
    change(place, "price = 0.1", "price = 0.05")  # it charges .08
    done = call(place, "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["collection"]["charged"] == pytest.approx(till(place)[0], abs=1e-6)
    certificate, evidence = load_certificate(place / "run")
    assert certificate.check(**evidence).status.name == "VIOLATED"


# mistakes of use


def change(place, old, new):
    text = (place / "pool.toml").read_text()
    assert old in text
    (place / "pool.toml").write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("[quality]", "[judge]", "has 'judge'"),
        ('kind = "exact"', 'kind = "sounds"', "exact"),
        ('reference = "answer"', "", "reference"),
        ('function = "mine_of_tests:small"', "", "either"),
        ('function = "mine_of_tests:small"', 'function = "mine_of_tests"', "module:function"),
        ("price = 0.01", "prize = 0.01", "prize"),
        ("price = 0.01", 'price = "cheap"', "price"),
        ("concurrency = 8", "concurrency = 0", "concurrency"),
        ("[experts.small]", "[experts.small", "not TOML"),
        ("[experts.large]", "[quality.large]", "fewer than two|has 'large'"),
    ],
)
def test_mistakes_in_the_pool(place, old, new, match):
    change(place, old, new)
    with pytest.raises((InvalidFileError, InvalidInputError), match=match):
        call(place)


@pytest.mark.parametrize("budget", [0.0, 1.0])
def test_a_budget_that_buys_nothing_is_told_before_anything_is_asked(place, budget):
    with pytest.raises(InvalidInputError, match="does not even cover"):
        call(place, budget=budget)
    assert till(place)[1] == []


def test_experts_free_of_charge(place):
    (place / "pool.toml").write_text(POOL.replace("price = 0.01", "price = 0.0").replace("price = 0.1", "price = 0.0"))
    (place / "mine_of_tests.py").write_text(MINE.replace("0.01)", "0.0)").replace("0.08)", "0.0)"))
    found = json.loads(call(place, "--json", budget=0.0).stdout)["collection"]
    assert found["share_of_all_queries"] == 1.0
    assert found["charged"] == 0.0


def test_mistakes_of_names_and_files(place):
    assert call(place, "--method", "greedy").exit_code == 2
    for old, new, match in (
        ("mine_of_tests:small", "mine_of_tests:nothing", "cannot be found"),
        ("mine_of_tests:nothing", "absent_module:f", "cannot be found"),
        ("absent_module:f", "mine_of_tests:TILL", "no function"),
    ):
        change(place, old, new)
        with pytest.raises(InvalidInputError, match=match):
            call(place)
    change(place, "mine_of_tests:TILL", "mine_of_tests:small")
    change(place, 'reference = "answer"', 'reference = "truth"')
    with pytest.raises(InvalidInputError, match="truth"):
        call(place)
    (place / "prompts.jsonl").write_text('{"prompt": "one", "truth": 1}\n')
    with pytest.raises(InvalidInputError, match="at least 20"):
        call(place)
    (place / "prompts.jsonl").write_text('{"prompt": " ", "truth": 1}\n' * 30)
    with pytest.raises(InvalidInputError, match="empty"):
        call(place)
    with pytest.raises(InvalidFileError, match="no such file"):
        read_pool(place / "absent.toml")


def test_a_bad_judge_and_a_silent_expert_keep_what_was_paid_for(place):
    change(place, 'kind = "exact"\nreference = "answer"', 'function = "mine_of_tests:senseless"')
    with pytest.raises(InvalidInputError, match="answers are kept"):
        call(place)
    paid = till(place)[1]
    assert paid
    change(place, "senseless", "judge")
    assert call(place, "--quiet").exit_code == 0
    assert till(place)[1][: len(paid)] == paid
    assert len(set(till(place)[1])) == len(till(place)[1])
    change(place, "mine_of_tests:large", "mine_of_tests:absent_later")
    (place / "mine_of_tests.py").write_text(MINE + "\ndef absent_later(prompt):\n    raise ValueError('no')\n")
    sys.modules.pop("mine_of_tests")
    with pytest.raises(InvalidInputError, match="answered none of"):
        call(place, out="other")


# behind a URL


class Server(BaseHTTPRequestHandler):
    """Answers with the prompt turned round; turns away, breaks and redirects where the prompt says so."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        self.server.calls.append((prompt, self.headers.get("Authorization"), self.headers.get("Idempotency-Key")))
        tries = sum(p == prompt for p, *_ in self.server.calls)
        status = int(prompt) if prompt.isdigit() and tries == 1 else 200
        answer = {"choices": [{"message": {"content": prompt[::-1]}}]}
        if "free" not in prompt:
            answer["usage"] = {"prompt_tokens": 10, "completion_tokens": 5}
        raw = b"{" if prompt == "garbage" else json.dumps(answer).encode()
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "0")
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *given):
        pass


@pytest.fixture
def server():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    found.calls = []
    thread = threading.Thread(target=found.serve_forever, daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


def test_a_chat_expert(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_OF_TESTS", "a-secret")
    url = f"http://127.0.0.1:{server.server_port}/v1"
    settings = {"url": url, "model": "m", "key_env": "KEY_OF_TESTS", "input_price": 1.0, "output_price": 2.0}
    plain = chat_expert("plain", **settings, max_tokens=10, system="Be brief.")
    keyed = chat_expert("keyed", **settings, max_tokens=10, idempotent=True)
    assert plain.most("ab") == pytest.approx((2 + 9 + 64 + 20) / 1e6)
    with Ledger(tmp_path / "ledger", budget=1.0) as ledger:
        pool = ExpertPool([plain, keyed], ledger)
        asked = [Question(p, "plain") for p in ("hello", "429", "503", "404", "302", "garbage", "free one")]
        rows = pool.ask([*asked, Question("500", "keyed")])
        states = dict(zip([q.prompt for q in asked], [r.state for r in rows], strict=False))
        assert states == {
            "hello": "answered",
            "429": "answered",  # turned away, sent again
            "503": "unknown",  # may have been paid for: not sent again without keys
            "404": "refused",
            "302": "refused",  # the key follows no redirect
            "garbage": "unknown",
            "free one": "answered",
        }
        assert rows[0].answer == "olleh"
        assert rows[0].charge == 20_000  # 10 + 2 * 5 millionths
        assert rows[6].charge == rows[6].maximum  # no usage: charged at its maximum
        assert rows[7].state == "answered"
        keys = [key for prompt, _, key in server.calls if key]
        assert len(keys) == 2
        assert len(set(keys)) == 1
        assert all(secret == "Bearer a-secret" for _, secret, _ in server.calls)
        assert not any("secret" in problem for problem in pool.problems.values())
    assert b"a-secret" not in (tmp_path / "ledger").read_bytes()


def test_nobody_listens(tmp_path):
    nobody = chat_expert("nobody", url="http://127.0.0.1:9/v1", model="m", price=0.5, retries=0)
    with Ledger(tmp_path / "ledger", budget=1.0) as ledger:
        pool = ExpertPool([nobody], ledger)
        assert pool.ask([Question("hello", "nobody")])[0].state == "refused"
        assert ledger.charged == 0
        assert "no connection" in pool.problems["nobody"]


@pytest.mark.parametrize("url", ["ftp://host/v1", "file:///etc/passwd", "host", "http://name:word@host/v1"])
def test_senseless_urls(url):
    with pytest.raises(InvalidInputError, match="url"):
        chat_expert("x", url=url, model="m", price=0.1)


def test_a_key_that_is_not_set(monkeypatch, place):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    (place / "pool.toml").write_text(
        POOL + '[experts.far]\nurl = "http://127.0.0.1:9/v1"\nmodel = "m"\nprice = 0.1\nkey_env = "NO_SUCH_KEY"\n'
    )
    with pytest.raises(InvalidInputError, match="NO_SUCH_KEY is not set"):
        read_pool(place / "pool.toml")
    for missing, match in (('model = "m"\n', "no `model`"), ("price = 0.1\nkey", "no price")):
        text = (place / "pool.toml").read_text()
        (place / "other.toml").write_text(text.replace(missing, "key" if missing.endswith("key") else ""))
        with pytest.raises(InvalidFileError, match=match):
            read_pool(place / "other.toml")
