r"""METRO for torch modules: the cost-weighted surrogate as a loss, and the deep version with outer rounds.

.. math:: \ell(f, y) = c_{FN} 1[y=1] \Phi(f) + c_{FP} 1[y=-1] \Phi(-f)

Symbols: M the level; after a plain pretraining each of a few rounds trains some epochs on the costs of M, warm-started,
and moves M towards the validation metric by an exponential average. [derived; specification section 3.4]

Rows are never measured in batches: the metric is a ratio, so its four counts are taken over the whole split.
"""

import copy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from corollary.errors import InvalidInputError
from corollary.metrics._metric import Costs, confusion, get_metric
from corollary.metrics._posterior import PROPER, weighted_posterior
from corollary.metrics._search import SearchResult
from corollary.metrics._surrogates import check_surrogate
from corollary.optim import make_optimizer

BATCH = 256  # at most; small tables get ten batches an epoch
SCORED_AT_ONCE = 8192


def surrogate_of_margin(u: Tensor, name: str, *, rho: float = 1.0) -> Float[Tensor, "..."]:
    r"""\(\Phi(u)\) for tensors, differentiable (almost everywhere for the hinge and the rho-margin)."""
    check_surrogate(name)
    if name == "logistic":
        return F.softplus(-u)
    if name == "exponential":
        return torch.exp(-u.clamp(min=-30.0))
    if name == "rho_margin":
        return (1 - u / rho).clamp(0.0, 1.0)
    gap = F.relu(1 - u)
    return gap**2 if name == "squared_hinge" else gap


def cost_sensitive_loss(
    logits: Tensor,
    target: Tensor,
    *,
    costs: Costs | tuple[float, float],
    surrogate: str = "logistic",
    rho: float = 1.0,
    reduction: str = "mean",
) -> Float[Tensor, "..."]:
    r"""The METRO surrogate at given costs.

    .. math:: \ell = c_{FN} 1[y=1] \Phi(f) + c_{FP} 1[y=-1] \Phi(-f)

    Args:
        logits: (...) scores f.
        target: (...) truth, positive where larger than 0.
        costs: (c_FN, c_FP), for instance `FBeta(1.0).costs(level).scaled()`.
        surrogate: one of the five.
        rho: margin of the rho-margin surrogate.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Raises:
        InvalidInputError: for shapes that differ, or another reduction.

    Guarantee: G6 of the tests: its excess bounds the cost-sensitive excess through the surrogate's transform.

    Example:
        >>> loss = cost_sensitive_loss(torch.zeros(2), torch.tensor([1, 0]), costs=(1.0, 0.5))
        >>> round(loss.item(), 4)
        0.5199

    Reference: Mao, Mohri and Zhong, ICML 2025; reconstructed from abstract and notes, may differ.
    """
    if logits.shape != target.shape:
        raise InvalidInputError(f"logits and target need one shape, got {tuple(logits.shape)}, {tuple(target.shape)}")
    positive = target > 0
    fn, fp = costs
    weight = torch.where(positive, fn, fp).to(logits.dtype)
    loss = weight * surrogate_of_margin(torch.where(positive, logits, -logits), surrogate, rho=rho)
    if reduction not in ("mean", "sum", "none"):
        raise InvalidInputError(f"`reduction` must be mean, sum or none, got {reduction!r}")
    return loss if reduction == "none" else getattr(loss, reduction)()


