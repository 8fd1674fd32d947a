"""Transductors on disk: `model.json` and safetensors weights, sizes and shapes checked before anything is used."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corollary.automata._families import family
from corollary.automata._finite_head import FiniteHead
from corollary.automata._heads import DirectSum, Head, RationalHead
from corollary.automata._transductor import RationalTransductor, TransductorConfig
from corollary.errors import CorollaryError, InvalidFileError, InvalidInputError
from corollary.models import _storage

KIND = "transductor"
MAX_SYMBOLS, MAX_DIM, MAX_STATES, MAX_PARTS = 1 << 20, 1 << 12, 1 << 16, 64


def save(model: RationalTransductor, folder: str | Path) -> None:
    """Write the network; a killed save leaves what the folder held."""
    _storage.write_model(folder, {"kind": KIND, **described(model), "fingerprint": fingerprint(model)}, arrays(model))


def described(model: RationalTransductor) -> dict[str, Any]:
    """Sizes, heads and which weights are short, refusing a head that a file cannot describe."""
    told = model.describe()
    for name in ("head", "backward_head"):
        if getattr(model, name) is not None and not _sound(told[name]):
            raise InvalidInputError(
                f"a {type(getattr(model, name)).__name__} cannot be written to a file; use a RationalHead, DirectSum "
                "or FiniteHead, or keep its parameters yourself"
            )
    return told | shortened(model)


def fingerprint(model: RationalTransductor) -> str:
    """SHA-256 of sizes, heads and weights."""
    return _storage.fingerprint(described(model), arrays(model))


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Weights and tables as numpy arrays; those in bfloat16, which numpy has not, in float32, which loses nothing."""
    every = {name: p.detach().cpu() for name, p in model.state_dict().items()}
    return {name: (p.float() if p.dtype == torch.bfloat16 else p).numpy() for name, p in every.items()}


def shortened(model: torch.nn.Module) -> dict[str, list[str]]:
    """What a header says of weights in bfloat16."""
    short = sorted(name for name, p in model.state_dict().items() if p.dtype == torch.bfloat16)
    return {"bfloat16": short} if short else {}


