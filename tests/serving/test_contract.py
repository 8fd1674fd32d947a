"""The OpenAPI document against the gateway itself: what it says is what happens."""

import json
import os
import subprocess
import sys
import urllib.request

import pytest
from running_gateway import running, tables

from corollary.serving import GatewayLedger
from corollary.serving._keys import add_key
from corollary.serving._openapi import openapi


def contract(base, tmp_path, *, examples, headers=()):
    """Run schemathesis in a process of its own: it is a command, and brings warnings of its own."""
    command = [
        sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run",
        f"{base}/openapi.json",
        "--max-examples", str(examples), "--seed", "1", "--no-color", "--generation-database", "none", "--workers", "1",
        "--request-timeout", "20", "--warnings", "off", *(part for h in headers for part in ("--header", h)),
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path, env=env, check=False)


def told(done):
    """What schemathesis found, without the bodies, which can be megabytes."""
    return "\n".join(line[:400] for line in done.stdout.splitlines())[-6000:] + done.stderr[-2000:]


def check_contract(mock, router_folder, tmp_path, examples):
    config = {"upstreams": tables(mock.url, images=True, embeddings=True)}
    with running(config, router_folder, path=tmp_path) as (base, gateway):
        done = contract(base, tmp_path, examples=examples)
        assert done.returncode == 0, told(done)
        assert "No issues found" in done.stdout
        assert gateway.ledger.audit() == []
    assert mock.seen  # some of what it made was valid and reached a model


def test_schemathesis_finds_nothing(mock, router_folder, tmp_path):
    check_contract(mock, router_folder, tmp_path, 8)


@pytest.mark.slow
def test_schemathesis_finds_nothing_in_many_tries(mock, router_folder, tmp_path):
    check_contract(mock, router_folder, tmp_path, 100)


@pytest.mark.slow
def test_schemathesis_finds_nothing_behind_keys(mock, router_folder, tmp_path):
    book = GatewayLedger(f"sqlite:///{tmp_path}/gateway.sqlite")
    key = add_key(book.engine, "ann", scopes=("chat", "feedback", "read"))
    book.close()
    config = {"upstreams": tables(mock.url, images=True, embeddings=True)}
    with running(config, router_folder, path=tmp_path) as (base, _):
        done = contract(base, tmp_path, examples=25, headers=[f"Authorization: Bearer {key.text}"])
        assert done.returncode == 0, told(done)


def test_the_document_names_what_there_is(served):
    base, gateway, _ = served
    with urllib.request.urlopen(base + "/openapi.json", timeout=10) as reply:
        found = json.loads(reply.read())
    from corollary.serving import create_app

    routes = {route.path.replace(":path", "") for route in create_app(gateway).app.routes}
    assert routes == set(found["paths"]) | {"/v1/embeddings"}  # which no model here gives
    assert "heads" not in found["components"]["schemas"]["Options"]["properties"]
    assert "securitySchemes" not in found["components"]
    locked = openapi(locked=True, models=["small"], heads=["a"], images=True, embeddings=True)
    assert "/v1/embeddings" in locked["paths"]
    assert "image_url" in str(locked["components"]["schemas"]["Part"])
    assert locked["paths"]["/v1/route"]["post"]["security"] == [{"key": []}]
    assert "security" not in locked["paths"]["/health"]["get"]
