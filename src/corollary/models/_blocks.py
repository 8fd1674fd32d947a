"""The parts of a causal transformer: rotary positions, and a block of attention and gated feed-forward."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional


def angles(position: Int[Tensor, " t"], head_width: int) -> Float[Tensor, "t half"]:
    """`position_t 10000^(-2i / head_width)`, in float64: position t turns pair i by this much."""
    half = head_width // 2
    rate = 10_000.0 ** (-torch.arange(half, device=position.device, dtype=torch.float64) / half)
    return position[:, None].double() * rate


def rotate(x: Float[Tensor, "b h t d"], angle: Float[Tensor, "t half"]) -> Float[Tensor, "b h t d"]:
    """Turn the pairs (x_i, x_{i + d/2}) by their angles: queries times keys then see distances only."""
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)


class Block(nn.Module):
    """Attention and a gated feed-forward layer, each behind a norm and added to the stream."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        hidden = -(-8 * width // 3 // 32) * 32
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(
        self, x: Float[Tensor, "b t w"], angle: Float[Tensor, "t half"], cache: Tensor | None, seen: int
    ) -> Float[Tensor, "b t w"]:
        """`cache` (2, B, heads, context, width / heads) holds keys and values, `seen` inputs so far."""
        b, t, w = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, angle), rotate(k, angle)
        if cache is not None:
            cache[0, :, :, seen : seen + t], cache[1, :, :, seen : seen + t] = k, v
            k, v = cache[:, :, :, : seen + t]
        later = None  # inputs behind cached ones see all of those, and the earlier among themselves
        if t > 1 and seen:
            later = torch.ones(t, seen + t, dtype=torch.bool, device=x.device).tril(seen)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=later, is_causal=t > 1 and not seen)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, t, w))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)
