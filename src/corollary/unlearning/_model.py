"""A frozen model with heads that make it forget: scored, generated from, switched, saved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Integer
from torch import Tensor

from corollary.certificates import Certificate
from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.unlearning._backbone import Backbone, Stream, backbone_of, left_aligned
from corollary.unlearning._decode import Choice, decode
from corollary.unlearning._examples import Examples
from corollary.unlearning._head import TemperTiltHead, causal_mean, tilted_log_probs

LOGITS = 1 << 21  # entries of an array of logits: what stays in the cache of a processor


class AnswerScores(NamedTuple):
    """What a model says of the M answer tokens of N examples, in order.

    Guarantee: none.

    Example:
        >>> scores = AnswerScores(np.log([0.5, 0.25]), np.array([True, False]), np.array([0, 2]))
        >>> scores.mean_nll.round(4).tolist()
        [1.0397]
    """

    log_probs: Float[np.ndarray, " m"]
    hits: Bool[np.ndarray, " m"]
    offsets: Int[np.ndarray, " n_plus_1"]

    @property
    def mean_nll(self) -> Float[np.ndarray, " n"]:
        """(N,) mean log-loss a token of each answer."""
        return -np.add.reduceat(self.log_probs, self.offsets[:-1]) / np.diff(self.offsets)


class TemperTiltModel:
    r"""A frozen base model whose outputs forget: \(\propto p^{1/T} \prod_k \sigma(\ell_k)^s\), token by token.

    It is a `corollary.models.LanguageModel` itself. Heads are switched on and off per call and per request; a request
    without heads gets the base model, bit for bit.

    Args:
        base: a Hugging Face causal model, or any `LanguageModel` of this library (a transformer, a composed model,
            tables).
        heads: name -> head, one for each thing forgotten; their log-sigmoids add.
        temperature: T, for requests with a head on; above 1 where what is to be forgotten is concentrated.
        guidance: s; 0 only tempers.

    Raises:
        InvalidInputError: where a head is of another width or vocabulary, or T or s make no sense.

    Guarantee: the base's weights are never changed. At T = 1, s = 1 and with the Bayes classifier of prefixes the
        next-token distributions are those of the retained data alone (an identity); else none beyond what is certified.

    Example:
        >>> from corollary.models import TransformerConfig, TransformerLM
        >>> base = TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=16))
        >>> model = TemperTiltModel(base, {"authors": TemperTiltHead(16, 256, rank=2)}, temperature=1.5)
        >>> model.generate([[0, 65, 66]], max_new_tokens=3, heads=[]) == model.generate([[0, 65, 66]], max_new_tokens=3,
        ...     heads=[], use_cache=False)
        True

    Reference: arXiv:2602.10217 (abstract read; the authors' code by the notes). Beams, top-k, top-p and several heads
        are ours.
    """

    def __init__(
        self,
        base: Any,
        heads: Mapping[str, TemperTiltHead] | None = None,
        *,
        temperature: float = 1.0,
        guidance: float = 1.0,
    ) -> None:
        self.base, self.backbone = base, backbone_of(base)
        self.vocab_size = self.backbone.vocab_size
        numbers = all(isinstance(x, (int, float, np.number)) for x in (temperature, guidance))
        if not numbers or not 0 < temperature < float("inf") or not 0 <= guidance < float("inf"):
            raise InvalidInputError(
                f"`temperature` must be positive and `guidance` not negative, got {temperature!r} and {guidance!r}"
            )
        self.temperature, self.guidance = float(temperature), float(guidance)
        self.heads: dict[str, TemperTiltHead] = {}
        self.fits: dict[str, Any] = {}  # what `fit_temper_tilt` noted of each head
        self.given: dict[str, Any] = {}  # and what `certificate_` is to be about
        for name, head in (heads or {}).items():
            self.add_head(name, head)

    def add_head(self, name: str, head: TemperTiltHead) -> None:
        """Attach a head under a name."""
        wanted = (self.backbone.width, self.vocab_size)
        if (head.width, head.vocab_size) != wanted:
            raise InvalidInputError(
                f"the head {name!r} is for states of width {head.width} and {head.vocab_size} tokens, the model has "
                f"{wanted[0]} and {wanted[1]}; attach it to the model it was fitted on"
            )
        self.heads[name] = head.to(device=self.backbone.device, dtype=self.backbone.dtype).eval()

    def with_settings(self, *, temperature: float | None = None, guidance: float | None = None) -> "TemperTiltModel":
        """The same base and heads at another temperature or guidance."""
        t = self.temperature if temperature is None else temperature
        s = self.guidance if guidance is None else guidance
        model = TemperTiltModel(self.backbone, self.heads, temperature=t, guidance=s)
        model.base, model.fits, model.given = self.base, self.fits, self.given
        return model

    def with_heads(self, names: Sequence[str]) -> "TemperTiltModel":
        """The same base with these heads alone: a language model of its own, for streams that serve one request."""
        self.switches(list(names), 1)
        chosen = {name: self.heads[name] for name in names}
        model = TemperTiltModel(self.backbone, chosen, temperature=self.temperature, guidance=self.guidance)
        model.base = self.base
        return model

    def switches(self, heads: Any, rows: int) -> Bool[Tensor, "b heads"]:
        """(B, K) which head is on in which row, from None (all), names for all rows, or a list of names a row."""
        if isinstance(heads, str):
            raise InvalidInputError(f"`heads` must be a list of names, got the text {heads!r}")
        known = list(self.heads)
        given = known if heads is None else list(heads)
        per_row = bool(given) and not isinstance(given[0], str)
        if any(isinstance(h, str) == per_row for h in given):
            raise InvalidInputError(f"`heads` must be names for all rows, or one list of names a row, got {given!r}")
        lists = [list(h) for h in given] if per_row else [given] * rows
        if len(lists) != rows:
            raise InvalidInputError(f"`heads` names heads for {len(lists)} rows, the batch has {rows}")
        unknown = sorted({str(n) for names in lists for n in names} - set(known))
        if unknown:
            raise InvalidInputError(
                f"no head is called {unknown[0]!r}; this model has {', '.join(map(repr, known)) or 'none'}"
            )
        return torch.tensor([[n in names for n in known] for names in lists], dtype=torch.bool).view(rows, len(known))

    @torch.no_grad()
    def next_token(
        self, logits: Float[Tensor, "m vocab"], pooled: Float[Tensor, "m d"], switched: Bool[Tensor, "m heads"]
    ) -> Float[Tensor, "m vocab"]:
        """Log-probabilities of the next token from the base's logits and pooled states."""
        switched = switched.to(logits.device)
        scores = []
        if self.guidance != 0 and switched.any():
            scores = [head(pooled) + head.offset for head in self.heads.values()]
        found = tilted_log_probs(logits, scores, switched, temperature=self.temperature, guidance=self.guidance)
        if found[:, :1].isnan().any():  # one logit that is no number spoils its whole row
            raise InvalidInputError("the model's logits are not all numbers; check the weights of base and heads")
        return found

    @torch.no_grad()
    def score(self, examples: Examples, *, heads: Any = None) -> AnswerScores:
        """Log-probability of every answer token given what stands before it, and whether it is the likeliest.

        Args:
            examples: questions with answers.
            heads: names of the heads that are on; all by default, none with [].
        """
        lengths = examples.answer_lengths
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        log_probs, hits = np.zeros(offsets[-1]), np.zeros(offsets[-1], dtype=bool)
        device = self.backbone.device
        for index in examples.batches(max(256, LOGITS // self.vocab_size)):
            batch = examples.batch(index).to(device)
            hidden, logits = self.backbone.outputs(batch.inputs, batch.mask, batch.scored)
            row = batch.scored.nonzero()[:, 0]
            switched = self.switches(heads, len(index)).to(device)[row]
            pooled = causal_mean(hidden, batch.mask)[batch.scored]
            out = self.next_token(logits, pooled, switched)
            targets = batch.targets[batch.scored]
            at = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in index])
            log_probs[at] = out.gather(1, targets[:, None])[:, 0].double().cpu().numpy()
            hits[at] = (out.argmax(-1) == targets).cpu().numpy()
        return AnswerScores(log_probs, hits, offsets)

    def generate(
        self,
        prompts: Any,
        *,
        max_new_tokens: int,
        heads: Any = None,
        mask: Any = None,
        end: int | Sequence[int] | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        beams: int = 1,
        length_penalty: float = 1.0,
        seed: int = 0,
        use_cache: bool = True,
    ) -> list[list[int]]:
        """Continue each prompt until its end token or `max_new_tokens`.

        Args:
            prompts: lists of token ids, or a (B, T) array or tensor with `mask`.
            max_new_tokens: longest answer.
            heads: names of the heads that are on: None for all, [] for the base, or one list for each prompt.
            mask: (B, T), zero at padding, which may be at the left or at the right.
            end: the token that ends a sequence, or several; by default the model's own (0 for models of this library),
                of which a Hugging Face model may have several.
            temperature: of sampling, beside T: 0 takes the likeliest token.
            top_k: draw among the k likeliest only.
            top_p: draw among the fewest tokens that hold this mass.
            beams: more than 1 searches for likely sequences.
            length_penalty: beams are compared by log-probability / length ** this.
            seed: of the draws.
            use_cache: False reads everything again for every token: slow, the same tokens.

        Returns:
            Token ids of each continuation, without the end.

        Raises:
            InvalidInputError: for options out of range, unknown heads, empty prompts.
        """
        choice = Choice(max_new_tokens, temperature, top_k, top_p, beams, length_penalty, seed)
        inputs, real = as_padded(prompts, mask, self.vocab_size)
        inputs, real = left_aligned(inputs.to(self.backbone.device), real.to(self.backbone.device))
        source = Tilted(self, inputs, real, self.switches(heads, len(inputs)), use_cache=use_cache)
        return decode(source, choice, ends=ends_of(self.base) if end is None else given_ends(end))

    @property
    def certificate_(self) -> Certificate:
        """What a model from `fit_temper_tilt` vouches for: base unchanged, answers forgotten, held-out prompts kept."""
        return self.certified()[0]

    def certified(self) -> tuple[Certificate, dict[str, np.ndarray]]:
        """`certificate_` with its evidence, for `certificate_.check(**evidence)`."""
        from corollary.unlearning._issue import certify_fit

        return certify_fit(self)

    # A `corollary.models.LanguageModel`, all heads on.

    def start(self, batch: int) -> "Tilted":
        """The state of `batch` sequences of which only the start token was read."""
        first = torch.full((batch, 1), start_of(self.base), dtype=torch.long, device=self.backbone.device)
        return Tilted(self, first, torch.ones_like(first, dtype=torch.bool), self.switches(None, batch))

    def next_log_probs(self, state: "Tilted") -> Float[np.ndarray, "b vocab"]:
        """(B, V) log-probabilities of the next token, normalised in float64."""
        return state.log_probs.double().log_softmax(-1).cpu().numpy()

    def advance(self, state: "Tilted", tokens: Integer[np.ndarray, " b"]) -> "Tilted":
        """The state after one more token of each; changes and returns the given state."""
        state.step(torch.as_tensor(np.asarray(tokens).astype(np.int64), device=self.backbone.device))
        return state

    def log_probs(self, documents: Documents) -> Float32[np.ndarray, " total"]:
        """(total,) log-probability of every token of whole documents, the first after the start token."""
        found = np.zeros(len(documents.tokens), dtype=np.float32)
        filled = np.flatnonzero(documents.lengths > 0)
        if len(filled):
            chosen = documents.select(filled)
            tokens = [chosen.tokens[a:b] for a, b in zip(chosen.offsets[:-1], chosen.offsets[1:], strict=True)]
            first = [[start_of(self.base)]] * len(tokens)
            found[:] = self.score(Examples.from_tokens(first, tokens)).log_probs
        return found

    def fingerprint(self) -> str:
        """SHA-256 of the base and the heads."""
        from corollary.unlearning._saving import fingerprint_of

        return fingerprint_of(self)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the heads and their settings, with the base's hash; the base itself stays where it is."""
        from corollary.unlearning._saving import save_heads

        save_heads(self, folder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, base: Any) -> "TemperTiltModel":
        """Heads that `save_pretrained` wrote, on the base they were fitted on; another base is refused."""
        from corollary.unlearning._saving import load_heads

        return load_heads(folder, base)

    def save(self, folder: str | Path) -> None:
        """Write base and heads to one folder, for `corollary.models.load`; the base must be of this library."""
        from corollary.unlearning._saving import save_whole

        save_whole(self, folder)


class Tilted:
    """A batch being written: the base's stream, running sums of its states, and the tilted distribution."""

    def __init__(
        self,
        model: TemperTiltModel,
        inputs: Int[Tensor, "b t"],
        mask: Bool[Tensor, "b t"],
        switched: Bool[Tensor, "b heads"],
        *,
        use_cache: bool = True,
    ) -> None:
        self.model, self.switched = model, switched.to(inputs.device)
        backbone = model.backbone
        self.stream: Stream = backbone.open(inputs, mask) if use_cache else Rereading(backbone, inputs, mask)
        kind = torch.float64 if backbone.dtype == torch.float64 else torch.float32
        self.sum = (self.stream.hidden.to(kind) * mask[..., None]).sum(1)
        self.count = mask.sum(1, keepdim=True).to(kind)
        self._tilt()

    def _tilt(self) -> None:
        self.log_probs = self.model.next_token(self.stream.logits, self.sum / self.count, self.switched)

    def step(self, tokens: Int[Tensor, " b"]) -> None:
        """Append a token to each sequence."""
        self.stream.step(tokens)
        self.sum, self.count = self.sum + self.stream.hidden[:, -1].to(self.sum), self.count + 1
        self._tilt()

    def select(self, index: Int[Tensor, " k"]) -> None:
        """Go on with these rows."""
        self.stream.select(index)
        self.sum, self.count, self.switched = self.sum[index], self.count[index], self.switched[index]
        self.log_probs = self.log_probs[index]


class Rereading(Stream):
    """A stream without a cache: every step reads everything again; the slow reference."""

    def __init__(self, backbone: Backbone, inputs: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> None:
        self.backbone, self.inputs, self.mask = backbone, inputs, mask
        self._read()

    @torch.no_grad()
    def _read(self) -> None:
        # Padding at the right for reading: our own models know no mask, and causal ones need none there.
        order = (~self.mask).long().argsort(dim=1, stable=True)
        inputs, mask = self.inputs.gather(1, order), self.mask.gather(1, order)
        last = torch.zeros_like(mask).scatter(1, mask.sum(1, keepdim=True) - 1, value=True)
        hidden, self.logits = self.backbone.outputs(inputs, mask, last)
        self.hidden = hidden.gather(1, order.argsort(dim=1)[..., None].expand_as(hidden))

    def step(self, tokens: Int[Tensor, " b"]) -> None:
        self.inputs = torch.cat([self.inputs, tokens[:, None]], dim=1)
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], dim=1)
        self._read()

    def select(self, index: Int[Tensor, " k"]) -> None:
        self.inputs, self.mask = self.inputs[index], self.mask[index]
        self.hidden, self.logits = self.hidden[index], self.logits[index]


