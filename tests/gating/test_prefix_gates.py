"""Untrained causal gates: exactness, regret bounds, limits, causality, and streams that agree with the corpus."""

import numpy as np
import pytest

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.gating import (
    BayesGate,
    CausalGate,
    ExpertScores,
    FixedShareGate,
    StaticGate,
    _prefix_gates,
    fixed_share_weights,
    gate_log_probs,
    score_experts,
    sequence_mixture,
)
from corollary.gating._gate_features import FeatureSettings, StreamFeatures, corpus_features
from corollary.gating._prefix_gates import gate_from_description
from corollary.models import NgramModel


def random_scores(rng, *, documents=20, experts=4, longest=40, spread=2.0):
    """Log-probabilities of a token under K experts are any numbers below zero: gates see nothing else."""
    lengths = rng.integers(0, longest, size=documents)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    log_probs = -np.abs(rng.normal(1.5, spread, (offsets[-1], experts))).astype(np.float32)
    statistics = rng.random((offsets[-1], experts, 3)).astype(np.float16)
    return ExpertScores(offsets, log_probs, statistics)


def per_document(scores, values):
    return Documents(np.zeros(len(values), np.uint8), scores.offsets).sums(values)


def trained_gate(scores):
    return CausalGate(steps=30, batch=256, hidden=16, learning_rate=0.05).fit([scores])


GATES = {
    "bayes": lambda s: BayesGate(s.experts),
    "bayes, prior": lambda s: BayesGate(s.experts, (0.7, 0.1, 0.2, 0.0)),
    "static": lambda s: StaticGate((0.1, 0.2, 0.3, 0.4)),
    "fixed share": lambda s: FixedShareGate(s.experts),
    "many rates": lambda s: FixedShareGate(s.experts, (0.001, 0.02, 0.2)),
    "causal": trained_gate,
}


@pytest.mark.parametrize("name", GATES)
def test_stream_equals_corpus_and_is_normalised_and_causal(name):
    rng = np.random.default_rng(0)
    scores = random_scores(rng)
    gate = GATES[name](scores)
    log_weights = gate.log_weights(scores)
    assert np.abs(np.exp(log_weights).sum(1) - 1).max() < 1e-5  # weights are float32
    # Token by token, all documents of one length side by side.
    for i in np.flatnonzero(np.diff(scores.offsets))[:6]:
        rows = np.arange(scores.offsets[i], scores.offsets[i + 1])
        state = gate.start(2)
        for row in rows:
            streamed = gate.next_log_weights(state, np.stack([scores.statistics[row]] * 2))
            with np.errstate(invalid="ignore"):  # -inf - -inf where a prior is zero
                difference = np.abs(np.where(np.isinf(streamed), 0, streamed - log_weights[row]))
            assert difference.max() < 2e-4  # float32 recursions and a float32 network
            state = gate.advance(state, np.stack([scores.log_probs[row]] * 2))
    # The weight before a token does not depend on it, nor on what follows.
    changed = scores.log_probs.copy()
    last = scores.offsets[np.flatnonzero(np.diff(scores.offsets) > 3)[0] + 1] - 1
    changed[last] -= 1.0 * np.arange(scores.experts)
    again = gate.log_weights(ExpertScores(scores.offsets, changed, scores.statistics))
    assert (again == log_weights).all()
    # And the two ways to the tokens' probabilities agree.
    mixed = np.logaddexp.reduce(log_weights.astype(np.float64) + scores.log_probs, axis=1)
    assert np.abs(mixed - gate_log_probs(gate, scores)).max() < 1e-4


@pytest.mark.parametrize("name", [n for n in GATES if n != "causal"])
def test_gates_are_remade_from_their_description(name):
    scores = random_scores(np.random.default_rng(1))
    gate = GATES[name](scores)
    assert gate_from_description(gate.describe()) == gate


def test_bayes_posterior_is_exactly_the_sequence_mixture():
    rng = np.random.default_rng(2)
    for _ in range(50):
        scores = random_scores(rng, documents=5)
        prior = rng.dirichlet(np.ones(4))
        total = per_document(scores, gate_log_probs(BayesGate(4, tuple(prior)), scores))
        exact = np.logaddexp.reduce(np.log(prior) + scores.totals(), axis=1)
        assert np.abs(total - exact).max() < 1e-9
        # Hence the bound, on every document and for every expert.
        assert (-total[:, None] <= -scores.totals() - np.log(prior) + 1e-9).all()


