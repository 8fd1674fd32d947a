"""A head with finitely many states: integers run, vectors are injected; exact at every length."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from corollary.automata._heads import Head
from corollary.automata._scan import checked
from corollary.errors import InvalidInputError


class FiniteHead(Head):
    r"""A deterministic automaton as a head: state q looks like the vector \(v_q\).

    .. math:: q_t = \delta(q_{t-1}, x_t), \qquad h_t = v_{q_t}

    Args:
        transitions: (n, V) int64, the next state.
        vectors: (n, f), what a state looks like; None for one-hot vectors.
        start: the first state.

    Raises:
        InvalidInputError: for a table whose entries are no states, or vectors of other states.

    Guarantee: states are integers, so nothing drifts: h_t is exact at every length. `matrices()` are the 0/1
        matrices of the same automaton.

    Example:
        >>> import torch
        >>> from corollary.automata import FiniteHead
        >>> FiniteHead([[0, 1], [1, 0]])(torch.tensor([[1, 1, 1]]))[0].tolist()
        [[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]

    Reference: arXiv:2602.07599 (constructions, by public notes); derived here.
    """

    transitions: Tensor
    vectors: Tensor

    def __init__(self, transitions: Any, vectors: Any = None, *, start: int = 0) -> None:
        super().__init__()
        table = torch.as_tensor(np.asarray(transitions), dtype=torch.int64)
        if table.ndim != 2 or not table.numel() or int(table.min()) < 0 or int(table.max()) >= len(table):
            raise InvalidInputError(
                f"`transitions` must be (states, symbols) with states as entries, got shape {tuple(table.shape)}"
            )
        look = torch.eye(len(table)) if vectors is None else torch.as_tensor(vectors)
        if look.ndim != 2 or len(look) != len(table) or not 0 <= start < len(table):
            raise InvalidInputError(
                f"{len(table)} states need vectors (states, f) and a start among them, got {tuple(look.shape)}, {start}"
            )
        self.register_buffer("transitions", table)
        self.register_buffer("vectors", look.detach().clone())
        self.start, self.vocab_size, self.dim = int(start), table.shape[1], look.shape[1]
        self.description = {"kind": "finite", "states": len(table), "vocab_size": table.shape[1], "dim": look.shape[1]}
        self.description["start"] = self.start

    def initial_state(self) -> Int[Tensor, " 1"]:
        """(1,) number of the first state."""
        return torch.tensor([self.start], device=self.transitions.device)

    def states(
        self, symbols: Tensor, *, mask: Tensor | None = None, initial: Tensor | None = None, reverse: bool = False
    ) -> Int[Tensor, "b t 1"]:
        """(B, T, 1) number of the state after every symbol."""
        symbols = checked(symbols, self.vocab_size, mask)
        begin = self.initial_state() if initial is None else initial
        q = begin.expand(len(symbols), 1)[:, 0].long().cpu().numpy()
        x = symbols.cpu().numpy().T
        table = self.transitions.cpu().numpy()
        if mask is not None:  # one more symbol, which does nothing
            table = np.concatenate([table, np.arange(len(table))[:, None]], axis=1)
            x = np.where(mask.cpu().numpy().T, x, table.shape[1] - 1)
        flat, width, x = table.ravel(), table.shape[1], x[::-1] if reverse else x
        out = np.empty(x.shape, dtype=np.int64)
        for t, now in enumerate(x):
            q = out[t] = flat[q * width + now]
        out = out[::-1] if reverse else out
        return torch.from_numpy(np.ascontiguousarray(out.T)).to(self.transitions.device)[..., None]

    def vectors_of(self, states: Tensor) -> Float[Tensor, "*any f"]:
        """(..., f) what the states look like."""
        return self.vectors[states[..., 0].long()]

    def matrices(self) -> Float[Tensor, "v n n"]:
        r"""(V, n, n) the 0/1 matrices \(M_\sigma e_q = e_{\delta(q, \sigma)}\)."""
        return functional.one_hot(self.transitions.T, len(self.transitions)).to(self.vectors.dtype).mT

    def snap(self, q_max: int = 60, **options: Any) -> "FiniteHead":
        """Itself: it is finite."""
        return self

    def represent(self) -> Any:
        """The same with exact d x d matrices, d the length of the vectors; see `corollary.automata.represent`."""
        from corollary.automata._representation import represent

        return represent(self)
