import numpy as np
import pytest
import torch

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.gating import CausalGate, ComposedLM, FixedShareGate, RobustGate, gate_log_probs
from corollary.gating import _gate_networks as networks
from corollary.gating._document_encoders import ENCODERS, LONGEST, EncodedGate, TokenRows
from corollary.gating._scores import ExpertScores
from corollary.models import NgramModel


def streams(seed, *, documents=40, length=30, experts=3):
    """Scores in which the right expert changes every seventh token, in a fixed order."""
    rng = np.random.default_rng(seed)
    log_probs = np.full((documents * length, experts), -4.0)
    for d in range(documents):
        right = (rng.integers(experts) + np.arange(length) // 7) % experts
        log_probs[d * length + np.arange(length), right] = -0.5
    log_probs += 0.1 * rng.normal(size=log_probs.shape)
    offsets = np.arange(documents + 1) * length
    log_probs = np.minimum(log_probs, 0).astype(np.float32)
    return ExpertScores(offsets, log_probs, np.zeros((*log_probs.shape, 3), dtype=np.float16))


KINDS = ["mlp", "gru", "transformer"]


@pytest.fixture(scope="module")
def fitted():
    scores = streams(0)
    return {kind: CausalGate(network=kind, hidden=32, steps=60, batch=600).fit([scores]) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_corpus_and_stream_agree(fitted, kind, monkeypatch):
    monkeypatch.setattr(networks.TransformerNetwork, "context", 64)
    gate, scores = fitted[kind], streams(1, documents=3, length=100)
    whole = gate.log_weights(scores).reshape(3, 100, 3)
    state = gate.start(3)
    for t in range(100):  # longer than the transformer's window of 64
        now = gate.next_log_weights(state, np.zeros((3, 3, 3), dtype=np.float16))
        assert np.allclose(now, gate.next_log_weights(state, np.zeros((3, 3, 3), dtype=np.float16)))  # asking twice
        assert np.abs(now - whole[:, t]).max() < 1e-4  # float32, sums in another order
        state = gate.advance(state, scores.log_probs.reshape(3, 100, 3)[:, t])


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_normalised_and_see_the_prefix_only(fitted, kind):
    gate, scores = fitted[kind], streams(2, documents=4, length=50)
    before = gate.log_weights(scores)
    assert np.allclose(np.exp(before).sum(1), 1, atol=1e-5)
    changed = scores.log_probs.copy().reshape(4, 50, 3)
    changed[:, 20:] = -1.0
    after = gate.log_weights(ExpertScores(scores.offsets, changed.reshape(-1, 3), scores.statistics))
    same = np.abs(after - before).reshape(4, 50, 3).max((0, 2)) < 1e-5
    assert same[:21].all()
    assert not same[21:].all()


@pytest.mark.parametrize("kind", KINDS)
def test_before_training_each_is_fixed_share(kind):
    scores = streams(3, documents=5)
    gate = CausalGate(network=kind, hidden=32, steps=1, batch=8, learning_rate=1e-12).fit([scores])
    assert np.allclose(gate_log_probs(gate, scores), gate_log_probs(FixedShareGate(3, (0.005,)), scores), atol=1e-3)


def test_every_network_learns_what_fixed_share_cannot():
    """The right expert changes every seventh token, in a fixed order: the next one can be known beforehand."""
    train, test = streams(4, documents=100, length=28), streams(5, documents=50, length=28)
    share = -gate_log_probs(FixedShareGate(3, (0.005,)), test).mean()
    for kind in KINDS:
        gate = CausalGate(network=kind, hidden=32, steps=70, batch=700, learning_rate=0.01).fit([train])
        assert -gate_log_probs(gate, test).mean() < share - 0.15


def test_long_documents_are_read_in_runs(fitted, monkeypatch):
    gate, scores = fitted["transformer"], streams(6, documents=1, length=700)
    whole = gate.log_weights(scores)
    monkeypatch.setattr(networks, "CHUNK", 1000)
    assert np.abs(gate.log_weights(scores) - whole).max() < 1e-4  # float32


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded(fitted, kind, tmp_path):
    fitted[kind].save(tmp_path)
    again, scores = CausalGate.load(tmp_path), streams(7, documents=2)
    assert again.network == kind
    assert np.array_equal(again.log_weights(scores), fitted[kind].log_weights(scores))


@pytest.mark.parametrize("kind", ["gru", "transformer"])
def test_rows_of_a_stream_can_be_chosen_and_tokens_taken_in_unasked(fitted, kind):
    """What beam search and the reading of prompts ask of a gate."""
    gate, scores = fitted[kind], streams(8, documents=4, length=20)
    said, none = scores.log_probs.reshape(4, 20, 3), np.zeros((4, 3, 3), dtype=np.float16)
    asked, unasked = gate.start(4), gate.start(4)
    for t in range(10):
        gate.next_log_weights(asked, none)
        asked, unasked = gate.advance(asked, said[:, t]), gate.advance(unasked, said[:, t])
    rows = np.array([3, 0, 3])
    expected = gate.log_weights(scores).reshape(4, 20, 3)[rows, 10]
    for state in (asked, unasked):
        assert np.abs(gate.next_log_weights(state.select_rows(rows), none[:3]) - expected).max() < 1e-4  # float32


def test_a_composed_model_runs_on_every_network():
    docs = Documents.from_texts(["one two one two", "1 2 3 4"] * 4)
    experts = {"words": NgramModel.fit(docs.select([0])), "sums": NgramModel.fit(docs.select([1]))}
    from corollary.gating import score_experts

    scores = score_experts(list(experts.values()), docs)
    for kind in KINDS:
        model = ComposedLM(experts, CausalGate(network=kind, hidden=8, steps=5, batch=64).fit([scores]))
        one = Documents.from_texts(["one 2"])
        state, streamed = model.start(1), []
        for token in one.tokens:
            streamed.append(model.next_log_probs(state)[0, token])
            state = model.advance(state, np.array([token]))
        assert np.allclose(streamed, model.log_probs(one), atol=1e-4)  # float32
        assert abs(np.exp(model.next_log_probs(state)).sum() - 1) < 1e-5


@pytest.mark.usefixtures("as_shipped")
def test_wrong_networks():
    with pytest.raises(InvalidInputError, match="network"):
        CausalGate(network="lstm")
    with pytest.raises(InvalidInputError, match="multiple of 4"):
        CausalGate(network="transformer", hidden=30, steps=1).fit([streams(0)])


def texts(count=240, seed=0):
    """Documents of two kinds that the experts' scores cannot tell apart; the text can, by the order of its letters."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(2, size=count)
    sizes = rng.integers(3, 9, count)
    docs = Documents.from_texts([("aabb" if k else "abab") * int(n) for k, n in zip(kind, sizes, strict=True)])
    logq = rng.normal(scale=0.1, size=(count, 2)) - 10
    return docs, logq, kind


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_encoders_tell_apart_what_scores_cannot(kind):
    docs, _, domain = texts(120)
    torch.manual_seed(0)
    gate = EncodedGate(kind, 256, 2, hidden=(16,), floor=0.0)
    alike, rows = torch.full((120, 2), -20.0, dtype=torch.float64), TokenRows.of(docs)
    steepest, target = torch.optim.Adam(gate.parameters(), lr=0.01), torch.as_tensor(domain)
    for _ in range(50):
        loss = torch.nn.functional.nll_loss(gate(alike, rows), target)
        steepest.zero_grad()
        loss.backward()
        steepest.step()
    assert loss < 0.2  # of log 2 at the start: the letters are the same, their order is not


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_robust_gates_that_read_the_text(kind, tmp_path):
    docs, logq, domain = texts(90)
    logq[np.arange(90), domain] += 1.0
    gate = RobustGate(gate=kind, steps=40, checkpoints=2, normalisation="none").fit(logq, domain, features=docs)
    weights = gate.log_gate(logq, docs).exp().numpy()
    assert np.allclose(weights.sum(1), 1)
    assert weights[np.arange(90), domain].mean() > 0.6  # forty steps from one half
    gate.save(tmp_path)
    again = RobustGate.load(tmp_path)
    assert torch.equal(again.log_gate(logq, docs), gate.log_gate(logq, docs))
    some = docs.select([5, 2])
    assert np.allclose(gate.log_gate(logq[[5, 2]], some).exp(), weights[[5, 2]], atol=1e-5)  # float32, other padding


@pytest.mark.parametrize("kind", list(ENCODERS))
def test_encoders_start_uniform_and_ignore_padding(kind):
    torch.manual_seed(0)
    gate = EncodedGate(kind, 256, 3, hidden=(8,), floor=0.0)
    docs = Documents.from_texts(["abc", "", "x" * (LONGEST + 20)])
    logq = torch.tensor([[-5.0, -1.0, -3.0]] * 3, dtype=torch.float64)
    assert torch.allclose(gate(logq, TokenRows.of(docs)).exp(), torch.full((3, 3), 1 / 3, dtype=torch.float64))
    rows = TokenRows.of(docs)
    alone = gate.encoder(*rows[torch.tensor([0])].padded())
    together = gate.encoder(*rows.padded())
    assert torch.isfinite(together).all()
    assert torch.allclose(alone[0], together[0], atol=1e-5)  # float32


def test_bidirectional_encoders_read_the_end_too():
    torch.manual_seed(0)
    for kind in ENCODERS:
        gate = EncodedGate(kind, 256, 2, hidden=(), floor=0.0)
        rows = TokenRows.of(Documents.from_texts(["abcd", "abce"]))
        a, b = gate.encoder(*rows.padded())
        assert not torch.allclose(a, b, atol=1e-4)


@pytest.mark.usefixtures("as_shipped")
def test_texts_must_fit_the_rows():
    docs, logq, domain = texts(60)
    gate = RobustGate(gate="gru", steps=1, normalisation="none")
    with pytest.raises(InvalidInputError, match="reads the text"):
        gate.fit(logq, domain)
    with pytest.raises(InvalidInputError, match="documents for 60 rows"):
        gate.fit(logq, domain, features=docs.select([0]))
    few = Documents.from_sequences([[1, 2], [3]] * 30, dtype=np.int32)
    gate.fit(logq, domain, features=few)
    with pytest.raises(InvalidInputError, match="the gate was fitted on"):
        gate.log_gate(logq[:1], Documents.from_sequences([[99]], dtype=np.int32))


def test_restricted_mixtures_and_samples_join_the_encoders():
    """Extreme mixtures and the normaliser's samples with a gate that reads the text."""
    docs, logq, domain = texts(80)
    gate = RobustGate(gate="ngram", steps=20, mixtures=[[0.8, 0.2], [0.4, 0.6]], diversity=[0.0, 0.0])
    gate.fit(logq, domain, features=docs, samples_log_likelihoods=logq, samples_features=docs)
    assert 0.4 - 1e-9 <= gate.mixture_[0] <= 0.8 + 1e-9
    assert np.isfinite(gate.normaliser_.value)
