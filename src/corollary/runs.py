"""Run folders: everything a job writes, written so that a killed process leaves nothing half-done.

A folder holds `config.toml` (what was asked), one file per finished stage, and the results. Every file appears whole or
not at all. The same command on the same folder continues; another command on it is refused.
"""

import fcntl
import json
import os
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from corollary.errors import CorollaryError, InvalidFileError, InvalidInputError

MAX_JSON_BYTES = 64 << 20
MAX_TENSOR_BYTES = 64 << 30

T = TypeVar("T")


def write_atomically(path: Path, content: bytes | str | Callable[[Path], object]) -> None:
    """Write a file so that readers see the old one or the new one, never a part.

    Args:
        path: where to write; its folder must exist.
        content: bytes, text, or a function that writes the file at the path it is given.

    Raises:
        OSError: as the system reports it (a full disk, say); the old file then stays and nothing is left behind.

    Guarantee: none; it relies on the file system's atomic rename.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "note.txt"
        >>> write_atomically(target, "kept")
        >>> target.read_text()
        'kept'
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """Read a JSON file of bounded size, with one clear sentence where it cannot be read.

    Raises:
        InvalidFileError: for a file that is missing, not JSON, or larger than 64 MB.

    Guarantee: none.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.json"
        >>> write_json(path, {"x": 1})
        >>> read_json(path)
        {'x': 1}
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InvalidFileError(path, f"larger than the {MAX_JSON_BYTES >> 20} MB allowed", "give another file")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidFileError(path, "there is no such file", "check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as problem:
        raise InvalidFileError(path, f"not JSON ({problem})", "write it again, or give another file") from None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinities are refused.

    Guarantee: none; see `write_atomically`.

    Example:
        >>> import tempfile
        >>> write_json(Path(tempfile.mkdtemp()) / "a.json", {"x": float("nan")})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ValueError: Out of range float values are not JSON compliant...
    """
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file, with one clear sentence where it is foreign or cut short.

    Raises:
        InvalidFileError: for a file that is missing, foreign, truncated, or larger than 64 GB.

    Guarantee: none.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
        >>> write_tensors(path, {"x": [1.0, 2.0]})
        >>> read_tensors(path)["x"].tolist()
        [1.0, 2.0]
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if path.stat().st_size > MAX_TENSOR_BYTES:
            raise InvalidFileError(path, f"larger than the {MAX_TENSOR_BYTES >> 30} GB allowed", "give another file")
        return load_file(path)
    except FileNotFoundError:
        raise InvalidFileError(path, "there is no such file", "check the path") from None
    except SafetensorError as problem:
        raise InvalidFileError(path, f"not a safetensors file ({problem})", "write it again, or give another") from None


def write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write arrays as safetensors, atomically.

    Guarantee: none; see `write_atomically`.

    Example:
        >>> import tempfile
        >>> write_tensors(Path(tempfile.mkdtemp()) / "a.safetensors", {"x": np.zeros(3)})
    """
    from safetensors.numpy import save_file

    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    write_atomically(path, lambda target: save_file(arrays, target))


class RunFolder:
    """One job's folder, locked while it is open.

    Args:
        path: the folder; made where it does not exist.
        config: what was asked: plain values; written as `config.toml` and compared when the job is taken up again.
        overwrite: throw away a run of other settings instead of refusing.

    Raises:
        InvalidInputError: where the folder holds another job, something that is no run, or is in use.

    Guarantee: none; see `write_atomically`.

    Example:
        >>> import tempfile
        >>> with RunFolder(Path(tempfile.mkdtemp()) / "run", {"seed": 0}) as run:
        ...     first = run.stage("square", lambda: {"x": np.array([4.0])})
        ...     again = run.stage("square", lambda: 1 / 0)
        >>> again["x"].tolist()
        [4.0]
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self.config = dict(config)
        self._lock: Any = None
        self._open(overwrite=overwrite)

    def _open(self, *, overwrite: bool) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise InvalidInputError(f"{self.path} is a file, a run needs a folder; give another --out")
        wanted, stored = to_toml(self.config), self.path / "config.toml"
        if self.path.is_dir() and any(self.path.iterdir()) and not stored.exists():
            names = {p.name for p in self.path.iterdir()} - {".lock"}
            if names:
                raise InvalidInputError(
                    f"{self.path} holds files of something else ({sorted(names)[0]}); give an empty folder as --out"
                )
        self._made = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InvalidInputError(
                f"{self.path} is in use by another process; wait for it, or give another --out"
            ) from None
        if stored.exists() and stored.read_text() != wanted:
            if not overwrite:
                differs = _differences(stored, self.config)
                self.close()
                raise InvalidInputError(
                    f"{self.path} holds a run with other settings ({differs}); give another --out, or add --overwrite"
                )
            self._clear()
        write_atomically(stored, wanted)

    def _clear(self) -> None:
        import shutil

        for entry in self.path.iterdir():
            if entry.name == ".lock":
                continue
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def inside(self, name: str) -> Path:
        """The path of `name` in the folder; paths that would leave it are refused."""
        target = (self.path / name).resolve()
        if not target.is_relative_to(self.path.resolve()):
            raise InvalidInputError(f"{name!r} would leave the run folder {self.path}; use a name inside it")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def stage(self, name: str, compute: Callable[[], Mapping[str, Any]]) -> dict[str, np.ndarray]:
        """The arrays that `compute` gives, kept in `stages/<name>.safetensors`: computed once, then read."""
        path = self.inside(f"stages/{name}.safetensors")
        if not path.exists():
            write_tensors(path, compute())
        return read_tensors(path)

    def once(self, name: str, make: Callable[[Path], object], load: Callable[[Path], T]) -> T:
        """What `load` reads from the folder `name`, which `make` fills first; a mark says when it was complete."""
        folder, mark = self.inside(name), self.inside(f"stages/{name.replace('/', '-')}.done")
        if not mark.exists():
            folder.mkdir(parents=True, exist_ok=True)
            make(folder)
            write_atomically(mark, "")
        return load(folder)

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None and not self._lock.closed:
            self._lock.close()

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None and issubclass(kind, CorollaryError):
            self._forget_if_empty()
        self.close()

    def _forget_if_empty(self) -> None:
        """Refused input must not bind the folder: where nothing was done, the next try may ask for something else."""
        entries = [p for p in self.path.rglob("*") if p.name not in (".lock", "config.toml")]
        if any(not p.is_dir() for p in entries):
            return
        for folder in sorted(entries, reverse=True):
            folder.rmdir()
        (self.path / "config.toml").unlink(missing_ok=True)
        if self._made:
            (self.path / ".lock").unlink(missing_ok=True)
            self.path.rmdir()


def to_toml(config: Mapping[str, Any]) -> str:
    """Plain values as TOML: strings, numbers, booleans, lists, and one level of tables; None is left out.

    Guarantee: none.

    Example:
        >>> print(to_toml({"seed": 0, "data": {"math": "a.jsonl"}}))
        seed = 0
        <BLANKLINE>
        [data]
        "math" = "a.jsonl"
        <BLANKLINE>
    """

    def value(v: Any) -> str:
        if isinstance(v, bool):
            return "true" if v else "false"
        if isinstance(v, int | float):
            return repr(v)
        if isinstance(v, list | tuple):
            return "[" + ", ".join(value(i) for i in v) + "]"
        return json.dumps(str(v), ensure_ascii=False)

    plain = {k: v for k, v in config.items() if not isinstance(v, Mapping) and v is not None}
    lines = [f"{k} = {value(v)}" for k, v in plain.items()]
    for name, table in config.items():
        if isinstance(table, Mapping):
            lines += [
                "",
                f"[{name}]",
                *(f"{json.dumps(str(k))} = {value(v)}" for k, v in table.items() if v is not None),
            ]
    return "\n".join(lines) + "\n"


def _differences(stored: Path, config: Mapping[str, Any]) -> str:
    try:
        old = tomllib.loads(stored.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return "its config.toml cannot be read"
    new = tomllib.loads(to_toml(config))
    names = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    return ", ".join(f"{k}: {old.get(k)!r} there, {new.get(k)!r} now" for k in names[:3])