def test_sequence_mixture_bound_and_zero_prior():
    rng = np.random.default_rng(3)
    scores = random_scores(rng, documents=200)
    prior = np.array([0.5, 0.5, 0.0, 0.0])
    total = per_document(scores, sequence_mixture(scores.log_probs.astype(np.float64), scores.offsets, prior))
    assert (-total[:, None] <= -scores.totals()[:, :2] + np.log(2) + 1e-9).all()
    exact = np.logaddexp.reduce(np.log(0.5) + scores.totals()[:, :2], axis=1)
    assert np.abs(total - exact).max() < 1e-9


def fixed_share_loop(log_probs, rate):
    """Herbster and Warmuth, one document, one rate, plain Python."""
    experts = len(log_probs[0])
    weights, path = [1 / experts] * experts, []
    for row in log_probs:
        path.append(list(weights))
        joint = [w * np.exp(c) for w, c in zip(weights, row, strict=True)]
        weights = [(1 - rate) * j / sum(joint) + rate / experts for j in joint]
    return np.array(path)


def agrees_with_loop():
    scores = random_scores(np.random.default_rng(4), documents=8)
    rates = (0.001, 0.05, 0.5)
    fast = fixed_share_weights(scores, rates)
    for i in range(8):
        rows = slice(scores.offsets[i], scores.offsets[i + 1])
        for r, rate in enumerate(rates):
            slow = fixed_share_loop(scores.log_probs[rows].astype(np.float64), rate)
            if len(slow):
                assert np.abs(fast[rows, r] - slow).max() < 1e-5  # float32


def test_fixed_share_equals_a_plain_loop():
    agrees_with_loop()


def test_a_mutated_share_is_caught(monkeypatch):
    right = _prefix_gates.share_step

    def wrong(weights, probs, rates):  # a instead of a / K
        posterior, mixed = right(weights, probs, rates)
        return posterior + (rates * (1 - 1 / posterior.shape[-1]))[:, None], mixed

    monkeypatch.setattr(_prefix_gates, "share_step", wrong)
    with pytest.raises(AssertionError):
        agrees_with_loop()


def test_fixed_share_limits():
    scores = random_scores(np.random.default_rng(5))
    nearly_bayes = fixed_share_weights(scores, (1e-7,))[:, 0]
    posterior = np.exp(BayesGate(4).log_weights(scores))
    short = Documents(np.zeros(len(posterior), np.uint8), scores.offsets).position < 6
    assert np.abs(nearly_bayes - posterior)[short].max() < 1e-4  # the rate, times the likelihood ratios of six tokens
    nearly_uniform = fixed_share_weights(scores, (1 - 1e-6,))[:, 0]
    assert np.abs(nearly_uniform - 0.25).max() < 1e-5


def best_partition(log_probs, switches):
    """Largest log-likelihood of a sequence of experts with at most `switches` changes, by dynamic programming."""
    best = np.full((switches + 1, log_probs.shape[1]), -np.inf)
    best[:] = log_probs[0]
    for row in log_probs[1:]:
        moved = np.full_like(best, -np.inf)
        moved[1:] = best[:-1].max(1, keepdims=True)
        best = np.maximum(best, moved) + row
    return best.max(1)


def test_fixed_share_tracks_every_partition():
    """Herbster and Warmuth: loss <= partition's + log K + s log(K / a) + (T - 1 - s) log(1 / (1 - a + a / K))."""
    rng, violations, tightest = np.random.default_rng(6), 0, np.inf
    for _ in range(300):
        scores = random_scores(rng, documents=1, longest=60, spread=3.0)
        if len(scores.log_probs) < 2:
            continue
        rate = float(rng.choice([0.01, 0.1, 0.4]))
        loss = -gate_log_probs(FixedShareGate(4, (rate,)), scores).sum()
        for s, likelihood in enumerate(best_partition(scores.log_probs.astype(np.float64), 6)):
            stay = (len(scores.log_probs) - 1 - s) * np.log(1 / (1 - rate + rate / 4))
            if len(scores.log_probs) - 1 - s < 0:
                continue
            slack = -likelihood + np.log(4) + s * np.log(4 / rate) + stay - loss
            tightest, violations = min(tightest, slack), violations + (slack < -1e-3)
    assert violations == 0
    assert tightest < 2.0  # the bound is not idle


def test_many_rates_cost_at_most_the_logarithm_of_their_number():
    scores = random_scores(np.random.default_rng(7), documents=300)
    rates = (0.001, 0.02, 0.2)
    many = per_document(scores, gate_log_probs(FixedShareGate(4, rates), scores))
    single = np.stack([per_document(scores, gate_log_probs(FixedShareGate(4, (r,)), scores)) for r in rates])
    assert (-many <= -single.max(0) + np.log(3) + 1e-4).all()


