"""Robust gates: one model out of several frozen experts, close to every mixture of their domains."""

import importlib
from typing import Any

_HOME = {
    "RobustGate": "_robust_gate",
    "RobustGateSolution": "_finite",
    "StaticGate": "_static",
    "Theorem3Bound": "_bounds",
    "best_static_gate": "_static",
    "capacity": "_bounds",
    "certify_normaliser": "_normaliser",
    "expert_errors": "_bounds",
    "fit_static_gate": "_static",
    "fixed_mixture_gate": "_finite",
    "gate_from_density": "_band",
    "generalisation_bound": "_bounds",
    "importance_resample": "_sampling",
    "massart_bound": "_bounds",
    "multiplicative_weights": "_finite",
    "game_value_bracket": "_bounds",
    "rejection_sample": "_sampling",
    "robust_gate": "_finite",
    "sigma_bound": "_bounds",
    "sigma_gate": "_static",
    "theorem3_bound": "_bounds",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a leaf when one of its names is first used: the trainers bring torch, the rest does not."""
    if name in _HOME:
        return getattr(importlib.import_module(f"corollary.gating.{_HOME[name]}"), name)
    raise AttributeError(f"module 'corollary.gating' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
