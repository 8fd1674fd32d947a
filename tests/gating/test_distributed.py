import os
import subprocess
import sys
from pathlib import Path

import gate_worker
import numpy as np
import pytest
import torch

import corollary
from corollary.gating._distributed import add_gradients, part, ranks, total


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same work in two processes under torchrun, and in this one."""
    folder = tmp_path_factory.mktemp("two")
    source = str(Path(corollary.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, gate_worker.__file__, str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ours = gate_worker.results(tmp_path_factory.mktemp("one"))
    return [dict(np.load(folder / f"rank{r}.npz")) for r in (0, 1)], ours, folder


def test_scores_of_two_processes_are_those_of_one(both):
    (first, second), ours, folder = both
    for name in ("log_probs", "totals"):
        assert np.array_equal(first[name], ours[name])
        assert np.array_equal(second[name], ours[name])
    assert len(list((folder / "cache").glob("part-*.json"))) > 10


def test_gates_of_two_processes_are_those_of_one(both):
    (first, second), ours, _ = both
    trained = [n for n in ours if n.startswith(("causal", "robust", "mixture"))]
    assert len(trained) == 15
    for name in trained:
        assert np.array_equal(first[name], second[name]), name
        assert np.abs(first[name] - ours[name]).max() < 1e-5, name


def test_training_moved_the_gates(both):
    """Equality would be empty if nothing had been learned."""
    _, ours, _ = both
    assert np.abs(np.exp(ours["robust network"]) - 1 / 3).max() > 0.05
    assert np.abs(ours["causal gru"] - ours["causal mlp"]).max() > 1e-3


def test_one_process_needs_no_group():
    x = torch.ones(3, requires_grad=True)
    assert ranks() == (0, 1)
    assert part(7) == slice(0, 7)
    assert total(x) is x
    x.sum().backward()
    add_gradients([x])
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 1]


def test_parts_cover_a_batch_once(monkeypatch):
    from corollary.gating import _distributed

    for size in (1, 2, 3, 5):
        for count in (0, 1, 7, 101):
            covered = []
            for rank in range(size):
                monkeypatch.setattr(_distributed, "ranks", lambda rank=rank, size=size: (rank, size))
                covered += list(range(count))[part(count)]
            assert covered == list(range(count))
