"""A recorded stream in a CSV file: outcomes, and a model's forecasts beside them, a row for each round."""

import csv
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from corollary.calibration._sets import Ball, Box, ConvexSet, Simplex
from corollary.errors import InvalidFileError, InvalidInputError

DELIMITERS = ",;\t|"
MOST_CLASSES = 1000
ROUNDING = 1e-4  # by which the decimals of probabilities may miss one
SETS = ("auto", "simplex", "ball", "box")


@dataclass(frozen=True, eq=False)
class Stream:
    """Outcomes as vectors of a set, a base forecast for each round or None, and how they were read.

    Args:
        outcomes: (T, d).
        base: (T, d) or None.
        domain: the set.
        classes: names of the classes where outcomes are labels; else empty.
        note: how the set was found.

    Guarantee: none; `read_stream` says what it holds.

    Example:
        >>> Stream(np.eye(2), None, Simplex(2), ("no", "yes"), "two labels").kind
        'labels'
    """

    outcomes: Float[np.ndarray, "T d"]
    base: Float[np.ndarray, "T d"] | None
    domain: ConvexSet
    classes: tuple[str, ...]
    note: str

    @property
    def kind(self) -> str:
        """`labels` or `vectors`."""
        return "labels" if self.classes else "vectors"


def read_stream(
    path: str | Path,
    *,
    outcome: str = "y",
    forecast: str | None = None,
    set: str = "auto",
    classes: list[str] | None = None,
) -> Stream:
    r"""Read a stream from a CSV file with a header; its rows are the rounds, in order.

    Args:
        path: the file; fields apart by `,`, `;`, tab or `|`.
        outcome: column of the outcome, or a pattern such as `y_*` for the coordinates of a vector. A single column
            holds labels (text, or whole numbers) or, with other numbers, a number.
        forecast: pattern of a model's columns, such as `p_*`: one for each class or coordinate, in the same order; the
            part after the pattern's prefix names the class. One column is the probability of the second class.
        set: of vector outcomes: `"simplex"`, `"ball"` (the smallest l2 ball around 0), `"box"` (the smallest), or
            `"auto"`: the simplex if all lie in it, else the box.
        classes: names of the classes in order; None for those that occur, or that the forecasts' columns name.

    Returns:
        The stream.

    Raises:
        InvalidFileError, InvalidInputError: for a file that cannot be read, a column that is absent, or a value that is
            no outcome, naming its round.

    Guarantee: none.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "s.csv"
        >>> _ = path.write_text("p_cat,p_dog,y\n0.7,0.3,cat\n0.4,0.6,dog\n")
        >>> stream = read_stream(path, outcome="y", forecast="p_*")
        >>> stream.classes, stream.outcomes.tolist()
        (('cat', 'dog'), [[1.0, 0.0], [0.0, 1.0]])
    """
    header, rows = read_rows(Path(path))
    y_columns = columns(header, outcome, path)
    p_columns = columns(header, forecast, path) if forecast else []
    if twice := [header[j] for j in p_columns if j in y_columns]:
        raise InvalidInputError(f"column {twice[0]!r} is both outcome and forecast; narrow the patterns")
    base = numbers(rows, p_columns, header) if p_columns else None
    raw = [row[y_columns[0]].strip() for row in rows]
    if len(y_columns) == 1 and (classes or _are_labels(raw, len(p_columns))):
        named = [c for j in p_columns if (c := suffix(header[j], forecast or ""))]
        names = classes or class_names(raw, named if len(p_columns) > 1 else [])
        outcomes, note = one_hot(raw, names), f"{len(names)} labels"
        domain: ConvexSet = Simplex(len(names))
    else:
        names = []
        outcomes, domain, note = find_set(numbers(rows, y_columns, header), set)
    return Stream(outcomes, _fitted(base, domain), domain, tuple(names), note)


def read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(DELIMITERS, key=first.count)
            table = [row for row in csv.reader(file, delimiter=delimiter) if row]
    except FileNotFoundError:
        raise InvalidFileError(path, "there is no such file", "check the path") from None
    except IsADirectoryError:
        raise InvalidFileError(path, "is a folder", "give a CSV file") from None
    except (UnicodeDecodeError, csv.Error) as problem:
        raise InvalidFileError(path, f"not a CSV file ({problem})", "give a text file with a header") from None
    if len(table) < 2:
        raise InvalidFileError(path, "holds no rounds", "give a header and at least one row")
    header = [name.strip() for name in table[0]]
    for t, row in enumerate(table[1:], 1):
        if len(row) != len(header):
            raise InvalidFileError(
                path, f"round {t} has {len(row)} fields, the header {len(header)}", "repair that row"
            )
    return header, table[1:]


