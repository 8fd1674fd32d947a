r"""Sparse maps to the simplex and their losses: sparsemax, entmax, sparse-softmax.

Symbols: alpha the index of the Tsallis entropy, Omega its negative (zero at the corners, 1-strongly convex in the
Euclidean norm for alpha <= 2), p the map, r its residual \(((\alpha-1) z - \nu)_+\) with nu the threshold.

The loss of a map is the Fenchel-Young loss \(\Omega^*(z) - z_y\): convex, gradient \(p - e_y\), excess over the least
conditional risk \(\ge |\eta - p|^2 / 2\); since the error above the least is at most \(\sqrt2 |\eta - p|\), it is at
most \(2 \sqrt{excess}\) for every alpha in [1, 2] [derived; tested].
"""

from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.losses._interface import eager, surrogate
from corollary.losses._module import SurrogateLoss, checked_number

STEPS = 40  # of Newton's method from the left, which converges monotonically; most rows need fewer than ten


def sparsemax(logits: Tensor) -> Float[Tensor, "..."]:
    r"""The Euclidean projection onto the simplex: \(p = (z - \nu)_+\) with \(\sum_k p_k = 1\).

    Args:
        logits: (n,), (N, n) or (N, n, d1, ...) scores; the map runs along axis 1 (0 of a vector).

    Guarantee: exact to round-off; p - p' is no longer than z - z'.

    Example:
        >>> sparsemax(torch.tensor([1.5, 1.0, -1.0]))
        tensor([0.7500, 0.2500, 0.0000])

    Reference: Martins and Astudillo (ICML 2016); formula in notes.
    """
    return entmax(logits, alpha=2.0)


def entmax(logits: Tensor, *, alpha: float = 1.5) -> Float[Tensor, "..."]:
    r"""The regularised argmax \(\arg\max_p \langle p, z\rangle - \Omega_\alpha(p)\), sparse for alpha > 1.

    .. math:: p = ((\alpha - 1) z - \nu)_+^{1/(\alpha-1)}, \quad \Omega_\alpha(p) =
        \frac{\sum_k p_k^\alpha - 1}{\alpha (\alpha - 1)}

    Args:
        logits: (n,), (N, n) or (N, n, d1, ...) scores.
        alpha: in [1, 2]: 1 softmax, 1.5 the usual choice, 2 sparsemax.

    Guarantee: sums to one; differentiable twice off the boundary of its support.

    Example:
        >>> entmax(torch.tensor([1.0, 0.0, -2.0])).round(decimals=4)
        tensor([0.8307, 0.1693, 0.0000])

    Reference: Peters, Niculae, Martins (ACL 2019), deep-spin/entmax; formula in notes, Newton's method is ours.
    """
    alpha = checked_number("alpha", alpha, 1.0, 2.0)
    axis = 0 if logits.ndim == 1 else 1
    z = logits.movedim(axis, -1)
    z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
    return _map(z, alpha)[0].movedim(-1, axis)


def _power(r: Tensor, e: float) -> Tensor:
    """r_+ to a power, with zero derivatives of all orders where r <= 0."""
    on = r > 0
    return torch.where(on, torch.where(on, r, 1.0) ** e, 0.0)


