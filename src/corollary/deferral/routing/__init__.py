"""Routing prompts between models: learned from logs, offline, with a certificate of cost and quality."""

from corollary._lazy import lazily

_HOME = {
    "AveragedRouter": "_averaged",
    "Calibrated": "_calibration",
    "Curve": "_metrics",
    "Decision": "_prompt_router",
    "DriftMonitor": "_monitor",
    "EmbeddedText": "_embedded",
    "Features": "_features",
    "HashedText": "_hashed",
    "LengthRouter": "_baselines",
    "MeanMonitor": "_monitor",
    "NeighbourRouter": "_baselines",
    "PromptRouter": "_prompt_router",
    "RoutingLog": "_log",
    "TextStatistics": "_statistics",
    "TfidfText": "_tfidf",
    "aiq": "_metrics",
    "apgr": "_metrics",
    "at_budget": "_evaluation",
    "calibrate": "_calibration",
    "cost_at": "_metrics",
    "cpt": "_metrics",
    "evaluate": "_evaluation",
    "export": "_export",
    "hull": "_metrics",
    "intervals": "_bootstrap",
    "load": "_prompt_router",
    "oracle_curve": "_metrics",
    "price_grid": "_metrics",
    "quality_at": "_metrics",
    "read_log": "_log",
    "register_encoder": "_embedded",
    "resamples": "_bootstrap",
    "routellm_curve": "_metrics",
    "routellm_optimal": "_metrics",
    "sweep_choices": "_metrics",
    "value_gap": "_monitor",
    "vllm_artifact": "_export_vllm",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
