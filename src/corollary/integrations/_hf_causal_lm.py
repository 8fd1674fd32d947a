"""Any language model of this library, composed ones among them, as a model of transformers: `generate` and files.

Ids are those of the tokenizer; inside, token 0 ends a document (see `HFExpert`). Every document of this library starts
with the start token of its tokenizer: one in front of a row stands for that start and is not read twice; a row without
one is read as if it stood there. Rows of a batch may be padded at the left, as transformers asks for: rows of one
length form one stream, so that no pad is ever read.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from corollary.errors import InvalidInputError
from corollary.models import extend, load, select_rows
from corollary.models._speakers import parts_of


class CorollaryConfig(PreTrainedConfig):
    """What transformers needs to know of a language model of this library.

    Guarantee: none.

    Example:
        >>> CorollaryConfig(vocab_size=256, eos_token_id=0).vocab_size
        256
    """

    model_type = "corollary"

    def __init__(self, vocab_size: int = 256, eos_token_id: int | None = 0, **more: Any) -> None:
        self.vocab_size = vocab_size
        more.setdefault("pad_token_id", eos_token_id)
        super().__init__(eos_token_id=eos_token_id, **more)


class Streams:
    """What the rows of a batch have read: one state for the rows of each length."""

    def __init__(self) -> None:
        self.groups: list[tuple[np.ndarray, Any]] = []
        self.seen = 0  # columns of the padded batch

    def get_seq_length(self, *_: Any) -> int:
        """Columns read, pads included."""
        return self.seen

    def reorder(self, rows: np.ndarray) -> None:
        """Row i becomes what row `rows[i]` was."""
        groups = []
        for own, state in self.groups:
            place = {int(r): i for i, r in enumerate(own)}
            wanted = [(i, place[int(r)]) for i, r in enumerate(rows) if int(r) in place]
            if wanted:
                new, old = (np.array(column) for column in zip(*wanted, strict=True))
                groups.append((new, select_rows(state, old)))
        self.groups = groups


class CorollaryForCausalLM(PreTrainedModel, GenerationMixin):
    """A `LanguageModel` with the interface of transformers: `generate` (greedy, sampling, beams), `from_pretrained`.

    Args:
        config: made from the model where it is left out.
        model: any language model of this library; `ComposedLM` of `HFExpert`s above all.

    Raises:
        InvalidInputError: for inputs that are not token ids, or pads elsewhere than at the left.

    Guarantee: logits are the model's log-probabilities, so whatever holds of those holds here; padding changes nothing.
        Around one `HFExpert` they are, up to a constant a row, those of its own model on the same ids where these begin
        with the start token (`bos`) and fit its context; ids without one are read as if it stood in front.

    Example:
        >>> import numpy as np, torch
        >>> from corollary.documents import Documents
        >>> from corollary.models import NgramModel
        >>> inner = NgramModel.fit(Documents.from_texts(["tick tock " * 9]))
        >>> model = CorollaryForCausalLM.wrap(inner)
        >>> prompt = torch.tensor([list(b"tick ")])
        >>> bytes(model.generate(prompt, max_new_tokens=4, do_sample=False)[0].tolist())
        b'tick tock'

    Reference: the public interface of transformers 5.
    """

    config_class = CorollaryConfig
    main_input_name = "input_ids"
    _supports_cache_class = False
    tokenizer: Any = None

    def __init__(self, config: CorollaryConfig, model: Any = None) -> None:
        super().__init__(config)
        self.inner = [model]  # in a list: no submodule, its weights are saved in its own form
        self.anchor = torch.nn.Parameter(torch.zeros(()), requires_grad=False)  # says where the model is
        self.post_init()

    @classmethod
    def wrap(cls, model: Any) -> "CorollaryForCausalLM":
        """The model of transformers around a language model."""
        parts = list(parts_of(model))
        end = next((m.end for m in parts if hasattr(m, "end")), 0)
        begin = next((m.begin for m in parts if hasattr(m, "begin")), None)
        tokenizer = next((m.tokenizer for m in parts if getattr(m, "tokenizer", None) is not None), None)
        made = cls(CorollaryConfig(model.vocab_size, end, bos_token_id=begin), model)
        made.tokenizer = tokenizer
        made.generation_config = GenerationConfig(bos_token_id=begin, eos_token_id=end, pad_token_id=end)
        return made

    def _supports_default_dynamic_cache(self) -> bool:
        return False

    def _swap(self, ids: np.ndarray) -> np.ndarray:
        end = self.config.eos_token_id
        return np.where(ids == 0, end, np.where(ids == end, 0, ids))

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Streams | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, T, V) after each token, or after the last `logits_to_keep`; ids read before are not read again."""
        past = past_key_values if past_key_values is not None else Streams()
        ids = input_ids.detach().cpu().numpy()
        if ids.ndim != 2 or ids.size == 0 or ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise InvalidInputError(
                f"`input_ids` must be (B, T) ids below {self.config.vocab_size}, got shape {tuple(ids.shape)}"
            )
        keep = ids.shape[1] if logits_to_keep == 0 else min(logits_to_keep, ids.shape[1])
        first = ids.shape[1] - self._lengths(attention_mask, ids, past)  # of each row, the column of its first token
        if not past.groups:
            begun = ids[np.arange(len(ids)), np.clip(first, 0, ids.shape[1] - 1)] == self.config.bos_token_id
            past.groups, first = self._begin(ids, attention_mask, begun), first + begun
        tokens = self._swap(ids)
        logits = np.zeros((*ids.shape[:1], keep, self.config.vocab_size))
        for g, (rows, state) in enumerate(past.groups):
            mine = tokens[rows][:, first[rows[0]] :]
            read = max(0, mine.shape[1] - keep)
            if mine.shape[1] < keep and first[rows[0]] > 0:  # behind the start token; columns of pads are not looked at
                logits[rows, keep - mine.shape[1] - 1] = self.inner[0].next_log_probs(state)
            state = extend(self.inner[0], state, mine[:, :read])
            for t in range(read, mine.shape[1]):
                state = extend(self.inner[0], state, mine[:, t : t + 1])
                logits[rows, keep - mine.shape[1] + t] = self.inner[0].next_log_probs(state)
            past.groups[g] = (rows, state)
        past.seen += ids.shape[1]
        end = self.config.eos_token_id
        logits[:, :, [0, end]] = logits[:, :, [end, 0]]
        found = torch.from_numpy(logits).to(input_ids.device)
        return CausalLMOutputWithPast(
            loss=None if labels is None else _loss(found, labels), logits=found, past_key_values=past
        )

    def _lengths(self, mask: Tensor | None, ids: np.ndarray, past: Streams) -> np.ndarray:
        """How many of these columns each row really has."""
        if mask is None or past.seen:
            return np.full(len(ids), ids.shape[1])
        return mask.sum(1).cpu().numpy()

    def _begin(self, ids: np.ndarray, mask: Tensor | None, begun: np.ndarray) -> list[tuple[np.ndarray, Any]]:
        """One stream for the rows of each number of tokens, less the start token where a row has it."""
        lengths = self._lengths(mask, ids, Streams())
        if mask is not None:
            given = mask.cpu().numpy() != 0
            left = np.arange(ids.shape[1])[None] >= ids.shape[1] - lengths[:, None]
            if given.shape != ids.shape or (given != left).any() or (lengths == 0).any():
                raise InvalidInputError(
                    "pads must stand at the left of each row and leave at least one token; set"
                    " `tokenizer.padding_side = 'left'`"
                )
        found, lengths = [], lengths - begun
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            found.append((rows, self.inner[0].start(len(rows))))
        return found

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, past_key_values: Streams | None = None, attention_mask: Any = None, **more: Any
    ) -> dict[str, Any]:
        """Only the columns that were not read yet, and only the last logits."""
        seen = past_key_values.seen if past_key_values is not None else 0
        return {
            "input_ids": input_ids[:, seen:],
            "attention_mask": attention_mask,
            "past_key_values": past_key_values,
            "logits_to_keep": 1,
        }

    def _reorder_cache(self, past_key_values: Streams, beam_idx: Tensor) -> Streams:
        past_key_values.reorder(beam_idx.cpu().numpy())
        return past_key_values

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Write the configuration, the tokenizer where there is one, and the model in its own form (`corollary/`)."""
        target = Path(save_directory)
        self.inner[0].save(target / "corollary")
        self.config.save_pretrained(target)
        self.generation_config.save_pretrained(target)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(target)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *_: Any, **__: Any) -> "CorollaryForCausalLM":
        """Read what `save_pretrained` wrote; hashes are checked as `corollary.models.load` does."""
        source = Path(pretrained_model_name_or_path)
        made = cls.wrap(load(source / "corollary"))
        if made.tokenizer is None and (source / "tokenizer_config.json").exists():
            made.tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=True)
        return made


def _loss(log_probs: Float[Tensor, "b t v"], labels: Tensor) -> Tensor:
    """Mean negative log-probability of the labels after the first, -100 left out."""
    return functional.nll_loss(log_probs[:, :-1].flatten(0, 1), labels[:, 1:].flatten().to(log_probs.device))


AutoConfig.register("corollary", CorollaryConfig, exist_ok=True)
AutoModelForCausalLM.register(CorollaryConfig, CorollaryForCausalLM, exist_ok=True)
