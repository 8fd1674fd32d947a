r"""One model out of several with the same shapes: averages of parameters, and sums of task vectors.

Symbols: parameters \(\theta_k\) of models branched from a common initialisation \(\theta_0\), weights \(w_k\).

.. math:: \theta = \theta_0 + \sum_k w_k (\theta_k - \theta_0)

With weights that sum to one the initialisation drops out: a model soup. Without a common initialisation the units of
the models do not correspond, and the result is no model of anything: a straw man, not a peer.

Source: Wortsman et al. (2022), model soups; Ilharco et al. (2023), task arithmetic; reconstructed from the formula.
"""

from collections.abc import Sequence
from typing import Any

import torch

from corollary.errors import InvalidInputError


def merge_models(models: Sequence[Any], *, weights: Sequence[float] | None = None, base: Any = None) -> Any:
    r"""Average the parameters of models, or add their task vectors to a base.

    Args:
        models: networks of one architecture, branched from one initialisation.
        weights: (K,) one a model; 1 / K each where None. Without `base` they must sum to one.
        base: the common initialisation; needed where the weights do not sum to one.

    Returns:
        A new model of the same class; the given ones are not changed.

    Raises:
        InvalidInputError: where shapes differ, weights do not fit, or a base is missing.

    Guarantee: linear in the parameters: one model at weight 1 gives that model, weights 0 give the base, and where the
        output is linear in the parameters the merged output is the average of the outputs. None on the loss.

    Example:
        >>> from corollary.models import TransformerConfig, TransformerLM
        >>> a = TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=8))
        >>> merge_models([a, a]).fingerprint() == a.fingerprint()
        True

    Reference: Wortsman et al. (2022), Ilharco et al. (2023); reconstructed from the formula.
    """
    import copy

    if not models:
        raise InvalidInputError("no model was given; give the branches of one initialisation")
    w = [1 / len(models)] * len(models) if weights is None else [float(v) for v in weights]
    if len(w) != len(models) or not all(abs(v) < float("inf") for v in w):
        raise InvalidInputError(f"`weights` must be {len(models)} finite numbers, one a model, got {w}")
    if base is None and abs(sum(w) - 1) > 1e-6:
        raise InvalidInputError(f"the weights sum to {sum(w):.4g}; give `base`, the common initialisation, or sum to 1")
    states = [m.state_dict() for m in (*models, *([] if base is None else [base]))]
    shapes = [{name: tuple(t.shape) for name, t in state.items()} for state in states]
    if any(s != shapes[0] for s in shapes):
        raise InvalidInputError("the models differ in their shapes; merge models of one architecture")
    merged = copy.deepcopy(models[0])
    with torch.no_grad():
        for name, target in merged.state_dict().items():
            value = sum(v * s[name].double() for v, s in zip(w, states, strict=False))
            if base is not None:
                value = value + (1 - sum(w)) * states[-1][name].double()
            target.copy_(value)
    return merged
