"""Tables from JSONL, CSV and Parquet files as columns; no data frame library."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corollary.errors import InvalidFileError, MissingExtraError

MAX_BYTES = 8 << 30


def read_columns(path: str | Path) -> dict[str, list[Any]]:
    r"""Read a table as columns of equal length; what a row lacks is None.

    Args:
        path: a `.jsonl` (one object a line), `.csv` (with a header) or `.parquet` file.

    Raises:
        InvalidFileError: for other endings, absent, empty, foreign or truncated files.
        MissingExtraError: for Parquet without pyarrow.

    Guarantee: none.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "log.csv"
        >>> _ = path.write_text("prompt,a\nhello,1\n")
        >>> read_columns(path)
        {'prompt': ['hello'], 'a': ['1']}
    """
    source = Path(path)
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if source.suffix.lower() not in readers:
        raise InvalidFileError(
            source, f"the ending {source.suffix!r} is not known", f"give one of {', '.join(readers)}"
        )
    if not source.is_file():
        raise InvalidFileError(source, "there is no such file", "check the path")
    if source.stat().st_size > MAX_BYTES:
        raise InvalidFileError(source, f"larger than the {MAX_BYTES >> 30} GB allowed", "give a part of it")
    try:
        columns = readers[source.suffix.lower()](source)
    except UnicodeDecodeError as problem:
        raise InvalidFileError(source, f"not UTF-8 text ({problem.reason})", "save it as UTF-8") from None
    if not columns or not next(iter(columns.values())):
        raise InvalidFileError(source, "holds no rows", "give a log with at least one request")
    return columns


def read_rows(path: str | Path) -> list[Any]:
    """The lines of a JSONL file: objects, or strings."""
    source = Path(path)
    if not source.is_file():
        raise InvalidFileError(source, "there is no such file", "check the path")
    rows = []
    with source.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as problem:
                    raise InvalidFileError(
                        source, f"line {number} is not JSON ({problem.msg})", "remove that line, or write it again"
                    ) from None
    return rows


def _jsonl(source: Path) -> dict[str, list[Any]]:
    rows = read_rows(source)
    if any(not isinstance(row, dict) for row in rows):
        raise InvalidFileError(source, "a line holds no object", "write one object a line, its keys the columns")
    names = dict.fromkeys(key for row in rows for key in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _csv(source: Path) -> dict[str, list[Any]]:
    csv.field_size_limit(1 << 24)
    with source.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise InvalidFileError(source, "two columns have the same name", "rename one")
        columns: dict[str, list[Any]] = {name: [] for name in header}
        for row in reader:
            if len(row) != len(header):
                raise InvalidFileError(
                    source,
                    f"line {reader.line_num} has {len(row)} fields, the header {len(header)}",
                    "quote commas inside fields",
                )
            for name, value in zip(header, row, strict=True):
                columns[name].append(value if value != "" else None)
    return columns


def _parquet(source: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "tables", "reading Parquet") from None
    try:
        table = parquet.read_table(source)
    except (pyarrow.ArrowInvalid, OSError) as problem:
        raise InvalidFileError(
            source, f"not a Parquet file ({str(problem).splitlines()[0]})", "write it again"
        ) from None
    return {name: table.column(name).to_pylist() for name in table.column_names}


def as_numbers(values: Sequence[Any]) -> np.ndarray | None:
    """The column as float64 with NaN where it is empty; None where something is no number.

    Example:
        >>> as_numbers(["1", None, True]).tolist(), as_numbers(["a"])
        ([1.0, nan, 1.0], None)
    """
    words = {"true": 1.0, "false": 0.0, "": np.nan}
    out = np.empty(len(values))
    for i, value in enumerate(values):
        if value is None:
            out[i] = np.nan
        elif isinstance(value, bool | int | float):
            out[i] = value
        elif isinstance(value, str):
            text = value.strip().lower()
            if text in words:
                out[i] = words[text]
                continue
            try:
                out[i] = float(text)
            except ValueError:
                return None
        else:
            return None
    return out
