"""Our own language models as backbones: networks by batches, any other `LanguageModel` by its stream.

A network shows its states: it has `width`, `states(inputs)`, `next_hidden(state)` and perhaps `context`, as
`TransformerLM` and the experts of Hugging Face do. A composed model shows those of its experts side by side. Where
there are none (tables, say), the states are a fixed random embedding of the token just read: their causal mean is a
sketch of the counts of the tokens so far, and a head on it is a bag-of-words classifier.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from corollary.errors import InvalidInputError
from corollary.models import LanguageModel, extend, select_rows
from corollary.models._transformer import TransformerLM
from corollary.unlearning._backbone import Backbone, Stream

SKETCH = 64


class OwnBackbone(Backbone):
    """A `LanguageModel` beneath a head; token 0 starts every sequence."""

    def __init__(self, model: LanguageModel) -> None:
        self.model: Any = model
        self.vocab_size = int(model.vocab_size)
        self.module = model if isinstance(model, nn.Module) else None
        self.sources = _sources(model)
        self.width = sum(_width(m) for m in self.sources) or SKETCH
        if not self.sources:
            generator = torch.Generator().manual_seed(0)
            self.sketch = torch.randn(self.vocab_size, SKETCH, generator=generator) / SKETCH**0.5

    def fingerprint(self) -> str:
        return self.model.fingerprint()

    def layers(self) -> nn.ModuleList:
        if isinstance(self.model, TransformerLM):
            return self.model.blocks
        return super().layers()

    @property
    def device(self) -> torch.device:
        """Where the inputs must be."""
        found = getattr(self.model, "device", None)
        return found if isinstance(found, torch.device) else super().device

    def _whole(self, length: int) -> bool:
        """Whether states and logits come from one pass over all positions."""
        able = hasattr(self.model, "states_and_logits") or hasattr(self.model, "logits_of")
        return able and _shows_states(self.model) and length <= _context(self.model)

    def hidden(self, inputs: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        if not self.sources:
            return self.sketch[inputs]
        found = [self._states_of(m, inputs) for m in self.sources]
        return found[0] if len(found) == 1 else torch.cat([f.to(self.dtype) for f in found], dim=-1)

    def _states_of(self, model: Any, inputs: Tensor) -> Tensor:
        if inputs.shape[1] <= _context(model):
            return model.states(inputs).to(inputs.device)
        state, found = model.start(len(inputs)), []
        for t in range(inputs.shape[1]):
            state = model.advance(state, inputs[:, t].cpu().numpy()) if t else state
            found.append(model.next_hidden(state))
        return torch.stack(found, dim=1).to(inputs.device)

    def outputs(
        self, inputs: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"], rows: Bool[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "m vocab"]]:
        if self._whole(inputs.shape[1]):
            if hasattr(self.model, "states_and_logits"):
                return self.model.states_and_logits(inputs, rows)
            hidden = self.model.states(inputs)
            return hidden, self.model.logits_of(hidden[rows])
        hidden, state, found = self.hidden(inputs, mask), self.model.start(len(inputs)), []
        for t in range(inputs.shape[1]):
            state = self.model.advance(state, inputs[:, t].cpu().numpy()) if t else state
            found.append(torch.from_numpy(np.asarray(self.model.next_log_probs(state)))[rows[:, t].cpu()])
        row, column = rows.nonzero(as_tuple=True)
        order = torch.empty(len(row), dtype=torch.long)  # found runs along the columns, the result along the rows
        order[(column * len(inputs) + row).argsort()] = torch.arange(len(row))
        return hidden, torch.cat(found)[order].to(device=inputs.device, dtype=self.dtype)

    def open(self, inputs: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> "OwnStream":
        lengths = mask.sum(1)
        if (lengths == 0).any() or (inputs.gather(1, (inputs.shape[1] - lengths)[:, None]) != 0).any():
            raise InvalidInputError("every prompt of our own models starts with token 0; put it in front")
        return OwnStream(self, inputs, lengths)


def _shows_states(model: Any) -> bool:
    return hasattr(model, "next_hidden") and callable(getattr(model, "states", None))


def _sources(model: Any) -> list[Any]:
    """The networks within a model whose hidden states can be seen."""
    if _shows_states(model):
        return [model]
    composed = hasattr(model, "components")  # of which every expert reads every token
    return [m for m in model.experts.values() if _shows_states(m)] if composed else []


def _width(model: Any) -> int:
    return int(model.width if hasattr(model, "width") else model.config.width)


def _context(model: Any) -> float:
    """How many tokens `states` reads at once; more are read as a stream."""
    found = getattr(model, "context", None) or getattr(getattr(model, "config", None), "context", None)
    return float("inf") if found is None else float(found)


def _selectable(state: Any) -> bool:
    """Whether rows of a state can be chosen; others are read again."""
    if isinstance(state, dict) and "models" in state:
        return all(map(_selectable, state["models"]))
    return isinstance(state, np.ndarray) or hasattr(state, "select_rows")


class OwnStream(Stream):
    """Streams of the model, one for each length of prompt, so that no padding is ever read."""

    def __init__(self, backbone: OwnBackbone, inputs: Int[Tensor, "b t"], lengths: Int[Tensor, " b"]) -> None:
        self.backbone = backbone
        self.history = [row[len(row) - n :].tolist() for row, n in zip(inputs, lengths.tolist(), strict=True)]
        self._read()

    @torch.no_grad()
    def _read(self) -> None:
        """Read all histories from their beginning."""
        model = self.backbone.model
        lengths = np.array([len(h) for h in self.history])
        self.groups: list[tuple[np.ndarray, Any]] = []
        self.hidden = torch.zeros(len(lengths), int(lengths.max()), self.backbone.width, dtype=self.backbone.dtype)
        self.hidden = self.hidden.to(self.backbone.device)
        for n in np.unique(lengths):
            rows = np.flatnonzero(lengths == n)
            tokens = torch.tensor([self.history[i] for i in rows], device=self.backbone.device)
            if isinstance(model, TransformerLM) and n <= model.config.context:
                state: Any = model._read(tokens)
                states = state.hidden
            else:
                state = extend(model, model.start(len(rows)), tokens[:, 1:].cpu().numpy())
                states = self.backbone.hidden(tokens, torch.ones_like(tokens, dtype=torch.bool))
            self.hidden[rows, -int(n) :] = states.to(self.hidden)
            self.groups.append((rows, state))
        self._collect()

    def _collect(self) -> None:
        found = [torch.from_numpy(np.asarray(self.backbone.model.next_log_probs(s))) for _, s in self.groups]
        rows = np.concatenate([r for r, _ in self.groups])
        self.logits = torch.cat(found)[np.argsort(rows)].to(self.hidden)

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, " b"]) -> None:
        chosen = tokens.cpu().numpy()
        for history, token in zip(self.history, chosen.tolist(), strict=True):
            history.append(token)
        model = self.backbone.model
        self.groups = [(rows, model.advance(state, chosen[rows])) for rows, state in self.groups]
        rows = np.concatenate([r for r, _ in self.groups])
        if self.backbone.sources:
            states = torch.cat([self._last(state) for _, state in self.groups])[np.argsort(rows)]
        else:
            states = self.backbone.sketch[tokens.cpu()]
        self.hidden = states[:, None].to(self.hidden)
        self._collect()

    def _last(self, state: Any) -> Tensor:
        model = self.backbone.model
        if _shows_states(model):
            return model.next_hidden(state)
        pairs = zip(model.experts.values(), state["models"], strict=False)  # anchors follow the experts
        return torch.cat([m.next_hidden(s).to(self.hidden) for m, s in pairs if _shows_states(m)], dim=-1)

    @torch.no_grad()
    def select(self, index: Int[Tensor, " k"]) -> None:
        self.history = [list(self.history[i]) for i in index.tolist()]
        if not all(_selectable(state) for _, state in self.groups):
            self._read()
            return
        chosen, groups = index.cpu().numpy(), []
        for rows, state in self.groups:
            mine = np.flatnonzero(np.isin(chosen, rows))
            if len(mine):
                groups.append((mine, select_rows(state, np.searchsorted(rows, chosen[mine]))))
        self.groups = groups
        at = index.to(self.hidden.device)
        self.hidden, self.logits = self.hidden[at], self.logits[at]
