r"""Networks of the learned causal gate: from the features before each token to log-weights over the experts.

All read the same features (`_gate_features.py`: fixed-share log-weights, which are the cached log-likelihood
differences, recent averages, statistics) and correct the same base. The perceptron sees one position, the GRU and the
causal transformer what came before it too, but no statistics of the contexts, so that a token can be taken in from its
log-probabilities alone. Each runs over whole documents or token by token; the two agree (tested).

.. math:: \log r = \mathrm{logsoftmax}(s \log w^{share} + \mathrm{head}(\mathrm{body}(features_{\le t})))

Source: arXiv:2602.17554 leaves the gate's architecture to an appendix that was not seen; these are ours.
"""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.special import erf
from torch import Tensor, nn
from torch.nn import functional

from corollary.errors import InvalidInputError
from corollary.gating._prefix_gates import log_mix
from corollary.gating._scores import STATISTICS

HEADS = 4
CHUNK = 256  # positions whose attention is held at once


class CausalNetwork(nn.Module):
    """Features -> K corrections of the base log-weights; the last layer starts at zero: the gate starts at the base."""

    mean: Tensor
    spread: Tensor
    body: Any
    sequential = True  # reads documents in order, not single tokens

    def __init__(self, width: int, experts: int, hidden: int) -> None:
        super().__init__()
        self.body = self._body(width, hidden)
        self.head = nn.Linear(hidden, experts)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.scale = nn.Parameter(torch.ones(()))  # of the base
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))

    def _body(self, width: int, hidden: int) -> Any:
        raise NotImplementedError

    def forward(self, features: Tensor, base: slice) -> Float[Tensor, "... k"]:
        """(..., T, K) log-weights from (..., T, F) features; documents side by side, padded at the right."""
        return self._weights(features, self.body(self._standard(features)), base)

    def _standard(self, features: Tensor) -> Tensor:
        return (features[..., : len(self.mean)] - self.mean) / self.spread

    def _weights(self, features: Tensor, seen: Tensor, base: slice) -> Tensor:
        return torch.log_softmax(self.scale * features[..., base] + self.head(seen), dim=-1)

    def start(self, batch: int) -> Any:
        """Memory of `batch` documents without a token: tensors with the documents on their first axis, or None."""
        return None

    def step(self, features: Tensor, memory: Any, base: slice) -> tuple[Float[Tensor, "b k"], Any]:
        """(B, K) log-weights from (B, F) features before the next token, and the memory with them taken in."""
        return self(features, base), memory


class MLPNetwork(CausalNetwork):
    """Two hidden layers at each position by itself."""

    sequential = False

    def _body(self, width: int, hidden: int) -> nn.Module:
        return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())


class RowsByHand:
    """A fitted perceptron in numpy, for a few rows at a time: there, calling torch is most of the work."""

    def __init__(self, network: CausalNetwork, base: slice) -> None:
        told = {name: value.numpy() for name, value in network.state_dict().items()}
        first = told["body.0.weight"] / told["spread"]  # the features' standardisation goes into the first layer
        self.layers = [(first.T.copy(), told["body.0.bias"] - first @ told["mean"])]
        self.layers.append((told["body.2.weight"].T.copy(), told["body.2.bias"]))
        self.head = told["head.weight"].T.copy(), told["head.bias"]
        self.scale, self.base = told["scale"], base

    def __call__(self, features: Float[np.ndarray, "b f"]) -> Float[np.ndarray, "b k"]:
        """(B, K) log-weights: those of the network within rounding."""
        x = features
        for weight, bias in self.layers:
            x = x @ weight + bias
            x = 0.5 * x * (1 + erf(x * 0.5**0.5))
        joint = self.scale * features[:, self.base] + x @ self.head[0] + self.head[1]
        return joint - log_mix(joint, 0.0)[:, None]


