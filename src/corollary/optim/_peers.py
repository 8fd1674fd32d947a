"""Peers in the same frame: Muon and one-sided Shampoo (ASGO).

Muon: K. Jordan's public code. One-sided Shampoo: Xie et al. 2025 and An et al., arXiv:2503.20762, as in the public code
of ASGO. Both read as formulas in our notes, not line by line; agreement with torch's Muon is tested.
"""

from typing import Any

import torch
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.optim._blocks import Entry
from corollary.optim._directions import STEPS, damped, inverse_root, muon_direction, root_times, scaled
from corollary.optim._frame import MatrixOptimizer
from corollary.optim._leon import iteration
from corollary.optim._polynomials import schedule


class Muon(MatrixOptimizer):
    r"""Muon: the momentum's orthogonal factor. Leon without its second moment.

    .. math:: P = \mathrm{polar}(\beta S + g), \qquad W \leftarrow (1 - \mathrm{lr}\,\mathrm{wd}) W - \mathrm{lr}\, s P

    Args:
        params, lr: as in `Leon`.
        momentum: discount of the sum of gradients.
        nesterov: the form above; False for polar(S), follow-the-leader of the theory.
        weight_decay, scale, precision, steps: as in `Leon`.
        method: "muon" (five quintic steps that end between 0.7 and 1.2), "polar_express", "newton_schulz" or "eigh".
        **options: the settings of AdamW and of the distribution, as in `Leon`.

    Guarantee: operator norm of P at most 1 under "eigh"; under "muon" about 1.2. Regret can be linear in the steps.

    Example:
        >>> p = torch.nn.Parameter(torch.zeros(2, 3))
        >>> p.grad = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
        >>> Muon([p], lr=1.0, method="eigh", scale=None).step(); p.data
        tensor([[-1.,  0.,  0.],
                [ 0., -1.,  0.]])

    Reference: K. Jordan et al., public code; formulas as in our notes.
    """

    second = False
    options = frozenset({"method", "steps", "damping"})

    def __init__(
        self,
        params: Any,
        lr: Any = 0.02,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        scale: str | None = "original",
        precision: str = "float32",
        method: str = "muon",
        steps: int | None = None,
        distributed: str = "replicate",
        **options: Any,
    ) -> None:
        if method not in ("muon", "polar_express", "newton_schulz", "eigh"):
            raise InvalidInputError(
                f"`method` must be muon, polar_express, newton_schulz or eigh, got {method!r}; muon is the usual one"
            )
        settings = {"betas": (momentum, 0.0), "nesterov": nesterov, "weight_decay": weight_decay, "scale": scale}
        settings |= {"precision": precision, "method": method, "steps": steps, "damping": None, **options}
        super().__init__(params, lr, distributed_mode=distributed, **settings)

    def directions(self, group: dict[str, Any], entries: list[Entry], S: Tensor, M: Tensor | None) -> Tensor:
        """Orthogonal factors of a batch."""
        return muon_direction(S, method=group["method"], steps=group["steps"], precision=group["precision"])


class OneSidedShampoo(MatrixOptimizer):
    r"""One-sided Shampoo (ASGO): the momentum whitened on its smaller side, at a fixed root mean square.

    .. math:: U = M^{-1/2} S, \qquad P = \frac{\sqrt{mn}}{\|U\|_F} U

    Args:
        params: as in `Leon`.
        lr: step size; with the default scale 0.2 of every entry's root mean square.
        betas: discounts of S and of M.
        normalise: False for U itself (the sum form, so that a first step is an orthogonal factor).
        rms: root mean square of the entries of P, 0.2 as in ASGO.
        weight_decay, precision, steps, damping: as in `Leon`.
        method: None or "polar_express", or "eigh".
        **options: the settings of AdamW and of the distribution, as in `Leon`.

    Guarantee: none in this form; see `OneSidedShampooOGD` for the learner with a regret bound.

    Example:
        >>> p = torch.nn.Parameter(torch.zeros(2, 3))
        >>> p.grad = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
        >>> OneSidedShampoo([p], lr=1.0, normalise=False, damping=0.0).step(); p.data
        tensor([[-1.,  0.,  0.],
                [ 0., -1.,  0.]])

    Reference: An et al., arXiv:2503.20762; formulas as in our notes.
    """

    options = frozenset({"normalise", "rms", "method", "steps", "damping"})

    def __init__(
        self,
        params: Any,
        lr: Any = 0.01,
        *,
        betas: tuple[float, float] = (0.9, 0.8),
        normalise: bool = True,
        rms: float = 0.2,
        weight_decay: float = 0.0,
        precision: str = "float32",
        method: str | None = None,
        steps: int | None = None,
        damping: float | None = None,
        distributed: str = "replicate",
        **options: Any,
    ) -> None:
        if method not in (None, "polar_express", "eigh"):
            raise InvalidInputError(
                f"`method` must be None, polar_express or eigh, got {method!r}; None is the usual one"
            )
        settings = {"betas": betas, "normalise": normalise, "rms": rms, "weight_decay": weight_decay}
        settings |= {"precision": precision, "method": method, "steps": steps, "damping": damping, **options}
        super().__init__(params, lr, distributed_mode=distributed, **settings)

    def directions(self, group: dict[str, Any], entries: list[Entry], S: Tensor, M: Tensor | None) -> Tensor:
        """Whitened momenta of a batch."""
        assert M is not None
        tall = S.shape[-2] > S.shape[-1]
        wide, options = S.mT if tall else S, iteration(group, S)
        wide, M = scaled(wide, M)
        if options["method"] == "eigh" or group["damping"] == 0.0:
            U = inverse_root(M) @ wide
        else:
            A = damped(M.clone(), group["damping"])
            count = options["steps"] or STEPS["polar_express"]
            U = root_times(A, wide, schedule("polar_express", count + 2))
        if group["normalise"]:
            norm = torch.linalg.matrix_norm(U, keepdim=True)
            root = (U.shape[-1] * U.shape[-2]) ** 0.5
            U = U * (group["rms"] * root / torch.where(norm > 0, norm, torch.ones_like(norm)))
        return U.mT if tall else U
