"""`corollary bench`: run a theme's benchmark, cell by cell; what is done is kept, so an interrupted run goes on."""

import importlib.util
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from corollary.cli import _console as ui
from corollary.errors import InvalidInputError
from corollary.runs import read_json, write_json

FORMAT = 1


def run(
    theme: Annotated[str, typer.Argument(help="A folder of benchmarks/, e.g. gating.")],
    quick: Annotated[bool, typer.Option("--quick", help="The small grid: within 5 minutes.")] = False,
    full: Annotated[
        bool, typer.Option("--full", help="The large grid, whole seeds first, as far as --minutes allows.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Stop before a cell that would start later than this.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Only cells in which a setting has this value: a method, data, a seed.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where benchmarks/ lies: a checkout of the repository.")] = Path(
        "benchmarks"
    ),
    threads: ui.Threads = None,
    as_json: ui.Json = False,
    quiet: ui.Quiet = False,
) -> None:
    """Run a theme's default grid (at most 60 minutes on 2 cores), or the quick or the full one; print its tables."""
    if quick and full:
        raise typer.BadParameter("--quick and --full exclude each other")
    ui.set_threads(threads)
    module = load_theme(folder, theme)
    name = "QUICK" if quick else "FULL" if full else "DEFAULT"
    cells = sorted(getattr(module, name), key=lambda cell: cell.get("seed", 0)) if full else list(getattr(module, name))
    if only is not None:
        cells = [c for c in cells if only in map(str, c.values())]
        if not cells:
            raise InvalidInputError(f"no cell of the {name.lower()} grid has a setting {only!r}; see {folder / theme}")
    path = folder / "results" / f"{theme}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    records = read_json(path)["cells"] if path.exists() else []
    done = {key(r["cell"]) for r in records}
    started = time.monotonic()
    with ui.progress(quiet=quiet or as_json) as tell:
        for i, cell in enumerate(cells):
            if key(cell) in done:
                continue
            if minutes is not None and time.monotonic() - started > 60 * minutes:
                break
            tell(" ".join(str(v) for v in cell.values())[:28], i / len(cells))
            begun = time.perf_counter()
            result = module.run_cell(dict(cell))
            seconds = round(time.perf_counter() - begun, 2)
            records.append({"cell": cell, "result": result, "seconds": seconds, **environment()})
            done.add(key(cell))
            write_json(path, {"format": FORMAT, "theme": theme, "cells": records})
    finished = sum(key(c) in done for c in cells)
    chosen = [r for r in records if key(r["cell"]) in {key(c) for c in cells}]
    if as_json:
        ui.emit({"theme": theme, "grid": name.lower(), "done": finished, "declared": len(cells), "cells": chosen})
    elif not quiet:
        ui.say(module.table(chosen) if hasattr(module, "table") else plain_table(chosen))
        ui.say(f"\n{finished} of {len(cells)} cells of the {name.lower()} grid are done ({path})")


def load_theme(folder: Path, theme: str) -> Any:
    """The module `benchmarks/<theme>/cells.py`: grids QUICK, DEFAULT, FULL and `run_cell`.

    Its folder is a package while it is loaded: parts of a benchmark take one another by `from . import part`.
    """
    path = folder / theme / "cells.py"
    if "/" in theme or not path.is_file():
        known = sorted(p.parent.name for p in folder.glob("*/cells.py"))
        have = (
            f"there are {', '.join(known)}"
            if known
            else f"there is no benchmark in {folder}; run in a checkout, or give --folder"
        )
        raise InvalidInputError(f"no benchmark is called {theme!r}: {have}")
    name = f"corollary_bench_{theme}"
    for loaded in [n for n in sys.modules if n == name or n.startswith(f"{name}.")]:
        del sys.modules[loaded]  # of another checkout
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def key(cell: dict[str, Any]) -> str:
    """What makes a cell the same cell."""
    return json.dumps(cell, sort_keys=True)


def environment() -> dict[str, Any]:
    """Versions and machine, stored with every cell."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    import corollary

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    packages = ("torch", "numpy", "scikit-learn", "scipy", "transformers", "imbalanced-learn")
    found = {p: v for p in packages if (v := installed(p))}
    return {
        "versions": {"corollary": corollary.__version__, "python": platform.python_version(), **found},
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
    }


def cpu_name() -> str:
    """The processor's name with its vector extensions, as the system tells it."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    fields = {k.strip(): v.strip() for k, v in lines.items()}
    vector = [f for f in ("avx2", "avx512f", "amx_bf16") if f in fields.get("flags", "").split()]
    return " ".join([fields.get("model name", platform.machine()), *vector])


def plain_table(records: list[dict[str, Any]]) -> str:
    """Mean and spread over seeds of every number, one row for each setting."""
    import numpy as np

    rows: dict[str, dict[str, list[float]]] = {}
    for record in records:
        setting = ", ".join(str(v) for k, v in record["cell"].items() if k != "seed")
        for name, value in record["result"].items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                rows.setdefault(setting, {}).setdefault(name, []).append(float(value))
    lines = []
    for setting, columns in rows.items():
        shown = [f"{n} {np.mean(v):.4g} ± {np.std(v):.2g}" for n, v in columns.items()]
        lines.append(f"{setting}: {', '.join(shown)}")
    return "\n".join(lines)
