r"""Coherent answers of language models: the same question asked in several ways, one answer for all of them.

.. math:: g(z) \propto \prod_i \max(q_i(z), \text{floor})^{w_i}

Symbols: q_i the distribution over final answers under variant i, or the shares of sampled answers; the arithmetic form
of shares is the majority vote of self-consistency.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from corollary.coherence._projection import project
from corollary.errors import InvalidInputError

Answer = Mapping[str, float] | Sequence[str]  # probabilities by answer, or answers sampled
Model = Callable[[str], Answer]


@dataclass(frozen=True)
class Answered:
    """One answer for all variants of a question.

    Args:
        answer: the likeliest, or None where it abstained.
        probs: answer -> probability.
        gain: drop in log-loss over the variants (nats), if they share one truth.
        variants: how many were asked.

    Guarantee: that of `project`, for distributions; sampled answers estimate them.

    Example:
        See `CoherentAnswers`.
    """

    answer: str | None
    probs: Mapping[str, float]
    gain: float
    variants: int


@dataclass
class CoherentAnswers:
    """Ask models in several ways and answer once.

    Args:
        models: callables from a prompt to answers: a mapping answer -> probability, or a list of sampled answers.
        variants: functions from a question to a prompt, or templates with `{question}`.
        weights: share of each pair (variant within model) in the traffic; equal by default.
        mean: geometric (the projection for log-loss) or arithmetic (votes).
        floor: what the geometric mean raises zeros to: an answer that one variant never gave is not excluded.
        abstain_gain: incoherence (nats) above which no answer is given; None for never.
        abstain_prob: probability of the best answer below which none is given.
        normalise: from an answer's text to its key, so that "Paris." and "paris" are one.

    Attributes:
        log: the gain of every question asked, in order; its mean is the label-free figure to watch.

    Raises:
        InvalidInputError: for unknown means, no models, or answers that are no distributions.

    Guarantee: that of `Answered`.

    Example:
        >>> def model(prompt):
        ...     return {"a": 0.8, "b": 0.2} if prompt.endswith("?") else {"a": 0.4, "b": 0.6}
        >>> ask = CoherentAnswers([model], ["{question}?", "Please: {question}"])
        >>> found = ask("which")
        >>> found.answer, round(found.probs["a"], 3), len(ask.log)
        ('a', 0.62, 1)

    Reference: Mohri, Schneider and Wu (2025); self-consistency after Wang et al. (2023), textbook.
    """

    models: Sequence[Model]
    variants: Sequence[Callable[[str], str] | str]
    weights: Sequence[float] | None = None
    mean: str = "geometric"
    floor: float = 1e-3
    abstain_gain: float | None = None
    abstain_prob: float = 0.0
    normalise: Callable[[str], str] = str.strip
    log: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.models or not self.variants:
            raise InvalidInputError("at least one model and one variant are needed")
        if self.mean not in ("geometric", "arithmetic"):
            raise InvalidInputError(f"`mean` must be geometric or arithmetic, got {self.mean!r}")
        if not 0 < self.floor < 0.5:
            raise InvalidInputError(f"`floor` must lie in (0, 0.5), got {self.floor}")

    def __call__(self, question: str) -> Answered:
        """Ask every model every variant, and answer once."""
        asked = [self._distribution(m(self._prompt(v, question))) for m in self.models for v in self.variants]
        names = sorted({name for one in asked for name in one})
        p = np.array([[one.get(name, 0.0) for name in names] for one in asked])
        if len(names) == 1:
            self.log.append(0.0)
            return Answered(names[0], {names[0]: 1.0}, 0.0, len(asked))
        with np.errstate(divide="ignore"):
            views = np.log(p)[:, None]
        kl = project(views, weights=self.weights, floor=min(self.floor, 0.5 / len(names)))
        shown = kl if self.mean == "geometric" else project(views, weights=self.weights, divergence="squared")
        self.log.append(float(kl.gain[0]))
        probs = dict(zip(names, shown.probs[0].tolist(), strict=True))
        best = max(probs, key=probs.__getitem__)
        silent = probs[best] < self.abstain_prob
        silent |= self.abstain_gain is not None and self.log[-1] > self.abstain_gain
        return Answered(None if silent else best, probs, self.log[-1], len(asked))

    def choose(
        self, ask: Callable[[str, Sequence[str]], Sequence[float]], question: str, options: Sequence[str]
    ) -> Answered:
        """Multiple choice with the options in every cyclic order: `ask(question, options)` gives one number an option.

        A bias for a place cancels; the numbers are probabilities, not necessarily normalised.
        """
        from corollary.coherence._transforms import option_orders

        rows = []
        for order in option_orders(len(options)):
            given = np.asarray(ask(question, [options[i] for i in order]), dtype=np.float64)
            back = np.empty(len(options))
            back[list(order)] = given
            rows.append(dict(zip(options, back.tolist(), strict=True)))
        votes = iter(rows)
        inner = CoherentAnswers(
            [lambda _: next(votes)], ["{question}"] * len(rows), mean=self.mean, floor=self.floor,
            abstain_gain=self.abstain_gain, abstain_prob=self.abstain_prob, normalise=str,
        )  # fmt: skip
        found = inner(question)
        self.log += inner.log
        return found

    @staticmethod
    def _prompt(variant: Any, question: str) -> str:
        return variant(question) if callable(variant) else variant.replace("{question}", question)

    def _distribution(self, given: Any) -> dict[str, float]:
        pairs = given.items() if isinstance(given, Mapping) else [(one, 1.0) for one in given]
        found: dict[str, float] = {}
        for name, value in pairs:
            key = self.normalise(name)
            found[key] = found.get(key, 0.0) + float(value)
        total = sum(found.values())
        if not found or not np.isfinite(total) or total <= 0 or min(found.values()) < 0:
            raise InvalidInputError(
                f"a model must give probabilities by answer or a list of answers, got {given!r:.80}"
            )
        return {k: v / total for k, v in found.items()}
