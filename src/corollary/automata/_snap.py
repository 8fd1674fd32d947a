r"""From a trained head to the automaton that it computes, all symbols at once.

Rounding each matrix by itself breaks the relations between them (a step and its inverse, the order of a cycle). So
states are found first: words are read breadth-first, and two states are one where they lie together, or, with a
read-out, where no suffix tells them apart (Angluin's observation table over vectors; Rivest and Schapire find the
suffixes in counterexamples). The maps of the states found ARE the snapped representation: inverses and relations hold
exactly, and nothing drifts.

Derived here. Reference for the learner: Angluin (1987), Rivest and Schapire (1993), textbook.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from corollary.automata._finite_head import FiniteHead
from corollary.automata._heads import DirectSum, Head
from corollary.automata._tasks import Task
from corollary.automata._transducer import SILENT, Transducer
from corollary.errors import InvalidInputError

# Answers of a read-out: (states before (N, f), symbols (N,), states after (N, f)) -> (N,) integers.
ReadOut = Callable[[Tensor, Tensor, Tensor], Tensor]

PROBES = (40, 20, 10)  # lengths of words that look for counterexamples: heads are trained on up to 40
TRIED = 12  # counterexamples a round, of which the one with the shortest suffix is taken
AGREEMENT = 0.99  # of the head's answers on these words


class _Reader:
    """A head, a read-out and the words it is asked about, as a machine that can be started in any state."""

    def __init__(self, head: Head, answer: ReadOut, domain: Transducer) -> None:
        self.head, self.answer, self.domain = head, answer, domain

    def answers(self, states: Tensor, places: np.ndarray, words: Tensor) -> Int[np.ndarray, "n t"]:
        """(N, T) answers to words (N, T) from states (N, d): -1: none is asked for, -2: from a forbidden symbol on."""
        after = self.head.states(words, initial=states)
        before = torch.cat([states[:, None], after[:, :-1]], 1)
        told = self.answer(before.flatten(0, 1), words.flatten(), after.flatten(0, 1)).view(words.shape).cpu().numpy()
        place, gone = places, np.zeros(len(words), dtype=bool)
        for t, x in enumerate(words.numpy().T):
            gone = gone | (self.domain.transitions[place, x] < 0)
            told[:, t] = np.where(gone, -2, np.where(self.domain.outputs[place, x] < 0, SILENT, told[:, t]))
            place = np.where(gone, 0, self.domain.transitions[place, x])
        return told

    def signature(self, states: Tensor, places: np.ndarray, suffixes: list[tuple[int, ...]]) -> Int[np.ndarray, "n s"]:
        """(N, S) answers to the last symbol of each suffix."""
        columns = []
        for length in sorted({len(s) for s in suffixes}):
            group = [s for s in suffixes if len(s) == length]
            words = torch.tensor(group).repeat(len(states), 1)
            repeated = states.repeat_interleave(len(group), 0), places.repeat(len(group))
            columns.append(self.answers(*repeated, words)[:, -1].reshape(len(states), len(group)))
        return np.concatenate(columns, axis=1)


@torch.no_grad()
def snap(
    head: Any,
    q_max: int = 60,
    *,
    answer: ReadOut | None = None,
    domain: Transducer | None = None,
    tolerance: float = 0.2,
    limit: int = 512,
    words: int = 64,
    seed: int = 0,
) -> FiniteHead:
    r"""The finite head that a trained head computes.

    Args:
        head: a `RationalHead`, `DirectSum`, or any `Head` over finitely many symbols.
        q_max: longest cycle of a single symbol: an angle of a plane is snapped to \(2 \pi j / q\) with q up to this.
        answer: a read-out of (state before, symbol, state after); states that no suffix tells apart by it are one.
            Without it states are one where they lie within `tolerance` (relative to the norm of the initial state).
        domain: which words are asked about, where not all are: a transducer whose forbidden symbols (-1) never come,
            and whose silent places (-1) do not count, e.g. `task("arithmetic").automaton`; with `answer` only.
        tolerance: see `answer`; below half of the distance between two states.
        limit: largest number of states.
        words: how many random words machine and head are compared on: of 40 symbols, of 20 or 10 where the head drifts.
        seed: of these words.

    Returns:
        A `FiniteHead`, whose vectors are states of the head itself; its `.represent()` has d x d matrices again.

    Raises:
        InvalidInputError: where no finite automaton is found within `limit` and `q_max`: the head drifts too fast, or
            needs a read-out that says what matters.

    Guarantee: the result is an automaton, exact at every length. That it is what the head was meant to compute is what
        `certify` decides; here it agrees with the head on at least
        99 % of the answers to those words.

    Example:
        >>> import torch
        >>> from corollary.automata import fixed_head, rotations
        >>> turn = 2 * torch.pi / 5 + 1e-4  # a fifth of a turn, badly learned, and its inverse
        >>> head = fixed_head(rotations(torch.tensor([[turn], [-turn + 3e-4]])), torch.tensor([1.0, 0.0]))
        >>> snapped = head.snap(q_max=8)
        >>> [snapped.transitions.shape[0], snapped.transitions[0].tolist()]
        [5, [1, 2]]
    """
    if isinstance(head, FiniteHead):
        return head
    if not isinstance(head, Head):
        raise InvalidInputError(f"a head over finitely many symbols is snapped, got {type(head).__name__}")
    numbers = [*head.parameters(), *head.buffers()]
    if not all(bool(torch.isfinite(p).all()) for p in numbers):
        raise InvalidInputError(
            "the head holds NaN or infinity, which no state is near; train it again, at a lower `lr`"
        )
    if isinstance(head, DirectSum):  # all parts by vectors
        head = DirectSum([h.represent() if isinstance(h, FiniteHead) else h for h in head.heads])
    if q_max < 1 or limit < 1 or not 0 < tolerance < 1:
        raise InvalidInputError(f"q_max, limit and tolerance must be positive, got {q_max}, {limit}, {tolerance}")
    double = copy.deepcopy(head).double().cpu()  # thousands of small steps: no work for an accelerator
    start = double.initial_state()
    if answer is None:
        table, vectors = _closed(double, start, tolerance * float(start.norm()), limit)
    else:
        V = head.vocab_size
        asked = domain or Transducer(np.zeros((1, V)), np.zeros((1, V)))
        asked = Transducer(asked.transitions, np.minimum(asked.outputs, 0), asked.start).minimise()
        reader = _Reader(double, answer, asked)
        table, vectors = _learned(reader, start, limit=limit, words=words, seed=seed)
    cycle = _longest_cycle(table)
    if cycle > q_max:
        raise InvalidInputError(
            f"a symbol has a cycle of length {cycle}, more than q_max = {q_max}; raise it if that is meant"
        )
    dtype = next(iter(head.parameters()), start).dtype
    return FiniteHead(table, vectors.to(dtype)).to(head.initial_state().device)


def _closed(head: Head, start: Tensor, radius: float, limit: int) -> tuple[np.ndarray, Tensor]:
    """Breadth-first over states; a state within `radius` of a known one is that one. Known ones become means."""
    letters = torch.arange(head.vocab_size)[:, None]
    found, counts, table = start[None].clone(), [1], []
    first = [start]
    at = 0
    while at < len(first):
        row = []
        for after in head.states(letters, initial=first[at].expand(head.vocab_size, -1))[:, 0]:
            gap = (found - after).norm(dim=-1)
            near = int(gap.argmin())
            if gap[near] > radius:
                if len(first) >= limit:
                    raise InvalidInputError(
                        f"more than {limit} states, none within {radius:.3g} of another: the head is not near a finite "
                        "automaton; train longer, or give the read-out `answer` that says which states matter"
                    )
                near = len(first)
                first.append(after)
                counts.append(0)
                found = torch.cat([found, after[None]])
            row.append(near)
            counts[near] += 1
            found[near] += (after - found[near]) / counts[near]
        table.append(row)
        at += 1
    return np.array(table), found


@dataclass
class _Found:
    """States that were told apart: (n, V) transitions, (n, d) vectors, (n,) places in the domain."""

    table: np.ndarray
    vectors: Tensor
    places: np.ndarray


def _learned(reader: _Reader, start: Tensor, *, limit: int, words: int, seed: int) -> tuple[np.ndarray, Tensor]:
    """The automaton of the head's answers; where long words say that it drifts, that of shorter ones."""
    for length in PROBES:
        probe = Task("probe", reader.domain, 1).sample(words, length, np.random.default_rng(seed))[0]
        share, found, machine = _fitted(reader, start, probe, limit)
        if share >= AGREEMENT and found is not None and machine is not None:
            return _centred(reader, start, machine, found, torch.from_numpy(probe), limit)
    raise InvalidInputError(
        f"no automaton of at most {limit} states agrees with the head on {AGREEMENT:.0%} of its answers, not even to "
        f"words of {PROBES[-1]} symbols; train longer, or raise `limit`"
    )


