r"""What is certified of a finite head and its read-out, and how it is derived again; imports no trainer.

`automata.all_lengths` (deterministic): from the table of a finite head, the logits of its read-out at every (state,
symbol) and the declared automaton, all reachable pairs of states are enumerated: where none answers differently, the
two agree on words of EVERY length, since a word only ever leads through such pairs.
`automata.difference`: the answers on one word differ at its last symbol, and no shorter word differs.
`automata.float_error`: a head that runs in floating point is at most so far from its exact states after T symbols,
\(e_T \le L^T e_0 + r (L^T - 1) / (L - 1)\), L the largest norm of a matrix, r the largest one-step error, rounding
included.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from corollary.automata._transducer import Transducer, compare
from corollary.certificates import Claim, Rule, Undecided, register_rule

NETWORK = (
    "the output depends on more than the state (attention, positions or a second head): only its head can be certified"
)


def machines(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> tuple[Transducer, Transducer, float]:
    """The head with its read-out, the declared automaton, and the least margin of an answer that is asked for."""
    if not witness.get("state_only", True):
        raise Undecided(NETWORK)
    logits, table = evidence["logits"], evidence["transitions"]
    if logits.ndim != 3 or logits.shape[:2] != table.shape or logits.shape[2] < 2 or not np.isfinite(logits).all():
        raise Undecided("transitions (n, V) and finite logits (n, V, C), C at least 2, are needed")
    declared = Transducer(
        evidence["declared_transitions"], evidence["declared_outputs"], int(witness["declared_start"])
    )
    own = Transducer(table, logits.argmax(-1), int(witness["start"]))
    if own.alphabet != declared.alphabet:
        raise Undecided("head and declared automaton have alphabets of different size")
    ordered = np.sort(logits.astype(np.float64), axis=-1)
    margin = ordered[..., -1] - ordered[..., -2]
    least = min((float(margin[p, x]) for p, q in pairs(own, declared) for x in asked(declared, q)), default=np.inf)
    return own, declared, least


def pairs(own: Transducer, declared: Transducer) -> list[tuple[int, int]]:
    """All pairs of states that some allowed word reaches."""
    found = {(own.start, declared.start): None}
    order = list(found)
    for p, q in order:
        for x in np.flatnonzero(declared.transitions[q] >= 0):
            after = int(own.transitions[p, x]), int(declared.transitions[q, x])
            if after[0] >= 0 and after not in found:
                found[after] = None
                order.append(after)
    return order


def asked(declared: Transducer, q: int) -> list[int]:
    """Symbols at which the declared automaton gives an answer in state q."""
    return np.flatnonzero((declared.transitions[q] >= 0) & (declared.outputs[q] >= 0)).tolist()


def all_lengths(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claims: evidence `transitions`, `logits`, `declared_transitions`, `declared_outputs`."""
    own, declared, margin = machines(witness, evidence)
    reached = pairs(own, declared)
    wrong = sum(own.outputs[p, x] != declared.outputs[q, x] for p, q in reached for x in asked(declared, q))
    answers = sum(len(asked(declared, q)) for _, q in reached)
    return [
        Claim(
            "wrong answers among all reachable pairs of states and symbols",
            float(wrong),
            "<=",
            0.0,
            0.0,
            float(answers),
        ),
        Claim("least margin of an answer", margin, ">=", float(witness["margin"]), 0.0, 0.0),
    ]


def difference(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claims: the word differs at its last symbol, and none shorter does."""
    own, declared, _ = machines(witness, evidence)
    word = [int(x) for x in witness["word"]]
    given, wanted = own.answers(word), declared.answers(word)
    shortest = compare(own, declared)
    return [
        Claim("answers on the word that differ, the last among them", float(given[-1] != wanted[-1]), ">=", 1.0),
        Claim(
            "length of a shortest word on which they differ", float(len(shortest.witness or ())), "==", float(len(word))
        ),
    ]


def float_error(witness: Mapping[str, Any], evidence: Mapping[str, np.ndarray]) -> list[Claim]:
    """Derive the claim: evidence `transitions` (n, V), `vectors` (n, d), `matrices` (V, d, d), `initial` (d,)."""
    table = Transducer(evidence["transitions"], np.zeros_like(evidence["transitions"]), int(witness["start"]))
    bound = error_bound(
        evidence["matrices"],
        evidence["initial"],
        table.transitions,
        evidence["vectors"],
        start=table.start,
        length=int(witness["length"]),
        unit=float(witness["unit"]),
    )
    return [
        Claim(
            f"distance from the exact state after {int(witness['length'])} symbols",
            bound,
            "<=",
            float(witness["bound"]),
            1e-12,
            2 * float(np.linalg.norm(evidence["vectors"], axis=-1).max()),
        ),
        Claim("the same, so that the nearest state is the right one", bound, "<=", half_distance(evidence["vectors"])),
    ]


def half_distance(vectors: np.ndarray) -> float:
    """Half of the least distance between two states: closer than this, the nearest state is the right one."""
    V = np.asarray(vectors, dtype=np.float64)
    if len(V) < 2:
        return float("inf")
    least = min(float(np.linalg.norm(V[i + 1 :] - V[i], axis=-1).min()) for i in range(len(V) - 1))
    return least / 2


def error_bound(
    matrices: ArrayLike,
    initial: ArrayLike,
    table: np.ndarray,
    vectors: ArrayLike,
    *,
    start: int,
    length: int,
    unit: float,
) -> float:
    r"""\(L^T e_0 + r (L^T - 1) / (L - 1)\) with r the one-step error and the rounding of one product.

    A product of a d x d matrix and a vector errs by at most d u / (1 - d u) times that of the absolute values; the
    vector is at most R + error long, so the rounding of the error itself is put into L.
    """
    M, V, h0 = (np.asarray(a, dtype=np.float64) for a in (matrices, vectors, initial))
    d = V.shape[1]
    gamma = d * unit / (1 - d * unit)
    absolute = max(float(np.linalg.norm(np.abs(m), 2)) for m in M)
    L = max(float(np.linalg.norm(m, 2)) for m in M) + gamma * absolute
    step = max(float(np.linalg.norm(V[table[:, x]] - V @ m.T, axis=-1).max()) for x, m in enumerate(M))
    # the derivation itself runs in float64: a few units of its own rounding are added
    own = 8 * d * np.finfo(np.float64).eps * (absolute + 1) * float(np.linalg.norm(V, axis=-1).max())
    r = step + gamma * absolute * float(np.linalg.norm(V, axis=-1).max()) + own
    L *= 1 + 8 * d * np.finfo(np.float64).eps
    e0 = float(np.linalg.norm(h0 - V[start]))
    with np.errstate(over="ignore"):
        grown = np.float64(L) ** length
        total = length if abs(L - 1) < 1e-15 else (grown - 1) / (L - 1)
        return float(grown * e0 + r * total)


def rescore(run: Any, digests: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Evidence of a run that `save_certified` wrote: its network loaded again, its read-out computed again."""
    from corollary.automata._evidence import rescored

    return rescored(run, digests)


NEEDS = ("transitions", "logits", "declared_transitions", "declared_outputs")
CLOSE = {"logits": 1e-4, "claims": 1e-4}  # logits are computed again in float32, perhaps in other batches
register_rule(Rule("automata.all_lengths", needs=NEEDS, derive=all_lengths, rescore=rescore, tolerances=CLOSE))
register_rule(Rule("automata.difference", needs=NEEDS, derive=difference, rescore=rescore, tolerances=CLOSE))
register_rule(Rule("automata.float_error", needs=("transitions", "vectors", "matrices", "initial"), derive=float_error))
