"""The suite for optimizers: convergence, types, resuming, groups, closures, compilation, bad gradients."""

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from corollary.errors import CorollaryError, InvalidInputError

Make = Callable[..., torch.optim.Optimizer]


class OptimizerCheckError(CorollaryError, AssertionError):
    """One or more checks failed; the message names each and what was seen.

    Guarantee: none; it is a type to catch, also as `AssertionError`.

    Example:
        >>> issubclass(OptimizerCheckError, AssertionError)
        True
    """


def _quadratic(dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[nn.Parameter, Callable[[], Tensor]]:
    """|| A (W - W*) ||^2 / 2 with condition number 10, minimum 0."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.diag(torch.linspace(0.3, 1.0, 6))
    target = torch.randn(6, 9, generator=generator)
    W = nn.Parameter(torch.zeros(6, 9, dtype=dtype))
    return W, lambda: (A.to(dtype) @ (W - target.to(dtype))).square().sum() / 2


def _factorisation() -> tuple[list[nn.Parameter], Callable[[], Tensor]]:
    """|| U V - T ||^2 for a target of rank 3: nonconvex, minimum 0."""
    generator = torch.Generator().manual_seed(1)
    T = torch.randn(8, 3, generator=generator) @ torch.randn(3, 10, generator=generator) / 3
    U = nn.Parameter(torch.randn(8, 3, generator=generator) / 2)
    V = nn.Parameter(torch.randn(3, 10, generator=generator) / 2)
    return [U, V], lambda: (U @ V - T).square().mean()


def _network(seed: int = 0) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A small regression by a network with biases and a norm."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.copy_(torch.randn(p.shape, generator=generator) / p.shape[1] ** 0.5)
            elif p is not model[1].weight:
                p.zero_()
    x = torch.randn(64, 5, generator=generator)
    y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].sin()], 1)
    return model, lambda: (model(x) - y).square().mean()


def _run(
    optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], steps: int, *, decay: bool = True
) -> list[float]:
    values = []
    rates = [float(g["lr"]) for g in optimizer.param_groups]
    for t in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1 - t / steps) if decay else rate
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return values


def _convex(make: Make) -> None:
    W, loss = _quadratic()
    values = _run(make([W]), loss, 300)
    if not float(loss().detach()) < 0.05 * values[0]:
        raise AssertionError(f"a quadratic went from {values[0]:.4g} to {float(loss().detach()):.4g} in 300 steps")


def _nonconvex(make: Make) -> None:
    params, loss = _factorisation()
    values = _run(make(params), loss, 400)
    if not float(loss().detach()) < 0.05 * values[0]:
        raise AssertionError(f"a factorisation went from {values[0]:.4g} to {float(loss().detach()):.4g} in 400 steps")


def _learns(make: Make) -> None:
    model, loss = _network()
    values = _run(make(model.parameters()), loss, 150)
    if not float(loss().detach()) < 0.5 * values[0]:
        raise AssertionError(f"a network went from {values[0]:.4g} to {float(loss().detach()):.4g} in 150 steps")


def _dtypes(make: Make) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        W, loss = _quadratic(dtype)
        optimizer = make([W])
        values = _run(optimizer, loss, 60, decay=False)
        if W.dtype != dtype or not values[-1] < values[0]:
            raise AssertionError(f"weights of {dtype} became {W.dtype}, and {values[0]:.4g} went to {values[-1]:.4g}")


def _resume(make: Make) -> None:
    """Bit for bit, also where the state is deep-copied, and for weights narrower than the state."""
    for dtype in (torch.float32, torch.bfloat16):
        W, loss = _quadratic(dtype)
        optimizer = make([W])
        _run(optimizer, loss, 7, decay=False)
        state, weights = copy.deepcopy(optimizer.state_dict()), W.detach().clone()
        _run(optimizer, loss, 5, decay=False)
        V, again = _quadratic(dtype)
        V.data.copy_(weights)
        resumed = make([V])
        resumed.load_state_dict(state)
        _run(resumed, again, 5, decay=False)
        if not torch.equal(V, W):
            raise AssertionError(
                f"a resumed run of {dtype} weights differs by {float((V - W).detach().abs().max()):.3g}"
            )


def _repeatable(make: Make) -> None:
    ends = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        W, loss = _quadratic()
        _run(make([W]), loss, 5, decay=False)
        ends.append(W.detach())
    if not torch.equal(*ends):
        raise AssertionError("the result depends on the global generator; draw from one of its own")


def _groups(make: Make) -> None:
    """A group's own rate counts, and a frozen group (rate zero) stays."""
    (W, loss), (V, other) = _quadratic(seed=0), _quadratic(seed=1)
    optimizer = make([{"params": [W], "lr": 0.0}, {"params": [V]}])
    _run(optimizer, lambda: loss() + other(), 3, decay=False)
    if bool(W.any()):
        raise AssertionError("a group with lr 0 moved")
    if not bool(V.any()):
        raise AssertionError("a group with the default rate did not move")


def _closure(make: Make) -> None:
    W, loss = _quadratic()
    optimizer = make([W])
    calls = []

    def closure() -> Any:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        calls.append(1)
        return value

    optimizer.step(closure)
    returned: Any = optimizer.step(closure)  # twice: some rules only look in the first
    if (
        not calls
        or returned is None
        or not math.isfinite(float(torch.as_tensor(returned).detach()))
        or not bool(W.any())
    ):
        raise AssertionError("step(closure) must call it with gradients enabled, step, and return its value")


def _schedules(make: Make) -> None:
    W, loss = _quadratic()
    optimizer = make([W])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0 if t == 0 else 0.0)
    _run(optimizer, loss, 1, decay=False)
    schedule.step()
    before = W.detach().clone()
    loss().backward()
    optimizer.step()
    if not torch.equal(before, W):
        raise AssertionError("a schedule that sets the rate to zero did not stop the weights")


