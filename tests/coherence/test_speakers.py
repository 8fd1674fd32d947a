"""Language models and servers as callables for coherent answers: scored, sampled, asked over HTTP."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tiny_hf

from corollary.coherence import CoherentAnswers, endpoint_answers, sampled_answers, scored_answers
from corollary.documents import Documents
from corollary.endpoints import Refused
from corollary.errors import InvalidInputError
from corollary.integrations import HFExpert
from corollary.models import NgramModel, TransformerConfig, TransformerLM


@pytest.fixture(scope="module")
def ngram():
    return NgramModel.fit(Documents.from_texts(["the sea is blue", "the sea is deep", "is the sea blue? yes"] * 3))


@pytest.fixture(scope="module")
def transformer():
    return TransformerLM(TransformerConfig(width=32, layers=1, heads=2, context=64), seed=3)


@pytest.mark.parametrize("name", ["ngram", "transformer", "hf"])
def test_scores_are_the_chain_rule(name, request):
    model = (
        HFExpert(tiny_hf.model("llama"), tokenizer=tiny_hf.tokenizer())
        if name == "hf"
        else request.getfixturevalue(name)
    )
    encode = getattr(model, "encode", lambda text: np.frombuffer(text.encode(), dtype=np.uint8))
    found = scored_answers(model, ["blue", "deep", "two"], per_token=False)("the sea is ")
    slow = []
    for answer in ("blue", "deep", "two"):
        state, total = model.start(1), 0.0
        for token in encode("the sea is "):
            state = model.advance(state, np.array([token]))
        for token in [*encode(answer), 0]:
            total += float(model.next_log_probs(state)[0, token])
            state = model.advance(state, np.array([token]))
        slow.append(total)
    expected = np.exp(np.array(slow) - np.logaddexp.reduce(slow))
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-3)  # float32 scores of some ten tokens


def test_ends_and_lengths_count_as_asked(ngram):
    prompt = "the sea is "
    whole = scored_answers(ngram, ["blue", "b"], per_token=False)(prompt)
    assert whole["blue"] > 0.9  # no document ends with "b"
    open_end = scored_answers(ngram, ["blue", "b"], per_token=False, end=False)(prompt)
    assert open_end["b"] > open_end["blue"]  # a start is at least as likely as what it starts
    by_prompt = scored_answers(ngram, lambda p: ["yes", "no"] if "?" in p else ["blue", "deep"])
    assert set(by_prompt("is the sea blue? ")) == {"yes", "no"}


def test_samples_are_votes(ngram):
    ask = sampled_answers(ngram, samples=40, max_tokens=12, seed=0)
    first, second = ask("the sea is "), ask("the sea is ")
    assert len(first) == 40
    assert first != second  # the draws go on
    assert sampled_answers(ngram, samples=40, max_tokens=12, seed=0)("the sea is ") == first
    firsts = sampled_answers(ngram, samples=2000, max_tokens=1, stop=None, decode=lambda ids: "".join(map(chr, ids)))(
        "the sea is "
    )
    state = ngram.start(1)
    for byte in b"the sea is ":
        state = ngram.advance(state, np.array([byte]))
    exact = float(np.exp(ngram.next_log_probs(state)[0, ord("b")]))
    assert abs(firsts.count("b") / 2000 - exact) < 4 * (exact * (1 - exact) / 2000) ** 0.5
    assert sampled_answers(ngram, samples=1, temperature=0.0, stop="e", max_tokens=9)("is the sea blue? ") == ["y"]


def test_a_hugging_face_model_answers_coherently():
    expert = HFExpert(tiny_hf.model("gpt2"), tokenizer=tiny_hf.tokenizer())
    ask = CoherentAnswers(
        [scored_answers(expert, ["blue", "deep"]), sampled_answers(expert, samples=3, max_tokens=3)],
        ["{question}?", "Please: {question}"],
    )
    found = ask("which is the sea")
    assert found.variants == 4
    assert found.gain >= 0
    assert abs(sum(found.probs.values()) - 1) < 1e-9


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append((self.path, dict(self.headers), body))
        status, reply = server.answer(body)
        data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.asked, found.base = [], f"http://127.0.0.1:{found.server_port}/v1"
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def choices(*texts):
    return 200, {"choices": [{"message": {"content": text}} for text in texts]}


def test_an_endpoint_is_asked_for_samples(server, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret-1")
    server.answer = lambda body: choices("Paris", "paris ")[:2] if body["n"] > 1 else choices("Rome")
    ask = endpoint_answers(server.base, "small", key_env="SOME_KEY", samples=3, system="Be brief.")
    assert ask("Capital of France?") == ["Paris", "paris ", "Rome"]  # a server that gives fewer is asked again
    path, headers, body = server.asked[0]
    assert (path, headers["Authorization"]) == ("/v1/chat/completions", "Bearer secret-1")
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    found = CoherentAnswers([ask], ["{question}"], normalise=lambda t: t.strip().lower())("Capital of France?")
    assert found.answer == "paris"
    assert abs(found.probs["paris"] - 2 / 3) < 1e-9


def test_an_endpoint_is_asked_for_options(server):
    listed = [{"token": t, "logprob": float(np.log(p))} for t, p in ((" A", 0.5), ("A", 0.1), ("B", 0.3), ("x", 0.1))]
    server.answer = lambda body: (200, {"choices": [{"logprobs": {"content": [{"top_logprobs": listed}]}}]})
    ask = endpoint_answers(server.base, "small", options=["A", "B", "C"])
    found = ask("Which?")
    assert {k: round(v, 6) for k, v in found.items()} == {"A": 0.6, "B": 0.3, "C": 0.0}
    assert server.asked[0][2]["max_tokens"] == 1
    with pytest.raises(InvalidInputError, match="likeliest tokens"):
        endpoint_answers(server.base, "small", options=["Q", "R"])("Which?")
    server.answer = lambda body: choices("A")
    with pytest.raises(InvalidInputError, match="gave no log-probabilities"):
        ask("Which?")


def test_a_busy_server_is_waited_for_and_a_strict_one_is_not(server):
    turns = iter([(429, {}), choices("yes")])
    server.answer = lambda body: next(turns)
    assert endpoint_answers(server.base, "small", samples=1)("?") == ["yes"]
    server.answer = lambda body: (401, {})
    with pytest.raises(Refused, match="401"):
        endpoint_answers(server.base, "small")("?")
    assert len(server.asked) == 3  # 401 is not tried again
    server.answer = lambda body: (429, {})
    with pytest.raises(Refused, match="429"):
        endpoint_answers(server.base, "small", retries=1)("?")


def test_bad_speakers(server, ngram, as_shipped):
    with pytest.raises(InvalidInputError, match="two different candidates"):
        scored_answers(ngram, ["blue", "blue"])("x")
    with pytest.raises(InvalidInputError, match="has no token"):
        scored_answers(ngram, ["blue", ""])("x")
    with pytest.raises(InvalidInputError, match="at least 1"):
        sampled_answers(ngram, samples=0)
    with pytest.raises(InvalidInputError, match="at least 1"):
        endpoint_answers(server.base, "small", samples=0)
    with pytest.raises(InvalidInputError, match="http"):
        endpoint_answers("file:///etc/passwd", "small")
    with pytest.raises(InvalidInputError, match="NO_SUCH_KEY"):
        endpoint_answers(server.base, "small", key_env="NO_SUCH_KEY")
    server.answer = lambda body: (200, {"choices": []})
    with pytest.raises(InvalidInputError, match="holds no choice"):
        endpoint_answers(server.base, "small")("?")
    server.answer = lambda body: (200, {"error": "none"})
    with pytest.raises(InvalidInputError, match="not a chat completion"):
        endpoint_answers(server.base, "small")("?")
