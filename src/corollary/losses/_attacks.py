r"""Projected gradient ascent inside a ball: the inner maximisation of adversarial training, and its evaluation.

Symbols: gamma (`eps`) the radius, x' the perturbed input, K the steps.
Madry et al. (ICLR 2018); start and settings as in TRADES (Zhang et al., ICML 2019; authors' code read in notes).
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from corollary.errors import InvalidInputError

Norm = Literal["linf", "l2"]
NORMS = ("linf", "l2")


@contextlib.contextmanager
def evaluation_mode(model: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The model in evaluation mode (batch statistics must not learn from attacks), restored afterwards.

    Example:
        >>> layer = nn.Dropout()
        >>> with evaluation_mode(layer):
        ...     inside = layer.training
        >>> inside, layer.training
        (False, True)
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    before = [m.training for m in modules]
    for m in modules:
        m.training = False
    try:
        yield
    finally:
        for m, mode in zip(modules, before, strict=True):
            m.training = mode


def project(x: Tensor, centre: Tensor, *, eps: float, norm: str = "linf") -> Float[Tensor, "..."]:
    r"""The nearest point to x in the ball \(\|x' - c\|_p \le \epsilon\).

    Args:
        x, centre: (N, ...) inputs.
        eps: radius.
        norm: `"linf"` or `"l2"`.

    Guarantee: exact.

    Example:
        >>> project(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2), eps=1.0, norm="l2")
        tensor([[0.6000, 0.8000]])
    """
    if norm not in NORMS:
        raise InvalidInputError(f"`norm` must be 'linf' or 'l2', got {norm!r}")
    d = x - centre
    if norm == "linf":
        return centre + d.clamp(-eps, eps)
    length = d.flatten(1).norm(dim=1).clamp(min=1e-12)
    return centre + d * (eps / length).clamp(max=1.0).reshape(-1, *[1] * (d.ndim - 1))


def pgd(
    objective: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    norm: str = "linf",
    low: float | None = 0.0,
    high: float | None = 1.0,
    start: float = 0.001,
    seed: int | torch.Generator = 0,
) -> Float[Tensor, "..."]:
    r"""Points of the ball around x that make the objective large.

    .. math:: x \leftarrow \Pi(x + step \cdot \mathrm{sign}\, \nabla) \text{ (linf)}, \quad
        \Pi(x + step \cdot \nabla / \|\nabla\|_2) \text{ (l2)}

    Args:
        objective: (N, ...) inputs to (N,) values.
        x: (N, ...) inputs, the centres.
        eps: radius; step: length of a step; steps: K.
        norm: `"linf"` or `"l2"`.
        low, high: range of valid inputs; None for none.
        start: standard deviation of the random start; a norm of differences has no gradient at x itself. Use eps for
            restarts.
        seed: or a generator, which is then advanced.

    Returns:
        (N, ...) detached inputs.

    Raises:
        InvalidInputError: for a negative radius or no steps.

    Guarantee: within the ball and the range; a lower bound of the supremum.

    Example:
        >>> x = pgd(lambda v: v.sum(1), torch.full((1, 2), 0.5), eps=0.1, step=0.05, steps=5)
        >>> x.round(decimals=4)
        tensor([[0.6000, 0.6000]])
    """
    if eps < 0 or steps < 1 or step <= 0:
        raise InvalidInputError(f"need eps >= 0, step > 0 and at least one step, got {eps}, {step}, {steps}")
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator(x.device).manual_seed(seed)

    def valid(v: Tensor) -> Tensor:
        v = project(v, x, eps=eps, norm=norm)
        return v if low is None and high is None else v.clamp(low, high)

    moved = valid(x + start * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)).detach()
    for _ in range(steps):
        moved.requires_grad_()
        with torch.enable_grad():
            (g,) = torch.autograd.grad(objective(moved).sum(), moved)
        if norm == "linf":
            direction = g.sign()
        else:
            direction = g / g.flatten(1).norm(dim=1).clamp(min=1e-12).reshape(-1, *[1] * (g.ndim - 1))
        moved = valid(moved.detach() + step * direction).detach()
    return moved


def margins(logits: Tensor, target: Tensor) -> Float[Tensor, " m"]:
    r"""\(z_y - \max_{y' \ne y} z_{y'}\), row by row.

    Guarantee: none; see the functions that use it.

    Example:
        >>> margins(torch.tensor([[3.0, 1.0]]), torch.tensor([1]))
        tensor([-2.])
    """
    others = logits.scatter(1, target[:, None], float("-inf")).amax(1)
    return logits.gather(1, target[:, None])[:, 0] - others


@torch.no_grad()
def robust_accuracy(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    target: Tensor,
    *,
    eps: float,
    step: float,
    steps: int = 40,
    restarts: int = 1,
    norm: str = "linf",
    low: float | None = 0.0,
    high: float | None = 1.0,
    seed: int = 0,
) -> float:
    """Share of inputs that a PGD attack on the margin cannot make the model mistake.

    Args:
        model: inputs to (N, n) logits.
        x, target: inputs and labels.
        eps, step, steps, norm, low, high: as in `pgd`.
        restarts: attacks from independent random starts; an input counts if it withstands all.
        seed: of the starts.

    Guarantee: an upper bound of the true robust accuracy.

    Example:
        >>> robust_accuracy(lambda v: v, torch.eye(2), torch.tensor([0, 1]), eps=0.1, step=0.02, steps=5)
        1.0
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    with evaluation_mode(model):
        safe = margins(model(x), target) > 0
        for _ in range(restarts):
            moved = pgd(
                lambda v: -margins(model(v), target),
                x,
                eps=eps,
                step=step,
                steps=steps,
                norm=norm,
                low=low,
                high=high,
                start=eps / 2,
                seed=generator,
            )
            safe &= margins(model(moved), target) > 0
    return float(safe.double().mean()) if len(x) else float("nan")
