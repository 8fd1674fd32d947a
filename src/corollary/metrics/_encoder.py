"""Columns to features: scikit-learn's imputer, scaler and one-hot encoder are fitted, and kept as plain data.

Numbers: the median where missing, then mean 0 and variance 1; a column that is constant or all missing is dropped with
a note. Words: one indicator a word that is frequent enough, one for all rare or unknown ones, one for missing.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from corollary.errors import InvalidInputError
from corollary.metrics._table import Table, Words, as_words_column

MOST_WORDS = 100  # indicators a column of words gets at most


@dataclass
class TableEncoder:
    """What was learned of the columns, as plain data.

    Args:
        numbers: name -> (median, mean, scale).
        words: name -> the words that have an indicator, in order.
        dropped: name -> why it is not used.

    Guarantee: features equal to those of scikit-learn's transformers that it was learned by.

    Example:
        >>> table = Table({"x": np.array([1.0, 3.0]), "one": np.array([1.0, 1.0])})
        >>> encoder = fit_encoder(table)
        >>> encoder.transform(table).tolist(), encoder.dropped
        ([[-1.0], [1.0]], {'one': 'constant'})
    """

    numbers: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    words: dict[str, list[str]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def features(self) -> list[str]:
        """A name for each feature."""
        return [*self.numbers, *(f"{n}={w}" for n, ws in self.words.items() for w in (*ws, "(rare)", "(missing)"))]

    def transform(self, table: Table) -> Float[np.ndarray, "n p"]:
        """(n, p) features; columns are matched by name, further ones are ignored.

        Raises:
            InvalidInputError: where a column is absent, or holds words where numbers are due.
        """
        absent = [name for name in (*self.numbers, *self.words) if name not in table.columns]
        if absent:
            raise InvalidInputError(
                f"{table.source} lacks the columns {', '.join(absent[:5])} that the model was fitted on"
            )
        parts = [self._number(table, name)[:, None] for name in self.numbers]
        parts += [self._indicators(table, name) for name in self.words]
        return np.hstack(parts)

    def _number(self, table: Table, name: str) -> Float[np.ndarray, " n"]:
        column = table.columns[name]
        if isinstance(column, Words):
            known = column.codes >= 0
            if known.any():
                example = column.vocabulary[column.codes[known][0]]
                raise InvalidInputError(f"column {name!r} of {table.source} holds {example!r} where numbers are due")
            column = np.full(len(column), np.nan)
        median, mean, scale = self.numbers[name]
        if np.isinf(column).any():
            raise InvalidInputError(f"column {name!r} of {table.source} holds infinite numbers; clip or drop them")
        return (np.where(np.isnan(column), median, column) - mean) / scale

    def _indicators(self, table: Table, name: str) -> Float[np.ndarray, "n w"]:
        column, words = as_words_column(table.columns[name]), self.words[name]
        place = {word: i for i, word in enumerate(words)}
        index = np.array([*(place.get(w, len(words)) for w in column.vocabulary), len(words) + 1], dtype=np.int64)
        return np.eye(len(words) + 2)[index[column.codes]]

    def as_plain(self) -> dict[str, Any]:
        """JSON values."""
        return {"numbers": self.numbers, "words": self.words, "dropped": self.dropped}

    @classmethod
    def from_plain(cls, data: dict[str, Any]) -> "TableEncoder":
        """What `as_plain` wrote."""
        numbers = {name: (float(a), float(b), float(c)) for name, (a, b, c) in data["numbers"].items()}
        return cls(numbers, {n: [str(w) for w in ws] for n, ws in data["words"].items()}, dict(data["dropped"]))


def fit_encoder(table: Table) -> TableEncoder:
    """Learn medians, scales and words by scikit-learn's own transformers.

    Raises:
        InvalidInputError: where no column is left.

    Guarantee: none.

    Example:
        >>> encoder = fit_encoder(Table({"x": np.array([1.0, np.nan, 3.0, 5.0])}))
        >>> encoder.numbers["x"][0]
        3.0
    """
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    encoder = TableEncoder()
    for name, column in table.columns.items():
        if isinstance(column, Words):
            seen = column.codes[column.codes >= 0]
            if len(np.unique(column.codes)) < 2:
                encoder.dropped[name] = "constant" if len(seen) else "all missing"
                continue
            onehot = OneHotEncoder(max_categories=MOST_WORDS, sparse_output=True).fit(seen[:, None])
            rare = onehot.infrequent_categories_[0]
            kept = [c for c in onehot.categories_[0] if rare is None or c not in rare]
            if len(seen) > 50 and len(kept) and len(onehot.categories_[0]) > 0.9 * len(seen):
                encoder.dropped[name] = "a different word on almost every row, as an identifier has"
                continue
            encoder.words[name] = [column.vocabulary[c] for c in kept]
            continue
        finite = np.isfinite(column)
        if np.isinf(column).any():
            raise InvalidInputError(f"column {name!r} of {table.source} holds infinite numbers; clip or drop them")
        if not finite.any() or np.ptp(column[finite]) == 0:
            encoder.dropped[name] = "constant" if finite.any() else "all missing"
            continue
        imputer = SimpleImputer(strategy="median").fit(column[:, None])
        scaler = StandardScaler().fit(imputer.transform(column[:, None]))
        encoder.numbers[name] = (
            float(imputer.statistics_[0]),
            float(scaler.mean_[0]),
            float(scaler.scale_[0]) or 1.0,
        )
    if not encoder.numbers and not encoder.words:
        reasons = ", ".join(f"{name}: {why}" for name, why in list(encoder.dropped.items())[:5])
        raise InvalidInputError(f"no column of {table.source} can be learned from ({reasons})")
    return encoder