def tensors(weights: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Arrays as tensors, in bfloat16 where the header says so."""
    short = header.get("bfloat16", [])
    if not isinstance(short, list) or not all(isinstance(n, str) and n in weights for n in short):
        raise InvalidInputError("`bfloat16` names no weights")
    made = {name: torch.from_numpy(a) for name, a in weights.items()}
    return made | {name: made[name].bfloat16() for name in short}


def load(folder: str | Path) -> RationalTransductor:
    """Read what `save` wrote.

    Raises:
        InvalidFileError: for missing, foreign, truncated or changed files.
    """
    header, path = _storage.read_header(folder), Path(folder) / "model.json"
    _storage.require(header["kind"] == KIND, path, f"a model of kind {header['kind']!r}, not a {KIND}")
    given = header.get("config")
    _storage.require(isinstance(given, dict), path, "`config` has no sizes")
    weights = _storage.read_arrays(folder, header)
    try:
        config = TransductorConfig(**given)  # type: ignore[arg-type]
        shapes = {name: tuple(a.shape) for name, a in weights.items()}
        fit({"embedding.weight": (config.vocab_size, config.width)}, shapes)
        fit({"readout.weight": (config.outputs, config.width)}, shapes)
        count(shapes, "layers.", ".norm.weight", config.layers)
        heads = {n: head_from(header.get(n), shapes, f"{n}.") for n in ("head", "backward_head")}
        model = RationalTransductor(config, heads["head"], backward_head=heads["backward_head"])
        model.alphabet = _alphabet(header.get("alphabet"), config.vocab_size)
        own = tensors(weights, header)
    except (CorollaryError, TypeError, KeyError, ValueError, AttributeError, RuntimeError) as problem:
        raise InvalidFileError(path, f"sizes that do not fit ({problem})", "save the model again") from None
    expected = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    source = Path(folder) / str(header["weights"])
    _storage.require(shapes == expected, source, "not the shapes of its `config`")
    for name, p in model.state_dict().items():
        same = own[name].is_floating_point() == p.is_floating_point()
        _storage.require(same, source, f"`{name}` has type {own[name].dtype}")
    model.load_state_dict(own, assign=True)  # what is trained stays so
    for head in (model.head, model.backward_head):
        _check_tables(head, source)
    _storage.require(
        fingerprint(model) == header.get("fingerprint"), path, "changed since it was saved (its hash differs)"
    )
    return model


Shapes = Mapping[str, tuple[int, ...]]


def fit(wanted: Shapes, stored: Shapes, at: str = "") -> None:
    """Raise where stored weights have other shapes than told: checked before anything of that size is made."""
    for name, shape in wanted.items():
        if stored.get(at + name) != tuple(shape):
            raise InvalidInputError(f"`{at}{name}` is {stored.get(at + name)}, not {tuple(shape)}")


def count(stored: Shapes, before: str, after: str, wanted: int) -> None:
    """Raise unless there are as many stored weights of a name `before`...`after` as told."""
    found = sum(re.fullmatch(rf"{re.escape(before)}\d+{re.escape(after)}", name) is not None for name in stored)
    if found != wanted:
        raise InvalidInputError(f"weights of {found} layers, not of {wanted!r}")


def head_from(told: Any, stored: Shapes, at: str) -> Head | None:
    """The head that `description` tells of, whose weights are stored under names that begin with `at`."""
    if told is None:
        return None
    if not _sound(told):
        raise InvalidInputError("a head that this version does not know")
    if told["kind"] == "sum":
        parts = [head_from(part, stored, f"{at}heads.{i}.") for i, part in enumerate(told["heads"])]
        return DirectSum([h for h in parts if h is not None])
    V, d = told["vocab_size"], told["dim"]
    if told["kind"] == "finite":
        n = told["states"]
        fit({"transitions": (n, V), "vectors": (n, d)}, stored, at)
        return FiniteHead(np.zeros((n, V), dtype=np.int64), torch.zeros(n, d), start=told["start"])
    options = {k: v for k, v in told.items() if k in _OPTIONS}
    with torch.device("meta"):  # shapes only
        start = family(told["family"], **options).start(V, d, torch.empty)
    fit({"alpha": (d,)} | {f"weights.{name}": tuple(value.shape) for name, value in start.items()}, stored, at)
    head = RationalHead(V, d, family=told["family"], **options)
    if told.get("frozen"):
        head.description["frozen"] = True
        head.requires_grad_(False)
    return head


_OPTIONS: dict[str, Any] = {"scale": (int, float), "rank": int, "gamma": (int, float), "count": int}
_KINDS: dict[str, dict[str, Any]] = {
    "rational": {"kind": str, "vocab_size": int, "dim": int, "family": str, "frozen": bool} | _OPTIONS,
    "finite": {"kind": str, "vocab_size": int, "dim": int, "states": int, "start": int},
}


def _sound(told: Any) -> bool:
    if not isinstance(told, dict):
        return False
    if told.get("kind") == "sum":
        parts = told.get("heads")
        return isinstance(parts, list) and 0 < len(parts) <= MAX_PARTS and all(_flat(p) for p in parts)
    return _flat(told)


def _flat(told: Any) -> bool:
    if not isinstance(told, dict) or told.get("kind") not in ("rational", "finite"):
        return False
    kinds = _KINDS[told["kind"]]
    known = all(
        n in kinds and isinstance(v, kinds[n]) and isinstance(v, bool) == (n == "frozen") for n, v in told.items()
    )
    if not known or not all(math.isfinite(v) for v in told.values() if isinstance(v, float)):
        return False
    sizes = {"vocab_size": MAX_SYMBOLS, "dim": MAX_DIM} | ({"states": MAX_STATES} if told["kind"] == "finite" else {})
    return all(n in told and 1 <= told[n] <= most for n, most in sizes.items())


def _alphabet(told: Any, V: int) -> tuple[Any, ...] | None:
    if told is None:
        return None
    plain = isinstance(told, list) and all(isinstance(s, str | int) and not isinstance(s, bool) for s in told)
    if not plain or len(told) != V or len(set(told)) != V:
        raise InvalidInputError(f"`alphabet` names no {V} different symbols")
    return tuple(told)


def _check_tables(head: Any, source: Path) -> None:
    for one in getattr(head, "heads", [head]):
        if isinstance(one, FiniteHead):
            table = one.transitions
            inside = bool((table >= 0).all() and (table < len(table)).all())
            _storage.require(inside, source, "a table of transitions that leads to no state")
