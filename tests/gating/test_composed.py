"""The composed model: normalised, the same streamed and scored, never far above an expert on any document at all."""

import json

import numpy as np
import pytest

from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.gating import BayesGate, CausalGate, ComposedLM, FixedShareGate, StaticGate, score_experts
from corollary.gating._mixing import SMALL, mix_rows, truncate_weights
from corollary.models import NgramModel, generate, load, sample

WORDS = [
    "the cat sat on the mat and the dog ran",
    "a bird in the hand is worth two in the bush",
    "to be or not to be",
] * 4
SUMS = ["12 + 30 = 42; 7 * 6 = 42; 1 + 1 = 2", "9 - 4 = 5; 3 * 3 = 9", "100 / 4 = 25; 8 + 8 = 16"] * 4
LOGS = ["ERROR disk full at 12:30:01\nINFO retry\n", "INFO started worker 7\nWARN slow\n", "INFO done in 3 s\n"] * 4


@pytest.fixture(scope="module")
def experts():
    return {
        n: NgramModel.fit(Documents.from_texts(t), order=4)
        for n, t in (("words", WORDS), ("sums", SUMS), ("logs", LOGS))
    }


@pytest.fixture(scope="module")
def model(experts):
    docs = Documents.from_texts(WORDS + SUMS + LOGS)
    gate = CausalGate(steps=60, batch=512, hidden=16).fit([score_experts(list(experts.values()), docs)])
    pooled = NgramModel.fit(docs, order=4)
    return ComposedLM(experts, gate, anchors={"fixed share": FixedShareGate(3), "pooled": pooled})


