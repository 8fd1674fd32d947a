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

from corollary.errors import InvalidFileError, InvalidInputError
from corollary.models import _storage
from corollary.unlearning._cache import PooledStates
from corollary.unlearning._head import TemperTiltHead

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
    steps = training.epochs * -(-order.shape[1] // training.batch_size)
    run = _Run(head, training, folder, steps=steps, data=_identity(forget, retain, partners))
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


def _identity(forget: PooledStates, retain: PooledStates, partners: Int[np.ndarray, "e f"]) -> str:
    """What the data are: tokens, lengths and pairs; of the states, which may fill a disk, the first and the last."""
    arrays = {"partners": partners}
    for name, data in (("forget", forget), ("retain", retain)):
        ends = np.asarray(data.states[[0, -1]]) if len(data.states) else np.zeros((0, 0), np.float16)
        arrays |= {f"{name} tokens": data.tokens, f"{name} offsets": data.offsets, f"{name} states": ends}
    return _storage.fingerprint({}, arrays)


def _gather(data: PooledStates, sequences: Int[np.ndarray, " b"]) -> tuple[np.ndarray, np.ndarray]:
    rows = data.rows(sequences)
    return np.asarray(data.states[rows]), data.tokens[rows]


class _Run:
    """A head in training, with all that a killed run needs."""

    def __init__(
        self, head: TemperTiltHead, training: HeadTraining, folder: str | Path | None, *, steps: int, data: str
    ) -> None:
        self.head, self.training, self.folder, self.steps = head, training, folder, steps
        self.weights = list(head.parameters())
        self.optimizer = torch.optim.AdamW(self.weights, lr=training.learning_rate, weight_decay=training.weight_decay)
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.losses: list[float] = []
        self.begun = time.perf_counter()
        asked = {**asdict(training), "width": head.width, "vocab": head.vocab_size, "data": data}
        self.identity = _storage.fingerprint(asked, {})
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
