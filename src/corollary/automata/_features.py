r"""Rational features: words as states of a head, read out linearly.

Random matrices suffice over words of length L once \(d \ge |\Sigma|^L\) (Theorem 20 by public notes); learned ones
need the Hankel rank, k for counting mod k (Proposition 22): the compactness gap, measured by `readout_error`.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike

from corollary.errors import InvalidInputError


@torch.no_grad()
def rational_features(head: Any, words: ArrayLike) -> Float[np.ndarray, "n d"]:
    """The state of a head after each word, in float64.

    Args:
        head: any head; `RationalHead(V, d, family="random")` gives random rational features.
        words: (N, L) numbered symbols.

    Returns:
        (N, d).

    Guarantee: with random matrices the rank over all words of length L is min(d, V^L), almost surely.

    Example:
        >>> import numpy as np
        >>> from corollary.automata import RationalHead, rational_features
        >>> words = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
        >>> int(np.linalg.matrix_rank(rational_features(RationalHead(2, 8, family="random", seed=0), words)))
        4

    Reference: arXiv:2602.07599, Theorem 20 (by public notes).
    """
    x = torch.as_tensor(np.asarray(words), dtype=torch.int64)
    if x.ndim != 2 or not x.shape[1]:
        raise InvalidInputError(f"`words` must be (N, L) with L at least 1, got {tuple(x.shape)}")
    return head(x)[:, -1].double().numpy()


def readout_error(head: Any, words: ArrayLike, targets: ArrayLike) -> float:
    """Mean squared error of the best linear read-out of the features on these words.

    Args:
        head: as in `rational_features`.
        words: (N, L).
        targets: (N,) or (N, C).

    Returns:
        The least mean squared error; zero says that a linear read-out suffices.

    Guarantee: the minimum, by least squares in float64.

    Example:
        >>> import itertools
        >>> import numpy as np
        >>> from corollary.automata import RationalHead, parity_head, readout_error
        >>> words = np.array(list(itertools.product(range(2), repeat=4)))
        >>> parity = words.sum(1) % 2
        >>> readout_error(RationalHead(2, 8, family="random", seed=0), words, parity) > 0.01
        True
        >>> readout_error(parity_head(), words, parity) < 1e-20
        True
    """
    X, y = rational_features(head, words), np.asarray(targets, dtype=np.float64)
    if len(y) != len(X):
        raise InvalidInputError(f"{len(X)} words need as many targets, got {len(y)}")
    size = np.abs(X).max(initial=1e-300)
    fitted = X / size @ np.linalg.lstsq(X / size, y, rcond=1e-13)[0]
    return float(np.mean((fitted - y) ** 2))
