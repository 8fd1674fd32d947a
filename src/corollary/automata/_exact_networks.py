"""Networks that are exact by construction: a finite head, and a read-out that looks its answer up."""

from typing import Any

import torch

from corollary.automata._constructions import automaton_head
from corollary.automata._dfa import DFA
from corollary.automata._transducer import Transducer
from corollary.automata._transductor import RationalTransductor, TransductorConfig
from corollary.errors import InvalidInputError

MAX_PAIRS = 4096


def from_regex(pattern: str, alphabet: Any, **options: Any) -> RationalTransductor:
    """A network that says after every symbol whether the word so far is in the language; see `from_automaton`."""
    return from_automaton(DFA.from_regex(pattern, alphabet), **options)


@torch.no_grad()
def from_automaton(automaton: DFA | Transducer, *, scale: float | int = 10.0) -> RationalTransductor:
    r"""A transductor that computes a deterministic automaton exactly: one-hot states, one layer that looks up.

    Coordinate (q, x) of the stream is [state before = q] + [symbol = x]: 2 at the pair that is there, 1 or 0 elsewhere.
    How often each value occurs does not depend on the pair, so the norm is one fixed affine map, a hidden unit fires at
    its pair alone, and adds to the coordinate of the answer.

    Args:
        automaton: a `DFA` (the answer is 1 where the word so far is accepted, else 0) or a `Transducer`; at most 4,096
            pairs of state and symbol.
        scale: of the logits: their margin is about scale times the root of the width.

    Returns:
        A network over numbered symbols (`automaton.codes` encodes words).

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
    width = max(n * V, classes, 2)
    width += width % 2
    config = TransductorConfig(
        vocab_size=V, classes=classes, width=width, layers=1, heads=1, state="exclusive", attention=False
    )
    model = RationalTransductor(config, automaton_head(machine))
    layer: Any = model.layers[0]
    injected: Any = model.inject[0]
    pair = torch.arange(n * V).view(n, V)
    model.embedding.weight.zero_().scatter_(1, pair.T, 1.0)
    injected.weight.zero_().T.scatter_(1, pair, 1.0)
    ones = V + n - 2
    mean = (2 + ones) / width
    spread = ((4 + ones) / width - mean**2 + layer.norm.eps) ** 0.5
    steep = 40 * spread  # the unit of the pair gets +20, every other -20 or less
    layer.feed.up.weight.zero_()
    layer.feed.up.weight[: n * V, : n * V] = steep * torch.eye(n * V)
    layer.feed.up.bias.fill_(-steep * (1.5 - mean) / spread)
    layer.feed.down.weight.zero_()
    answers = torch.from_numpy(machine.outputs).clamp(min=0).reshape(1, -1)
    layer.feed.down.weight[:, : n * V].scatter_(0, answers, 5.0)  # 20 x 5 = 100 in the stream, beside 2 at most
    layer.feed.down.bias.zero_()
    model.readout.weight.copy_(scale * torch.eye(classes, width))
    model.readout.bias.zero_()
    return model
