"""Certificates on disk: `certificate.json`, and the evidence and arrays beside it as safetensors; never pickle."""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from corollary.certificates._certificate import Certificate
from corollary.certificates._claim import Assumption, Reference, as_plain, claim_from_plain
from corollary.certificates._digest import as_array, digest
from corollary.errors import InvalidFileError
from corollary.runs import read_json, read_tensors, write_json, write_tensors

FORMAT = 1
FILE = "certificate.json"


def save_certificate(path: str | Path, certificate: Certificate, evidence: Mapping[str, Any] | None = None) -> Path:
    """Write a certificate, and its evidence beside it.

    Args:
        path: a `.json` file, or a folder, which then gets `certificate.json`.
        certificate: what to write.
        evidence: arrays to keep in the `.safetensors` file of the same name, so that it can be checked at once.

    Returns:
        The path of the JSON file.

    Guarantee: none; both files appear whole or not at all.

    Example:
        >>> import tempfile
        >>> from corollary.certificates import Certificate, load_certificate
        >>> certificate = Certificate(rule="example.none", statement="Nothing.", claims=())
        >>> path = save_certificate(tempfile.mkdtemp(), certificate)
        >>> load_certificate(path)[0].statement
        'Nothing.'
    """
    target = _file(Path(path))
    tensors: dict[str, np.ndarray] = {}
    body = _to_plain(certificate, tensors, "witness")
    if evidence:
        tensors |= {f"evidence/{name}": as_array(value) for name, value in evidence.items()}
    if tensors:
        write_tensors(target.with_suffix(".safetensors"), tensors)
    write_json(target, {"format": FORMAT, "certificate": body, "seal": _seal(body)})
    return target


def load_certificate(path: str | Path) -> tuple[Certificate, dict[str, np.ndarray]]:
    """Read a certificate and the evidence stored beside it (empty where there is none).

    Args:
        path: the `.json` file, or a folder that holds `certificate.json`.

    Raises:
        InvalidFileError: for a foreign, broken or newer file.

    Guarantee: none; a file edited after it was issued loads with `intact=False`, and then never holds.

    Example:
        >>> import tempfile
        >>> load_certificate(tempfile.mkdtemp())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        corollary.errors.InvalidFileError: ...there is no such file; check the path
    """
    if Path(path).is_file() and Path(path).suffix != ".json":
        raise InvalidFileError(path, "not a Corollary certificate", "give a run folder or a certificate.json")
    source = _file(Path(path))
    data = read_json(source)
    if not isinstance(data, dict) or not {"format", "certificate", "seal"} <= data.keys():
        raise InvalidFileError(source, "not a Corollary certificate", "give a run folder or a certificate.json")
    if data["format"] != FORMAT:
        raise InvalidFileError(
            source,
            f"written in format {data['format']!r}, this version reads {FORMAT}",
            "upgrade corollary, or issue it again",
        )
    beside = source.with_suffix(".safetensors")
    tensors = read_tensors(beside) if beside.exists() else {}
    try:
        certificate = _from_plain(data["certificate"], tensors, intact=_seal(data["certificate"]) == data["seal"])
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise InvalidFileError(
            source, f"not a Corollary certificate ({type(problem).__name__}: {problem})", "issue it again"
        ) from None
    evidence = {name.removeprefix("evidence/"): a for name, a in tensors.items() if name.startswith("evidence/")}
    return certificate, evidence


def _file(path: Path) -> Path:
    return path / FILE if path.is_dir() or path.suffix != ".json" else path


def _seal(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _to_plain(certificate: Certificate, tensors: dict[str, np.ndarray], prefix: str) -> dict[str, Any]:
    def plain(value: Any, name: str) -> Any:
        if isinstance(value, np.ndarray) or hasattr(value, "detach"):
            tensors[name] = as_array(value)
            return {"array": name, "sha256": digest(x=tensors[name])}
        if isinstance(value, Mapping):
            return {str(k): plain(v, f"{name}/{k}") for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v, f"{name}/{i}") for i, v in enumerate(value)]
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": repr(value)}
        return value

    return {
        "rule": certificate.rule,
        "statement": certificate.statement,
        "claims": [as_plain(c) for c in certificate.claims],
        "assumptions": [as_plain(a) for a in certificate.assumptions],
        "confidence": certificate.confidence,
        "reference": as_plain(certificate.reference),
        "witness": plain(certificate.witness, prefix),
        "digest": dict(certificate.digest),
        "attempts": certificate.attempts,
        "provenance": plain(certificate.provenance, f"{prefix}-provenance"),
        "undecided": certificate.undecided,
        "parts": [_to_plain(p, tensors, f"part{i}/{prefix}") for i, p in enumerate(certificate.parts)],
    }


def _from_plain(data: dict[str, Any], tensors: Mapping[str, np.ndarray], *, intact: bool) -> Certificate:
    edited: list[str] = []

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            if value.keys() == {"array", "sha256"}:
                array = tensors[value["array"]]
                if digest(x=array) != value["sha256"]:
                    edited.append(value["array"])
                return array
            if value.keys() == {"float"}:
                return float(value["float"])
            return {k: restore(v) for k, v in value.items()}
        return [restore(v) for v in value] if isinstance(value, list) else value

    witness, provenance = restore(data["witness"]), restore(data["provenance"])
    return Certificate(
        rule=data["rule"],
        statement=data["statement"],
        claims=tuple(claim_from_plain(c) for c in data["claims"]),
        assumptions=tuple(Assumption(**a) for a in data["assumptions"]),
        confidence=data["confidence"],
        reference=Reference(**data["reference"]),
        witness=witness,
        digest=data["digest"],
        attempts=data["attempts"],
        provenance=provenance,
        undecided=data["undecided"],
        parts=tuple(_from_plain(p, tensors, intact=intact) for p in data["parts"]),
        intact=intact and not edited,
    )
