"""The ledger: the statement of its certificate at every moment, killed processes and spoilt files included."""

import dataclasses
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ledger_child import BUDGET, ITEMS, MAXIMUM

from corollary.certificates import Certificate, load_certificate, save_certificate
from corollary.deferral import Expert, ExpertPool, Ledger, Question, Refused, Reply, certify_ledger, ledger_evidence
from corollary.deferral import _ledger as ledger_module
from corollary.errors import BudgetError, InvalidFileError, InvalidInputError, LedgerError
from corollary.testing import check_certificate

CHILD = Path(__file__).parents[1] / "support" / "ledger_child.py"
SOURCE = Path(__file__).parents[2] / "src"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


# killed at random moments


def true_spend(folder):
    """What the experts charged, from their own books; and how often each item was paid for."""
    lines = (folder / "till").read_text().splitlines() if (folder / "till").exists() else []
    lines += [p.read_text().strip() for p in (folder / "keys").glob("[!.]*")] if (folder / "keys").exists() else []
    rows = [line.rsplit(" ", 1) for line in lines if line.count(" ") == 3]
    paid = [name for name, _ in rows]
    assert len(paid) == len(set(paid)), "an item was paid for twice"
    return sum(round(float(cost) * 1000) for _, cost in rows) / 1000


def holds(folder):
    """The statement: true spend <= charged <= budget, and they differ by at most what is in flight."""
    with Ledger(folder / "ledger.sqlite", read_only=True) as ledger:
        true, charged, flying = true_spend(folder), ledger.charged, ledger.in_flight
        assert true <= charged + 1e-9
        assert charged <= BUDGET
        assert charged - true <= flying + 1e-9
        certificate, evidence = certify_ledger(ledger)
        assert certificate.check(**evidence), certificate.check(**evidence)
        return ledger.counts(), charged


def killed_and_resumed(folder, seed):
    """Start, kill after a random while, start again ... until it comes to its end; kills that hit it at work."""
    rng, kills = random.Random(seed), 0
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    for attempt in range(100):
        child = subprocess.Popen([sys.executable, str(CHILD), str(folder), str(1000 * seed + attempt)], env=environment)
        begun = folder / "ledger.sqlite"
        while not begun.exists() and child.poll() is None:
            time.sleep(0.005)
        try:
            child.wait(timeout=rng.uniform(0.0, 0.2) if attempt < 2 else 60)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            kills += 1
        if begun.exists():  # it is there whole, or not at all
            holds(folder)
        if child.returncode == 0:
            return kills
    raise AssertionError("it never came to its end")


def check_a_run(folder, seed):
    kills = killed_and_resumed(folder, seed)
    counts, charged = holds(folder)
    assert counts["pending"] == counts["planned"] == 0
    asked = sum(counts.values())
    assert asked <= 2 * ITEMS
    assert asked == 2 * ITEMS or charged + MAXIMUM > BUDGET  # it stopped for the budget and for nothing else
    return kills


@pytest.mark.parametrize("seed", range(20))
def test_killed_runs_resume_and_never_exceed_the_budget(tmp_path, seed):
    check_a_run(tmp_path, seed)


@pytest.mark.slow
def test_two_hundred_killed_runs(tmp_path):
    kills = 0
    for seed in range(100, 300):
        (tmp_path / str(seed)).mkdir()
        kills += check_a_run(tmp_path / str(seed), seed)
    assert kills > 150


# the life of a row


