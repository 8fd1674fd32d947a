"""From scores of experts to what they are worth; imports no torch, since a gateway decides with it."""

import numpy as np
from jaxtyping import Float


def values_of(scores: Float[np.ndarray, "n k"], loss: str) -> Float[np.ndarray, "n k"]:
    """What each expert is worth: the sigmoid for "value", the score for "squared", the softmax policy for the others.

    Example:
        >>> values_of(np.zeros((1, 2)), "value").tolist(), values_of(np.zeros((1, 4)), "ec").tolist()
        ([[0.5, 0.5]], [[0.25, 0.25, 0.25, 0.25]])
    """
    from scipy.special import expit, softmax

    if loss == "squared":
        return scores
    return expit(scores) if loss == "value" else softmax(scores, axis=1)
