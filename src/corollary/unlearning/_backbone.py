"""The frozen model beneath a head: hidden states, logits, and a stream with a cache, alike for all kinds of model."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from corollary.errors import InvalidInputError


class Stream(ABC):
    """B sequences being read: the states of what was read last, and the logits of what comes next."""

    hidden: Float[Tensor, "b t_new d"]
    logits: Float[Tensor, "b vocab"]

    @abstractmethod
    def step(self, tokens: Int[Tensor, " b"]) -> None:
        """Read one more token of each sequence."""

    @abstractmethod
    def select(self, index: Int[Tensor, " k"]) -> None:
        """Go on with these sequences, some perhaps several times (beams)."""


class Backbone(ABC):
    """What heads, trainers and generation ask of a base model.

    Inputs are token ids (B, T) with a mask that is False at padding; states are those behind the last norm.
    """

    vocab_size: int
    width: int
    module: nn.Module | None  # what fine-tuning changes; None where the model is no network

    @abstractmethod
    def hidden(self, inputs: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        """Hidden states alone."""

    @abstractmethod
    def outputs(
        self, inputs: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"], rows: Bool[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b t d"], Float[Tensor, "m vocab"]]:
        """Hidden states, and logits at the positions `rows`, in row-major order."""

    @abstractmethod
    def open(self, inputs: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> Stream:
        """Read prompts that are padded at the left."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of configuration and weights."""

    def layers(self) -> nn.ModuleList:
        """The blocks of the network."""
        raise InvalidInputError("this model has no layers to look into; give a TransformerLM or a Hugging Face model")

    @property
    def device(self) -> torch.device:
        """Where the inputs must be."""
        return next(self.module.parameters()).device if self.module is not None else torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden states, at least float32."""
        kind = next(self.module.parameters()).dtype if self.module is not None else torch.float32
        return kind if kind in (torch.float32, torch.float64) else torch.float32

    def require_module(self) -> nn.Module:
        """The network, or an error where there is none."""
        if self.module is None:
            raise InvalidInputError(
                "fine-tuning needs a TransformerLM or a Hugging Face model; for other models fit a TemperTiltHead"
            )
        return self.module


def backbone_of(model: Any) -> Backbone:
    """The backbone of a Hugging Face causal model or of any `corollary.models.LanguageModel`.

    Raises:
        InvalidInputError: for anything else.
    """
    if isinstance(model, Backbone):
        return model
    if isinstance(model, nn.Module) and hasattr(model, "base_model") and hasattr(model, "get_output_embeddings"):
        from corollary.unlearning._hf_backbone import HFBackbone

        return HFBackbone(model)
    from corollary.models import LanguageModel

    if isinstance(model, LanguageModel):
        from corollary.unlearning._own_backbone import OwnBackbone

        return OwnBackbone(model)
    raise InvalidInputError(
        f"`model` must be a Hugging Face causal model or a corollary LanguageModel, got {type(model).__name__}"
    )


def left_aligned(
    inputs: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"]
) -> tuple[Int[Tensor, "b t_real"], Bool[Tensor, "b t_real"]]:
    """The same rows with all padding moved to the left, so that every sequence ends in the last column, and cut."""
    order = mask.long().argsort(dim=1, stable=True)
    longest = int(mask.sum(1).max())
    return inputs.gather(1, order)[:, -longest:], mask.gather(1, order)[:, -longest:]
