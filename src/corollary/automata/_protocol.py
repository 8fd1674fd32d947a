"""The protocol of length generalisation: train on short words, test on long ones, report per length.

Lengths are uniform up to 40 (or rise with a curriculum), answers are learned at every place that has one, and tests
count the LAST answer of fresh words, at lengths far beyond.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from corollary.automata._chomsky import StringTask
from corollary.automata._tasks import Task
from corollary.automata._transducer import SILENT
from corollary.errors import InvalidInputError


def learn(
    model: nn.Module,
    task: Task | StringTask,
    *,
    steps: int = 400,
    batch: int = 64,
    lengths: tuple[int, int] = (1, 40),
    curriculum: bool = False,
    lr: float = 1e-2,
    weight_decay: float = 0.0,
    seed: int = 0,
    optimizer: Any = None,
    progress: Callable[[int, float], object] | None = None,
) -> float:
    """Train a model `symbols (B, T) -> logits (B, T, C)` on a task, in place.

    Args:
        model: a transductor, or any module of that form.
        task: what to learn.
        steps: updates.
        batch: words of an update, all of one length.
        lengths: shortest and longest, uniform; words that are too short for the task are left out.
        curriculum: let the longest rise over the first half of the steps.
        lr: highest step size; one cycle, a twentieth of it warm-up, gradients clipped at norm 1. Of AdamW only.
        weight_decay: of AdamW; zero, since it pulls the angles of a head towards zero.
        seed: of the words.
        optimizer: another torch optimizer over the model's parameters, instead of AdamW. The highest step size of each
            of its groups is that group's own `lr`, which it has again afterwards; momentum stays as it is.
        progress: called with the number of steps done and the loss.

    Returns:
        The last loss.

    Raises:
        InvalidInputError: for options out of range, a model with fewer outputs than the task has answers, or a loss
            that is not finite.

    Guarantee: none; certify what was learned.

    Example:
        >>> from corollary.automata import RationalHead, RationalTransductor, TransductorConfig, learn, task
        >>> config = TransductorConfig(vocab_size=2, classes=2, width=16, layers=1, heads=2)
        >>> model = RationalTransductor(config, RationalHead(2, 4, family="signed", seed=0), seed=0)
        >>> learn(model, task("parity"), steps=3) > 0
        True

    Reference: the protocol of Deletang et al. (2023); the recipe is ours.
    """
    if steps < 1 or batch < 1 or not 1 <= lengths[0] <= lengths[1] or not 0 < lr < float("inf"):
        raise InvalidInputError(f"steps, batch, lengths and lr must be positive, got {steps}, {batch}, {lengths}, {lr}")
    shortest = max(lengths[0], task.shortest)
    if shortest > lengths[1]:
        raise InvalidInputError(f"{task.name!r} has words of at least {task.shortest} symbols, `lengths` are {lengths}")
    rng = np.random.default_rng(seed)
    weights = [p for p in model.parameters() if p.requires_grad]
    if not weights:
        raise InvalidInputError(f"this {type(model).__name__} has nothing that is trained; unfreeze a parameter")
    own = optimizer or torch.optim.AdamW(weights, lr=lr, weight_decay=weight_decay)
    peaks = [float(group["lr"]) for group in own.param_groups]
    rates = torch.optim.lr_scheduler.OneCycleLR(
        own, peaks, total_steps=steps + 1, pct_start=0.05, cycle_momentum=optimizer is None
    )
    last = float("nan")
    for step in range(steps):
        top = lengths[1]
        if curriculum:
            top = shortest + int((top - shortest) * min(1.0, 2 * (step + 1) / steps))
        x, y = task.sample(batch, int(rng.integers(shortest, top + 1)), rng)
        logits = model(torch.from_numpy(x).to(weights[0].device))
        if y.max(initial=0) >= logits.shape[-1]:
            raise InvalidInputError(
                f"{task.name!r} has the answer {y.max()}, the model {logits.shape[-1]} outputs; raise its `classes`"
            )
        wanted = torch.from_numpy(y).to(logits.device).flatten()
        loss = functional.cross_entropy(logits.flatten(0, 1), wanted, ignore_index=SILENT)
        if not torch.isfinite(loss):
            raise InvalidInputError(f"the loss is {loss.item()} at step {step}; lower `lr`")
        own.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        own.step()
        rates.step()
        last = loss.item()
        if progress is not None:
            progress(step + 1, last)
    for group, peak in zip(own.param_groups, peaks, strict=True):
        group["lr"] = peak
    return last


@torch.no_grad()
def length_accuracy(
    model: Any,
    task: Task | StringTask,
    lengths: Sequence[int] = (40, 100, 256, 500, 1000),
    *,
    count: int = 64,
    seed: int = 10_000,
) -> dict[int, dict[str, float]]:
    """Share of right answers on fresh words, by length.

    Args:
        model: as in `learn`.
        task: the task.
        lengths: lengths to test.
        count: words of each length.
        seed: of the words; not that of training.

    Returns:
        Length -> `last` (the last answer of a word is right), `all` (every place with an answer, mean: the measure of
        the Chomsky protocol, a token of the output being such a place, none behind its end), `words` (all answers of a
        word are right).

    Raises:
        InvalidInputError: for a length that the task has no words of.

    Guarantee: none; the shares have the error of `count` words.

    Example:
        >>> from corollary.automata import length_accuracy, task
        >>> import torch
        >>> knows = lambda x: torch.nn.functional.one_hot(x.cumsum(1) % 2, 2).float()
        >>> length_accuracy(knows, task("parity"), [9])
        {9: {'last': 1.0, 'all': 1.0, 'words': 1.0}}
    """
    rng, found = np.random.default_rng(seed), {}
    for length in lengths:
        x, y = task.sample(count, length, rng)
        found[length] = _shares(_predict(model, x), y)
    return found


def _predict(model: Any, x: np.ndarray) -> np.ndarray:
    rows = max(1, (1 << 16) // max(1, x.shape[1]))  # bounds the memory of a pass
    rows = min(rows, max(1, (1 << 24) // max(1, x.shape[1] ** 2)))
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    device = "cpu" if weight is None else weight.device
    parts = [model(torch.from_numpy(x[i : i + rows]).to(device)).argmax(-1).cpu() for i in range(0, len(x), rows)]
    return torch.cat(parts).numpy()


def _shares(guess: np.ndarray, y: np.ndarray) -> dict[str, float]:
    asked = y != SILENT
    right = (guess == y) & asked
    has = asked.any(1)
    place = y.shape[1] - 1 - asked[:, ::-1].argmax(1)
    last = right[np.arange(len(y)), place][has]
    return {
        "last": float(last.mean()) if len(last) else 1.0,
        "all": float(right.sum() / max(1, asked.sum())),
        "words": float((right | ~asked).all(1).mean()),
    }
