"""A model with heads of unlearning as a local upstream: heads are on unless a request may switch them, and does."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from corollary.errors import InvalidInputError
from corollary.serving._local import content_of, spoken
from corollary.unlearning import load_base
from corollary.unlearning._decode import Choice, stream
from corollary.unlearning._model import TemperTiltModel, Tilted, ends_of
from corollary.unlearning._opened import SETUP, Opened


class UnlearnedModel:
    """A `LocalModel` around a `TemperTiltModel`.

    Args:
        model: base and heads.
        tokenizer: of the base.
        switchable: heads that a request may switch; all others are always on.

    Raises:
        InvalidInputError: where a switchable head is none of the model's.

    Guarantee: a request that names no heads is answered with all of them on; no request switches off a head that is not
        switchable.
    """

    def __init__(self, model: TemperTiltModel, tokenizer: Any, *, switchable: Sequence[str] = ()) -> None:
        self.model, self.tokenizer, self.switchable = model, tokenizer, frozenset(switchable)
        if lost := sorted(self.switchable - set(model.heads)):
            known = ", ".join(model.heads) or "none"
            raise InvalidInputError(f"the unlearned model has no head {lost[0]!r}; it has: {known}")

    @classmethod
    def open(cls, folder: str | Path, *, switchable: Sequence[str] = ()) -> "UnlearnedModel":
        """From a run of `corollary unlearn fit`, or from a model saved with its base."""
        if (Path(folder) / SETUP).is_file():
            opened = Opened(Path(folder))
            return cls(opened.model(), opened.base[1], switchable=switchable)
        _, tokenizer = load_base(Path(folder) / "base")
        from corollary.models import load

        found: Any = load(folder)
        return cls(found, tokenizer, switchable=switchable)

    def prompt(self, messages: Sequence[dict[str, Any]] | str) -> Sequence[int]:
        """The last question of a conversation, as the base was taught to read one."""
        question = messages if isinstance(messages, str) else content_of(messages[-1])
        start = [] if self.tokenizer.start is None else [self.tokenizer.start]
        return [*start, *self.tokenizer.prompt(question.encode("utf-8", "replace").decode())]

    def stream(
        self, prompt: Sequence[int], *, max_tokens: int, temperature: float, top_p: float, seed: int,
        heads: tuple[str, ...] | None,
    ) -> Iterable[str]:  # fmt: skip
        """Pieces of text, one for each token."""
        on = [n for n in self.model.heads if heads is None or n not in self.switchable or n in heads]
        inputs = torch.tensor([list(prompt)], device=self.model.backbone.device)
        choice = Choice(max_tokens, temperature, top_p=max(top_p, 1e-6), seed=seed)
        with torch.no_grad():
            source = Tilted(self.model, inputs, torch.ones_like(inputs, dtype=torch.bool), self.model.switches(on, 1))
            yield from spoken(stream(source, choice, ends=ends_of(self.model.base)), self.tokenizer.decode)
