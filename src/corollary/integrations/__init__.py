"""Doors to other trainers, by lazy import: Hugging Face, Lightning, Accelerate."""

from corollary._lazy import lazily

_HOME = {
    "HuggingFaceOptimizer": "_hugging_face",
    "configure_optimizers": "_lightning",
    "prepare": "_accelerate",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
