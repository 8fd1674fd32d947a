"""The methods and their grids: six settings each, the first three of which are used where training is dear."""

from collections.abc import Callable
from typing import Any

import numpy as np

from corollary import losses

DECAY = (1e-4, 1e-3, 1e-2, 1e-5, 3e-3, 3e-2)


def _same(values: list[Any], decays: tuple[float, ...] = (1e-3, 1e-2)) -> list[tuple[Any, float]]:
    """Three values of the method's own parameter at each of two weight decays."""
    return [(v, d) for d in decays for v in values]


# name -> (settings, loss from (own parameter, counts, epochs)); the second entry of a setting is the weight decay.
GRIDS: dict[str, tuple[list[tuple[Any, float]], Callable[[Any, np.ndarray], Any]]] = {
    "cross-entropy": ([(None, d) for d in DECAY], lambda v, m: losses.CompSumLoss()),
    "class weights": (_same([0.5, 0.75, 1.0]), lambda v, m: losses.WeightedCrossEntropyLoss(counts=m, power=v)),
    "focal": (_same([0.5, 1.0, 2.0]), lambda v, m: losses.FocalLoss(gamma=v)),
    "class-balanced": (_same([0.99, 0.999, 0.9999]), lambda v, m: losses.ClassBalancedLoss(counts=m, beta=v)),
    "LDAM-DRW": (_same([5.0, 10.0, 30.0]), lambda v, m: losses.LDAMLoss(counts=m, scale=v)),
    "logit adjustment": (_same([0.75, 1.0, 1.25]), lambda v, m: losses.LogitAdjustedLoss(counts=m, strength=v)),
    "post-hoc adjustment": (_same([0.75, 1.0, 1.25]), lambda v, m: losses.CompSumLoss()),
    "vector scaling": (_same([0.05, 0.15, 0.3]), lambda v, m: losses.VectorScalingLoss(counts=m, gamma=v)),
    "equalization": (_same([0.9, 0.95, 0.99]), lambda v, m: _equalization(v, m)),
    "LADE": (_same([0.01, 0.05, 0.1]), lambda v, m: losses.LADELoss(counts=m, strength=v)),
    "IMMAX": (_same([0.5, 1.0, 3.0]), lambda v, m: losses.IMMAXLoss(counts=m, largest=v)),
    "GLA": (_same([-0.3, 0.1, 0.3]), lambda v, m: losses.GLALoss(counts=m, q=v)),
    "GCA": (_same([1 / 4, 1 / 3, 1 / 2]), lambda v, m: _gca(v, m, "scale")),
    "GCA calibrated": (_same([1 / 4, 1 / 3, 1 / 2]), lambda v, m: _gca(v, m, "scale_calibrated")),
}
SAMPLERS = ("SMOTE", "EasyEnsemble", "BalancedRandomForest")
METHODS = (*GRIDS, *SAMPLERS)


def _gca(exponent: float, counts: np.ndarray, form: str) -> Any:
    margin = losses.calibrated_margins(losses.class_priors(counts), exponent=exponent)
    return losses.GCALoss(counts=counts, margin=margin, form=form)


def _equalization(drop: float, counts: np.ndarray) -> Any:
    return losses.EqualizationLoss(counts=counts, threshold=0.5 / len(counts), drop=drop)
