"""Frozen experts, a gate that is good on any mixture of their domains, and the certificates of the whole."""

import importlib
from typing import Any

_HOME = {
    "BayesGate": "_prefix_gates",
    "CausalGate": "_causal_gate",
    "ComposedLM": "_composed",
    "Composition": "_compose",
    "Evaluation": "_compose",
    "ExpertScores": "_scores",
    "FeatureSettings": "_gate_features",
    "FixedShareGate": "_prefix_gates",
    "PrefixGate": "_prefix_gates",
    "RobustGate": "_robust_gate",
    "RobustGateSolution": "_finite",
    "Settings": "_compose",
    "StaticGate": "_prefix_gates",
    "StaticWeights": "_static",
    "Theorem3Bound": "_bounds",
    "best_static_gate": "_static",
    "capacity": "_bounds",
    "certified_gain": "_certificate",
    "certify_normaliser": "_normaliser",
    "compose": "_compose",
    "expert_errors": "_bounds",
    "fit_static_gate": "_static",
    "fixed_mixture_gate": "_finite",
    "fixed_share_weights": "_prefix_gates",
    "game_value_bracket": "_bounds",
    "gate_from_density": "_band",
    "gate_log_probs": "_prefix_gates",
    "generalisation_bound": "_bounds",
    "importance_resample": "_sampling",
    "issue": "_issue",
    "massart_bound": "_bounds",
    "metrics": "_issue",
    "multiplicative_weights": "_finite",
    "rejection_sample": "_sampling",
    "robust_gate": "_finite",
    "score_experts": "_scores",
    "sequence_mixture": "_prefix_gates",
    "sigma_bound": "_bounds",
    "sigma_gate": "_static",
    "theorem3_bound": "_bounds",
    "train_experts": "_compose",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a leaf when one of its names is first used: the trainers bring torch, the rest does not."""
    if name in _HOME:
        return getattr(importlib.import_module(f"corollary.gating.{_HOME[name]}"), name)
    raise AttributeError(f"module 'corollary.gating' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