def as_padded(prompts: Any, mask: Any, vocab_size: int) -> tuple[Int[Tensor, "b t"], Bool[Tensor, "b t"]]:
    """Prompts as a (B, T) tensor of ids with its mask."""
    if mask is None and not hasattr(prompts, "shape"):
        try:
            rows: Sequence[Sequence[int]] = [[int(t) for t in row] for row in prompts]
        except (TypeError, ValueError):
            raise InvalidInputError(
                "`prompts` must be lists of token ids, one list a prompt; encode texts with the model's own tokenizer"
            ) from None
        longest = max((len(row) for row in rows), default=0)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows]).view(len(rows), longest)
        prompts = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], dtype=torch.long)
    inputs = torch.as_tensor(prompts)
    real = torch.ones_like(inputs, dtype=torch.bool) if mask is None else torch.as_tensor(mask).bool()
    if inputs.ndim != 2 or inputs.shape != real.shape or not len(inputs) or not real.any(1).all():
        raise InvalidInputError(
            f"`prompts` must be (B, T) token ids, each row with a token that is no padding, got shape "
            f"{tuple(inputs.shape)}; an empty prompt is its start token alone"
        )
    if inputs.is_floating_point() or inputs[real].min() < 0 or inputs[real].max() >= vocab_size:
        raise InvalidInputError(f"`prompts` must hold tokens from 0 to {vocab_size - 1}; use the model's own tokenizer")
    return inputs.long(), real


def given_ends(end: Any) -> tuple[int, ...]:
    """One end or several, as several."""
    found = tuple(dict.fromkeys(int(e) for e in (end if isinstance(end, (list, tuple)) else [end])))
    if not found:
        raise InvalidInputError("`end` names no token; give one, or None for the model's own")
    return found


def ends_of(base: Any, end: int | None = None) -> tuple[int, ...]:
    """The tokens that end a sequence: a given one, then those that a Hugging Face model names; else 0."""
    named = [getattr(getattr(base, part, None), "eos_token_id", None) for part in ("config", "generation_config")]
    found = [e for told in (end, *named) if told is not None for e in given_ends(told)]
    return given_ends(found or [0])


def end_of(base: Any) -> int:
    """The token that ends a sequence of this model, the first where it has several."""
    return ends_of(base)[0]


def start_of(base: Any) -> int:
    """The token that starts a sequence of this model."""
    found = getattr(getattr(base, "config", None), "bos_token_id", None)
    return end_of(base) if found is None else int(found)
