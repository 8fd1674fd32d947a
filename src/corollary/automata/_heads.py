r"""Heads: the stream of states \(h_t\) that a transductor injects, as modules over symbols or over vectors.

A head answers `states(symbols)`: (B, T, d) inclusive states, and `features`: what is injected, which is the state
before a symbol, after it, or both. Every head carries its state over a stream: `states(..., initial=last)`.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from corollary.automata._families import Family, Parameters, family, wide
from corollary.automata._scan import METHODS, STATES, checked, full_precision, scan
from corollary.errors import InvalidInputError


class Head(nn.Module):
    """What all heads share: features from states, and streams.

    A subclass sets `vocab_size` and `dim` and gives `initial_state()` (d,) and `states(...)`.

    Guarantee: none of its own.

    Example:
        >>> from corollary.automata import Head, RationalHead
        >>> isinstance(RationalHead(3, 4, seed=0), Head)
        True
    """

    vocab_size: int
    dim: int

    def initial_state(self) -> Shaped[Tensor, " s"]:
        """The state before the first symbol."""
        raise NotImplementedError

    def states(
        self, symbols: Tensor, *, mask: Tensor | None = None, initial: Tensor | None = None, reverse: bool = False
    ) -> Shaped[Tensor, "b t s"]:
        """The state after every symbol."""
        raise NotImplementedError

    def vectors_of(self, states: Tensor) -> Float[Tensor, "*any f"]:
        """What a state looks like to the network; here the state itself."""
        return states

    def stream(
        self,
        symbols: Tensor,
        *,
        state: str = "inclusive",
        mask: Tensor | None = None,
        initial: Tensor | None = None,
        reverse: bool = False,
    ) -> tuple[Float[Tensor, "b t f"], Shaped[Tensor, "b s"]]:
        """Features (B, T, f) and the state (B, d) to go on with."""
        after, begin = self.run(symbols, mask=mask, initial=initial, reverse=reverse)
        last = begin if after.shape[1] == 0 else after[:, 0] if reverse else after[:, -1]
        return self.shown(after, begin, state=state, reverse=reverse), last

    def run(
        self, symbols: Tensor, *, mask: Tensor | None = None, initial: Tensor | None = None, reverse: bool = False
    ) -> tuple[Shaped[Tensor, "b t s"], Shaped[Tensor, "b s"]]:
        """States (B, T, s) after every symbol, and those (B, s) before the first."""
        begin = self.initial_state() if initial is None else initial
        begin = begin.expand(len(symbols), begin.shape[-1])
        return self.states(symbols, mask=mask, initial=begin, reverse=reverse), begin

    def shown(
        self, after: Tensor, begin: Tensor, *, state: str = "inclusive", reverse: bool = False
    ) -> Float[Tensor, "b t f"]:
        """What the states of `run` look like: the state after each symbol, before it, or both."""
        if state not in STATES:
            raise InvalidInputError(f"`state` is one of {', '.join(STATES)}, got {state!r}")
        if state == "inclusive":
            return self.vectors_of(after)
        edge = begin[:, None].to(after.dtype)
        before = torch.cat([after[:, 1:], edge], 1) if reverse else torch.cat([edge, after[:, :-1]], 1)
        before = self.vectors_of(before[:, : after.shape[1]])
        return before if state == "exclusive" else torch.cat([before, self.vectors_of(after)], dim=-1)

    def forward(self, symbols: Tensor, **options: Any) -> Float[Tensor, "b t f"]:
        """Features of `stream`, whose options it takes."""
        return self.stream(symbols, **options)[0]

    def snap(self, q_max: int = 60, **options: Any) -> Any:
        """A `FiniteHead` that computes what this one computes, without drift; see `corollary.automata.snap`."""
        from corollary.automata._snap import snap

        return snap(self, q_max, **options)


class RationalHead(Head):
    r"""A weighted automaton without final weights, its matrices in a transition family.

    .. math:: h_0 = \alpha, \qquad h_t = M_{x_t} h_{t-1}

    Args:
        vocab_size: number of symbols V.
        dim: of the state, d; 4 to 16 suits counters, up to 32 small groups.
        family: name of a transition family, see `families`.
        scale: of the first parameters, see `family`.
        seed: of the first parameters.
        method: how states are scanned, see `scan`.
        options: of the family.

    Raises:
        InvalidInputError: for sizes below one or an unknown family.

    Guarantee: that of the family; the initial state has norm sqrt(d), or is a distribution for stochastic heads.

    Example:
        >>> import torch
        >>> from corollary.automata import RationalHead
        >>> head = RationalHead(2, 4, family="cayley", seed=0)
        >>> h = head(torch.tensor([[0, 1, 1]]))
        >>> h.norm(dim=-1).round(decimals=4).tolist()
        [[2.0, 2.0, 2.0]]

    Reference: arXiv:2602.07599, section 2.3 (by public notes; formulas and initialisations derived and tested here).
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        family: str = "cayley",
        scale: float | None = None,
        seed: int = 0,
        method: str = "auto",
        **options: Any,
    ) -> None:
        super().__init__()
        if vocab_size < 1 or dim < 1:
            raise InvalidInputError(f"a head needs at least one symbol and one dimension, got {vocab_size} and {dim}")
        if method not in METHODS:
            raise InvalidInputError(f"`method` is one of {', '.join(METHODS)}, got {method!r}")
        if family in ("rotation", "affine") and (dim < 2 or (family == "rotation" and dim % 2)):
            raise InvalidInputError(f"family {family!r} does not fit dimension {dim}; rotations need an even one")
        self.vocab_size, self.dim, self.method = vocab_size, dim, method
        self.description = {"kind": "rational", "vocab_size": vocab_size, "dim": dim, "family": family} | options
        if scale is not None:
            self.description["scale"] = scale
        self.family: Family = _family(family, scale=scale, **options)
        draw = _normal(seed)
        self.weights = nn.ParameterDict()
        for name, value in self.family.start(vocab_size, dim, draw).items():
            trained = name not in self.family.fixed
            self.weights[name] = nn.Parameter(value, requires_grad=trained)
        self.alpha = nn.Parameter(_first_state(family, dim, draw))

    def matrices(self) -> Float[Tensor, "v d d"]:
        """(V, d, d) matrices of the symbols, at the present parameters; in float32 where these have 16 bits."""
        return self._built(dict(self.weights.items()))

    def _built(self, p: Parameters) -> Tensor:
        with full_precision(self.alpha.device.type):
            return self.family.build({name: wide(value) for name, value in p.items()})

    def initial_state(self) -> Float[Tensor, " d"]:
        """(d,) state before the first symbol."""
        alpha = wide(self.alpha)
        if self.family.simplex:
            return alpha.softmax(-1)
        if self.description["family"] in ("affine", "free", "random"):
            return alpha
        return alpha * (math.sqrt(self.dim) / alpha.norm().clamp(min=1e-12))

    def states(
        self, symbols: Tensor, *, mask: Tensor | None = None, initial: Tensor | None = None, reverse: bool = False
    ) -> Float[Tensor, "b t d"]:
        """(B, T, d) state after every symbol; diagonal and rotation heads by cumulative sums."""
        h0 = self.initial_state() if initial is None else initial
        symbols = checked(symbols, self.vocab_size, mask)
        name = self.description["family"]
        if self.method == "auto" and name in ("diagonal", "diagonal-signed", "rotation"):
            from corollary.automata._shortcuts import diagonal_states, rotation_states

            if name == "rotation":
                return rotation_states(wide(self.weights["angle"]), symbols, h0, mask=mask, reverse=reverse)
            factors = torch.diagonal(self.matrices(), dim1=-2, dim2=-1)
            if bool((factors != 0).all()):  # one that underflowed has no logarithm, and no gradient by it
                return diagonal_states(factors, symbols, h0, mask=mask, reverse=reverse)
        M = None
        if symbols.numel() < self.vocab_size:  # of a large vocabulary only the symbols that occur have matrices made
            used, symbols = symbols.unique(return_inverse=True)
            p = {n: v if n.startswith("shared_") else v[used] for n, v in self.weights.items()}
            M = self._built(p) if len(used) else None
        return scan(self.matrices() if M is None else M, symbols, h0, method=self.method, mask=mask, reverse=reverse)


