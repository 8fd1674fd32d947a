"""A read-out of a head's own, where the network behind it looks at more than the state."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from corollary.automata._layers import initialise
from corollary.automata._snap import ReadOut
from corollary.automata._tasks import Task
from corollary.errors import InvalidInputError


def fit_read_out(
    head: Any, task: Task, *, words: int = 256, length: int = 20, hidden: int = 64, steps: int = 300, seed: int = 0
) -> ReadOut:
    """A small network that answers a task from (state before, symbol, state after), the head being kept as it is.

    Args:
        head: any head over the task's symbols; for networks with attention, whose head is to be snapped and certified.
        task: what should be answered.
        words: random words to fit on.
        length: of these; short ones, on which nothing has drifted yet.
        hidden: width of its one hidden layer.
        steps: of Adam on all of them at once.
        seed: of the words and of the first weights.

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
        >>> head.snap(8, answer=fit_read_out(head, task("mod"), steps=100)).transitions.shape
        torch.Size([5, 5])
    """
    if head.vocab_size != task.vocab_size:
        raise InvalidInputError(f"the head reads {head.vocab_size} symbols, the task has {task.vocab_size}")
    x, y = task.sample(words, length, np.random.default_rng(seed))
    symbols = torch.from_numpy(x)
    with torch.no_grad():
        start = head.initial_state()
        after = head.states(symbols.to(start.device), initial=start.expand(words, -1))
        before = torch.cat([start.expand(words, 1, -1), after[:, :-1]], 1).cpu()
        after = after.cpu()
    asked = torch.from_numpy(y >= 0)
    wanted = torch.from_numpy(y)[asked]
    size = after.std().clamp(min=1e-6)

    def features(before: Tensor, symbols: Tensor, after: Tensor) -> Float[Tensor, "n f"]:
        one_hot = functional.one_hot(symbols, task.vocab_size)
        return torch.cat([before / size, after / size, one_hot], -1).float()

    given = features(before[asked], symbols[asked], after[asked])
    with torch.random.fork_rng(devices=[]):
        network = nn.Sequential(nn.Linear(given.shape[1], hidden), nn.GELU(), nn.Linear(hidden, task.classes))
    initialise(network, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = functional.cross_entropy(network(given), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def answer(before: Tensor, symbols: Tensor, after: Tensor) -> Tensor:
        return network(features(before, symbols, after)).argmax(-1)

    return answer
