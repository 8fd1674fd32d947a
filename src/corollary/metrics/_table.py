"""Tables from CSV and Parquet: columns of numbers or of words, read as a stream, with clear sentences where they fail.

A CSV file is read twice: once to learn which columns are numbers, once to fill arrays; never as a whole. Spaces and
quotes around a value are dropped, as is a full stop at the end of a label; blank lines are skipped.
"""

import csv
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from corollary.errors import InvalidFileError, InvalidInputError, MissingExtraError

MISSING = frozenset(("", "?", "na", "n/a", "nan", "null", "none", "#n/a"))
DELIMITERS = ",;\t|"
LONGEST_ROW = 100_000  # columns


@dataclass
class Words:
    """A column of words: codes into a vocabulary, -1 where missing."""

    codes: np.ndarray
    vocabulary: list[str]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: np.ndarray) -> "Words":
        return Words(self.codes[rows], self.vocabulary)

    def texts(self) -> np.ndarray:
        """(n,) the words themselves, empty where missing."""
        return np.array([*self.vocabulary, ""], dtype=object)[self.codes]


@dataclass
class Table:
    """Named columns of one length: float64 arrays (NaN where missing) or `Words`.

    Guarantee: none.

    Example:
        >>> table = Table({"age": np.array([30.0, np.nan])})
        >>> len(table), table.names
        (2, ['age'])
    """

    columns: dict[str, Any] = field(default_factory=dict)
    source: Path = Path("table")

    @property
    def names(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self.columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def rows(self, rows: np.ndarray) -> "Table":
        """The rows chosen."""
        return Table({name: column[rows] for name, column in self.columns.items()}, self.source)


def read_table(path: str | Path, *, header: bool = True) -> Table:
    r"""Read a CSV (any of , ; tab |) or Parquet file.

    Args:
        path: `.csv`, `.tsv`, `.txt` or `.parquet`.
        header: whether the first row of a CSV file names the columns; else they are called `0`, `1`, ...

    Raises:
        InvalidFileError: where the file is absent, empty, ragged, binary, or has one name twice.
        MissingExtraError: for Parquet without pyarrow.

    Guarantee: none; memory is that of the arrays (8 bytes a number, 4 a word).

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "t.csv"
        >>> _ = path.write_text("age, job\n30, 'clerk'\n?, none\n")
        >>> table = read_table(path)
        >>> table.columns["age"].tolist(), table.columns["job"].texts().tolist()
        ([30.0, nan], ['clerk', ''])
    """
    source = Path(path)
    if not source.is_file():
        raise InvalidFileError(source, "there is no such file", "check the path")
    if source.suffix.lower() in (".parquet", ".pq"):
        return _read_parquet(source)
    try:
        return _read_csv(source, header=header)
    except UnicodeDecodeError:
        raise InvalidFileError(source, "not a text file in UTF-8", "export the table as CSV or Parquet") from None
    except csv.Error as problem:
        raise InvalidFileError(source, f"not a CSV file ({problem})", "export the table again") from None


def _clean(value: str) -> str:
    value = value.strip()
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1].strip()
    return value


def _number(value: str) -> float | None:
    """The value as a number, NaN where missing, None where it is a word."""
    if value.lower() in MISSING:
        return math.nan
    try:
        return float(value)
    except ValueError:
        return None


def _csv_rows(source: Path, delimiter: str, *, header: bool) -> Iterator[tuple[int, list[str]]]:
    with source.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
        for row in reader:
            if not row or (len(row) == 1 and not row[0].strip()):
                continue
            if header:
                header = False
                continue
            yield reader.line_num, row


def _first_row(source: Path) -> tuple[str, list[str]]:
    with source.open(newline="", encoding="utf-8-sig") as file:
        line = next((line for line in file if line.strip()), "")
    if not line:
        raise InvalidFileError(source, "the file is empty", "give a table with rows")
    delimiter = max(DELIMITERS, key=line.count)
    row = [_clean(value) for value in next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))]
    if len(row) > LONGEST_ROW:
        raise InvalidFileError(source, f"{len(row)} columns, more than {LONGEST_ROW}", "is this a table?")
    return delimiter, row


