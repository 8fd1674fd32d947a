import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "gating" / "million.py"


@pytest.fixture(scope="module")
def million():
    spec = importlib.util.spec_from_file_location("million", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check(found):
    assert found["peak_gib"] < 2
    assert found["causal_nats"] < found["fixed_share_nats"] + 0.01  # learned from pools, on documents it never saw
    assert abs(sum(found["worst_mixture"]) - 1) < 1e-6


def test_gates_are_trained_from_a_cache_in_bounded_memory(million):
    """30,000 sequences; the tokens' features alone, held at once, would take 160 MiB."""
    found = million.run({"sequences": 30_000, "seed": 0})
    check(found)
    assert found["peak_gib"] - found["imports_gib"] < 0.8


@pytest.mark.slow
def test_a_million_sequences_of_eight_experts_stay_below_two_gib(million):
    """Their scores take a GiB on disk, the features of all tokens would take 5.2."""
    check(million.run({"sequences": 1_000_000, "seed": 0}))
