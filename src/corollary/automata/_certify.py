"""Issuing certificates: a head and its read-out against a declared automaton, at all lengths."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from corollary.automata._certificate import error_bound, machines
from corollary.automata._evidence import declared_transducer, network_logits
from corollary.automata._finite_head import FiniteHead
from corollary.automata._heads import Head
from corollary.automata._transducer import Transducer, compare
from corollary.certificates import Assumption, Certificate, Reference, Undecided
from corollary.errors import InvalidInputError

ENUMERATION = Reference(
    "Hopcroft and Karp (1971)",
    "equality of deterministic automata by reachable pairs",
    "textbook; joined to heads here",
)
EXACT = Assumption("the head runs on integers and looks its vectors up", "it is a FiniteHead")
ROUNDING = Assumption(
    "logits at run time differ from those enumerated by less than half of the margin: same numbers, another batch"
)

Issued = tuple[Certificate, dict[str, np.ndarray]]


def certify(
    model: Any, declared: Any, *, read_out: ArrayLike | None = None, provenance: Mapping[str, Any] | None = None
) -> Issued:
    """Certify that a head with its read-out, or a network, is the declared automaton at ALL lengths.

    Args:
        model: a `RationalTransductor` whose head is finite (snapped, or made exactly), or a `FiniteHead` with
            `read_out`.
        declared: a `DFA` (the answer is whether the word so far is accepted), a `Transducer`, a `Task`, or a group's
            table (g, g).
        read_out: for a head, and only there: (n,) answers of the state after the symbol, (n, V) answers, or (n, V, C)
            logits.
        provenance: for the reader.

    Returns:
        The certificate and its evidence. Where the two agree: `automata.all_lengths`. Where they do not: a certificate
        `automata.difference` of a shortest word on which they differ (`witness["word"]`). For a network with
        attention: UNDECIDED.

    Raises:
        InvalidInputError: for a head that is not finite yet, a read-out of another shape, another alphabet (or its
            symbols in another order, where both sides name them), or a task that no automaton answers.

    Guarantee: deterministic and exact: every state that any word reaches is enumerated, with the read-out evaluated
        there. Answers come after symbols: of the empty word a network says nothing, and nothing is certified. What is
        assumed is that the network computes the same logits at run time up to rounding below half of
        the stated margin.

    Example:
        >>> from corollary.automata import DFA, RationalTransductor, certify
        >>> model = RationalTransductor.from_regex("(b*ab*a)*b*", "ab")
        >>> certificate, evidence = certify(model, DFA.from_regex("(b|ab*a)*", "ab"))
        >>> certificate.check(**evidence).status.name
        'HOLDS'
        >>> other, evidence = certify(model, DFA.from_regex("(b|ab*a)*|ab", "ab"))
        >>> other.rule, other.witness["symbols"]
        ('automata.difference', ['a', 'b'])

    Reference: enumeration of pairs is textbook (Hopcroft and Karp, 1971); heads and read-outs are ours.
    """
    wanted = declared_transducer(declared)
    if not isinstance(model, Head) and not isinstance(getattr(model, "head", None), Head):
        raise InvalidInputError(
            "a RationalTransductor with a head, or a FiniteHead with `read_out`, is certified, got "
            f"{type(model).__name__}"
        )
    if read_out is not None and not isinstance(model, Head):
        raise InvalidInputError("a network has a read-out of its own; leave `read_out` away, or certify `model.head`")
    state_only = bool(getattr(model, "depends_on_state_only", True))
    head = model if isinstance(model, Head) else model.head
    if not isinstance(head, FiniteHead):
        raise InvalidInputError(
            f"a {type(head).__name__} has no finite states to enumerate; call `snap` first, or make the head exactly"
        )
    if head.vocab_size != len(wanted.alphabet):
        raise InvalidInputError(f"the head reads {head.vocab_size} symbols, {len(wanted.alphabet)} are declared")
    numbers, names = tuple(range(head.vocab_size)), getattr(model, "alphabet", None) or wanted.alphabet
    if names != wanted.alphabet and numbers not in (names, wanted.alphabet):
        raise InvalidInputError(
            f"the network reads the symbols {list(names)[:20]}, {list(wanted.alphabet)[:20]} are declared; give both "
            "one alphabet in one order"
        )
    table = head.transitions.cpu().numpy()
    if isinstance(model, Head):
        logits = _as_logits(read_out, table)
    elif state_only:
        logits = network_logits(model)
    else:
        logits = np.zeros((*table.shape, 2))
    evidence = {
        "transitions": table,
        "logits": logits,
        "declared_transitions": wanted.transitions,
        "declared_outputs": wanted.outputs,
    }
    witness: dict[str, Any] = {
        "start": head.start,
        "declared_start": wanted.start,
        "state_only": state_only,
        "margin": 0.0,
    }
    shared: dict[str, Any] = {
        "evidence": evidence,
        "reference": ENUMERATION,
        "assumptions": (EXACT, *(() if isinstance(model, Head) else (ROUNDING,))),
        "pins": {"network": model.fingerprint()} if hasattr(model, "fingerprint") else None,
        "provenance": {"states": len(table), "declared states": wanted.states, **(provenance or {})},
    }
    try:
        own, _, margin = machines(witness, evidence)
    except Undecided as reason:
        issued = Certificate.issue("automata.all_lengths", statement=f"Nothing: {reason}.", witness=witness, **shared)
        return issued, evidence
    found = compare(Transducer(own.transitions, own.outputs, own.start, wanted.alphabet), wanted)
    what = "The head with its read-out" if isinstance(model, Head) else "The network"
    if found.equal:
        issued = Certificate.issue(
            "automata.all_lengths",
            statement=f"{what} gives the answers of the declared automaton ({wanted.states} states) at every length "
            "from one symbol on; nothing is said of the empty word.",
            witness={**witness, "margin": margin},
            **shared,
        )
        return issued, evidence
    symbols = list(found.witness or ())
    issued = Certificate.issue(
        "automata.difference",
        statement=f"{what} is not the declared automaton: they differ on {_told(symbols)}, and on no shorter word.",
        witness={
            **witness,
            "word": [wanted.alphabet.index(s) for s in symbols],
            "symbols": [_plain(s) for s in symbols],
        },
        **shared,
    )
    return issued, evidence


def certify_float(head: Any, snapped: FiniteHead, *, length: int, dtype: torch.dtype | None = None) -> Issued:
    r"""Bound how far a head that runs in floating point strays from the exact states of its snapped form.

    .. math:: e_T \le L^T e_0 + r \frac{L^T - 1}{L - 1}

    Args:
        head: with `matrices()` and `initial_state()`; run step by step in `dtype`.
        snapped: the finite head, whose vectors are the exact states.
        length: T, the longest word.
        dtype: of the run; None for that of the matrices.

    Returns:
        Certificate and evidence; it holds where the bound stays below half of the least distance between two states,
        so that the nearest state is the right one for all words of up to T symbols.

    Raises:
        InvalidInputError: for a length below one.

    Guarantee: for words of at most T symbols, in the sequential order of products; L is the largest spectral norm, r
        the largest error of one step, rounding of IEEE arithmetic included. At L = 1 it grows as T r: exactness at all
        lengths needs the finite head.

    Example:
        >>> import torch
        >>> from corollary.automata import certify_float, fixed_head, rotations
        >>> turn = 2 * torch.pi / 5
        >>> head = fixed_head(rotations(torch.tensor([[turn]], dtype=torch.float64)), [1.0, 0.0])
        >>> certificate, evidence = certify_float(head, head.snap(8), length=10_000)
        >>> certificate.check(**evidence).status.name, certificate.claims[0].lhs < 1e-9
        ('HOLDS', True)

    Reference: derived here (section 4.4 of the notes has the contractive case).
    """
    if length < 1:
        raise InvalidInputError(f"`length` must be at least 1, got {length}")
    M = head.matrices().detach()
    unit = float(torch.finfo(dtype or M.dtype).eps) / 2
    evidence = {
        "transitions": snapped.transitions.cpu().numpy(),
        "vectors": snapped.vectors.double().cpu().numpy(),
        "matrices": M.double().cpu().numpy(),
        "initial": head.initial_state().detach().double().cpu().numpy(),
    }
    bound = error_bound(
        evidence["matrices"],
        evidence["initial"],
        evidence["transitions"],
        evidence["vectors"],
        start=snapped.start,
        length=length,
        unit=unit,
    )
    issued = Certificate.issue(
        "automata.float_error",
        statement=f"After at most {length} symbols the floating-point state is within {bound:.3g} of the exact one.",
        evidence=evidence,
        witness={"start": snapped.start, "length": length, "unit": unit, "bound": bound},
        reference=Reference("derived", "linear recurrences with perturbed matrices", "derived here"),
        assumptions=(Assumption("IEEE arithmetic, products summed in any order, one symbol after the other"),),
    )
    return issued, evidence


def _as_logits(read_out: ArrayLike | None, table: np.ndarray) -> np.ndarray:
    if read_out is None:
        raise InvalidInputError("a head alone answers nothing; give `read_out`: the answer of every state")
    given = np.asarray(read_out)
    if given.ndim == 3 and given.shape[:2] == table.shape:
        return given.astype(np.float64)
    answers = answers_of(given, table)
    return np.eye(max(2, int(answers.max()) + 1))[answers]


def answers_of(read_out: ArrayLike, table: np.ndarray) -> np.ndarray:
    """(n, V) answers from those of the state after the symbol (n,), or of every state and symbol (n, V)."""
    given = np.asarray(read_out)
    given = given.astype(np.int64) if given.dtype == bool else given
    n, V = table.shape
    if given.dtype.kind not in "iu" or given.shape not in ((n,), (n, V)) or given.min() < 0:
        raise InvalidInputError(
            f"`read_out` must be (n,) or (n, V) answers or (n, V, C) logits for {(n, V)}, got {given.shape}"
        )
    return given[table] if given.ndim == 1 else given


def _told(symbols: list[Any]) -> str:
    text = " ".join(str(s) for s in symbols[:20])
    return f"the word [{text}{' ...' if len(symbols) > 20 else ''}] of {len(symbols)} symbols"


def _plain(symbol: Any) -> Any:
    return symbol if isinstance(symbol, str | int | float) else str(symbol)
