"""Learning for the metric that is measured: linear-fractional metrics, METRO, its peers, the certificate."""

import importlib
from typing import Any

_HOME = {
    "Accuracy": "_metric",
    "BalancedAccuracy": "_metric",
    "BisectionPlugIn": "_peers",
    "Costs": "_metric",
    "FBeta": "_metric",
    "Jaccard": "_metric",
    "LinearFractionalMetric": "_metric",
    "LinearProblem": "_linear",
    "MetroClassifier": "_classifier",
    "PlainClassifier": "_peers",
    "PlugInClassifier": "_peers",
    "Precision": "_metric",
    "SearchResult": "_search",
    "SoftMetricClassifier": "_peers",
    "Table": "_table",
    "TableEncoder": "_encoder",
    "Tversky": "_metric",
    "UndefinedMetricWarning": "_metric",
    "WeightedAccuracy": "_metric",
    "WeightedGridClassifier": "_peers",
    "averaged": "_average",
    "best_threshold": "_threshold",
    "certify_metric": "_certify",
    "confusion": "_metric",
    "cost_excess_bound": "_bounds",
    "cost_sensitive_loss": "_torch",
    "fit_encoder": "_encoder",
    "fit_table": "_fit_table",
    "get_metric": "_metric",
    "iso_line": "_plots",
    "linear_risk_bound": "_bounds",
    "load_classifier": "_storage",
    "lower_bound": "_certificate",
    "metric_excess_bound": "_bounds",
    "metric_from_plain": "_metric",
    "metric_score": "_average",
    "one_against_rest": "_average",
    "predict_table": "_fit_table",
    "read_table": "_table",
    "save_classifier": "_storage",
    "search_level": "_search",
    "split_target": "_table",
    "surrogate_loss": "_surrogates",
    "train_metro": "_torch",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"corollary.metrics.{_HOME[name]}"), name)
    raise AttributeError(f"module 'corollary.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
