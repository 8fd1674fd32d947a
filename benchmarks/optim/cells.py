"""Benchmark of `corollary.optim`: networks at equal sweeps, the paper's experiment and theorems, accuracy, speed.

Cells by `data`: the networks of `networks.py`; `ripples` (section 5), `regret` (the race of 4.2), `rounds` (time of a
round beside FTRL's and Shampoo's projections), `stationarity` (theorem 13), `accuracy` (the tables of 3.6), all in
`theory.py`; `speed` and `memory` in `speed.py`.
"""

from . import networks, speed, theory

PARTS = (speed, theory, networks)  # CELLS, MORE, QUICK, run(cell), table(records)
QUICK = [cell for part in PARTS for cell in part.QUICK]
LAST = ("rounds",)  # minutes with Shampoo's projections
DEFAULT = [cell for part in PARTS for cell in part.CELLS]
DEFAULT = sorted(DEFAULT, key=lambda cell: cell["data"] in LAST and cell["m"] > 128)
FULL = [*DEFAULT, *(cell for part in PARTS for cell in part.MORE if cell not in part.CELLS)]


def run_cell(cell):
    """One cell of the grid, as plain values."""
    for part in PARTS:
        if cell in (*part.CELLS, *part.MORE, *part.QUICK):
            return part.run(cell)
    raise SystemExit(f"no such cell: {cell}")


def table(records):
    """One table a kind of cells."""
    found = []
    for part in PARTS:
        known = [*part.CELLS, *part.MORE, *part.QUICK]
        if own := [r for r in records if r["cell"] in known]:
            found.append(part.table(own).strip())
    return "\n\n".join(found)
