"""Reserve before, settle after: budgets bind exactly under concurrency, and every row adds up."""

import asyncio
import sqlite3
from fractions import Fraction

import numpy as np
import pytest
import sqlalchemy as sa
from running_gateway import ask, cost, post, running, settled, tables

from corollary.deferral._ledger_schema import NANO
from corollary.errors import InvalidFileError, InvalidInputError, LedgerError
from corollary.serving import GatewayLedger, read_gateway
from corollary.serving import _tables as t
from corollary.serving._config import Budget, UpstreamTable, database_url
from corollary.serving._ledger import ANSWERED, REFUSED, UNKNOWN, Call, OverBudget, Reservation, Settlement
from corollary.serving._money import Limit, limits_of, prices_of, retry_after


@pytest.fixture
def ledger(tmp_path):
    found = GatewayLedger(str(tmp_path / "gateway.sqlite"))
    yield found
    found.close()


def row(name):
    return {c.name: None for c in t.request.c} | {
        "id": name, "created": 1.0, "replica": "r", "key": "k", "asked": "m", "drawn": "m", "greedy": "m", "policy": "",
        "hash": "h",
    }  # fmt: skip


def call(i, maximum, tokens=10):
    return Call(f"r{i}.0", f"r{i}", "m", (), maximum, tokens, 1.0)


def test_a_budget_binds_exactly_whatever_the_order(ledger):
    """Random reservations and settlements against a plain model of the account."""
    rng = np.random.default_rng(0)
    limit = Limit("total/forever", None, 1000, 500)

    async def play():
        held, money, tokens, passed = [], 0, 0, 0
        for i in range(400):
            if held and rng.random() < 0.5:
                c = held.pop(int(rng.integers(len(held))))
                state = rng.choice([ANSWERED, UNKNOWN, REFUSED])
                paid = {ANSWERED: int(rng.integers(c.maximum + 1)), UNKNOWN: c.maximum, REFUSED: 0}[str(state)]
                used = {ANSWERED: 3, UNKNOWN: c.maximum_tokens, REFUSED: 0}[str(state)]
                ledger.settle(Settlement(c, str(state), paid, 1, 2, used))
                ledger.settle(Settlement(c, ANSWERED, 99, 1, 2, 99))  # the second time says nothing
                money, tokens = money + paid - c.maximum, tokens + used - c.maximum_tokens
            most, many = int(rng.integers(1, 300)), int(rng.integers(1, 120))
            fits = money + most <= 1000 and tokens + many <= 500
            try:
                held.append(await ledger.reserve(Reservation(call(i, most, many), (limit,), row(f"r{i}"))))
                assert fits
                money, tokens, passed = money + most, tokens + many, passed + 1
            except OverBudget:
                assert not fits
        return money, tokens, passed

    money, tokens, passed = asyncio.run(play())
    assert 20 < passed < 380
    ledger.close()
    again = GatewayLedger(ledger.url, read_only=True)
    [account] = again.read(sa.select(t.account))
    assert (account["money"], account["tokens"]) == (money, tokens)
    assert again.audit() == []
    assert again.summary()["charged"] == pytest.approx(money / NANO)
    again.close()


def test_many_at_once_share_commits_and_never_overspend(ledger):
    limit = Limit("total/forever", None, 50 * 7, None)

    async def play():
        wishes = [Reservation(call(i, 7), (limit,), row(f"r{i}")) for i in range(300)]
        return await asyncio.gather(*(ledger.reserve(w) for w in wishes), return_exceptions=True)

    found = asyncio.run(play())
    assert sum(isinstance(x, Call) for x in found) == 50
    assert all(isinstance(x, Call | OverBudget) for x in found)
    assert ledger.writer.commits < 50  # group commit: far fewer transactions than reservations
    assert ledger.audit() == []


def test_the_audit_sees_an_edited_number(ledger):
    asyncio.run(ledger.reserve(Reservation(call(1, 7), (Limit("total/forever", None, 100, None),), row("r1"))))
    assert ledger.audit() == []
    with ledger.engine.begin() as link:
        link.execute(t.account.update().values(money=3))
    assert "3 charged, its calls say 7" in ledger.audit()[0]
    for change in ({"money": 1}, {"state": "refused"}, {"state": "paid"}):
        with pytest.raises(sa.exc.IntegrityError), ledger.engine.begin() as link:  # the database itself refuses
            link.execute(t.call.update().values(**change))


def test_whoever_is_cancelled_while_waiting_gives_the_reservation_back(ledger):
    async def play():
        task = asyncio.create_task(
            ledger.reserve(Reservation(call(1, 7), (Limit("t/forever", None, 9, None),), row("r1")))
        )
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0.3)

    asyncio.run(play())
    ledger.close()
    again = GatewayLedger(ledger.url, read_only=True)
    assert again.summary()["states"] == {"refused": 1}
    assert again.summary()["charged"] == 0
    again.close()


