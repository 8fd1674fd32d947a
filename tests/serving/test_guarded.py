"""Wrong keys, huge bodies, malformed JSON, header injection, fuzz: only 4xx, nothing leaks, nothing crashes."""

import contextlib
import json
import logging
import random
import socket
import string
import time

import pytest
from running_gateway import CHAT, ask, post, running, settled, tables

from corollary.errors import InvalidInputError
from corollary.serving import GatewayLedger
from corollary.serving._keys import KeyRing, add_key, list_keys, read_keys, revoke_key

SECRET = "sk-up-secret-3f9"


@pytest.fixture
def book(tmp_path):
    ledger = GatewayLedger(f"sqlite:///{tmp_path}/gateway.sqlite")
    yield ledger
    ledger.close()


def bearer(key):
    return {"Authorization": f"Bearer {key.text}"}


def get(base, path, headers=None):
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(urllib.request.Request(base + path, headers=headers or {}), timeout=10) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as problem:
        with problem:
            return problem.code, problem.read()


def test_keys_are_hashed_scoped_and_revocable(book):
    key = add_key(book.engine, "ann", scopes=("chat",), models=("small",))
    ring = KeyRing(read_keys(book.engine))
    caller = ring.caller(f"Bearer {key.text}")
    assert caller.name == "ann"
    assert not caller.may_use("large")
    assert key.text.rpartition("-")[2] not in str(read_keys(book.engine))
    assert "digest" not in list_keys(book.engine)[0]
    head, secret = key.text[:-43], key.text[-43:]
    for wrong in (
        head + "A" * 43, "sk-corollary-000000000000-" + secret, key.text[:-1], key.text + "x", "", "Bearer", secret,
    ):  # fmt: skip
        assert ring.caller(f"Bearer {wrong}") is None
    assert ring.caller(None) is None
    assert ring.caller(f"Basic {key.text}") is None
    with pytest.raises(InvalidInputError, match="already"):
        add_key(book.engine, "ann")
    revoke_key(book.engine, "ann")
    ring.replace(read_keys(book.engine))
    assert ring.caller(f"Bearer {key.text}") is None
    assert ring.any  # a gateway that ever had a key stays locked
    with pytest.raises(InvalidInputError, match="no valid key"):
        revoke_key(book.engine, "ann")
    for wrong in ({"name": "a b"}, {"name": "local"}, {"scopes": ("root",)}, {"window": "soon"}, {"money": -1.0},
                  {"tokens": -1}, {"over": "never"}, {"models": ("a,b",)}):  # fmt: skip
        with pytest.raises(InvalidInputError):
            add_key(book.engine, **{"name": "bob", **wrong})


def test_the_secret_is_compared_in_constant_time(monkeypatch, book):
    import hmac

    asked = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: asked.append(1) or real(a, b))
    ring = KeyRing(read_keys(book.engine))
    for text in ("", "Bearer sk-corollary-000000000000-" + "A" * 43, "Bearer nonsense"):
        assert ring.caller(text) is None
    assert len(asked) == 3  # the same comparison for keys that do not exist


def test_a_key_made_closes_the_door_and_a_revoked_one_stays_out(mock, book, tmp_path):
    ann = add_key(book.engine, "ann", models=("small",), money=1.0)
    eve = add_key(book.engine, "eve", scopes=("read",))
    with running({"upstreams": tables(mock.url)}, path=tmp_path) as (base, gateway):
        assert ask(base)[0] == 401
        assert ask(base)[1]["www-authenticate"] == "Bearer"
        body = {"model": "small", **CHAT}
        status, headers, _ = post(base, body, headers=bearer(ann))
        assert status == 200
        settled(gateway, 1)
        assert post(base, {"model": "large", **CHAT}, headers=bearer(ann))[0] == 403
        assert post(base, body, headers=bearer(eve))[0] == 403
        judged = {"id": headers["x-corollary-id"], "score": 1}
        assert post(base, judged, "/v1/feedback", bearer(ann))[0] == 200
        assert post(base, judged, "/v1/feedback", bearer(eve))[0] == 403
        for path in ("/metrics", "/v1/status", "/v1/certificate", "/v1/models"):
            assert get(base, path)[0] == 401
        assert get(base, "/metrics", bearer(eve))[0] == 200
        assert get(base, "/metrics", bearer(ann))[0] == 403
        assert [get(base, path)[0] for path in ("/health", "/ready", "/", "/openapi.json")] == [200] * 4
        bob = add_key(book.engine, "bob")
        revoke_key(book.engine, "ann")
        until = time.monotonic() + 10
        while post(base, body, headers=bearer(ann))[0] != 401:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert post(base, body, headers=bearer(bob))[0] == 200
        assert post(base, judged, "/v1/feedback", bearer(bob))[0] == 404  # another key's request


