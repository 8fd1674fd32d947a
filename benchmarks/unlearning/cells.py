"""Cells of the benchmark of `corollary.unlearning`, for `corollary bench unlearning`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

QUICK = []
DEFAULT = [*({"data": "base", "kind": k, "seed": s} for s in range(3) for k in ("full", "retain90", "retain99"))]
FULL = DEFAULT


def run_cell(cell):
    """One cell of the grid, as plain values."""
    from benchmarks.unlearning import _tofu_models

    return _tofu_models.model(cell["kind"], cell["seed"])[1]
