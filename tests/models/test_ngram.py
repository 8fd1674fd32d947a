import importlib.util
import inspect
import json as json_module
import textwrap
from pathlib import Path

import numpy as np
import pytest

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.models import LanguageModel, NgramModel, NgramQueries
from corollary.models import _ngram_tables as ngram_tables

_spec = importlib.util.spec_from_file_location("models_reference", Path(__file__).with_name("reference.py"))
_reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_reference)
ReferenceNgram = _reference.ReferenceNgram

SOURCES = [inspect.getsource(m).encode() for m in (textwrap, json_module)]
TRAIN = [SOURCES[0][i : i + 300] for i in range(0, 6000, 300)] + [b"", b"a\0\0\0b", b"\0", b"aa"]
TEST = [SOURCES[1][:400], b"", b"\0\0\0ab", bytes(range(256)), SOURCES[0][1000:1200]]


def stream(model, document):
    """Log-probabilities and statistics of one document, token by token."""
    state, log_probs, statistics = model.start(1), [], []
    for token in document:
        log_probs.append(model.next_log_probs(state)[0, token])
        statistics.append([s[0] for s in model.next_statistics(state)])
        state = model.advance(state, np.array([token]))
    return np.array(log_probs), np.array(statistics)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 6, 7])
def test_equals_the_dictionary_reference(order):
    reference = ReferenceNgram(TRAIN, order)
    documents = Documents.from_texts(TEST)
    model = NgramModel.fit(Documents.from_texts(TRAIN), order=order)
    scores = model.score(NgramQueries(documents, order))
    expected = np.concatenate([reference.log_probs(d) for d in TEST])
    statistics = np.array([reference.statistics(c) for d in TEST for c in reference.contexts(d)[:-1]])
    # Log-probabilities reach 12; float32 carries 5e-7 there, once in the table and once in the result.
    np.testing.assert_allclose(scores.log_probs, expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(np.exp(scores.log_probs), np.exp(expected), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(scores.matched_order, statistics[:, 0])
    np.testing.assert_array_equal(scores.context_count, statistics[:, 1])
    np.testing.assert_allclose(scores.escape, statistics[:, 2], rtol=1e-6)
    np.testing.assert_allclose(model.discounts, [reference.discount[k] for k in range(1, order + 1)], rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 5, 7])
def test_float64_tables_equal_the_reference_tightly(order):
    reference = ReferenceNgram(TRAIN, order)
    model = NgramModel.fit(Documents.from_texts(TRAIN), order=order, dtype=np.float64)
    for document in TEST[2:4]:
        np.testing.assert_allclose(stream(model, document)[0], reference.log_probs(document), rtol=1e-10)


def test_hand_computed():
    # Bigrams ^a 3, ab 2, ac 1, b$ 2, c$ 1: n1 = n2 = 2, n3 = 1, n4 = 0: Y = 1/3, D = (1/3, 3/2, fall-back).
    # Preceding bytes: a 1, b 1, c 1, $ 2: n1 = 3, n2 = 1, n3 = 0, so Y = 3/5, D1 = 3/5, D2 = fall-back 1.
    model = NgramModel.fit(Documents.from_texts(["ab", "ab", "ac"]), order=2, dtype=np.float64)
    np.testing.assert_allclose(model.discounts, [[0.6, 1, 1.5], [1 / 3, 1.5, 1.5]], rtol=1e-12)
    lower = 0.4 / 5 + (3 * 0.6 + 1) / 5 / 256
    after_a = np.exp(model.next_log_probs(model.advance(model.start(1), np.array([ord("a")]))))[0]
    np.testing.assert_allclose(after_a[ord("b")], 0.5 / 3 + 11 / 18 * lower, rtol=1e-12)
    np.testing.assert_allclose(after_a[ord("c")], 2 / 3 / 3 + 11 / 18 * lower, rtol=1e-12)
    np.testing.assert_allclose(after_a[ord("z")], 11 / 18 * 0.56 / 256, rtol=1e-12)
    np.testing.assert_allclose(np.exp(model.next_log_probs(model.start(1)))[0, ord("a")], 0.5 + 0.5 * lower)


def sums(model, seed=0):
    """Sums of the next-byte probabilities over every seen context and thousands of unseen ones."""
    rng = np.random.default_rng(seed)
    high = 256 ** (model.order - 1)
    seen = [t.keys & ngram_tables.suffix_mask(model.order) for t in model.tables]
    rare = rng.integers(0, high, 2000, dtype=np.uint64) if high > 1 else np.zeros(1, dtype=np.uint64)
    state = np.unique(np.concatenate([*seen, rare]))
    return np.exp(model.next_log_probs(state)).sum(axis=1)


CORPORA = {
    "source": TRAIN,
    "one byte": [b"x"],
    "one repeated": [b"a" * 50],
    "all bytes once": [bytes(range(256))],
    "all bytes often": [bytes(range(256)) * 6],
    "only NULs": [b"\0" * 9, b"\0"],
    "no singletons": [b"ababab"] * 4,
    "random": [np.random.default_rng(0).integers(0, 256, 3000).astype(np.uint8).tobytes()],
}


@pytest.mark.parametrize("order", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("name", CORPORA)
def test_sums_to_one_at_every_context(name, order):
    documents = Documents.from_texts(CORPORA[name])
    exact = NgramModel.fit(documents, order=order, dtype=np.float64)
    np.testing.assert_allclose(sums(exact), 1, rtol=0, atol=1e-10)
    np.testing.assert_allclose(sums(NgramModel.fit(documents, order=order)), 1, rtol=0, atol=1e-6)
    assert ((exact.discounts > 0) & (exact.discounts <= [1, 2, 3])).all()


@pytest.mark.parametrize("j", [0, 1, 2])
def test_a_wrong_discount_is_caught(monkeypatch, j):
    kept = ngram_tables.discounted
    wrong = np.ones(3)
    wrong[j] = 1.01
    monkeypatch.setattr(ngram_tables, "discounted", lambda counts, d: kept(counts, d * wrong))
    model = NgramModel.fit(Documents.from_texts(TRAIN), order=3, dtype=np.float64)
    assert abs(sums(model) - 1).max() > 1e-4


def test_discounts_by_formula_and_by_fall_back():
    counts = np.repeat([1.0, 2, 3, 4, 9], [60, 20, 10, 6, 3])
    y = 60 / (60 + 40)
    expected = [1 - 2 * y * 20 / 60, 2 - 3 * y * 10 / 20, 3 - 4 * y * 6 / 10]
    np.testing.assert_allclose(ngram_tables.discounts(counts), expected, rtol=1e-12)
    np.testing.assert_array_equal(ngram_tables.discounts(np.full(5, 7.0)), [0.5, 1, 1.5])
    out_of_range = np.repeat([1.0, 2, 3, 4], [10, 1, 50, 1])  # D2 < 0 by the formula
    assert ngram_tables.discounts(out_of_range)[1] == 1


@pytest.mark.parametrize("order", [1, 3, 6])
def test_stream_equals_batch(order):
    model = NgramModel.fit(Documents.from_texts(TRAIN), order=order)
    documents = Documents.from_texts(TEST)
    scores = model.score(NgramQueries(documents, order))
    streams = [stream(model, d) for d in TEST if d]
    np.testing.assert_allclose(scores.log_probs, np.concatenate([s[0] for s in streams]), rtol=0, atol=1e-6)
    statistics = np.stack([scores.matched_order, scores.context_count, scores.escape], axis=1)
    np.testing.assert_array_equal(statistics, np.concatenate([s[1] for s in streams]).astype(np.float32))


def test_rows_of_a_stream_do_not_touch_each_other():
    model = NgramModel.fit(Documents.from_texts(TRAIN), order=5)
    tokens = np.random.default_rng(1).choice(np.frombuffer(b"def (x):\n\0", dtype=np.uint8), (20, 7))
    state = model.start(7)
    for row in tokens:
        together = model.next_log_probs(state)
        alone = np.concatenate([model.next_log_probs(state[b : b + 1]) for b in range(7)])
        np.testing.assert_array_equal(together, alone)
        state = model.advance(state, row)


def test_statistics_do_not_see_the_token():
    model = NgramModel.fit(Documents.from_texts(TRAIN), order=5)
    rng = np.random.default_rng(0)
    document = np.frombuffer(SOURCES[1][:200], dtype=np.uint8)
    base = model.score(NgramQueries(Documents.from_sequences([document]), 5))
    changed = 0
    for t in range(0, 200, 3):
        other = document.copy()
        other[t:] = rng.integers(0, 256, 200 - t)
        scores = model.score(NgramQueries(Documents.from_sequences([other]), 5))
        for name in ("matched_order", "context_count", "escape"):
            np.testing.assert_array_equal(getattr(scores, name)[: t + 1], getattr(base, name)[: t + 1])
        np.testing.assert_array_equal(scores.log_probs[:t], base.log_probs[:t])
        changed += scores.log_probs[t] != base.log_probs[t]
    assert changed > 30  # the tokens did differ


def test_documents_are_independent_of_their_neighbours():
    model = NgramModel.fit(Documents.from_texts(TRAIN))
    together = model.log_probs(Documents.from_texts(TEST))
    alone = np.concatenate([model.log_probs(Documents.from_texts([d])) for d in TEST])
    np.testing.assert_array_equal(together, alone)


def test_longer_queries_serve_shorter_models():
    documents = Documents.from_texts(TEST)
    queries = NgramQueries(documents, 7)
    for order in (1, 3, 6):
        model = NgramModel.fit(Documents.from_texts(TRAIN), order=order)
        mine, shared = model.score(NgramQueries(documents, order)), model.score(queries)
        for name in ("log_probs", "matched_order", "context_count", "escape"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(shared, name))
    with pytest.raises(InvalidInputError, match="order 7"):
        NgramModel.fit(documents, order=7).score(NgramQueries(documents, 6))


def test_learns_where_documents_end():
    model = NgramModel.fit(Documents.from_texts(["stop"] * 30), order=4)
    state = model.start(1)
    for token in b"stop":
        state = model.advance(state, np.array([token]))
    assert np.exp(model.next_log_probs(state))[0, 0] > 0.9


def test_empty_inputs():
    model = NgramModel.fit(Documents.from_texts(["x"]))
    for empty in (Documents.from_texts([]), Documents.from_texts(["", ""])):
        assert model.log_probs(empty).shape == (0,)
        assert model.score(NgramQueries(empty, 6)).escape.shape == (0,)
        with pytest.raises(InvalidInputError, match="at least one byte"):
            NgramModel.fit(empty)
    assert model.next_log_probs(model.start(0)).shape == (0, 256)


def test_wrong_inputs():
    documents = Documents.from_texts(["x"])
    for order in (0, 8):
        with pytest.raises(InvalidInputError, match="order"):
            NgramModel.fit(documents, order=order)
        with pytest.raises(InvalidInputError, match="order"):
            NgramQueries(documents, order)
    wide = Documents.from_sequences([[1, 256]], dtype=np.int32)
    with pytest.raises(InvalidInputError, match="bytes"):
        NgramModel.fit(wide)
    with pytest.raises(InvalidInputError, match="bytes"):
        NgramModel.fit(documents).log_probs(Documents.from_sequences([[-1]], dtype=np.int32))
    same = Documents.from_sequences([[1, 255]], dtype=np.int32)
    assert NgramModel.fit(same).fingerprint() == NgramModel.fit(Documents.from_texts([b"\x01\xff"])).fingerprint()


def test_is_a_language_model_and_deterministic():
    first, second = (NgramModel.fit(Documents.from_texts(TRAIN)) for _ in range(2))
    assert isinstance(first, LanguageModel)
    assert first.fingerprint() == second.fingerprint()
    assert first.fingerprint() != NgramModel.fit(Documents.from_texts(TRAIN), order=5).fingerprint()


@pytest.mark.parametrize("order", [1, 3, 6])
def test_one_document_is_scored_as_many_are(order):
    """The numbers of a single document take a path of their own; unknown contexts and bytes are among them."""
    rng = np.random.default_rng(order)
    model = NgramModel.fit(Documents.from_texts(["the cat sat on the mat", "one\x00two", "a"]), order=order)
    state = model.start(300)
    text = np.frombuffer(b"the cat sat on the mat one\x00two zebra \xff", dtype=np.uint8)
    for _ in range(8):
        tokens = rng.choice(text, 300)
        together = model.token_log_probs(state, tokens)
        alone = [model.token_log_probs(state[[i]], tokens[[i]])[0] for i in range(300)]
        assert np.array_equal(together, alone)
        assert np.array_equal(together, model.next_log_probs(state)[np.arange(300), tokens])
        state = model.advance(state, tokens)
