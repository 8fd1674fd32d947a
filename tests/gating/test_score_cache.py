import hashlib
import json

import numpy as np
import pytest

from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.gating import (
    BayesGate,
    CausalGate,
    FixedShareGate,
    RobustGate,
    ScoreCache,
    StaticGate,
    gate_log_probs,
    score_experts,
)
from corollary.gating._score_cache import NAME
from corollary.models import NgramModel


class Synthetic:
    """Log-probabilities made from the token and the expert alone, in no time: what large caches are tested with."""

    def __init__(self, number, tokens=256):
        self.number, self.calls = number, 0
        self.table = np.log(np.random.default_rng(number).dirichlet(np.full(tokens, 0.5)) + 1e-6).astype(np.float32)
        self.table = np.minimum(self.table, 0)

    def log_probs(self, documents):
        self.calls += 1
        return self.table[documents.tokens]

    def fingerprint(self):
        return hashlib.sha256(f"synthetic {self.number}".encode()).hexdigest()


def corpus(count=60, seed=0, longest=40):
    rng = np.random.default_rng(seed)
    return Documents.from_sequences([rng.integers(256, size=n) for n in rng.integers(0, longest, size=count)])


@pytest.fixture
def docs():
    return corpus()


@pytest.fixture
def experts(docs):
    return [NgramModel.fit(docs, order=2), NgramModel.fit(docs.select(np.arange(20)), order=3), Synthetic(3)]


def test_the_cache_holds_what_scoring_gives(tmp_path, docs, experts):
    plain, cache = score_experts(experts, docs), ScoreCache.build(tmp_path, experts, docs, part_tokens=100)
    assert len(list(tmp_path.glob("part-*.json"))) > 5
    for name in ("offsets", "log_probs", "statistics"):
        assert (getattr(cache, name) == getattr(plain, name)).all()
    assert np.array_equal(cache.totals(), plain.totals())
    assert isinstance(cache.log_probs, np.memmap)
    assert cache.experts == 3
    again = ScoreCache.open(tmp_path, experts=experts, documents=docs)
    assert np.array_equal(again.log_probs, plain.log_probs)
    from safetensors.numpy import load_file  # any reader of the format reads it

    assert np.array_equal(load_file(tmp_path / NAME)["log_probs"], plain.log_probs)


def test_it_serves_wherever_scores_do(tmp_path, docs, experts):
    plain, cache = score_experts(experts, docs), ScoreCache.build(tmp_path, experts, docs, part_tokens=150)
    learned = CausalGate(steps=3, batch=64).fit([plain])
    for gate in (BayesGate(3), StaticGate((0.2, 0.3, 0.5)), FixedShareGate(3, (0.01, 0.1)), learned):
        assert np.allclose(gate_log_probs(gate, cache), gate_log_probs(gate, plain), atol=1e-5)  # scores in float32
        assert np.allclose(gate.log_weights(cache), gate.log_weights(plain), atol=1e-5)
    assert np.array_equal(cache.select([1, 2]).log_probs, plain.log_probs[:, 1:])
    assert np.array_equal(cache.select([1, 2]).totals(), plain.totals()[:, 1:])
    assert isinstance(cache.select([0, 1]).log_probs, np.memmap)
    assert np.array_equal(cache.select([2, 0]).log_probs, plain.log_probs[:, [2, 0]])
    parts = list(cache.parts(64))
    assert len(parts) > 10
    assert np.array_equal(np.concatenate([p.log_probs for p, _ in parts]), plain.log_probs)
    some = cache.documents([7, 3])
    slow = docs.select([7, 3])
    assert np.array_equal(some.log_probs, score_experts(experts, slow).log_probs)


def test_one_number_a_document(tmp_path, docs, experts):
    cache = ScoreCache.build(tmp_path, experts, docs, level="sequence", part_tokens=100)
    plain = score_experts(experts, docs).totals()
    assert np.array_equal(cache.totals(), plain)
    assert cache.log_probs.shape == (60, 3)
    assert np.array_equal(ScoreCache.open(tmp_path).totals(), plain)
    # Lengths are those of the documents, not one each: the objective per token is the same.
    filled = corpus(longest=40).select(np.flatnonzero(docs.lengths > 0))
    options, domain = {"objective": "token", "steps": 10, "normalisation": "none"}, np.arange(len(filled)) % 3
    gates = [
        RobustGate(**options).fit(ScoreCache.build(tmp_path / level, experts, filled, level=level), domain)
        for level in ("token", "sequence")
    ]
    assert np.array_equal(gates[0].mixture_, gates[1].mixture_)
    assert np.array_equal(gates[0].history_["worst"], gates[1].history_["worst"])


def test_a_killed_run_goes_on_where_it_stopped(tmp_path, docs):
    class Killed(Synthetic):
        def log_probs(self, documents):
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().log_probs(documents)

    with pytest.raises(KeyboardInterrupt):
        ScoreCache.build(tmp_path, [Synthetic(0), Killed(1)], docs, part_tokens=100)
    with pytest.raises(InvalidFileError, match="was not scored yet"):
        ScoreCache.open(tmp_path)
    fresh = [Synthetic(0), Synthetic(1)]
    cache = ScoreCache.build(tmp_path, fresh, docs, part_tokens=100)
    parts = len(list(tmp_path.glob("part-*.json")))
    assert fresh[1].calls == parts - 3  # nothing is scored twice
    assert np.array_equal(cache.log_probs, score_experts(fresh, docs).log_probs)
    ScoreCache.open(tmp_path)
    before = fresh[0].calls
    ScoreCache.build(tmp_path, fresh, docs, part_tokens=100)
    assert fresh[0].calls == before


