"""What a router sees of a prompt: blocks of features side by side, fitted, saved and explained together."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from scipy import sparse

from corollary.deferral.routing._embedded import EmbeddedText
from corollary.deferral.routing._hashed import HashedText
from corollary.deferral.routing._statistics import SCALE, TextStatistics
from corollary.deferral.routing._tfidf import TfidfText
from corollary.errors import InvalidInputError, NotFittedError


@runtime_checkable
class Block(Protocol):
    """A family of features of texts."""

    kind: str

    @property
    def width(self) -> int:
        """Number of columns."""

    def fit_transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Fit, and give the features."""

    def transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """(N, width) features."""

    def entries(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Columns and values of one text."""

    def parts(self, text: str) -> list[tuple[str, int]]:
        """Names and columns of what one text holds."""

    def settings(self) -> dict[str, Any]:
        """What the constructor takes."""

    def arrays(self) -> dict[str, np.ndarray]:
        """What fitting learned."""

    def restore(self, arrays: Mapping[str, np.ndarray]) -> "Block":
        """Take back what `arrays` gave."""


BLOCKS: dict[str, Callable[..., Block]] = {
    "hash": HashedText,
    "tfidf": TfidfText,
    "statistics": TextStatistics,
    "embedding": EmbeddedText,
}

PRESETS: dict[str, Callable[[], list[Block]]] = {
    "hash": lambda: [HashedText(), TextStatistics()],
    "hash-words": lambda: [HashedText(pairs=False)],
    "hash-characters": lambda: [HashedText(), HashedText(words=False, pairs=False, characters=(4,)), TextStatistics()],
    "tfidf": lambda: [TfidfText(), TextStatistics()],
    "tfidf-characters": lambda: [
        TfidfText(),
        TfidfText(analyzer="char_wb", ngrams=(2, 5), min_count=5),
        TextStatistics(),
    ],
    "statistics": lambda: [TextStatistics()],
    "sentence": lambda: [EmbeddedText(), TextStatistics()],
}


class Features:
    """Blocks of text features, and numbers given beside each prompt (an embedding, say), in one sparse matrix.

    Args:
        blocks: a preset ("hash": hashed words, pairs and text statistics; "hash-words": words alone, the fastest;
            "hash-characters"; "tfidf"; "tfidf-characters"; "statistics"; "sentence": an embedding by
            sentence-transformers, the extra `embeddings`; "none": given numbers only), or the blocks.

    Guarantee: none.

    Example:
        >>> features = Features("hash")
        >>> x = features.fit_transform(["What is 2 + 2?", "Tell me a story."])
        >>> x.shape[0], features.width == x.shape[1]
        (2, True)
    """

    def __init__(self, blocks: str | Sequence[Block] = "hash") -> None:
        if isinstance(blocks, str):
            if blocks != "none" and blocks not in PRESETS:
                raise InvalidInputError(f"`features` must be one of {', '.join([*PRESETS, 'none'])}, got {blocks!r}")
            blocks = PRESETS[blocks]() if blocks != "none" else []
        self.blocks: list[Block] = list(blocks)
        self.given: tuple[np.ndarray, np.ndarray] | None = None  # mean and spread of the numbers beside each prompt
        self.fitted = False

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(b.width for b in self.blocks) + (len(self.given[0]) if self.given else 0)

    def fit_transform(self, texts: Sequence[str], given: Any = None) -> sparse.csr_matrix:
        """Fit every block and give the features of the same texts.

        Args:
            texts: (N,) prompts.
            given: (N, d) numbers beside each prompt, or None.
        """
        if not self.blocks and given is None:
            raise InvalidInputError("no features at all: choose text features, or give numbers beside each prompt")
        found = [block.fit_transform(texts) for block in self.blocks]
        if given is not None:
            values = np.asarray(given, dtype=np.float64)
            spread = values.std(0)
            self.given = values.mean(0), np.where(spread > 1e-12, spread, 1.0)
        self.fitted = True
        return self._stack(found, given)

    def transform(self, texts: Sequence[str], given: Any = None) -> sparse.csr_matrix:
        """(N, width) features of new texts."""
        if not self.fitted:
            raise NotFittedError(self, "transform")
        return self._stack([block.transform(texts) for block in self.blocks], given)

    def entries(self, text: str, given: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Columns and values of one text, without a matrix: for single decisions."""
        columns, values, offset = [], [], 0
        for block in self.blocks:
            column, value = block.entries(text)
            columns.append(column + offset)
            values.append(value)
            offset += block.width
        if self.given is not None:
            columns.append(np.arange(len(self.given[0])) + offset)
            values.append(self._given_values(None if given is None else np.asarray(given)[None])[0])
        return np.concatenate(columns), np.concatenate(values)

    def parts(self, text: str) -> list[tuple[str, int]]:
        """Names and columns of everything one text holds."""
        found, offset = [], 0
        for block in self.blocks:
            found += [(name, column + offset) for name, column in block.parts(text) if column >= 0]
            offset += block.width
        return found + [(f"given {i}", i + offset) for i in range(len(self.given[0]) if self.given else 0)]

    def to_plain(self) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
        """Settings and arrays, for storage."""
        plain = [{"kind": b.kind, "settings": b.settings()} for b in self.blocks]
        arrays = {f"features/{i}/{n}": a for i, b in enumerate(self.blocks) for n, a in b.arrays().items()}
        if self.given is not None:
            arrays |= {"features/given/mean": self.given[0], "features/given/spread": self.given[1]}
        return plain, arrays

    @classmethod
    def from_plain(cls, plain: Sequence[Mapping[str, Any]], arrays: Mapping[str, np.ndarray]) -> "Features":
        """What `to_plain` gave, fitted."""
        blocks = []
        for i, entry in enumerate(plain):
            if entry["kind"] not in BLOCKS:
                raise InvalidInputError(f"features of kind {entry['kind']!r} are not known; upgrade corollary")
            start = f"features/{i}/"
            own = {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}
            blocks.append(BLOCKS[entry["kind"]](**entry["settings"]).restore(own))
        features = cls(blocks)
        if "features/given/mean" in arrays:
            features.given = arrays["features/given/mean"], arrays["features/given/spread"]
        features.fitted = True
        return features

    def _stack(self, found: list[sparse.csr_matrix], given: Any) -> sparse.csr_matrix:
        if self.given is not None:
            found = [*found, sparse.csr_matrix(self._given_values(given))]
        return found[0] if len(found) == 1 else sparse.hstack(found, format="csr")

    def _given_values(self, given: Any) -> np.ndarray:
        mean, spread = self.given if self.given is not None else (np.zeros(0), np.ones(0))
        values = None if given is None else np.asarray(given, dtype=np.float64)
        if values is None or values.ndim != 2 or values.shape[1] != len(mean) or not np.isfinite(values).all():
            got = "none" if values is None else f"shape {values.shape}"
            raise InvalidInputError(
                f"the router was fitted on {len(mean)} finite numbers beside each prompt, got {got}; give the same"
            )
        return SCALE * np.clip((values - mean) / spread, -4.0, 4.0)
