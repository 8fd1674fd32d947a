"""What `corollary compose` is started with: documents enough, as many threads as were allowed."""

import json
import os

import pytest
import torch

from corollary.cli._console import set_threads
from corollary.cli.compose import read_domains
from corollary.datasets import Domain, mixed_documents
from corollary.documents import Documents
from corollary.errors import InvalidInputError


def test_too_few_documents_are_told_with_how_many_are_needed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": f"{name} {i}"}) + "\n" for i in range(2)))
    paths = {n: str(tmp_path / f"{n}.jsonl") for n in ("a", "b")}
    with pytest.raises(InvalidInputError, match=r"has 2 documents, too few .* 30 or more, and about 50 for"):
        read_domains(paths, trained=set(), field=None, seed=0)
    with pytest.raises(InvalidInputError, match="about 120 for a certified gain"):
        read_domains(paths, trained={"a", "b"}, field=None, seed=0)


def test_splices_tell_what_is_missing():
    some, none = Documents.from_texts(["a" * 300]), Documents.from_texts([])
    domains = {"full": Domain("full", some, some, some, some), "bare": Domain("bare", some, none, some, some)}
    with pytest.raises(InvalidInputError, match="`bare` has none in `gate`"):
        mixed_documents(domains, split="gate", count=1)
    with pytest.raises(InvalidInputError, match="two domains, got 1"):
        mixed_documents({"full": domains["full"]}, split="gate", count=1)


def test_threads_are_those_that_were_allowed(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    monkeypatch.setattr(os, "sched_getaffinity", lambda who: {0, 1, 2}, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    set_threads(None)
    assert chosen == []  # torch has read it already
    set_threads(5)
    monkeypatch.delenv("OMP_NUM_THREADS")
    set_threads(None)
    assert chosen == [5, 3]