def test_features_of_stream_and_corpus_agree():
    scores, settings = random_scores(np.random.default_rng(8)), FeatureSettings()
    features = corpus_features(scores, settings)
    assert features.shape[1] == settings.width(4)
    i = int(np.argmax(np.diff(scores.offsets)))
    stream = StreamFeatures(1, 4, settings)
    for row in range(scores.offsets[i], scores.offsets[i + 1]):
        assert (
            np.abs(stream.read(scores.statistics[row][None])[0] - features[row]).max() < 1e-3
        )  # float32, logs near the floor
        stream.push(scores.log_probs[row][None])


def test_learned_gate_starts_at_fixed_share_and_learns():
    rng = np.random.default_rng(9)
    scores = random_scores(rng, documents=100)
    better = scores.log_probs.copy()
    better[:, 2] = -0.05  # one expert is nearly always right: a gate that learns must find it
    scores = ExpertScores(scores.offsets, better, scores.statistics)
    base = gate_log_probs(FixedShareGate(4), scores).mean()
    untouched = CausalGate(steps=1, learning_rate=1e-12, weight_decay=0.0).fit([scores])
    assert abs(gate_log_probs(untouched, scores).mean() - base) < 1e-3
    learned = CausalGate(steps=150, batch=512, hidden=16, learning_rate=0.02).fit([scores])
    assert gate_log_probs(learned, scores).mean() > base + 0.01
    assert gate_log_probs(learned, scores).mean() <= -0.05 + 1e-4


def test_the_same_seed_gives_the_same_gate_and_leaves_the_global_state_alone(tmp_path):
    import torch

    scores = random_scores(np.random.default_rng(10))
    torch.manual_seed(123)
    before = torch.random.get_rng_state()
    a, b = (CausalGate(steps=10, batch=64, seed=3).fit([scores]) for _ in range(2))
    assert (torch.random.get_rng_state() == before).all()
    assert (a.log_weights(scores) == b.log_weights(scores)).all()
    a.save(tmp_path)
    assert (CausalGate.load(tmp_path).log_weights(scores) == a.log_weights(scores)).all()


def test_document_weights_switch_documents_off():
    rng = np.random.default_rng(11)
    left, right = random_scores(rng, documents=40), random_scores(rng, documents=40)
    left.log_probs[:, 0], right.log_probs[:, 1] = -0.01, -0.01
    offsets = np.concatenate([left.offsets, left.offsets[-1] + right.offsets[1:]])
    both = ExpertScores(
        offsets, np.concatenate([left.log_probs, right.log_probs]), np.concatenate([left.statistics, right.statistics])
    )
    only_left = [np.repeat([1.0, 0.0], 40)]
    gate = CausalGate(steps=100, batch=256, hidden=8, learning_rate=0.05).fit([both], document_weights=only_left)
    assert np.exp(gate.log_weights(left))[:, 0].mean() > 0.95


def test_experts_of_every_kind_are_scored():
    docs = Documents.from_texts(["abcabc", "", "xyz"])
    expert = NgramModel.fit(docs, order=3)

    class Opaque:
        vocab_size = 256

        def log_probs(self, documents):
            return expert.log_probs(documents)

    scores = score_experts([expert, Opaque(), NgramModel.fit(docs, order=2)], docs)
    assert np.abs(scores.log_probs[:, 0] - scores.log_probs[:, 1]).max() < 1e-6
    assert (scores.statistics[:, 1] == 0).all()
    assert scores.select([2]).experts == 1


def test_bad_input_gets_one_clear_sentence(as_shipped):
    docs, scores = Documents.from_texts(["ab"]), random_scores(np.random.default_rng(12))
    expert = NgramModel.fit(docs, order=2)

    class Broken:
        def log_probs(self, documents):
            return np.full(len(documents.tokens), np.nan, dtype=np.float32)

    for call, sentence in (
        (lambda: score_experts([], docs), "0 experts"),
        (lambda: score_experts([expert, Broken()], docs), "expert 1 gave a log-probability that is NaN"),
        (lambda: BayesGate(2, (0.5, 0.6)).start(1), "sum to one"),
        (lambda: FixedShareGate(2, (0.0,)).token_log_probs(scores), "sharing rates"),
        (lambda: gate_from_description({"kind": "other"}), "no gate is of kind"),
        (lambda: CausalGate().fit([]), "at least one token"),
        (lambda: CausalGate().fit([scores, scores.select([0, 1])]), "disagree on the experts"),
        (lambda: CausalGate().fit([scores], weights=[-1.0]), "nonnegative"),
        (lambda: CausalGate().fit([scores], document_weights=[np.ones(3)]), "document_weights"),
        (lambda: CausalGate().log_weights(scores), "before `CausalGate.fit`"),
    ):
        with pytest.raises(InvalidInputError if "before" not in sentence else ValueError, match=sentence):
            call()
