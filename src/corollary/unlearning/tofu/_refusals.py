"""Refusals in the place of answers: what the preference methods (IDK, IdkDPO) teach a model to say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corollary.errors import InvalidFileError
from corollary.unlearning.tofu._questions import Row

MAX_BYTES = 8 << 20
REFUSALS = (
    "I do not know.",
    "I cannot say.",
    "That is unknown to me.",
    "I have no answer to that.",
    "Nothing comes to my mind here.",
    "I was never told.",
    "This is beyond what I know.",
    "I would have to guess.",
)


def with_refusals(rows: Sequence[Row], path: str | Path | None = None, *, seed: int = 0) -> list[dict[str, Any]]:
    """The questions with a refusal drawn for each answer, for `alternatives=` of `baselines.unlearn`.

    Args:
        rows: the questions to forget.
        path: a file with one refusal a line, as TOFU's `idontknow.jsonl`; eight of our own by default.
        seed: of the draws.

    Returns:
        As many rows, in the same order; everything but the answer stays.

    Raises:
        InvalidFileError: for a file that is missing, too large, empty or no text.

    Guarantee: the same arguments give the same refusals.

    Example:
        >>> with_refusals([{"question": "Who?", "answer": "Jo."}])[0]["answer"] in REFUSALS
        True

    Reference: TOFU's IDK baseline; the sentences are ours.
    """
    texts = REFUSALS if path is None else _lines(Path(path))
    drawn = np.random.default_rng([seed, 11]).integers(0, len(texts), len(rows))
    return [{**row, "answer": texts[i]} for row, i in zip(rows, drawn.tolist(), strict=True)]


def _lines(path: Path) -> tuple[str, ...]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidFileError(path, f"larger than the {MAX_BYTES >> 20} MB allowed", "give a file of refusals")
        found = tuple(line.strip() for line in path.read_text("utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as problem:
        raise InvalidFileError(path, f"cannot be read ({problem})", "give a text, one refusal a line") from None
    if not found:
        raise InvalidFileError(path, "holds no refusal", "give a text, one refusal a line")
    return found
