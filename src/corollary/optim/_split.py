"""Which parameter goes to the matrix rule, which to AdamW, and why: read from the module graph."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from corollary.errors import InvalidInputError

HEADS = re.compile(r"(^|\.)(lm_head|head|heads|classifier|score|output|fc_out|unembed\w*|proj_out)$")
EMBEDDED = re.compile(r"embed|(^|[._])(pos|positions?|cls|tokens?|wte|wpe)([._]|$)")
MAX_SIDE = 8192  # the second moment of a larger smaller side would not pay


@dataclass(frozen=True)
class Row:
    """One parameter: its name and shape, its rule, how it is read, and the reason."""

    name: str
    shape: tuple[int, ...]
    rule: str
    reason: str
    form: str = "matrix"
    splits: Any = None
    parameter: Any = None


@dataclass(frozen=True)
class Split:
    """The rows of `split_module`; print it for the table.

    Guarantee: every parameter that wants a gradient stands in exactly one row with rule "matrix" or "adamw".

    Example:
        >>> print(split_module(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))))
        parameter  shape  rule    why
        0.weight   8x4    matrix  linear layer
        0.bias     8      adamw   vector
        2.weight   2x8    adamw   output layer
        2.bias     2      adamw   vector
        32 of 58 numbers by the matrix rule, 26 by AdamW
    """

    rows: tuple[Row, ...]

    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups: one for each way of reading a matrix, one for AdamW; names are kept."""
        found: dict[Any, dict[str, Any]] = {}
        for row in self.rows:
            if row.rule != "frozen":
                splits = tuple(row.splits) if isinstance(row.splits, list) else row.splits
                key = (row.rule, row.form, splits) if row.rule == "matrix" else ("adamw", "matrix", None)
                empty: dict[str, Any] = {"rule": row.rule, "params": []}
                if row.rule == "matrix":
                    empty |= {"form": row.form} | ({} if splits is None else {"splits": splits})
                found.setdefault(key, empty)["params"].append((row.name, row.parameter))
        return list(found.values())

    def require_matrices(self, optimizer: str) -> None:
        """Refuse a split in which the matrix rule has nothing to do."""
        if not any(row.rule == "matrix" for row in self.rows):
            shown = str(self) if self.rows else "it has no parameters that want a gradient"
            raise InvalidInputError(
                f"{optimizer} would touch no matrix of this model and silently be AdamW:\n{shown}\n"
                f"use torch.optim.AdamW, name matrices by `matrix=[...]`, or build the optimizer before FSDP1 flattens "
                f"the parameters (FSDP2 keeps them)"
            )

    def __str__(self) -> str:
        cells = [("parameter", "shape", "rule", "why")]
        for row in self.rows:
            why = row.reason + (f", split {row.splits}" if row.splits else "")
            cells.append((row.name, "x".join(map(str, row.shape)) or "scalar", row.rule, why))
        widths = [max(len(c[i]) for c in cells) for i in range(3)]
        lines = ["  ".join([*(c[i].ljust(widths[i]) for i in range(3)), c[3]]).rstrip() for c in cells]
        sizes = dict.fromkeys(("matrix", "adamw", "frozen"), 0)
        for row in self.rows:
            sizes[row.rule] += row.parameter.numel()
        total = sizes["matrix"] + sizes["adamw"]
        told = f"{sizes['matrix']:,} of {total:,} numbers by the matrix rule, {sizes['adamw']:,} by AdamW"
        return "\n".join([*lines, told + (f", {sizes['frozen']:,} frozen" if sizes["frozen"] else "")])


def split_module(
    model: nn.Module,
    *,
    splits: Mapping[str, Any] | None = None,
    matrix: Iterable[str] = (),
    adamw: Iterable[str] = (),
    head: str | None = "auto",
) -> Split:
    """Read a module graph; see `Leon.from_module` for the arguments.

    Linear and recurrent weights, convolutions (flattened), attention's fused projections and 3-D stacks of experts are
    matrices; embeddings (also where tied to the output), the output layer, norms, biases, depthwise convolutions,
    single rows or columns and sides above 8192 are not.

    Returns:
        The table.

    Raises:
        InvalidInputError: where a name in `splits`, `matrix`, `adamw` or `head` matches nothing.

    Guarantee: none; a heuristic that says what it did.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 12), nn.Linear(12, 10))
        >>> [(row.name, row.rule) for row in split_module(model, splits={"1": 3}).rows if row.splits]
        [('1.weight', 'matrix')]
    """
    splits, matrix, adamw = dict(splits or {}), tuple(matrix), tuple(adamw)
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"`model` must be a torch module, got {type(model).__name__}; give the network itself")
    lazy = [name for name, p in model.named_parameters() if isinstance(p, nn.UninitializedParameter)]
    if lazy:
        raise InvalidInputError(f"lazy layers have no weights yet ({', '.join(lazy)}); run the model once first")
    owners = {
        id(p): (module, short) for module in model.modules() for short, p in module.named_parameters(recurse=False)
    }
    for module in model.modules():  # a tied weight is its embedding's
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            owners[id(module.weight)] = (module, "weight")
    named = dict(model.named_parameters())
    output = _head(model, head)
    used: set[str] = set()
    rows = []
    for name, p in named.items():
        module, short = owners[id(p)]
        rule, reason, form, parts = _judge(name, p, module, short, output)
        for pattern in adamw:
            if pattern in name:
                used.add(pattern)
                rule, reason = "adamw", f"named by adamw={pattern!r}"
        for pattern in matrix:
            if pattern in name and p.ndim >= 2:
                used.add(pattern)
                form = {2: "matrix", 3: "stack"}.get(p.ndim, "flatten") if rule == "adamw" else form
                rule, reason = "matrix", f"named by matrix={pattern!r}"
        for pattern, value in splits.items():
            if rule == "matrix" and (name.endswith(pattern) or name.removesuffix("." + short).endswith(pattern)):
                used.add(pattern)
                parts, reason = value, f"{reason}, fused"
        if not p.requires_grad:
            rule, reason, parts = "frozen", "wants no gradient", None
        rows.append(Row(name, tuple(p.shape), rule, reason, form, parts if rule == "matrix" else None, p))
    if unknown := ({*splits, *matrix, *adamw} - used):
        raise InvalidInputError(
            f"no matrix of this model is named {', '.join(sorted(unknown))}; the parameters are {', '.join(named)}"
        )
    if head == "auto" and rows and not any(r.rule == "matrix" for r in rows):  # a model that is one layer
        rows = [_promoted(r) if r.reason == "output layer" else r for r in rows]
    return Split(tuple(rows))


