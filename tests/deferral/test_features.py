"""Hashed features against plain Python, TF-IDF against scikit-learn, and what is stored and explained."""

import itertools
from collections import Counter

import numpy as np
import pytest

from corollary.deferral.routing import Features, HashedText, TextStatistics, TfidfText
from corollary.deferral.routing._hashed import SALTS
from corollary.deferral.routing._hashing import BASE, MIX, PAIR
from corollary.errors import InvalidInputError, NotFittedError

TEXTS = ["What is 2 + 2?", "", "naïve Café_x — naïve", "a\x00b c", "\n\n", "What is a list[int]?", "x" * 700, "日本 語"]
WORD = 2**64


def slow_hash(data):
    return sum((b + 1) * pow(BASE, j, WORD) for j, b in enumerate(data)) % WORD


def slow_bucket(h, salt, bits):
    h = (h + salt * MIX) % WORD
    h = (h ^ (h >> 32)) * MIX % WORD
    h = (h ^ (h >> 29)) * BASE % WORD
    return h >> (64 - bits)


def slow_counts(text, *, bits, characters=()):
    data = text.replace("\x00", " ").lower().encode()
    words, run = [], b""
    for byte in data + b" ":
        if (chr(byte).isalnum() and byte < 128) or byte == 95 or byte >= 128:
            run += bytes([byte])
        elif run:
            words.append(slow_hash(run))
            run = b""
    found = [slow_bucket(w, SALTS["word"], bits) for w in words]
    pairs = [(a * PAIR + b) % WORD for a, b in itertools.pairwise(words)]
    found += [slow_bucket(p, SALTS["pair"], bits) for p in pairs]
    for n in characters:
        grams = [slow_hash(data[i : i + n]) for i in range(len(data) - n + 1)]
        found += [slow_bucket(g, SALTS["character"] + n, bits) for g in grams]
    return Counter(found)


@pytest.mark.parametrize("characters", [(), (3, 5)])
def test_hashing_is_what_plain_python_computes(characters):
    block = HashedText(bits=18, min_count=1, characters=characters)
    x = block.fit_transform(TEXTS)
    active = {int(b): i for i, b in enumerate(block.active)}
    counts = [slow_counts(t, bits=18, characters=characters) for t in TEXTS]
    assert set(active) == set().union(*counts)
    for i, count in enumerate(counts):
        dense = np.zeros(block.width)
        for bucket, t in count.items():
            df = sum(bucket in c for c in counts)
            dense[active[bucket]] = (1 + np.log(t)) * (np.log((1 + len(TEXTS)) / (1 + df)) + 1)
        norm = np.linalg.norm(dense)
        np.testing.assert_allclose(x[i].toarray()[0], dense / norm if norm else dense, atol=1e-12)


@pytest.mark.parametrize(
    "features", ["hash", "hash-words", "hash-characters", "tfidf", "tfidf-characters", "statistics"]
)
def test_batches_single_texts_and_storage_agree(features):
    made = Features(features)
    x = made.fit_transform(TEXTS * 3)
    assert x.shape == (len(TEXTS) * 3, made.width)
    again = Features.from_plain(*made.to_plain())
    for i, text in enumerate(TEXTS):
        column, value = made.entries(text)
        dense = np.zeros(made.width)
        np.add.at(dense, column, value)
        np.testing.assert_allclose(dense, x[i].toarray()[0], atol=1e-12)
        np.testing.assert_allclose(again.transform([text]).toarray()[0], dense, atol=1e-12)
        held = {c for _, c in made.parts(text)}
        assert set(np.flatnonzero(dense)) <= held


def test_chunks_do_not_matter(monkeypatch):
    texts = [f"text number {i} of many" for i in range(50)]
    whole = HashedText(min_count=1)
    x = whole.fit_transform(texts)
    monkeypatch.setattr("corollary.deferral.routing._hashed.CHUNK", 7)
    assert abs(whole.transform(texts) - x).max() == 0


def test_tfidf_is_scikit_learns():
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = ["one two two", "two three", "three one one"]
    ours = TfidfText(min_count=1).fit_transform(texts)
    theirs = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit_transform(texts)
    np.testing.assert_allclose(ours.toarray(), theirs.toarray(), atol=1e-12)


def test_statistics_by_hand():
    from corollary.deferral.routing._statistics import NAMES, text_statistics

    first, empty, row = text_statistics(["no", "", "Ab 12, é?\nend. \n"])
    row = dict(zip(NAMES, row, strict=True))
    size = len("Ab 12, é?\nend.".encode())
    assert row["length"] == pytest.approx(np.log1p(size))
    assert row["words"] == pytest.approx(np.log1p(4))
    assert row["length of words"] == pytest.approx(9 / 5)
    assert row["longest line"] == pytest.approx(np.log1p(10))
    assert row["mean line"] == pytest.approx(np.log1p(7))
    assert row["last line"] == pytest.approx(np.log1p(4))
    assert row["share of digits"] == pytest.approx(2 / (size + 1))
    assert row["number of lines"] == pytest.approx(np.log1p(2))
    assert row["number of non-ascii"] == pytest.approx(np.log1p(2))
    np.testing.assert_allclose(first, text_statistics(["no"])[0])
    assert (empty[:6] == 0).all()


def test_numbers_beside_the_prompt():
    rng = np.random.default_rng(0)
    given = rng.normal(size=(8, 3))
    features = Features("statistics")
    x = features.fit_transform(TEXTS, given)
    assert x.shape[1] == TextStatistics().width + 3
    with pytest.raises(InvalidInputError, match="3 finite numbers"):
        features.transform(TEXTS)
    with pytest.raises(InvalidInputError, match="3 finite numbers"):
        features.transform(TEXTS, given[:, :2])
    alone = Features("none")
    assert alone.fit_transform(TEXTS, given).shape == (8, 3)


def test_nonsense_is_refused(as_shipped):
    for make in (
        lambda: HashedText(words=False, pairs=False),
        lambda: HashedText(bits=40),
        lambda: TfidfText(analyzer="bytes"),
        lambda: Features("wishful"),
        lambda: Features("none").fit_transform(TEXTS),
        lambda: TfidfText(min_count=1).fit_transform(["", " "]),
        lambda: Features.from_plain([{"kind": "new", "settings": {}}], {}),
    ):
        with pytest.raises(InvalidInputError):
            make()
    with pytest.raises(NotFittedError):
        Features().transform(["a"])
