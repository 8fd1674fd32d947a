r"""The head of temper-then-tilt: pooled states, a low-rank score of every next token, and the tilted logits.

.. math:: \bar h_t = \frac{1}{\#} \sum_{s \le t} h_s, \qquad \ell_t = W_2\, a(W_1 \bar h_t) \in R^V, \qquad
          f(\text{retain} \mid x_{\le t}, v) = \sigma(\ell_t[v])

.. math:: out_t[v] = \log p(v \mid x_{\le t}) / T + s \log \sigma(\ell_t[v] + b)

Block, Mohri, Mokhtari and Shakkottai, "Temper-Then-Tilt", arXiv:2602.10217: abstract read, method as in the authors'
code for open-unlearning by the notes; the prior correction b is derived here.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from corollary.errors import InvalidInputError

ACTIVATIONS = {"identity": lambda x: x, "relu": torch.relu, "gelu": functional.gelu, "tanh": torch.tanh}
INIT = 0.02  # W_2 starts small: log sigma of an untrained head is nearly -log 2 for all tokens, which changes nothing


def causal_mean(hidden: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
    r"""\(\bar h_t\): the mean of the states up to each position, padding left out.

    Args:
        hidden: states behind the last norm.
        mask: False at padding, which may be at the left or at the right.

    Returns:
        Means in at least float32; zero where nothing was read yet.

    Guarantee: at real positions the same numbers whatever the padding (within rounding).

    Example:
        >>> h = torch.tensor([[[9.0], [1.0], [3.0]]])
        >>> causal_mean(h, torch.tensor([[False, True, True]])).ravel().tolist()
        [0.0, 1.0, 2.0]
    """
    kind = hidden.dtype if hidden.dtype == torch.float64 else torch.float32
    seen = mask[..., None].to(kind)
    return (hidden.to(kind) * seen).cumsum(1) / seen.cumsum(1).clamp(min=1)


class TemperTiltHead(nn.Module):
    r"""\(\ell = W_2\, a(\ldots a(W_1 \bar h))\): how likely each next token is to be retained, as a logit.

    Args:
        width: d, of the hidden states.
        vocab_size: V.
        rank: m; d m + V m parameters. 20 or 50 for large models.
        layers: hidden layers; each after the first adds an m by m matrix.
        activation: identity, relu, gelu or tanh.
        offset: b, added to every logit at inference; `log((1 - gamma) / gamma)` corrects for balanced training.
        seed: of the first weights.

    Raises:
        InvalidInputError: for sizes below one, an unknown activation, or several layers with the identity.

    Guarantee: none until it is trained; see `fit_temper_tilt`.

    Example:
        >>> head = TemperTiltHead(8, 100, rank=2)
        >>> head(torch.zeros(3, 8)).shape, sum(p.numel() for p in head.parameters())
        (torch.Size([3, 100]), 216)

    Reference: arXiv:2602.10217 (abstract read; the authors' code by the notes).
    """

    def __init__(
        self,
        width: int,
        vocab_size: int,
        *,
        rank: int = 20,
        layers: int = 1,
        activation: str = "identity",
        offset: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("width", width), ("vocab_size", vocab_size), ("rank", rank), ("layers", layers)):
            if not 1 <= value <= 1 << 24:
                raise InvalidInputError(f"`{name}` must be a positive number, got {value!r}")
        if activation not in ACTIVATIONS:
            raise InvalidInputError(f"`activation` must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        if layers > 1 and activation == "identity":
            raise InvalidInputError(
                f"{layers} layers without an activation are one matrix; give `activation`, or 1 layer"
            )
        self.width, self.vocab_size, self.rank, self.layers = width, vocab_size, rank, layers
        self.activation, self.offset = activation, float(offset)
        generator = torch.Generator().manual_seed(seed)
        shapes = [(rank, width), *[(rank, rank)] * (layers - 1)]
        self.inner = nn.ParameterList(
            nn.Parameter(torch.randn(rows, columns, generator=generator) / columns**0.5) for rows, columns in shapes
        )
        self.out = nn.Parameter(torch.randn(vocab_size, rank, generator=generator) * INIT)

    @staticmethod
    def count(width: int, vocab_size: int, *, rank: int = 20, layers: int = 1) -> int:
        """Trained parameters of a head: m (d + V), and m squared for each layer after the first."""
        return rank * (width + vocab_size) + (layers - 1) * rank**2

    def features(self, pooled: Float[Tensor, "... d"]) -> Float[Tensor, "... m"]:
        """What is multiplied with the rows of W_2."""
        z = pooled.to(self.out.dtype)
        for weight in self.inner:
            z = ACTIVATIONS[self.activation](functional.linear(z, weight))
        return z

    def forward(self, pooled: Float[Tensor, "... d"]) -> Float[Tensor, "... vocab"]:
        """Logits for every next token, without the offset."""
        return functional.linear(self.features(pooled), self.out)

    def chosen(self, pooled: Float[Tensor, "m d"], tokens: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        r"""\(\ell[v]\) of one token each, from the rows of W_2 that are needed: no (m, V) array is made."""
        return (self.features(pooled) * self.out[tokens]).sum(-1)

    def settings(self) -> dict[str, Any]:
        """What the constructor needs to make this shape again."""
        names = ("width", "vocab_size", "rank", "layers", "activation", "offset")
        return {name: getattr(self, name) for name in names}


def tilted_log_probs(
    logits: Float[Tensor, "b vocab"],
    scores: Sequence[Float[Tensor, "b vocab"]],
    switched: Bool[Tensor, "b heads"],
    *,
    temperature: float = 1.0,
    guidance: float = 1.0,
) -> Float[Tensor, "b vocab"]:
    r"""Normalised \(\log p(v) / T + s \sum_k \log \sigma(\ell_k[v])\), the sum over the heads switched on in each row.

    Args:
        logits: of the base.
        scores: \(\ell_k + b_k\), one for each head.
        switched: which heads are on in which row; a row without any gets the base, untempered.
        temperature: T; above 1 flattens the base.
        guidance: s; 0 only tempers.

    Returns:
        Log-probabilities, in at least float32.

    Guarantee: with s = 0 and T = 1, and in rows without a head, bitwise the log-softmax of the logits.

    Example:
        >>> logits, off = torch.tensor([[1.0, 2.0]]), torch.tensor([[False]])
        >>> same = tilted_log_probs(logits, [logits], off, temperature=2.0)
        >>> bool((same == logits.log_softmax(-1)).all())
        True

    Reference: arXiv:2602.10217 (abstract read; the authors' code by the notes).
    """
    z = logits.to(logits.dtype if logits.dtype == torch.float64 else torch.float32)
    if not switched.any() or (temperature == 1 and guidance == 0):
        return z.log_softmax(-1)
    tilted = z / temperature  # the base's own normaliser is the same for all tokens, and falls out
    if guidance != 0:
        for k, score in enumerate(scores):
            tilt = functional.logsigmoid(score.to(z.dtype))
            on = switched[:, k, None]
            tilted = tilted.add(tilt if on.all() else tilt.where(on, 0.0), alpha=guidance)
    rows = switched.any(1)
    return tilted.log_softmax(-1) if rows.all() else torch.where(rows[:, None], tilted, z).log_softmax(-1)
