import json
import os
from pathlib import Path

import pytest

from corollary.cli.bench import load_theme

BENCH = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def cells():
    return load_theme(BENCH, "gating")


def test_every_cell_belongs_to_one_part(cells):
    for cell in (*cells.QUICK, *cells.DEFAULT, *cells.FULL):
        owners = [p for p in cells.PARTS if cell in (*p.QUICK, *p.CELLS, *p.MORE)]
        assert len(owners) == (cell["data"] not in ("text", "finite"))
    default = [json.dumps(c, sort_keys=True) for c in cells.DEFAULT]
    assert len(set(default)) == len(default)
    assert {json.dumps(c, sort_keys=True) for c in cells.FULL} >= set(default)


def test_tables_print_what_was_measured(cells):
    records = json.loads((BENCH / "results" / "gating.json").read_text("utf-8"))["cells"]
    declared = {json.dumps(c, sort_keys=True) for c in (*cells.FULL, *cells.QUICK)}
    assert all(json.dumps(r["cell"], sort_keys=True) in declared for r in records)
    for kind in {r["cell"]["data"] for r in records}:
        said = cells.table([r for r in records if r["cell"]["data"] == kind])
        rows = [line for line in said.splitlines() if line.startswith("|")]
        assert len(rows) >= 3
        assert "nan" not in said.lower()


@pytest.mark.data
@pytest.mark.skipif("COROLLARY_DATA" not in os.environ, reason="COROLLARY_DATA is not set")
def test_text_is_cut_into_pieces_that_no_two_splits_share(cells):
    texts = cells.PARTS[-1].texts
    data = texts.domains(0, gate=20, test=20)
    for parts in data.values():
        trained = {p.tobytes() for p in parts["train"]}
        for split in ("gate", "test"):
            assert (parts[split].lengths == texts.PIECE).all()
            assert not trained & set(parts[split])
    mixed = texts.splices(data, "test", 10, 0)
    assert len(mixed) == 10
    assert not set(mixed) & {d for parts in data.values() for d in parts["test"]}