CHILD = """
import os, signal, sys
import numpy as np
from corollary.documents import Documents
from corollary.gating import ScoreCache

class Doomed:
    calls = 0
    def log_probs(self, documents):
        Doomed.calls += 1
        if Doomed.calls == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return -(documents.tokens % 7).astype(np.float32)
    def fingerprint(self):
        return "doomed"

docs = Documents(np.arange(900, dtype=np.int32), np.arange(0, 901, 9))
ScoreCache.build(sys.argv[1], [Doomed()], docs, part_tokens=90)
"""


def test_a_process_killed_outright_leaves_a_cache_that_goes_on(tmp_path):
    import os
    import subprocess
    import sys

    import corollary

    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(corollary.__file__))}
    command = [sys.executable, "-c", CHILD, str(tmp_path)]
    codes = [subprocess.run(command, env=environment).returncode for _ in range(4)]
    assert codes == [-9, -9, -9, 0]  # three parts a life: ten parts take four
    cache = ScoreCache.open(tmp_path)
    assert np.array_equal(cache.log_probs[:, 0], -(np.arange(900) % 7).astype(np.float32))


def test_a_part_written_but_not_marked_is_written_again(tmp_path, docs):
    experts = [Synthetic(0), Synthetic(1)]
    ScoreCache.build(tmp_path, experts, docs, part_tokens=100)
    (tmp_path / "part-00002.json").unlink()
    with (tmp_path / NAME).open("r+b") as file:
        file.seek(-50, 2)
        file.write(b"\1" * 5)  # what a kill in the middle of a page may leave: here in the last part
    with pytest.raises(InvalidFileError, match="not scored"):
        ScoreCache.open(tmp_path)
    ScoreCache.build(tmp_path, experts, docs, part_tokens=100)
    with pytest.raises(InvalidFileError, match="changed since it was scored"):
        ScoreCache.open(tmp_path)


def test_foreign_truncated_and_changed_caches_are_refused(tmp_path, docs):
    experts = [Synthetic(0), Synthetic(1)]
    ScoreCache.build(tmp_path, experts, docs, part_tokens=100)
    with pytest.raises(InvalidInputError, match="other experts"):
        ScoreCache.build(tmp_path, [Synthetic(0), Synthetic(2)], docs, part_tokens=100)
    with pytest.raises(InvalidInputError, match="other documents"):
        ScoreCache.build(tmp_path, experts, corpus(seed=1), part_tokens=100)
    with pytest.raises(InvalidInputError, match="other part_tokens"):
        ScoreCache.build(tmp_path, experts, docs, part_tokens=50)
    with pytest.raises(InvalidInputError, match="other experts"):
        ScoreCache.open(tmp_path, experts=experts[:1])
    with pytest.raises(InvalidInputError, match="other documents"):
        ScoreCache.open(tmp_path, documents=corpus(seed=1))
    path = tmp_path / NAME
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) - 40] ^= 1
    mark = json.loads((tmp_path / "part-00000.json").read_text())
    for content, said in (
        (bytes(changed), "changed since"),
        (whole[:-10], "cut short"),
        (b"", "not a cache"),
        (b"\x10" + b"\0" * 7 + b'{"a": 1}        ' + b"\0" * 64, "not a cache"),
        (whole[8:], "not a cache"),
    ):
        path.write_bytes(content)
        with pytest.raises(InvalidFileError, match=said):
            ScoreCache.open(tmp_path)
    path.write_bytes(whole)
    (tmp_path / "part-00000.json").write_text(json.dumps({**mark, "last": 1}))
    with pytest.raises(InvalidFileError, match="not the mark"):
        ScoreCache.open(tmp_path)
    with pytest.raises(InvalidFileError, match="no such file"):
        ScoreCache.open(tmp_path / "nowhere")


@pytest.mark.usefixtures("as_shipped")
def test_wrong_arguments(tmp_path, docs):
    class Nameless:
        def log_probs(self, documents):
            return np.zeros(len(documents.tokens), dtype=np.float32)

    for arguments, said in (
        (([], docs), "0 experts"),
        (([Synthetic(0)], corpus(0)), "0 tokens"),
        (([Synthetic(0)], corpus(3, longest=1)), "0 tokens"),
        (([Nameless()], docs), "fingerprint"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            ScoreCache.build(tmp_path, *arguments)
    with pytest.raises(InvalidInputError, match="level"):
        ScoreCache.build(tmp_path, [Synthetic(0)], docs, level="byte")


def test_gates_learn_the_same_from_a_cache(tmp_path, docs, experts):
    plain, cache = score_experts(experts, docs), ScoreCache.build(tmp_path, experts, docs, part_tokens=150)
    filled = np.flatnonzero(docs.lengths > 0)
    domain = np.arange(60) % 3
    options = {"steps": 40, "normalisation": "none", "entropy": np.zeros(3)}
    a = RobustGate(**options).fit(plain.totals(), domain)
    b = RobustGate(**options).fit(cache, domain)
    assert np.array_equal(a.mixture_, b.mixture_)
    assert len(filled) < 60
    # In runs of documents the draws differ, what is learned does not: the loss falls as far.
    c = CausalGate(steps=150, batch=256, seed=1).fit([plain])
    d = CausalGate(steps=150, batch=256, seed=1).fit([cache])
    start = gate_log_probs(FixedShareGate(3, (0.005,)), plain).mean()
    gained = [gate_log_probs(g, plain).mean() - start for g in (c, d)]
    assert gained[0] > 0.01
    assert gained[1] > 0.7 * gained[0]  # trained by chance: the two runs see other batches
