"""Automata and rational transductors: layers that track a state at any length, and the proof that they do."""

from corollary._lazy import lazily

_HOME = {
    "ContinuousHead": "_heads",
    "DFA": "_dfa",
    "Difference": "_transducer",
    "DirectSum": "_heads",
    "Family": "_families",
    "FiniteHead": "_finite_head",
    "Head": "_heads",
    "Monoid": "_monoid",
    "RationalHead": "_heads",
    "RationalTransductor": "_transductor",
    "Stream": "_transductor",
    "Task": "_tasks",
    "Transducer": "_transducer",
    "TransductorConfig": "_transductor",
    "WFA": "_wfa",
    "cayley": "_families",
    "draw": "_pictures",
    "eigen_angles": "_angles",
    "equivalent": "_wfa",
    "families": "_families",
    "family": "_families",
    "fixed_head": "_heads",
    "hankel": "_wfa",
    "householder": "_families",
    "inverse_cayley": "_families",
    "learn": "_protocol",
    "length_accuracy": "_protocol",
    "permutation_group": "_tasks",
    "rotations": "_families",
    "scan": "_scan",
    "snap": "_snap",
    "spectral_control": "_families",
    "task": "_tasks",
    "tasks": "_tasks",
    "to_dot": "_pictures",
    "transition_monoid": "_monoid",
    "universal": "_heads",
}

__all__ = sorted(_HOME)
__getattr__, __dir__ = lazily(__name__, _HOME)