def random_documents(rng, count):
    """Half real text, half bytes that no expert expects."""
    texts = [rng.choice(WORDS + SUMS + LOGS)[: rng.integers(1, 40)].encode() for _ in range(count // 2)]
    noise = [rng.integers(1, 256, rng.integers(1, 40), dtype=np.uint8).tobytes() for _ in range(count - count // 2)]
    return Documents.from_texts(texts + noise)


def test_next_token_distributions_are_normalised_and_stream_equals_score(model):
    docs = Documents.from_texts(["the dog ran 1 + 1 = 2", "INFO x\xff\x01"])
    scored = model.log_probs(docs)
    for i in range(2):
        state = model.start(1)
        for t, token in enumerate(docs[i]):
            log_probs = model.next_log_probs(state)
            assert abs(np.exp(log_probs).sum() - 1) < 1e-5  # float32 tables of the experts
            assert abs(log_probs[0, token] - scored[docs.offsets[i] + t]) < 1e-4
            state = model.advance(state, np.array([token]))


def test_batches_and_order_do_not_matter(model):
    docs = random_documents(np.random.default_rng(0), 30)
    together = docs.sums(model.log_probs(docs))
    alone = [model.log_probs(docs.select([i])).sum() for i in range(len(docs))]
    assert np.abs(together - alone).max() < 1e-3  # sums of float32
    order = np.random.default_rng(1).permutation(len(docs))
    shuffled = docs.select(order)
    assert np.abs(shuffled.sums(model.log_probs(shuffled)) - together[order]).max() < 1e-6 * 1e3
    assert len(model.log_probs(Documents.from_sequences([]))) == 0


@pytest.mark.parametrize("eps", [0.5, 0.05, 1e-4])
def test_no_document_lies_far_above_any_expert_or_anchor(model, eps):
    """The theorem on thousands of documents, with the worst gate there is: all weight on one expert."""
    worst = ComposedLM(model.experts, StaticGate((1.0, 0.0, 0.0)), eps=eps, anchors=model.anchors)
    docs = random_documents(np.random.default_rng(2), 3000)
    scores = worst.score(docs)
    components = docs.sums(worst.component_log_probs(scores)) / np.log(2)
    ours = docs.sums(worst.log_probs(docs)) / np.log(2)
    excess = components[:, 1:] - ours[:, None]
    assert worst.excess_bits == pytest.approx(np.log2(3 / eps))
    assert excess.max() <= worst.excess_bits + 1e-3  # float32 output
    gate_alone = components[:, 1:].max(1) - components[:, 0]
    assert gate_alone.max() > worst.excess_bits  # the bound is the safe part's doing
    assert excess.max() > worst.excess_bits - 1.0  # and nearly attained: half of it would be violated


def test_without_the_safe_part_there_is_no_bound(experts):
    assert ComposedLM(experts, BayesGate(3), eps=0.0).excess_bits == np.inf
    truncated = ComposedLM(experts, BayesGate(3), top=1)
    assert truncated.excess_bits == np.inf
    state = truncated.start(1)
    assert abs(np.exp(truncated.next_log_probs(state)).sum() - 1) < 1e-5
    assert (truncate_weights(np.log(np.full((2, 4), 0.25)), 4) == np.log(np.full((2, 4), 0.25))).all()


def test_a_constant_gate_gives_exactly_the_mixture(experts):
    """Spec 3.5: the Bayes posterior realises the whole-sequence gate lambda; with eps on top nothing changes."""
    docs = random_documents(np.random.default_rng(3), 40)
    lam = np.array([0.2, 0.3, 0.5])
    exact = np.logaddexp.reduce(np.log(lam) + score_experts(list(experts.values()), docs).totals(), axis=1)
    composed = ComposedLM(experts, BayesGate(3, tuple(lam)), eps=0.0)
    assert np.abs(docs.sums(composed.log_probs(docs)) - exact).max() < 1e-3  # float32 output
    one = ComposedLM({"only": experts["sums"]}, BayesGate(1))
    assert np.abs(one.log_probs(docs) - experts["sums"].log_probs(docs)).max() < 1e-5


@pytest.mark.parametrize("depth", [5.0, 60.0, 600.0])
def test_mixing_in_float32_is_as_exact_as_its_tables(rng, depth):
    """Relative to float64 at most some 1e-7; where float32 would underflow the exact form takes over."""
    vocabulary = SMALL
    tables = [-depth * rng.random((2, vocabulary)) for _ in range(3)]
    tables = [t - np.logaddexp.reduce(t, axis=1, keepdims=True) for t in tables]
    weights = np.log(rng.dirichlet(np.ones(3), 2))
    weights[0] = [0.0, -np.inf, -np.inf]
    exact = np.logaddexp.reduce(np.stack(tables, 1) + weights[:, :, None], axis=1)
    assert np.allclose(mix_rows(weights, tables), exact, rtol=0, atol=1e-12)
    # a table entry of -x is itself rounded by x * 6e-8; far below one in total
    assert np.allclose(mix_rows(weights, tables, single=True), exact, rtol=0, atol=1e-7 * (depth + 10))
    assert np.isfinite(mix_rows(weights, tables, single=True)).all()


def test_generation_is_seeded_and_the_trust_sums_to_one(model):
    a, b = (sample(model, 3, max_tokens=12, seed=5, prompt=b"the ") for _ in range(2))
    assert list(a) == list(b)
    assert bytes(int(t) for t in generate(model, b"12 + 30 ", max_tokens=4, seed=0, temperature=0.0)) == b"= 42"
    assert model.generate(b"12 + 30 ", max_tokens=4, temperature=0.0) == b"= 42"
    state = model.start(2)
    assert np.abs(model.next_trust(state).sum(1) - 1).max() < 1e-5


def test_saved_and_loaded_it_is_the_same_model(model, tmp_path):
    docs = random_documents(np.random.default_rng(4), 20)
    model.save_pretrained(tmp_path)
    again = ComposedLM.from_pretrained(tmp_path)
    assert again.fingerprint() == model.fingerprint()
    assert (again.log_probs(docs) == model.log_probs(docs)).all()
    assert isinstance(load(tmp_path), ComposedLM)


@pytest.mark.parametrize(
    "edit", [{"eps": 0.2}, {"kind": "ngram2"}, {"experts": ["words"]}, {"experts": ["../words"]}, {"gate": 3}]
)
def test_an_edited_model_is_refused(model, tmp_path, edit):
    model.save(tmp_path)
    header = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(header | edit))
    with pytest.raises((InvalidFileError, InvalidInputError)):
        ComposedLM.load(tmp_path)


def test_bad_input_gets_one_clear_sentence(experts, as_shipped, tmp_path):
    class Wide:
        vocab_size = 300

    for call, sentence in (
        (lambda: ComposedLM({}, BayesGate(1)), "no expert"),
        (lambda: ComposedLM({**experts, "wide": Wide()}, BayesGate(4)), "vocabulary"),
        (lambda: ComposedLM(experts, BayesGate(2)), "weighs 2 experts, 3 were given"),
        (lambda: ComposedLM(experts, BayesGate(3), eps=1.0), "eps"),
        (lambda: ComposedLM(experts, BayesGate(3), top=4), "top"),
        (lambda: ComposedLM({"../../x": experts["sums"]}, BayesGate(1)).save(tmp_path / "m"), "plain name"),
    ):
        with pytest.raises(InvalidInputError, match=sentence):
            call()