def test_a_keys_own_budget_is_its_own(mock, book, tmp_path):
    ann, bob = add_key(book.engine, "ann", tokens=200, window="1h"), add_key(book.engine, "bob")
    with running({"upstreams": tables(mock.url)}, path=tmp_path) as (base, _):
        codes = [post(base, {"model": "small", **CHAT}, headers=bearer(ann))[0] for _ in range(8)]
        assert 429 in codes
        assert post(base, {"model": "small", **CHAT}, headers=bearer(bob))[0] == 200


def test_bodies_types_and_names(served):
    base, gateway, mock = served
    for raw, status in (
        (b"", 400), (b"{", 400), (b"[]", 400), (b"null", 400), (b'{"a": NaN}', 400), (b"\xff\xfe", 400),
        (b"[" * 100_000, 400), (b'{"model": ' + b"9" * 5000 + b"}", 400), (b'{"model": "small"}', 400),
        (b" " * (2 << 20), 413), (b'{"model": "corollary/auto", "messages": [{"role": "root", "content": ""}]}', 400),
    ):  # fmt: skip
        assert post(base, raw)[0] == status
    assert post(base, b"{}", headers={"Content-Type": "text/plain"})[0] == 415
    assert get(base, "/v1/nothing")[0] == 404
    assert get(base, "/v1/chat/completions")[0] == 405
    assert get(base, "/../../etc/passwd")[0] == 404
    assert get(base, "/health", {"Host": "evil.example"})[0] == 421
    assert get(base, "/health", {"Host": "localhost:8080"})[0] == 200
    assert mock.seen == []
    assert gateway.flying == 0
    half = b'{"model": "small", "messages": [{"role": "user", "content": "half \\ud800 pair and \\u0000"}]}'
    assert post(base, half)[0] == 200


def test_no_header_can_be_injected(served):
    base, _, _ = served
    evil = "small\r\nX-Evil: 1"
    status, headers, _ = ask(base, model=evil)
    assert status == 404
    assert "x-evil" not in headers
    host, port = base.removeprefix("http://").split(":")
    for head in (
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: b\rX-Evil: 1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nBad Name: 1\r\n\r\n",
        b"GET /he alth HTTP/9.9\r\n\r\n",
        b"POST /v1/route HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9,
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=10) as link:
            link.sendall(head)
            said = b""
            with contextlib.suppress(ConnectionError):
                said = link.recv(65536)
            assert b"X-Evil" not in said
            assert said == b"" or 200 <= int(said.split(b" ", 2)[1]) < 500
    assert get(base, "/health")[0] == 200


def test_no_url_or_path_comes_from_a_request(mock, tmp_path):
    with running({"upstreams": tables(mock.url)}, path=tmp_path) as (base, _):
        for field in ("url", "base_url", "api_base", "folder", "key_file"):
            assert ask(base, **{field: "http://127.0.0.1:9/steal"})[0] == 200
        assert ask(base, model="http://127.0.0.1:9/steal")[0] == 404
        assert ask(base, model="../../etc/passwd")[0] == 404
        mock.mode = "redirect"
        assert ask(base)[0] == 502  # a redirect is not followed


