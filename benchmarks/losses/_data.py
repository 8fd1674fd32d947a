"""Data of the cells: digits, the tables and the CIFAR-10 subset in the folder named by COROLLARY_DATA."""

import io
import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

from corollary.losses import make_imbalance

TABLES = ("mammography", "phoneme", "glass", "ecoli", "abalone", "winequality-white")
RAREST = 10  # rows; classes below it cannot be split in three


class Split(NamedTuple):
    """Training, validation and test parts."""

    x: np.ndarray
    y: np.ndarray
    val_x: np.ndarray
    val_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


def folder() -> Path:
    if "COROLLARY_DATA" not in os.environ:
        raise FileNotFoundError("set COROLLARY_DATA to the folder with `tabular/` and `images/`")
    return Path(os.environ["COROLLARY_DATA"])


@cache
def table(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (words one-hot) and labels from 0; classes with fewer than ten rows are left out."""
    lines = (folder() / "tabular" / f"{name}.csv").read_text().strip().splitlines()
    rows = [line.replace(";", ",").split(",") for line in lines if line and not line.startswith('"')]
    columns = list(zip(*rows, strict=True))
    features = []
    for column in columns[:-1]:
        try:
            features.append(np.array(column, dtype=np.float64)[:, None])
        except ValueError:
            features.append((np.array(column)[:, None] == np.unique(column)).astype(np.float64))
    x, (_, y) = np.hstack(features), np.unique(columns[-1], return_inverse=True)
    kept = np.flatnonzero(np.bincount(y) >= RAREST)
    here = np.isin(y, kept)
    return x[here], np.searchsorted(kept, y[here])


def table_split(name: str, seed: int) -> Split:
    """60 / 20 / 20, class by class; standardised on the training part."""
    x, y = table(name)
    rng = np.random.default_rng(seed)
    part = np.empty(len(y), dtype=int)
    for k in range(y.max() + 1):
        rows = rng.permutation(np.flatnonzero(y == k))
        part[rows] = (np.arange(len(rows)) % 5).clip(0, 4)
    masks = [part <= 2, part == 3, part == 4]
    mean, sd = x[masks[0]].mean(0), x[masks[0]].std(0) + 1e-9
    x = ((x - mean) / sd).astype(np.float32)
    return Split(*(a[m] for m in masks for a in (x, y)))


def digits_split(seed: int, kind: str, ratio: float) -> Split:
    """Long-tailed digits: at most 70 a class in training, 30 a class for validation, 70 a class for the test."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    x, y = (x / 16).astype(np.float32), rng.permutation(10)[y]
    order = rng.permutation(len(y))
    within = np.empty(len(y), dtype=int)
    for k in range(10):
        rows = order[y[order] == k]
        within[rows] = np.arange(len(rows))
    test, val, rest = within < 70, (within >= 70) & (within < 100), np.flatnonzero(within >= 100)
    train = rest[make_imbalance(y[rest], ratio=ratio, kind=kind, largest=70, seed=rng)]
    return Split(x[train], y[train], x[val], y[val], x[test], y[test])


@cache
def cifar(name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, size, size) in [0, 1] and labels."""
    import pyarrow.parquet
    from PIL import Image

    data = pyarrow.parquet.read_table(folder() / "images" / f"cifar10_{name}.parquet").to_pydict()
    label = next(v for k, v in data.items() if "label" in k)
    cells = next(v for k, v in data.items() if "label" not in k)
    images = []
    for cell in cells:
        image = Image.open(io.BytesIO(cell["bytes"] if isinstance(cell, dict) else cell)).convert("RGB")
        image = image if size == 32 else image.resize((size, size), Image.Resampling.BOX)
        images.append(np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255)
    return np.stack(images), np.asarray(label)


def cifar_split(seed: int, kind: str, ratio: float, size: int, largest: int) -> Split:
    """Long-tailed CIFAR-10 subset: validation 50 a class of the training file, test 300 a class of the test file."""
    x, y = cifar("train15k", size)
    test_x, test_y = cifar("test5k", size)
    rng = np.random.default_rng(seed)
    rename = rng.permutation(10)  # which class is rare depends on the seed
    order, label = rng.permutation(len(y)), rename[y]
    within = np.empty(len(y), dtype=int)
    for k in range(10):
        rows = order[label[order] == k]
        within[rows] = np.arange(len(rows))
    val, rest = within < 50, np.flatnonzero(within >= 50)
    train = rest[make_imbalance(label[rest], ratio=ratio, kind=kind, largest=largest, seed=rng)]
    picked = np.concatenate([np.flatnonzero(test_y == k)[:300] for k in range(10)])
    return Split(x[train], label[train], x[val], label[val], test_x[picked], rename[test_y[picked]])
