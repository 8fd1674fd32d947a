"""Hugging Face causal models as backbones; `transformers` itself is imported only where its cache is made."""

import hashlib
import json
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from corollary.errors import InvalidInputError
from corollary.unlearning._backbone import Backbone, Stream


class HFBackbone(Backbone):
    """Any model of the library with a decoder and an output layer; states are `hidden_states[-1]`."""

    def __init__(self, model: Any) -> None:
        if getattr(model.config, "is_encoder_decoder", False) or model.get_output_embeddings() is None:
            raise InvalidInputError(
                f"{type(model).__name__} has no output layer with states before it; give a causal language model, or "
                "the LanguageModel that it wraps"
            )
        self.model: Any = model.eval()  # a frozen base has no dropout
        self.module = model
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self.width = int(model.get_output_embeddings().weight.shape[1])

    def fingerprint(self) -> str:
        config = {k: v for k, v in self.model.config.to_dict().items() if k not in _INCIDENTAL}
        state = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            state.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
            state.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return state.hexdigest()

    def layers(self) -> nn.ModuleList:
        body = self.model.base_model
        for name in ("layers", "h", "blocks"):
            if isinstance(getattr(body, name, None), nn.ModuleList):
                return getattr(body, name)
        return super().layers()

    def hidden(self, inputs: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        require_positions(self.model, int(mask.sum(1).max()))
        asked = {"attention_mask": mask.long(), "position_ids": _positions(mask), "use_cache": False}
        return self.model.base_model(input_ids=inputs, **asked).last_hidden_state

    def outputs(
        self, inputs: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"], rows: Bool[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "m vocab"]]:
        require_positions(self.model, int(mask.sum(1).max()))
        asked = {"attention_mask": mask.long(), "position_ids": _positions(mask), "use_cache": False}
        found = self.model(input_ids=inputs, output_hidden_states=True, **asked)
        return found.hidden_states[-1], found.logits[rows]

    @torch.no_grad()
    def open(self, inputs: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> "HFStream":
        return HFStream(self.model, inputs, mask)


_INCIDENTAL = {"_name_or_path", "transformers_version", "architectures", "torch_dtype", "dtype", "use_cache"}


def _positions(mask: Bool[Tensor, "b t"]) -> Int[Tensor, "b t"]:
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def require_positions(model: Any, length: int) -> None:
    """Refuse sequences longer than a table of absolute positions; rotary models have none."""
    table = getattr(model.base_model, "wpe", None)
    if isinstance(table, nn.Embedding) and length > table.num_embeddings:
        raise InvalidInputError(
            f"a sequence has {length} tokens, the model has {table.num_embeddings} positions; shorten the texts, or "
            "generate fewer tokens"
        )


class HFStream(Stream):
    """Keys and values in the library's own cache; padding stays masked for ever."""

    def __init__(self, model: Any, inputs: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> None:
        from transformers import DynamicCache

        self.model, self.mask = model, mask.long()
        self.cache: Any = DynamicCache(config=model.config)
        self._forward(inputs, _positions(mask))

    def _forward(self, inputs: Tensor, positions: Tensor) -> None:
        require_positions(self.model, int(positions.max()) + 1)
        found = self.model(
            input_ids=inputs,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            output_hidden_states=True,
        )
        self.cache = found.past_key_values
        self.hidden, self.logits = found.hidden_states[-1], found.logits[:, -1]

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, " b"]) -> None:
        positions = self.mask.sum(1, keepdim=True)
        self.mask = torch.cat([self.mask, torch.ones_like(positions)], dim=1)
        self._forward(tokens[:, None], positions)

    @torch.no_grad()
    def select(self, index: Int[Tensor, " k"]) -> None:
        index = index.to(self.mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self.hidden, self.logits = self.mask[index], self.hidden[index], self.logits[index]
