r"""Rational transductors: a transformer whose every layer reads the state of an automaton (deep rational injection).

\(\tilde z^{(l)}_t = z^{(l)}_t + W^{(l)} h_t\), then layer l, for l = 0 .. L - 1 with the same \(h_t\): attention sees
the bilinear kernel \(h_t^\top W^\top W_Q^\top W_K W h_{t'}\) without storing d^2 states. No positional code is needed:
the state counts. Depth O(L + log T) by a parallel scan.

Mohri, *Rational Transductors*, arXiv:2602.07599 (abstract read; Eq. 5 and 6 by public notes).
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from corollary.automata._heads import Head
from corollary.automata._layers import POSITIONS, Attention, Layer, initialise, sinusoidal
from corollary.automata._scan import STATES, checked
from corollary.errors import InvalidInputError


@dataclass(frozen=True)
class TransductorConfig:
    """Sizes of a `RationalTransductor`.

    Args:
        vocab_size: number of input symbols.
        classes: number of outputs a place; None for as many as symbols.
        width: of the stream; a multiple of twice `heads`.
        layers: of attention and feed-forward.
        heads: attention heads.
        state: what is injected: `inclusive` (after the symbol), `exclusive` (before it), or `both`.
        causal: False for a bidirectional network: attention sees everything, and a second head may read backwards.
        attention: False leaves the feed-forward parts only: the output is then a function of (state before, symbol,
            state after) alone, and the whole network can be certified.
        positions: `none`, `sinusoidal`, `rotary` or `alibi`.
        context: longest training window where it learns documents.

    Raises:
        InvalidInputError: where the sizes do not fit together.

    Guarantee: none.

    Example:
        >>> from corollary.automata import TransductorConfig
        >>> TransductorConfig(vocab_size=5, classes=5).layers
        2
    """

    vocab_size: int
    classes: int | None = None
    width: int = 32
    layers: int = 2
    heads: int = 4
    state: str = "both"
    causal: bool = True
    attention: bool = True
    positions: str = "none"
    context: int = 256

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "layers", "heads", "context"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 20:
                raise InvalidInputError(f"`{name}` must be an integer from 1 to {1 << 20}, got {value!r}")
        if self.classes is not None and (type(self.classes) is not int or not 1 <= self.classes <= 1 << 20):
            raise InvalidInputError(f"`classes` must be an integer from 1 to {1 << 20} or None, got {self.classes!r}")
        for name in ("causal", "attention"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidInputError(f"`{name}` must be True or False, got {getattr(self, name)!r}")
        if self.width % (2 * self.heads):
            raise InvalidInputError(f"`width` must be a multiple of 2 x heads, got {self.width} and {self.heads} heads")
        if self.state not in STATES or self.positions not in POSITIONS:
            raise InvalidInputError(
                f"`state` is one of {', '.join(STATES)} and `positions` of {', '.join(POSITIONS)}, got "
                f"{self.state!r} and {self.positions!r}"
            )

    @property
    def outputs(self) -> int:
        """Number of outputs a place."""
        return self.vocab_size if self.classes is None else self.classes


@dataclass
class Stream:
    """What reading on needs: states of the heads, keys and values of the layers, how many places were seen.

    Guarantee: none of its own; give an empty one to the first call and the same to the next.

    Example:
        >>> import torch
        >>> from corollary.automata import RationalHead, RationalTransductor, Stream, TransductorConfig
        >>> model = RationalTransductor(TransductorConfig(vocab_size=3), RationalHead(3, 4, seed=0))
        >>> stream = Stream()
        >>> _ = model(torch.tensor([[0, 1]]), stream=stream), model(torch.tensor([[2]]), stream=stream)
        >>> stream.seen
        3
    """

    states: list[Tensor] = field(default_factory=list)
    caches: list[dict[str, Tensor]] = field(default_factory=list)
    seen: int = 0
    batch: int | None = None


class RationalTransductor(nn.Module):
    r"""A transformer with the state of an automaton injected into every layer.

    .. math:: z^{(l+1)} = \mathrm{Layer}_l\big(z^{(l)} + W^{(l)} h\big), \qquad h_t = M_{x_t} h_{t-1}

    Args:
        config: the sizes.
        head: what is injected: a `RationalHead`, `DirectSum`, `FiniteHead`; None leaves the plain transformer.
        backward_head: a second head that reads from the right; for bidirectional networks only.
        seed: of the first weights of the layers.

    Raises:
        InvalidInputError: where head and sizes do not fit, or a causal network is given a backward head.

    Guarantee: causal networks see no later symbol. With a `FiniteHead` the injected state is exact at every length;
        without attention the output is then a function of finitely many cases, which `certify` enumerates. With
        M = I it is the plain transformer with a constant bias.

    Example:
        >>> import torch
        >>> from corollary.automata import RationalHead, RationalTransductor, TransductorConfig
        >>> model = RationalTransductor(TransductorConfig(vocab_size=3, classes=5), RationalHead(3, 8, seed=0), seed=0)
        >>> model(torch.tensor([[0, 2, 1]])).shape
        torch.Size([1, 3, 5])

    Reference: arXiv:2602.07599 (abstract read; architecture by public notes; normalisation and state modes ours).
    """

    def __init__(
        self,
        config: TransductorConfig,
        head: Head | None = None,
        *,
        backward_head: Head | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for each in (head, backward_head):
            if each is not None and not isinstance(each, Head):
                raise InvalidInputError(f"a head over symbols is injected, got {type(each).__name__}")
            if each is not None and each.vocab_size != config.vocab_size:
                raise InvalidInputError(
                    f"the head reads {each.vocab_size} symbols, the network {config.vocab_size}; give both one alphabet"
                )
        if backward_head is not None and config.causal:
            raise InvalidInputError("a causal network cannot read from the right; set `causal=False`")
        self.config, self.head, self.backward_head = config, head, backward_head
        self.alphabet: tuple[Any, ...] | None = None  # what the numbers stand for, where it was made from symbols
        c = config
        self.vocab_size = c.vocab_size
        with torch.device("meta"):  # nothing is drawn here, so that the global generator stays as it is
            self.embedding = nn.Embedding(c.vocab_size, c.width)
            self.layers = nn.ModuleList(
                Layer(
                    c.width,
                    Attention(c.width, c.heads, positions=c.positions, causal=c.causal) if c.attention else None,
                )
                for _ in range(c.layers)
            )
            features = self._features()
            self.inject = nn.ModuleList(
                nn.Linear(features, c.width, bias=False) for _ in range(c.layers if features else 0)
            )
            self.norm, self.readout = nn.LayerNorm(c.width), nn.Linear(c.width, c.outputs)
        for part in (self.embedding, self.layers, self.inject, self.norm, self.readout):
            part.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        for part in (self.embedding, self.layers, self.inject, self.norm, self.readout):
            initialise(part, generator)
            for module in part.modules():
                if isinstance(module, nn.LayerNorm):
                    nn.init.ones_(module.weight)
                    nn.init.zeros_(module.bias)

    def _features(self) -> int:
        each = sum(h.dim for h in (self.head, self.backward_head) if h is not None)
        return 2 * each if self.config.state == "both" else each

    @property
    def depends_on_state_only(self) -> bool:
        """Whether every output is a function of (state before, symbol, state after)."""
        c = self.config
        return not c.attention and c.positions != "sinusoidal" and self.backward_head is None

    def features(
        self, symbols: Tensor, mask: Tensor | None = None, stream: Stream | None = None
    ) -> Float[Tensor, "b t f"] | None:
        """What is injected, (B, T, f); None without a head."""
        parts = []
        for head, reverse in ((self.head, False), (self.backward_head, True)):
            if head is None:
                continue
            initial = stream.states[0] if stream is not None and stream.states else None
            made, last = head.stream(symbols, state=self.config.state, mask=mask, initial=initial, reverse=reverse)
            if stream is not None:
                stream.states = [last]
            parts.append(made)
        return torch.cat(parts, dim=-1) if parts else None

    def forward(
        self, symbols: Tensor, *, mask: Tensor | None = None, stream: Stream | None = None
    ) -> Float[Tensor, "b t c"]:
        """Logits of every place.

        Args:
            symbols: (B, T) int64.
            mask: (B, T) bool, False at padding, which may hold any number and neither advances the state nor is
                attended to.
            stream: what an earlier call left; it is brought up to date, so that a long input may come in pieces.
        """
        if stream is not None and not self.config.causal:
            raise InvalidInputError("a bidirectional network reads all at once; leave `stream` away")
        if stream is not None and mask is not None:
            raise InvalidInputError("a stream has no padding; leave `mask` away, or read at once")
        symbols = checked(symbols, self.vocab_size, mask)
        if stream is not None:
            if stream.batch not in (None, len(symbols)):
                raise InvalidInputError(
                    f"this stream reads {stream.batch} sequences, got {len(symbols)}; begin with an empty one"
                )
            stream.batch = len(symbols)
        h = self.features(symbols, mask, stream)
        return self.outputs(symbols, h, mask=mask, stream=stream)

    def outputs(
        self, symbols: Tensor, h: Tensor | None, *, mask: Tensor | None = None, stream: Stream | None = None
    ) -> Float[Tensor, "b t c"]:
        """Logits from symbols and the features that are injected."""
        x = self.embedding(symbols)
        if self.config.positions == "sinusoidal":
            x = x + sinusoidal(stream.seen if stream else 0, symbols.shape[1], self.config.width, x)
        if stream is not None and not stream.caches:
            stream.caches = [{} for _ in self.layers]
        for i, layer in enumerate(self.layers):
            if h is not None:
                x = x + self.inject[i](h.to(x.dtype))
            x = layer(x, mask, None if stream is None else stream.caches[i])
        if stream is not None:
            stream.seen += symbols.shape[1]
        return self.readout(self.norm(x))

    def snap(self, q_max: int = 60, **options: Any) -> "RationalTransductor":
        """The same network with its head made finite (in a copy); see `corollary.automata.snap`."""
        from corollary.automata._snap import snap_network

        return snap_network(self, q_max, **options)

    def generate(
        self, prompt: Tensor, *, max_tokens: int, temperature: float = 1.0, seed: int = 0
    ) -> Int[Tensor, "b t"]:
        """Continue (B, T) prompts by `max_tokens` symbols, each one product of a matrix and a vector and one place."""
        from corollary.automata._generation import generate

        return generate(self, prompt, max_tokens=max_tokens, temperature=temperature, seed=seed)

    @classmethod
    def from_regex(cls, pattern: str, alphabet: Any, **options: Any) -> "RationalTransductor":
        """An exact network that says after every symbol whether the word so far is in the language."""
        from corollary.automata._exact_networks import from_regex

        return from_regex(pattern, alphabet, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model.json` and safetensors weights; `from_pretrained` reads them."""
        from corollary.automata._storage import save

        save(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "RationalTransductor":
        """Read what `save_pretrained` wrote."""
        from corollary.automata._storage import load

        return load(folder)

    def fingerprint(self) -> str:
        """SHA-256 of sizes, heads and weights."""
        from corollary.automata._storage import fingerprint

        return fingerprint(self)

    def describe(self) -> dict[str, Any]:
        """Sizes and heads as plain values; the alphabet, where there is one of strings or integers."""
        heads = {"head": self.head, "backward_head": self.backward_head}
        told = {n: None if h is None else getattr(h, "description", None) for n, h in heads.items()}
        names = self.alphabet or ()
        plain = bool(names) and all(isinstance(s, str | int) and not isinstance(s, bool) for s in names)
        return {"config": asdict(self.config), **told, **({"alphabet": list(names)} if plain else {})}
