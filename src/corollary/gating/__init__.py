"""Frozen experts, a gate that is good on any mixture of their domains, and the certificates of the whole."""

import importlib
from typing import Any

_HOME = {
    "ComposedLM": "_composed",
    "Composition": "_compose",
    "Evaluation": "_compose",
    "Settings": "_compose",
    "compose": "_compose",
    "issue": "_issue",
    "metrics": "_issue",
    "train_experts": "_compose",
    "BayesGate": "_prefix_gates",
    "CausalGate": "_causal_gate",
    "ExpertScores": "_scores",
    "FeatureSettings": "_gate_features",
    "FixedShareGate": "_prefix_gates",
    "PrefixGate": "_prefix_gates",
    "StaticGate": "_prefix_gates",
    "fixed_share_weights": "_prefix_gates",
    "gate_log_probs": "_prefix_gates",
    "score_experts": "_scores",
    "sequence_mixture": "_prefix_gates",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"corollary.gating.{_HOME[name]}"), name)
    raise AttributeError(f"module 'corollary.gating' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
