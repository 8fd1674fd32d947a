"""T of any loss by minimisation, users' own included, and pictures of T and Gamma."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from corollary.errors import InvalidInputError, MissingExtraError
from corollary.losses.consistency._bounds import ConsistencyBound
from corollary.losses.consistency._transforms import _within, tabulate, tabulated_inverse


def worst_distributions(t: float, *, classes: int, draws: int, seed: int) -> Float64[np.ndarray, "d n"]:
    """Distributions in which predicting class 1 has zero-one regret t: eta_0 - eta_1 = t and eta_0 largest.

    The first puts all mass on classes 0 and 1; the others draw the mass left over at random.

    Example:
        >>> worst_distributions(0.5, classes=2, draws=3, seed=0)[0].tolist()
        [0.75, 0.25]
    """
    rng = np.random.default_rng(seed)
    if classes == 2:
        return np.array([[(1 + t) / 2, (1 - t) / 2]])
    rows = [np.array([(1 + t) / 2, (1 - t) / 2] + [0.0] * (classes - 2))]
    while len(rows) < draws:
        first = rng.uniform(max(t, 1 / classes), (1 + t) / 2)  # eta_1 = first - t is not negative
        left = 1 - first - (first - t)
        rest = left * rng.dirichlet(np.full(classes - 2, rng.choice([0.3, 1.0, 5.0])))
        if left >= 0 and first - t >= 0 and (rest <= first).all():
            rows.append(np.concatenate([[first, first - t], rest]))
    return np.array(rows)


def numeric_transform(
    loss: Callable[..., Tensor],
    t: Any,
    *,
    classes: int,
    draws: int = 48,
    steps: int = 400,
    seed: int = 0,
) -> Float64[np.ndarray, "..."]:
    r"""The least surrogate regret found at a zero-one regret of t, by descent over scores and draws of eta.

    For every eta, the best scores that predict a class worse by t, minus the best scores without that constraint.

    Args:
        loss: any loss with `(logits, target, reduction="none")` or a module with `reduction="none"`.
        t: zero-one regrets in [0, 1].
        classes: n.
        draws: distributions tried for each t.
        steps: steps of descent.
        seed: of the distributions and starts.

    Returns:
        T(t) from above: what was found, not a bound.

    Guarantee: none; an estimate for looking at. `general_transform` and the closed forms are bounds.

    Example:
        >>> from corollary.losses import CompSumLoss
        >>> loss = CompSumLoss(tau=1.0, reduction="none")
        >>> abs(numeric_transform(loss, 0.6, classes=2).item() - 0.1927) < 1e-3
        True
    """
    values = [_least_regret(loss, float(v), classes, draws, steps, seed) for v in _within(t).reshape(-1)]
    return np.array(values).reshape(np.shape(t))


def _least_regret(loss: Callable[..., Tensor], t: float, n: int, draws: int, steps: int, seed: int) -> float:
    eta = torch.from_numpy(worst_distributions(t, classes=n, draws=draws, seed=seed))
    generator = torch.Generator().manual_seed(seed)
    starts = torch.cat([torch.zeros_like(eta), torch.log(eta + 1e-3)])
    eta = eta.repeat(2, 1)
    noise = 0.1 * torch.randn(starts.shape, generator=generator, dtype=torch.float64)

    def descend(shape: Callable[[Tensor], Tensor]) -> Tensor:
        free = (starts + noise).clone().requires_grad_()
        optimiser = torch.optim.Adam([free], lr=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        best = torch.full((len(eta),), float("inf"), dtype=torch.float64)
        for _ in range(steps):
            optimiser.zero_grad()
            z = shape(free)
            rows = (torch.stack([loss(z, torch.full((len(z),), k)) for k in range(n)], -1) * eta).sum(-1)
            best = torch.minimum(best, rows.detach())
            rows.sum().backward()
            optimiser.step()
            schedule.step()
        return best

    def wrong(free: Tensor) -> Tensor:  # class 1 is a largest score
        others = free[:, 1:2] - torch.nn.functional.relu(free[:, 1:2] - free)
        return torch.cat([others[:, :1], free[:, 1:2], others[:, 2:]], 1)

    half = len(eta) // 2
    least = descend(lambda free: free)
    least = torch.minimum(least[:half], least[half:])
    held = descend(wrong)
    held = torch.minimum(held[:half], held[half:])
    return float((held - torch.minimum(least, held)).min())


def numeric_bound(loss: Callable[..., Tensor], *, classes: int, points: int = 21, **options: Any) -> ConsistencyBound:
    """The curve of `numeric_transform` as a bound object, for looking at; not a theorem.

    Example:
        >>> from corollary.losses import CompSumLoss
        >>> bound = numeric_bound(CompSumLoss(tau=1.0, reduction="none"), classes=2, points=5, steps=50)
        >>> "not a theorem" in str(bound)
        True
    """
    grid, curve = tabulate(lambda t: numeric_transform(loss, t, classes=classes, **options), points=points)
    return ConsistencyBound(
        "zero-one error",
        lambda t: np.interp(t, grid, curve),
        lambda y: tabulated_inverse(grid, curve, y),
        "estimated by descent, not a theorem",
        (),
        "measured",
    )


def plot_transforms(bounds: dict[str, ConsistencyBound], *, points: int = 201) -> Any:
    """T and Gamma of several losses side by side.

    Args:
        bounds: name to bound, e.g. from `loss.consistency_bound` or `numeric_bound` for a loss of one's own.
        points: resolution.

    Returns:
        A matplotlib figure.

    Raises:
        MissingExtraError: without matplotlib.

    Guarantee: none; a picture.

    Example:
        >>> from corollary.losses import CompSumLoss
        >>> figure = plot_transforms({"cross-entropy": CompSumLoss().consistency_bound(classes=3)})
        >>> len(figure.axes)
        2
    """
    if not bounds:
        raise InvalidInputError(
            "`bounds` is empty; pass at least one, e.g. {'mine': loss.consistency_bound(classes=3)}"
        )
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "report", "a picture of T and Gamma") from None
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    t = np.linspace(0, 1, points)
    for name, bound in bounds.items():
        curve = bound.surrogate(t)
        left.plot(t, curve, label=name)
        y = np.linspace(0, 1.0, points)
        right.plot(y, bound.target(y), label=name)
    left.set(xlabel="excess of the target, t", ylabel="least surrogate excess, T(t)")
    right.set(xlabel="surrogate excess, y", ylabel="largest excess of the target, Γ(y)", ylim=(0, 1.02))
    left.legend(frameon=False)
    return figure
