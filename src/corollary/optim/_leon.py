r"""Leon and Pion: Muon, smoothed by the second moment of its gradients.

Symbols: \(S \leftarrow \beta_1 S + g\), \(M \leftarrow \beta_2 M + g g^T\) (plain sums),
\(W \leftarrow W - \mathrm{lr}\, P\).

Paper: R. Jiang, Z. Mhammedi, M. Mohri, A. Mokhtari, "Adaptive Matrix Online Learning through Smoothing with Guarantees
for Nonsmooth Nonconvex Optimization", COLT 2026 (PMLR 336), algorithms 2 and 3; read in full. Defaults of eta, the
betas, damping, batching and everything about groups are ours. "Leon" stands for learning-enabled orthogonalization and
normalization; "Pion" is unrelated to the optimizer of arXiv:2605.12492.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.optim._blocks import Entry
from corollary.optim._directions import METHODS, draw, leon_direction, pion_direction
from corollary.optim._frame import MatrixOptimizer


class Leon(MatrixOptimizer):
    r"""Leon: orthogonalised momentum in which noisy directions are shrunk.

    .. math:: P = (S S^T + \eta^{-2} M)^{-1/2} S, \qquad
        W \leftarrow (1 - \mathrm{lr}\,\mathrm{wd}) W - \mathrm{lr}\, s P

    Args:
        params: parameters or groups; in a bare list every 2-D one takes the matrix rule, the rest AdamW. A group may
            say `rule="matrix" | "adamw"`, `form="flatten"` (convolutions), `"stack"` (experts (k, m, n)) or
            `"transposed"` (stored (in, out)), and `splits` (of a fused projection: a number of equal row blocks, or
            their sizes). `from_module` does all that.
        lr: step size of matrices: an update has operator norm below lr times the scale.
        betas: discounts of S and of M; the theory has beta2 = beta1^2, (0.95, 0.95) is milder on noise.
        eta: smoothing; large is Muon, small the one-sided Shampoo direction.
        weight_decay: decoupled, times lr.
        precision: "float32" iterates in float32 (float64 for float64 weights); "bfloat16" multiplies in bfloat16.
        method: how the direction is computed, see `leon_direction`; None for "eigh" in float64 and "polar_express"
            else.
        steps: of the iteration; None for 8, or 6 in bfloat16.
        damping: relative, see `leon_direction`.
        grad_bound: G of the theory, adds (G / (beta1 eta))^2 I under the root; None leaves it out, as the paper's
            algorithm does.
        nesterov: use beta1 S + g in the place of S.
        scale: None, "original" (sqrt(max(1, rows / columns))) or "match_rms_adamw" (0.2 sqrt(max(rows, columns)): a
            rate tuned for AdamW then fits).
        adamw_lr, adamw_betas, adamw_eps, adamw_weight_decay: of the parameters that are no matrices.
        distributed: "replicate" or "round_robin" (directions shared out among the ranks).
        compile: run the direction through `torch.compile`.

    Raises:
        InvalidInputError: for numbers out of range or parameters that do not fit their rule.

    Guarantee: each update has operator norm at most lr times scale (theorem 8's feasibility). With `grad_bound`, betas
    (b, b^2), random midpoints and averaging (`OnlineToNonconvex` does these), theorem 13: (rho, eps)-stationary after
    O(||Q||_*^2 / (rho eps^3)) steps, for nonsmooth and nonconvex losses. As used here it has no theorem.

    Example:
        >>> model = torch.nn.Linear(3, 2, bias=False)
        >>> optimizer = Leon(model.parameters(), lr=0.1)
        >>> model(torch.eye(3)).square().sum().backward()
        >>> before = model.weight.detach().clone()
        >>> optimizer.step()
        >>> change = (model.weight - before).detach() / 0.1
        >>> print(torch.linalg.svdvals(change))  # the first step is polar(g) / sqrt(1 + 1 / eta^2)
        tensor([0.7071, 0.7071])

    Reference: algorithm 3; paper read in full. No authors' code is public.
    """

    options = frozenset({"eta", "method", "steps", "damping", "grad_bound"})

    def __init__(
        self,
        params: Any,
        lr: Any = 0.02,
        *,
        betas: tuple[float, float] = (0.95, 0.95),
        eta: float = 1.0,
        weight_decay: float = 0.0,
        precision: str = "float32",
        method: str | None = None,
        steps: int | None = None,
        damping: float | None = None,
        grad_bound: float | None = None,
        nesterov: bool = False,
        scale: str | None = None,
        adamw_lr: float = 3e-4,
        adamw_betas: tuple[float, float] = (0.9, 0.95),
        adamw_eps: float = 1e-8,
        adamw_weight_decay: float = 0.0,
        distributed: str = "replicate",
        compile: bool | str = False,
        **own: Any,
    ) -> None:
        if method is not None and method not in METHODS:
            raise InvalidInputError(f"`method` must be None or one of {', '.join(METHODS)}, got {method!r}")
        self.compile = compile
        settings = {"betas": betas, "eta": eta, "weight_decay": weight_decay, "precision": precision, "method": method}
        settings |= {"steps": steps, "damping": damping, "grad_bound": grad_bound, "nesterov": nesterov, "scale": scale}
        settings |= {"adamw_lr": adamw_lr, "adamw_betas": adamw_betas, "adamw_eps": adamw_eps, **own}
        settings["adamw_weight_decay"] = adamw_weight_decay
        super().__init__(params, lr, distributed_mode=distributed, **settings)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles keep."""
        return {**super().__getstate__(), "compile": self.compile}

    def directions(self, group: dict[str, Any], entries: list[Entry], S: Tensor, M: Tensor | None) -> Tensor:
        """Leon's directions of a batch."""
        assert M is not None
        return _kernel(self.compile)(S, bounded(M, group, entries), eta=group["eta"], **iteration(group, S))


class Pion(Leon):
    r"""Pion: the mean of k orthogonalised, randomly perturbed momenta.

    .. math:: P = \frac1k \sum_{i=1}^k \mathrm{polar}(S + \eta^{-1} L Z_i), \qquad L L^T = M

    The noise of a step depends on `seed`, the parameter's number and the step alone: equal on all ranks, independent of
    batching, and the same again after a resume.

    Args:
        params, lr: as in `Leon`.
        samples: k; at high rates one sample is worse than Muon, 32 about Leon.
        seed: of the noise.
        **options: as in `Leon`.

    Raises:
        InvalidInputError: as `Leon`.

    Guarantee: as `Leon`'s, by theorems 6 and 12, in expectation over the noise and for columns >= rows + 2.

    Example:
        >>> model = torch.nn.Linear(5, 2, bias=False)
        >>> optimizer = Pion(model.parameters(), lr=0.1, samples=4, seed=0)
        >>> model(torch.eye(5)).square().sum().backward()
        >>> optimizer.step()
        >>> optimizer.diagnose()[0].operator_norm < 1
        True

    Reference: algorithm 2; paper read in full. No authors' code is public.
    """

    options = Leon.options | {"samples", "seed"}

    def __init__(self, params: Any, lr: Any = 0.02, *, samples: int = 8, seed: int = 0, **options: Any) -> None:
        super().__init__(params, lr, samples=samples, seed=seed, **options)

    def directions(self, group: dict[str, Any], entries: list[Entry], S: Tensor, M: Tensor | None) -> Tensor:
        """Pion's directions of a batch."""
        assert M is not None
        s, wide = min(S.shape[-2:]), max(S.shape[-2:])
        noise = torch.cat([noise_of(group, e, (group["samples"], e.count, s, wide), S) for e in entries], dim=1)
        options = iteration(group, S)
        if options["method"] not in ("eigh", "newton_schulz"):
            options["method"] = "polar_express"
        options.pop("damping")
        return pion_direction(
            S, bounded(M, group, entries), eta=group["eta"], samples=len(noise), noise=noise, **options
        )


def iteration(group: dict[str, Any], S: Tensor) -> dict[str, Any]:
    """Options of the direction as a group has them."""
    exact = S.dtype == torch.float64
    method = group["method"] or ("eigh" if exact else "polar_express")
    steps = group["steps"]
    return {"method": method, "steps": steps, "damping": group["damping"], "precision": group["precision"]}


def bounded(M: Tensor, group: dict[str, Any], entries: list[Entry]) -> Tensor:
    """M + (G / beta)^2 I where a bound G on the gradients is given."""
    if group["grad_bound"] is None:
        return M
    extra = [(e.state["unit"] * group["grad_bound"] / group["betas"][0]) ** 2 for e in entries for _ in range(e.count)]
    eye = torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)
    return M + torch.tensor(extra, dtype=M.dtype, device=M.device)[:, None, None] * eye


def noise_of(group: dict[str, Any], entry: Entry, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Normal numbers that depend on seed, parameter, part and step only."""
    word = int(group["seed"]) & 0xFFFFFFFF
    for value in (entry.number, entry.part, entry.step):  # mixed as in SplitMix64, so that neighbours share nothing
        word = (word * 0x9E3779B97F4A7C15 + value + 1) & 0xFFFFFFFFFFFFFFFF
        word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        word ^= word >> 27
    return draw(shape, torch.Generator().manual_seed(word >> 1), like)


@cache
def _kernel(compile: bool | str) -> Any:
    if not compile:
        return leon_direction
    backend = compile if isinstance(compile, str) else "inductor"
    return torch.compile(leon_direction, backend=backend, dynamic=False)
