r"""Scored rows for the training of a gate, checked once: documents of the domains, samples of the experts.

Symbols: `log_likelihoods` (N, p), every row scored by every expert; `domain` (N,) which domain it comes from;
`features`
(N, d) for a network gate, or (N,) state numbers for a tabular one; `weight` (N,) for rows that count unequally.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from corollary.documents import Documents
from corollary.errors import InvalidInputError
from corollary.gating._document_encoders import TokenRows
from corollary.gating._scores import ExpertScores


def as_tensor(values: Any, device: torch.device | None = None) -> Tensor:
    """Any array or tensor as a tensor, floats in float64, on its own device unless another is given."""
    tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    tensor = tensor.detach().to(device or tensor.device)
    return tensor.to(torch.float64) if tensor.is_floating_point() else tensor


def scores(name: str, values: Any, device: torch.device | None = None) -> Float[Tensor, "n p"]:
    """(n, p) log-likelihoods, each row possible under some expert."""
    if isinstance(values, ExpertScores):  # or a cache of them
        values = values.totals()
    logq = as_tensor(values, device).to(torch.float64)
    if logq.ndim != 2 or 0 in logq.shape:
        raise InvalidInputError(
            f"`{name}` must be (rows, experts) with at least one of each, got shape {tuple(logq.shape)}"
        )
    if torch.isnan(logq).any() or (logq == torch.inf).any():
        raise InvalidInputError(f"`{name}` holds NaN or plus infinity; score the rows again")
    if torch.isinf(logq.amax(1)).any():
        row = int(torch.isinf(logq.amax(1)).nonzero()[0])
        raise InvalidInputError(f"row {row} of `{name}` is impossible under every expert; drop it or smooth an expert")
    return logq


def inputs(features: Any, count: int, *, tabular: bool, device: torch.device) -> Any:
    """Features (n, d) in float64, state numbers (n,), or documents."""
    if isinstance(features, Documents | TokenRows):
        if len(features) != count:
            raise InvalidInputError(f"`features` holds {len(features)} documents for {count} rows; give one a row")
        return features if isinstance(features, TokenRows) else TokenRows.of(features)
    if tabular:
        state = None if features is None else as_tensor(features, device)
        if state is None or state.shape != (count,) or state.is_floating_point() or (state < 0).any():
            raise InvalidInputError(f"a tabular gate needs `features` to be ({count},) state numbers from 0")
        return state.long()
    if features is None:
        return torch.zeros(count, 0, dtype=torch.float64, device=device)
    array = as_tensor(features, device).to(torch.float64)
    if array.ndim != 2 or len(array) != count or not torch.isfinite(array).all():
        raise InvalidInputError(f"`features` must be ({count}, d) finite values, got shape {tuple(array.shape)}")
    return array


def weights(name: str, values: Any, count: int, device: torch.device) -> Float[Tensor, " n"]:
    """(n,) nonnegative weights, ones where None."""
    if values is None:
        return torch.ones(count, dtype=torch.float64, device=device)
    w = as_tensor(values, device).to(torch.float64)
    if w.shape != (count,) or not torch.isfinite(w).all() or (w < 0).any() or not w.sum() > 0:
        raise InvalidInputError(
            f"`{name}` must be ({count},) nonnegative weights, not all zero, got shape {tuple(w.shape)}"
        )
    return w


@dataclass(frozen=True, eq=False)
class Rows:
    """Documents of the domains, ready for drawing."""

    logq: Float[Tensor, "n p"]
    features: Any  # a tensor, or `TokenRows`
    domain: Int[Tensor, " n"]
    share: Float[Tensor, " n"]  # weight of each row inside its domain
    order: Int[Tensor, " n"]  # where each row was in what the caller gave
    domains: int

    @classmethod
    def make(
        cls,
        log_likelihoods: Any,
        domain: Any,
        features: Any,
        weight: Any,
        *,
        tabular: bool,
        domains: int | None = None,
    ) -> "Rows":
        """Check and pack; rows are sorted by domain."""
        logq = scores("log_likelihoods", log_likelihoods)
        n, device = len(logq), logq.device
        k = as_tensor(domain, device)
        if k.shape != (n,) or k.is_floating_point() or (k < 0).any():
            raise InvalidInputError(f"`domain` must be ({n},) integers from 0, got shape {tuple(k.shape)} of {k.dtype}")
        count = int(k.max()) + 1 if domains is None else domains
        if int(k.max()) >= count:
            raise InvalidInputError(f"`domain` names domain {int(k.max())}, but there are only {count}")
        order = torch.argsort(k.long(), stable=True)
        k, w = k.long()[order], weights("weight", weight, n, device)[order]
        mass = torch.zeros(count, dtype=torch.float64, device=device).index_add_(0, k, w)
        if not (mass > 0).all():
            raise InvalidInputError(f"domain {int(mass.argmin())} has no rows; number the domains without holes")
        x = inputs(features, n, tabular=tabular, device=device)[order]
        return cls(logq[order], x, k, w / mass[k], order, count)

    def __len__(self) -> int:
        return len(self.logq)

    @cached_property
    def upto(self) -> Float[Tensor, " n"]:
        """Cumulative shares."""
        return torch.cumsum(self.share, 0)

    def some(self, which: slice) -> "Rows":
        """Some of the rows, with the shares they have among all."""
        logq, x, k, share = self.logq[which], self.features[which], self.domain[which], self.share[which]
        return Rows(logq, x, k, share, self.order[which], self.domains)

    def draw(self, size: int, generator: torch.Generator) -> Int[Tensor, "p b"]:
        """`size` rows of each domain, by weight, with replacement: one inverted cumulative sum for all."""
        upto = self.upto
        u = torch.rand(self.domains, size, dtype=torch.float64, generator=generator).to(upto.device)
        first = torch.arange(self.domains, device=upto.device)[:, None]
        found = torch.searchsorted(upto, (first + u).reshape(-1), right=True).reshape(u.shape)
        starts = torch.searchsorted(self.domain, first[:, 0])
        ends = torch.searchsorted(self.domain, first[:, 0], right=True) - 1
        return found.clamp(starts[:, None], ends[:, None])  # a sum's round-off must not cross into the next domain

    def means(self, values: Float[Tensor, " n"]) -> Float[Tensor, " p"]:
        """Mean of `values` over each domain."""
        zero = torch.zeros(self.domains, dtype=torch.float64, device=values.device)
        # A row of weight zero may have an infinite loss; it counts as nothing.
        return zero.index_add(0, self.domain, torch.where(self.share > 0, self.share * values, 0.0))


@dataclass(frozen=True, eq=False)
class Samples:
    """Sequences drawn from the experts, or a weighted census of all points."""

    logq: Float[Tensor, "n p"]
    features: Any
    expert: Int[Tensor, " n"] | None
    weight: Float[Tensor, " n"] | None
    shares: Float[Tensor, " p"]

    @classmethod
    def make(
        cls, log_likelihoods: Any, features: Any, expert: Any, weight: Any, *, experts: int, tabular: bool,
        device: torch.device,
    ) -> "Samples":  # fmt: skip
        """Check and pack. Without `expert` the samples count as drawn from all experts alike."""
        logq = scores("samples_log_likelihoods", log_likelihoods, device)
        n = len(logq)
        if logq.shape[1] != experts:
            raise InvalidInputError(
                f"the samples are scored by {logq.shape[1]} experts, the rows by {experts}; use the same"
            )
        shares = torch.full((experts,), 1 / experts, dtype=torch.float64, device=device)
        k = None
        if expert is not None:
            k = as_tensor(expert, device)
            if k.shape != (n,) or k.is_floating_point() or (k < 0).any() or (k >= experts).any():
                raise InvalidInputError(f"`samples_expert` must be ({n},) integers from 0 to {experts - 1}")
            k = k.long()
            shares = torch.bincount(k, minlength=experts).to(torch.float64) / n
            if (shares == 0).any():
                raise InvalidInputError(f"expert {int(shares.argmin())} has no samples; draw from every expert")
        w = None if weight is None else weights("samples_weight", weight, n, device)
        x = inputs(features, n, tabular=tabular, device=device)
        return cls(logq, x, k, w, shares)

    def __len__(self) -> int:
        return len(self.logq)

    def draw(self, size: int, generator: torch.Generator) -> Int[Tensor, " b"]:
        """`size` samples, by weight, with replacement."""
        if self.weight is not None:
            upto = torch.cumsum(self.weight, 0)
            u = torch.rand(size, dtype=torch.float64, generator=generator).to(upto.device) * upto[-1]
            return torch.searchsorted(upto, u, right=True).clamp_max(len(self) - 1)
        return torch.randint(len(self), (size,), generator=generator).to(self.logq.device)
