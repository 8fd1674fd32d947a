r"""Training a head on cached states: retain against forget, token by token, classes balanced in sequences.

.. math:: L = \frac{1}{M} \sum_{tokens} \mathrm{BCE}(\ell_t[x_{t+1}], y), \qquad y = 1 \text{ retain}, 0 \text{ forget}

The forget set is the anchor: an epoch goes over it once, each of its batches paired with as many sequences to retain,
drawn uniformly. The classifier therefore estimates the balanced posterior; with `share` = gamma, the share of what
is to be forgotten in the base's training data, \(b = \log\frac{1 - \gamma}{\gamma}\) corrects for it.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch.nn import functional

from corollary.certificates import refuse_reuse
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.models import _storage
from corollary.unlearning._backbone import backbone_of
from corollary.unlearning._cache import PooledStates, cache_states
from corollary.unlearning._examples import Examples, check_sets
from corollary.unlearning._head import TemperTiltHead
from corollary.unlearning._model import TemperTiltModel

_KIND = "temper-tilt-checkpoint"


@dataclass(frozen=True)
class HeadTraining:
    """Hyper-parameters of a head; the defaults are of the order of the official sweep.

    Args:
        rank: m.
        layers: hidden layers.
        activation: identity, relu, gelu or tanh.
        epochs: over the forget set.
        batch_size: sequences of each set in a batch.
        learning_rate: the highest of AdamW.
        weight_decay: of AdamW.
        warm_up: share of the steps in which the rate rises; then it falls linearly.
        share: gamma, for the prior correction; None leaves the balanced posterior, as the official code does.
        seed: of first weights, order and pairing.

    Guarantee: none.

    Example:
        >>> HeadTraining(rank=50).epochs
        100
    """

    rank: int = 20
    layers: int = 1
    activation: str = "identity"
    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-2
    weight_decay: float = 1e-2
    warm_up: float = 0.25
    share: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not self.learning_rate > 0 or not 0 <= self.warm_up <= 1:
            raise InvalidInputError(
                f"epochs, batch size and learning rate must be positive and the warm-up a share, got {self}"
            )
        if self.share is not None and not 0 < self.share < 1:
            raise InvalidInputError(f"`share` must lie between 0 and 1, got {self.share}; it is forget / all tokens")

    @property
    def offset(self) -> float:
        """b, the prior correction."""
        return 0.0 if self.share is None else math.log((1 - self.share) / self.share)


@dataclass(frozen=True)
class HeadFit:
    """A trained head and what it took.

    Args:
        head: the head.
        seconds: of training on cached states.
        caching: seconds of the pass that made them.
        losses: mean log-loss of every epoch.

    Guarantee: none.

    Example:
        >>> HeadFit(head=None, seconds=0.5, caching=2.0, losses=(0.7, 0.1)).losses[-1]
        0.1
    """

    head: Any
    seconds: float
    caching: float
    losses: tuple[float, ...] = field(default=(), repr=False)


def pairing(forget: int, retain: int, training: HeadTraining) -> tuple[np.ndarray, np.ndarray]:
    """(E, F) order of the forget set in each epoch, and the sequence to retain that goes with each.

    Guarantee: the same settings give the same pairs.

    Example:
        >>> order, partners = pairing(2, 5, HeadTraining(epochs=3))
        >>> order.shape, bool((partners < 5).all())
        ((3, 2), True)
    """
    rng = np.random.default_rng([training.seed, 7])
    order = np.stack([rng.permutation(forget) for _ in range(training.epochs)])
    return order, rng.integers(0, retain, order.shape)


def train_head(
    forget: PooledStates,
    retain: PooledStates,
    *,
    vocab_size: int,
    training: HeadTraining | None = None,
    folder: str | Path | None = None,
    partners: Any = None,
    device: Any = "cpu",
    progress: Callable[[int, int], object] | None = None,
) -> HeadFit:
    """Train a head on cached states; only the rows of W_2 of tokens that occur are touched.

    Args:
        forget: states of the sequences to forget.
        retain: states of sequences to retain.
        vocab_size: V.
        training: the hyper-parameters.
        folder: where checkpoints go; the same call then goes on where it stopped.
        partners: (E, F) sequences to retain that go with the forget ones; drawn by default.
        device: where to train.
        progress: called with epochs done and their number.

    Returns:
        The head and what it took.

    Raises:
        InvalidInputError: for a loss that is not finite, or the checkpoint of another run.

    Guarantee: a killed run taken up again ends with the same head, bit for bit, on the same machine and threads.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> sides = [rng.normal(m, 1, (40, 4)).astype(np.float16) for m in (-1, 1)]
        >>> given = [PooledStates(x, np.full(40, 3), np.arange(0, 41, 4), 0.0) for x in sides]
        >>> fit = train_head(*given, vocab_size=8, training=HeadTraining(rank=2, epochs=200))
        >>> fit.losses[-1] < 0.3
        True

    Reference: arXiv:2602.10217 (abstract read; the authors' code by the notes).
    """
    training = training or HeadTraining()
    head = TemperTiltHead(
        forget.states.shape[1],
        vocab_size,
        rank=training.rank,
        layers=training.layers,
        activation=training.activation,
        offset=training.offset,
        seed=training.seed,
    ).to(device)
    order, drawn = pairing(len(forget.offsets) - 1, len(retain.offsets) - 1, training)
    partners = drawn if partners is None else np.asarray(partners)
    run = _Run(head, training, folder, steps=training.epochs * -(-order.shape[1] // training.batch_size))
    begun = time.perf_counter()
    while run.epoch < training.epochs:
        e, size = run.epoch, training.batch_size
        losses = []
        for at in range(0, order.shape[1], size):
            batch = _gather(forget, order[e, at : at + size]), _gather(retain, partners[e, at : at + size])
            losses.append(run.update(batch, device))
        run.finish_epoch(float(np.mean(losses)))
        if progress is not None:
            progress(run.epoch, training.epochs)
    return HeadFit(head.eval(), run.seconds + time.perf_counter() - begun, 0.0, tuple(run.losses))


def _gather(data: PooledStates, sequences: Int[np.ndarray, " b"]) -> tuple[np.ndarray, np.ndarray]:
    rows = data.rows(sequences)
    return np.asarray(data.states[rows]), data.tokens[rows]


class _Run:
    """A head in training, with all that a killed run needs."""

    def __init__(self, head: TemperTiltHead, training: HeadTraining, folder: str | Path | None, *, steps: int) -> None:
        self.head, self.training, self.folder, self.steps = head, training, folder, steps
        self.weights = list(head.parameters())
        self.optimizer = torch.optim.AdamW(self.weights, lr=training.learning_rate, weight_decay=training.weight_decay)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.losses: list[float] = []
        self.begun = time.perf_counter()
        self.identity = _storage.fingerprint({**asdict(training), "width": head.width, "vocab": head.vocab_size}, {})
        self._resume()

    def update(self, batch: tuple[tuple[np.ndarray, np.ndarray], ...], device: Any) -> float:
        """One step; the loss before it."""
        (lost, lost_tokens), (kept, kept_tokens) = batch
        first = max(1, math.ceil(self.training.warm_up * self.steps))
        rate = min((self.step + 1) / first, (self.steps - self.step) / max(1, self.steps - first))
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.learning_rate * rate
        pooled = torch.from_numpy(np.concatenate([lost, kept])).to(device)
        tokens = torch.from_numpy(np.concatenate([lost_tokens, kept_tokens])).to(device)
        y = torch.zeros(len(tokens), device=device)
        y[len(lost_tokens) :] = 1
        loss = functional.binary_cross_entropy_with_logits(self.head.chosen(pooled, tokens), y)
        if not torch.isfinite(loss):
            raise InvalidInputError(f"the loss is {loss.item()} at step {self.step}; lower `learning_rate`")
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def finish_epoch(self, loss: float) -> None:
        """Count the epoch; every tenth is written down."""
        self.epoch += 1
        self.losses.append(loss)
        if self.folder is not None and (self.epoch % 10 == 0 or self.epoch == self.training.epochs):
            self._save()

    def _save(self) -> None:
        arrays = {}
        for i, p in enumerate(self.weights):
            state = self.optimizer.state[p]
            arrays[f"weight{i}"], arrays[f"mean{i}"] = p.detach(), state["exp_avg"]
            arrays[f"square{i}"] = state["exp_avg_sq"]
        header = {
            "kind": _KIND,
            "run": self.identity,
            "epoch": self.epoch,
            "step": self.step,
            "losses": self.losses,
            "seconds": self.seconds + time.perf_counter() - self.begun,
        }
        assert self.folder is not None
        _storage.write_model(self.folder, header, {k: v.cpu().numpy() for k, v in arrays.items()})

    def _resume(self) -> None:
        if self.folder is None or not (Path(self.folder) / "model.json").exists():
            return
        header = _storage.read_header(self.folder)
        if header["kind"] != _KIND or header.get("run") != self.identity:
            raise InvalidInputError(
                f"{self.folder} holds a model or the checkpoint of another run; give an empty folder"
            )
        arrays = _storage.read_arrays(self.folder, header)
        try:
            self.epoch, self.step = int(header["epoch"]), int(header["step"])
            self.losses, self.seconds = [float(x) for x in header["losses"]], float(header["seconds"])
            with torch.no_grad():
                for i, p in enumerate(self.weights):
                    p.copy_(torch.from_numpy(arrays[f"weight{i}"]))
                    self.optimizer.state[p] = {
                        "step": torch.tensor(float(self.step)),
                        "exp_avg": torch.from_numpy(arrays[f"mean{i}"]).to(p),
                        "exp_avg_sq": torch.from_numpy(arrays[f"square{i}"]).to(p),
                    }
        except (KeyError, TypeError, ValueError, RuntimeError):
            path = Path(self.folder) / "model.json"
            raise InvalidFileError(path, "not a whole checkpoint", "give an empty folder") from None


def fit_temper_tilt(
    model: Any,
    forget: Examples,
    retain: Examples,
    *,
    name: str = "forgotten",
    temperature: float = 1.0,
    guidance: float = 1.0,
    training: HeadTraining | None = None,
    held_out: Examples | None = None,
    paraphrases: Examples | None = None,
    retain_limit: int | None = None,
    folder: str | Path | None = None,
    progress: Callable[[str, float], object] | None = None,
    **options: Any,
) -> TemperTiltModel:
    r"""Fit a head that makes a frozen model forget; the model's weights are not touched.

    .. math:: out_t[v] = \log p(v \mid x_{\le t}) / T + s \log \sigma(\ell_t[v] + b)

    Args:
        model: a Hugging Face causal model, any `LanguageModel`, or a `TemperTiltModel`, which gets a further head.
        forget: what to forget.
        retain: what to keep; at best what the base was trained on beside the forget set, in the same style.
        name: of the head, by which it is switched on and off.
        temperature: T, of the outputs; 1 only tilts. Raise it for what is memorised hard: choose it by `forget_quality`
            on a slice of the forget set that is not reported.
        guidance: s.
        training: the hyper-parameters; or give them one by one, as in `HeadTraining`.
        held_out: sequences to retain that are not trained on; `certificate_` then speaks of them, too.
        paraphrases: other words for what is to be forgotten, not trained on; `certificate_` then speaks of them, too.
        retain_limit: cache at most so many sequences to retain (and never more than will be drawn).
        folder: cache (fp16) and checkpoints on disk; the same call goes on where it stopped.
        progress: called with what is being done and the share done.
        options: fields of `HeadTraining`.

    Returns:
        The model with its head; `model.fits[name]` says what it took, `model.certificate_` what it can vouch for.

    Raises:
        InvalidInputError: for an empty forget or retain set, sets that overlap, tokens of another tokenizer, a name
            taken.

    Guarantee: the base's weights stay as they are, bit for bit. What is forgotten is measured and certified
        afterwards, not promised here.

    Example:
        >>> from corollary.models import TransformerConfig, TransformerLM
        >>> from corollary.unlearning import ByteTokenizer, Examples
        >>> base = TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=16))
        >>> pairs = [{"question": q, "answer": "yes"} for q in "abcd"]
        >>> examples = Examples.from_pairs(pairs, ByteTokenizer())
        >>> model = fit_temper_tilt(base, examples.select([0]), examples.select([1, 2, 3]), rank=2, epochs=2)
        >>> list(model.heads), model.fits["forgotten"].head.rank
        (['forgotten'], 2)

    Reference: arXiv:2602.10217 (abstract read; the authors' code by the notes).
    """
    training = training or HeadTraining(**options)
    tell = progress or (lambda what, share: None)
    earlier = model if isinstance(model, TemperTiltModel) else None
    base = earlier.base if earlier is not None else model
    if earlier is not None and name in earlier.heads:
        raise InvalidInputError(f"the model has a head {name!r} already; give another `name`")
    backbone = earlier.backbone if earlier is not None else backbone_of(base)
    check_sets(forget, retain, backbone.vocab_size)
    if held_out is not None:
        refuse_reuse(held_out.hashes(), training=retain.hashes())
    if paraphrases is not None:
        refuse_reuse(paraphrases.hashes(), training=forget.hashes())
    before = backbone.fingerprint()
    _, partners = pairing(len(forget), len(retain), training)
    drawn, partners = _limited(partners, retain_limit, training.seed)
    place = Path(folder) if folder is not None else None
    states = []
    for part, examples in (("forget", forget), ("retain", retain.select(drawn))):
        where = place / part if place is not None else None
        states.append(
            cache_states(
                backbone, examples, folder=where, progress=lambda i, n, part=part: tell(f"states: {part}", i / n)
            )
        )
    fit = train_head(
        *states,
        vocab_size=backbone.vocab_size,
        training=training,
        folder=place / "head" if place is not None else None,
        partners=partners,
        device=backbone.device,
        progress=lambda i, n: tell("training the head", i / n),
    )
    heads = dict(earlier.heads) if earlier is not None else {}
    fitted = TemperTiltModel(base, heads | {name: fit.head}, temperature=temperature, guidance=guidance)
    fitted.fits = dict(earlier.fits) if earlier is not None else {}
    fitted.given = {"forget": forget, "retain": retain, "held_out": held_out, "paraphrases": paraphrases}
    fitted.given["base_before"] = before
    fitted.fits[name] = HeadFit(fit.head, fit.seconds, sum(s.seconds for s in states), fit.losses)
    return fitted


def _limited(
    partners: Int[np.ndarray, "e f"], limit: int | None, seed: int
) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, "e f"]]:
    """The sequences to retain that will be drawn, at most `limit`, and the pairs renumbered accordingly."""
    drawn = np.unique(partners)
    if limit is not None and len(drawn) > limit:
        rng = np.random.default_rng([seed, 8])
        drawn = np.sort(rng.choice(drawn, max(1, limit), replace=False))
        return drawn, rng.integers(0, len(drawn), partners.shape)
    return drawn, np.searchsorted(drawn, partners)