def train_epochs(
    module: nn.Module,
    X: Tensor,
    y: Tensor,
    *,
    costs: Costs,
    epochs: int,
    generator: torch.Generator,
    surrogate: str = "logistic",
    lr: float = 1e-2,
    weight_decay: float = 1e-4,
    optimizer: str = "adamw",
) -> nn.Module:
    """Train `module` in place for some epochs on the cost-weighted surrogate."""
    solver = make_optimizer(optimizer, module, lr=lr, weight_decay=weight_decay)
    module.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(X), generator=generator).split(min(BATCH, max(1, len(X) // 10))):
            solver.zero_grad()
            loss = cost_sensitive_loss(module(X[rows]).reshape(-1), y[rows], costs=costs, surrogate=surrogate)
            loss.backward()
            solver.step()
    return module


@torch.no_grad()
def module_scores(module: nn.Module, X: ArrayLike | Tensor) -> Float[np.ndarray, " n"]:
    """(n,) logits in evaluation mode, some rows at a time."""
    module.eval()
    parameter = next(iter(module.parameters()))
    rows = torch.as_tensor(np.asarray(X), dtype=parameter.dtype, device=parameter.device)
    scores = [module(part).reshape(-1) for part in rows.split(SCORED_AT_ONCE)]
    return torch.cat(scores).double().cpu().numpy()


def train_metro(
    module: nn.Module,
    X: ArrayLike,
    y: ArrayLike,
    X_validation: ArrayLike,
    y_validation: ArrayLike,
    *,
    metric: Any = "f1",
    surrogate: str = "logistic",
    pretrain: int = 5,
    rounds: int = 4,
    epochs: int = 3,
    momentum: float = 0.5,
    lr: float = 1e-2,
    weight_decay: float = 1e-4,
    optimizer: str = "adamw",
    seed: int = 0,
) -> SearchResult:
    r"""The deep version: pretrain plainly, then rounds of training at the level that validation has reached.

    .. math:: M \leftarrow \mu M + (1 - \mu) M_{\text{validation}}

    Args:
        module: gives one logit a row; trained in place and left at its best round.
        X, y: training rows; truth is positive where larger than 0.
        X_validation, y_validation: rows that the level and the round are chosen on; not to be certified on.
        metric: a name or a `LinearFractionalMetric`.
        surrogate: margin surrogate.
        pretrain: epochs of the plain surrogate before the first round.
        rounds: outer rounds; 3 to 5 do.
        epochs: epochs a round.
        momentum: \(\mu\), what the level keeps of itself.
        lr, weight_decay, optimizer: as in `corollary.optim.make_optimizer`, e.g. "leon".
        seed: of the batches.

    Returns:
        The levels tried and the validation metric of each; the module is the best of them, or the plain one
        where that was better.

    Raises:
        InvalidInputError: for empty or one-class rows.

    Guarantee: none; no worse than its pretraining on the validation rows.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(400, 2)); y = (X[:, 0] + rng.normal(size=400) > 1.5)
        >>> found = train_metro(nn.Linear(2, 1), X[:300], y[:300], X[300:], y[300:])
        >>> found.value >= found.values[0]
        True

    Reference: Mao, Mohri and Zhong, ICML 2025; our derivation of a deep version.
    """
    m, positive = get_metric(metric), np.asarray(y) > 0
    if not 0 < positive.sum() < len(positive):
        raise InvalidInputError(f"`y` needs both classes, got {positive.sum()} positives of {len(positive)}")
    parameter = next(iter(module.parameters()))
    rows = torch.as_tensor(np.asarray(X), dtype=parameter.dtype, device=parameter.device)
    truth = torch.as_tensor(positive, device=parameter.device)
    generator, prevalence = torch.Generator().manual_seed(seed), float(positive.mean())
    levels: list[float] = []
    values: list[float] = []
    states = []
    level, costs, budget = m.span(prevalence)[0], Costs(1.0, 1.0), pretrain
    for turn in range(rounds + 1):
        options: dict[str, Any] = {
            "surrogate": surrogate,
            "lr": lr,
            "weight_decay": weight_decay,
            "optimizer": optimizer,
        }
        train_epochs(module, rows, truth, costs=costs, epochs=budget, generator=generator, **options)
        levels.append(level)
        values.append(float(m.value(confusion(np.asarray(y_validation), module_scores(module, X_validation) > 0))))
        states.append(copy.deepcopy(module.state_dict()))
        level = values[-1] if turn == 0 else momentum * level + (1 - momentum) * values[-1]
        costs, budget = m.costs(level, prevalence=prevalence).scaled(), epochs
    best = int(np.argmax(values))
    module.load_state_dict(states[best])
    module.eval()
    return SearchResult(levels[best], values[best], tuple(levels), tuple(values), (min(levels), max(levels)))


class ModuleOracle:
    """A torch module as an oracle: every solve goes on from the last one, the first from the module as given.

    Args:
        module: gives one logit a row; copied, so the user's stays as it is.
        X, y: rows and truth.
        surrogate: margin surrogate.
        seed: of the batches.
        first, later: epochs of the first solve and of the warm-started ones.
    """

    def __init__(
        self, module: nn.Module, X: Any, y: ArrayLike, *, surrogate: str, seed: int, first: int = 20, later: int = 3
    ) -> None:
        self.module, self.surrogate = copy.deepcopy(module), surrogate
        parameter = next(iter(self.module.parameters()))
        self.X = torch.as_tensor(np.asarray(X), dtype=parameter.dtype, device=parameter.device)
        self.y = torch.as_tensor(np.asarray(y) > 0, device=parameter.device)
        self.generator, self.first, self.later = torch.Generator().manual_seed(seed), first, later
        self.solved = 0

    def solve(self, costs: Costs) -> nn.Module:
        """A copy of the module, trained on from the last solution."""
        budget = self.later if self.solved else self.first
        self.solved += 1
        options: dict[str, Any] = {"epochs": budget, "generator": self.generator, "surrogate": self.surrogate}
        return copy.deepcopy(train_epochs(self.module, self.X, self.y, costs=costs, **options))

    def score(self, X: Any, model: nn.Module) -> Float[np.ndarray, " n"]:
        """(n,) logits."""
        return module_scores(model, X)

    def forget_rows(self) -> None:
        """Let the training rows go."""
        self.X = self.X[:0]

    def posterior(self, score: np.ndarray) -> np.ndarray | None:
        """The inverse link of the surrogate, where it has one."""
        return weighted_posterior(score, self.surrogate) if self.surrogate in PROPER else None
