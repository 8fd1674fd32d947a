"""Sums and mixtures of log-probabilities: tables of the next token, bits of whole documents."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from corollary.documents import Documents
from corollary.gating._prefix_gates import log_mix

TINY = 1e-290
SINGLE_TINY = 1e-30  # in float32, well above where numbers lose digits
SINGLE = ("torch.float32", "torch.bfloat16", "torch.float16")  # weights whose tables are no more exact than float32
SMALL = 4096  # numbers of a table below which calling torch costs more than it saves


def truncate_weights(log_weights: Float[np.ndarray, "b k"], top: int) -> Float[np.ndarray, "b k"]:
    """The `top` largest of each row, renormalised; the rest at minus infinity.

    Example:
        >>> np.exp(truncate_weights(np.log(np.array([[0.5, 0.3, 0.2]])), 2)).round(3).tolist()
        [[0.625, 0.375, 0.0]]
    """
    dropped = np.argsort(-log_weights, axis=1, kind="stable")[:, top:]
    kept = np.array(log_weights, dtype=np.float64)
    np.put_along_axis(kept, dropped, -np.inf, axis=1)
    return kept - log_mix(kept, 0.0)[:, None]


def document_bits(log_probs: Float[np.ndarray, "total j"], offsets: Any) -> Float64[np.ndarray, "n j"]:
    """(N, J) bits of each document under each column.

    Example:
        >>> document_bits(np.log(np.full((3, 1), 0.5)), np.array([0, 1, 3])).ravel().tolist()
        [1.0, 2.0]
    """
    totals = Documents(np.zeros(len(log_probs), dtype=np.uint8), np.asarray(offsets)).sums(log_probs)
    return -totals / np.log(2)


def mixture_bits(bits: Float[np.ndarray, "n j"], prior: Float[np.ndarray, " j"]) -> Float[np.ndarray, "n 1"]:
    """(N, 1) bits of each document under the sequence-level mixture of models whose bits are given."""
    with np.errstate(divide="ignore"):
        return -log_mix(-bits * np.log(2), np.log(prior))[:, None] / np.log(2)


def mix_rows(
    log_weights: Float[np.ndarray, "b m"], log_probs: Sequence[Any], *, single: bool = False
) -> Float[np.ndarray, "b v"]:
    """(B, V) log of the mixture of M tables (B, V); in torch, whose exponentials are several times numpy's.

    With `single` they are taken in float32, for tables of networks in float32, which are no more exact themselves.

    Example:
        >>> tables = [np.log(np.array([[0.9, 0.1]])), np.log(np.array([[0.1, 0.9]]))]
        >>> np.exp(mix_rows(np.log(np.array([[0.5, 0.5]])), tables)).round(3).tolist()
        [[0.5, 0.5]]
    """
    if log_probs[0].size < SMALL:
        return log_mix(log_weights[:, :, None], np.stack(log_probs, axis=1), axis=1)
    import torch

    tables = [torch.from_numpy(np.asarray(rows)) for rows in log_probs]
    weights = torch.from_numpy(np.asarray(log_weights, dtype=np.float64))
    if single:
        shares, total = weights.exp().float(), torch.zeros(tables[0].shape)
        for k, table in enumerate(tables):
            total.addcmul_(table.to(torch.float32, copy=True).exp_(), shares[:, k, None])
        if float(total.min()) > SINGLE_TINY:
            return total.log_().double().numpy()
    joint = torch.empty((len(tables), *tables[0].shape), dtype=torch.float64)
    for k, table in enumerate(tables):
        torch.add(table.double(), weights[:, k, None], out=joint[k])
    total = joint.exp().sum(0)  # all are at most 1, so that only underflow needs the slower form
    return (total.log_() if float(total.min()) > TINY else torch.logsumexp(joint, dim=0)).numpy()
