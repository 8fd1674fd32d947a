"""Cells of the benchmark of `corollary.losses`: which loss reaches the least balanced error, robustness, speed.

A cell is a dict (method, data, seed, setting); `run_cell` returns its metrics. Every method has a grid of the same
size, chosen on the same validation data by the same measure.
"""

import time
from typing import Any

from benchmarks.losses._adversarial import GRIDS as ADVERSARIAL
from benchmarks.losses._data import TABLES, cifar_split, digits_split, table_split
from benchmarks.losses._methods import METHODS, SAMPLERS

SPEED = (
    "comp_sum 0",
    "comp_sum 1",
    "comp_sum 1.5",
    "gla 0",
    "gla 0.3",
    "gca scale",
    "gca scale 0.3",
    "gca additive",
    "immax",
    "class weights",
    "class-balanced",
    "focal",
    "ldam",
    "vector scaling",
    "equalization",
    "lade",
)
TAIL = [("exponential", 50), ("exponential", 100), ("step", 50), ("step", 100)]
ON_IMAGES = tuple(m for m in METHODS if m not in ("EasyEnsemble", "BalancedRandomForest"))

Cell = dict[str, Any]


def _cell(method: str, data: str, seed: int, **setting: Any) -> Cell:
    return {"method": method, "data": data, "seed": seed, "setting": setting}


def _tables(methods: tuple[str, ...], names: tuple[str, ...], seeds: int, **setting: Any) -> list[Cell]:
    return [_cell(m, d, s, kind="table", **setting) for s in range(seeds) for d in names for m in methods]


def _digits(seeds: int, tails: list[tuple[str, int]], **setting: Any) -> list[Cell]:
    return [
        _cell(m, "digits", s, kind=kind, ratio=ratio, **setting)
        for s in range(seeds)
        for kind, ratio in tails
        for m in METHODS
    ]


def _images(seeds: int, tails: list[tuple[str, int]], methods: tuple[str, ...], **setting: Any) -> list[Cell]:
    return [
        _cell(m, "cifar10", s, kind=kind, ratio=ratio, **setting)
        for s in range(seeds)
        for kind, ratio in tails
        for m in methods
    ]


def _robust(seeds: int, data: str, methods: tuple[str, ...] = tuple(ADVERSARIAL), **setting: Any) -> list[Cell]:
    return [_cell(m, data, s, kind="adversarial", **setting) for s in range(seeds) for m in methods]


def _timings(rows: int, repeats: int) -> list[Cell]:
    return [_cell(m, "speed", 0, kind="speed", rows=rows, classes=1000, threads=2, repeats=repeats) for m in SPEED]


PLAIN = {"settings": 6, "steps": 200, "width": 32}
SMALL = {"size": 16, "largest": 500, "settings": 3, "steps": 120, "width": 8}
LARGE = {"size": 32, "largest": 1400, "settings": 6, "steps": 2000, "width": 16}
HASTY = {"attack": 5, "epochs": 15, "size": 16, "rows": 1500, "tested": 500, "width": 8, "first": 2}
QUICK = [
    *_tables(("cross-entropy", "class weights", "GLA", "GCA"), ("glass", "ecoli"), 2, **PLAIN | {"settings": 2}),
    *_robust(1, "digits", settings=2, epochs=10),
    *_timings(1024, 10),
]
DEFAULT = [
    *_tables(METHODS, TABLES, 5, **PLAIN),
    *_digits(5, [("exponential", 50), ("step", 50)], **PLAIN),
    *sorted(
        [
            *_robust(3, "digits", settings=4, epochs=40),
            *_robust(3, "cifar10", ("ADV-COMP-SUM", "TRADES"), settings=3, **HASTY),
            *_images(3, TAIL, ON_IMAGES, **SMALL),
        ],
        key=lambda cell: cell["seed"],  # whole seeds first
    ),
    *_timings(8192, 40),
]
FULL = [
    *DEFAULT,
    *_digits(5, [("exponential", 100), ("step", 100)], **PLAIN),
    *_images(3, TAIL, ON_IMAGES, **LARGE),
    *_robust(3, "cifar10", settings=4, epochs=30, size=32, rows=12000, tested=1000, width=16, first=1, restarts=5),
]


def run_cell(cell: Cell) -> dict[str, Any]:
    """The metrics of one cell: balanced_error and error, or clean and pgd40, or ratio; and the seconds it took."""
    method, data, seed, setting = cell["method"], cell["data"], cell["seed"], cell["setting"]
    start = time.perf_counter()
    if setting["kind"] == "speed":
        from benchmarks.losses import _speed as speed

        metrics = speed.run(method, seed, setting)
    elif setting["kind"] == "adversarial":
        from benchmarks.losses import _adversarial as adversarial

        metrics = adversarial.run(method, data, seed, setting)
    else:
        metrics = _imbalanced(method, data, seed, setting)
    return {**metrics, "seconds": round(time.perf_counter() - start, 2)}


def _imbalanced(method: str, data: str, seed: int, setting: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.losses import _train as training

    if data == "digits":
        split = digits_split(seed, setting["kind"], setting["ratio"])
    elif data == "cifar10":
        split = cifar_split(seed, setting["kind"], setting["ratio"], setting["size"], setting["largest"])
    else:
        split = table_split(data, seed)
    classes = int(split.y.max()) + 1
    if method in SAMPLERS[1:]:
        return training.forest(method, split, classes, seed=seed, settings=setting["settings"])
    options = {k: setting[k] for k in ("settings", "steps", "width")}
    return training.fit_and_choose(method, split, classes, seed=seed, **options)