def test_every_way_through_the_states(path):
    with Ledger(path, budget=10.0, unit="cents") as ledger:
        ledger.plan(0, {"rows": [0, 1]}, [("a", "x", 0.5, 1.0, False), ("b", "x", 0.25, 2.0, True)])
        assert ledger.charged == 0
        assert ledger.rounds() == [{"rows": [0, 1]}]
        a, b = ledger.intend("a", "x"), ledger.intend("b", "x")
        assert (a.probability, b.probability) == (0.5, 0.25)
        assert ledger.charged == ledger.in_flight == 3.0
        ledger.settle(a, {"text": "yes", "n": 1}, cost=0.25)
        ledger.lose(b)
        assert ledger.charged == 2.25
        with pytest.raises(LedgerError, match="answered"):
            ledger.intend("a", "x")
        again = ledger.intend("b", "x")  # honours keys: may be sent again, and is not charged again
        assert ledger.charged == 2.25
        assert ledger.key(again) == ledger.key(b) != ledger.key(a)
        ledger.refuse(again)  # this send did nothing, the first may have
        assert ledger.find("b", "x").state == "unknown"
        assert ledger.charged == 2.25
        ledger.settle(ledger.intend("b", "x"), None, cost=1.0)
        c = ledger.intend("c", "x", maximum=3.0)
        ledger.refuse(c)
        assert ledger.find("c", "x").state == "refused"
        assert ledger.charged == 1.25
        ledger.lose(ledger.intend("c", "x"))
        with pytest.raises(LedgerError, match="unknown"):
            ledger.intend("c", "x")
        with pytest.raises(LedgerError, match="recorded already"):
            ledger.lose(c)
        ledger.judge({a.id: 0.5})
        assert ledger.find("a", "x").score == 0.5
        assert ledger.counts() == {"planned": 0, "pending": 0, "answered": 2, "unknown": 1, "refused": 0}
        assert (ledger.budget, ledger.unit, ledger.remaining) == (10.0, "cents", 5.75)
        assert ledger.find("a", "x").answer == {"text": "yes", "n": 1}
    with Ledger(path, read_only=True) as ledger, pytest.raises(LedgerError, match="read only"):
        ledger.intend("z", "x", maximum=0.0)


def test_the_budget_binds_exactly_and_money_adds_up_exactly(path):
    with Ledger(path, budget=0.3) as ledger:
        for i in range(3):
            ledger.settle(ledger.intend(str(i), "x", maximum=0.1), i)
        assert ledger.charged == 0.3  # in floating point .1 + .1 + .1 > .3
        assert ledger.remaining == 0.0
        ledger.settle(ledger.intend("free", "x", maximum=0.0), 0)
        with pytest.raises(BudgetError, match="nothing was sent"):
            ledger.intend("more", "x", maximum=1e-9)
        assert ledger.find("more", "x") is None


def test_the_database_itself_refuses_to_overspend(path, monkeypatch):
    """Mutation: without the check in Python the constraint of the account still stands."""
    monkeypatch.setattr(Ledger, "_afford", lambda *given: None)
    with Ledger(path, budget=1.0) as ledger:
        ledger.intend("a", "x", maximum=0.75)
        with pytest.raises(BudgetError, match="exceed the budget"):
            ledger.intend("b", "x", maximum=0.5)
        assert ledger.charged == 0.75
        for change in ("DELETE FROM query", "UPDATE query SET charge = 0", "UPDATE query SET sends = 2"):
            with pytest.raises(sqlite3.IntegrityError):
                ledger._link.execute(change)


def test_an_intent_left_behind_is_charged_at_its_maximum(path):
    first = Ledger(path, budget=1.0)
    first.intend("a", "x", maximum=0.25)
    first.close()
    with Ledger(path) as ledger:
        assert ledger.find("a", "x").state == "unknown"
        assert ledger.charged == ledger.in_flight == 0.25
        with pytest.raises(LedgerError, match="not sent again"):
            ledger.intend("a", "x")


def test_an_expert_that_charges_more_than_its_maximum_is_seen(path):
    with Ledger(path, budget=1.0) as ledger:
        query = ledger.intend("a", "x", maximum=0.25)
        ledger.settle(query, "answer", cost=2.0)
        assert ledger.charged == 2.0  # the account says what was paid, not what was promised
        with pytest.raises(BudgetError):
            ledger.intend("b", "x", maximum=0.01)
        certificate, evidence = certify_ledger(ledger)
    assert certificate.check(**evidence).status.name == "VIOLATED"


# spoilt files


def test_one_writer_at_a_time_and_any_readers(path):
    with Ledger(path, budget=1.0) as ledger:
        with pytest.raises(LedgerError, match="another process"):
            Ledger(path)
        ledger.intend("a", "x", maximum=0.5)
        with Ledger(path, read_only=True) as reader:
            assert reader.charged == 0.5
            assert reader.find("a", "x").state == "pending"  # the writer lives: nothing is given up