def _fitted(
    reader: _Reader, start: Tensor, probe: np.ndarray, limit: int
) -> tuple[float, _Found | None, Transducer | None]:
    """States by what suffixes tell apart, suffixes by counterexamples: the best machine met, its share of answers."""
    V = reader.head.vocab_size
    letters: list[tuple[int, ...]] = [(x,) for x in range(V)]
    suffixes = letters + ([(x, y) for x in range(V) for y in range(V)] if V <= 8 else [])
    first = np.full(len(probe), reader.domain.start)
    truth = reader.answers(start.expand(len(probe), -1), first, torch.from_numpy(probe))
    best: tuple[float, _Found | None, Transducer | None] = (0.0, None, None)
    while (found := _told_apart(reader, start, suffixes, limit)) is not None:
        machine = Transducer(found.table, reader.signature(found.vectors, found.places, letters).clip(SILENT))
        wrong = np.argwhere(machine.run(probe) != truth)
        best = max(best, (1 - len(wrong) / truth.size, found, machine), key=lambda one: one[0])
        earliest = wrong[wrong[:, 1].argsort(kind="stable")[:TRIED]]
        new = {_suffix(reader, found, torch.from_numpy(probe[r, : t + 1]), int(truth[r, t])) for r, t in earliest}
        if not new - set(suffixes):
            break  # nothing is wrong; or the head itself drifts, and answers differently in states that were one
        suffixes.append(min(new - set(suffixes), key=lambda suffix: (len(suffix), suffix)))  # it drifts least on these
    return best


