"""The layers of transductors and of the models they are compared with: attention, feed-forward, and how they stack.

A mixer is a module `(x, mask, cache) -> y` over (B, T, width); only attention has a cache. Positions are none (the
transductor counts by its states), rotary, ALiBi, or sinusoidal (added to the embedding).
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from corollary.models._blocks import angles, rotate

POSITIONS = ("none", "sinusoidal", "rotary", "alibi")


class Attention(nn.Module):
    """Scaled dot-product attention; the cache is a dict that holds the keys and values so far."""

    def __init__(self, width: int, heads: int, *, positions: str = "none", causal: bool = True) -> None:
        super().__init__()
        self.heads, self.positions, self.causal = heads, positions, causal
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(
        self, x: Float[Tensor, "b t w"], mask: Tensor | None = None, cache: dict[str, Tensor] | None = None
    ) -> Float[Tensor, "b t w"]:
        """Mix over places; `mask` (B, S) is False at padding, S counting what the cache holds."""
        b, t, w = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        seen = cache["keys"].shape[2] if cache else 0
        if self.positions == "rotary":
            angle = angles(torch.arange(seen, seen + t, device=x.device), w // self.heads)
            q, k = rotate(q, angle), rotate(k, angle)
        if cache is not None:
            if cache:
                k, v = torch.cat([cache["keys"], k], 2), torch.cat([cache["values"], v], 2)
            cache["keys"], cache["values"] = k, v
        s = k.shape[2]
        plain = mask is None and self.positions != "alibi" and seen == 0
        if plain or t == 0:
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal and t > 1)
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(x, t, s, mask))
        return self.out(mixed.transpose(1, 2).reshape(b, t, w))

    def _bias(self, x: Tensor, t: int, s: int, mask: Tensor | None) -> Tensor:
        to, of = torch.arange(s - t, s, device=x.device)[:, None], torch.arange(s, device=x.device)
        bias = torch.zeros(1, 1, t, s, dtype=x.dtype, device=x.device)
        if self.positions == "alibi":
            slope = 2.0 ** (-8 * torch.arange(1, self.heads + 1, device=x.device) / self.heads)
            bias = -(to - of).abs() * slope.to(x.dtype)[:, None, None][None]
        if self.causal:
            bias = bias.masked_fill(of > to, -math.inf)
        if mask is not None:  # a place always sees itself: a row without any is NaN
            hidden = ~mask[:, None, None, :] & (of != to)
            bias = bias.masked_fill(hidden, -math.inf)
        return bias


class FeedForward(nn.Module):
    """Two linear maps with GELU between, the hidden layer `times` as wide."""

    def __init__(self, width: int, times: int = 4) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, times * width), nn.Linear(times * width, width)

    def forward(self, x: Float[Tensor, "*any w"]) -> Float[Tensor, "*any w"]:
        """Of every place by itself."""
        return self.down(functional.gelu(self.up(x)))


class Layer(nn.Module):
    """A mixer (or none) and a feed-forward part, each behind a norm and added to the stream."""

    def __init__(self, width: int, mixer: nn.Module | None) -> None:
        super().__init__()
        self.mixer = mixer
        self.mixer_norm = nn.LayerNorm(width) if mixer is not None else None
        self.norm, self.feed = nn.LayerNorm(width), FeedForward(width)

    def forward(self, x: Tensor, mask: Tensor | None = None, cache: Any = None) -> Float[Tensor, "b t w"]:
        """One layer."""
        if self.mixer is not None and self.mixer_norm is not None:
            x = x + self.mixer(self.mixer_norm(x), mask, cache)
        return x + self.feed(self.norm(x))


def sinusoidal(first: int, t: int, width: int, like: Tensor) -> Float[Tensor, "t w"]:
    """Sines and cosines of the places, as in the first transformer."""
    half = width // 2
    rate = 10_000.0 ** (-torch.arange(half, device=like.device, dtype=torch.float64) / half)
    angle = torch.arange(first, first + t, device=like.device, dtype=torch.float64)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], -1).to(like.dtype)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of linear maps and embeddings from a generator, so that no global state is used."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            with torch.no_grad():
                part.weight.copy_(torch.randn(part.weight.shape, generator=generator) / math.sqrt(part.in_features))
                if part.bias is not None:
                    part.bias.zero_()
        elif isinstance(part, nn.Embedding):
            with torch.no_grad():
                part.weight.copy_(torch.randn(part.weight.shape, generator=generator))
