"""Cells of the benchmark of `corollary.unlearning`, for `corollary bench unlearning`."""

from ._compare import FIRST, OURS, REST, cells
from ._summary import heads, table

__all__ = ["DEFAULT", "FULL", "QUICK", "heads", "run_cell", "table"]

QUICK = [{"data": "spike", "seed": 0}]
OWN = ("base", "retrain", *OURS)
DEFAULT = [  # what is cheap comes first
    *({"data": "spike", "seed": s} for s in range(3)),
    {"data": "speed", "seed": 0},
    *cells(OWN, (0,)),
    *cells(FIRST, (0,), ("forget01",)),
    *cells(FIRST, (0,), ("forget10",)),
    *cells(OWN, (1, 2), ("forget10",)),
    *cells(OWN, (1, 2), ("forget01",)),
    *cells(FIRST, (1, 2)),
    *cells(FIRST, (0,), ("forget10",), epochs=6),  # fine-tuning for three times as long
    *cells(REST, (0, 1, 2), ("forget10",)),
]
# The methods beyond the first six on forget01 too, and all of them for longer.
MORE = (*cells(REST, (0, 1, 2)), *cells((*FIRST, *REST), (0, 1, 2), ("forget10",), epochs=6))
FULL = [*DEFAULT, *(c for c in MORE if c not in DEFAULT)]


def run_cell(cell):
    """One cell of the grid, as plain values."""
    if cell["data"] == "spike":
        from ._spike import spike

        return spike(cell["seed"])
    if cell["data"] == "speed":
        from ._speed import speed

        return speed(cell["seed"])
    from ._compare import compare

    found = compare(cell["data"], cell["method"], cell["seed"], epochs=cell.get("epochs"))
    return {k: v if isinstance(v, str) else float(f"{v:.6g}") for k, v in found.items()}
