r"""Pooled states of answers, computed once: fp16, in memory or on disk, of no more sequences than will be sampled."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float16, Int

from corollary.errors import InvalidInputError
from corollary.runs import read_json, write_json
from corollary.unlearning._backbone import Backbone
from corollary.unlearning._examples import Examples
from corollary.unlearning._head import causal_mean

Progress = Callable[[int, int], object]


@dataclass(frozen=True, eq=False)
class PooledStates:
    """The rows that a head is trained on.

    Args:
        states: (M, d) pooled states at which an answer token comes next, fp16; a memory map where they lie on disk.
        tokens: (M,) that token.
        offsets: (N + 1,) where each sequence begins.
        seconds: what computing them took.

    Guarantee: none; fp16 keeps about three digits.

    Example:
        >>> PooledStates(np.zeros((2, 3), np.float16), np.array([5, 0]), np.array([0, 2]), 0.1).bytes
        12
    """

    states: Float16[np.ndarray, "m d"]
    tokens: Int[np.ndarray, " m"]
    offsets: Int[np.ndarray, " n_plus_1"]
    seconds: float

    @property
    def bytes(self) -> int:
        """Size of the states."""
        return int(self.states.nbytes)

    def rows(self, sequences: Int[np.ndarray, " b"]) -> Int[np.ndarray, " r"]:
        """Indices of the rows of these sequences, in order."""
        first, lengths = self.offsets[sequences], np.diff(self.offsets)[sequences]
        before = np.cumsum(lengths) - lengths
        return np.repeat(first - before, lengths) + np.arange(lengths.sum())


def cache_states(
    backbone: Backbone,
    examples: Examples,
    *,
    folder: Path | None = None,
    batch_tokens: int = 8192,
    progress: Progress | None = None,
) -> PooledStates:
    """One forward pass over the sequences; with a folder the rows go to disk as they come, and are found again there.

    Args:
        backbone: the frozen model.
        examples: the sequences.
        folder: where to keep `states.npy`; in memory where None.
        batch_tokens: tokens in a forward pass, padding included.
        progress: called with sequences done and their number.

    Raises:
        InvalidInputError: where a state is too large for fp16, or the folder holds something else.
        OSError: where the disk is too small, before any state is computed.

    Guarantee: none; the cache of a folder is used again only for the same model and the same examples.

    Example:
        >>> from corollary.models import TransformerConfig, TransformerLM
        >>> from corollary.unlearning import ByteTokenizer
        >>> from corollary.unlearning._backbone import backbone_of
        >>> model = TransformerLM(TransformerConfig(width=16, layers=1, heads=2, context=16))
        >>> examples = Examples.from_pairs([{"question": "a", "answer": "bc"}], ByteTokenizer())
        >>> cache_states(backbone_of(model), examples).states.shape
        (3, 16)
    """
    lengths = examples.answer_lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    shape, tokens = (int(offsets[-1]), backbone.width), np.zeros(offsets[-1], dtype=np.int64)
    for i in range(len(examples)):
        tokens[offsets[i] : offsets[i + 1]] = examples.sequence(i)[examples.answers[i] :]
    if folder is None:
        states: Any = np.zeros(shape, dtype=np.float16)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        identity = {"base": backbone.fingerprint(), "examples": examples.digest(), "shape": list(shape)}
        path, mark = folder / "states.npy", folder / "states.json"
        if mark.exists():
            kept = read_json(mark)
            if {k: kept.get(k) for k in identity} == identity and path.exists():
                found = np.load(path, mmap_mode="r", allow_pickle=False)
                return PooledStates(found, tokens, offsets, float(kept["seconds"]))
            raise InvalidInputError(
                f"{folder} holds states of another model or other examples ({json.dumps(identity)[:60]}...); "
                "give an empty folder"
            )
        states = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
        _reserve(path)
    begun, done = time.perf_counter(), 0
    for index in examples.batches(batch_tokens):
        batch = examples.batch(index).to(backbone.device)
        with torch.no_grad():
            pooled = causal_mean(backbone.hidden(batch.inputs, batch.mask), batch.mask)[batch.scored]
        half = pooled.half().cpu().numpy()
        if not np.isfinite(half).all():
            raise InvalidInputError("a hidden state is too large for fp16, or not finite; check the model")
        at = np.concatenate([np.arange(offsets[i], offsets[i + 1]) for i in index])
        states[at] = half
        done += len(index)
        if progress is not None:
            progress(done, len(examples))
    seconds = time.perf_counter() - begun
    if folder is not None:
        states.flush()
        write_json(mark, {**identity, "seconds": seconds})
        states = np.load(path, mmap_mode="r", allow_pickle=False)
    return PooledStates(states, tokens, offsets, seconds)


def _reserve(path: Path) -> None:
    """Take the space now: a memory map that meets a full disk later ends the process without a word."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
