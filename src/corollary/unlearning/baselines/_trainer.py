"""One trainer for all fine-tuning: forget term and retain term, summed; and plain training for bases and retraining."""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from corollary.errors import InvalidInputError
from corollary.unlearning._backbone import Backbone, backbone_of
from corollary.unlearning._examples import Examples, check_sets
from corollary.unlearning.baselines._step import Progress, Step


@dataclass(frozen=True)
class Unlearned:
    """A fine-tuned copy and what it took.

    Args:
        model: the copy; the model given stays as it was.
        seconds: of training alone.
        trained: parameters that were trained.
        losses: of every step.

    Guarantee: none.

    Example:
        >>> Unlearned(model=None, seconds=1.5, trained=10).losses
        ()
    """

    model: Any
    seconds: float
    trained: int
    losses: tuple[float, ...] = field(default=(), repr=False)


def unlearn(
    model: Any,
    forget: Examples,
    retain: Examples,
    *,
    method: Any = "GradDiff",
    epochs: int = 5,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.01,
    warm_up: float = 0.1,
    seed: int = 0,
    alternatives: Examples | None = None,
    progress: Progress | None = None,
) -> Unlearned:
    r"""Fine-tune a copy of a model to forget: \(\gamma L_{forget} + \alpha L_{retain}\), by AdamW.

    An epoch goes over the forget set once; each of its batches is paired with as many random sequences to retain. The
    step size rises over the first `warm_up` of the steps and falls linearly to zero.

    Args:
        model: a Hugging Face causal model or a `TransformerLM`.
        forget: what to forget.
        retain: what to keep.
        method: a name of `baselines.METHODS`, or a `Method` of one's own.
        epochs: over the forget set.
        batch_size: sequences of each set in a batch.
        learning_rate: the highest.
        weight_decay: of AdamW.
        warm_up: share of the steps.
        seed: of the order and the pairing.
        alternatives: refusals, one for each sequence to forget, for the methods that need them.
        progress: called with the steps done and their number.

    Returns:
        The trained copy, seconds, number of trained parameters.

    Raises:
        InvalidInputError: for empty or overlapping sets, tokens of another tokenizer, a loss that is not finite.

    Guarantee: none: fine-tuning promises nothing; the given model is not changed. The same arguments give the same
        weights on the same machine and number of threads.

    Example:
        >>> from corollary.models import TransformerConfig, TransformerLM
        >>> from corollary.unlearning import ByteTokenizer, Examples, baselines
        >>> model = TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=16))
        >>> pairs = [{"question": q, "answer": "yes"} for q in "abcd"]
        >>> examples = Examples.from_pairs(pairs, ByteTokenizer())
        >>> done = baselines.unlearn(model, examples.select([0, 1]), examples.select([2, 3]), method="NPO", epochs=2)
        >>> len(done.losses), done.trained == sum(p.numel() for p in model.parameters())
        (2, True)

    Reference: the framework of locuslab/open-unlearning (formulas from the specification; reconstructed).
    """
    from corollary.unlearning.baselines._methods import get_method

    chosen = get_method(method)
    base = backbone_of(model)
    base.require_module()
    check_sets(forget, retain, base.vocab_size)
    terms = [t for t in (chosen.forget, chosen.retain) if t is not None]
    asks = any(t.needs_alternative for t in terms)
    if asks and (alternatives is None or len(alternatives) != len(forget)):
        raise InvalidInputError(
            f"{chosen.name} needs `alternatives`: one refusal for each of the {len(forget)} sequences to forget"
        )
    student = backbone_of(copy.deepcopy(model))
    frozen = base if any(t.needs_frozen for t in terms) else None
    pairing = np.random.default_rng([seed, 1])

    def loss(index: Int[np.ndarray, " b"]) -> Tensor:
        """Forget term and retain term of one batch."""
        total = torch.zeros((), device=student.device)
        if chosen.forget is not None:
            other = Step(student, alternatives.batch(index), frozen=frozen) if alternatives is not None else None
            step = Step(student, forget.batch(index), frozen=frozen, alternative=other)
            total = total + chosen.gamma * chosen.forget(step)
        if chosen.retain is not None:
            kept = pairing.integers(0, len(retain), len(index))
            total = total + chosen.alpha * chosen.retain(Step(student, retain.batch(kept), frozen=frozen))
        return total

    rates = Schedule(learning_rate, weight_decay, warm_up)
    anchor = len(forget)
    return _descend(student, _orders(anchor, batch_size, epochs, seed), loss, rates, progress)


