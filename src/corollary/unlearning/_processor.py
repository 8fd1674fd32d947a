"""Heads inside a foreign `generate`: a logits processor that sees the base's hidden states through a hook."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.unlearning._model import TemperTiltModel


class TemperTiltProcessor:
    r"""Temper and tilt the scores of Hugging Face's own `generate`: greedy, sampling, beams, whatever it offers.

    Use it as a context, so that the hook is taken away again. Rows that its beams reorder are found again by their
    prefixes.

    Args:
        model: heads on a Hugging Face causal model, whose `generate` is then called.
        heads: names of the heads that are on; all by default.
        attention_mask: (B, T) of the prompts, where they are padded.

    Raises:
        InvalidInputError: for a base that is not of Hugging Face.

    Guarantee: the tokens are those of `TemperTiltModel.generate` with the same options (tested for greedy and beams).

    Example:
        >>> TemperTiltProcessor.__call__.__name__
        '__call__'

    Reference: arXiv:2602.10217 (abstract read); the official code has no processor.
    """

    def __init__(
        self, model: TemperTiltModel, *, heads: Any = None, attention_mask: Int[Tensor, "b t"] | None = None
    ) -> None:
        body = getattr(model.base, "base_model", None)
        if body is None or not hasattr(model.base, "generate"):
            raise InvalidInputError(
                "a processor needs a Hugging Face base; other models are served by TemperTiltModel.generate"
            )
        self.model, self.heads, self.mask = model, heads, attention_mask
        self._body: Any = body
        self._handle: Any = None
        self._hidden: Tensor | None = None
        self._ids: Tensor | None = None

    def __enter__(self) -> "TemperTiltProcessor":
        def keep(module: Any, arguments: Any, output: Any) -> None:
            self._hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state

        self._handle, self._ids = self._body.register_forward_hook(keep), None
        return self

    def __exit__(self, *rest: object) -> None:
        self._handle.remove()
        self._handle, self._hidden, self._ids = None, None, None

    @torch.no_grad()
    def __call__(self, input_ids: Int[Tensor, "b t"], scores: Float[Tensor, "b vocab"]) -> Float[Tensor, "b vocab"]:
        """Log-probabilities of the tilted model in place of the base's scores."""
        if self._hidden is None:
            raise InvalidInputError("no hidden state was seen; call generate inside `with TemperTiltProcessor(...)`")
        hidden = self._hidden.float() if self._hidden.dtype != torch.float64 else self._hidden
        if hidden.shape[1] > 1 or self._ids is None:  # the prompt, or everything again without a cache
            mask = self._whole(input_ids)[:, -hidden.shape[1] :, None]
            self._sum, self._count = (hidden * mask).sum(1), mask.sum(1).to(hidden)
        else:
            same = (input_ids[:, None, :-1] == self._ids[None]).all(-1)
            if not same.any(1).all():
                raise InvalidInputError("a row continues none of those before; one generate at a time, please")
            origin = same.long().argmax(1)
            self._sum, self._count = self._sum[origin] + hidden[:, -1], self._count[origin] + 1
        self._ids = input_ids
        switched = self._switched(len(input_ids))
        return self.model.next_token(scores, self._sum / self._count, switched).to(scores.dtype)

    def _whole(self, input_ids: Int[Tensor, "b t"]) -> Bool[Tensor, "b t"]:
        if self.mask is None:
            return torch.ones_like(input_ids, dtype=torch.bool)
        mask = self.mask.bool().repeat_interleave(len(input_ids) // len(self.mask), 0)
        written = torch.ones(len(mask), input_ids.shape[1] - mask.shape[1], dtype=torch.bool, device=mask.device)
        return torch.cat([mask, written], dim=1)

    def _switched(self, rows: int) -> Bool[Tensor, "b heads"]:
        per_row = self.heads is not None and bool(self.heads) and not isinstance(self.heads[0], str)
        if not per_row:
            return self.model.switches(self.heads, rows)
        given = self.model.switches(self.heads, len(self.heads))
        return given.repeat_interleave(rows // len(given), 0)