def test_calls_left_pending_become_unknown_and_stay_charged(ledger):
    asyncio.run(ledger.reserve(Reservation(call(1, 7), (), row("r1"))))
    assert ledger.give_up(older=10.0) == 1
    assert ledger.summary()["states"] == {"unknown": 1}
    assert ledger.summary()["in_flight"] == 7e-9


def test_foreign_newer_and_locked_databases(tmp_path, ledger):
    (tmp_path / "text").write_text("no database at all, long enough to look like one " * 40)
    with pytest.raises(InvalidFileError, match="no ledger"):
        GatewayLedger(str(tmp_path / "text"))
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE things (x)")
    other.close()
    with pytest.raises(InvalidFileError, match="something else"):
        GatewayLedger(str(tmp_path / "other"))
    with pytest.raises((LedgerError, InvalidFileError)):
        GatewayLedger(str(tmp_path / "absent" / "deep"), read_only=True)
    with ledger.engine.begin() as link:
        link.execute(t.version.insert().values(version=99))
    with pytest.raises(InvalidFileError, match="version 99"):
        GatewayLedger(ledger.url)
    with pytest.raises(InvalidInputError, match="SQLite file or a postgresql"):
        database_url("mysql://x")
    with pytest.raises(LedgerError, match="cannot be opened"):
        GatewayLedger("postgresql://nobody:secretword@127.0.0.1:9/none")


def test_the_password_of_a_database_is_in_no_message():
    with pytest.raises(LedgerError) as caught:
        GatewayLedger("postgresql://nobody:secretword@127.0.0.1:9/none")
    assert "secretword" not in str(caught.value)


# money


def test_prices_round_up_and_bytes_bound_tokens():
    prices = prices_of(
        UpstreamTable(url="http://x/v1", model="m", input_price=0.1, output_price=0.4, request_price=0.001)
    )
    rng = np.random.default_rng(0)
    for _ in range(1000):
        i, o = (int(x) for x in rng.integers(0, 10**6, 2))
        exact = Fraction(i, 10) * 1000 + Fraction(4 * o, 10) * 1000 + 10**6  # billionths, without rounding
        assert 0 <= prices.of(i, o) - exact < 1


def test_windows_and_waiting():
    hour = Limit("x/1h", 3600, 1, None)
    assert [hour.start(x) for x in (0.0, 3599.9, 3600.0)] == [0, 0, 3600]
    assert retry_after([hour], now=3599.5) == 1
    assert retry_after([hour, Limit("x/1d", 86400, 1, None)], now=10.0) == 86391
    assert retry_after([hour, Limit("x/forever", None, 1, None)], now=10.0) is None
    found = limits_of([Budget(money=1.0)], "ann", {"money": 5, "tokens": None, "window": "1h", "over": "cheaper"})
    assert [(f.name, f.over) for f in found] == [("total/1d", "refuse"), ("own:ann/1h", "cheaper")]


# through the door


def config(mock, **more):
    return {"upstreams": tables(mock.url), **more}


def test_when_the_budget_ends_429_with_the_time_to_wait(mock, router_folder, tmp_path):
    budget = {"money": 4 * cost("small") + 0.0002, "window": "1h"}
    with running(config(mock, budgets=[budget]), router_folder, path=tmp_path) as (base, gateway):
        found = [ask(base) for _ in range(30)]
        codes = [status for status, _, _ in found]
        assert codes[0] == 200
        assert codes[-1] == 429
        headers, body = found[-1][1], found[-1][2]
        assert 0 < int(headers["retry-after"]) <= 3600
        assert body["error"]["code"] == "budget_exceeded"
        assert len(mock.seen) == codes.count(200)
        summary = settled(gateway, 30)
        assert summary["charged"] <= budget["money"]
        assert [r["status"] for r in gateway.ledger.requests()].count(429) == codes.count(429)


def test_when_the_budget_ends_a_cheaper_model(mock, router_folder, tmp_path):
    budget = {"money": 0.003, "window": "1h", "over": "cheaper"}  # one maximum of the large model fits, two do not
    hard = {"messages": [{"role": "user", "content": "hard 1"}]}
    mock.mode = "no usage"
    with running(config(mock, budgets=[budget]), router_folder, path=tmp_path) as (base, gateway):
        found = [post(base, {"model": "corollary/auto", **hard})[1] for _ in range(2)]
        assert [h["x-corollary-model"] for h in found] == ["large", "small"]
        assert found[1]["x-corollary-drawn"] == "large"
        assert settled(gateway)["charged"] <= 0.003
        status, headers, _ = post(base, {"model": "large", **hard})
        assert (status, headers["x-corollary-model"]) == (200, "small")


