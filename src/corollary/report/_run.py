"""A run folder as the report reads it: files only, each looked at when a section asks for it."""

import tomllib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from corollary.certificates import Certificate, load_certificate
from corollary.certificates import Report as Check
from corollary.errors import InvalidFileError
from corollary.runs import read_json, read_tensors


class Run:
    """What a run folder holds.

    Args:
        path: the folder; it must hold `config.toml`.

    Raises:
        InvalidFileError: where the folder is not that of a run, or one of its files is broken.

    Guarantee: none; it reads.

    Example:
        >>> import tempfile
        >>> from corollary.runs import RunFolder
        >>> with RunFolder(Path(tempfile.mkdtemp()) / "first", {"verb": "demo", "seed": 0}) as folder:
        ...     run = Run(folder.path)
        >>> run.name, run.verb, run.metrics, run.certificate
        ('first', 'demo', {}, None)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "config.toml").is_file():
            raise InvalidFileError(self.path, "not a run folder, it holds no config.toml", "give the folder of a run")

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @cached_property
    def config(self) -> dict[str, Any]:
        """What was asked."""
        source = self.path / "config.toml"
        try:
            return tomllib.loads(source.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
            raise InvalidFileError(source, f"not TOML ({problem})", "restore it, or run again") from None

    @property
    def verb(self) -> str:
        """The verb of the command that made the run; empty where it is not told."""
        return str(self.config.get("verb", ""))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """The figures; empty where there are none."""
        source = self.path / "metrics.json"
        found = read_json(source) if source.exists() else {}
        if not isinstance(found, dict):
            raise InvalidFileError(source, f"holds a {type(found).__name__}, not an object", "run again")
        return found

    @cached_property
    def _stored(self) -> tuple[Certificate | None, dict[str, np.ndarray]]:
        return load_certificate(self.path) if (self.path / "certificate.json").exists() else (None, {})

    @property
    def certificate(self) -> Certificate | None:
        """The certificate; None where there is none."""
        return self._stored[0]

    @cached_property
    def check(self) -> Check | None:
        """The certificate checked now, on the evidence stored beside it."""
        certificate, evidence = self._stored
        return certificate.check(**evidence) if certificate else None

    def arrays(self, file: str, *, finite: bool = True, **dimensions: int) -> dict[str, np.ndarray] | None:
        """Arrays of a safetensors file; None where the file or one of them is absent.

        Args:
            file: path inside the folder.
            finite: whether a NaN or an infinity is an error.
            dimensions: name of each array and how many dimensions it has.

        Raises:
            InvalidFileError: where one has another number of dimensions, or an entry that is not finite.
        """
        source = self.path / file
        if not source.is_file():
            return None
        found = read_tensors(source)
        if not dimensions.keys() <= found.keys():
            return None
        for name, count in dimensions.items():
            if found[name].ndim != count or (finite and not np.isfinite(found[name]).all()):
                problem = (
                    f"`{name}` should have {count} dimensions and finite entries, it has shape {found[name].shape}"
                )
                raise InvalidFileError(source, problem, "run again")
        return {name: found[name] for name in dimensions}