class DirectSum(Head):
    r"""Several heads side by side: \(M_\sigma = M^1_\sigma \oplus M^2_\sigma\); the universal head is one of them.

    Args:
        heads: over the same symbols; features are concatenated. A `FiniteHead` may stand beside heads that learn.

    Raises:
        InvalidInputError: for no heads, or alphabets that differ.

    Guarantee: states are those of the heads: nothing mixes. Orthogonal and stochastic together hold groups and
        resets, the two prime factors of Krohn and Rhodes.

    Example:
        >>> from corollary.automata import DirectSum, RationalHead
        >>> DirectSum([RationalHead(3, 8, seed=0), RationalHead(3, 4, family="stochastic", seed=0)]).dim
        12

    Reference: arXiv:2602.07599, Eq. 4 (by public notes).
    """

    def __init__(self, heads: list[Head]) -> None:
        super().__init__()
        if not heads or len({h.vocab_size for h in heads}) > 1:
            raise InvalidInputError(f"heads over one alphabet are needed, got {[h.vocab_size for h in heads]}")
        self.heads = nn.ModuleList(heads)
        self.vocab_size, self.dim = heads[0].vocab_size, sum(h.dim for h in heads)
        self._widths = [h.initial_state().shape[-1] for h in heads]  # of states; that of a finite head is its number
        self.description = {"kind": "sum", "heads": [getattr(h, "description", None) for h in heads]}

    def matrices(self) -> Float[Tensor, "v d d"]:
        """(V, d, d) block-diagonal matrices."""
        every = [h.matrices() for h in self.heads]  # type: ignore[operator]
        return torch.stack([torch.block_diag(*(m[v] for m in every)) for v in range(self.vocab_size)])

    def initial_state(self) -> Shaped[Tensor, " s"]:
        """Concatenated initial states."""
        return torch.cat([h.initial_state() for h in self.heads])  # type: ignore[operator]

    def states(
        self, symbols: Tensor, *, mask: Tensor | None = None, initial: Tensor | None = None, reverse: bool = False
    ) -> Shaped[Tensor, "b t s"]:
        """Concatenated states."""
        parts = [None] * len(self.heads) if initial is None else initial.split(self._widths, dim=-1)
        every = [
            h.states(symbols, mask=mask, initial=p, reverse=reverse)  # type: ignore[operator]
            for h, p in zip(self.heads, parts, strict=True)
        ]
        return torch.cat(every, dim=-1)

    def vectors_of(self, states: Tensor) -> Float[Tensor, "*any f"]:
        """(..., d) what the states look like, part by part."""
        parts = states.split(self._widths, dim=-1)
        return torch.cat([h.vectors_of(p) for h, p in zip(self.heads, parts, strict=True)], dim=-1)  # type: ignore[operator]


