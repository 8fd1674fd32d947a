"""Exports and hooks: the vLLM semantic router's artifact decides as the router does; LiteLLM; embeddings."""

import asyncio
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from corollary.cli.route import app
from corollary.deferral.routing import (
    EmbeddedText,
    Features,
    PromptRouter,
    RoutingLog,
    load,
    register_encoder,
    vllm_artifact,
)
from corollary.deferral.routing._export_vllm import ERROR
from corollary.errors import InvalidInputError, MissingExtraError

EXAMPLES = Path(__file__).parents[2] / "examples" / "in_depth"


def embedded_log(n=400, *, models=("a", "b", "c"), d=6, seed=0):
    """Embeddings and three category indicators, one of them never set; heavy tails, so that cutting matters."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.standard_t(2, size=(n, d)), np.eye(3)[rng.integers(2, size=n)]])
    quality = (rng.random((n, len(models))) < 1 / (1 + np.exp(-x[:, : len(models)]))).astype(float)
    cost = np.tile(np.linspace(0.1, 1.0, len(models)), (n, 1))
    return RoutingLog(tuple(f"request {i}" for i in range(n)), models, quality, cost, given=x)


def run_artifact(artifact, x):
    """The layers as the gateway evaluates them, in single precision; (choices, outputs)."""
    h = np.asarray(x, dtype=np.float32)
    assert artifact["algorithm"] == "mlp"
    assert artifact["trained"]
    assert h.shape[1] == artifact["feature_dim"]
    for layer in artifact["layers"]:
        if layer["type"] == "linear":
            weight = np.array(layer["weight"], dtype=np.float32)
            assert weight.shape == (layer["out_features"], layer["in_features"])
            h = h @ weight.T + np.array(layer["bias"], dtype=np.float32)
        elif layer["type"] == "relu":
            h = np.maximum(h, 0)
        else:
            assert layer["num_features"] == h.shape[1]
            mean, var, weight, bias = (
                np.array(layer[k], dtype=np.float32) for k in ("running_mean", "running_var", "weight", "bias")
            )
            h = (h - mean) / np.sqrt(var + np.float32(layer["eps"])) * weight + bias
    return h.argmax(1), h


@pytest.mark.parametrize("price", [0.0, 0.2, 0.9, float("inf")])
@pytest.mark.parametrize(("loss", "models"), [("value", "abc"), ("value", "ab"), ("compsum-log", "ab")])
def test_the_gateway_decides_as_the_router(loss, models, price):
    log = embedded_log(models=tuple(models))
    router = PromptRouter(features="none", loss=loss, l2=0.5, price=price).fit(log)
    artifact = json.loads(json.dumps(vllm_artifact(router)))
    assert artifact["model_names"] == list(models)
    x = embedded_log(seed=1).given
    theirs, outputs = run_artifact(artifact, x)
    ours = router.route([""] * len(x), given=x)
    net = router.values([""] * len(x), x) - (price * router.costs if np.isfinite(price) else 0)
    top = np.sort(net, axis=1)
    clear = (top[:, -1] - top[:, -2] > 4 * ERROR) if np.isfinite(price) else np.ones(len(x), dtype=bool)
    assert clear.mean() > 0.95
    np.testing.assert_array_equal(theirs[clear], ours[clear])
    if loss == "value" and 0 < price < 1:
        np.testing.assert_allclose(outputs, net, atol=ERROR + 1e-5)  # single precision on top


def test_what_the_form_cannot_hold_is_said():
    log = embedded_log()
    with pytest.raises(InvalidInputError, match="embedding, not text"):
        vllm_artifact(PromptRouter().fit(log))
    with pytest.raises(InvalidInputError, match="--loss value"):
        vllm_artifact(PromptRouter(features="none", loss="compsum-log", price=0.3).fit(log))
    with pytest.raises(InvalidInputError, match="not fitted"):
        vllm_artifact(PromptRouter(features="none"))


def test_export_from_the_command_line(tmp_path):
    log = embedded_log(60)
    PromptRouter(features="none").fit(log).save(tmp_path / "run")
    runner = CliRunner()
    out = tmp_path / "mlp_model.json"
    assert runner.invoke(app, ["export", str(tmp_path / "run"), "--out", str(out), "--form", "vllm-sr"]).exit_code == 0
    assert json.loads(out.read_text())["feature_dim"] == 9
    assert runner.invoke(app, ["export", str(tmp_path / "run"), "--form", "odd"]).exit_code == 2


def test_litellm_hook_routes_only_what_is_to_be_routed():
    spec = importlib.util.spec_from_file_location("litellm_hook", EXAMPLES / "litellm_hook.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    quality = np.array([[0.0, 1.0]] * 30 + [[1.0, 1.0]] * 30)
    prompts = tuple(f"prove theorem {i}" for i in range(30)) + tuple(f"say hello {i}" for i in range(30))
    hook = example.RouterHook(PromptRouter(l2=0.1, price=0.5).fit(RoutingLog(prompts, ("small", "large"), quality)))

    def routed(model, content):
        messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": content}]
        data = {"model": model, "messages": messages}
        return asyncio.run(hook.async_pre_call_hook(None, None, data, "completion"))

    assert routed("auto", "prove theorem 77")["model"] == "large"
    assert routed("auto", [{"type": "text", "text": "say hello 77"}, {"type": "image_url"}])["model"] == "small"
    assert routed("large", "say hello")["model"] == "large"
    assert routed("auto", "say hello 77")["metadata"]["corollary"]["model"] == "small"
    assert example.last_words([]) == ""


# embeddings


def letters(texts):
    return [[t.count(c) for c in "abcdefgh"] for t in texts]


def test_an_encoder_of_ones_own_is_stored_by_name(tmp_path):
    register_encoder("letters", letters)
    rng = np.random.default_rng(0)
    prompts = tuple("".join(rng.choice(list("abcdefgh"), size=12)) for _ in range(200))
    quality = np.array([[p.count("a") > 1, p.count("a") <= 1] for p in prompts], dtype=float)
    features = Features([EmbeddedText(encoder="letters")])
    router = PromptRouter(features=features, l2=0.01).fit(RoutingLog(prompts, ("x", "y"), quality))
    assert router.decide("aaaabbbbcccc").model == "x"
    again = load(router.save(tmp_path / "router"))
    assert again.fingerprint() == router.fingerprint()
    np.testing.assert_array_equal(again.route(prompts), router.route(prompts))
    assert again.explain("aaaa")["evidence"][0]["feature"].startswith("embedding")


def test_encoders_that_do_not_fit(monkeypatch):
    with pytest.raises(InvalidInputError, match="register"):
        EmbeddedText(encoder="nobody knows").fit_transform(["a"])
    with pytest.raises(InvalidInputError, match="cannot be the name"):
        register_encoder("sentence-transformers:x", letters)
    register_encoder("odd letters", letters)
    with pytest.raises(InvalidInputError, match="registered already"):
        register_encoder("odd letters", lambda texts: [[0.0]] * len(texts))
    register_encoder("broken", lambda texts: [[float("nan")]] * len(texts))
    with pytest.raises(InvalidInputError, match="finite"):
        EmbeddedText(encoder="broken").fit_transform(["a"])
    fitted = EmbeddedText(encoder="letters")
    register_encoder("letters", letters)
    fitted.fit_transform(["ab", "cd"])
    with pytest.raises(InvalidInputError, match="fit"):
        EmbeddedText(encoder="letters").restore({"mean": np.zeros(2), "spread": np.ones(3)})


def test_without_sentence_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    log = replace(embedded_log(40), given=None)
    with pytest.raises(MissingExtraError, match=r"corollary\[embeddings\]"):
        PromptRouter(features="sentence").fit(log)


def test_with_sentence_transformers_its_vectors_are_used(monkeypatch):
    class Stand:
        def __init__(self, model, local_files_only):
            assert local_files_only  # nothing is downloaded
            self.model = model

        def encode(self, texts, **options):
            return np.array(letters(texts), dtype=np.float32)

    monkeypatch.setitem(sys.modules, "sentence_transformers", type("Module", (), {"SentenceTransformer": Stand}))
    x = EmbeddedText(encoder="sentence-transformers:a stand").fit_transform(["abba", "hedge", "cab"])
    assert x.shape == (3, 8)
    assert float(x.multiply(x).sum(1).mean()) == pytest.approx(x.shape[1] / 8, abs=0.5)  # rows of length about 1
