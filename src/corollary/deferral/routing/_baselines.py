"""What a router must beat: prompt length alone, and the nearest neighbours among the training prompts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import sparse

from corollary.errors import InvalidInputError


class LengthRouter:
    """Quality of each model as a step function of the prompt's length: means over deciles of training lengths.

    For two models `score` is the length itself, as published comparisons use it.

    Example:
        >>> router = LengthRouter(bins=2).fit([1, 2, 30, 40], np.array([[1.0, 1], [1, 1], [0, 1], [0, 1]]))
        >>> router.values([1, 40])[:, 0].round(1).tolist()
        [0.9, 0.1]
    """

    def __init__(self, *, bins: int = 10) -> None:
        self.bins = bins
        self.edges: np.ndarray = np.zeros(0)
        self.table: np.ndarray = np.zeros((1, 0))

    def fit(self, lengths: Any, quality: Float[np.ndarray, "n k"]) -> "LengthRouter":
        """Learn from lengths and qualities (NaN where not asked)."""
        x = np.asarray(lengths, dtype=np.float64)
        self.edges = np.unique(np.quantile(x, np.linspace(0, 1, self.bins + 1)[1:-1]))
        mean, rows = np.nanmean(quality, axis=0), np.searchsorted(self.edges, x, side="left")
        self.table = np.stack([_shrunk(quality[rows == b], mean, 0.5) for b in range(len(self.edges) + 1)])
        return self

    def values(self, lengths: Any) -> Float[np.ndarray, "n k"]:
        """(N, K) estimated quality."""
        return self.table[np.searchsorted(self.edges, np.asarray(lengths, dtype=np.float64), side="left")]


class NeighbourRouter:
    """Quality of each model: mean over the k training prompts of largest cosine.

    Args:
        k: number of neighbours.

    Example:
        >>> x, q = sparse.csr_matrix(np.eye(3)), np.array([[1.0, 0], [0, 1], [0, 1]])
        >>> NeighbourRouter(k=1).fit(x, q).values(x[:1]).round(2).tolist()
        [[0.78, 0.22]]
    """

    def __init__(self, *, k: int = 40) -> None:
        self.k = k
        self.rows = sparse.csr_matrix((0, 0))
        self.quality: np.ndarray = np.zeros((0, 0))

    def fit(self, x: sparse.csr_matrix, quality: Float[np.ndarray, "n k"]) -> "NeighbourRouter":
        """Keep the training rows."""
        self.rows, self.quality = x.tocsr().astype(np.float32), quality
        return self

    def values(self, x: sparse.csr_matrix) -> Float[np.ndarray, "n k"]:
        """(N, K) mean quality among the neighbours, drawn to the overall mean by one pseudo-neighbour in two."""
        if x.shape[1] != self.rows.shape[1]:
            raise InvalidInputError(f"`x` has {x.shape[1]} features, the neighbours {self.rows.shape[1]}")
        k, mean = min(self.k, len(self.quality)), np.nanmean(self.quality, axis=0)
        out, transposed = np.empty((x.shape[0], self.quality.shape[1])), self.rows.T.tocsr()
        for i in range(0, x.shape[0], 512):
            near = (x[i : i + 512].astype(np.float32) @ transposed).toarray()
            best = np.argpartition(-near, k - 1, axis=1)[:, :k]
            found = self.quality[best]
            seen = ~np.isnan(found)
            out[i : i + 512] = (np.nansum(found, axis=1) + 0.5 * mean) / (seen.sum(1) + 0.5)
        return out

    def arrays(self) -> dict[str, np.ndarray]:
        """What fitting kept."""
        return {
            "data": self.rows.data,
            "indices": self.rows.indices.astype(np.int32),
            "indptr": self.rows.indptr.astype(np.int64),
            "quality": self.quality,
            "width": np.array([self.rows.shape[1]]),
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> "NeighbourRouter":
        """Take back what `arrays` gave."""
        shape = (len(arrays["indptr"]) - 1, int(arrays["width"][0]))
        self.rows = sparse.csr_matrix((arrays["data"], arrays["indices"], arrays["indptr"]), shape=shape)
        self.quality = arrays["quality"]
        return self


def _shrunk(quality: np.ndarray, mean: np.ndarray, weight: float) -> np.ndarray:
    seen = ~np.isnan(quality)
    return (np.nansum(quality, axis=0) + weight * mean) / (seen.sum(0) + weight)