def test_tokens_are_budgets_too_and_a_window_ends(mock, tmp_path):
    budget = {"tokens": 250, "window": "2s"}
    with running(config(mock, budgets=[budget]), path=tmp_path) as (base, _):
        import time

        time.sleep(2 - time.time() % 2)  # from the beginning of a window on
        codes = [ask(base)[0] for _ in range(12)]
        assert 200 in codes
        assert 429 in codes
        time.sleep(2.1)
        assert ask(base)[0] == 200


def test_a_long_prompt_or_answer_reserves_more(mock, tmp_path):
    with running(config(mock), path=tmp_path) as (base, _):
        small = float(ask(base)[1]["x-corollary-maximum"])
        longer = float(ask(base, max_tokens=500)[1]["x-corollary-maximum"])
        assert longer == pytest.approx(small + 2.0 * (500 - 50) / 1e6, abs=3e-5)  # and the field's own bytes
        many = float(ask(base, n=4)[1]["x-corollary-maximum"])
        assert many > 3 * small * 0.5
        huge = post(base, {"model": "small", "messages": [{"role": "user", "content": "x" * 10_000}]})[1]
        assert float(huge["x-corollary-maximum"]) >= small + 0.009
        assert "x-corollary-max-tokens" not in ask(base, max_tokens=5)[1]


def test_no_field_asks_for_more_than_was_reserved(mock, tmp_path):
    """Whatever a server might obey in place of `max_tokens` is bounded, reserved, or not sent."""
    with running({"upstreams": tables(mock.url, embeddings=True)}, path=tmp_path) as (base, _):
        small = float(ask(base)[1]["x-corollary-maximum"])
        both = float(ask(base, max_tokens=1, max_completion_tokens=500)[1]["x-corollary-maximum"])
        assert both > small + 2.0 * 440 / 1e6
        assert float(ask(base, best_of=8)[1]["x-corollary-maximum"]) > small + 7 * 2.0 * 50 / 1e6
        body = {"model": "small", "prompt": "x", "max_completion_tokens": "many"}
        assert post(base, body, "/v1/completions")[0] == 200
        assert "max_completion_tokens" not in mock.seen[-1]
        body = {"model": "small", "input": "x", "stream": True, "stream_options": [], "max_tokens": "many"}
        assert post(base, body, "/v1/embeddings")[0] == 200
        assert mock.seen[-1].keys() == {"model", "input"}


def test_configurations_are_refused_with_a_sentence(tmp_path):
    path = tmp_path / "gateway.toml"
    good = '[upstreams.small]\nurl = "http://127.0.0.1:9/v1"\nmodel = "m"\n'
    for text, told in (
        ("", "upstreams"),
        ("what", "not TOML"),
        (good + "[server]\nprot = 1\n", "server.prot"),
        (good + '[[budgets]]\nwindow = "1d"\n', "limits money, tokens"),
        (good + '[[budgets]]\nmoney = 1.0\nwindow = "soon"\n', "a window is"),
        (good + 'fallback = ["nobody"]\n', "fall back"),
        ('[upstreams.small]\nurl = "file:///etc/passwd"\nmodel = "m"\n', "http"),
        ('[upstreams.small]\nurl = "http://u:p@x/v1"\nmodel = "m"\n', "password"),
        ('[upstreams.small]\nmodel = "m"\n', "one of url"),
        ('[upstreams."a b"]\nurl = "http://x/v1"\nmodel = "m"\n', "plain name"),
        ("ledger = 3\n" + good, "ledger"),
    ):
        path.write_text(text)
        with pytest.raises(InvalidFileError, match=told):
            read_gateway(path)
    with pytest.raises(InvalidFileError, match="no such file"):
        read_gateway(tmp_path / "absent.toml")


def test_the_configurations_that_are_shown_are_valid(tmp_path):
    import re
    from pathlib import Path

    root = Path(__file__).parents[2]
    page = (root / "docs" / "serving.md").read_text("utf-8")
    shown = [(root / "deploy" / "gateway.toml").read_text("utf-8"), *re.findall(r"```toml\n(.*?)```", page, re.DOTALL)]
    assert len(shown) == 2
    for text in shown:
        path = tmp_path / "gateway.toml"
        path.write_text(text)
        assert read_gateway(path).budgets
    words = set(re.findall(r"`(\w+)`", page.split("## gateway.toml")[1].split("## What holds")[0]))
    fields = set(UpstreamTable.model_fields) | {
        "who",
        "money",
        "tokens",
        "window",
        "over",
        "exploration",
        "prompt",
        "alpha",
    }
    assert set(UpstreamTable.model_fields) <= words  # every word of an upstream is told
    assert fields & words
