r"""Training of routers: L-BFGS for linear scores on sparse or dense features, Adam for networks.

Members that are not convex start from the minimiser of the convex COMPSUM-log, and what they reach is kept only if the
deferral cost on the training rows is no worse (they can freeze on the majority expert).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor

from corollary.errors import InvalidInputError
from corollary.optim import make_optimizer

Loss = Callable[[Tensor], Tensor]  # scores (N, K) -> scalar


class Linear(NamedTuple):
    """Scores X @ weight + intercept, and what the solver said.

    Example:
        >>> Linear(np.zeros((3, 2)), np.zeros(2), 0.5, 7).weight.shape
        (3, 2)
    """

    weight: Float[np.ndarray, "d k"]
    intercept: Float[np.ndarray, " k"]
    loss: float
    iterations: int


def fit_linear(
    x: Any, loss: Loss, *, outputs: int, l2: float, start: Linear | None = None, iterations: int = 100
) -> Linear:
    r"""Minimise \(loss(X W + b) + \frac{l2}{2 N} \|W\|^2\).

    Args:
        x: (N, d) features, a scipy sparse matrix or an array.
        loss: mean loss of (N, K) scores, differentiable.
        outputs: K.
        l2: weight of the penalty, for the sum (not the mean) of the loss: 1 / C of scikit-learn.
        start: where to begin; zero by default.
        iterations: of L-BFGS, at most.

    Guarantee: none beyond L-BFGS; the global minimum where the loss is convex and it converged.

    Example:
        >>> from corollary.deferral import two_stage_loss
        >>> x, c = np.array([[1.0], [-1.0]] * 20), torch.tensor([[0.0, 1.0], [1.0, 0.0]] * 20, dtype=torch.float64)
        >>> fit = fit_linear(x, lambda s: two_stage_loss(s, c), outputs=2, l2=0.1)
        >>> (x @ fit.weight + fit.intercept).argmax(1)[:2].tolist()
        [0, 1]
    """
    n, d = x.shape
    shape = (d, outputs)
    transposed = x.T.tocsr() if hasattr(x, "tocsr") else x.T

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight, intercept = flat[: d * outputs].reshape(shape), flat[d * outputs :]
        scores = torch.from_numpy(np.asarray(x @ weight) + intercept).requires_grad_()
        value = loss(scores)
        value.backward()
        gradient = scores.grad.numpy() if scores.grad is not None else np.zeros(scores.shape)
        slope = np.asarray(transposed @ gradient) + l2 / n * weight
        total = value.item() + l2 / (2 * n) * float(np.vdot(weight, weight))
        return total, np.concatenate([slope.ravel(), gradient.sum(0)])

    first = np.zeros(d * outputs + outputs)
    if start is not None:
        first = np.concatenate([start.weight.ravel(), start.intercept])
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options={"maxiter": iterations, "ftol": 1e-7})
    weight = np.ascontiguousarray(found.x[: d * outputs].reshape(shape))
    return Linear(weight, found.x[d * outputs :].copy(), float(found.fun), int(found.nit))


def fit_network(
    network: torch.nn.Module,
    x: Float[Tensor, "n d"],
    loss: Callable[[Tensor, Tensor], Tensor],
    held_out: Callable[[Tensor, Tensor], float],
    *,
    rate: float,
    epochs: int,
    batch: int,
    share: float,
    seed: int,
    patience: int = 5,
    optimizer: str = "adam",
) -> list[float]:
    """Train a network in place; keep the epoch of least held-out cost.

    Args:
        network: maps (B, d) to (B, K) scores.
        x: (N, d) features.
        loss: `(scores, rows) -> scalar` for the rows of a batch.
        held_out: `(scores, rows) -> cost` that early stopping looks at.
        rate, epochs, batch: of Adam.
        share: of the rows held out for early stopping.
        seed: of the split and of the order.
        patience: epochs without a better one after which training stops.
        optimizer: "adam" or another name of `corollary.optim.make_optimizer`.

    Returns:
        The held-out cost after every epoch.

    Guarantee: none.

    Example:
        >>> from corollary.deferral import two_stage_cost, two_stage_loss
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(200, 2); c = torch.stack([(x[:, 0] < 0).float(), (x[:, 0] > 0).float()], 1)
        >>> costs = fit_network(torch.nn.Linear(2, 2), x, lambda s, i: two_stage_loss(s, c[i]),
        ...     lambda s, i: two_stage_cost(s, c[i]).item(), rate=0.1, epochs=5, batch=32, share=0.2, seed=0)
        >>> costs[-1] <= 0.1
        True
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    kept_out = max(1, int(share * len(x))) if len(x) > 1 else 0
    outside, inside = order[:kept_out], order[kept_out:]
    if not kept_out:
        outside = inside
    solver = make_optimizer(optimizer, network, lr=rate, seed=seed)
    best, state, history = float("inf"), None, []
    for _ in range(epochs):
        network.train()
        shuffled = inside[torch.randperm(len(inside), generator=generator)]
        for rows in shuffled.split(batch):
            solver.zero_grad()
            loss(network(x[rows]), rows).backward()
            solver.step()
        network.eval()
        with torch.no_grad():
            history.append(held_out(network(x[outside]), outside))
        if history[-1] < best:
            best, state = history[-1], {k: v.detach().clone() for k, v in network.state_dict().items()}
        elif len(history) - int(np.argmin(history)) > patience:
            break
    if state is not None:
        network.load_state_dict(state)
    return history


def as_dense(x: Any) -> Float[Tensor, "n d"]:
    """Features as a single-precision tensor.

    Example:
        >>> as_dense(np.eye(2)).dtype
        torch.float32
    """
    dense = x.toarray() if hasattr(x, "toarray") else x
    return torch.from_numpy(np.ascontiguousarray(dense)).float()


def standard_network(model: str | Callable[[int, int], torch.nn.Module], d: int, k: int, *, hidden: int) -> Any:
    """The network for d features and k scores: two hidden layers for "mlp", or what the user's function makes.

    Raises:
        InvalidInputError: for another word.

    Example:
        >>> len(standard_network("mlp", 3, 2, hidden=8))
        6
    """
    if callable(model):
        return model(d, k)
    if model != "mlp":
        raise InvalidInputError(f"`model` must be 'linear', 'mlp' or a function (d, K) -> module, got {model!r}")
    layers = torch.nn
    return layers.Sequential(
        layers.Linear(d, hidden),
        layers.ReLU(),
        layers.Dropout(0.1),
        layers.Linear(hidden, hidden),
        layers.ReLU(),
        layers.Linear(hidden, k),
    )
