"""Everything that TOFU measures of a model, question by question."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from corollary.errors import InvalidInputError
from corollary.unlearning._examples import Examples
from corollary.unlearning._model import AnswerScores, TemperTiltModel, ends_of
from corollary.unlearning._tokens import Tokenizer, tokenizer_of
from corollary.unlearning.tofu._logs import Logs, Part
from corollary.unlearning.tofu._questions import Row
from corollary.unlearning.tofu._rouge import rouge_l_recall

LOWEST = 0.2  # share of the tokens in the score of membership


def evaluate(
    model: Any,
    rows: Sequence[Row],
    tokenizer: Any,
    *,
    heads: Any = None,
    max_new_tokens: int = 200,
    batch_size: int = 64,
    generate: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> Part:
    """Ask a model all questions: likelihood of right, paraphrased and wrong answers, and its greedy answer.

    Args:
        model: a `TemperTiltModel`, or a base model.
        rows: questions with `answer`, `perturbed_answer` and, where there is one, `paraphrased_answer`.
        tokenizer: ours, or a Hugging Face one.
        heads: names of the heads that are on; all by default.
        max_new_tokens: longest greedy answer.
        batch_size: questions answered side by side.
        generate: whether to answer at all; ROUGE is 0 otherwise.
        progress: called with questions answered and their number.

    Returns:
        The part, with `extraction` (extraction strength), `memorised` (exact memorisation) and `min_k` in `extra`.

    Raises:
        InvalidInputError: for no rows, or rows with different numbers of wrong answers.

    Guarantee: none; the numbers are those of the definitions in the module's head.

    Example:
        >>> from corollary.models import TransformerConfig, TransformerLM
        >>> from corollary.unlearning import WordTokenizer
        >>> from corollary.unlearning.tofu import make_questions
        >>> from corollary.unlearning.tofu._questions import texts_of
        >>> rows = make_questions(authors=2, forget=1).forget[:2]
        >>> tokenizer = WordTokenizer.fit(t for row in rows for t in texts_of(row))
        >>> config = TransformerConfig(vocab_size=tokenizer.vocab_size, width=16, layers=1, heads=2, context=32)
        >>> part = evaluate(TransformerLM(config), rows, tokenizer, max_new_tokens=4)
        >>> part.perturbed.shape, sorted(part.extra)
        ((2, 5), ['extraction', 'memorised', 'min_k'])
    """
    asked = model if isinstance(model, TemperTiltModel) else TemperTiltModel(model)
    known: Tokenizer = tokenizer_of(tokenizer)
    counts = {len(row.get("perturbed_answer", ())) for row in rows}
    if len(counts) != 1 or 0 in counts:
        raise InvalidInputError(
            f"each question needs the same number of `perturbed_answer`, at least one, got {sorted(counts)}"
        )
    right = Examples.from_pairs(rows, known)
    scores = asked.score(right, heads=heads)
    paraphrases = [{"question": r["question"], "answer": r.get("paraphrased_answer", r["answer"])} for r in rows]
    wrong = [{"question": r["question"], "answer": a} for r in rows for a in r["perturbed_answer"]]
    told = asked.score(Examples.from_pairs(wrong, known), heads=heads).mean_nll
    part = Part(
        scores.mean_nll,
        asked.score(Examples.from_pairs(paraphrases, known), heads=heads).mean_nll,
        told.reshape(len(rows), -1),
        np.zeros(len(rows)),
        memorisation(scores),
    )
    if not generate:
        return part
    answers: list[str] = []
    lengths = right.documents.lengths  # neighbours in length, so that little is padded
    order = np.argsort(lengths, kind="stable")
    for first in range(0, len(rows), batch_size):
        index = order[first : first + batch_size]
        prompts = [right.prompt(int(i)).tolist() for i in index]
        found = asked.generate(prompts, max_new_tokens=max_new_tokens, heads=heads, end=ends_of(asked.base, known.end))
        answers += [known.decode(tokens) for tokens in found]
        if progress is not None:
            progress(len(answers), len(rows))
    texts = [answers[i] for i in np.argsort(order)]
    rouge = np.array([rouge_l_recall(row["answer"], text) for row, text in zip(rows, texts, strict=True)])
    return Part(part.loss, part.paraphrased, part.perturbed, rouge, part.extra, tuple(texts))


def memorisation(scores: AnswerScores) -> dict[str, Float[np.ndarray, " n"]]:
    r"""Extraction strength \(1 - k/n\), exact memorisation, and the mean of the least likely fifth of the tokens.

    k is the first index from which all later tokens are the likeliest; both leave the end token out.
    """
    found: dict[str, list[float]] = {"extraction": [], "memorised": [], "min_k": []}
    for begin, stop in zip(scores.offsets[:-1], scores.offsets[1:], strict=True):
        hits, n = scores.hits[begin : stop - 1], max(1, stop - 1 - begin)
        missed = np.flatnonzero(~hits)
        found["extraction"].append(1 - (missed[-1] + 1 if len(missed) else 0) / n)
        found["memorised"].append(float(hits.mean()) if len(hits) else 1.0)
        lowest = np.sort(scores.log_probs[begin:stop])[: max(1, int(LOWEST * (stop - begin)))]
        found["min_k"].append(float(lowest.mean()))
    return {k: np.array(v, dtype=np.float64) for k, v in found.items()}


def evaluate_all(model: Any, parts: Mapping[str, Sequence[Row]], tokenizer: Any, **options: Any) -> Logs:
    """`evaluate` on several parts, e.g. `{"forget": ..., "retain": ...}`.

    Guarantee: none.

    Example:
        >>> callable(evaluate_all)
        True
    """
    return Logs({name: evaluate(model, rows, tokenizer, **options) for name, rows in parts.items()})
