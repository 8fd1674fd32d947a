"""A rational head inside a Hugging Face model: every layer reads its state, generation carries it.

The state of the automaton is computed from `input_ids` before the model runs and added, through one linear map a
layer, to what each layer gets. Maps start at zero: the model is at first exactly what it was. During generation the
states of all places travel on the cache object, so that they are right for several streams, follow beams, and are
those of the prefix where a cache is cropped.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from corollary.automata._heads import Head
from corollary.automata._scan import STATES
from corollary.automata._storage import arrays, count, fit, head_from, shortened, tensors
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.models import _storage

KIND = "rational-injection"
_MARK = "_corollary_rational_states"  # on a cache: (B, seen, s) states after every place
_CHOOSERS = ("reorder_cache", "batch_select_indices", "batch_repeat_interleave")  # methods that change its rows


class Injection(nn.Module):
    """A head and its maps into the layers of another model; made by `inject`.

    Args:
        head: what is injected.
        width: of the model's stream.
        layers: how many.
        state: `inclusive`, `exclusive` or `both`.

    Guarantee: none of its own.

    Example:
        >>> from corollary.automata import Injection, RationalHead
        >>> Injection(RationalHead(9, 4, seed=0), width=8, layers=2).maps[0].weight.abs().max().item()
        0.0
    """

    def __init__(self, head: Head, *, width: int, layers: int, state: str = "inclusive") -> None:
        super().__init__()
        if state not in STATES:
            raise InvalidInputError(f"`state` is one of {', '.join(STATES)}, got {state!r}")
        self.head, self.state, self.width = head, state, width
        features = head.dim * (2 if state == "both" else 1)
        with torch.device("meta"):
            self.maps = nn.ModuleList(nn.Linear(features, width, bias=False) for _ in range(layers))
        self.maps.to_empty(device="cpu")
        for linear in self.maps:
            nn.init.zeros_(linear.weight)  # type: ignore[arg-type]
        self._features: Tensor | None = None
        self._states: Tensor | None = None  # of all places so far
        self._handles: list[Any] = []

    def remove(self) -> None:
        """Take the head out of the model again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def save_pretrained(self, folder: str | Path) -> None:
        """Write head and maps; `inject(model, folder)` puts them into a model of the same size."""
        told = getattr(self.head, "description", None)
        if told is None:
            raise InvalidInputError(f"a {type(self.head).__name__} cannot be written to a file")
        header = {"kind": KIND, "head": told, "width": self.width, "layers": len(self.maps), "state": self.state}
        header |= shortened(self)
        _storage.write_model(
            folder, {**header, "fingerprint": _storage.fingerprint(header, arrays(self))}, arrays(self)
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Injection":
        """Read what `save_pretrained` wrote."""
        header, path = _storage.read_header(folder), Path(folder) / "model.json"
        _storage.require(header["kind"] == KIND, path, f"of kind {header['kind']!r}, not {KIND}")
        weights = _storage.read_arrays(folder, header)
        told: dict[str, Any] = {n: header.get(n) for n in ("kind", "head", "width", "layers", "state")}
        told |= {n: header[n] for n in ("bfloat16",) if n in header}
        _storage.require(
            _storage.fingerprint(told, weights) == header.get("fingerprint"), path, "changed since it was saved"
        )
        try:
            shapes = {name: tuple(a.shape) for name, a in weights.items()}
            head: Any = head_from(told["head"], shapes, "head.")
            count(shapes, "maps.", ".weight", told["layers"])
            features = head.dim * (2 if told["state"] == "both" else 1)
            fit({f"maps.{i}.weight": (told["width"], features) for i in range(told["layers"])}, shapes)
            made = cls(head, width=told["width"], layers=told["layers"], state=told["state"])
            made.load_state_dict(tensors(weights, header), assign=True)
        except (InvalidInputError, RuntimeError, TypeError, KeyError, AttributeError) as problem:
            raise InvalidFileError(path, f"sizes that do not fit ({problem})", "save it again") from None
        return made

    # what the hooks of the model call

    def _before(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if ids is None:
            raise InvalidInputError("the rational head reads `input_ids`, not embeddings; pass the ids")
        cache = kwargs.get("past_key_values")
        strange = [n for n in ("cache_params", "state") if kwargs.get(n) is not None]
        if strange or (cache is not None and not hasattr(cache, "get_seq_length")):
            raise InvalidInputError(
                f"the state of the rational head cannot travel on `{(strange or ['past_key_values'])[0]}`; run this "
                "model with `use_cache=False`, or with a cache object of transformers"
            )
        seen = int(cache.get_seq_length()) if cache is not None else 0
        kept = getattr(cache, _MARK, None) if seen else None
        if seen and (kept is None or kept.shape[1] < seen or len(kept) != len(ids)):
            raise InvalidInputError("this cache does not hold the state of the rational head; start without a cache")
        mask = kwargs.get("attention_mask")
        mask = mask[:, -ids.shape[1] :].bool() if mask is not None and mask.ndim == 2 else None
        initial = None if kept is None else kept[:, seen - 1]
        after, begin = self.head.run(ids, mask=mask, initial=initial)
        self._features = self.head.shown(after, begin, state=self.state)
        self._states = after.detach() if kept is None else torch.cat([kept[:, :seen], after.detach()], 1)

    def _after(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        states, self._features, self._states = self._states, None, None
        cache = getattr(output, "past_key_values", None)
        if cache is None or states is None:
            return
        setattr(cache, _MARK, states)
        for name in _CHOOSERS:
            if hasattr(type(cache), name) and name not in vars(cache):
                setattr(cache, name, partial(_choose, cache, name))

    def _before_layer(
        self, index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        h = self._features
        if h is None:
            raise InvalidInputError(
                "a layer of this model was called outside of the model, which alone computes the state that it reads; "
                "call the model itself, not its base, without gradient checkpointing, or `.remove()` the head"
            )
        if args:
            return (self._added(index, args[0], h), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self._added(index, kwargs["hidden_states"], h)}

    def _added(self, index: int, x: Tensor, h: Tensor) -> Float[Tensor, "b t w"]:
        linear: Any = self.maps[index]
        return x + linear(h.to(linear.weight.dtype)).to(x.dtype)


def inject(model: nn.Module, head: Head | str | Path, *, state: str | None = None) -> Injection:
    """Let every layer of a Hugging Face decoder read the state of a rational head.

    Args:
        model: a causal model of `transformers` (any whose layers lie in one list and which reads `input_ids`); changed
            in place: head and maps become its submodule `rational`, trained with it.
        head: over at least the model's vocabulary; or the folder of a saved injection. For large vocabularies take
            `family="basis"`, whose matrices share a few, or a `FiniteHead` over your tokens.
        state: what is injected; None for `inclusive`, or for what a saved injection says.

    Returns:
        The injection: `.remove()` takes it out, `.save_pretrained(folder)` keeps it (beside the model's own
        `save_pretrained`).

    Raises:
        InvalidInputError: for a model without a list of layers, a head over another vocabulary, one that has a head
            already, or another `state` than that of a saved injection.

    Guarantee: before training the model's outputs are unchanged; with a cache, with left padding, with beams and where
        a cache is cropped, repeated or copied, generation gives what the whole forward pass gives, within rounding.
        Deep copies and pickles of the model have a head of their own.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from corollary.automata import RationalHead, inject
        >>> size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        >>> model = LlamaForCausalLM(LlamaConfig(vocab_size=32, **size))
        >>> injection = inject(model, RationalHead(32, 4, seed=0))
        >>> model(torch.tensor([[1, 2, 3]])).logits.shape
        torch.Size([1, 3, 32])

    Reference: arXiv:2602.07599, Eq. 5 and 6 (by public notes); hooks and cached states are ours.
    """
    layers = _layers_of(model)
    size = getattr(model, "config", None)
    width, vocabulary = getattr(size, "hidden_size", None), getattr(size, "vocab_size", None)
    if width is None or vocabulary is None:
        raise InvalidInputError(
            "the model's config names no `hidden_size` and `vocab_size`; use RationalTransductor instead"
        )
    if hasattr(model, "rational"):
        raise InvalidInputError(
            "this model has a rational head already; call `.remove()` and delete `model.rational` first"
        )
    if isinstance(head, Head):
        made = Injection(head, width=width, layers=len(layers), state=state or "inclusive")
    elif isinstance(head, str | Path):
        made = Injection.from_pretrained(head)
        if state not in (None, made.state):
            raise InvalidInputError(
                f"the saved injection shows the {made.state} state, `state` says {state!r}; leave `state` away"
            )
    else:
        raise InvalidInputError(
            f"a head over symbols, or the folder of a saved injection, is injected, got {type(head).__name__}"
        )
    if made.head.vocab_size < vocabulary or made.width != width or len(made.maps) != len(layers):
        raise InvalidInputError(
            f"the head reads {made.head.vocab_size} symbols for {len(made.maps)} layers of width {made.width}; the "
            f"model has {vocabulary}, {len(layers)} and {width}"
        )
    weight = next(model.parameters())
    made.to(weight.device)
    model.rational = made
    made._handles = [model.register_forward_pre_hook(made._before, with_kwargs=True)]
    made._handles.append(model.register_forward_hook(made._after, with_kwargs=True, always_call=True))
    made._handles += [  # methods and partials of them: copies of the model refer to the copied injection
        layer.register_forward_pre_hook(partial(made._before_layer, i), with_kwargs=True)
        for i, layer in enumerate(layers)
    ]
    return made


def _choose(cache: Any, name: str, rows: Any) -> None:
    """A method of a cache that chooses among its rows, which the states of the head follow."""
    getattr(type(cache), name)(cache, rows)
    states = getattr(cache, _MARK)
    if name == "batch_repeat_interleave":
        states = states.repeat_interleave(rows, 0)
    else:
        states = states.index_select(0, torch.as_tensor(rows, device=states.device))
    setattr(cache, _MARK, states)


def _layers_of(model: nn.Module) -> nn.ModuleList:
    wanted = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    found = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) and len(m) == (wanted or len(m))]
    if not found:
        raise InvalidInputError(
            f"no list of layers was found in {type(model).__name__}; use RationalTransductor instead"
        )
    return found[0]
