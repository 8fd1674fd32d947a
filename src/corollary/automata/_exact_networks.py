"""Networks that are exact by construction: a finite head, and a map that looks its answer up."""

from typing import Any

import numpy as np
import torch

from corollary.automata._dfa import DFA
from corollary.automata._finite_head import FiniteHead
from corollary.automata._transducer import Transducer
from corollary.automata._transductor import RationalTransductor, TransductorConfig
from corollary.errors import InvalidInputError

MAX_PAIRS = 4096


def from_regex(pattern: str, alphabet: Any, **options: Any) -> RationalTransductor:
    """A network that says after every symbol whether the word so far is in the language; see `from_automaton`."""
    return from_automaton(DFA.from_regex(pattern, alphabet), **options)


@torch.no_grad()
def from_automaton(automaton: DFA | Transducer, *, scale: float | int = 10.0) -> RationalTransductor:
    r"""A transductor that computes a deterministic automaton exactly: one-hot states, one map that looks up.

    Where answers depend on the symbol beside the state, states are told apart by the answer with which they were
    entered; then it is a function of the state. The map that injects it has the answer's coordinate as the column of a
    state: the stream is wide as there are answers, and the layer adds nothing.

    Args:
        automaton: a `DFA` (the answer is 1 where the word so far is accepted, else 0) or a `Transducer`; at most 4,096
            pairs of state and symbol.
        scale: of the logits: their margin is about scale times the root of the width.

    Returns:
        A network over numbered symbols (`automaton.codes` encodes words), which keeps the `alphabet`.

    Raises:
        InvalidInputError: for a transducer that never answers, or too many pairs: use `automaton_head` in a network
            then.

    Guarantee: the largest logit is the automaton's answer at EVERY length; `certify` enumerates it.

    Example:
        >>> import torch
        >>> from corollary.automata import DFA, from_automaton
        >>> dfa = DFA.from_regex("(ab)*", "ab")
        >>> from_automaton(dfa)(torch.tensor([dfa.codes("abab")]))[0].argmax(-1).tolist()
        [0, 1, 0, 1]

    Reference: arXiv:2602.07599 (any DFA is a rational head, by public notes); the network is ours.
    """
    machine = automaton.transducer() if isinstance(automaton, DFA) else automaton
    n, V = machine.transitions.shape
    classes = max(2, int(machine.outputs.max()) + 1)
    if machine.outputs.max() < 0 or n * V > MAX_PAIRS:
        raise InvalidInputError(
            f"an automaton that answers is needed, with at most {MAX_PAIRS} pairs of state and symbol, got {n * V}"
        )
    table, answers, start = _entered(machine, classes)
    width = classes + classes % 2
    config = TransductorConfig(
        vocab_size=V, classes=classes, width=width, layers=1, heads=1, state="inclusive", attention=False
    )
    model = RationalTransductor(config, FiniteHead(table, start=start))
    layer: Any = model.layers[0]
    injected: Any = model.inject[0]
    model.embedding.weight.zero_()
    injected.weight.zero_()[answers, range(len(answers))] = 100.0  # far above the constant in the norm
    for part in (layer.feed.up, layer.feed.down):
        part.weight.zero_()
        part.bias.zero_()
    model.readout.weight.copy_(scale * torch.eye(classes, width))
    model.readout.bias.zero_()
    model.alphabet = machine.alphabet
    return model


def _entered(machine: Transducer, classes: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The same automaton with the answer in the state: (m, V) transitions, (m,) answers, the start."""
    pairs = machine.transitions * classes + machine.outputs.clip(0)  # the state that is entered, and the answer
    allowed = machine.transitions >= 0
    names = np.unique(pairs[allowed])
    if not (names // classes == machine.start).any():
        names = np.unique(np.append(names, machine.start * classes))
    state, answers = np.divmod(names, classes)
    stays = np.arange(len(names))[:, None]  # what is forbidden leads nowhere else
    table = np.where(allowed[state], np.searchsorted(names, pairs[state]), stays)
    return table, answers, int(np.argmax(state == machine.start))