def _read_csv(source: Path, *, header: bool) -> Table:
    delimiter, first = _first_row(source)
    names = first if header else [str(i) for i in range(len(first))]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidFileError(source, f"two columns are named {twice[0]!r}", "rename one, or say --no-header")
    numeric, count = [True] * len(names), 0
    for line, row in _csv_rows(source, delimiter, header=header):
        if len(row) != len(names):
            raise InvalidFileError(
                source, f"line {line} has {len(row)} values where {len(names)} are due", "mend the line"
            )
        count += 1
        for i, value in enumerate(row):
            if numeric[i] and _number(_clean(value)) is None:
                numeric[i] = False
    if count == 0:
        raise InvalidFileError(source, "the table has no rows", "give rows, or say --no-header if there is no header")
    arrays: list[Any] = [array("d") if number else array("i") for number in numeric]
    vocabularies: list[dict[str, int]] = [{} for _ in names]
    for _, row in _csv_rows(source, delimiter, header=header):
        for i, value in enumerate(row):
            text = _clean(value)
            if numeric[i]:
                arrays[i].append(_number(text) or 0.0)
            elif text.lower() in MISSING:
                arrays[i].append(-1)
            else:
                arrays[i].append(vocabularies[i].setdefault(text, len(vocabularies[i])))
    columns = {
        name: np.frombuffer(a, dtype=np.float64) if number else Words(np.frombuffer(a, dtype=np.int32), list(v))
        for name, a, number, v in zip(names, arrays, numeric, vocabularies, strict=True)
    }
    return Table(columns, source)


def _read_parquet(source: Path) -> Table:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "tables", "reading Parquet files") from None
    try:
        data = parquet.read_table(source)
    except (pa.ArrowInvalid, OSError) as problem:
        raise InvalidFileError(source, f"not a Parquet file ({str(problem)[:80]})", "export the table again") from None
    if data.num_rows == 0 or data.num_columns == 0:
        raise InvalidFileError(source, "the table has no rows or no columns", "give a table with rows")
    columns: dict[str, Any] = {}
    for name, column in zip(data.column_names, data.columns, strict=True):
        kind = column.type
        if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
            columns[name] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_dictionary(kind):
            columns[name] = as_words(column.to_pylist())
        else:
            raise InvalidFileError(source, f"column {name!r} holds {kind}", "keep numbers, booleans and text only")
    return Table(columns, source)


def as_words(values: Sequence[Any]) -> Words:
    """A column of words from any values; None and the usual marks are missing."""
    vocabulary: dict[str, int] = {}
    codes = np.empty(len(values), dtype=np.int32)
    for i, value in enumerate(values):
        text = "" if value is None else _clean(str(value))
        codes[i] = -1 if text.lower() in MISSING else vocabulary.setdefault(text, len(vocabulary))
    return Words(codes, list(vocabulary))


def split_target(table: Table, target: str) -> tuple[Table, np.ndarray]:
    """The table without its target, and the target as labels (n,) of text.

    Args:
        table: with the target among its columns.
        target: its name, or a position (`-1` is the last column).

    Raises:
        InvalidInputError: where there is no such column, or labels are missing.

    Guarantee: none.

    Example:
        >>> features, labels = split_target(Table({"x": np.array([1.0]), "y": np.array([2.0])}), "-1")
        >>> features.names, labels.tolist()
        (['x'], ['2'])
    """
    name = target
    if name not in table.columns:
        try:
            name = table.names[int(target)]
        except (ValueError, IndexError):
            known = ", ".join(table.names[:12]) + (", ..." if len(table.names) > 12 else "")
            raise InvalidInputError(
                f"{table.source} has no column {target!r}; it has {known} (a position such as -1 works too)"
            ) from None
    words = as_words_column(table.columns[name])
    absent = int((words.codes < 0).sum())
    if absent:
        raise InvalidInputError(f"{absent} of {len(words)} rows have no {name!r}; drop them, or fill them in")
    cleaned = [word.rstrip(".").strip() or word for word in words.vocabulary]
    labels = np.array(cleaned, dtype=object)[words.codes]
    features = Table({n: c for n, c in table.columns.items() if n != name}, table.source)
    if not features.columns:
        raise InvalidInputError(f"{table.source} has no column beside {name!r}; there is nothing to learn from")
    return features, labels


def as_words_column(column: Any) -> Words:
    """A column of words; numbers where words are due (codes that look like numbers) are written out."""
    if isinstance(column, Words):
        return column
    values, codes = np.unique(column, return_inverse=True)
    texts = [str(int(v)) if np.isfinite(v) and v == int(v) else repr(float(v)) for v in values]
    return Words(np.where(np.isnan(column), -1, codes).astype(np.int32), texts)
