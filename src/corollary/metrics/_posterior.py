r"""Probabilities back from a cost-weighted fit: the logit shift.

Symbols: a classifier trained with costs c_FN on positives and c_FP on negatives estimates
\(\eta' = \eta c_{FN} / (\eta c_{FN} + (1-\eta) c_{FP})\), so logit \(\eta\) = logit \(\eta'\) - log(c_FN / c_FP).

[derived; specification section 6]. Exact for a well-specified model; what it is otherwise, a calibration curve tells.
"""

import numpy as np
from jaxtyping import Float

from corollary.metrics._metric import Costs
from corollary.metrics._surrogates import _sigmoid

PROPER = ("logistic", "exponential", "squared_hinge")


def weighted_posterior(score: Float[np.ndarray, "..."], surrogate: str) -> Float[np.ndarray, "..."]:
    r"""\(\eta'\) from a score: the inverse link of the surrogate."""
    if surrogate == "squared_hinge":
        return np.clip((score + 1) / 2, 0.0, 1.0)
    return _sigmoid(score if surrogate == "logistic" else 2 * score)


def unweighted(posterior: Float[np.ndarray, "..."], costs: Costs) -> Float[np.ndarray, "..."]:
    r"""\(\eta = \eta' c_{FP} / (\eta' c_{FP} + (1 - \eta') c_{FN})\): the logit shift, written without logarithms.

    Example:
        >>> eta = 0.3
        >>> weighted = eta * 1.5 / (eta * 1.5 + (1 - eta) * 0.5)
        >>> unweighted(np.array([weighted]), Costs(1.5, 0.5)).round(12).tolist()
        [0.3]
    """
    above, below = posterior * costs.fp, (1 - posterior) * costs.fn
    total = above + below
    return np.divide(above, total, out=np.array(posterior, dtype=np.float64), where=total > 0)
