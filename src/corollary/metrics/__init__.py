"""Learning for the metric that is measured: linear-fractional metrics, METRO, its peers, the certificate."""

import importlib
from typing import Any

_HOME = {
    "Accuracy": "_metric",
    "BalancedAccuracy": "_metric",
    "Costs": "_metric",
    "FBeta": "_metric",
    "Jaccard": "_metric",
    "LinearFractionalMetric": "_metric",
    "Precision": "_metric",
    "Tversky": "_metric",
    "UndefinedMetricWarning": "_metric",
    "WeightedAccuracy": "_metric",
    "averaged": "_average",
    "confusion": "_metric",
    "get_metric": "_metric",
    "metric_score": "_average",
    "best_threshold": "_threshold",
    "search_level": "_search",
    "SearchResult": "_search",
    "surrogate_loss": "_surrogates",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"corollary.metrics.{_HOME[name]}"), name)
    raise AttributeError(f"module 'corollary.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