def test_foreign_damaged_and_absent_files(tmp_path, path):
    (tmp_path / "text").write_text("not a database at all, but long enough to be read as one" * 40)
    with pytest.raises(InvalidFileError, match="not a ledger"):
        Ledger(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE things (x)")
    other.commit()
    other.close()
    before = (tmp_path / "other.sqlite").read_bytes()
    with pytest.raises(InvalidFileError, match="no ledger"):
        Ledger(tmp_path / "other.sqlite")
    assert (tmp_path / "other.sqlite").read_bytes() == before
    with pytest.raises(InvalidFileError, match="no such ledger"):
        Ledger(tmp_path / "absent", read_only=True)
    with pytest.raises(InvalidInputError, match="no folder"):
        Ledger(tmp_path / "nowhere" / "ledger")
    Ledger(path, budget=1.0).close()
    with pytest.raises(InvalidInputError, match="another budget"):
        Ledger(path, budget=2.0)
    link = sqlite3.connect(path)
    link.execute("PRAGMA user_version = 99")
    link.close()
    with pytest.raises(InvalidFileError, match="version 99"):
        Ledger(path)
    raw = bytearray(before)
    raw[100:] = os.urandom(len(raw) - 100)
    (tmp_path / "damaged").write_bytes(raw)
    with pytest.raises(InvalidFileError):
        Ledger(tmp_path / "damaged")


def test_remains_of_a_deleted_ledger_do_no_harm(path):
    first = Ledger(path, budget=1.0)
    first.intend("a", "x", maximum=0.5)
    remains = {s: path.with_name(path.name + s).read_bytes() for s in ("-wal", "-shm")}
    first.close()
    path.unlink()
    for suffix, raw in remains.items():
        path.with_name(path.name + suffix).write_bytes(raw)
    with Ledger(path, budget=2.0) as ledger:
        assert ledger.charged == 0
        assert ledger.queries() == []
        assert ledger.budget == 2.0


def test_a_full_disk_stops_the_asking_and_keeps_the_statement(path):
    sent = []
    with Ledger(path, budget=1000.0, pages=20) as ledger:
        pool = ExpertPool([Expert("x", lambda p: sent.append(p) or "y" * 3000, price=0.5, concurrency=1)], ledger)
        with pytest.raises(LedgerError, match="disk is full"):
            pool.ask([Question(f"item {i}", "x") for i in range(100)])
    with Ledger(path) as ledger:
        assert 0 < len(sent) < 100
        assert ledger.charged >= 0.5 * len(sent) - 1e-9  # the answer that did not fit stays charged at its maximum
        assert ledger.charged - 0.5 * len(sent) <= ledger.in_flight
        certificate, evidence = certify_ledger(ledger)
        assert certificate.check(**evidence)


def test_a_database_locked_by_another_program(path):
    sent = []
    with Ledger(path, budget=1.0, patience=0.05) as ledger:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match="locked"):
            ExpertPool([Expert("x", sent.append)], ledger).ask([Question("a", "x")])
        other.execute("ROLLBACK")
        other.close()
        assert not sent
        assert ledger.counts()["pending"] == 0


@pytest.mark.parametrize("money", [-1.0, float("nan"), float("inf"), 1e30, "much"])
def test_senseless_money(path, money, as_shipped):
    with pytest.raises(InvalidInputError, match="budget"):
        Ledger(path, budget=money)
    with Ledger(path, budget=1.0) as ledger:
        with pytest.raises(InvalidInputError, match="maximum"):
            ledger.intend("a", "x", maximum=money)
        with pytest.raises(InvalidInputError, match="`maximum` is needed"):
            ledger.intend("a", "x")
        with pytest.raises(LedgerError, match="probability"):
            ledger.intend("a", "x", maximum=0.1, probability=0.0)


