"""Tables of predictions, read batch by batch from Parquet or CSV, every row checked."""

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from corollary.coherence._inputs import as_views
from corollary.errors import InvalidFileError, InvalidInputError, MissingExtraError

BATCH = 1 << 16


@dataclass(frozen=True)
class Columns:
    """What the columns of a table of predictions mean.

    Args:
        orbit: which input a row is a view of.
        proba: the columns of probabilities, in the order of the classes; patterns such as `p_*`.
        weight: share of the view in the traffic; None for equal ones.
        transform: name of the transformation that made the view, for the report; None for none.
        label: true class, for the figures beside the predicted gain only; None for none.

    Guarantee: none.

    Example:
        >>> Columns("question", ("p_*",), weight="share").weight
        'share'
    """

    orbit: str
    proba: tuple[str, ...]
    weight: str | None = None
    transform: str | None = None
    label: str | None = None


@dataclass
class Part:
    """Rows of a batch: names of orbits, log-probabilities, weights, transformations, labels."""

    orbit: "Names"
    logs: Float[np.ndarray, "r k"]
    weight: Float[np.ndarray, " r"]
    transform: "Names | None"
    label: np.ndarray | None
    table: Any


@dataclass
class Names:
    """A column of words or numbers as codes into its values."""

    codes: Int[np.ndarray, " r"]
    values: list[Any]

    def all(self) -> np.ndarray:
        """(R,) the values themselves."""
        return np.array([str(v) for v in self.values], dtype=object)[self.codes]


def find_columns(path: Path, columns: Columns) -> tuple[str, ...]:
    """The columns of probabilities that the patterns name, all columns being there.

    Raises:
        InvalidFileError, InvalidInputError: for absent files or columns, or fewer than two classes.
    """
    names = column_names(path)
    for role in ("orbit", "weight", "transform", "label"):
        wanted = getattr(columns, role)
        if wanted is not None and wanted not in names:
            raise InvalidInputError(f"{path} has no column {wanted!r} for --{role}; it has {', '.join(names[:12])}")
    taken = {columns.orbit, columns.weight, columns.transform, columns.label}
    found = [n for pattern in columns.proba for n in names if fnmatch.fnmatchcase(n, pattern) and n not in taken]
    if len(found) < 2:
        raise InvalidInputError(
            f"--proba {','.join(columns.proba)} names {len(found)} columns of {path}, at least two classes are needed; "
            f"it has {', '.join(names[:12])}"
        )
    return tuple(dict.fromkeys(found))


def read_rows(path: str | Path, columns: Columns, *, floor: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(R,) orbits and (R, K) log-probabilities of a whole table, for audits."""
    source = Path(path)
    classes = find_columns(source, columns)
    parts = [part_of(b, columns, classes, floor, source, 0) for b in batches(source)]
    if not parts:
        raise InvalidFileError(source, "holds no rows", "give predictions of at least one input")
    return np.concatenate([p.orbit.all() for p in parts]), np.concatenate([p.logs for p in parts])


def part_of(batch: Any, columns: Columns, classes: tuple[str, ...], floor: float | None, path: Path, done: int) -> Part:
    """A batch as arrays, checked."""
    pa, _ = arrow(path)
    table = pa.Table.from_batches([batch])

    def numbers(name: str) -> np.ndarray:
        try:
            return table[name].cast(pa.float64()).to_numpy()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            raise InvalidInputError(f"column {name!r} of {path} holds text where probabilities are due") from None

    probs = np.stack([numbers(n) for n in classes], -1)
    if not np.isfinite(probs).all() or (probs < 0).any():
        row = done + int(np.argmax(~(np.isfinite(probs) & (probs >= 0)).all(-1)))
        raise InvalidInputError(
            f"row {row} of {path} holds a missing or negative probability; drop the row, or mend it"
        )
    with np.errstate(divide="ignore"):
        try:
            logs = as_views(np.log(probs)[None], floor=floor)[0]
        except InvalidInputError:
            total = probs.sum(-1)
            row = int(np.argmax(np.abs(total - 1)))
            raise InvalidInputError(
                f"the probabilities in row {done + row} of {path} sum to {total[row]:.4g}, not 1; check --proba"
            ) from None
    weight = np.ones(len(probs)) if columns.weight is None else numbers(columns.weight)
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise InvalidInputError(f"column {columns.weight!r} of {path} must hold weights that are not negative")

    def names(column: str) -> Names:
        coded = table[column].combine_chunks().dictionary_encode(null_encoding="encode")
        return Names(coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist())

    label = None
    if columns.label is not None:
        told, place = names(columns.label), {**{n: i for i, n in enumerate(classes)}, **_bare(classes)}
        if unknown := [v for v in told.values if str(v) not in place]:
            raise InvalidInputError(f"label {unknown[0]!r} of {path} is none of the classes {', '.join(classes)}")
        label = np.array([place[str(v)] for v in told.values], dtype=np.int64)[told.codes]
    transform = None if columns.transform is None else names(columns.transform)
    return Part(names(columns.orbit), logs, weight, transform, label, table)


def _bare(classes: tuple[str, ...]) -> dict[str, int]:
    """Classes without what their columns' names begin with alike: `p_cat`, `p_dog` are cat and dog."""
    start = 0
    while all(len(c) > start + 1 and c[start] == classes[0][start] for c in classes):
        start += 1
    return {c[start:]: i for i, c in enumerate(classes)}


def column_names(path: Path) -> list[str]:
    if not path.is_file():
        raise InvalidFileError(path, "there is no such file", "check the path")
    return list(_open(path).schema.names) if path.suffix == ".csv" else list(_open(path).schema_arrow.names)


def batches(path: Path) -> Iterator[Any]:
    opened = _open(path)
    yield from opened if path.suffix == ".csv" else opened.iter_batches(batch_size=BATCH)


def _open(path: Path) -> Any:
    pa, pq = arrow(path)
    try:
        if path.suffix == ".parquet":
            return pq.ParquetFile(path)
        if path.suffix == ".csv":
            from pyarrow import csv

            return csv.open_csv(path)
    except (pa.ArrowInvalid, OSError) as problem:
        raise InvalidFileError(
            path, f"not a readable table ({str(problem).splitlines()[0]})", "save it again"
        ) from None
    raise InvalidFileError(path, f"the ending {path.suffix!r} is not known", "give a .parquet or .csv file")


def arrow(path: Path) -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "tables", f"reading {path.name}") from None
    return pyarrow, parquet
