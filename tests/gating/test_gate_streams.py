"""Gates of every network inside a composed model: prompts read at once and rows chosen agree with the plain stream."""

import numpy as np
import pytest

from corollary.documents import Documents
from corollary.gating import CausalGate, ComposedLM, score_experts
from corollary.gating._gate_networks import NETWORKS, RowsByHand
from corollary.models import NgramModel, extend, select_rows

TEXTS = ["the sea is blue", "1 + 1 = 2", "the sea is 1 + 1"] * 3


@pytest.fixture(scope="module", params=NETWORKS)
def model(request):
    documents = Documents.from_texts(TEXTS)
    experts = {f"e{i}": NgramModel.fit(documents.select([i]), order=3) for i in range(2)}
    gate = CausalGate(network=request.param, hidden=8, steps=12, batch=64)
    return ComposedLM(experts, gate.fit([score_experts(list(experts.values()), documents)]))


def test_prompts_and_rows(model, rng):
    tokens = rng.integers(32, 120, size=(3, 12))
    slow = model.start(3)
    for token in tokens.T:
        model.next_log_probs(slow)
        slow = model.advance(slow, token)
    fast = extend(model, model.start(3), tokens)
    np.testing.assert_allclose(model.next_log_probs(fast), model.next_log_probs(slow), atol=1e-5)  # float32 gates
    rows = np.array([2, 2, 0])
    few = select_rows(fast, rows)
    for byte in b"is":
        slow, few = (model.advance(s, np.full(3, byte)) for s in (slow, few))
        np.testing.assert_allclose(model.next_log_probs(few), model.next_log_probs(slow)[rows], atol=1e-5)


def test_rows_by_hand_are_those_of_the_network(model, rng):
    network = model.gate.network_
    if network.sequential:
        pytest.skip("reads in order")
    x = rng.normal(size=(50, network.mean.shape[0])).astype(np.float32)
    by_hand = RowsByHand(network, model.gate._base())(x)
    np.testing.assert_allclose(by_hand, model.gate._weights_of(x), atol=1e-5)  # float32