def _told_apart(reader: _Reader, start: Tensor, suffixes: list[tuple[int, ...]], limit: int) -> _Found | None:
    """States by their answers to the suffixes, breadth-first; None where there are more than `limit`."""
    V, domain = reader.head.vocab_size, reader.domain
    letters = torch.arange(V)[:, None]
    places = [domain.start]
    name = reader.signature(start[None], np.array(places), suffixes)[0]
    number, vectors = {name.tobytes(): 0}, [start]
    table: list[list[int]] = []
    while len(table) < len(vectors):
        layer, at = torch.stack(vectors[len(table) :]), np.array(places[len(table) :], dtype=np.int64)
        after = reader.head.states(letters.repeat(len(layer), 1), initial=layer.repeat_interleave(V, 0))[:, 0]
        moved = domain.transitions[at].reshape(-1)
        names = reader.signature(after, moved.clip(0), suffixes)
        row = []
        for i, (state, name) in enumerate(zip(after, names, strict=True)):
            if moved[i] < 0:  # forbidden: it stays where it is
                row.append(len(table) + i // V)
                continue
            key = name.tobytes()
            if key not in number:
                if len(vectors) >= limit:
                    return None
                number[key] = len(vectors)
                vectors.append(state)
                places.append(int(moved[i]))
            row.append(number[key])
        table += np.array(row).reshape(-1, V).tolist()
    return _Found(np.array(table), torch.stack(vectors), np.array(places))


def _suffix(reader: _Reader, found: _Found, word: Tensor, truth: int) -> tuple[int, ...]:
    """The end of a counterexample that tells two merged states apart, by bisection (Rivest and Schapire)."""
    visited = [0]
    for x in word.tolist():
        visited.append(int(found.table[visited[-1], x]))

    def told(i: int) -> int:
        """The answer to the rest of the word from the state that the machine is in after i symbols."""
        q = [visited[i]]
        return int(reader.answers(found.vectors[q], found.places[q], word[None, i:])[0, -1])

    low, high = 0, len(word) - 1  # told(low) is the truth, told(high) the machine's
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if told(middle) == truth else (low, middle)
    return tuple(word[high:].tolist())


def _centred(
    reader: _Reader, start: Tensor, machine: Transducer, found: _Found, probe: Tensor, limit: int
) -> tuple[np.ndarray, Tensor]:
    """Table and vectors with which the read-out answers as the machine does.

    A state stands for many vectors of the head that only differ where no later answer looks; the read-out also sees the
    vector behind the symbol. So means over the first halves of the probe words are tried, then these with a start of
    its own, which is never entered again, then several vectors for a state.
    """
    short, vectors = probe[:, : probe.shape[1] // 2], found.vectors
    states = reader.head.states(short, initial=start.expand(len(short), -1)).flatten(0, 1)
    q, visited = np.full(len(short), machine.start), []
    for x in short.numpy().T:
        q = machine.transitions[q, x]
        visited.append(q)
    index = torch.from_numpy(np.stack(visited, 1).reshape(-1))
    count = torch.bincount(index, minlength=len(vectors))[:, None]
    total = torch.zeros_like(vectors).index_add(0, index, states)
    means = torch.where(count > 0, total / count.clamp(min=1), vectors)
    entered = np.vstack([found.table[:1] + 1, found.table + 1])
    for table, tried in ((found.table, means), (entered, torch.cat([start[None], means]))):
        outputs = machine.outputs if len(table) == len(vectors) else np.vstack([machine.outputs[:1], machine.outputs])
        n, V = table.shape
        after = tried[torch.from_numpy(table.reshape(-1))]
        told = reader.answer(tried.repeat_interleave(V, 0), torch.arange(V).repeat(n), after).view(n, V).cpu().numpy()
        if ((told == outputs) | (outputs < 0)).all():
            return table, tried
    return _stand_ins(reader, start, machine, limit)


def _stand_ins(reader: _Reader, start: Tensor, machine: Transducer, limit: int) -> tuple[np.ndarray, Tensor]:
    """Breadth-first over vectors of the head, each with its state of the machine.

    A new vector is one that is known if that is of the same state and the read-out answers the same with it: the
    nearest such stands in for it. So a state has as many vectors as the read-out tells apart (a flip learned as a
    quarter turn has four).
    """
    V = reader.head.vocab_size
    letters = torch.arange(V)
    vectors, classes, table = start[None], np.array([machine.start]), list[list[int]]()
    while len(table) < len(vectors):
        q, v = int(classes[len(table)]), vectors[len(table)]
        after = reader.head.states(letters[:, None], initial=v.expand(V, -1))[:, 0]
        row = []
        for x in range(V):
            state, wanted = int(machine.transitions[q, x]), int(machine.outputs[q, x])
            same = np.flatnonzero(classes == state)
            told = reader.answer(v.expand(len(same), -1), letters[x].expand(len(same)), vectors[same]).cpu().numpy()
            fit = same[(told == wanted) | (wanted < 0)]
            if len(fit):
                row.append(int(fit[int((vectors[fit] - after[x]).norm(dim=-1).argmin())]))
                continue
            if len(vectors) >= limit:
                raise InvalidInputError(f"more than {limit} vectors are told apart; train longer, or raise `limit`")
            row.append(len(vectors))
            vectors, classes = torch.cat([vectors, after[x : x + 1]]), np.append(classes, state)
        table.append(row)
    return np.array(table), vectors


def _longest_cycle(table: np.ndarray) -> int:
    longest = 1
    for column in table.T:
        seen = np.full(len(table), -1)
        for q in range(len(table)):
            walk, at = [], q
            while seen[at] < 0:
                seen[at] = q
                walk.append(at)
                at = column[at]
            if seen[at] == q:
                longest = max(longest, len(walk) - walk.index(at))
    return longest


def read_out_of(model: Any) -> ReadOut:
    """The answers of a network whose output depends on (state before, symbol, state after) alone."""

    def answer(before: Tensor, symbols: Tensor, after: Tensor) -> Tensor:
        mode = model.config.state
        h = {"inclusive": after, "exclusive": before}.get(mode, torch.cat([before, after], -1))
        weight = model.embedding.weight
        return model.outputs(symbols[:, None].to(weight.device), h[:, None].to(weight))[:, 0].argmax(-1).to(h.device)

    return answer


@torch.no_grad()
def snap_network(model: Any, q_max: int = 60, *, answer: ReadOut | None = None, **options: Any) -> Any:
    """A copy of the network with its head made finite; see `snap`.

    Where the output depends on the state alone, the network itself is the read-out that says which states matter.
    """
    if model.head is None:
        raise InvalidInputError("this network has no head; there is nothing to snap")
    if answer is None and model.depends_on_state_only:
        answer = read_out_of(model)
    finite = model.head.snap(q_max, answer=answer, **options)
    made = copy.deepcopy(model)
    made.head = finite
    return made
