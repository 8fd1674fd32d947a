"""Prompts read at once and rows chosen: the same streams as token by token, past the context too."""

import numpy as np
import pytest
import tiny_hf
import torch

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.gating import BayesGate, CausalGate, ComposedLM, FixedShareGate, score_experts
from corollary.integrations import HFExpert
from corollary.models import NgramModel, TransformerConfig, TransformerLM, extend, select_rows
from corollary.models._streams import window_after


def ngrams():
    texts = ["the sea is blue", "the sea is deep"], ["one and one is two", "1 + 1 = 2"]
    return {f"e{i}": NgramModel.fit(Documents.from_texts(t * 4), order=4) for i, t in enumerate(texts)}


def transformer(seed=0):
    config = TransformerConfig(width=32, layers=2, heads=2, context=16)
    return TransformerLM(config, seed=seed, dtype=torch.float64)


def composed():
    experts = {"words": ngrams()["e0"], "net": transformer(), "sums": ngrams()["e1"]}
    docs = Documents.from_texts(["the sea is one", "two is blue"] * 3)
    gate = CausalGate(steps=5, batch=32).fit([score_experts(list(experts.values()), docs)])
    return ComposedLM(experts, gate, anchors={"share": FixedShareGate(3), "other": transformer(seed=5)})


MODELS = {
    "ngram": lambda: ngrams()["e0"],
    "transformer": transformer,
    "hf": lambda: HFExpert(tiny_hf.model("llama", vocab=256, positions=16), end=1),
    "composed": composed,
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]()


def follow(model, state, tokens):
    for token in tokens.T:
        state = model.advance(state, token)
    return state


@pytest.mark.parametrize("parts", [(1,), (5, 3), (15, 1, 1), (16, 2), (40,), (3, 30, 9)])
def test_several_tokens_at_once_are_the_same_as_one_by_one(model, rng, parts):
    slow = fast = None
    slow, fast = model.start(3), model.start(3)
    for length in parts:
        tokens = rng.integers(1, 256, size=(3, length))
        slow, fast = follow(model, slow, tokens), extend(model, fast, tokens)
        np.testing.assert_allclose(model.next_log_probs(fast), model.next_log_probs(slow), atol=2e-4)  # float32 parts


def test_rows_are_chosen_and_repeated(model, rng):
    tokens = rng.integers(1, 256, size=(3, 9))
    rows = np.array([2, 0, 0, 1])
    state = select_rows(follow(model, model.start(3), tokens), rows)
    more = rng.integers(1, 256, size=(4, 9))
    state = follow(model, state, more)
    whole = follow(model, model.start(4), np.concatenate([tokens[rows], more], axis=1))
    np.testing.assert_allclose(model.next_log_probs(state), model.next_log_probs(whole), atol=2e-4)


def test_windows_slide_as_in_the_stream():
    for context in (2, 8, 16):
        for seen in range(1, context + 1):
            length = seen
            for more in range(1, 50):
                length = context // 2 + 1 if length == context else length + 1
                assert window_after(seen, more, context) == length


def test_a_state_that_cannot_be_chosen_from():
    with pytest.raises(InvalidInputError, match="select_rows"):
        select_rows(object(), np.array([0]))


def test_a_gate_state_of_bayes(rng):
    gate = BayesGate(2)
    state = gate.advance(gate.start(2), np.log(np.array([[0.5, 0.25], [0.1, 0.2]])))
    np.testing.assert_array_equal(select_rows(state, np.array([1])), state[1:])
