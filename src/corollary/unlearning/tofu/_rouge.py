"""ROUGE-L recall: the longest common subsequence of stemmed words over the words of the truth."""

import re
from collections.abc import Sequence

from corollary.unlearning.tofu._stem import stem

_OTHER = re.compile(r"[^a-z0-9]+")


def words(text: str) -> list[str]:
    """Words in lower case, those of more than three letters stemmed.

    Example:
        >>> words("The writer's books")
        ['the', 'writer', 's', 'book']
    """
    return [stem(w) if len(w) > 3 else w for w in _OTHER.sub(" ", text.lower()).split()]


def common_length(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, by bits: one integer operation a word of `b`.

    Example:
        >>> common_length("abcbdab", "bdcaba")
        4
    """
    where: dict[str, int] = {}
    for i, word in enumerate(a):
        where[word] = where.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        matched = row & where.get(word, 0)
        row = ((row + matched) | (row - matched)) & full
    return len(a) - row.bit_count()


def rouge_l_recall(truth: str, found: str) -> float:
    """Share of the truth's words that the answer has in order; 0 where either has none.

    Guarantee: none; it lies in [0, 1] and is 1 exactly where the truth is a subsequence.

    Example:
        >>> rouge_l_recall("Jo wrote three novels", "Jo has written a novel")
        0.5

    Reference: Lin (2004); checked against published evaluation logs of TOFU.
    """
    wanted, given = words(truth), words(found)
    return common_length(wanted, given) / len(wanted) if wanted and given else 0.0
