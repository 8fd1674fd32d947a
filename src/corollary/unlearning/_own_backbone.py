"""Our own language models as backbones: a `TransformerLM` by batches, any other `LanguageModel` by its stream.

Where a model has no hidden states (tables, say), the states are a fixed random embedding of the token just read: their
causal mean is a sketch of the counts of the tokens so far, and a head on it is a bag-of-words classifier. A composed
model shows the states of its experts side by side.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from corollary.errors import InvalidInputError
from corollary.models import LanguageModel
from corollary.models._transformer import TransformerLM, TransformerState
from corollary.unlearning._backbone import Backbone, Stream

SKETCH = 64


class OwnBackbone(Backbone):
    """A `LanguageModel` beneath a head; token 0 starts every sequence."""

    def __init__(self, model: LanguageModel) -> None:
        self.model: Any = model
        self.vocab_size = int(model.vocab_size)
        self.module = model if isinstance(model, nn.Module) else None
        self.sources = _sources(model)
        self.width = sum(m.config.width for m in self.sources) or SKETCH
        if not self.sources:
            generator = torch.Generator().manual_seed(0)
            self.sketch = torch.randn(self.vocab_size, SKETCH, generator=generator) / SKETCH**0.5

    def fingerprint(self) -> str:
        return self.model.fingerprint()

    def layers(self) -> nn.ModuleList:
        if isinstance(self.model, TransformerLM):
            return self.model.blocks
        return super().layers()

    def _whole(self, length: int) -> bool:
        return isinstance(self.model, TransformerLM) and length <= self.model.config.context

    def hidden(self, inputs: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        if self._whole(inputs.shape[1]):
            return self.model.states(inputs)
        if not self.sources:
            return self.sketch[inputs]
        return torch.cat([self._states_of(m, inputs) for m in self.sources], dim=-1)

    def _states_of(self, model: TransformerLM, inputs: Tensor) -> Tensor:
        if inputs.shape[1] <= model.config.context:
            return model.states(inputs)
        state, found = model.start(len(inputs)), []
        for t in range(inputs.shape[1]):
            state = model.advance(state, inputs[:, t].cpu().numpy()) if t else state
            found.append(model.next_hidden(state))
        return torch.stack(found, dim=1)

    def outputs(
        self, inputs: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"], rows: Bool[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "m vocab"]]:
        hidden = self.hidden(inputs, mask)
        if self._whole(inputs.shape[1]):
            return hidden, self.model.logits_of(hidden[rows])
        state, found = self.model.start(len(inputs)), []
        for t in range(inputs.shape[1]):
            state = self.model.advance(state, inputs[:, t].cpu().numpy()) if t else state
            found.append(torch.from_numpy(np.asarray(self.model.next_log_probs(state)))[rows[:, t].cpu()])
        row, column = rows.nonzero(as_tuple=True)
        order = torch.empty(len(row), dtype=torch.long)  # found runs along the columns, the result along the rows
        order[(column * len(inputs) + row).argsort()] = torch.arange(len(row))
        return hidden, torch.cat(found)[order].to(hidden)

    def open(self, inputs: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> "OwnStream":
        lengths = mask.sum(1)
        if (lengths == 0).any() or (inputs.gather(1, (inputs.shape[1] - lengths)[:, None]) != 0).any():
            raise InvalidInputError("every prompt of our own models starts with token 0; put it in front")
        return OwnStream(self, inputs, lengths)


def _sources(model: Any) -> list[TransformerLM]:
    """The networks within a model whose hidden states can be seen."""
    if isinstance(model, TransformerLM):
        return [model]
    experts = getattr(model, "experts", None)
    return [m for m in experts.values() if isinstance(m, TransformerLM)] if isinstance(experts, dict) else []


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
                state = model.start(len(rows))
                for t in range(1, n):
                    state = model.advance(state, tokens[:, t].cpu().numpy())
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
        if isinstance(self.backbone.model, TransformerLM):
            return self.backbone.model.next_hidden(state)
        experts = self.backbone.model.experts.values()
        pairs = zip(experts, state["models"], strict=False)  # anchors follow the experts
        return torch.cat([m.next_hidden(s) for m, s in pairs if isinstance(m, TransformerLM)], dim=-1)

    @torch.no_grad()
    def select(self, index: Int[Tensor, " k"]) -> None:
        self.history = [list(self.history[i]) for i in index.tolist()]
        if len(self.groups) == 1 and isinstance(self.groups[0][1], TransformerState):
            state, chosen = self.groups[0][1], index.to(self.hidden.device)
            state.window, state.log_probs = state.window[chosen], state.log_probs[chosen.cpu().numpy()]
            state.cache = [c[:, chosen] for c in state.cache]
            state.hidden, self.hidden, self.logits = state.hidden[chosen], self.hidden[chosen], self.logits[chosen]
            self.groups = [(np.arange(len(chosen)), state)]
        else:  # states of other models cannot be picked row by row
            self._read()
