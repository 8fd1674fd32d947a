"""Documents of one's own: reading them from files, and splitting them so that none stands in two splits."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError

# What a record without `text` may hold instead: the parts are joined by a line end.
_PAIRS = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("prompt", "answer"),
    ("question", "answer"),
    ("instruction", "output"),
)
_LARGEST = 256 * 2**20
_KINDS = (".jsonl", ".json", ".txt")


def read_documents(path: str | Path, *, text_field: str | None = None, max_bytes: int = _LARGEST) -> Documents:
    r"""Read documents as UTF-8 bytes from a file or a folder.

    `.jsonl`: a record a line, its field `text_field`; without one `text`, or `prompt` (`question`,
    `instruction`) with `completion`, `response`, `answer` or `output`. `.json`: a list of strings or of
    such records. `.txt`: documents parted by blank lines, or one document where there is none. A folder:
    every file in it one document, by name, hidden files and folders left out. Documents of white space only
    are left out.

    Args:
        path: the file or folder.
        text_field: which field of a record holds the text.
        max_bytes: largest size of all files together; raise it for more.

    Returns:
        The documents, in the order of the file (of the names, for a folder).

    Raises:
        InvalidFileError: for a path that is missing, too large, of an unknown kind, binary, not UTF-8,
            malformed (with the line), without the field (with the fields found), or without documents.

    Guarantee: none; texts arrive byte for byte, apart from blanks at the ends of `.txt` documents.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = pathlib.Path(folder, "own.jsonl")
        ...     _ = file.write_text('{"text": "one"}\n{"text": "two"}\n')
        ...     list(read_documents(file))
        [b'one', b'two']
    """
    path = Path(path)
    if not path.exists():
        raise InvalidFileError(path, "there is no such file or folder", "check the path")
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.is_file() and not f.name.startswith("."))
    else:
        files = [path]
        if path.suffix.lower() not in _KINDS:
            raise InvalidFileError(
                path,
                f"files of kind {path.suffix or '(none)'} are not read",
                f"use one of {', '.join(_KINDS)}",
            )
    size = sum(file.stat().st_size for file in files)
    if size > max_bytes:
        raise InvalidFileError(path, f"{size} bytes are more than the {max_bytes} allowed", "raise `max_bytes`")
    if path.is_dir():
        texts = [_decode(file) for file in files]
    else:
        texts = list(_documents(path, _decode(path), text_field))
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise InvalidFileError(path, "no document was found in it", "give it at least one text that is not blank")
    return Documents.from_texts(texts)


def _decode(path: Path) -> str:
    raw = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidFileError(
            path,
            f"it is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}",
            "save it as UTF-8",
        ) from None
    if "\0" in text:
        raise InvalidFileError(path, f"it is binary: a NUL byte at offset {raw.index(0)}", "pass a file of text")
    return text


def _documents(path: Path, text: str, text_field: str | None) -> Iterator[str]:
    kind = path.suffix.lower()
    if kind == ".txt":
        paragraphs: list[str] = [""]
        for line in text.splitlines():
            if line.strip():
                paragraphs[-1] += line + "\n"
            elif paragraphs[-1]:
                paragraphs.append("")
        yield from (paragraph.strip() for paragraph in paragraphs)
    elif kind == ".jsonl":
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield _text(path, f"line {number}", _parse(path, f"line {number}", line), text_field)
    else:
        records = _parse(path, "the file", text) if text.strip() else []
        if not isinstance(records, list):
            raise InvalidFileError(path, f"it holds a JSON {_kind(records)}", "make it a list of strings or of records")
        for number, record in enumerate(records, start=1):
            yield _text(path, f"entry {number}", record, text_field)


def _parse(path: Path, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidFileError(path, f"{where} is not JSON ({error})", "correct or remove it") from None


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", str: "string", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")


def _text(path: Path, where: str, record: Any, text_field: str | None) -> str:
    parts = [record] if isinstance(record, str) else None
    if isinstance(record, dict):
        choices = [(text_field,)] if text_field is not None else [("text",), *_PAIRS, ("prompt",)]
        fields = next((names for names in choices if all(name in record for name in names)), None)
        if fields is None:
            wanted = (
                f"no field `{text_field}`" if text_field is not None else "no field `text`, nor a prompt and its answer"
            )
            found = ", ".join(map(str, record)) or "none"
            raise InvalidFileError(path, f"{where} has {wanted}; its fields: {found}", "name one as `text_field`")
        parts = [record[name] for name in fields]
        wrong = next((name for name in fields if not isinstance(record[name], str)), None)
        if wrong is not None:
            raise InvalidFileError(
                path,
                f"{where} holds a {_kind(record[wrong])} in `{wrong}`",
                "make it a string, or name another `text_field`",
            )
    if parts is None:
        raise InvalidFileError(path, f"{where} is a {_kind(record)}", "make it a string or a record with a text")
    text = "\n".join(parts)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidFileError(path, f"{where} holds a NUL or half of a surrogate pair", "remove that character")
    return text


def split_documents(documents: Documents, *, fractions: Sequence[float | int], seed: int = 0) -> tuple[Documents, ...]:
    """Split documents by the hash of their content.

    Document d goes to the split in whose part of [0, 1) falls u(d) = mix(hash(d), seed) / 2^64.

    Args:
        documents: N documents, of bytes or of tokens.
        fractions: expected part of each split; positive, with sum 1.
        seed: another seed, another division.

    Returns:
        One `Documents` a fraction, each in the order of the input; small inputs may leave one empty.

    Raises:
        InvalidInputError: where the fractions are not positive or do not sum to 1.

    Guarantee: copies of a document fall into one split, so no document stands in two; where a document
    falls depends
        on its content, the fractions and the seed only, not on the other documents or their order.
        Near-copies are not found.

    Example:
        >>> parts = split_documents(Documents.from_texts(["a", "b", "a", "c"]), fractions=(.5, .5))
        >>> sum(map(len, parts)), any(set(parts[0]) & set(parts[1]))
        (4, False)
    """
    share = np.asarray(fractions, dtype=np.float64)
    if share.ndim != 1 or len(share) == 0 or not (share > 0).all() or abs(share.sum() - 1) > 1e-9:
        raise InvalidInputError(
            f"`fractions` must be positive and sum to 1, got {fractions!r}; divide them by their sum"
        )
    place = _mix(documents.row_hashes() ^ _mix(np.array([seed % 2**64], dtype=np.uint64))) / 2.0**64
    part = np.searchsorted(np.cumsum(share)[:-1], place, side="right")
    return tuple(documents.select(part == k) for k in range(len(share)))


def _mix(state: np.ndarray) -> np.ndarray:
    """A bijection of 64-bit words in which every bit depends on every other (the finaliser of SplitMix64)."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def real_data(relative: str | Path) -> Path:
    """The path of a file of benchmark data, in the folder named by the environment variable COROLLARY_DATA.

    Args:
        relative: path below that folder, e.g. "tabular/pima-indians-diabetes.csv".

    Returns:
        The path; it exists.

    Raises:
        InvalidInputError: where the variable is not set, or the path leaves the folder.
        InvalidFileError: where the file is absent.

    Guarantee: none. Nothing in the library needs these files; tests and benchmarks skip where they are
    absent.

    Example:
        >>> import pathlib, tempfile, unittest.mock
        >>> patch = unittest.mock.patch.dict
        >>> with tempfile.TemporaryDirectory() as folder, patch(os.environ, COROLLARY_DATA=folder):
        ...     _ = pathlib.Path(folder, "table.csv").write_text("1,2")
        ...     real_data("table.csv").name
        'table.csv'
    """
    folder = os.environ.get("COROLLARY_DATA")
    if not folder:
        raise InvalidInputError(
            f"{relative} was asked for, but COROLLARY_DATA is not set; "
            "set it to the folder that holds the benchmark data"
        )
    root = Path(folder).resolve()
    path = (root / relative).resolve()
    if not path.is_relative_to(root):
        raise InvalidInputError(f"{relative} leaves the folder named by COROLLARY_DATA; pass a path below it")
    if not path.exists():
        raise InvalidFileError(
            path, "this benchmark file is absent", "see the page on embedded data for where to get it"
        )
    return path
