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
        attention_mask: (B, T) of the prompts, where they are padded; by default the one that `generate` works with.

    Raises:
        InvalidInputError: for a base that is not of Hugging Face; inside `generate` for drafts of several tokens, and
            for keys and values that were read outside of the context.

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
        self._new: list[Tensor] = []  # states read since the last call: one chunk, or several of a long prompt
        self._seen: Any = None  # the mask that came with the last of them
        self._ids: Tensor | None = None
        self._sum = self._count = torch.zeros(0)  # of the states so far, and of their positions

    def __enter__(self) -> "TemperTiltProcessor":
        def keep(module: Any, arguments: Any, options: Any, output: Any) -> None:
            self._new.append(output[0] if isinstance(output, tuple) else output.last_hidden_state)
            self._seen = options.get("attention_mask")

        self._handle = self._body.register_forward_hook(keep, with_kwargs=True)
        return self

    def __exit__(self, *rest: object) -> None:
        self._handle.remove()
        self._handle, self._new, self._seen, self._ids = None, [], None, None

    @torch.no_grad()
    def __call__(self, input_ids: Int[Tensor, "b t"], scores: Float[Tensor, "b vocab"]) -> Float[Tensor, "b vocab"]:
        """Log-probabilities of the tilted model in place of the base's scores."""
        if not self._new:
            raise InvalidInputError(
                "no new hidden state was seen; call generate inside `with TemperTiltProcessor(...)`, without drafts of "
                "several tokens (assistant, prompt lookup)"
            )
        hidden = torch.cat(self._new, dim=1)
        hidden, self._new = hidden if hidden.dtype == torch.float64 else hidden.float(), []
        new, length = hidden.shape[1], input_ids.shape[1]
        mask = self._whole(input_ids)[:, -new:, None]
        if mask.shape[:2] != hidden.shape[:2]:
            raise InvalidInputError(
                f"the model read {tuple(hidden.shape[:2])} tokens of {tuple(input_ids.shape)}; drafts of several "
                "tokens (assistant, prompt lookup) are not served"
            )
        total, count = (hidden * mask).sum(1), mask.sum(1).to(hidden)
        if new < length:  # what follows upon what was read before
            origin = self._origin(input_ids[:, : length - new])
            total, count = self._sum[origin] + total, self._count[origin] + count
        self._sum, self._count, self._ids = total, count, input_ids
        return self.model.next_token(scores, total / count, self._switched(len(input_ids))).to(scores.dtype)

    def _origin(self, before: Int[Tensor, "b t"]) -> Int[Tensor, " b"]:
        """Which of the last rows each row continues."""
        if self._ids is not None and self._ids.shape[1] == before.shape[1]:
            same = (before[:, None] == self._ids[None]).all(-1)
            if same.any(1).all():
                return same.long().argmax(1)
        raise InvalidInputError(
            "keys and values came from elsewhere: a row continues none that this processor saw last; do all of it "
            "inside one `with`, or leave out past_key_values"
        )

    def _whole(self, input_ids: Int[Tensor, "b t"]) -> Bool[Tensor, "b t"]:
        if self.mask is None:
            given = isinstance(self._seen, Tensor) and self._seen.shape == input_ids.shape
            return self._seen.bool() if given else torch.ones_like(input_ids, dtype=torch.bool)
        if len(input_ids) % len(self.mask) or self.mask.shape[1] > input_ids.shape[1]:
            raise InvalidInputError(
                f"`attention_mask` is of {tuple(self.mask.shape)} tokens, the prompts are not; leave it out, and that "
                "given to generate is taken"
            )
        mask = self.mask.bool().repeat_interleave(len(input_ids) // len(self.mask), 0)
        written = torch.ones(len(mask), input_ids.shape[1] - mask.shape[1], dtype=torch.bool, device=mask.device)
        return torch.cat([mask, written], dim=1)

    def _switched(self, rows: int) -> Bool[Tensor, "b heads"]:
        per_row = self.heads is not None and bool(self.heads) and not isinstance(self.heads[0], str)
        if not per_row:
            return self.model.switches(self.heads, rows)
        given = self.model.switches(self.heads, len(self.heads))
        return given.repeat_interleave(rows // len(given), 0)