class ContinuousHead(nn.Module):
    r"""A head whose matrices come from vectors, not symbols: \(M_t = f(W e_t)\), f the family's map.

    Args:
        width: of the inputs e_t.
        dim: of the state.
        family: any family without parameters that all symbols share, and without fixed ones.
        seed: of the first weights.

    Raises:
        InvalidInputError: for a family that cannot be driven by vectors.

    Guarantee: that of the family, for every input.

    Example:
        >>> import torch
        >>> from corollary.automata import ContinuousHead
        >>> ContinuousHead(6, 4, seed=0)(torch.zeros(2, 5, 6)).shape
        torch.Size([2, 5, 4])

    Reference: derived here.
    """

    def __init__(
        self, width: int, dim: int, *, family: str = "cayley", scale: float | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.family = _family(family, scale=scale)
        draw = _normal(seed)
        start = self.family.start(1, dim, draw)
        if self.family.fixed or any(n.startswith("shared_") for n in start):
            raise InvalidInputError(
                f"family {family!r} has parameters that no vector can set; use cayley or stochastic"
            )
        self.shapes = {name: value.shape[1:] for name, value in start.items()}
        self.dim = dim
        flat = torch.cat([v.reshape(-1) for v in start.values()])
        self.map = nn.Linear(width, len(flat))
        with torch.no_grad():  # zero input gives the family's usual start, others scatter around it
            self.map.bias.copy_(flat)
            self.map.weight.copy_(draw(len(flat), width) * 0.1 / math.sqrt(width))
        self.alpha = nn.Parameter(_first_state(family, dim, draw))

    def initial_state(self) -> Float[Tensor, " d"]:
        """(d,) state before the first input."""
        alpha = wide(self.alpha)
        if self.family.simplex:
            return alpha.softmax(-1)
        return alpha * (math.sqrt(self.dim) / alpha.norm().clamp(min=1e-12))

    def forward(
        self, vectors: Float[Tensor, "b t w"], *, initial: Tensor | None = None, **options: Any
    ) -> Float[Tensor, "b t s"]:
        """(B, T, d) states; options as in `scan`."""
        B, T, _ = vectors.shape
        parts = self.map(vectors).reshape(B * T, -1).split([s.numel() for s in self.shapes.values()], dim=-1)
        dtype = wide(self.alpha).dtype  # autocast may have made the parts shorter
        p = {n: part.reshape(-1, *shape).to(dtype) for (n, shape), part in zip(self.shapes.items(), parts, strict=True)}
        with full_precision(vectors.device.type):
            M = self.family.build(p).view(B, T, self.dim, self.dim)
        return scan(M, None, self.initial_state() if initial is None else initial, **options)


def fixed_head(matrices: Any, initial: Any) -> RationalHead:
    """A head with given matrices and initial state, never trained.

    Args:
        matrices: (V, d, d).
        initial: (d,).

    Raises:
        InvalidInputError: for shapes that do not fit.

    Guarantee: its states are those of the matrices, in their dtype.

    Example:
        >>> import torch
        >>> from corollary.automata import fixed_head
        >>> fixed_head([[[2.0]]], [1.0])(torch.tensor([[0, 0, 0]])).flatten().tolist()
        [2.0, 4.0, 8.0]
    """
    M, h0 = torch.as_tensor(matrices), torch.as_tensor(initial)
    if M.ndim != 3 or h0.shape != M.shape[2:] or M.shape[1] != M.shape[2]:
        raise InvalidInputError(
            f"matrices (V, d, d) and initial (d,) are needed, got {tuple(M.shape)}, {tuple(h0.shape)}"
        )
    head = RationalHead(len(M), len(h0), family="random")
    head.weights["weight"] = nn.Parameter(
        M.detach().clone().to(torch.promote_types(M.dtype, torch.float32)), requires_grad=False
    )
    head.alpha = nn.Parameter(h0.detach().clone().to(head.weights["weight"].dtype), requires_grad=False)
    head.description["frozen"] = True
    return head


def universal(vocab_size: int, *, orthogonal: int = 8, stochastic: int = 4, seed: int = 0, **options: Any) -> DirectSum:
    """The universal head: an orthogonal part that counts beside a stochastic part that switches.

    Args:
        vocab_size: number of symbols.
        orthogonal: dimension of the Cayley part.
        stochastic: dimension of the stochastic part.
        seed: of the first parameters.
        options: `family` and `scale` of the orthogonal part.

    Guarantee: see `DirectSum`.

    Example:
        >>> from corollary.automata import universal
        >>> universal(10, seed=0).dim
        12

    Reference: arXiv:2602.07599, Eq. 4 (by public notes).
    """
    return DirectSum(
        [
            RationalHead(vocab_size, orthogonal, seed=seed, **options),
            RationalHead(vocab_size, stochastic, family="stochastic", seed=seed + 1),
        ]
    )


def _normal(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator)


def _first_state(name: str, dim: int, draw: Any) -> Tensor:
    alpha = draw(dim)
    if name in ("affine", "free", "random"):
        alpha = alpha / alpha.norm()
    if name == "affine":
        alpha[-1] = 1.0
    return alpha


_family = family