class _Recurrent(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(functional.gelu(self.inner(x)))[0]


class GRUNetwork(CausalNetwork):
    """A gated recurrent layer over the features of the prefix."""

    def _body(self, width: int, hidden: int) -> nn.Module:
        return _Recurrent(width, hidden)

    def start(self, batch: int) -> Tensor:
        """(B, H) zeros."""
        return torch.zeros(batch, self.head.in_features)

    def step(self, features: Tensor, memory: Any, base: slice) -> tuple[Float[Tensor, "b k"], Any]:
        """One step of the recurrence."""
        inner = functional.gelu(self.body.inner(self._standard(features)))
        seen, new = self.body.gru(inner[:, None], memory[None].contiguous())
        return self._weights(features, seen[:, 0], base), new[0]


class _Attention(nn.Module):
    """Attention to the last `context` positions, nearer ones favoured by a fixed slope a head, and a feed-forward."""

    slopes: Tensor

    def __init__(self, hidden: int, context: int) -> None:
        super().__init__()
        self.context = context
        self.norm, self.norm_forward = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 2 * hidden), nn.Linear(2 * hidden, hidden)
        self.register_buffer("slopes", 2.0 ** -torch.arange(1, 2 * HEADS, 2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def _after(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, distance: Tensor, seen: Tensor) -> Tensor:
        bias = -self.slopes[:, None, None] * distance[..., None, :, :]
        bias = bias.masked_fill(~seen[..., None, :, :], -math.inf)
        mixed = functional.scaled_dot_product_attention(self._split(q), self._split(k), self._split(v), attn_mask=bias)
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        return x + self.down(functional.gelu(self.up(self.norm_forward(x))))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) positions at once."""
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        time, out = torch.arange(x.shape[1], device=x.device), []
        for first in range(0, x.shape[1], CHUNK):  # each run of positions with the window before it
            here, near = slice(first, first + CHUNK), slice(max(0, first - self.context + 1), first + CHUNK)
            distance = time[here, None] - time[near]
            seen = (distance >= 0) & (distance < self.context)
            out.append(self._after(x[:, here], q[:, here], k[:, near], v[:, near], distance.to(x.dtype), seen))
        return torch.cat(out, 1)

    def step(self, x: Tensor, past: Tensor, filled: Bool[Tensor, "b w"]) -> tuple[Tensor, Tensor]:
        """(B, H) one position after (B, 2, W, H) keys and values of the last W, W one less than the context."""
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        past = torch.cat([past, torch.stack([k, v], 1)[:, :, None]], 2)
        distance = torch.arange(past.shape[2] - 1, -1, -1, device=x.device, dtype=x.dtype)[None, None]
        seen = torch.cat([filled, torch.ones_like(filled[:, :1])], 1)[:, None]
        y = self._after(x[:, None], q[:, None], past[:, 0], past[:, 1], distance, seen)
        return y[:, 0], past[:, :, 1:]


class _Attentive(nn.Module):
    def __init__(self, width: int, hidden: int, layers: int, context: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden)
        self.layers = nn.ModuleList(_Attention(hidden, context) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class TransformerNetwork(CausalNetwork):
    """Two layers of attention to the features of the last 64 positions."""

    depth, context = 2, 64

    def _body(self, width: int, hidden: int) -> nn.Module:
        if hidden % HEADS:
            raise InvalidInputError(f"`hidden` must be a multiple of {HEADS} for a transformer, got {hidden}")
        return _Attentive(width, hidden, self.depth, self.context)

    def start(self, batch: int) -> tuple[Tensor, Tensor]:
        """(B, layers, 2, W, H) keys and values, and (B, W) which of them are of a token."""
        window = self.context - 1
        return torch.zeros(batch, self.depth, 2, window, self.head.in_features), torch.zeros(
            batch, window, dtype=torch.bool
        )

    def step(self, features: Tensor, memory: Any, base: slice) -> tuple[Float[Tensor, "b k"], Any]:
        """One position; the oldest one leaves the window."""
        past, filled = memory
        x, kept = self.body.inner(self._standard(features)), []
        for i, layer in enumerate(self.body.layers):
            x, new = layer.step(x, past[:, i], filled)
            kept.append(new)
        filled = torch.cat([filled[:, 1:], torch.ones_like(filled[:, :1])], 1)
        return self._weights(features, self.body.norm(x), base), (torch.stack(kept, 1), filled)


NETWORKS: dict[str, type[CausalNetwork]] = {"mlp": MLPNetwork, "gru": GRUNetwork, "transformer": TransformerNetwork}


def make(kind: str, width: int, experts: int, hidden: int) -> CausalNetwork:
    """A causal gate's network by name, for `width` features of which the last 3 K are statistics."""
    if kind not in NETWORKS:
        raise InvalidInputError(f"`network` must be one of {', '.join(map(repr, NETWORKS))}, got {kind!r}")
    seen = width - STATISTICS * experts if NETWORKS[kind].sequential else width
    return NETWORKS[kind](seen, experts, hidden)
