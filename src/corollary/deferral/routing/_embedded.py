"""Features from an embedding: sentence-transformers where installed, or any function from texts to vectors."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse

from corollary.errors import InvalidInputError, MissingExtraError

Encoder = Callable[[Sequence[str]], Any]
SENTENCE = "sentence-transformers:"
DEFAULT = SENTENCE + "sentence-transformers/all-MiniLM-L6-v2"
CUT = 4.0  # standard deviations at which a coordinate is cut
_ENCODERS: dict[str, Encoder] = {}


def register_encoder(name: str, encode: Encoder) -> None:
    """Make a function from texts to vectors known by a name, so that routers on it can be stored and loaded.

    Args:
        name: any but those that start with "sentence-transformers:".
        encode: `(texts) -> (N, d)` numbers; the same text must always give the same vector.

    Raises:
        InvalidInputError: for a reserved name, or another function under a taken one.

    Example:
        >>> register_encoder("length and vowels", lambda texts: [[len(t), sum(map(t.count, "aeiou"))] for t in texts])
        >>> EmbeddedText(encoder="length and vowels").fit_transform(["one", "three", "seven"]).shape
        (3, 2)
    """
    if name.startswith(SENTENCE) or not name:
        raise InvalidInputError(f"{name!r} cannot be the name of an encoder of your own; choose another")
    if _ENCODERS.get(name, encode) is not encode:
        raise InvalidInputError(f"an encoder named {name!r} is registered already; choose another name")
    _ENCODERS[name] = encode


class EmbeddedText:
    r"""Standardised coordinates of an embedding, scaled so that a row has length about 1.

    .. math:: x_j = clip((e_j - \mu_j) / s_j, -4, 4) / \sqrt d

    Args:
        encoder: "sentence-transformers:MODEL" (a folder, or a model already in the local cache: nothing is downloaded),
            or a name given to `register_encoder`.

    Raises:
        MissingExtraError: where sentence-transformers is wanted and not installed.
        InvalidInputError: for an unknown name, or an encoder that gives other than finite vectors.

    Guarantee: none.

    Example:
        >>> EmbeddedText().settings()["encoder"].partition(":")[0]
        'sentence-transformers'
    """

    kind = "embedding"

    def __init__(self, *, encoder: str = DEFAULT) -> None:
        self.encoder = encoder
        self.mean: np.ndarray = np.zeros(0)
        self.spread: np.ndarray = np.ones(0)

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.mean)

    def fit_transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Learn mean and spread, and give the features of the same texts."""
        raw = self._encoded(texts)
        self.mean, spread = raw.mean(0), raw.std(0)
        self.spread = np.where(spread > 1e-12, spread, 1.0)
        return sparse.csr_matrix(self._values(raw))

    def transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """The features of new texts."""
        return sparse.csr_matrix(self._values(self._encoded(texts)))

    def entries(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Columns and values of one text."""
        return np.arange(self.width), self._values(self._encoded([text]))[0]

    def parts(self, text: str) -> list[tuple[str, int]]:
        """A coordinate has no name but its number."""
        return [(f"embedding {i}", i) for i in range(self.width)]

    def settings(self) -> dict[str, Any]:
        """What the constructor takes."""
        return {"encoder": self.encoder}

    def arrays(self) -> dict[str, np.ndarray]:
        """What fitting learned."""
        return {"mean": self.mean, "spread": self.spread}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> "EmbeddedText":
        """Take back what `arrays` gave."""
        self.mean, self.spread = arrays["mean"], arrays["spread"]
        if self.mean.shape != self.spread.shape or self.mean.ndim != 1:
            raise InvalidInputError("stored means and spreads do not fit together; fit again")
        return self

    def _encoded(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        encode = _sentence(self.encoder.removeprefix(SENTENCE)) if self.encoder.startswith(SENTENCE) else None
        encode = encode or _ENCODERS.get(self.encoder)
        if encode is None:
            raise InvalidInputError(f"no encoder is called {self.encoder!r}; register it first with register_encoder")
        raw = np.asarray(encode(list(texts)), dtype=np.float64)
        wrong_width = bool(self.width) and raw.shape[-1] != self.width
        if raw.ndim != 2 or len(raw) != len(texts) or wrong_width or not np.isfinite(raw).all():
            wanted = f"({len(texts)}, {self.width or 'd'})"
            raise InvalidInputError(f"encoder {self.encoder!r} must give finite {wanted} numbers, got {raw.shape}")
        return raw

    def _values(self, raw: np.ndarray) -> Float[np.ndarray, "n d"]:
        return np.clip((raw - self.mean) / self.spread, -CUT, CUT) / np.sqrt(max(self.width, 1))


@lru_cache(maxsize=4)
def _sentence(model: str) -> Encoder:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise MissingExtraError("sentence-transformers", "embeddings", "an embedding of sentences") from None
    loaded = SentenceTransformer(model, local_files_only=True)
    return lambda texts: loaded.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)
