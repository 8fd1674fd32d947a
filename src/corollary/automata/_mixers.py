r"""Recurrent mixers to compare with, written plainly: gated networks, diagonal state spaces, delta rules, PD-SSM.

All are `(x, mask, cache) -> y` over (B, T, width), causal, and read by the same stack of layers as the transductor.
Diagonal: \(h_t = a_t h_{t-1} + u_t\), a in (0, 1), (-1, 1), or complex in the unit disc. Delta rule:
\(S_t = S_{t-1} (I - \beta_t k_t k_t^\top) + \beta_t v_t k_t^\top\), beta in (0, 1) or (0, 2), where a state can flip.
PD-SSM: \(h_t = P_t D_t h_{t-1} + u_t\), P with one entry a column (straight-through argmax over a
dictionary), D complex diagonal.

Reference: formulas as generally known (our notes, section 7); written here, none of the authors' code.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Inexact
from torch import Tensor, nn
from torch.nn import functional


def elementwise_scan(a: Tensor, u: Tensor) -> Inexact[Tensor, "b t n"]:
    """`h_t = a_t h_{t-1} + u_t` from zero, entry by entry, in log2 T rounds."""
    reach = 1
    while reach < a.shape[1]:
        u = torch.cat([u[:, :reach], u[:, reach:] + a[:, reach:] * u[:, :-reach]], 1)
        a = torch.cat([a[:, :reach], a[:, reach:] * a[:, :-reach]], 1)
        reach *= 2
    return u


class Gated(nn.Module):
    """An LSTM or a GRU."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.cell = {"lstm": nn.LSTM, "gru": nn.GRU}[kind](width, width, batch_first=True)

    def forward(self, x: Tensor, mask: Any = None, cache: Any = None) -> Float[Tensor, "b t w"]:
        """Outputs of every place."""
        return self.cell(x)[0]


class Diagonal(nn.Module):
    """A selective diagonal state space: gains by the input, `kind` says where the factors may lie."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        parts = 2 if kind == "complex" else 1
        self.factor, self.enter = nn.Linear(width, parts * width), nn.Linear(width, width)
        self.gate, self.out = nn.Linear(width, width), nn.Linear(parts * width, width)

    def forward(self, x: Tensor, mask: Any = None, cache: Any = None) -> Float[Tensor, "b t w"]:
        """Outputs of every place."""
        raw, u = self.factor(x), self.enter(x)
        if self.kind == "complex":
            size, turn = raw.chunk(2, -1)
            a = torch.polar(torch.sigmoid(size + 2), 2 * math.pi * torch.sigmoid(turn))
            h = torch.view_as_real(elementwise_scan(a, u.to(a.dtype))).flatten(-2)
        else:
            a = torch.tanh(raw + 1) if self.kind == "signed" else torch.sigmoid(raw + 2)
            h = elementwise_scan(a, u)
        return self.out(h) * torch.sigmoid(self.gate(x))


class DeltaRule(nn.Module):
    """DeltaNet; `reach` 1, or 2 for the variant whose transitions may have eigenvalue -1."""

    def __init__(self, width: int, heads: int, *, reach: float) -> None:
        super().__init__()
        self.heads, self.reach = heads, reach
        self.qkv, self.beta, self.out = nn.Linear(width, 3 * width), nn.Linear(width, heads), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Any = None, cache: Any = None) -> Float[Tensor, "b t w"]:
        """Outputs of every place, step by step."""
        b, t, w = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, -1).permute(2, 1, 0, 3, 4)
        k, beta = functional.normalize(functional.silu(k), dim=-1), self.reach * torch.sigmoid(self.beta(x))
        state, out = x.new_zeros(b, self.heads, w // self.heads, w // self.heads), []
        steps = zip(q.unbind(0), k.unbind(0), v.unbind(0), beta.transpose(0, 1).unbind(0), strict=True)
        for q_t, k_t, v_t, beta_t in steps:
            error = v_t - (state @ k_t[..., None])[..., 0]
            state = state + beta_t[..., None, None] * error[..., None] * k_t[..., None, :]
            out.append((state @ q_t[..., None])[..., 0])
        return self.out(torch.stack(out, 1).reshape(b, t, w)) if out else x


class SparseDense(nn.Module):
    """PD-SSM: one entry a column, times a complex diagonal."""

    def __init__(self, width: int, *, states: int = 16, dictionary: int = 6) -> None:
        super().__init__()
        self.states = states
        self.choose, self.diagonal = nn.Linear(width, dictionary), nn.Linear(width, 2 * states)
        self.dictionary = nn.Parameter(torch.zeros(dictionary, states, states))
        self.enter, self.out = nn.Linear(width, states), nn.Linear(2 * states, width)

    def forward(self, x: Tensor, mask: Any = None, cache: Any = None) -> Float[Tensor, "b t w"]:
        """Outputs of every place, step by step."""
        weights = self.choose(x).softmax(-1)
        soft = torch.einsum("btk,kij->tbij", weights, self.dictionary).softmax(-2)
        hard = torch.zeros_like(soft).scatter(-2, soft.argmax(-2, keepdim=True), 1.0)
        P = hard + soft - soft.detach()
        size, turn = self.diagonal(x).transpose(0, 1).chunk(2, -1)
        D = torch.polar(torch.sigmoid(size + 3), 2 * math.pi * torch.sigmoid(turn - 3))
        u = self.enter(x).transpose(0, 1).to(D.dtype)
        h, out = torch.zeros_like(u[0]) if len(u) else u, []
        for P_t, D_t, u_t in zip(P.unbind(0), D.unbind(0), u.unbind(0), strict=True):
            h = (P_t.to(D.dtype) @ (D_t * h)[..., None])[..., 0] + u_t
            out.append(torch.view_as_real(h).flatten(-2))
        return self.out(torch.stack(out, 1)) if out else x
