"""Texts as tokens: a word tokenizer of our own, and what is asked of any other."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from corollary.errors import InvalidFileError, InvalidInputError
from corollary.models._speakers import speaker_of
from corollary.runs import read_json, write_json

END, ANSWER, UNKNOWN = 0, 1, 2
_FIRST = 3
_PIECE = re.compile(r"\w+|[^\w\s]")
_MAX_WORDS = 1 << 20
TEMPLATE = "Question: {question}\nAnswer:"


@runtime_checkable
class Tokenizer(Protocol):
    """What the language level needs of a tokenizer; `tokenizer_of` wraps those of Hugging Face.

    Guarantee: none.

    Example:
        >>> isinstance(WordTokenizer(["a"]), Tokenizer)
        True
    """

    vocab_size: int
    start: int | None
    end: int

    def prompt(self, question: str) -> list[int]:
        """Tokens of a question up to where its answer begins."""
        ...

    def answer(self, text: str) -> list[int]:
        """Tokens of an answer, without the end."""
        ...

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of tokens; special ones are left out."""
        ...


class WordTokenizer:
    """Words and signs of punctuation, numbered; for small models trained from nothing.

    Tokens: 0 starts and ends a document, 1 stands between question and answer, 2 for unknown words.

    Args:
        words: the vocabulary, in order.

    Raises:
        InvalidInputError: for repeated words or none.

    Guarantee: `decode(answer(text))` gives the words of `text` back, joined by one blank, where all are known.

    Example:
        >>> tokenizer = WordTokenizer.fit(["Who wrote it? Jo did."])
        >>> tokenizer.answer("Jo wrote Emma."), tokenizer.decode(tokenizer.answer("Jo wrote it."))
        ([5, 9, 2, 3], 'Jo wrote it .')
    """

    start: int | None = END
    end: int = END

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._number = {word: i for i, word in enumerate(self.words, _FIRST)}
        if not self.words or len(self._number) < len(self.words) or len(self.words) > _MAX_WORDS:
            raise InvalidInputError(f"`words` must be distinct, and at least one, got {len(self.words)}; use `fit`")
        self.vocab_size = len(self.words) + _FIRST

    @classmethod
    def fit(cls, texts: Iterable[str]) -> "WordTokenizer":
        """All words of the texts, sorted."""
        return cls(sorted({piece for text in texts for piece in _PIECE.findall(text)}))

    def _numbers(self, text: str) -> list[int]:
        return [self._number.get(piece, UNKNOWN) for piece in _PIECE.findall(text)]

    def prompt(self, question: str) -> list[int]:
        """Tokens of a question, and the mark that the answer begins."""
        return [*self._numbers(question), ANSWER]

    def answer(self, text: str) -> list[int]:
        """Tokens of an answer, without the end."""
        return self._numbers(text)

    def decode(self, tokens: Iterable[int]) -> str:
        """Words joined by blanks; special tokens are left out."""
        return " ".join(self.words[t - _FIRST] for t in map(int, tokens) if t >= _FIRST)

    def save(self, path: str | Path) -> None:
        """Write the words as JSON."""
        write_json(Path(path), {"kind": "words", "words": self.words})

    @classmethod
    def load(cls, path: str | Path) -> "WordTokenizer":
        """Read what `save` wrote."""
        found = read_json(Path(path))
        words = found.get("words") if isinstance(found, dict) and found.get("kind") == "words" else None
        if not isinstance(words, list) or not all(isinstance(w, str) for w in words):
            raise InvalidFileError(path, "no word tokenizer", "give the file that WordTokenizer.save wrote")
        return cls(words)


