"""Training a causal network so that a killed run, taken up again, ends with the same weights."""

import math
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import nn
from torch.nn import functional

from corollary.documents import Documents
from corollary.errors import InvalidFileError, InvalidInputError
from corollary.models import _storage
from corollary.models._ngram_tables import with_ends
from corollary.models._windows import previous_tokens, training_windows
from corollary.optim import make_optimizer, pack_state, unpack_state

_KIND = "training-checkpoint"


def train(
    model: Any,
    documents: Documents,
    *,
    steps: int,
    batch_tokens: int = 4096,
    lr: float = 2e-3,
    seed: int = 0,
    validation: Documents | None = None,
    patience: int = 5,
    evaluate_every: int = 50,
    checkpoint_folder: str | Path | None = None,
    checkpoint_every: int = 50,
    progress: Callable[[int, float], object] | None = None,
    optimizer: str = "adamw",
) -> None:
    """Train a model in place: mean log-loss per token and end, AdamW or another, warm-up and cosine, clipped gradients.

    `lr(s) = lr min(1, (s + 1) / warm-up) (1 + cos(pi s / steps)) / 2`, the warm-up being a twentieth of the
    steps.

    Args:
        model: a `TransformerLM`, new or trained before.
        documents: what to learn from, at least one token.
        steps: updates; 500 suit some 100 kB of text.
        batch_tokens: tokens of a batch, padding included.
        lr: highest step size.
        seed: of the order of the batches.
        validation: documents whose log-loss is watched; the best weights are kept at the end.
        patience: evaluations without a better log-loss before it stops early.
        evaluate_every: steps between evaluations.
        checkpoint_folder: where to write what a killed run needs; the same call then continues it.
        checkpoint_every: steps between checkpoints.
        progress: called with the number of steps done and the loss of the last.
        optimizer: a name of `corollary.optim.make_optimizer`, e.g. "leon", at the same `lr`.

    Raises:
        InvalidInputError: for documents without tokens or with foreign ones, numbers out of range, a loss
            that is not finite, or a folder that holds the checkpoint of another run.
        InvalidFileError: for a checkpoint that cannot be read.

    Guarantee: a run that was killed and is called again with the same arguments on the same machine and
    number of threads ends with the same weights, bit for bit. Nothing is said about the quality of the fit.

    Example:
        >>> from corollary.documents import Documents
        >>> from corollary.models import TransformerConfig, TransformerLM, train
        >>> model = TransformerLM(TransformerConfig(width=32, layers=1, heads=2, context=16))
        >>> losses = []
        >>> documents = Documents.from_texts(["to be"])
        >>> train(model, documents, steps=9, progress=lambda step, loss: losses.append(loss))
        >>> losses[-1] < losses[0]
        True
    """
    if min(steps, batch_tokens, patience, evaluate_every, checkpoint_every) < 1 or not 0 < lr < math.inf:
        raise InvalidInputError(
            "steps, batch_tokens, patience, evaluate_every, checkpoint_every and lr must be positive, got "
            f"{steps}, {batch_tokens}, {patience}, {evaluate_every}, {checkpoint_every}, {lr}"
        )
    for given in (documents, validation):
        if given is not None and not len(check_tokens(given, model.vocab_size)):
            raise InvalidInputError("documents without a token were given; train and validate on at least one")
    settings = {
        "settings": [steps, batch_tokens, lr, seed, patience, evaluate_every],
        "documents": [documents.digest(), validation.digest() if validation is not None else None],
        "start": model.fingerprint(),
    }
    if optimizer != "adamw":
        settings["optimizer"] = optimizer
    run = _Run(model, lr=lr, settings=settings, folder=checkpoint_folder, optimizer=optimizer, seed=seed)
    run.resume()

    learned = with_ends(documents)
    inputs, targets = (
        torch.from_numpy(previous_tokens(learned)),
        torch.from_numpy(learned.tokens.astype(np.int64)),
    )
    windows = training_windows(learned, model.config.context)
    device, warm_up = next(model.parameters()).device, max(1, steps // 20)
    for chosen in islice(windows.shuffled_batches(batch_tokens, seed), run.step, steps):
        if validation is not None and run.waited >= patience:
            break
        step = run.step
        rate = lr * min(1.0, (step + 1) / warm_up) * (1 + math.cos(math.pi * step / steps)) / 2
        at, scored = (torch.from_numpy(a) for a in windows.gather(chosen))
        logits = model(inputs[at].to(device))[scored.to(device)]
        loss = functional.cross_entropy(logits, targets[at[scored]].to(device))
        run.update(loss, rate)
        if validation is not None and (run.step % evaluate_every == 0 or run.step == steps):
            run.judge(-float(model.log_probs(validation).mean(dtype=np.float64)))
        if run.step % checkpoint_every == 0 or run.step == steps:
            run.save()
        if progress is not None:
            progress(run.step, loss.item())
    run.finish()


class _Run:
    """What a run remembers between steps, all of it in its checkpoint."""

    def __init__(
        self,
        model: nn.Module,
        *,
        lr: float,
        settings: dict[str, Any],
        folder: str | Path | None,
        optimizer: str,
        seed: int,
    ) -> None:
        self.model, self.folder = model, folder
        self.names, self.weights = zip(*model.named_parameters(), strict=True)
        self.plain = optimizer == "adamw"
        if self.plain:
            decayed = [{"params": [p], "weight_decay": 0.1 if p.ndim == 2 else 0.0} for p in self.weights]
            self.optimizer = make_optimizer("adamw", decayed, lr=lr, betas=(0.9, 0.95))
        else:
            fused = {"qkv": 3, "gate_up": 2} if any(".qkv." in name for name in self.names) else None
            own: dict[str, Any] = {"seed": seed} | ({"splits": fused} if optimizer != "adam" else {})
            self.optimizer = make_optimizer(optimizer, model, lr=lr, weight_decay=0.1, betas=(0.9, 0.95), **own)
        self.identity = _storage.fingerprint(settings, {})
        self.step, self.waited, self.best_loss = 0, 0, math.inf
        self.best: list[torch.Tensor] | None = None

    def update(self, loss: torch.Tensor, rate: float) -> None:
        if not torch.isfinite(loss):
            raise InvalidInputError(f"the loss is {loss.item()} at step {self.step}; lower `lr`")
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        self.step += 1

    def judge(self, loss: float) -> None:
        if loss < self.best_loss:
            self.best_loss, self.waited = loss, 0
            self.best = [p.detach().clone() for p in self.weights]
        else:
            self.waited += 1

    def finish(self) -> None:
        if self.best is not None:
            _copy(self.weights, self.best)

    def save(self) -> None:
        if self.folder is None:
            return
        arrays = {}
        for i, (name, p) in enumerate(zip(self.names, self.weights, strict=True)):
            arrays[f"weight.{name}"] = p.detach()
            if self.plain:
                state = self.optimizer.state[p]
                arrays[f"mean.{name}"], arrays[f"square.{name}"] = state["exp_avg"], state["exp_avg_sq"]
            if self.best is not None:
                arrays[f"best.{name}"] = self.best[i]
        header = {
            "kind": _KIND,
            "run": self.identity,
            "step": self.step,
            "waited": self.waited,
            "best_loss": self.best_loss if self.best is not None else None,
        }
        if not self.plain:
            tensors, header["optimizer"] = pack_state(self.optimizer)
            arrays |= {f"optimizer.{name}": a for name, a in tensors.items()}
        _storage.write_model(self.folder, header, {name: a.cpu().numpy() for name, a in arrays.items()})

    def resume(self) -> None:
        if self.folder is None or not (Path(self.folder) / "model.json").exists():
            return
        path, header = Path(self.folder) / "model.json", _storage.read_header(self.folder)
        if header["kind"] != _KIND or header.get("run") != self.identity:
            raise InvalidInputError(
                f"{self.folder} holds a model or the checkpoint of another run; give an empty `checkpoint_folder`"
            )
        arrays = _storage.read_arrays(self.folder, header)
        states = {name: arrays.pop(name) for name in list(arrays) if name.startswith("optimizer.")}
        parts = ["weight", *(["mean", "square"] if self.plain else [])] + ["best"] * (
            header.get("best_loss") is not None
        )
        expected = {
            f"{part}.{n}": tuple(p.shape) for part in parts for n, p in zip(self.names, self.weights, strict=True)
        }
        if {name: a.shape for name, a in arrays.items()} != expected:
            raise InvalidFileError(path, "its weights are not those of this model", "give an empty folder")
        try:
            self.step, self.waited = int(header["step"]), int(header["waited"])
            self.best_loss = math.inf if header["best_loss"] is None else float(header["best_loss"])
        except (KeyError, TypeError, ValueError):
            raise InvalidFileError(path, "not a whole checkpoint", "give an empty folder") from None

        def part(kind: str) -> list[torch.Tensor]:
            return [
                torch.from_numpy(arrays[f"{kind}.{name}"]).to(p)
                for name, p in zip(self.names, self.weights, strict=True)
            ]

        _copy(self.weights, part("weight"))
        self.best = part("best") if "best" in parts else None
        if not self.plain:
            try:
                unpack_state(
                    self.optimizer, {n.partition(".")[2]: _tensor(n, a) for n, a in states.items()}, header["optimizer"]
                )
            except (KeyError, TypeError, ValueError):
                raise InvalidFileError(path, "not a whole checkpoint", "give an empty folder") from None
            return
        for p, mean, square in zip(self.weights, part("mean"), part("square"), strict=True):
            count = torch.tensor(float(self.step))
            self.optimizer.state[p] = {"step": count, "exp_avg": mean, "exp_avg_sq": square}


def _tensor(name: str, array: np.ndarray) -> torch.Tensor:
    """A tensor of an optimizer's state; counters come back from files as vectors of one."""
    return torch.from_numpy(array).reshape(()) if name.endswith("/step") else torch.from_numpy(array)


def _copy(weights: Any, values: list[torch.Tensor]) -> None:
    with torch.no_grad():
        for p, value in zip(weights, values, strict=True):
            p.copy_(value)


def check_tokens(documents: Documents, vocab_size: int) -> Shaped[np.ndarray, " total"]:
    """The tokens, refused where the model has no such."""
    tokens = documents.tokens
    if len(tokens) and (tokens.min() < 0 or tokens.max() >= vocab_size):
        raise InvalidInputError(
            f"the model knows tokens 0 to {vocab_size - 1}, got {tokens.min()} to {tokens.max()}; use its tokenizer"
        )
    return tokens
