"""Language models: the protocol they share, their registry, and small ones to use as experts."""

import importlib
from typing import TYPE_CHECKING, Any

from corollary.models._ngram import NgramModel
from corollary.models._ngram_queries import NgramQueries, NgramScores
from corollary.models._protocol import LanguageModel, load, register_loader
from corollary.models._sampling import generate, sample

if TYPE_CHECKING:
    from corollary.models._training import train
    from corollary.models._transformer import TransformerConfig, TransformerLM

__all__ = [
    "LanguageModel",
    "NgramModel",
    "NgramQueries",
    "NgramScores",
    "TransformerConfig",
    "TransformerLM",
    "generate",
    "load",
    "register_loader",
    "sample",
    "train",
]


_LAZY = {"TransformerConfig": "_transformer", "TransformerLM": "_transformer", "train": "_training"}


def __getattr__(name: str) -> Any:
    """Import the networks, and torch with them, when they are first used."""
    if name in _LAZY:
        return getattr(importlib.import_module(f"corollary.models.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'corollary.models' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
