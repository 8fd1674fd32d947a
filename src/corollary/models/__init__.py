"""Language models: the protocol they share, their registry, and small ones to use as experts."""

from typing import TYPE_CHECKING

from corollary._lazy import lazily
from corollary.models._ngram import NgramModel
from corollary.models._ngram_queries import NgramQueries, NgramScores
from corollary.models._protocol import LanguageModel, load, register_loader
from corollary.models._sampling import generate, sample
from corollary.models._streams import extend, select_rows

if TYPE_CHECKING:
    from corollary.models._merging import merge_models
    from corollary.models._training import train
    from corollary.models._transformer import TransformerConfig, TransformerLM

__all__ = [
    "LanguageModel",
    "NgramModel",
    "NgramQueries",
    "NgramScores",
    "TransformerConfig",
    "TransformerLM",
    "extend",
    "generate",
    "load",
    "merge_models",
    "register_loader",
    "sample",
    "select_rows",
    "train",
]

# The networks, and torch with them, are imported when they are first used.
_HOME = {
    "TransformerConfig": "_transformer",
    "TransformerLM": "_transformer",
    "merge_models": "_merging",
    "train": "_training",
}

__getattr__, _ = lazily(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted(__all__)
