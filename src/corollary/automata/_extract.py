"""The automaton that a trained network, or a head with a read-out, computes: as a minimal transducer."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from corollary.automata._certify import answers_of
from corollary.automata._evidence import network_logits
from corollary.automata._finite_head import FiniteHead
from corollary.automata._heads import Head
from corollary.automata._monoid import Monoid, transition_monoid
from corollary.automata._transducer import Transducer
from corollary.errors import InvalidInputError


def extract(
    model: Any,
    q_max: int = 60,
    *,
    read_out: ArrayLike | None = None,
    alphabet: Sequence[Any] | None = None,
    domain: Transducer | None = None,
    **options: Any,
) -> Transducer:
    """The minimal transducer that a network without attention, or a head with a read-out, computes.

    Args:
        model: a `RationalTransductor` whose output depends on the state alone, or a head.
        q_max: see `snap`.
        read_out: for a head: answers of its snapped states, as in `certify`; None lets every state answer its number.
        alphabet: names of the symbols; None takes those of `domain`, or numbers.
        domain: which words are asked about, see `snap`; its silent places stay silent.
        options: of `snap`.

    Returns:
        A `Transducer`, for `equivalent`, `to_dot`, `draw`.

    Raises:
        InvalidInputError: for a network whose output depends on more than the state, and as `snap` and `certify`.

    Guarantee: what the SNAPPED network computes, exactly; the trained one may drift away from it, see `certify_float`.

    Example:
        >>> from corollary.automata import DFA, RationalTransductor, equivalent, extract
        >>> model = RationalTransductor.from_regex("(b*ab*a)*b*", "ab")
        >>> equivalent(extract(model, alphabet="ab"), DFA.from_regex("(b|ab*a)*", "ab")).equal
        True
    """
    if isinstance(model, Head):
        head = model.snap(q_max, **options)
        table = head.transitions.cpu().numpy()
        outputs = answers_of(np.arange(len(table)) if read_out is None else read_out, table)
    else:
        if not model.depends_on_state_only:
            raise InvalidInputError(
                "this network's output depends on more than the state; give its head and a `read_out`"
            )
        snapped = model.snap(q_max, **({"domain": domain} if domain is not None else {}), **options)
        table, outputs = snapped.head.transitions.cpu().numpy(), network_logits(snapped).argmax(-1)
        head = snapped.head
    names = tuple(alphabet) if alphabet is not None else domain.alphabet if domain is not None else ()
    machine = Transducer(table, outputs, head.start, names)
    return (machine if domain is None else _within(machine, domain)).minimise()


def _within(machine: Transducer, domain: Transducer) -> Transducer:
    """The machine on the words of a domain: forbidden symbols and silent places as there."""

    def step(pair: tuple[int, int], x: int) -> tuple[tuple[int, int], int] | None:
        p, q = pair
        if domain.transitions[q, x] < 0:
            return None
        answer = int(machine.outputs[p, x]) if domain.outputs[q, x] >= 0 else -1
        return (int(machine.transitions[p, x]), int(domain.transitions[q, x])), answer

    found = Transducer.from_function((machine.start, domain.start), step, range(len(machine.alphabet)))
    return Transducer(found.transitions, found.outputs, found.start, machine.alphabet)


def head_group(head: FiniteHead) -> Monoid:
    """The maps of states that words make: the generated group, where every symbol permutes.

    Args:
        head: a finite head, e.g. a snapped one.

    Returns:
        Its transition monoid: `.order`, `.is_group`, `.is_commutative`, `.table()`.

    Guarantee: exact.

    Example:
        >>> from corollary.automata import counter_head, head_group
        >>> head_group(counter_head(6)).order
        6
    """
    table = head.transitions.cpu().numpy()
    return transition_monoid(Transducer(table, np.zeros_like(table), head.start))