def _judge(name: str, p: Any, module: nn.Module, short: str, output: Any) -> tuple[str, str, str, Any]:
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return "adamw", "embedding", "matrix", None
    if p is output:
        return "adamw", "output layer", "matrix", None
    if p.ndim < 2 or "Norm" in type(module).__name__:
        return "adamw", "norm" if "Norm" in type(module).__name__ else "vector", "matrix", None
    if isinstance(module, _ConvNd) and short == "weight":
        if module.groups > 1:
            return "adamw", "grouped or depthwise convolution", "flatten", None
        return _sized(p.flatten(1).shape, "convolution, flattened", "flatten")
    if isinstance(module, nn.MultiheadAttention) and short == "in_proj_weight":
        return "matrix", "attention's fused projection", "matrix", 3
    if isinstance(module, nn.RNNBase):
        gates = None if short.startswith("weight_hr") else {"LSTM": 4, "GRU": 3}.get(module.mode)
        block = (p.shape[0] // (gates or 1), p.shape[1])
        rule, reason, form, _ = _sized(block, "recurrent layer", "matrix")
        return rule, reason, form, gates if rule == "matrix" else None
    if type(module).__name__ == "Conv1D" and p.ndim == 2:  # of transformers: (in, out)
        return _sized(p.shape, "linear layer, stored transposed", "transposed")
    if isinstance(module, nn.Linear):
        return _sized(p.shape, "linear layer", "matrix")
    if EMBEDDED.search(name.lower()):
        return "adamw", "embedding by its name", "matrix", None
    if p.ndim == 3:
        return _sized(p.shape[1:], "stack of matrices", "stack")
    if p.ndim == 2:
        return _sized(p.shape, "matrix", "matrix")
    return "adamw", f"{p.ndim} axes in a {type(module).__name__}", "flatten", None


def _sized(shape: Any, reason: str, form: str) -> tuple[str, str, str, Any]:
    if min(shape) == 1:
        return "adamw", "single row or column", form, None
    if min(shape) > MAX_SIDE:
        return "adamw", f"smaller side above {MAX_SIDE}", form, None
    return "matrix", reason, form, None


def _head(model: nn.Module, head: str | None) -> Any:
    """The output layer's weight: what the model says, what is called so, or a last linear layer outside of any list."""
    modules = dict(model.named_modules())
    if head is None:
        return None
    if head != "auto":
        if head not in modules or not hasattr(modules[head], "weight"):
            raise InvalidInputError(f"`head` must be a layer of the model, got {head!r}; it has {', '.join(modules)}")
        return modules[head].weight
    told = getattr(model, "get_output_embeddings", lambda: None)()
    if told is not None and getattr(told, "weight", None) is not None:
        return told.weight
    linear = [(name, m) for name, m in modules.items() if isinstance(m, nn.Linear)]
    called = [m for name, m in linear if HEADS.search(name) and not _listed(modules, name)]
    if called:
        return called[-1].weight
    if linear:
        name, last = linear[-1]
        if not _listed(modules, name):
            return last.weight
    return None


def _listed(modules: Mapping[str, nn.Module], name: str) -> bool:
    """Whether a layer is one of several in a list, or inside of attention."""
    parents = [modules[name.rsplit(".", i)[0]] for i in range(1, name.count(".") + 1)]
    return any(isinstance(parent, nn.ModuleList | nn.ModuleDict | nn.MultiheadAttention) for parent in parents)


def _promoted(row: Row) -> Row:
    return Row(row.name, row.shape, "matrix", "the only matrix", row.form, row.splits, row.parameter)