def test_the_ledger_and_the_experts_import_no_torch():
    leaves = "_ledger, _ledger_schema, _expert_pool, _chat_expert, _pool_file"
    code = (
        f"import sys; from corollary.deferral import {leaves}; "
        "print([m for m in ('torch', 'numpy', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# its certificate


def test_the_certificate_is_derived_from_every_row(path, tmp_path):
    with Ledger(path, budget=2.0, unit="dollars") as ledger:
        ledger.settle(ledger.intend("a", "x", maximum=0.5), 1, cost=0.25)
        ledger.lose(ledger.intend("b", "x", maximum=0.75))
        ledger.refuse(ledger.intend("c", "x", maximum=0.5))
        certificate, evidence = certify_ledger(ledger, everything=8.0)
        with Ledger(path, read_only=True) as reader:
            assert {k: v.tolist() for k, v in ledger_evidence(reader).items()} == {
                k: v.tolist() for k, v in evidence.items()
            }
    check_certificate(certificate, evidence)
    assert "within the budget of 2" in certificate.statement
    save_certificate(tmp_path, certificate, evidence)
    assert load_certificate(tmp_path)[0].check(**evidence)


@pytest.mark.parametrize(
    ("change", "row", "value"),
    [
        ("charge", 1, 0),  # an unknown outcome charged at nothing
        ("charge", 2, 1),  # a refusal that is charged
        ("charge", 0, 2 * 10**9),  # an answer dearer than its maximum
        ("sends", 0, 3),  # sent again without keys
        ("state", 0, 0),  # charged though never sent
        ("charge", 0, -5),
    ],
)
def test_mutated_rows_are_caught(path, change, row, value):
    with Ledger(path, budget=2.0) as ledger:
        ledger.settle(ledger.intend("a", "x", maximum=0.5), 1, cost=0.25)
        ledger.lose(ledger.intend("b", "x", maximum=0.75))
        ledger.refuse(ledger.intend("c", "x", maximum=0.5))
        certificate, evidence = certify_ledger(ledger)
    evidence[change][row] = value
    again = Certificate.issue(
        certificate.rule, statement="", evidence=evidence, witness=certificate.witness, reference=certificate.reference
    )
    assert again.check(**evidence).status.name == "VIOLATED"


def test_charging_unknown_queries_at_less_than_their_maximum_would_be_caught(path, monkeypatch):
    """Mutation of the constant itself: half of the maximum for what is not known."""
    with Ledger(path, budget=2.0) as ledger:
        ledger.lose(ledger.intend("b", "x", maximum=0.75))
        ledger._link.execute("PRAGMA ignore_check_constraints = ON")
        ledger._link.execute("UPDATE query SET charge = maximum / 2")
        certificate, evidence = certify_ledger(ledger)
    assert certificate.check(**evidence).status.name == "VIOLATED"


# experts


def test_refusals_are_tried_again_and_lost_calls_only_with_keys(path):
    sent = {"busy": [], "keys": [], "none": [], "bad": []}

    def busy(prompt):
        sent["busy"].append(prompt)
        if len(sent["busy"]) < 3:
            raise Refused("too many requests", pause=0.0)
        return "ok"

    def keys(prompt, key):
        sent["keys"].append(key)
        if len(sent["keys"]) < 2:
            raise ConnectionError("broken")
        return Reply("ok", 0.1)

    def none(prompt):
        sent["none"].append(prompt)
        raise ConnectionError("broken")

    def bad(prompt):
        sent["bad"].append(prompt)
        raise Refused("no such model", again=False)

    experts = [Expert(f.__name__, f, price=0.2, idempotent=f is keys) for f in (busy, keys, none, bad)]
    with Ledger(path, budget=5.0) as ledger:
        rows = ExpertPool(experts, ledger).ask([Question("q", e.name) for e in experts])
        assert [r.state for r in rows] == ["answered", "answered", "unknown", "refused"]
        assert [len(sent[e.name]) for e in experts] == [3, 2, 1, 1]
        assert len(set(sent["keys"])) == 1
        assert ledger.charged == pytest.approx(0.2 + 0.1 + 0.2 + 0.0, abs=1e-12)
        rows = ExpertPool(experts, ledger).ask([Question("q", e.name) for e in experts[:3]])
        assert [len(sent[n]) for n in ("busy", "keys", "none")] == [3, 2, 1]  # nothing is asked twice


def test_experts_that_change_between_runs(path):
    """A price that rose counts from the next send; without keys what is unknown stays so, whatever was said before."""
    sent = []

    def breaks(prompt, key=None):
        sent.append((prompt, key))
        raise ConnectionError("broken")

    with Ledger(path, budget=5.0) as ledger:
        ledger.plan(0, {}, [("q", "x", 0.5, 0.1, True), ("r", "x", 0.5, 0.1, True)])
        ExpertPool([Expert("x", breaks, price=0.1, retries=0, idempotent=True)], ledger).ask([Question("q", "x")])
        dearer = Expert("x", breaks, price=0.4, retries=0)
        rows = ExpertPool([dearer], ledger).ask([Question("q", "x"), Question("r", "x")])
        assert [prompt for prompt, _ in sent] == ["q", "r"]
        assert [r.state for r in rows] == ["unknown", "unknown"]
        assert ledger.charged == 0.5  # .1 for the one sent before, .4 for the other
        ExpertPool([dataclasses.replace(dearer, idempotent=True)], ledger).ask([Question("q", "x")])
        assert ledger.charged == 0.8
        certificate, evidence = certify_ledger(ledger)
        assert certificate.check(**evidence)


def test_async_experts_timeouts_and_limits(path):
    import asyncio

    at_once, most = [0], [0]

    async def slow(prompt):
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        await asyncio.sleep(0.01)
        at_once[0] -= 1
        return prompt

    async def never(prompt):
        await asyncio.sleep(60)

    told = []
    with Ledger(path, budget=5.0) as ledger:
        experts = [Expert("slow", slow, concurrency=2), Expert("never", never, price=0.5, timeout=0.02)]
        hung = Expert("hung", lambda prompt: time.sleep(0.5), price=0.25, timeout=0.02)
        pool = ExpertPool([*experts, hung], ledger)
        questions = [Question(str(i), "slow") for i in range(6)]
        questions += [Question("x", "never"), Question("x", "hung"), Question("0", "slow")]
        rows = pool.ask(questions, tell=told.append)
        assert [r.answer for r in rows[:6]] == list("012345")
        assert rows[8] == rows[0]
        assert most[0] == 2
        assert [rows[6].state, rows[7].state] == ["unknown", "unknown"]
        assert ledger.in_flight == 0.75
        assert "0.02 s" in pool.problems["never"]
        assert len(told) == 8
        with pytest.raises(InvalidInputError, match="no expert is named"):
            pool.ask([Question("a", "nobody")])

        async def inside():
            return pool.ask([Question("inside", "slow")])[0].answer

        assert asyncio.run(inside()) == "inside"  # as in a notebook


def test_room_that_real_costs_leave_is_used(path):
    with Ledger(path, budget=1.0) as ledger:
        pool = ExpertPool([Expert("x", lambda p: Reply(p, 0.1), price=0.5, concurrency=8)], ledger)
        rows = pool.ask([Question(str(i), "x") for i in range(10)])
        assert sum(r is not None for r in rows) == 6  # after six at .1, a maximum of .5 does not fit into .4
        assert ledger.charged == pytest.approx(0.6, abs=1e-12)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"name": ""}, "name"),
        ({"price": -1.0}, "price"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout": 0.0}, "timeout"),
        ({"retries": -1}, "retries"),
    ],
)
def test_senseless_experts(settings, match):
    with pytest.raises(InvalidInputError, match=match):
        Expert(**({"name": "x", "call": str} | settings))


def test_a_pool_needs_experts_of_different_names(path):
    with Ledger(path) as ledger:
        for experts in ([], [Expert("x", str), Expert("x", str)]):
            with pytest.raises(InvalidInputError, match="name of its own"):
                ExpertPool(experts, ledger)
        pool = ExpertPool([Expert("set", lambda p: {p}, price=0.5)], ledger)
        assert pool.ask([Question("a", "set")])[0].state == "unknown"  # paid for, but nothing that can be kept
        assert "cannot be kept" in pool.problems["set"]
        assert ledger.remaining == float("inf")


def test_many_threads_on_one_ledger(path):
    """A gateway's threads share one ledger: no intent is lost, the budget holds."""
    with Ledger(path, budget=2.0) as ledger:
        won = []

        def work(name):
            for i in range(10):
                try:
                    query = ledger.intend(f"{name} {i}", "x", maximum=0.1)
                except BudgetError:
                    return
                won.append(query.id)
                ledger.settle(query, i, cost=0.1)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(won) == len(set(won)) == 20
        assert ledger.charged == 2.0


def test_states_are_those_of_the_schema():
    from corollary.deferral._ledger_schema import SCHEMA

    assert all(f"'{s}'" in SCHEMA for s in ledger_module.STATES)
