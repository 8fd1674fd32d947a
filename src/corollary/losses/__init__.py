"""Surrogate losses that say what minimising them implies: comp-sum, balanced, adversarial, and their peers."""

import importlib
from typing import Any

_HOME = {
    "AGCELoss": "_robust",
    "AULLoss": "_robust",
    "AdversarialCompSum": "_adversarial",
    "AdversarialTraining": "_adversarial",
    "BalancedSoftmaxLoss": "_reweighted_modules",
    "ClassBalancedLoss": "_reweighted_modules",
    "ClassErrors": "_evaluation",
    "CompSumLoss": "_comp_sum",
    "CosineLinear": "_reweighted_modules",
    "DeferredReweighting": "_reweighted_modules",
    "EqualizationLoss": "_reweighted_modules",
    "FocalLoss": "_reweighted_modules",
    "GCALoss": "_balanced_modules",
    "GLALoss": "_balanced_modules",
    "IMMAXLoss": "_balanced_modules",
    "LADELoss": "_reweighted_modules",
    "LDAMLoss": "_reweighted_modules",
    "LabelSmoothingLoss": "_penalised",
    "LogPartitionLoss": "_penalised",
    "LogitAdjustedLoss": "_reweighted_modules",
    "MaxSupLoss": "_penalised",
    "NormalisedCrossEntropyLoss": "_robust",
    "PolyLoss": "_penalised",
    "ReverseCrossEntropyLoss": "_robust",
    "SquentropyLoss": "_penalised",
    "SurrogateClassifier": "_estimator",
    "SurrogateLoss": "_module",
    "SymmetricCrossEntropyLoss": "_robust",
    "TauWarmup": "_comp_sum",
    "Trades": "_adversarial",
    "VectorScalingLoss": "_reweighted_modules",
    "WeightedCrossEntropyLoss": "_reweighted_modules",
    "balanced_error": "_evaluation",
    "balanced_softmax": "_reweighted",
    "calibrated_margins": "_priors",
    "class_balanced": "_reweighted",
    "class_counts": "_priors",
    "class_error_certificate": "_certificate",
    "class_errors": "_evaluation",
    "class_priors": "_priors",
    "comp_sum": "_comp_sum",
    "comp_sum_gradient": "_comp_sum",
    "comp_sum_minimiser": "_comp_sum",
    "comp_sum_optimum": "_comp_sum",
    "comp_sum_probabilities": "_comp_sum",
    "cross_entropy": "_comp_sum",
    "deviation": "_adversarial",
    "effective_number_weights": "_reweighted",
    "equalization": "_reweighted",
    "excess_certificate": "_certificate",
    "excess_evidence": "_certificate",
    "focal": "_reweighted",
    "gca": "_balanced",
    "generalized_cross_entropy": "_comp_sum",
    "gla": "_balanced",
    "imbalance_profile": "_evaluation",
    "immax": "_balanced",
    "immax_margins": "_priors",
    "lade": "_reweighted",
    "ldam": "_reweighted",
    "logit_adjust": "_reweighted",
    "logit_adjusted_cross_entropy": "_reweighted",
    "make_imbalance": "_evaluation",
    "margin_probabilities": "_balanced",
    "margins": "_attacks",
    "mean_absolute_error": "_comp_sum",
    "pgd": "_attacks",
    "project": "_attacks",
    "ramp_comp_sum": "_adversarial",
    "robust_accuracy": "_attacks",
    "smooth_adversarial": "_adversarial",
    "sum_exponential": "_comp_sum",
    "surrogate": "_interface",
    "theoretical_weight": "_adversarial",
    "vector_scaling": "_reweighted",
    "weighted_cross_entropy": "_reweighted",
}

__all__ = [*sorted(_HOME), "consistency"]


def __getattr__(name: str) -> Any:
    if name == "consistency":
        return importlib.import_module("corollary.losses.consistency")
    if name in _HOME:
        return getattr(importlib.import_module(f"corollary.losses.{_HOME[name]}"), name)
    raise AttributeError(f"module 'corollary.losses' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
