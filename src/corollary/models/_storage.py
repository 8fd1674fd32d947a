"""Model folders: `model.json` and one safetensors file, replaced so that readers see the old or the new one.

A folder has two files, and a file system renames one at a time. So the weights are written first, under a
name made of their own hash; renaming `model.json`, which holds that name, is the one moment at which the
folder changes.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from corollary.errors import InvalidFileError

FORMAT = 1
MAX_JSON_BYTES = 8 << 20
MAX_WEIGHT_BYTES = 64 << 30
_PARTIAL = ".partial-"
_WEIGHTS = re.compile(r"weights-[0-9a-f]{16}\.safetensors")


def fingerprint(config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a configuration and of the names, types, shapes and bytes of arrays."""
    state = hashlib.sha256(json.dumps(config, sort_keys=True, allow_nan=False).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        state.update(f"{name}:{array.dtype}:{array.shape};".encode())
        state.update(array.data if array.size else b"")
    return state.hexdigest()


def write_model(folder: str | Path, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a model; a process killed here, or a full disk, leaves the model that was there before."""
    from safetensors.numpy import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"weights-{fingerprint({}, arrays)[:16]}.safetensors"
    packed = {key: np.ascontiguousarray(array) for key, array in arrays.items()}
    _replace(folder / name, lambda path: save_file(packed, path))
    full = {"format": FORMAT, **header, "weights": name, "weights_bytes": (folder / name).stat().st_size}
    text = json.dumps(full, indent=1, allow_nan=False) + "\n"
    _replace(folder / "model.json", lambda path: path.write_text(text, encoding="utf-8"))
    for entry in folder.iterdir():
        if entry.name.startswith(_PARTIAL) or (_WEIGHTS.fullmatch(entry.name) and entry.name != name):
            entry.unlink(missing_ok=True)


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    handle, temporary = tempfile.mkstemp(prefix=_PARTIAL, dir=path.parent)
    os.close(handle)
    try:
        write(Path(temporary))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_header(folder: str | Path) -> dict[str, Any]:
    """Read `model.json` and check what every kind of model shares."""
    path = Path(folder) / "model.json"
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise InvalidFileError(path, f"larger than the {MAX_JSON_BYTES >> 20} MB allowed", "give a model's folder")
        header = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidFileError(path, "there is no such file", "give the folder that `save` wrote") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as problem:
        raise InvalidFileError(path, f"not JSON ({problem})", "save the model again") from None
    if not isinstance(header, dict) or not isinstance(header.get("kind"), str):
        raise InvalidFileError(
            path, "no description of a model (it has no `kind`)", "give the folder that `save` wrote"
        )
    if header.get("format") != FORMAT:
        raise InvalidFileError(
            path,
            f"written in format {header.get('format')!r}, this version reads format {FORMAT}",
            "save the model again with this version",
        )
    return header


def read_arrays(folder: str | Path, header: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Read the weights that a header names, checking size, format and that the numbers are finite."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    name, size = header.get("weights"), header.get("weights_bytes")
    if not isinstance(name, str) or not _WEIGHTS.fullmatch(name) or not isinstance(size, int):
        raise InvalidFileError(Path(folder) / "model.json", "names no weights of its own", "save the model again")
    path = Path(folder) / name
    try:
        found = path.stat().st_size
        if found != size or found > MAX_WEIGHT_BYTES:
            raise InvalidFileError(
                path, f"{found} bytes long where {size} were written", "save or copy the model again"
            )
        arrays = load_file(path)
    except FileNotFoundError:
        raise InvalidFileError(path, "there is no such file", "copy the whole folder that `save` wrote") from None
    except (SafetensorError, KeyError, ValueError) as problem:
        if isinstance(problem, InvalidFileError):
            raise
        raise InvalidFileError(path, f"not a safetensors file ({problem})", "save or copy the model again") from None
    for key, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InvalidFileError(path, f"`{key}` holds values that are not finite", "save a fitted model again")
    return arrays


def require(condition: object, path: str | Path, problem: str) -> None:
    """Raise the error of a wrong file unless `condition` holds."""
    if not condition:
        raise InvalidFileError(path, problem, "give the folder that `save` wrote, or save the model again")
