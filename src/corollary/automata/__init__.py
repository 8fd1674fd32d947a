"""Automata and rational transductors: layers that track a state at any length, and the proof that they do."""
from corollary._lazy import lazily

_HOME = {"scan": "_scan"}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
