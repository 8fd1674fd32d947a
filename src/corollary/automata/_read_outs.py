"""A read-out of a head's own, where the network behind it looks at more than the state."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from corollary.automata._snap import ReadOut
from corollary.automata._tasks import Task
from corollary.errors import InvalidInputError


@torch.no_grad()
def fit_read_out(head: Any, task: Task, *, words: int = 256, length: int = 20, seed: int = 0) -> ReadOut:
    r"""The linear read-out of (state before, symbol) that answers a task best, by least squares.

    .. math:: \arg\max_c \; w_{c, x_t} \cdot (1, h_{t-1})

    Args:
        head: any head over the task's symbols; for networks with attention, whose head is to be snapped and certified.
        task: what should be answered.
        words: random words to fit on.
        length: of these; short ones, on which nothing has drifted yet.
        seed: of the words.

    Returns:
        A function (before, symbols, after) -> answers, for `snap(answer=...)`.

    Raises:
        InvalidInputError: for a head over other symbols.

    Guarantee: none; `certify` the head with the answers of its snapped states.

    Example:
        >>> import torch
        >>> from corollary.automata import counter_head, fit_read_out, fixed_head, task
        >>> exact = counter_head(5, steps=range(5))
        >>> head = fixed_head(exact.matrices().double(), torch.eye(5, dtype=torch.float64)[0])
        >>> head.snap(8, answer=fit_read_out(head, task("mod"))).transitions.shape
        torch.Size([5, 5])
    """
    if head.vocab_size != task.vocab_size:
        raise InvalidInputError(f"the head reads {head.vocab_size} symbols, the task has {task.vocab_size}")
    x, y = task.sample(words, length, np.random.default_rng(seed))
    start = head.initial_state()
    symbols = torch.from_numpy(x)
    after = head.states(symbols, initial=start.expand(words, -1))
    before = torch.cat([start.expand(words, 1, -1), after[:, :-1]], 1)
    asked = torch.from_numpy(y >= 0)

    def features(before: Tensor, symbols: Tensor) -> Float[Tensor, "n f"]:
        state = functional.pad(before.double(), (1, 0), value=1.0)
        one_hot = functional.one_hot(symbols, task.vocab_size).double()
        return (one_hot[:, :, None] * state[:, None]).flatten(1)

    wanted = functional.one_hot(torch.from_numpy(y).clamp(min=0)[asked], task.classes).double()
    given = features(before[asked], symbols[asked])
    ridge = 1e-6 * len(given) * torch.eye(given.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(given.T @ given + ridge, given.T @ wanted)

    def answer(before: Tensor, symbols: Tensor, after: Tensor) -> Tensor:
        return (features(before, symbols) @ weights).argmax(-1)

    return answer