class ByteTokenizer:
    """UTF-8 bytes, for models over bytes; a line break stands between question and answer, byte 0 ends.

    Guarantee: `decode(answer(text)) == text` for text without byte 0.

    Example:
        >>> ByteTokenizer().decode(ByteTokenizer().answer("naïve"))
        'naïve'
    """

    vocab_size = 256
    start: int | None = 0
    end: int = 0

    def prompt(self, question: str) -> list[int]:
        """Bytes of the question and a line break."""
        return [*question.encode(), 10]

    def answer(self, text: str) -> list[int]:
        """Bytes of the answer."""
        return list(text.encode())

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of the bytes; what is no UTF-8 is replaced."""
        return bytes(t for t in map(int, tokens) if 0 < t < 256).decode(errors="replace")


class WrappedTokenizer:
    """A Hugging Face tokenizer, with a template for the question.

    Args:
        tokenizer: a `PreTrainedTokenizer`, fast or slow.
        template: text of the prompt; `{question}` is filled in. The answer follows after one blank.

    Raises:
        InvalidInputError: for a tokenizer without an end-of-text token.

    Guarantee: none.

    Example:
        >>> WrappedTokenizer(object())
        Traceback (most recent call last):
        ...
        corollary.errors.InvalidInputError: the tokenizer has no end-of-text token; set its `eos_token`
    """

    def __init__(self, tokenizer: Any, *, template: str = TEMPLATE) -> None:
        end = getattr(tokenizer, "eos_token_id", None)
        if end is None:
            raise InvalidInputError("the tokenizer has no end-of-text token; set its `eos_token`")
        self.inner, self.template, self.end = tokenizer, _checked(template), int(end)
        first = getattr(tokenizer, "bos_token_id", None)
        self.start: int | None = self.end if first is None else int(first)
        self.vocab_size = len(tokenizer)

    def prompt(self, question: str) -> list[int]:
        """Tokens of the filled template, without special tokens."""
        return list(self.inner.encode(self.template.format(question=question), add_special_tokens=False))

    def answer(self, text: str) -> list[int]:
        """Tokens of the answer after a blank."""
        return list(self.inner.encode(" " + text, add_special_tokens=False))

    def decode(self, tokens: Iterable[int]) -> str:
        """Text without special tokens and outer blanks."""
        return str(self.inner.decode([int(t) for t in tokens], skip_special_tokens=True)).strip()


class ExpertTokenizer:
    """What an expert of Hugging Face, or a composed model of such, reads: its tokenizer in this library's numbering.

    Token 0 starts and ends every sequence here, whatever ids the tokenizer has for that.

    Args:
        model: an `HFExpert`, or a composed model of experts that share one tokenizer.
        template: text of the prompt; `{question}` is filled in. The answer follows after one blank.

    Raises:
        InvalidInputError: for a model without a tokenizer, or a template without a question.

    Guarantee: none.

    Example:
        >>> ExpertTokenizer(object())
        Traceback (most recent call last):
        ...
        corollary.errors.InvalidInputError: object reads no text; give a tokenizer, or a model with `encode`
    """

    start: int | None = 0
    end: int = 0

    def __init__(self, model: Any, *, template: str = TEMPLATE) -> None:
        speaker = speaker_of(model)
        if speaker is None:
            raise InvalidInputError(f"{type(model).__name__} reads no text; give a tokenizer, or a model with `encode`")
        self.speaker, self.template = speaker, _checked(template)
        self.vocab_size = int(model.vocab_size)

    def prompt(self, question: str) -> list[int]:
        """Tokens of the filled template."""
        return [int(t) for t in self.speaker.encode(self.template.format(question=question))]

    def answer(self, text: str) -> list[int]:
        """Tokens of the answer after a blank."""
        return [int(t) for t in self.speaker.encode(" " + text)]

    def decode(self, tokens: Iterable[int]) -> str:
        """Text without special tokens and outer blanks."""
        return str(self.speaker.decode([int(t) for t in tokens])).strip()


def tokenizer_of(tokenizer: Any) -> Tokenizer:
    """The tokenizer itself where it has our interface, a Hugging Face one wrapped, or that of an `HFExpert`.

    Guarantee: none.

    Example:
        >>> tokenizer_of(ByteTokenizer()).vocab_size
        256
    """
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    return WrappedTokenizer(tokenizer) if speaker_of(tokenizer) is None else ExpertTokenizer(tokenizer)


def _checked(template: str) -> str:
    try:
        filled = "{question}" in template and template.format(question="")
    except (LookupError, ValueError, TypeError, AttributeError):
        filled = False
    if filled is False:
        raise InvalidInputError(f"`template` must contain {{question}}, and other braces doubled, got {template!r}")
    return template
