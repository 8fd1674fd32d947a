"""Choosing tokens from next-token distributions: greedy, sampling with top-k and top-p, and beams."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from corollary.errors import InvalidInputError


@runtime_checkable
class Source(Protocol):
    """A batch of sequences being written."""

    log_probs: Float[Tensor, "b vocab"]

    def step(self, tokens: Int[Tensor, " b"]) -> None:
        """Append a token to each."""
        ...

    def select(self, index: Int[Tensor, " k"]) -> None:
        """Go on with these rows."""
        ...


@dataclass(frozen=True)
class Choice:
    """How tokens are chosen.

    Args:
        max_new_tokens: longest answer, its end included.
        temperature: 0 takes the likeliest token; else tokens are drawn from the distribution to the power of its
            inverse.
        top_k: draw among the k likeliest only.
        top_p: draw among the fewest tokens that hold this mass.
        beams: more than 1 searches for likely sequences instead; temperature must then be 0.
        length_penalty: beams are compared by log-probability / length ** this.
        seed: of the draws.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    beams: int = 1
    length_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InvalidInputError(f"`max_new_tokens` must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise InvalidInputError(f"`temperature` must be finite and not negative, got {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise InvalidInputError(f"`top_k` must be at least 1, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InvalidInputError(f"`top_p` must be in (0, 1], got {self.top_p}; 1 keeps every token")
        if self.beams < 1 or (self.beams > 1 and self.temperature != 0):
            raise InvalidInputError(
                f"`beams` must be at least 1, and beams do not sample: got {self.beams} with temperature "
                f"{self.temperature}"
            )


def decode(source: Source, choice: Choice, *, ends: Sequence[int]) -> list[list[int]]:
    """Tokens of each sequence up to the first of the ends, which is left out."""
    return _beams(source, choice, ends) if choice.beams > 1 else _one_by_one(source, choice, ends)


def _one_by_one(source: Source, choice: Choice, ends: Sequence[int]) -> list[list[int]]:
    pick = _picker(choice)
    rows, stops = len(source.log_probs), torch.tensor(ends)
    found = torch.full((rows, choice.max_new_tokens), ends[0], dtype=torch.long)
    alive = torch.ones(rows, dtype=torch.bool)
    for t in range(choice.max_new_tokens):
        tokens = pick(source.log_probs).cpu()
        found[:, t] = torch.where(alive, tokens, ends[0])
        alive &= ~torch.isin(tokens, stops)
        if not alive.any() or t + 1 == choice.max_new_tokens:
            break
        source.step(found[:, t].to(source.log_probs.device))
    stopped = torch.isin(found, stops).int()
    lengths = torch.where(stopped.any(1), stopped.argmax(1), choice.max_new_tokens).tolist()
    return [row[:n].tolist() for row, n in zip(found, lengths, strict=True)]


def stream(source: Source, choice: Choice, *, ends: Sequence[int]) -> Iterator[int]:
    """Tokens of one sequence as they are chosen, up to an end: those of `decode` without beams."""
    pick = _picker(choice)
    for t in range(choice.max_new_tokens):
        token = pick(source.log_probs)
        if int(token[0]) in ends:
            return
        yield int(token[0])
        if t + 1 < choice.max_new_tokens:
            source.step(token)


def _picker(choice: Choice) -> Callable[[Float[Tensor, "b vocab"]], Int[Tensor, " b"]]:
    if choice.temperature == 0:
        return lambda log_probs: log_probs.argmax(-1)
    generator = torch.Generator().manual_seed(choice.seed)

    def draw(log_probs: Float[Tensor, "b vocab"]) -> Int[Tensor, " b"]:
        p = restricted(log_probs / choice.temperature, top_k=choice.top_k, top_p=choice.top_p)
        cumulative = p.double().cumsum(-1)
        at = torch.rand(len(p), 1, generator=generator, dtype=torch.float64).to(p.device) * cumulative[:, -1:]
        return (cumulative <= at).sum(-1).clamp(max=p.shape[-1] - 1)

    return draw


def restricted(
    scores: Float[Tensor, "b vocab"], *, top_k: int | None = None, top_p: float = 1.0
) -> Float[Tensor, "b vocab"]:
    """Probabilities of the `top_k` likeliest tokens, then of the fewest that hold `top_p` of what is left."""
    p = scores.softmax(-1)
    if top_k is not None and top_k < p.shape[-1]:
        kept = p.topk(top_k, dim=-1)
        p = torch.zeros_like(p).scatter(-1, kept.indices, kept.values)
    if top_p < 1:
        falling, order = p.sort(dim=-1, descending=True, stable=True)
        before = falling.cumsum(-1) - falling
        falling = torch.where(before < top_p * falling.sum(-1, keepdim=True), falling, torch.zeros_like(falling))
        p = torch.zeros_like(p).scatter(-1, order, falling)
    return p / p.sum(-1, keepdim=True)


def _beams(source: Source, choice: Choice, ends: Sequence[int]) -> list[list[int]]:
    """The likeliest sequences that a beam finds, by log-probability over length to the power of the penalty."""
    rows, width, vocab = len(source.log_probs), choice.beams, source.log_probs.shape[-1]
    device = source.log_probs.device
    source.select(torch.arange(rows, device=device).repeat_interleave(width))
    total = torch.full((rows, width), -torch.inf, device=device)
    total[:, 0] = 0.0  # the copies of a prompt are one beam at first
    written: list[list[list[int]]] = [[[] for _ in range(width)] for _ in range(rows)]
    done: list[list[tuple[float, list[int]]]] = [[] for _ in range(rows)]
    for t in range(1, choice.max_new_tokens + 1):
        scores = (total[..., None] + source.log_probs.float().view(rows, width, vocab)).view(rows, -1)
        best = scores.topk(min((1 + len(ends)) * width, scores.shape[1]), dim=-1)  # all but `width` of them may end
        origins, tokens = (best.indices // vocab).tolist(), (best.indices % vocab).tolist()
        chosen, following = torch.zeros(rows, width, dtype=torch.long), torch.full((rows, width), ends[0])
        total = torch.full((rows, width), -torch.inf, device=device)
        for i in range(rows):
            before = written[i]
            kept: list[list[int]] = []
            for score, origin, token in zip(best.values[i].tolist(), origins[i], tokens[i], strict=True):
                if score == -float("inf") or len(kept) == width:
                    continue
                if token in ends:
                    done[i].append((score / t**choice.length_penalty, before[origin]))
                    continue
                total[i, len(kept)], chosen[i, len(kept)], following[i, len(kept)] = score, origin, token
                kept.append([*before[origin], token])
            written[i] = kept + [[] for _ in range(width - len(kept))]
            done[i] = sorted(done[i], key=lambda pair: -pair[0])[:width]
        if t == choice.max_new_tokens or all(_settled(d, s, t, choice) for d, s in zip(done, total, strict=True)):
            break
        offset = torch.arange(rows)[:, None] * width
        source.select((chosen + offset).flatten().to(device))
        source.step(following.flatten().to(device))
    for i in range(rows):  # what was still being written when the tokens ran out
        done[i] += [
            (s / t**choice.length_penalty, w)
            for s, w in zip(total[i].tolist(), written[i], strict=True)
            if s > -float("inf")
        ]
    return [max(d, key=lambda pair: pair[0])[1] if d else [] for d in done]


def _settled(done: list[tuple[float, list[int]]], total: Float[Tensor, " w"], t: int, choice: Choice) -> bool:
    """Whether no running beam can still beat the worst of the finished ones."""
    best = float(total.max())
    if best == -float("inf"):
        return True
    longest = t if choice.length_penalty <= 0 else choice.max_new_tokens
    return len(done) >= choice.beams and best / longest**choice.length_penalty <= done[-1][0]