def _absent(make: Make) -> None:
    (W, loss), (V, _) = _quadratic(seed=0), _quadratic(seed=1)
    optimizer = make([W, V])
    loss().backward()
    optimizer.step()
    if bool(V.any()):
        raise AssertionError("a parameter without a gradient moved")


def _zero(make: Make) -> None:
    W, loss = _quadratic()
    optimizer = make([W])
    for _ in range(3):
        W.grad = torch.zeros_like(W)
        optimizer.step()
    if bool(W.any()) or not bool(torch.isfinite(W).all()):
        raise AssertionError("zero gradients moved the weights from zero")
    values = _run(optimizer, loss, 30, decay=False)
    if not values[-1] < values[0]:
        raise AssertionError("after zero gradients it does not learn")


def _tiny(make: Make) -> None:
    """A gradient of norm 1e-9 is a gradient: a scale-invariant rule must not shrink it, no rule may make it NaN."""
    W, _ = _quadratic()
    optimizer = make([W])
    W.grad = torch.full_like(W, 1e-10)
    optimizer.step()
    if not bool(torch.isfinite(W).all()):
        raise AssertionError("a tiny gradient made weights that are not finite")


def _not_finite(make: Make) -> None:
    """One NaN or infinity must not stay in weights or state."""
    for bad in (float("nan"), float("inf")):
        W, loss = _quadratic()
        optimizer = make([W])
        _run(optimizer, loss, 3, decay=False)
        W.grad = torch.full_like(W, bad)
        optimizer.step()
        values = _run(optimizer, loss, 30, decay=False)
        if not bool(torch.isfinite(W).all()) or not values[-1] < values[0]:
            raise AssertionError(f"a gradient of {bad} spoilt the weights or the state")


def _compiles(make: Make) -> None:
    """Compiled steps are compiled once: from the third on there is nothing new."""
    import torch._dynamo.testing as dynamo

    torch.compiler.reset()
    W, loss = _quadratic()
    optimizer = make([W])
    counter = dynamo.CompileCounter()
    step = torch.compile(lambda: optimizer.step(), backend=counter)
    counts = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own internals
            for _ in range(6):
                optimizer.zero_grad()
                loss().backward()
                step()
                counts.append(counter.frame_count)
    finally:
        torch.compiler.reset()
    if counts[-1] != counts[2]:
        raise AssertionError(f"steps were compiled again and again: {counts} graphs after each")


CHECKS: dict[str, Callable[[Make], None]] = {
    "convex": _convex,
    "nonconvex": _nonconvex,
    "network": _learns,
    "dtypes": _dtypes,
    "resume": _resume,
    "repeatable": _repeatable,
    "groups": _groups,
    "closure": _closure,
    "schedules": _schedules,
    "absent gradients": _absent,
    "zero gradients": _zero,
    "tiny gradients": _tiny,
    "not finite": _not_finite,
    "compile": _compiles,
}


def check_optimizer(
    make: Any, *, expected_failures: Mapping[str, str] | None = None, only: Iterable[str] | None = None
) -> dict[str, str]:
    """Run the suite on an optimizer.

    Args:
        make: parameters or groups -> optimizer, at a rate near 0.05 times what keeps a step of unit size
            (`lambda params: Leon(params, lr=0.05)`, `lambda params: AdamW(params, lr=0.05)`).
        expected_failures: check to reason; such a check must fail.
        only: names of the checks to run; default all.

    Returns:
        check -> "passed" or "fails as declared: ...".

    Raises:
        OptimizerCheckError: where a check fails that was not declared to, or passes that was.
        InvalidInputError: for a name that is no check.

    Guarantee: none; tests on small problems.

    Example:
        >>> from corollary.optim import Leon
        >>> check_optimizer(lambda params: Leon(params, lr=0.05), only=["convex", "zero gradients"])
        {'convex': 'passed', 'zero gradients': 'passed'}
    """
    declared, outcome, problems = dict(expected_failures or {}), {}, []
    names = list(CHECKS if only is None else only)
    if unknown := ({*declared, *names} - CHECKS.keys()):
        raise InvalidInputError(f"no check is named {', '.join(sorted(unknown))}; the checks are {', '.join(CHECKS)}")
    for name in names:
        try:
            CHECKS[name](make)
            found = "passed"
        except Exception as problem:
            found = f"failed ({type(problem).__name__}: {str(problem)[:300]})"
        if found != "passed" and name in declared:
            found = f"fails as declared: {declared[name]}"
        elif found != "passed":
            problems.append(f"{name} {found}")
        elif name in declared:
            problems.append(f"{name} passed, and was declared to fail ({declared[name]})")
        outcome[name] = found
    if problems:
        raise OptimizerCheckError("; ".join(problems))
    return outcome
