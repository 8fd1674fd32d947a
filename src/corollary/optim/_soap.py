r"""SOAP in the same frame: Adam in the eigenbasis of Shampoo's two Gram matrices.

Source: Vyas et al., arXiv:2409.11321, and nikhilvyas/SOAP; formulas as in our notes. It differs in one point: the bases
come from `eigh` every `frequency` steps (the public code does one power iteration and a QR), and the second moment is
rotated with them no more than there.
"""

from typing import Any

import torch
from torch import Tensor

from corollary.optim._blocks import Entry
from corollary.optim._frame import MatrixOptimizer


class SOAP(MatrixOptimizer):
    r"""SOAP: Adam on \(Q_L^T g Q_R\), rotated back.

    Args:
        params, lr: as in `Leon`; 3e-3 is its authors' rate.
        betas: of Adam's two moments.
        shampoo_beta: discount of the Gram matrices.
        frequency: steps between new eigenbases.
        eps: of Adam.
        weight_decay: decoupled.
        **options: the settings of AdamW and of the distribution, as in `Leon`.

    Guarantee: none.

    Example:
        >>> p = torch.nn.Parameter(torch.zeros(2, 3))
        >>> optimizer = SOAP([p], lr=0.1)
        >>> for _ in range(2):
        ...     p.grad = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
        ...     optimizer.step()
        >>> [round(float(v), 4) for v in p.data.diagonal()]  # the first step only fills the bases
        [-0.1, -0.1]

    Reference: arXiv:2409.11321; public code's formulas, eigenbases by `eigh`.
    """

    second = False
    options = frozenset({"shampoo_beta", "frequency", "soap_eps"})

    def __init__(
        self,
        params: Any,
        lr: Any = 3e-3,
        *,
        betas: tuple[float, float] = (0.95, 0.95),
        shampoo_beta: float = 0.95,
        frequency: int = 10,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        distributed: str = "replicate",
        **options: Any,
    ) -> None:
        settings = {"betas": betas, "shampoo_beta": shampoo_beta, "frequency": frequency, "soap_eps": eps, **options}
        super().__init__(params, lr, distributed_mode=distributed, weight_decay=weight_decay, **settings)

    def directions(self, group: dict[str, Any], entries: list[Entry], S: Tensor, M: Tensor | None) -> Tensor:
        """Adam's step in the eigenbases of each block; S is the plain sum, of which Adam takes (1 - b1)."""
        found, start = [], 0
        for e in entries:
            found.append(self._one(group, e, S[start : start + e.count]))
            start += e.count
        return torch.cat(found)

    def _one(self, group: dict[str, Any], e: Entry, S: Tensor) -> Tensor:
        g, state, (b1, b2), i = e.gradient, e.state, group["betas"], e.part
        if f"left.{i}" not in state:
            for name, size in (("left", g.shape[-2]), ("right", g.shape[-1])):
                state[f"{name}.{i}"] = g.new_zeros(len(g), size, size)
            state[f"square.{i}"] = torch.zeros_like(g)
            state[f"begun.{i}"] = 0
        left, right, square = state[f"left.{i}"], state[f"right.{i}"], state[f"square.{i}"]
        left.lerp_(g @ g.mT, 1 - group["shampoo_beta"])
        right.lerp_(g.mT @ g, 1 - group["shampoo_beta"])
        count = state[f"begun.{i}"] = state[f"begun.{i}"] + 1
        if count == 1:  # its authors skip the first step, which has no basis yet
            state[f"basis_left.{i}"], state[f"basis_right.{i}"] = _basis(left), _basis(right)
            return torch.zeros_like(g)
        QL, QR = state[f"basis_left.{i}"], state[f"basis_right.{i}"]
        square.lerp_((QL.mT @ g @ QR).square(), 1 - b2)
        mean = QL.mT @ S @ QR * (1 - b1)
        # The sums know the skipped step, Adam's counters do not; the mean is corrected for what it has seen.
        step = (mean / (1 - b1**count)) / ((square / (1 - b2 ** (count - 1))).sqrt() + group["soap_eps"])
        P = QL @ step @ QR.mT
        if count % group["frequency"] == 0:
            state[f"basis_left.{i}"], state[f"basis_right.{i}"] = _basis(left), _basis(right)
        return P


def _basis(gram: Tensor) -> Tensor:
    return torch.linalg.eigh(gram)[1].flip(-1)
