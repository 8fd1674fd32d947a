"""A gateway listening in a thread of the test's process, and what must hold of its ledger."""

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import uvicorn
from mock_upstream import TOKENS_IN, TOKENS_OUT

from corollary.deferral.routing import PromptRouter
from corollary.serving import Gateway, GatewayConfig, GatewayLedger, create_app

PRICES = {"small": (1.0, 2.0), "large": (10.0, 20.0)}  # for a million tokens


def cost(model):
    into, out = PRICES[model]
    return (into * TOKENS_IN + out * TOKENS_OUT) / 1e6


def tables(url, **more):
    """Two upstreams at one mock, of prices 1 to 10."""
    common = {"url": url, "timeout": 2.0, "idle_timeout": 2.0, "retries": 1, "max_tokens": 50, **more}
    return {
        name: {**common, "model": f"real-{name}", "input_price": p[0], "output_price": p[1]}
        for name, p in PRICES.items()
    }


def small_router(folder, *, price=0.3):
    """A router that sends what is hard to the large model; made by hand, since learning would import torch."""
    prompts = [f"{w} {i}" for i in range(60) for w in ("hard", "easy")]
    good = np.array([[-1.0, 1.0], [1.0, 1.0]] * 60)
    router = PromptRouter(features="hash-words", price=price)
    x = router.features.fit_transform(prompts)
    router.coef = np.asarray(x.T @ good / 8, dtype=np.float32)
    router.models, router.unit = ("small", "large"), "share of requests sent to the dearer model"
    router.costs, router.intercept, router.sweep = np.array([0.0, 1.0]), np.zeros(2), np.array([0.0, np.inf])
    return router.save(folder)


@contextlib.contextmanager
def running(config, folder=None, *, ledger=None, upstreams=None, path=None):
    """(base URL, gateway) of a gateway that listens while the block runs."""
    plain = {"ledger": {"url": f"sqlite:///{path}/gateway.sqlite"}, **config} if path is not None else config
    gateway = Gateway(GatewayConfig.model_validate(plain), folder, ledger=ledger, upstreams=upstreams)
    server = uvicorn.Server(
        uvicorn.Config(create_app(gateway), host="127.0.0.1", port=0, log_level="error", lifespan="on", ws="none")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < until
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", gateway
    finally:
        server.should_exit = True
        thread.join(30)


def settled(gateway, count=None, *, patience=10.0):
    """Wait until no call is pending (and there are so many requests)."""
    until = time.monotonic() + patience
    while True:
        found = gateway.ledger.summary()
        if not found["states"].get("pending") and (count is None or found["requests"] >= count):
            return found
        assert time.monotonic() < until, found
        time.sleep(0.02)


def check_statement(url, true_spend):
    """Design section 3: charged >= true spend, and they differ by at most what is in flight; accounts add up."""
    ledger = GatewayLedger(url, read_only=True)
    try:
        found = ledger.summary()
        assert found["charged"] >= true_spend - 1e-9
        assert found["charged"] - true_spend <= found["in_flight"] + 1e-9
        assert ledger.audit() == []
        return found
    finally:
        ledger.close()


CHAT = {"messages": [{"role": "user", "content": "easy 1"}]}


def post(base, body, path="/v1/chat/completions", headers=None, timeout=30):
    """(status, headers, JSON body)."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(base + path, raw, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return reply.status, lower(reply.headers), json.loads(reply.read())
    except urllib.error.HTTPError as problem:
        with problem:
            return problem.code, lower(problem.headers), json.loads(problem.read())


def lower(headers):
    return {name.lower(): value for name, value in headers.items()}


def ask(base, model="small", **more):
    return post(base, {"model": model, **CHAT, **more})