def test_no_secret_in_logs_errors_metrics_and_ledger(mock, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("UP_KEY", SECRET)
    caplog.set_level(logging.DEBUG)
    said = []
    with running({"upstreams": tables(mock.url, key_env="UP_KEY", retries=0)}, path=tmp_path) as (base, gateway):
        gateway.upstreams["small"]._secret = SECRET
        for mode in ("good", "400", "401", "500", "reset", "garbage", "429"):
            mock.mode = mode
            said.append(str(ask(base)))
        said += [str(get(base, p)) for p in ("/metrics", "/v1/status", "/v1/models", "/openapi.json", "/")]
        settled(gateway)
    assert all(h["Authorization"] == f"Bearer {SECRET}" for h in mock.headers)
    assert SECRET not in "".join(said) + caplog.text
    raw = b"".join(p.read_bytes() for p in tmp_path.iterdir() if p.is_file())
    assert SECRET.encode() not in raw
    assert b"easy 1" not in raw  # nor a prompt: hashed unless the configuration says otherwise


def test_prompts_are_kept_where_the_configuration_says_so(mock, router_folder, tmp_path):
    ledger = {"url": f"sqlite:///{tmp_path}/text.sqlite", "prompts": "text"}
    with running({"upstreams": tables(mock.url), "ledger": ledger}, router_folder) as (base, gateway):
        ask(base, model="corollary/auto")
        settled(gateway, 1)
        [row] = gateway.ledger.requests()
    assert row["prompt"] == "easy 1"
    assert row["propensity"] == {"small": 1.0, "large": 0.0}


# fuzz

FIELDS = "model messages max_tokens n stream corollary temperature stream_options prompt input id score tools".split()
ROLES = ("user", "system", "assistant", "", "root", None, 3)


def fuzzed(rng):
    """A body that may be anything, often close to right; and headers."""
    kind = rng.random()
    if kind < 0.15:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(60))), {}
    text = "".join(rng.choice(string.printable + "é☃\u0000\ud800") for _ in range(rng.randrange(30)))
    anything = [None, True, -1, 0, 1, 2**70, 1e308, "", text, [], {}, [[]], {"a": []}, "small", "corollary/auto"]
    body = {"model": rng.choice(["small", "large", "corollary/auto", "nobody", text])}
    body["messages"] = [
        {"role": rng.choice(ROLES), "content": rng.choice([text, None, [], [{"type": "text", "text": text}]])}
    ]
    for _ in range(rng.randrange(4)):
        body[rng.choice([*FIELDS, text])] = rng.choice(anything)
    headers = {}
    if rng.random() < 0.2:
        name = rng.choice(
            ["x-corollary-price", "x-corollary-quality", "x-corollary-heads", "authorization", "host", "content-type"]
        )
        headers[name] = rng.choice(
            ["", "1", "nan", "1e999", "-1", "a,b", "Bearer x", "application/json", "☃".encode().decode("latin-1")]
        )
    raw = json.dumps(body).encode()
    return (raw[: rng.randrange(len(raw))] if kind > 0.9 else raw), headers


def fuzz(base, mock, count, seed):
    import http.client

    host = base.removeprefix("http://")
    rng = random.Random(seed)
    paths = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/route", "/v1/feedback")
    codes = {}
    link = http.client.HTTPConnection(host, timeout=30)
    for _ in range(count):
        raw, headers = fuzzed(rng)
        path = rng.choice(paths) if rng.random() < 0.9 else "/" + "".join(rng.choice("abv1/.%") for _ in range(9))
        path = path if path.isprintable() and " " not in path else "/x"
        method = rng.choice(["POST"] * 8 + ["GET", "PUT"])
        head = {"Content-Type": "application/json"} | headers
        try:
            link.request(method, path, raw, head)
            reply = link.getresponse()
            said = reply.read()
        except (http.client.HTTPException, ConnectionError):
            link.close()
            link = http.client.HTTPConnection(host, timeout=30)
            codes["closed"] = codes.get("closed", 0) + 1
            continue
        codes[reply.status] = codes.get(reply.status, 0) + 1
        assert SECRET.encode() not in said
        assert b"Traceback" not in said
        if reply.status >= 500:
            raise AssertionError((reply.status, method, path, raw, head, said))
    link.close()
    return codes


def fuzz_a_gateway(mock, router_folder, tmp_path, monkeypatch, count):
    monkeypatch.setenv("UP_KEY", SECRET)
    config = {"upstreams": tables(mock.url, key_env="UP_KEY")}
    with running(config, router_folder, path=tmp_path) as (base, gateway):
        codes = fuzz(base, mock, count, 0)
        assert get(base, "/health")[0] == 200
        assert gateway.flying == 0
        assert gateway.ledger.audit() == []
    assert codes.get(200, 0) > count / 100
    assert sum(n for c, n in codes.items() if c != "closed" and 400 <= c < 500) > count / 2
    assert set(codes) <= {200, 400, 401, 403, 404, 405, 413, 415, 421, "closed"}
    assert codes.get("closed", 0) < count / 100


def test_fuzzed_requests_get_4xx_and_nothing_else(mock, router_folder, tmp_path, monkeypatch):
    fuzz_a_gateway(mock, router_folder, tmp_path, monkeypatch, 700)


@pytest.mark.slow
def test_ten_thousand_fuzzed_requests(mock, router_folder, tmp_path, monkeypatch):
    fuzz_a_gateway(mock, router_folder, tmp_path, monkeypatch, 10_000)
