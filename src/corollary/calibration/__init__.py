"""Calibrated forecasts online, in any dimension, against anything: TreeCal, its companions, measures, certificates."""

import importlib
from typing import Any

_HOME = {
    "Ball": "_sets",
    "Bound": "_bounds",
    "Box": "_sets",
    "Brier": "_measures",
    "ConvexSet": "_sets",
    "DiscountedMean": "_learners",
    "FollowTheLeader": "_learners",
    "Game": "_adversaries",
    "GradientDescent": "_learners",
    "Hedge": "_learners",
    "NormRow": "_bounds",
    "OnlineForecaster": "_forecaster",
    "PengCal": "_tree",
    "Polytope": "_sets",
    "Product": "_sets",
    "Regulariser": "_regularisers",
    "Replay": "_replay",
    "SampleTreeCal": "_tree",
    "Simplex": "_sets",
    "TreeCal": "_tree",
    "TreeSwap": "_swap",
    "adversary": "_adversaries",
    "brier_decomposition": "_measures",
    "calibration_bound": "_bounds",
    "calibration_error": "_measures",
    "corrected_bound": "_bounds",
    "every_norm": "_bounds",
    "external_regret": "_measures",
    "hard_sequence": "_adversaries",
    "load_forecaster": "_forecaster",
    "play": "_adversaries",
    "pure_excess": "_bounds",
    "regulariser": "_regularisers",
    "replay": "_replay",
    "set_from_plain": "_sets",
    "swap_regret": "_measures",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"corollary.calibration.{_HOME[name]}"), name)
    raise AttributeError(f"module 'corollary.calibration' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