def fine_tune(
    model: Any,
    examples: Examples,
    *,
    epochs: int = 10,
    batch_size: int = 32,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.01,
    warm_up: float = 0.1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Unlearned:
    """Train a copy of a model on answers: how bases are made here, and the retraining that unlearning is compared with.

    Args:
        model: a `TransformerLM` or a Hugging Face causal model, new or trained.
        examples: what to learn.
        epochs: over the examples.
        batch_size: sequences in a batch; neighbours in length go together.
        learning_rate: the highest.
        weight_decay: of AdamW.
        warm_up: share of the steps.
        seed: of the order.
        progress: called with the steps done and their number.

    Returns:
        The trained copy, seconds, number of trained parameters.

    Raises:
        InvalidInputError: for no examples, tokens of another tokenizer, a loss that is not finite.

    Guarantee: none about the quality of the fit; the same arguments give the same weights on the same machine.

    Example:
        >>> from corollary.models import TransformerConfig, TransformerLM
        >>> from corollary.unlearning import ByteTokenizer, Examples, baselines
        >>> model = TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=16))
        >>> examples = Examples.from_pairs([{"question": "a", "answer": "bc"}] * 4, ByteTokenizer())
        >>> done = baselines.fine_tune(model, examples, epochs=5, learning_rate=1e-2, batch_size=2)
        >>> done.losses[-1] < done.losses[0]
        True
    """
    student = backbone_of(copy.deepcopy(model))
    student.require_module()
    if len(examples) == 0:
        raise InvalidInputError("there is no example to learn from; give at least one")
    if examples.documents.tokens.max() >= student.vocab_size:
        raise InvalidInputError(
            f"the examples hold token {examples.documents.tokens.max()}, the model knows 0 to "
            f"{student.vocab_size - 1}; encode them with the model's own tokenizer"
        )
    orders = _orders(len(examples), batch_size, epochs, seed, lengths=examples.documents.lengths)
    rates = Schedule(learning_rate, weight_decay, warm_up)
    return _descend(student, orders, lambda index: Step(student, examples.batch(index)).mean_nll, rates, progress)


@dataclass(frozen=True)
class Schedule:
    """AdamW with a linear rise and a linear fall of the step size."""

    highest: float
    weight_decay: float
    warm_up: float

    def rate(self, step: int, steps: int) -> float:
        """The step size: `highest min((s + 1) / w, (n - s) / (n - w))`."""
        first = max(1, math.ceil(self.warm_up * steps))
        return self.highest * min((step + 1) / first, (steps - step) / max(1, steps - first))


def _orders(
    count: int, size: int, epochs: int, seed: int, *, lengths: Int[np.ndarray, " n"] | None = None
) -> list[np.ndarray]:
    """Batches of all epochs; with lengths, those of eight neighbouring batches are sorted to save padding."""
    if epochs < 1 or size < 1:
        raise InvalidInputError(f"`epochs` and `batch_size` must be at least 1, got {epochs} and {size}")
    rng, found = np.random.default_rng([seed, 0]), []
    for _ in range(epochs):
        order = rng.permutation(count)
        if lengths is not None:
            groups = [order[i : i + 8 * size] for i in range(0, count, 8 * size)]
            order = np.concatenate([g[np.argsort(lengths[g], kind="stable")] for g in groups])
        batches = [order[i : i + size] for i in range(0, count, size)]
        found += [batches[i] for i in rng.permutation(len(batches))]
    return found


def _descend(
    student: Backbone,
    orders: list[np.ndarray],
    loss: Callable[[Int[np.ndarray, " b"]], Tensor],
    schedule: Schedule,
    progress: Progress | None,
) -> Unlearned:
    module = student.require_module()
    weights = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=schedule.highest, weight_decay=schedule.weight_decay)
    losses, begun = [], time.perf_counter()
    module.eval()  # no dropout: terms compare with the model as it was, and runs must repeat
    for step, index in enumerate(orders):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step, len(orders))
        value = loss(index)
        if not torch.isfinite(value):
            raise InvalidInputError(f"the loss is {value.item()} at step {step}; lower `learning_rate`")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        losses.append(value.item())
        if progress is not None:
            progress(step + 1, len(orders))
    trained = sum(p.numel() for p in weights)
    return Unlearned(module, time.perf_counter() - begun, trained, tuple(losses))
