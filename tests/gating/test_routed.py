"""One expert at a time: the stream is the corpus, skipped experts catch up; experts heard from servers."""

import numpy as np
import pytest
import torch

from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.gating import BayesGate, ComposedLM, HeardExpert, RoutedLM, complete_top, hear
from corollary.models import NgramModel, TransformerConfig, TransformerLM, load

TEXTS = {"words": ["the sea is blue and deep", "the sky is grey"], "sums": ["1 + 1 = 2", "12 + 30 = 42"]}
MIXED = ["the sea is 1 + 1 = 2 and 12 + 30 = 42", "1 + 1 = the sky", "blue", ""]


@pytest.fixture(scope="module")
def guides():
    return {n: NgramModel.fit(Documents.from_texts(t * 4), order=3) for n, t in TEXTS.items()}


def networks():
    config = TransformerConfig(width=32, layers=1, heads=2, context=16)
    return {n: TransformerLM(config, seed=i, dtype=torch.float64) for i, n in enumerate(TEXTS)}


@pytest.mark.parametrize("stay", [0.0, 2.0])
def test_the_stream_is_the_corpus_and_skipped_experts_catch_up(guides, stay):
    model, documents = RoutedLM(networks(), guides, stay=stay), Documents.from_texts(MIXED)
    whole = model.log_probs(documents)
    switches = 0
    for i, text in enumerate(MIXED):
        state, said = model.start(1), []
        for byte in text.encode():
            rows = model.next_log_probs(state)
            assert np.exp(rows).sum() == pytest.approx(1, abs=1e-9)
            said.append(rows[0, byte])
            state = model.advance(state, np.array([byte]))
        np.testing.assert_allclose(said, whole[documents.owner == i], atol=1e-6)
        path = model.choices(documents)[documents.owner == i]
        assert state["switches"][0] == (np.diff(path) != 0).sum()
        switches += int(state["switches"][0])
    assert switches >= 2


def test_only_the_chosen_expert_runs(guides):
    class Counting:
        def __init__(self, inner):
            self.inner, self.vocab_size, self.calls, self.tokens = inner, inner.vocab_size, 0, 0

        def start(self, batch):
            return self.inner.start(batch)

        def next_log_probs(self, state):
            return self.inner.next_log_probs(state)

        def extend(self, state, tokens):
            self.calls, self.tokens = self.calls + 1, self.tokens + tokens.shape[1]
            return self.inner.extend(state, tokens)

    experts = {n: Counting(m) for n, m in networks().items()}
    model = RoutedLM(experts, guides)
    state = model.start(1)
    for byte in b"the sea is blue and deep, the sky is grey":
        model.next_log_probs(state)
        state = model.advance(state, np.array([byte]))
    model.next_log_probs(state)
    assert experts["sums"].tokens < 5 < experts["words"].tokens
    for byte in b" 12 + 30 = 42 12 + 30 = 42":
        state = model.advance(state, np.array([byte]))
        model.next_log_probs(state)
    assert experts["sums"].calls < experts["sums"].tokens  # it read what it had missed in one pass
    assert state["caught_up"][0] > 20


def test_staying_saves_switches(guides):
    documents = Documents.from_texts(MIXED)

    def switches(stay):
        path = RoutedLM(networks(), guides, stay=stay).choices(documents)
        return sum((np.diff(path[documents.owner == i]) != 0).sum() for i in range(len(documents)))

    assert switches(0.0) >= switches(2.0) >= switches(50.0) == 0


def test_a_token_of_an_n_gram_is_that_of_its_table(guides):
    for model in guides.values():
        state = model.extend(model.start(256), np.tile(np.frombuffer(b"the 1 + ", dtype=np.uint8), (256, 1)))
        np.testing.assert_array_equal(model.token_log_probs(state, np.arange(256)), model.next_log_probs(state)[0])


def test_saved_and_loaded(guides, tmp_path):
    model = RoutedLM(networks(), guides, BayesGate(2), stay=1.0)
    model.save(tmp_path / "m")
    again = load(tmp_path / "m")
    assert again.fingerprint() == model.fingerprint()
    documents = Documents.from_texts(MIXED)
    np.testing.assert_array_equal(again.log_probs(documents), model.log_probs(documents))
    guides["words"].save(tmp_path / "m" / "guides" / "sums")
    with pytest.raises(InvalidFileError, match="parts changed"):
        load(tmp_path / "m")


def test_bad_routes(guides, as_shipped):
    with pytest.raises(InvalidInputError, match="same names"):
        RoutedLM(networks(), {"words": guides["words"]})
    with pytest.raises(InvalidInputError, match="weighs 3"):
        RoutedLM(networks(), guides, BayesGate(3))
    with pytest.raises(InvalidInputError, match="`stay`"):
        RoutedLM(networks(), guides, stay=-1.0)
    with pytest.raises(InvalidInputError, match="plain name"):
        RoutedLM({"../x": guides["words"]}, {"../x": guides["words"]}).save("anywhere")


def test_what_is_heard_from_servers_is_composed_alike(guides):
    here = ComposedLM(guides, BayesGate(2))
    there = ComposedLM({n: HeardExpert(256, name=n) for n in guides}, BayesGate(2))
    state, ears, own = here.start(1), there.start(1), [g.start(1) for g in guides.values()]
    for byte in b"the sea 1 + 1":
        hear(ears, [g.next_log_probs(s) for g, s in zip(guides.values(), own, strict=True)])
        np.testing.assert_allclose(there.next_log_probs(ears), here.next_log_probs(state), atol=1e-12)
        token = np.array([byte])
        state, ears = here.advance(state, token), there.advance(ears, token)
        own = [g.advance(s, token) for g, s in zip(guides.values(), own, strict=True)]
    with pytest.raises(InvalidInputError, match="nothing was heard"):
        there.next_log_probs(ears)
    with pytest.raises(InvalidInputError, match="2 experts are heard"):
        hear(ears, [np.log(np.full((1, 256), 1 / 256))])
    with pytest.raises(InvalidInputError, match="sum to one"):
        hear(ears, [np.zeros((1, 256))] * 2)
    with pytest.raises(InvalidInputError, match="where it runs"):
        there.log_probs(Documents.from_texts(["x"]))


def test_lists_of_the_likeliest_are_completed(rng):
    full = rng.dirichlet(np.full(50, 0.2), size=20)
    tokens = np.argsort(-full, axis=1)[:, :8]
    told = np.log(np.take_along_axis(full, tokens, axis=1))
    table = complete_top(tokens, told, vocab_size=50)
    np.testing.assert_allclose(np.exp(table).sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(np.take_along_axis(table, tokens, axis=1), told, atol=1e-9)
    with pytest.raises(InvalidInputError, match="more than one"):
        complete_top([[0, 1]], np.log([[0.9, 0.9]]), vocab_size=5)
    with pytest.raises(InvalidInputError, match="below 5"):
        complete_top([[0, 7]], np.log([[0.5, 0.1]]), vocab_size=5)
