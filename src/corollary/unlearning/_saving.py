"""Heads on disk: `model.json` with settings and the base's hash, and one safetensors file; never the base itself."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corollary.errors import InvalidFileError, InvalidInputError
from corollary.models import _storage, load, register_loader
from corollary.unlearning._backbone import backbone_of
from corollary.unlearning._head import TemperTiltHead
from corollary.unlearning._model import TemperTiltModel

KIND = "temper-tilt"
_SETTINGS = {"width", "vocab_size", "rank", "layers", "activation", "offset"}


def _arrays(model: TemperTiltModel) -> dict[str, np.ndarray]:
    found = {}
    for k, head in enumerate(model.heads.values()):
        for name, tensor in head.state_dict().items():
            found[f"head{k}.{name}"] = tensor.detach().cpu().numpy()
    return found


def _header(model: TemperTiltModel) -> dict[str, Any]:
    return {
        "kind": KIND,
        "base": model.backbone.fingerprint(),
        "temperature": model.temperature,
        "guidance": model.guidance,
        "heads": [{"name": name, **head.settings()} for name, head in model.heads.items()],
    }


def fingerprint_of(model: TemperTiltModel) -> str:
    """SHA-256 of the base's hash, the settings and the heads."""
    return _storage.fingerprint(_header(model), _arrays(model))


def save_heads(model: TemperTiltModel, folder: str | Path) -> None:
    """Write `model.json` and the heads, all or nothing."""
    _storage.write_model(folder, _header(model) | {"fingerprint": fingerprint_of(model)}, _arrays(model))


def load_heads(folder: str | Path, base: Any) -> TemperTiltModel:
    """Read heads and attach them to the base they belong to.

    Raises:
        InvalidInputError: for another base.
        InvalidFileError: for a missing, foreign, truncated or changed file.
    """
    header = _storage.read_header(folder)
    path = Path(folder) / "model.json"
    _storage.require(header["kind"] == KIND, path, f"holds {header['kind']!r}, not heads of unlearning")
    backbone = backbone_of(base)
    if header.get("base") != backbone.fingerprint():
        raise InvalidInputError(
            f"the heads in {folder} were fitted on another model (hash {str(header.get('base'))[:12]}, this one has "
            f"{backbone.fingerprint()[:12]}); load them on that one, or fit new ones"
        )
    arrays = _storage.read_arrays(folder, header)
    heads: dict[str, TemperTiltHead] = {}
    try:
        for k, told in enumerate(header["heads"]):
            settings = {n: told[n] for n in _SETTINGS}
            head = TemperTiltHead(settings.pop("width"), settings.pop("vocab_size"), **settings)
            own = {n.partition(".")[2]: torch.from_numpy(a) for n, a in arrays.items() if n.startswith(f"head{k}.")}
            head.to(own["out"].dtype).load_state_dict(own)
            heads[str(told["name"])] = head
        model = TemperTiltModel(base, heads, temperature=header["temperature"], guidance=header["guidance"])
    except (KeyError, TypeError, RuntimeError, InvalidInputError) as problem:
        raise InvalidFileError(path, f"its heads do not fit ({problem})", "save the heads again") from None
    changed = fingerprint_of(model) != header.get("fingerprint")
    _storage.require(not changed, path, "changed since it was saved (its hash differs)")
    return model


def save_whole(model: TemperTiltModel, folder: str | Path) -> None:
    """Write the base under `base/` and the heads beside it."""
    if not hasattr(model.base, "save") or not hasattr(model.base, "next_log_probs"):
        raise InvalidInputError(
            "only bases of this library are saved whole; save a Hugging Face base with its own save_pretrained, "
            "the heads with ours"
        )
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    model.base.save(target / "base")
    save_heads(model, target)


def _load_whole(folder: Path, header: dict[str, Any]) -> TemperTiltModel:
    if not (folder / "base").is_dir():
        raise InvalidFileError(
            folder / "model.json", "holds heads without their base", "use TemperTiltModel.from_pretrained(folder, base)"
        )
    return load_heads(folder, load(folder / "base"))


def digest_of_bytes(*parts: str) -> str:
    """SHA-256 of texts, in order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


register_loader(KIND, _load_whole)
