"""TF-IDF with a vocabulary that can be read: words, pairs of words, character n-grams (scikit-learn's)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from corollary.errors import InvalidInputError


class TfidfText:
    r"""TF-IDF over an explicit vocabulary, with \(1 + \log\) counts and rows of length 1.

    Slower than `HashedText` and never colliding; every weight has a word to it.

    Args:
        analyzer: "word" (words and pairs) or "char_wb" (character n-grams inside words).
        ngrams: shortest and longest n-gram.
        min_count: training texts that must hold an n-gram.
        most: largest vocabulary, the most frequent first.

    Guarantee: none.

    Example:
        >>> TfidfText(min_count=1).fit_transform(["two words", "two"]).shape
        (2, 3)
    """

    kind = "tfidf"

    def __init__(
        self,
        *,
        analyzer: str = "word",
        ngrams: Sequence[int] = (1, 2),
        min_count: int = 2,
        most: int | None = 200_000,
    ) -> None:
        if analyzer not in ("word", "char_wb"):
            raise InvalidInputError(f"`analyzer` must be 'word' or 'char_wb', got {analyzer!r}")
        self.analyzer, self.ngrams, self.min_count, self.most = analyzer, tuple(ngrams), min_count, most
        self.vocabulary: list[str] = []
        self._fitted: Any = None

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.vocabulary)

    def fit_transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Learn vocabulary and document frequencies, and give the features of the same texts."""
        self._fitted = self._vectorizer(min_df=min(self.min_count, len(texts)), max_features=self.most)
        try:
            found = self._fitted.fit_transform(texts)
        except ValueError as problem:
            raise InvalidInputError(
                f"no vocabulary could be made of the texts ({problem}); use hashed features"
            ) from None
        self.vocabulary = self._fitted.get_feature_names_out().tolist()
        return found.tocsr()

    def transform(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """The features of new texts."""
        return self._fitted.transform(texts).tocsr()

    def entries(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Columns and values of one text."""
        row = self.transform([text])
        return row.indices, row.data

    def parts(self, text: str) -> list[tuple[str, int]]:
        """The n-grams of one text, with the column of each (-1: not among the features)."""
        known = self._fitted.vocabulary_
        return [(n, int(known.get(n, -1))) for n in self._fitted.build_analyzer()(text)]

    def settings(self) -> dict[str, Any]:
        """What the constructor takes."""
        return {
            "analyzer": self.analyzer,
            "ngrams": list(self.ngrams),
            "min_count": self.min_count,
            "most": self.most,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """What fitting learned: the vocabulary as bytes, one n-gram a line, and the weights."""
        text = "\n".join(self.vocabulary).encode("utf-8", "surrogateescape")
        return {"vocabulary": np.frombuffer(text, dtype=np.uint8), "idf": self._fitted.idf_}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> "TfidfText":
        """Take back what `arrays` gave."""
        self.vocabulary = arrays["vocabulary"].tobytes().decode("utf-8", "surrogateescape").split("\n")
        if len(self.vocabulary) != len(arrays["idf"]):
            raise InvalidInputError("stored vocabulary and weights do not fit together; fit again")
        self._fitted = self._vectorizer(vocabulary={w: i for i, w in enumerate(self.vocabulary)})
        self._fitted.idf_ = arrays["idf"]
        return self

    def _vectorizer(self, **options: Any) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(analyzer=self.analyzer, ngram_range=self.ngrams, sublinear_tf=True, **options)
