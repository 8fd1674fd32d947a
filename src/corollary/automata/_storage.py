"""Transductors on disk: `model.json` and safetensors weights, sizes and shapes checked before anything is used."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
    """Sizes and heads, refusing a head that a file cannot describe."""
    told = model.describe()
    for name in ("head", "backward_head"):
        if getattr(model, name) is not None and not _sound(told[name]):
            raise InvalidInputError(
                f"a {type(getattr(model, name)).__name__} cannot be written to a file; use a RationalHead, DirectSum "
                "or FiniteHead, or keep its parameters yourself"
            )
    return told


def fingerprint(model: RationalTransductor) -> str:
    """SHA-256 of sizes, heads and weights."""
    return _storage.fingerprint(described(model), arrays(model))


def arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Weights and tables as numpy arrays."""
    return {name: p.detach().cpu().numpy() for name, p in model.state_dict().items()}


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
        most = sum(math.prod(s) for s in shapes.values())
        _storage.require(config.vocab_size * config.width <= max(1, most), path, "sizes larger than the weights")
        heads = {n: head_from(header.get(n)) for n in ("head", "backward_head")}
        model = RationalTransductor(config, heads["head"], backward_head=heads["backward_head"])
    except InvalidFileError:
        raise
    except (CorollaryError, TypeError, KeyError, ValueError, AttributeError) as problem:
        raise InvalidFileError(path, f"sizes that do not fit ({problem})", "save the model again") from None
    expected = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    source = Path(folder) / str(header["weights"])
    _storage.require(shapes == expected, source, "not the shapes of its `config`")
    for name, p in model.state_dict().items():
        own = torch.from_numpy(weights[name])
        _storage.require(own.is_floating_point() == p.is_floating_point(), source, f"`{name}` has type {own.dtype}")
    model.load_state_dict({n: torch.from_numpy(a) for n, a in weights.items()}, assign=True)  # what is trained stays so
    for head in (model.head, model.backward_head):
        _check_tables(head, source)
    _storage.require(
        fingerprint(model) == header.get("fingerprint"), path, "changed since it was saved (its hash differs)"
    )
    return model


def head_from(told: Any) -> Head | None:
    """The head that `description` tells of, with weights still to come."""
    if told is None:
        return None
    if not _sound(told):
        raise InvalidInputError("a head that this version does not know")
    kind = told["kind"]
    if kind == "sum":
        return DirectSum([h for h in map(head_from, told["heads"]) if h is not None])
    if kind == "finite":
        n, V, d = told["states"], told["vocab_size"], told["dim"]
        return FiniteHead(np.zeros((n, V), dtype=np.int64), torch.zeros(n, d), start=told["start"])
    options = {k: v for k, v in told.items() if k not in ("kind", "vocab_size", "dim", "frozen")}
    head = RationalHead(told["vocab_size"], told["dim"], **options)
    if told.get("frozen"):
        head.description["frozen"] = True
        head.requires_grad_(False)
    return head


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
    sizes = {"vocab_size": MAX_SYMBOLS, "dim": MAX_DIM} | ({"states": MAX_STATES} if told["kind"] == "finite" else {})
    return all(isinstance(told.get(n), int) and 1 <= told[n] <= most for n, most in sizes.items())


def _check_tables(head: Any, source: Path) -> None:
    for one in getattr(head, "heads", [head]):
        if isinstance(one, FiniteHead):
            table = one.transitions
            inside = bool((table >= 0).all() and (table < len(table)).all())
            _storage.require(inside, source, "a table of transitions that leads to no state")
