"""Cells of the benchmark of `corollary.losses`, for `corollary bench losses`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.losses import DEFAULT, FULL, QUICK, run_cell
from benchmarks.losses._summary import table

__all__ = ["DEFAULT", "FULL", "QUICK", "run_cell", "table"]
