"""Calibrated forecasts online, in any dimension, against anything: TreeCal, its companions, measures, certificates."""

import importlib
from typing import Any

_HOME = {
    "Ball": "_sets",
    "BetaCalibration": "_posthoc",
    "BlackwellGrid": "_grid",
    "BlumMansourGrid": "_grid",
    "Bound": "_bounds",
    "Box": "_sets",
    "Brier": "_measures",
    "Calibeating": "_on_base",
    "CalibrationTest": "_hypothesis",
    "Calibrator": "_calibrator",
    "Chain": "_on_base",
    "ConvexSet": "_sets",
    "DirichletCalibration": "_posthoc",
    "DiscountedMean": "_learners",
    "FollowTheLeader": "_learners",
    "FosterGrid": "_grid",
    "Game": "_adversaries",
    "GradientDescent": "_learners",
    "Hedge": "_learners",
    "HistogramBinning": "_posthoc",
    "IsotonicCalibration": "_posthoc",
    "KuleshovErmon": "_on_base",
    "NormRow": "_bounds",
    "OnlineForecaster": "_forecaster",
    "OnlinePlatt": "_online_platt",
    "PengCal": "_tree",
    "PerBin": "_on_base",
    "PlattScaling": "_posthoc",
    "Polytope": "_sets",
    "PostHocCalibrator": "_posthoc",
    "Product": "_sets",
    "Regulariser": "_regularisers",
    "Reliability": "_reliability",
    "Replay": "_replay",
    "SampleTreeCal": "_tree",
    "Simplex": "_sets",
    "Stream": "_stream",
    "TemperatureScaling": "_posthoc",
    "TreeCal": "_tree",
    "TreeSwap": "_swap",
    "VectorScaling": "_posthoc",
    "adversary": "_adversaries",
    "brier_decomposition": "_measures",
    "calibrate_stream": "_calibrate",
    "calibration_bound": "_bounds",
    "calibration_error": "_measures",
    "calibration_test": "_hypothesis",
    "certify_stream": "_certify",
    "corrected_bound": "_bounds",
    "every_norm": "_bounds",
    "expected_calibration_error": "_reliability",
    "external_regret": "_measures",
    "hard_sequence": "_adversaries",
    "load_forecaster": "_forecaster",
    "play": "_adversaries",
    "pure_excess": "_bounds",
    "read_stream": "_stream",
    "regulariser": "_regularisers",
    "reliability": "_reliability",
    "reliability_vectors": "_reliability",
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
