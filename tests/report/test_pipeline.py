"""What `compose` leaves behind is what the report reads: a small composition, end to end."""

import numpy as np
import pytest

from corollary.datasets import Domain
from corollary.documents import Documents
from corollary.gating import Settings, compose, issue, metrics, train_experts
from corollary.report import write_report
from corollary.runs import RunFolder, write_json

SETTINGS = Settings(order=3, steps=6, robust_steps=6)
VERBS = ("to be", "not to be", "the rest", "in a hand", "on the mat", "at dawn", "by night", "for ever", "as it is")


def domain(name, texts):
    documents = Documents.from_texts(texts)
    return Domain(name, *(documents.select(np.arange(len(documents)) % 4 == i) for i in range(4)))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    domains = {
        "sums": domain("sums", [f"{a} + {b} = {a + b}" for a in range(13) for b in range(13)]),
        "words": domain("words", [f"{a} or {b} {c}" for a in VERBS for b in "abcde" for c in "vwxyz"]),
    }
    splices = {
        s: Documents.from_texts([f"{i} + 1 or {t} to be" for i in range(9) for t in s]) for s in ("gate", "certify")
    }
    with RunFolder(tmp_path_factory.mktemp("pipeline") / "run", {"verb": "compose", "seed": 0}) as run:
        experts, pooled = train_experts(run, domains, order=SETTINGS.order)
        composition = compose(run, domains, experts, pooled=pooled, mixed={"splice": splices}, settings=SETTINGS)
        certificate = issue(run, composition, SETTINGS, {"python": "3"})
        write_json(run.inside("metrics.json"), metrics(composition, certificate, seed=0))
        return write_report(run.path).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "said",
    [
        "gating.every_document",
        "Worst case over all mixtures",
        "Excess of each document over its best expert",
        "Training of the causal gate",
        "The robust gate converges",
        'class="trust"',
        "Least favourable mixture",
        "fixed share, many rates",
        "splice",
    ],
)
def test_every_part_of_the_page_finds_its_file(page, said):
    assert said in page


def test_the_certificate_was_checked(page):
    assert '<span class="status HOLDS">HOLDS</span> <code>gating.every_document</code>' in page
    assert 'class="status VIOLATED"' not in page