def columns(header: list[str], pattern: str, path: Any) -> list[int]:
    """Positions of the columns that a name or pattern means."""
    found = [j for j, name in enumerate(header) if name == pattern]
    found = found or [j for j, name in enumerate(header) if fnmatchcase(name, pattern)]
    if not found:
        raise InvalidInputError(f"{path} has no column {pattern!r}; it has {', '.join(header[:12])}")
    return found


def suffix(name: str, pattern: str) -> str:
    """What the star of a pattern stands for."""
    head, star, tail = pattern.partition("*")
    return name[len(head) : len(name) - len(tail)] if star else name


def numbers(rows: list[list[str]], where: list[int], header: list[str]) -> np.ndarray:
    """(T, k) the columns as finite numbers."""
    out = np.empty((len(rows), len(where)))
    for t, row in enumerate(rows):
        for i, j in enumerate(where):
            out[t, i] = number(row[j], t + 1, header[j])
    return out


def number(text: str, round_: int, name: str) -> float:
    """A finite number, or an error that names the round."""
    try:
        value = float(text)
    except ValueError:
        raise InvalidInputError(f"round {round_}: column {name!r} holds {text!r}, not a number") from None
    if not np.isfinite(value):
        raise InvalidInputError(f"round {round_}: column {name!r} holds {text.strip()!r}; repair or remove that round")
    return value


def _are_labels(raw: list[str], forecasts: int) -> bool:
    different = {*raw}
    try:
        values = {float(v) for v in different}
    except ValueError:
        return True
    whole = all(np.isfinite(v) and v == int(v) for v in values)
    return whole and (forecasts > 1 or values <= {0.0, 1.0} or len(values) <= 20)


def class_names(raw: list[str], named: list[str]) -> list[str]:
    """The classes: those that the forecasts name if they cover the labels, else those that occur, in order."""
    occurring = {*raw} - {"", "nan", "NaN"}
    if named and occurring <= {*named}:
        return named
    try:
        names = sorted(occurring, key=float)
        whole = [int(float(v)) for v in names]
        if named and min(whole) >= 0 and max(whole) < len(named):
            return [str(i) for i in range(len(named))]  # positions of the forecasts' columns
    except ValueError:
        names = sorted(occurring)
    if len(names) < 2:
        names = ["0", "1"] if names and names[0] in ("0", "1") else names
    if not 2 <= len(names) <= MOST_CLASSES:
        raise InvalidInputError(f"{len(names)} different labels occur; needed are 2 to {MOST_CLASSES}")
    return names


def one_hot(raw: list[str], names: list[str]) -> np.ndarray:
    """(T, d) corners of the simplex."""
    place = {name: i for i, name in enumerate(names)}
    codes = np.empty(len(raw), dtype=np.int64)
    for t, label in enumerate(raw):
        if label not in place:
            raise InvalidInputError(
                f"round {t + 1}: the outcome {label!r} is none of the classes {', '.join(names[:8])}"
            )
        codes[t] = place[label]
    return np.eye(len(names))[codes]


def find_set(y: np.ndarray, kind: str) -> tuple[np.ndarray, ConvexSet, str]:
    """Vector outcomes, their set, and how it was found; decimals of probabilities may miss one by a rounding."""
    if kind not in SETS:
        raise InvalidInputError(f"`set` must be one of {', '.join(SETS)}, got {kind!r}")
    simplex = Simplex(y.shape[1])
    inside = simplex.contains(y, tol=ROUNDING)
    if kind == "simplex" and not inside.all():
        raise InvalidInputError(f"round {int(np.argmin(inside)) + 1}: the outcome lies outside of the simplex")
    if kind == "simplex" or (kind == "auto" and y.shape[1] > 1 and inside.all()):
        y = np.maximum(y, 0.0)
        return y / y.sum(1, keepdims=True), simplex, "all outcomes are probabilities"
    if kind == "ball":
        radius = float(np.sqrt(np.square(y).sum(1).max())) or 1.0
        return y, Ball(y.shape[1], 2, radius), "the smallest l2 ball around 0 that holds these outcomes"
    return y, Box(y.min(0), y.max(0)), "the smallest box that holds these outcomes"


def _fitted(base: np.ndarray | None, domain: ConvexSet) -> np.ndarray | None:
    """Base forecasts with as many columns as the outcomes have coordinates."""
    if base is None:
        return None
    if base.shape[1] == 1 and domain.dim == 2 and isinstance(domain, Simplex):
        base = np.hstack([1 - base, base])
    if base.shape[1] != domain.dim:
        raise InvalidInputError(
            f"the model has {base.shape[1]} columns, the outcomes {domain.dim} classes or coordinates"
        )
    if isinstance(domain, Simplex):
        inside = domain.contains(base, tol=ROUNDING * 10)
        if not inside.all():
            t = int(np.argmin(inside))
            raise InvalidInputError(f"round {t + 1}: the model's forecasts {base[t].tolist()} are no probabilities")
        base = np.maximum(base, 0.0)
        base /= base.sum(1, keepdims=True)
    return base
