"""Mixed documents: labels that are right, and text that no expert saw."""

from itertools import pairwise

import numpy as np
import pytest

from corollary.datasets import MixedDocuments, mixed_documents, overlapping_domains, text_domains
from corollary.documents import Documents
from corollary.errors import InvalidInputError


def segments(mixed, index):
    start, end = mixed.documents.offsets[index : index + 2]
    text, label = mixed.documents[index], mixed.label[start:end]
    edges = [0, *(np.flatnonzero(np.diff(label)) + 1).tolist(), len(label)]
    return [(text[a:b], int(label[a])) for a, b in pairwise(edges)]


@pytest.mark.parametrize("split", ["certify", "gate"])
def test_splices_are_pieces_of_the_split_they_name(small, split):
    mixed = mixed_documents(small, split=split, count=50)
    pools = [b"\0".join(domain.splits[split]) for domain in small.values()]
    lengths = []
    for index in range(len(mixed)):
        parts = segments(mixed, index)
        assert 2 <= len(parts) <= (4 if split == "certify" else 3)
        assert len({label for _, label in parts}) == 2
        assert all(piece in pools[label] for piece, label in parts)
        lengths.append(len(mixed.documents[index]))
        mixed.documents[index].decode("utf-8")
    assert max(lengths) <= 2000
    assert len(set(lengths)) > 25
    assert mixed.documents.digest() == mixed_documents(small, split=split, count=50).documents.digest()
    assert mixed.documents.digest() != mixed_documents(small, split=split, count=50, seed=1).documents.digest()


def test_natural_documents_are_held_out_whole(domains):
    train = {name: b"\0".join(domains[name].train) for name in ("code", "prose")}
    held = {t for name in ("code", "prose") for s in ("certify", "gate") for t in domains[name].splits[s]}
    seen = set()
    for split, count in (("certify", 300), ("gate", 60)):
        mixed = mixed_documents(domains, kind="natural", split=split, count=count)
        assert set(mixed.label.tolist()) == {0, 1}
        for index in range(count):
            parts = segments(mixed, index)
            text = mixed.documents[index]
            assert text not in seen
            seen.add(text)
            words = [piece for piece, label in parts if label == 1]
            code = [piece for piece, label in parts if label == 0]
            assert words
            assert all(w.startswith((b'"', b"'", b"#", b"r", b"R", b"u", b"b", b"f")) for w in words)
            assert code[0].startswith((b"def ", b"@", b"async def "))
            # Its docstring is in neither training text, nor is the function a document of its own elsewhere.
            doc = words[0].strip(b"\"'")
            assert len(doc) < 60 or doc not in train["prose"]
            assert text not in train["code"]
            assert text not in held


def test_natural_needs_embedded_domains(small):
    with pytest.raises(InvalidInputError, match="code"):
        mixed_documents({"json": small["json"]}, kind="natural")
    with pytest.raises(InvalidInputError, match="natural mixed documents"):
        mixed_documents(small, kind="natural", count=10**6)


@pytest.mark.parametrize("options", [{"kind": "blend"}, {"split": "train"}, {"count": 0}])
def test_wrong_options(small, options):
    with pytest.raises(InvalidInputError, match="kind"):
        mixed_documents(small, **options)


def test_one_domain_is_too_few(small):
    with pytest.raises(InvalidInputError, match="two domains"):
        mixed_documents({"json": small["json"]})


def test_labels_must_fit():
    with pytest.raises(InvalidInputError, match="label"):
        MixedDocuments(Documents.from_texts(["abc"]), np.zeros(2, dtype=np.int8))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75, 1.0])
def test_overlap_has_the_stated_share(small, share):
    both = overlapping_domains(share=share, domain=small["prose"])
    for split in ("train", "gate", "validation", "certify"):
        left, right = (set(both[side].splits[split]) for side in ("left", "right"))
        assert len(left & right) == both["left"].provenance["common"][split]
        assert abs(len(left & right) / len(left) - share) <= 2 / len(left)
        assert left | right <= set(small["prose"].splits[split])


def test_overlap_refuses_a_wrong_share(small):
    with pytest.raises(InvalidInputError, match="share"):
        overlapping_domains(share=1.5, domain=small["prose"])


def test_names_do_not_change_what_is_held_out():
    one = text_domains(("code",), train_bytes=20_000, documents=30)["code"]
    both = text_domains(("prose", "code"), train_bytes=20_000, documents=30)
    assert list(both) == ["prose", "code"]
    assert one.certify.digest() == both["code"].certify.digest()
