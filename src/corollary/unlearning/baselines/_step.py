"""One batch through the trained model, and what the terms of a loss may ask about it."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from corollary.errors import InvalidInputError
from corollary.unlearning._backbone import Backbone
from corollary.unlearning._examples import Batch


class Step:
    r"""A batch of B sequences with M answer tokens in all.

    Args:
        backbone: the model in training.
        batch: the sequences.
        frozen: the model as it was before, theta_0; None where no term asks for it.
        alternative: the same questions with refusals in place of the answers.
        trained: whether gradients flow.

    Guarantee: none; a container that computes each thing once, when it is asked for.

    Example:
        >>> from corollary.models import TransformerConfig, TransformerLM
        >>> from corollary.unlearning import ByteTokenizer, Examples
        >>> from corollary.unlearning._backbone import backbone_of
        >>> model = TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=16))
        >>> examples = Examples.from_pairs([{"question": "a", "answer": "bc"}], ByteTokenizer())
        >>> Step(backbone_of(model), examples.batch([0])).nll.shape
        torch.Size([3])
    """

    def __init__(
        self,
        backbone: Backbone,
        batch: Batch,
        *,
        frozen: Backbone | None = None,
        alternative: "Step | None" = None,
    ) -> None:
        self.backbone, self.batch = backbone, batch.to(backbone.device)
        self._frozen, self._alternative = frozen, alternative
        self.size = len(batch.inputs)
        self.targets: Int[Tensor, " m"] = self.batch.targets[self.batch.scored]
        self.owner: Int[Tensor, " m"] = self.batch.scored.nonzero()[:, 0]

    @cached_property
    def logits(self) -> Float[Tensor, "m vocab"]:
        """Logits at the answer tokens."""
        return self.backbone.outputs(self.batch.inputs, self.batch.mask, self.batch.scored)[1]

    @cached_property
    def nll(self) -> Float[Tensor, " m"]:
        """Negative log-likelihood of each answer token."""
        return functional.cross_entropy(self.logits, self.targets, reduction="none")

    @property
    def mean_nll(self) -> Float[Tensor, ""]:
        """Mean over all answer tokens of the batch."""
        return self.nll.mean()

    def per_sequence(self, values: Float[Tensor, " m"], *, mean: bool = False) -> Float[Tensor, " b"]:
        """Sum, or mean, over the answer tokens of each sequence."""
        total = values.new_zeros(self.size).index_add(0, self.owner, values)
        return total / torch.bincount(self.owner, minlength=self.size) if mean else total

    @property
    def frozen(self) -> "Step":
        """The same batch through the model as it was."""
        return self._frozen_step

    @cached_property
    def _frozen_step(self) -> "Step":
        if self._frozen is None:
            raise InvalidInputError("this term compares with the model as it was; its `needs_frozen` must be True")
        step = Step(self._frozen, self.batch)
        with torch.no_grad():
            _ = step.nll
        return step

    @property
    def alternative(self) -> "Step":
        """The same questions with refusals."""
        if self._alternative is None:
            raise InvalidInputError("this term needs refusals; give `alternatives`, one for each sequence to forget")
        return self._alternative

    def activations(self, layer: int) -> Float[Tensor, "b t d"]:
        """What comes out of one block."""
        found: list[Any] = []

        def keep(module: Any, inputs: Any, output: Any) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)

        handle = self.backbone.layers()[layer].register_forward_hook(keep)
        try:
            self.backbone.hidden(self.batch.inputs, self.batch.mask)
        finally:
            handle.remove()
        return found[0]


@runtime_checkable
class Term(Protocol):
    """A part of a loss: a number from a step; `needs_frozen` and `needs_alternative` say what it asks for.

    Guarantee: none.

    Example:
        >>> from corollary.unlearning import baselines
        >>> baselines.GradAscent().needs_frozen
        False
    """

    needs_frozen: ClassVar[bool]
    needs_alternative: ClassVar[bool]

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The loss of a batch."""
        ...


Progress = Callable[[int, int], object]
