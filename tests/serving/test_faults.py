"""Faults of upstreams, clients, disks and processes: what the client sees, and that the ledger's statement holds."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import openai
import pytest
from mock_upstream import MockUpstream
from running_gateway import CHAT, PRICES, ask, check_statement, cost, post, running, settled, tables

from corollary.serving import GatewayLedger


def states(gateway):
    return settled(gateway)["states"]


def test_refused_connections_are_free_and_fall_back(mock, tmp_path):
    up = tables(mock.url)
    up["small"] |= {"url": "http://127.0.0.1:9/v1", "fallback": ["large"]}
    with running({"upstreams": up}, path=tmp_path) as (base, gateway):
        status, headers, _ = ask(base)
        assert (status, headers["x-corollary-model"]) == (200, "large")
        assert states(gateway) == {"refused": 1, "answered": 1}
        assert settled(gateway)["charged"] == pytest.approx(cost("large"), abs=1e-9)


def test_a_hanging_upstream_is_left_and_stays_charged_at_its_maximum(mock, tmp_path):
    mock.mode = "hang"
    up = tables(mock.url, timeout=0.3)
    with running({"upstreams": up}, path=tmp_path) as (base, gateway):
        status, _, body = ask(base)
        assert status == 502
        assert "no answer within 0.3 s" in body["error"]["message"]
        assert len(mock.seen) == 1  # it may have been billed: not sent again
        assert states(gateway) == {"unknown": 1}
        found = gateway.ledger.summary()
        assert found["charged"] == found["in_flight"] > cost("small")


def test_an_upstream_that_honours_keys_is_asked_again_on_the_same_reservation(mock, tmp_path):
    mock.mode = ["reset", "good"]
    with running({"upstreams": tables(mock.url, idempotent=True)}, path=tmp_path) as (base, gateway):
        assert ask(base)[0] == 200
        keys = {h["Idempotency-Key"] for h in mock.headers}
        assert len(mock.headers) == 2
        assert len(keys) == 1
        assert states(gateway) == {"answered": 1}


@pytest.mark.parametrize("mode", ["garbage", "wrong", "500", "reset"])
def test_what_may_have_been_billed_stays_charged(mock, tmp_path, mode):
    mock.mode = [mode, "good"]
    up = tables(mock.url)
    up["small"]["fallback"] = ["large"]
    with running({"upstreams": up}, path=tmp_path) as (base, gateway):
        status, headers, _ = ask(base)
        assert (status, headers["x-corollary-model"]) == (200, "large")
        assert states(gateway) == {"unknown": 1, "answered": 1}


def test_errors_known_to_be_free_are_tried_again_for_nothing(mock, tmp_path):
    mock.mode = ["500", "good"]
    with running({"upstreams": tables(mock.url, unbilled_errors=True)}, path=tmp_path) as (base, gateway):
        assert ask(base)[0] == 200
        assert states(gateway) == {"answered": 1}


def test_429s_are_waited_for_and_then_passed_on(mock, tmp_path):
    mock.mode = ["429", "good"]
    with running({"upstreams": tables(mock.url)}, path=tmp_path) as (base, gateway):
        assert ask(base)[0] == 200
        assert len(mock.seen) == 2
        mock.mode = "429"
        assert ask(base)[0] == 502
        assert states(gateway) == {"answered": 1, "refused": 1}
        assert gateway.ledger.summary()["charged"] == pytest.approx(cost("small"), abs=1e-9)


def test_the_breaker_leaves_a_broken_upstream_alone_and_tries_it_again(mock, tmp_path):
    mock.mode = "500"
    up = tables(mock.url, breaker_failures=2, breaker_seconds=0.5, retries=0)
    with running({"upstreams": up}, path=tmp_path) as (base, gateway):
        assert [ask(base)[0] for _ in range(4)] == [502] * 4
        assert len(mock.seen) == 2
        mock.mode = "good"
        time.sleep(0.6)
        assert ask(base)[0] == 200
        assert not gateway.upstreams["small"].breaker.open


@pytest.mark.parametrize("mode", ["reset stream", "hang stream"])
def test_a_stream_that_breaks_ends_with_an_error_the_client_raises(mock, tmp_path, mode):
    mock.mode = mode
    with running({"upstreams": tables(mock.url, idle_timeout=0.4)}, path=tmp_path) as (base, gateway):
        with openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as c:
            said = []
            stream = c.chat.completions.create(model="small", stream=True, **CHAT)
            with pytest.raises(openai.APIError, match="broke"):
                said.extend(piece.choices[0].delta.content for piece in stream)
        assert said == ["one", " two", " three"]
        assert states(gateway) == {"unknown": 1}
        assert gateway.flying == 0


def test_a_stream_of_garbage_is_known_before_the_client_sees_a_byte(mock, tmp_path):
    mock.mode = ["garbage stream", "good"]
    up = tables(mock.url)
    up["small"]["fallback"] = ["large"]
    with running({"upstreams": up}, path=tmp_path) as (base, gateway):
        with openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as c:
            assert len(list(c.chat.completions.create(model="small", stream=True, **CHAT))) == 6
        assert states(gateway) == {"unknown": 1, "answered": 1}


@pytest.mark.parametrize("mode", ["endless", "hang stream"])
def test_a_client_that_leaves_in_mid_stream_frees_the_upstream(mock, tmp_path, mode):
    mock.mode = mode
    with running({"upstreams": tables(mock.url, idle_timeout=30)}, path=tmp_path) as (base, gateway):
        host = base.removeprefix("http://")
        link = http.client.HTTPConnection(host, timeout=10)
        link.request("POST", "/v1/chat/completions", json.dumps({"model": "small", "stream": True, **CHAT}),
                     {"Content-Type": "application/json"})  # fmt: skip
        reply = link.getresponse()
        assert reply.read1(10)
        reply.close()
        link.close()
        assert states(gateway) == {"unknown": 1}  # long before the upstream's 30 seconds of silence
        assert gateway.flying == 0
        assert gateway.upstreams["small"].places._value == 64
        row = next(iter(gateway.ledger.requests()))
        assert row["status"] == 499
        until = time.monotonic() + 5
        while mode == "endless" and mock.left == 0:
            assert time.monotonic() < until
            time.sleep(0.02)


def test_a_missing_usage_is_charged_at_the_maximum(mock, tmp_path):
    mock.mode = "no usage"
    with running({"upstreams": tables(mock.url)}, path=tmp_path) as (base, gateway):
        _, headers, _ = ask(base)
        assert float(headers["x-corollary-cost"]) == float(headers["x-corollary-maximum"])
        found = settled(gateway)
        assert found["states"] == {"answered": 1}
        assert found["charged"] == pytest.approx(float(headers["x-corollary-maximum"]), abs=1e-9)


def test_a_full_disk_stops_the_sending_and_keeps_the_statement(mock, tmp_path):
    url = f"sqlite:///{tmp_path}/full.sqlite"
    ledger = GatewayLedger(url, pages=34)
    with running({"upstreams": tables(mock.url), "ledger": {"url": url}}, ledger=ledger) as (base, _):
        found = [ask(base)[0] for _ in range(250)]
        assert set(found) == {200, 503}
        assert found[-1] == 503
        sent = len(mock.seen)
        assert ask(base)[0] == 503
        assert len(mock.seen) == sent  # what cannot be written down is not sent
        assert post(base, b"", "/ready")[0] == 405
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(base + "/ready", timeout=10)
    assert mock.billed == found.count(200)
    check_statement(url, mock.billed * cost("small"))


def test_no_place_and_too_many_at_once_are_told(mock, tmp_path):
    mock.delay = 0.6
    up = tables(mock.url, concurrency=1, queue_timeout=0.05)
    with running({"upstreams": up, "server": {"max_requests": 2}}, path=tmp_path) as (base, gateway):
        found = []
        threads = [threading.Thread(target=lambda: found.append(ask(base))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        codes = sorted(status for status, _, _ in found)
        assert codes[0] == 200
        assert set(codes[1:]) <= {429, 502}
        assert 429 in codes
        assert all(h.get("retry-after") == "1" for status, h, _ in found if status == 429)
        assert gateway.flying == 0


# SIGKILL under load

KILLED = Path(__file__).parents[1] / "support" / "killed_gateway.py"


def start(folder, port):
    # without the shape checks of the tests: what a user runs
    command = [sys.executable, str(KILLED), str(folder), str(port)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    line = child.stdout.readline()
    assert line.startswith("http://"), line
    return child, line.strip()


def load(base, stop, answered):
    while not stop.is_set():
        try:
            status, _, _ = ask(base, model=("small", "large")[len(answered) % 2])
            answered.append(status)
        except (OSError, http.client.HTTPException):
            time.sleep(0.02)


def killed_under_load(tmp_path, mock, rounds):
    budget = 0.05
    for number in range(rounds):
        child, base = start(tmp_path, mock.port)
        stop, answered = threading.Event(), []
        threads = [threading.Thread(target=load, args=(base, stop, answered), daemon=True) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.7 + 0.17 * number)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        stop.set()
        for thread in threads:
            thread.join(10)
        true = sum(cost(m.removeprefix("real-")) for m in mock.charged())
        found = check_statement(f"sqlite:///{tmp_path}/gateway.sqlite", true)
        assert found["charged"] <= budget * 3 + 1e-9  # three windows at most are touched
        assert answered
    child, base = start(tmp_path, mock.port)  # it starts again on what was left, and serves
    status, _, _ = ask(base)
    assert status in (200, 429)
    child.send_signal(signal.SIGTERM)
    child.wait(20)
    child.stdout.close()
    true = sum(cost(m.removeprefix("real-")) for m in mock.charged())
    check_statement(f"sqlite:///{tmp_path}/gateway.sqlite", true)


class BilledMock(MockUpstream):
    """Remembers who was billed, in order."""

    def charged(self):
        return [body["model"] for body in self.seen][: self.billed]


def test_sigkill_under_load_leaves_a_ledger_within_its_reservations(tmp_path):
    mock = BilledMock(delay=0.03)
    try:
        killed_under_load(tmp_path, mock, 2)
    finally:
        mock.stop()


@pytest.mark.slow
def test_sigkill_under_load_many_times(tmp_path):
    mock = BilledMock(delay=0.03)
    try:
        killed_under_load(tmp_path, mock, 12)
    finally:
        mock.stop()


def test_prices_are_those_of_the_tests():
    assert PRICES["large"][0] > PRICES["small"][0]


def test_a_stream_that_nobody_takes_is_settled_too(mock, tmp_path):
    """The client is gone before the first byte: the generator of events was never begun."""
    import asyncio

    from corollary.serving import Gateway, GatewayConfig
    from corollary.serving._app import Doors
    from corollary.serving._keys import LOCAL
    from corollary.serving._requests import Options
    from corollary.serving._stream import EventStream
    from corollary.serving._wanted import Wanted

    ledger = GatewayLedger(f"sqlite:///{tmp_path}/x.sqlite")
    gateway = Gateway(GatewayConfig.model_validate({"upstreams": tables(mock.url)}), ledger=ledger)
    doors = Doors(gateway)

    async def refuse(message):
        raise OSError("gone")

    async def play():
        body = {"model": "small", "stream": True, **CHAT}
        served = await gateway.serve(Wanted("chat", "small", body, 99, "easy", LOCAL, Options(), stream=True))
        gateway.flying = 1
        stream = EventStream(gateway.events(served), served.headers, lambda: doors.streamed(served))
        await stream({"type": "http"}, asyncio.Event().wait, refuse)
        await gateway.close()

    asyncio.run(play())
    assert gateway.flying == 0
    assert gateway.upstreams["small"].places._value == 64
    assert check_statement(ledger.url, 0.0)["states"] == {"unknown": 1}
