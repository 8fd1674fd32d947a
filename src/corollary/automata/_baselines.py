"""Models to compare a transductor with, in its own stack of layers, so that only the mixer differs."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from corollary.automata._layers import Layer, initialise
from corollary.automata._mixers import DeltaRule, Diagonal, Gated, SparseDense
from corollary.automata._transductor import RationalTransductor, TransductorConfig
from corollary.errors import InvalidInputError

_MIXERS: dict[str, Callable[[int, int], nn.Module]] = {
    "lstm": lambda width, heads: Gated(width, "lstm"),
    "gru": lambda width, heads: Gated(width, "gru"),
    "ssm-real": lambda width, heads: Diagonal(width, "real"),
    "ssm-signed": lambda width, heads: Diagonal(width, "signed"),
    "ssm-complex": lambda width, heads: Diagonal(width, "complex"),
    "deltanet": lambda width, heads: DeltaRule(width, heads, reach=1.0),
    "deltanet-signed": lambda width, heads: DeltaRule(width, heads, reach=2.0),
    "pd-ssm": lambda width, heads: SparseDense(width),
}
_TRANSFORMERS = {
    "transformer": "none",
    "transformer-sinusoidal": "sinusoidal",
    "transformer-rotary": "rotary",
    "transformer-alibi": "alibi",
}


class SequenceModel(nn.Module):
    """Embedding, layers of a mixer and a feed-forward part, logits of every place.

    Args:
        vocab_size: number of symbols.
        classes: number of answers.
        mixer: `(width, heads) -> module` mapping (x, mask, cache) to the same shape.
        width: of the stream.
        layers: how many.
        heads: of mixers that have them.
        seed: of the first weights.

    Guarantee: causal if the mixer is.

    Example:
        >>> import torch
        >>> from corollary.automata import baseline
        >>> baseline("gru", vocab_size=3, classes=5)(torch.tensor([[0, 2, 1]])).shape
        torch.Size([1, 3, 5])
    """

    def __init__(
        self,
        vocab_size: int,
        classes: int,
        mixer: Callable[[int, int], nn.Module],
        *,
        width: int = 32,
        layers: int = 2,
        heads: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # the first weights of torch's own cells come from the global generator
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(vocab_size, width)
            self.layers = nn.ModuleList(Layer(width, mixer(width, heads)) for _ in range(layers))
            self.norm, self.readout = nn.LayerNorm(width), nn.Linear(width, classes)
        generator = torch.Generator().manual_seed(seed)
        initialise(self, generator)
        for part in self.modules():
            if isinstance(part, SparseDense):
                with torch.no_grad():
                    part.dictionary.copy_(torch.randn(part.dictionary.shape, generator=generator))

    def forward(self, symbols: Tensor) -> Float[Tensor, "b t c"]:
        """Logits of every place."""
        x = self.embedding(symbols)
        for layer in self.layers:
            x = layer(x)
        return self.readout(self.norm(x))


def baselines() -> tuple[str, ...]:
    """Names of the models to compare with.

    Guarantee: none.

    Example:
        >>> from corollary.automata import baselines
        >>> "lstm" in baselines(), "deltanet-signed" in baselines()
        (True, True)
    """
    return (*_TRANSFORMERS, *_MIXERS)


def baseline(
    name: str, *, vocab_size: int, classes: int, width: int = 32, layers: int = 2, heads: int = 4, seed: int = 0
) -> nn.Module:
    """A model to compare with, by name.

    Args:
        name: one of `baselines()`.
        vocab_size: number of symbols.
        classes: number of answers.
        width: of the stream; state sizes follow it.
        layers: how many.
        heads: of attention and delta rules.
        seed: of the first weights.

    Raises:
        InvalidInputError: for an unknown name.

    Guarantee: none; they are plain versions for comparison, without the kernels and tricks of their authors.

    Example:
        >>> import torch
        >>> from corollary.automata import baseline
        >>> baseline("pd-ssm", vocab_size=2, classes=2)(torch.zeros(1, 4, dtype=torch.int64)).shape
        torch.Size([1, 4, 2])

    Reference: formulas as generally known; see the module's head.
    """
    if name in _TRANSFORMERS:
        config = TransductorConfig(
            vocab_size=vocab_size,
            classes=classes,
            width=width,
            layers=layers,
            heads=heads,
            positions=_TRANSFORMERS[name],
        )
        return RationalTransductor(config, seed=seed)
    if name not in _MIXERS:
        raise InvalidInputError(f"no baseline is called {name!r}; known: {', '.join(baselines())}")
    return SequenceModel(vocab_size, classes, _MIXERS[name], width=width, layers=layers, heads=heads, seed=seed)
