"""The trainer of the benchmark: settings trained side by side are those trained alone; ranks and tables."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.losses._data import Split
from benchmarks.losses._methods import GRIDS
from benchmarks.losses._summary import ranks_of, table
from benchmarks.losses._train import Convnets, Perceptrons, fit_and_choose, scores, train

from corollary import losses


def split(images=False, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(90, 3, 8, 8) if images else (90, 5)).astype(np.float32)
    y = np.repeat([0, 1, 2], [50, 30, 10])
    x[y == 1] += 0.8
    return Split(x, y, x[::3], y[::3], x[1::3], y[1::3])


@pytest.mark.parametrize("images", [False, True])
def test_settings_side_by_side_are_those_alone(images):
    part, counts = split(images), [50, 30, 10]
    decays = [1e-4, 1e-2, 1e-1]
    qs = (-0.3, 0.0, 0.3)

    def model(copies):
        return Convnets(copies, 3, cosine=False, width=4) if images else Perceptrons(copies, 5, 3, cosine=False)

    torch.manual_seed(0)
    together = model(3)
    start = [p.detach().reshape(3, -1)[0].clone() for p in together.parameters()]
    train(together, [losses.GLALoss(counts=counts, q=q) for q in qs], part, decays=decays, steps=12, seed=1)
    for i, q in enumerate(qs):
        alone = model(1)
        with torch.no_grad():
            for p, v in zip(alone.parameters(), start, strict=True):
                p.copy_(v.reshape(p.shape))
        train(alone, [losses.GLALoss(counts=counts, q=q)], part, decays=[decays[i]], steps=12, seed=1)
        # 1e-3: float32 over twelve steps of Adam, whose first steps are signs of gradients
        torch.testing.assert_close(
            scores(together, part.test_x)[i], scores(alone, part.test_x)[0], atol=1e-3, rtol=1e-3
        )


@pytest.mark.parametrize("method", ["cross-entropy", "LDAM-DRW", "post-hoc adjustment"])
def test_the_setting_is_the_best_on_validation_rows(method):
    found = fit_and_choose(method, split(), 3, seed=0, settings=3, steps=20, width=8)
    assert found["setting"] in [list(v) for v in GRIDS[method][0][:3]]
    assert 0 <= found["balanced_error"] <= 1
    assert found == fit_and_choose(method, split(), 3, seed=0, settings=3, steps=20, width=8)


def test_every_grid_has_the_same_size():
    assert {len(grid) for grid, _ in GRIDS.values()} == {6}


def record(method, data, seed, error, **setting):
    cell = {"method": method, "data": data, "seed": seed, "setting": {"kind": "table", **setting}}
    return {"cell": cell, "result": {"balanced_error": error}}


def test_ranks_count_complete_blocks_and_share_ties():
    rows = [record("a", "glass", s, 0.1) for s in range(3)] + [record("b", "glass", s, 0.1 + 0.1 * s) for s in range(2)]
    result = ranks_of(rows)
    assert result["blocks"] == 2  # seed 2 lacks b
    assert [(r["method"], r["mean_rank"]) for r in result["rows"]] == [("a", 1.25), ("b", 1.75)]
    images = [record(m, "cifar10", 0, 0.5, ratio=50) for m in ("a", "c")]
    assert "long-tailed images, 1 complete blocks" in table([*rows, *images])
    assert "no block" in table([])
