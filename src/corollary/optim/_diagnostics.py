"""What an optimizer's directions are worth: operator norm, residual and shrinkage of each matrix, on demand.

Nothing is computed while training; `diagnose` reads the statistics that the state holds and takes about one step's
time.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from corollary.certificates import Assumption, Certificate, Reference
from corollary.errors import InvalidInputError
from corollary.optim import _distributed as distributed
from corollary.optim._blocks import Entry, blocks_of
from corollary.optim._directions import inverse_root
from corollary.optim._leon import Leon, bounded, iteration

TOLERANCES = {("float32", True): 1e-9, ("float32", False): 2e-3, ("bfloat16", True): 1e-3, ("bfloat16", False): 0.05}


@dataclass(frozen=True)
class Diagnosis:
    """One block of one parameter, at the statistics of the last step, without Nesterov's look ahead.

    Args:
        name: of the parameter, where the optimizer knows it, and the block's number.
        shape: (m, n).
        operator_norm: of the direction P; at most 1 but for the iteration's error.
        residual: ||A^(1/2) P - S|| / ||S|| in Frobenius norm, zero for Leon's exact direction; NaN for other rules.
        distance: ||P - exact|| in operator norm; above the residual where the statistics are ill-conditioned.
        shrinkage: root mean square singular value of P; 1 for Muon, less where gradients are noisy.
        momentum, second_moment, direction: the statistics, for the certificate.

    Guarantee: none; `certificate` states what can be checked.

    Example:
        >>> p = torch.nn.Parameter(torch.zeros(2, 3))
        >>> p.grad = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
        >>> optimizer = Leon([p]); optimizer.step()
        >>> found = optimizer.diagnose()[0]
        >>> round(found.operator_norm, 4), found.certificate.check(**found.evidence).status.name
        (0.7071, 'HOLDS')
    """

    name: str
    shape: tuple[int, int]
    operator_norm: float
    residual: float
    distance: float
    shrinkage: float
    momentum: Tensor
    second_moment: Tensor | None
    direction: Tensor
    eta: float = 1.0
    tolerance: float = 0.0

    @property
    def evidence(self) -> dict[str, Any]:
        """What the certificate is checked against."""
        assert self.second_moment is not None
        return {
            "momentum": self.momentum.double().numpy(),
            "second_moment": self.second_moment.double().numpy(),
            "direction": self.direction.double().numpy(),
        }

    @property
    def certificate(self) -> Certificate:
        """Operator norm and distance to the exact factor; for Leon.

        Raises:
            InvalidInputError: for another rule: Muon's quintic does not aim at the factor, Pion's direction is random.
        """
        if self.second_moment is None:
            raise InvalidInputError("only Leon's direction is a function of its statistics that can be certified")
        return Certificate.issue(
            "optim.direction",
            statement=(
                f"The direction of `{self.name}` solves Leon's equation up to {self.tolerance:g} and is within "
                f"{self.distance:.3g} of the exact one."
            ),
            evidence=self.evidence,
            witness={"eta": self.eta, "tolerance": self.tolerance, "distance": self.distance},
            reference=Reference(
                "Jiang, Mhammedi, Mohri, Mokhtari, COLT 2026 (PMLR 336)", "equations 9 to 11", "paper read in full"
            ),
            assumptions=[Assumption("momentum and second moment are those of the step")],
        )


@torch.no_grad()
def diagnose(optimizer: Any) -> list[Diagnosis]:
    """`Diagnosis` of every block that has taken a step; see `MatrixOptimizer.diagnose`."""
    found, number = [], 0
    for group in optimizer.param_groups:
        names = group.get("param_names") or [f"parameter {number + i}" for i in range(len(group["params"]))]
        for name, p in zip(names, group["params"], strict=True):
            state = optimizer.state.get(p, {})
            if group["rule"] == "matrix" and float(state.get("unit", 0.0)):
                found += list(_blocks(optimizer, group, name, number, state))
            number += 1
    return found


def _blocks(optimizer: Any, group: dict[str, Any], name: str, number: int, state: dict[str, Any]) -> Any:
    if "basis_left.0" in state or "left.0" in state:
        raise InvalidInputError(
            "SOAP's direction changes its state; only Leon, Pion, Muon and OneSidedShampoo are read"
        )
    whole = distributed.full(state["momentum"])
    runs = blocks_of(whole, group["form"], group["splits"])
    for i, S in enumerate(runs):
        M = state.get(f"second_moment.{i}")
        shape = (S.shape[-2], S.shape[-1])
        entry = Entry(
            shape, len(S), torch.zeros_like(S), M, lambda S=S: S, lambda *a: None, number, i, int(state["step"]), state
        )
        P = optimizer.directions(group, [entry], S, M)
        used = bounded(M, group, [entry]) if M is not None and isinstance(optimizer, Leon) else M
        for b in range(len(S)):
            label = name if len(S) * len(runs) == 1 else f"{name}[{i if len(runs) > 1 else b}]"
            own = None if used is None or type(optimizer) is not Leon else used[b]
            yield _one(label, shape, S[b], own, P[b], group)


def _one(name: str, shape: tuple[int, int], S: Tensor, M: Tensor | None, P: Tensor, group: dict[str, Any]) -> Diagnosis:
    s, p = (a.T if shape[0] > shape[1] else a for a in (S.double(), P.double()))
    squares = torch.linalg.eigvalsh(p @ p.T).clamp_min(0)
    residual = distance = float("nan")
    if M is not None:
        A = s @ s.T + M.double() / group["eta"] ** 2
        apart = torch.linalg.matrix_norm(inverse_root(A, power=0.5) @ p - s)
        distance = float(torch.linalg.matrix_norm(p - inverse_root(A) @ s, 2))
        residual = float(apart / torch.linalg.matrix_norm(s).clamp_min(1e-300))
    exact = M is not None and iteration(group, S)["method"] == "eigh" and S.dtype == torch.float64
    tolerance = TOLERANCES[group["precision"], exact]
    return Diagnosis(
        name=name,
        shape=shape,
        operator_norm=float(squares[-1].sqrt()),
        residual=residual,
        distance=distance,
        shrinkage=float((squares.sum() / len(squares)).sqrt()),
        momentum=S.detach().cpu().clone(),
        second_moment=None if M is None else M.detach().cpu().clone(),
        direction=P.detach().cpu().clone(),
        eta=float(group.get("eta", 1.0)),
        tolerance=tolerance,
    )
