"""Unlearning: a frozen model whose outputs forget, by tempering and a small head that tilts; and what can be certified."""

from corollary._lazy import lazily

_HOME = {
    "ByteTokenizer": "_tokens",
    "Examples": "_examples",
    "Tokenizer": "_tokens",
    "WordTokenizer": "_tokens",
    "WrappedTokenizer": "_tokens",
    "tokenizer_of": "_tokens",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
