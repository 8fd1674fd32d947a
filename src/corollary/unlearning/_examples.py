"""Questions with answers as token sequences: the one form in which forget and retain sets travel here."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt64
from torch import Tensor

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.unlearning._tokens import Tokenizer, tokenizer_of


class Batch(NamedTuple):
    """Right-padded inputs, the next tokens, and at which positions the next token belongs to an answer."""

    inputs: Int[Tensor, "b t"]
    mask: Bool[Tensor, "b t"]
    targets: Int[Tensor, "b t"]
    scored: Bool[Tensor, "b t"]

    def to(self, device: Any) -> "Batch":
        """The same on another device."""
        return Batch(*(x.to(device) for x in self))


@dataclass(frozen=True, eq=False)
class Examples:
    r"""N sequences \((x_0, \ldots, x_{n-1})\): start, prompt, answer, end; loss and likelihood are about the answers.

    Args:
        documents: the sequences, as int32 tokens.
        answers: (N,) position of the first answer token of each, at least 1.

    Raises:
        InvalidInputError: where an answer begins outside of its sequence.

    Guarantee: none; it is a container.

    Example:
        >>> from corollary.unlearning import ByteTokenizer, Examples
        >>> pairs = [{"question": "Who?", "answer": "Jo."}]
        >>> examples = Examples.from_pairs(pairs, ByteTokenizer())
        >>> len(examples), examples.answer_lengths.tolist()
        (1, [4])
    """

    documents: Documents
    answers: Int[np.ndarray, " n"]

    def __post_init__(self) -> None:
        answers = np.asarray(self.answers, dtype=np.int64)
        if len(answers) != len(self.documents):
            raise InvalidInputError(f"{len(self.documents)} sequences, {len(answers)} answers; give one of each")
        if ((answers < 1) | (answers >= self.documents.lengths)).any():
            raise InvalidInputError("an answer must begin behind the first token and before the last of its sequence")
        object.__setattr__(self, "answers", answers)

    @classmethod
    def from_tokens(cls, prompts: Sequence[Any], answers: Sequence[Any]) -> "Examples":
        """From token ids: each prompt with its start token, each answer with its end token."""
        sequences = [[*p, *a] for p, a in zip(prompts, answers, strict=True)]
        documents = Documents.from_sequences(sequences, dtype=np.int32)
        return cls(documents, np.array([len(p) for p in prompts], dtype=np.int64))

    @classmethod
    def from_pairs(
        cls, pairs: Sequence[Mapping[str, Any]], tokenizer: Any, *, question: str = "question", answer: str = "answer"
    ) -> "Examples":
        """From mappings with a question and an answer; other keys choose e.g. `paraphrased_answer`."""
        known: Tokenizer = tokenizer_of(tokenizer)
        first = [] if known.start is None else [known.start]
        try:
            prompts = [[*first, *known.prompt(p[question])] for p in pairs]
            answers = [[*known.answer(p[answer]), known.end] for p in pairs]
        except (KeyError, TypeError) as problem:
            raise InvalidInputError(
                f"each pair needs the texts {question!r} and {answer!r} ({type(problem).__name__}: {problem})"
            ) from None
        return cls.from_tokens(prompts, answers)

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def answer_lengths(self) -> Int[np.ndarray, " n"]:
        """(N,) answer tokens, the end included."""
        return self.documents.lengths - self.answers

    def sequence(self, index: int) -> Int[np.ndarray, " t"]:
        """Tokens of one sequence."""
        offsets = self.documents.offsets
        return self.documents.tokens[offsets[index] : offsets[index + 1]]

    def prompt(self, index: int) -> Int[np.ndarray, " t"]:
        """Tokens before the answer of one sequence."""
        return self.sequence(index)[: self.answers[index]]

    def select(self, index: Any) -> "Examples":
        """The examples at `index` (integers or a boolean mask), in that order."""
        index = np.asarray(index)
        return Examples(self.documents.select(index), self.answers[index] if index.size else self.answers[:0])

    def hashes(self) -> UInt64[np.ndarray, " n"]:
        """(N,) identity of each sequence."""
        return self.documents.row_hashes()

    def digest(self) -> str:
        """SHA-256 of sequences and answers."""
        import hashlib

        return hashlib.sha256(self.documents.digest().encode() + self.answers.astype("<i8").tobytes()).hexdigest()

    def batch(self, index: Any) -> Batch:
        """The chosen examples as tensors, padded at the right with token 0."""
        index = np.asarray(index, dtype=np.int64)
        lengths, first = self.documents.lengths[index], self.documents.offsets[:-1][index]
        position = np.arange(lengths.max(initial=1))
        inside = position < lengths[:, None]
        tokens = np.where(inside, self.documents.tokens[np.where(inside, first[:, None] + position, 0)], 0)
        tokens = tokens.astype(np.int64)
        scored = inside[:, 1:] & (position[1:] >= self.answers[index, None])
        parts = (tokens[:, :-1], inside[:, 1:], tokens[:, 1:], scored)
        return Batch(*(torch.from_numpy(np.ascontiguousarray(p)) for p in parts))

    def batches(self, tokens: int = 8192) -> Iterator[Int[np.ndarray, " b"]]:
        """All examples once, by falling length, in groups of at most so many tokens with padding."""
        order = np.argsort(-self.documents.lengths, kind="stable")
        lengths, first = self.documents.lengths[order], 0
        while first < len(order):
            size = max(1, tokens // int(lengths[first]))
            yield order[first : first + size]
            first += size


def check_sets(forget: Examples, retain: Examples, vocab_size: int) -> None:
    """Refuse what cannot be learned from: an empty set, a common sequence, tokens of another tokenizer."""
    for name, given in (("forget", forget), ("retain", retain)):
        if not isinstance(given, Examples):
            raise InvalidInputError(
                f"`{name}` must be Examples, got {type(given).__name__}; build it with Examples.from_pairs"
            )
        if len(given) == 0:
            raise InvalidInputError(f"the {name} set is empty; give at least one question with its answer")
        tokens = given.documents.tokens
        if tokens.min() < 0 or tokens.max() >= vocab_size:
            raise InvalidInputError(
                f"the {name} set holds tokens from {tokens.min()} to {tokens.max()}, the model knows 0 to "
                f"{vocab_size - 1}; encode it with the model's own tokenizer"
            )
    common = np.isin(forget.hashes(), retain.hashes())
    if common.any():
        raise InvalidInputError(
            f"{int(common.sum())} of the {len(forget)} sequences to forget are also to be retained; "
            "remove them from one of the two sets"
        )
