"""States of optimizers as JSON and safetensors, read back bit for bit."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from corollary.errors import InvalidFileError, InvalidInputError
from corollary.optim._distributed import is_sharded
from corollary.runs import read_json, write_atomically, write_json

FORMAT = 1


def pack_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state as flat tensors, "number/key", and as plain values.

    Raises:
        InvalidInputError: for sharded states (torch.distributed.checkpoint is for those), or a value of another type.

    Guarantee: none.

    Example:
        >>> p = torch.nn.Parameter(torch.ones(2, 2))
        >>> p.grad = torch.ones(2, 2)
        >>> optimizer = torch.optim.SGD([p], lr=0.1, momentum=0.9)
        >>> optimizer.step()
        >>> pack_state(optimizer)[0].keys()
        dict_keys(['0/momentum_buffer'])
    """
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    plain: dict[str, dict[str, Any]] = {}
    for number, slots in state["state"].items():
        for key, value in slots.items():
            if is_sharded(value):
                raise InvalidInputError(
                    "the state is sharded over ranks; save its state_dict() with torch.distributed.checkpoint"
                )
            if isinstance(value, Tensor):
                tensors[f"{number}/{key}"] = value.detach().cpu().contiguous()
            elif value is None or isinstance(value, bool | int | float | str):
                plain.setdefault(str(number), {})[key] = value
            else:
                raise InvalidInputError(f"the state `{key}` is a {type(value).__name__}, which has no plain form")
    groups = [
        {k: float(v) if isinstance(v, Tensor) else list(v) if isinstance(v, tuple) else v for k, v in group.items()}
        for group in state["param_groups"]
    ]
    return tensors, {"state": plain, "param_groups": groups}


def unpack_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Give an optimizer of the same parameters the state that `pack_state` gave.

    Raises:
        InvalidInputError: where the state is of other parameters.

    Guarantee: bit for bit what was packed.

    Example:
        >>> p = torch.nn.Parameter(torch.ones(2, 2))
        >>> optimizer = torch.optim.SGD([p], lr=0.1, momentum=0.9)
        >>> _, plain = pack_state(optimizer)
        >>> unpack_state(optimizer, {"0/momentum_buffer": torch.full((2, 2), 3.0)}, plain)
        >>> optimizer.state[p]["momentum_buffer"][0, 0]
        tensor(3.)
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        text, _, key = name.partition("/")
        state.setdefault(int(text), {})[key] = value
    for text, slots in plain["state"].items():
        state.setdefault(int(text), {}).update(slots)
    groups = plain["param_groups"]
    if [len(g["params"]) for g in groups] != [len(g["params"]) for g in optimizer.param_groups]:
        raise InvalidInputError("the state is of an optimizer with other groups; build it as the saved one was built")
    named = [
        (g.get("param_names"), own.get("param_names")) for g, own in zip(groups, optimizer.param_groups, strict=True)
    ]
    if other := [
        n for ours, theirs in named if ours and theirs for n in zip(ours, theirs, strict=True) if n[0] != n[1]
    ]:
        raise InvalidInputError(
            f"the state is of {other[0][0]!r} where this model has {other[0][1]!r}; build that model"
        )
    for number, slots in state.items():
        for key, value in slots.items():
            whole = key in ("momentum", "exp_avg", "exp_avg_sq", "momentum_buffer")
            if number >= len(parameters) or (whole and value.shape != parameters[number].shape):
                raise InvalidInputError(f"the state of parameter {number} is of another shape; give the model it is of")
    restored = []
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        known = {k: tuple(v) if isinstance(own.get(k), tuple) else v for k, v in group.items()}
        restored.append(known)
    optimizer.load_state_dict({"state": state, "param_groups": restored})


def save_optimizer(optimizer: torch.optim.Optimizer, path: Any) -> None:
    """Write `path` (JSON: groups, counters) and, beside it, a safetensors file with the tensors.

    Args:
        optimizer: any torch optimizer whose state is tensors and numbers.
        path: ends in .json; or a folder, for `optimizer.json` in it.

    Raises:
        InvalidInputError: as `pack_state`.

    Guarantee: `load_optimizer` gives back the same state, bit for bit, on the same parameters.

    Example:
        >>> import tempfile
        >>> p = torch.nn.Parameter(torch.ones(2, 2))
        >>> optimizer = torch.optim.AdamW([p])
        >>> folder = tempfile.mkdtemp()
        >>> save_optimizer(optimizer, folder)
        >>> load_optimizer(optimizer, folder)
    """
    from safetensors.torch import save_file

    path = _file(path)
    tensors, plain = pack_state(optimizer)
    write_atomically(path.with_suffix(".safetensors"), lambda to: save_file(tensors, to))
    write_json(path, {"format": FORMAT, "kind": "optimizer", "class": type(optimizer).__name__, **plain})


def load_optimizer(optimizer: torch.optim.Optimizer, path: Any) -> None:
    """Read what `save_optimizer` wrote into an optimizer of the same class and parameters.

    Raises:
        InvalidFileError: for files that are absent, foreign, truncated, or of another optimizer.

    Guarantee: as `save_optimizer`.

    Example:
        >>> load_optimizer(torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]), "nowhere.json")
        Traceback (most recent call last):
        ...
        corollary.errors.InvalidFileError: nowhere.json: there is no such file; check the path
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = _file(path)
    data = read_json(path)
    if not isinstance(data, dict) or data.get("kind") != "optimizer" or data.get("format") != FORMAT:
        raise InvalidFileError(path, "not the state of an optimizer", "give what `save` wrote")
    if data.get("class") != type(optimizer).__name__:
        raise InvalidFileError(
            path, f"the state of a {data.get('class')}", f"build one, not a {type(optimizer).__name__}"
        )
    try:
        tensors = load_file(path.with_suffix(".safetensors"))
        unpack_state(optimizer, tensors, data)
    except FileNotFoundError:
        raise InvalidFileError(path.with_suffix(".safetensors"), "there is no such file", "copy both files") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as problem:
        raise InvalidFileError(path, f"cannot be read ({problem})", "save the state again") from None


def _file(path: Any) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path / "optimizer.json"