def _map(z: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """P and Omega(p) of rows (..., n)."""
    if alpha == 1:
        log_p = torch.log_softmax(z, -1)
        return log_p.exp(), (log_p.exp() * log_p).sum(-1)
    e = 1 / (alpha - 1)
    x = (alpha - 1) * (z - z.amax(-1, keepdim=True).detach())

    def step(nu: Tensor) -> Tensor:  # sum p is convex and falls in nu, and is at least 1 at -1
        slope = e * (_power(x - nu, e - 1) if e > 1 else (x > nu).to(x)).sum(-1, keepdim=True)
        return nu + (_power(x - nu, e).sum(-1, keepdim=True) - 1) / slope

    with torch.no_grad():
        nu = torch.full_like(x[..., :1], -1.0)
        for _ in range(STEPS):
            before, nu = nu, step(nu)
            if eager(z) and bool((nu - before <= 0).all()):
                break
    for _ in range(2):  # two steps that are differentiated make its first three derivatives exact
        nu = step(nu)
    r = x - nu
    return _power(r, e), (_power(r, alpha * e).sum(-1) - 1) / (alpha * (alpha - 1))


def entmax_loss(logits: Tensor, target: Tensor, *, alpha: float = 1.5, **options: Any) -> Float[Tensor, "..."]:
    r"""The Fenchel-Young loss of `entmax`: zero once the label leads by 1/(alpha - 1).

    .. math:: \ell(z, y) = \langle p, z\rangle - \Omega_\alpha(p) - z_y, \quad \nabla \ell = p - e_y

    Args:
        logits: (n,), (N, n) or (N, n, d1, ...) scores.
        target: labels, or class weights of the shape of `logits`.
        alpha: in [1, 2]: 1 cross-entropy, 2 the sparsemax loss.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: convex, proper; error above the least <= 2 sqrt(excess), every alpha, every distribution, complete
        hypothesis sets [derived here].

    Example:
        >>> entmax_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).abs().item()
        0.0

    Reference: Peters, Niculae, Martins (ACL 2019); Blondel, Martins, Niculae (JMLR 2020) for the construction.
    """
    alpha = checked_number("alpha", alpha, 1.0, 2.0)

    def every(z: Tensor) -> Tensor:
        z = z - z.amax(-1, keepdim=True).detach()
        p, omega = _map(z, alpha)
        return ((p * z).sum(-1) - omega)[:, None] - z

    return surrogate(
        lambda z, y: every(z).gather(1, y[:, None])[:, 0].clamp(min=0), logits, target, every=every, **options
    )


def sparsemax_loss(logits: Tensor, target: Tensor, **options: Any) -> Float[Tensor, "..."]:
    r"""The loss of `sparsemax`: \(\tfrac12 (\sum_{j \in S} (z_j^2 - \nu^2) + 1) - z_y\), zero at margin 1.

    Args:
        logits, target: scores and labels or class weights.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: that of `entmax_loss` at alpha = 2.

    Example:
        >>> sparsemax_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([0])).item()
        0.0

    Reference: Martins and Astudillo (ICML 2016).
    """
    return entmax_loss(logits, target, alpha=2.0, **options)


class EntmaxLoss(SurrogateLoss):
    """`entmax_loss` as a module; probabilities by `entmax`.

    Args:
        alpha: in [1, 2]; 2 is the sparsemax loss.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: `entmax_loss`.

    Example:
        >>> EntmaxLoss(alpha=2.0).consistency_bound(classes=3).target(0.01).item()
        0.2

    Reference: Peters, Niculae, Martins (ACL 2019); bound derived here.
    """

    convex = proper = calibrated = True
    consistent_for = "zero-one"
    reduces_to = "cross-entropy (alpha = 1), sparsemax loss (alpha = 2)"
    limits = MappingProxyType({"cross-entropy": {"alpha": 1.0}})
    guarantee = "error above the least <= 2 sqrt(excess), every distribution, complete hypothesis sets (derived here)"

    def __init__(self, *, alpha: float = 1.5, **common: Any) -> None:
        super().__init__(**common)
        self.alpha = checked_number("alpha", alpha, 1.0, 2.0)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return entmax_loss(logits, target, alpha=self.alpha, **self.common)

    def predict_proba(self, logits: Tensor) -> Float[Tensor, "..."]:
        """The map itself."""
        return entmax(logits, alpha=self.alpha)

    def consistency_bound(self, *, classes: int) -> Any:
        """2 sqrt(excess), for any number of classes."""
        from corollary.losses.consistency import ConsistencyBound

        return ConsistencyBound(
            "zero-one error",
            lambda t: np.square(t) / 4,
            lambda y: np.minimum(2 * np.sqrt(y), 1.0),
            "R_01 - R*_01 <= 2 sqrt(R - R*)",
            ("the hypothesis set is complete",),
            "derived here from the strong convexity of the entropy",
        )


class SparsemaxLoss(EntmaxLoss):
    """`sparsemax_loss` as a module: `EntmaxLoss` at alpha = 2.

    Args:
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: `entmax_loss`.

    Example:
        >>> SparsemaxLoss().predict_proba(torch.tensor([[1.5, 1.0, -1.0]]))
        tensor([[0.7500, 0.2500, 0.0000]])

    Reference: Martins and Astudillo (ICML 2016).
    """

    def __init__(self, **common: Any) -> None:
        super().__init__(alpha=2.0, **common)


def sparse_softmax(logits: Tensor, *, k: int) -> Float[Tensor, "..."]:
    """The softmax over the k largest logits, zero elsewhere.

    Args:
        logits: (n,), (N, n) or (N, n, d1, ...) scores.
        k: how many classes stay; n or more is the softmax.

    Guarantee: none; not continuous where the k-th and the next score are equal.

    Example:
        >>> sparse_softmax(torch.tensor([1.0, 1.0, 0.0]), k=2)
        tensor([0.5000, 0.5000, 0.0000])

    Reference: Sun et al. (2021); formula from memory of the abstract, may differ.
    """
    k = _checked_k(k)
    axis = 0 if logits.ndim == 1 else 1
    z = logits.movedim(axis, -1)
    kept = torch.zeros_like(z, dtype=torch.bool).scatter(-1, z.topk(min(k, z.shape[-1]), -1).indices, True)
    return torch.softmax(z.masked_fill(~kept, float("-inf")), -1).movedim(-1, axis)


def sparse_softmax_loss(logits: Tensor, target: Tensor, *, k: int = 10, **options: Any) -> Float[Tensor, "..."]:
    r"""Cross-entropy among the label and its k - 1 strongest rivals.

    .. math:: \ell(z, y) = \log \Big(e^{z_y} + \sum_{i \in top_{k-1}(z \setminus y)} e^{z_i}\Big) - z_y

    The paper sums over the k largest logits and keeps the label among them; taking the label and its k - 1 rivals is
    that sum wherever the label is among the k largest, and is continuous and convex everywhere [derived: a maximum of
    log-sums over all sets of rivals].

    Args:
        logits, target: scores and labels or class weights (costs n^2 a row).
        k: 2 compares with the strongest rival only; n or more is cross-entropy.
        options: `weight`, `ignore_index`, `reduction`.

    Guarantee: none for k < n: rivals outside the set cost nothing.

    Example:
        >>> round(sparse_softmax_loss(torch.zeros(1, 9), torch.tensor([0]), k=2).item(), 4)
        0.6931

    Reference: Sun et al. (2021), arXiv 2112.12433; formula from memory of the abstract, may differ.
    """
    k = _checked_k(k)

    def at(z: Tensor, y: Tensor) -> Tensor:
        own = z.gather(1, y[:, None])
        rivals = z.scatter(1, y[:, None], float("-inf")).topk(min(k, z.shape[-1]) - 1, -1).values
        return torch.logsumexp(torch.cat([own, rivals], -1), -1) - own[:, 0]

    return surrogate(at, logits, target, **options)


def _checked_k(k: int) -> int:
    if k != int(k) or k < 2:
        raise InvalidInputError(f"`k` must be a whole number of at least 2, got {k}")
    return int(k)


class SparseSoftmaxLoss(SurrogateLoss):
    """`sparse_softmax_loss` as a module.

    Args:
        k: as in `sparse_softmax_loss`.
        common: `weight`, `ignore_index`, `reduction`.

    Guarantee: none for k < n.

    Example:
        >>> SparseSoftmaxLoss(k=3)(torch.zeros(1, 9), torch.tensor([0])).round(decimals=4)
        tensor(1.0986)

    Reference: Sun et al. (2021); formula from memory of the abstract, may differ.
    """

    convex = True
    reduces_to = "cross-entropy (k = n)"
    limits = MappingProxyType({"cross-entropy": {"k": 10**6}})

    def __init__(self, *, k: int = 10, **common: Any) -> None:
        super().__init__(**common)
        self.k = _checked_k(k)

    def forward(self, logits: Tensor, target: Tensor) -> Float[Tensor, "..."]:
        """The loss of logits (N, n, ...) at labels (N, ...) or class weights (N, n, ...)."""
        return sparse_softmax_loss(logits, target, k=self.k, **self.common)
