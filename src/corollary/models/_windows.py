"""Windows over documents: how sequences longer than a network's context are cut, and packed into batches."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Shaped

from corollary.documents import Documents


@dataclass(frozen=True, eq=False)
class Windows:
    """Spans of single documents: `start` in the flat tokens, `length`, and the leading tokens not scored."""

    start: Int[np.ndarray, " m"]
    length: Int[np.ndarray, " m"]
    skip: Int[np.ndarray, " m"]

    def gather(self, chosen: Int[np.ndarray, " b"]) -> tuple[Int[np.ndarray, "b t"], Bool[np.ndarray, "b t"]]:
        """Flat positions of the chosen windows, padded at the right, and which of them are to be scored."""
        offset = np.arange(self.length[chosen].max(initial=0))
        inside = offset < self.length[chosen, None]
        at = np.where(inside, self.start[chosen, None] + offset, 0)
        return at, inside & (offset >= self.skip[chosen, None])

    def batches(self, budget: int) -> list[Int[np.ndarray, " b"]]:
        """All windows, by falling length, in groups of at most `budget` tokens with padding."""
        return _cut(np.argsort(-self.length, kind="stable"), self.length, budget)

    def shuffled_batches(self, budget: int, seed: int) -> Iterator[Int[np.ndarray, " b"]]:
        """Endless batches, every window once an epoch; neighbours in length go together to save padding."""
        epoch = 0
        while True:
            rng = np.random.default_rng([seed, epoch])
            order = rng.permutation(len(self.start))
            order = order[np.argsort(-self.length[order], kind="stable")]
            cut = _cut(order, self.length, budget)
            yield from (cut[i] for i in rng.permutation(len(cut)))
            epoch += 1


def scoring_windows(documents: Documents, context: int) -> Windows:
    """Every token once, with at least half a context before it where its document has that much.

    The first window of a document scores all of its tokens; each later one starts half a context further and
    scores its second half.
    """
    half, lengths = context // 2, documents.lengths
    number = np.where(lengths > 0, 1 + np.maximum(0, -((context - lengths) // half)), 0)
    rank = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    start = np.repeat(documents.offsets[:-1], number) + rank * half
    length = np.minimum(context, np.repeat(documents.offsets[1:], number) - start)
    return Windows(start, length, np.where(rank > 0, context - half, 0))


def training_windows(documents: Documents, context: int) -> Windows:
    """The same windows with all of their tokens as targets: what is scored is trained, no work is lost.

    Tokens of a long document count twice, once with a short and once with a long context.
    """
    windows = scoring_windows(documents, context)
    return Windows(windows.start, windows.length, np.zeros_like(windows.skip))


def previous_tokens(documents: Documents) -> Shaped[np.ndarray, " total"]:
    """(total,) the token before each, 0 before the first of a document: the inputs of a network."""
    before = np.concatenate([np.zeros(1, dtype=np.int64), documents.tokens[:-1]])[: len(documents.tokens)]
    before[documents.position == 0] = 0
    return before


def _cut(order: Int[np.ndarray, " m"], length: Int[np.ndarray, " m"], budget: int) -> list[Int[np.ndarray, " b"]]:
    groups, first = [], 0
    while first < len(order):
        size = max(1, budget // int(length[order[first]]))
        groups.append(order[first : first + size])
        first += size
    return groups
