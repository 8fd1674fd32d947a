"""Users' own files, good and bad, and splits by hash."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corollary.datasets import read_documents, real_data, split_documents
from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError


@pytest.mark.parametrize(
    ("name", "raw", "options", "wanted"),
    [
        ("a.jsonl", b'{"text": "one"}\n\n{"text": "zwei \\u00e9"}\n{"text": " "}', {}, ["one", "zwei é"]),
        ("a.jsonl", b'{"prompt": "q", "completion": "a"}', {}, ["q\na"]),
        ("a.jsonl", b'{"question": "q", "answer": "a", "body": "b"}', {"text_field": "body"}, ["b"]),
        ("a.jsonl", b'"plain"\r\n"two"', {}, ["plain", "two"]),
        ("a.txt", b"one\nline\n\n \n\ntwo\n", {}, ["one\nline", "two"]),
        ("a.txt", b"\xef\xbb\xbfonly\none", {}, ["only\none"]),
        ("a.JSON", b'["x", {"text": "y"}]', {}, ["x", "y"]),
    ],
)
def test_good_files(tmp_path, name, raw, options, wanted):
    (tmp_path / name).write_bytes(raw)
    assert [t.decode() for t in read_documents(tmp_path / name, **options)] == wanted


def test_folder_by_name(tmp_path):
    for name in ("b.txt", "a.md", ".hidden"):
        (tmp_path / name).write_text(f"from {name}\n\nwhole")
    (tmp_path / "inner").mkdir()
    assert list(read_documents(tmp_path)) == [b"from a.md\n\nwhole", b"from b.txt\n\nwhole"]


@pytest.mark.parametrize(
    ("name", "raw", "options", "says"),
    [
        ("a.txt", b"", {}, "no document"),
        ("a.txt", b" \n\n", {}, "no document"),
        ("a.txt", b"ab\0c", {}, "NUL byte at offset 2"),
        ("a.txt", b"caf\xe9 x", {}, "0xe9 at offset 3"),
        ("a.csv", b"a,b", {}, "csv"),
        ("a.txt", b"abc", {"max_bytes": 2}, "3 bytes"),
        ("a.jsonl", b'{"text": "a"}\n{"text": ', {}, "line 2 is not JSON"),
        ("a.jsonl", b'{"body": "a", "title": "b"}', {}, "body, title"),
        ("a.jsonl", b'{"text": "a"}', {"text_field": "body"}, "no field `body`"),
        ("a.jsonl", b'{"text": 3}', {}, "a number in `text`"),
        ("a.jsonl", b"[1]", {}, "line 1 is a list"),
        ("a.jsonl", b'{"text": "a\\u0000"}', {}, "NUL"),
        ("a.jsonl", b'{"text": "\\ud800"}', {}, "surrogate"),
        ("a.json", b'{"text": "a"}', {}, "JSON object"),
        ("a.json", b'["a", null]', {}, "entry 2 is a null"),
        ("a.json", b"[" * 100_000, {}, "not JSON"),
        ("a.json", b"", {}, "no document"),
    ],
)
def test_bad_files(tmp_path, name, raw, options, says):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InvalidFileError, match=says) as caught:
        read_documents(tmp_path / name, **options)
    assert str(caught.value).count(name) == 1


def test_missing_and_empty_folder(tmp_path):
    with pytest.raises(InvalidFileError, match="no such file"):
        read_documents(tmp_path / "absent.txt")
    with pytest.raises(InvalidFileError, match="no document"):
        read_documents(tmp_path)


texts = st.lists(st.binary(max_size=6), max_size=30)
parts = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(lambda w: [x / sum(w) for x in w])


@settings(max_examples=60, deadline=None)
@given(texts, parts, st.integers(-5, 5), st.randoms(use_true_random=False))
def test_split_is_a_partition_by_content(items, fractions, seed, shuffler):
    split = split_documents(Documents.from_texts(items), fractions=fractions, seed=seed)
    assert sorted(text for part in split for text in part) == sorted(items)
    for i, part in enumerate(split):
        assert all(not set(part) & set(other) for other in split[i + 1 :])
        # In the order of the input.
        rest = iter(items)
        assert all(text in rest for text in part)
    shuffled = list(items)
    shuffler.shuffle(shuffled)
    again = split_documents(Documents.from_texts([*shuffled, b"another"]), fractions=fractions, seed=seed)
    assert [set(part) for part in split] == [set(part) - ({b"another"} - set(items)) for part in again]


def test_split_fractions_and_seeds():
    documents = Documents.from_texts([str(i) for i in range(20_000)])
    split = split_documents(documents, fractions=(0.7, 0.2, 0.1), seed=5)
    # Four standard deviations of a binomial count are at most 4 sqrt(.25 / 20000) = .0142.
    np.testing.assert_allclose([len(part) / 20_000 for part in split], [0.7, 0.2, 0.1], atol=0.0142)
    # Two seeds divide independently: half of one half is in the other half.
    first = split_documents(documents, fractions=(0.5, 0.5), seed=0)[0]
    second = split_documents(first, fractions=(0.5, 0.5), seed=1)[0]
    assert abs(len(second) / len(first) - 0.5) < 0.02
    tokens = Documents.from_sequences([[1, 2], [70_000]], dtype=np.int32)
    assert sum(map(len, split_documents(tokens, fractions=(0.5, 0.5)))) == 2


@pytest.mark.parametrize("fractions", [(), (0.5, 0.4), (1.2, -0.2), (float("nan"), 1.0)])
def test_wrong_fractions(fractions):
    with pytest.raises(InvalidInputError, match="fractions"):
        split_documents(Documents.from_texts(["a"]), fractions=fractions)


def test_real_data(tmp_path, monkeypatch):
    monkeypatch.delenv("COROLLARY_DATA", raising=False)
    with pytest.raises(InvalidInputError, match="COROLLARY_DATA is not set"):
        real_data("x.csv")
    monkeypatch.setenv("COROLLARY_DATA", str(tmp_path))
    with pytest.raises(InvalidFileError, match="absent"):
        real_data("x.csv")
    with pytest.raises(InvalidInputError, match="leaves the folder"):
        real_data("../x.csv")
    (tmp_path / "x.json").write_text(json.dumps(["a"]))
    assert list(read_documents(real_data("x.json"))) == [b"a"]
