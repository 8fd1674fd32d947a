r"""Encoders of whole documents, for gates that read the text and not only the experts' scores of it.

Symbols: tokens \(x_1 .. x_T\), an encoding e(x) in R^d; the gate is a perceptron on e(x) and on the cached
log-likelihood differences, as in `_gates.py`.

- "ngram": mean of hashed embeddings of the tokens, pairs and triples.
- "gru": the mean state of a recurrent layer that reads in both directions.
- "transformer": the mean state of one bidirectional layer of attention.

Documents are cut at `LONGEST` tokens for the encoding; their log-likelihoods are of all tokens.

Source: arXiv:2602.17554 leaves the gate's architecture to an appendix that was not seen; these are ours.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.gating._gates import DEEPEST, floored_log_softmax

LONGEST = 256
WIDTH = 32
BUCKETS = 1 << 14


class TokenRows:
    """Documents as the features of rows: indexed, split and ordered as a tensor would be, read where they are needed.

    Args:
        tokens: (total,) flat tokens; may be memory-mapped.
        offsets: (N + 1,) where documents begin and end.
        index: (n,) which documents the rows are.

    Example:
        >>> rows = TokenRows.of(Documents.from_texts(["ab", "c"]))
        >>> [t.tolist() for t in rows[torch.tensor([1, 0])].padded()]
        [[[100, 0], [98, 99]], [[True, False], [True, True]]]
    """

    def __init__(self, tokens: Any, offsets: Any, index: Int[Tensor, " n"]) -> None:
        self.tokens, self.offsets, self.index = tokens, offsets, index

    @classmethod
    def of(cls, documents: Documents) -> "TokenRows":
        """All documents, in order."""
        return cls(documents.tokens, documents.offsets, torch.arange(len(documents)))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and the size of the vocabulary: one more than the largest token, 256 for bytes."""
        return len(self.index), 256 if self.tokens.dtype == np.uint8 else 1 + int(self.tokens.max(initial=0))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, which: Any) -> "TokenRows":
        return TokenRows(self.tokens, self.offsets, self.index[which])

    def split(self, size: int) -> list["TokenRows"]:
        """Runs of `size` rows."""
        return [TokenRows(self.tokens, self.offsets, i) for i in self.index.split(size)]

    def padded(self) -> tuple[Int[Tensor, "n t"], Bool[Tensor, "n t"]]:
        """Tokens plus one, zeros behind the end, and where there is a token."""
        i = self.index.cpu().numpy()
        lengths = np.minimum(self.offsets[i + 1] - self.offsets[i], LONGEST)
        time = np.arange(max(1, int(lengths.max(initial=0))))
        inside = time < lengths[:, None]
        at = np.where(inside, self.offsets[i][:, None] + time, 0)
        found = np.where(inside, np.asarray(self.tokens[at], dtype=np.int64) + 1, 0) if len(self.tokens) else at
        return torch.from_numpy(found).to(self.index.device), torch.from_numpy(inside).to(self.index.device)


class _Ngrams(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table = nn.Embedding(BUCKETS, WIDTH, padding_idx=0)

    def forward(self, tokens: Tensor, inside: Tensor) -> Tensor:
        code, total = torch.zeros_like(tokens), torch.zeros(())
        count = inside.sum(1, keepdim=True).clamp_min(1)
        for order in range(3):  # the last one, two, three tokens
            code = (code * 1_000_003 + functional.pad(tokens, (order, 0))[:, : tokens.shape[1]]) % (2**31 - 1)
            bucket = torch.where(inside, 1 + (code + order * 7919) % (BUCKETS - 1), 0)
            total = total + self.table(bucket).sum(1) / count
        return total


class _Recurrent(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table = nn.Embedding(vocabulary + 1, WIDTH, padding_idx=0)
        self.gru = nn.GRU(WIDTH, WIDTH // 2, batch_first=True, bidirectional=True)

    def forward(self, tokens: Tensor, inside: Tensor) -> Tensor:
        lengths = inside.sum(1).clamp_min(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(
            self.table(tokens), lengths, batch_first=True, enforce_sorted=False
        )  # fmt: skip
        states = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]
        return states.sum(1) / lengths[:, None].to(states)


class _Attentive(nn.Module):
    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.table, self.place = nn.Embedding(vocabulary + 1, WIDTH, padding_idx=0), nn.Embedding(LONGEST, WIDTH)
        self.norm, self.norm_forward = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, tokens: Tensor, inside: Tensor) -> Tensor:
        x = self.table(tokens) + self.place(torch.arange(tokens.shape[1], device=tokens.device))
        q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in self.qkv(self.norm(x)).chunk(3, -1))
        inside = inside | ~inside.any(1, keepdim=True)  # an empty document looks at its padding
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=inside[:, None, None])
        x = x + self.out(mixed.transpose(1, 2).flatten(-2))
        x = x + self.down(functional.gelu(self.up(self.norm_forward(x))))
        return (x * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)


ENCODERS: dict[str, type[nn.Module]] = {"ngram": _Ngrams, "gru": _Recurrent, "transformer": _Attentive}


class EncodedGate(nn.Module):
    """A perceptron on the encoding of a document and on its log-likelihood differences, uniform before training."""

    def __init__(self, kind: str, vocabulary: int, experts: int, *, hidden: tuple[int, ...], floor: float) -> None:
        super().__init__()
        self.floor, self.vocabulary = floor, vocabulary
        self.encoder = ENCODERS[kind](vocabulary)
        widths, layers = [WIDTH + experts, *hidden], []
        for inner, outer in pairwise(widths):
            layers += [nn.Linear(inner, outer), nn.GELU()]
        last = nn.Linear(widths[-1], experts)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.perceptron = nn.Sequential(*layers, last)
        self.trust = nn.Parameter(torch.zeros(experts, dtype=torch.float64))

    def forward(self, log_likelihoods: Tensor, documents: TokenRows) -> Float[Tensor, "n p"]:
        """Log-weights from log-likelihoods (n, p) and the documents' tokens."""
        behind = (log_likelihoods - log_likelihoods.amax(-1, keepdim=True)).clamp_min(DEEPEST)
        tokens, inside = documents.padded()
        if int(tokens.max()) > self.vocabulary:
            raise InvalidInputError(
                f"token {int(tokens.max()) - 1} is beyond the {self.vocabulary} that the gate knows"
            )
        seen = torch.cat([self.encoder(tokens, inside), -torch.log1p(-behind).float()], -1)
        return floored_log_softmax(self.perceptron(seen).double() + self.trust * behind, self.floor)
