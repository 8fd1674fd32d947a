"""The suite that every loss here passes, and that anyone can run on a loss of their own."""

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from corollary.errors import CorollaryError
from corollary.testing._loss_case import ROWS, Case, NotApplicable, close

Check = Callable[[Case], None]


class LossCheckError(CorollaryError, AssertionError):
    """A loss failed a check, or passed one that was declared to fail; the message names each.

    Guarantee: none; see the functions that use it.

    Example:
        >>> issubclass(LossCheckError, AssertionError)
        True
    """


def _gradients(case: Case) -> None:
    loss, z = case.make(), case.draw().requires_grad_()
    if not torch.autograd.gradcheck(lambda v: loss(v, case.labels()), z, eps=1e-6, atol=1e-6):
        raise AssertionError("gradcheck")  # pragma: no cover - gradcheck raises


def _double_backward(case: Case) -> None:
    loss, z = case.make(), case.draw(scale=1.0).requires_grad_()
    torch.autograd.gradgradcheck(lambda v: loss(v, case.labels()), z, eps=1e-6, atol=1e-5)


def _twice_backward(case: Case) -> None:
    z = case.draw().requires_grad_()
    value = case.make()(z, case.labels())
    (first,) = torch.autograd.grad(value, z, retain_graph=True)
    (second,) = torch.autograd.grad(value, z)
    close(second, first, "a second backward pass")


def _nonnegative(case: Case) -> None:
    if not case.declares("nonnegative"):
        raise NotApplicable("not declared nonnegative")
    loss = case.rows() if case.declares("rowwise", True) else case.make()
    for scale in (0.1, 2.0, 30.0):
        if float(loss(case.draw(60, scale), case.labels(60)).detach().min()) < -1e-9:
            raise AssertionError("declared nonnegative, and negative")


def _bounded(case: Case) -> None:
    loss = case.rows()
    large = [float(loss(case.draw(200, scale), case.labels(200)).detach().max()) for scale in (1e2, 1e4)]
    if case.declares("bounded") is True and large[1] > 1.01 * large[0] + 1:
        raise AssertionError(f"declared bounded, and grows from {large[0]:.4g} to {large[1]:.4g}")
    if case.declares("bounded") is False and large[1] < 1.01 * large[0]:
        raise AssertionError("declared unbounded, and does not grow")


def _convex(case: Case) -> None:
    if not case.declares("convex"):
        raise NotApplicable("not declared convex")
    loss = case.rows()
    for scale in (0.3, 2.0, 10.0):
        a, b, y = case.draw(300, scale, 1), case.draw(300, scale, 2), case.labels(300)
        gap = loss((a + b) / 2, y) - (loss(a, y) + loss(b, y)) / 2
        if bool((gap > 1e-9 * (1 + loss(a, y).abs() + loss(b, y).abs())).any()):
            raise AssertionError("declared convex, and above a chord")


def _symmetric(case: Case) -> None:
    sums = case.every(case.rows(), case.draw(50)).sum(-1)
    constant = bool((sums - sums[0]).abs().max() < 1e-8)
    if case.declares("symmetric") is not None and case.declares("symmetric") != constant:
        raise AssertionError(f"declared symmetric = {case.declares('symmetric')}, measured {constant}")


def _shift_invariant(case: Case) -> None:
    loss, z = case.make(), case.draw()
    same = bool((loss(z + 3.0, case.labels()) - loss(z, case.labels())).abs() < 1e-9)
    if case.declares("shift_invariant") is not None and case.declares("shift_invariant") != same:
        raise AssertionError(f"declared shift_invariant = {case.declares('shift_invariant')}, measured {same}")


def _equivariant(case: Case) -> None:
    if not case.declares("equivariant"):
        raise NotApplicable("not declared equivariant")
    order = torch.randperm(case.classes, generator=torch.Generator().manual_seed(case.seed))
    loss, z, y = case.make(), case.draw(), case.labels()
    close(loss(z[:, order], torch.argsort(order)[y]), loss(z, y), "permuted classes")


def _distributions(case: Case, rows: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(case.seed)
    drawn = torch.rand(rows, case.classes, generator=generator, dtype=torch.float64).log().neg() + 0.05
    return drawn / drawn.sum(-1, keepdim=True)


def _proper(case: Case) -> None:
    if not case.declares("proper"):
        raise NotApplicable("not declared proper")
    eta = _distributions(case)
    # 1e-4: a numerical minimiser, as for everything that is trained
    close(case.make().predict_proba(case.minimise(eta)), eta, "probabilities at the minimiser", 1e-4)  # type: ignore[attr-defined]


def _consistent(case: Case) -> None:
    target = "zero-one" if case.declares("calibrated") else case.declares("consistent_for")
    if target not in ("zero-one", "balanced"):
        raise NotApplicable("declared consistent for no error that can be tested here")
    eta = _distributions(case)
    value = eta if target == "zero-one" else eta / _prior(case)
    top = value.topk(2, -1).values
    clear = top[:, 0] > 1.05 * top[:, 1]  # near ties a numerical minimiser decides by chance
    z, loss = case.minimise(eta), case.make()
    best = getattr(loss, "predict", lambda scores: scores.argmax(-1))(z)
    wrong = int((best != value.argmax(-1))[clear].sum())
    if wrong:
        raise AssertionError(f"declared consistent for {target}, and wrong on {wrong} of {int(clear.sum())} points")


def _prior(case: Case) -> Tensor:
    counts = case.declares("counts")
    p = case.declares("prior") if counts is None else counts / counts.sum()
    if p is None:
        raise NotApplicable("the loss shows neither `prior` nor `counts`")
    return p.double()


KNOWN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": torch.nn.functional.cross_entropy,
    "mean absolute error": lambda z, y: (1 - torch.softmax(z, 1).gather(1, y[:, None])).mean(),
}


def _limits(case: Case) -> None:
    limits = case.declares("limits")
    if not limits:
        raise NotApplicable("no limits are declared")
    z, y = case.draw(), case.labels()
    for name, value in limits.items():
        options, known = value if isinstance(value, tuple) else (value, KNOWN[name])
        close(case.make(**options)(z, y), known(z, y), f"its limit, {name}")


def _reductions(case: Case) -> None:
    z, y = case.draw(), case.labels()
    rows, loop = case.rows()(z, y), torch.stack([case.make()(z[i : i + 1], y[i : i + 1]) for i in range(ROWS)])
    close(rows, loop, "rows against a loop")
    close(case.make(reduction="mean")(z, y), loop.mean(), "mean against a loop")
    close(case.make(reduction="sum")(z, y), loop.sum(), "sum against a loop")


def _ignored(case: Case) -> None:
    z, y = case.draw(), case.labels()
    marked = y.clone()
    marked[1::2] = -100
    close(case.make(ignore_index=-100)(z, marked), case.make()(z[::2], y[::2]), "ignored rows")
    nothing = case.make(ignore_index=-100)(z, torch.full_like(y, -100))
    if not bool(torch.isfinite(nothing)):
        raise AssertionError("a batch of ignored rows only is not finite")


def _weights(case: Case) -> None:
    weight = torch.linspace(0.5, 2.0, case.classes, dtype=torch.float64)
    z, y = case.draw(), case.labels()
    rows = case.rows()(z, y)
    close(case.rows(weight=weight)(z, y), rows * weight[y], "weighted rows")
    mean = (rows * weight[y]).sum() / weight[y].sum()
    close(case.make(reduction="mean", weight=weight)(z, y), mean, "weighted mean, as in torch")


def _axes(case: Case) -> None:
    z = case.draw(12)
    y = case.labels(12)
    folded = z.reshape(3, 4, case.classes).movedim(-1, 1)
    close(case.rows()(folded, y.reshape(3, 4)), case.rows()(z, y).reshape(3, 4), "trailing axes")
    close(case.rows()(z[0], y[0]), case.rows()(z[:1], y[:1])[0], "a single row")


def _soft(case: Case) -> None:
    z, y = case.draw(), case.labels()
    one_hot = torch.nn.functional.one_hot(y, case.classes).double()
    close(case.rows()(z, one_hot), case.rows()(z, y), "one-hot against labels")
    half = (one_hot + 1 / case.classes) / 2
    expected = (case.every(case.rows(), z) * half).sum(-1)
    close(case.rows()(z, half), expected, "soft targets against the sum over labels")


def _dtypes(case: Case) -> None:
    z, y = case.draw(), case.labels()
    exact = case.make()(z, y)
    single = case.make()(z.float(), y)
    if single.dtype != torch.float32:
        raise AssertionError(f"float32 logits gave a loss of {single.dtype}")
    close(single.double(), exact, "float32", 1e-5)
    for half in (torch.float16, torch.bfloat16):
        value = case.make()(z.to(half), y)
        close(value.double(), case.make()(z.to(half).double(), y), f"{half}", 1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(case.make()(z.float(), y).double(), exact, "under autocast", 1e-2)


def _stable(case: Case) -> None:
    for dtype in (torch.float32, torch.float64):
        for scale in (1e4, -1e4):
            z = torch.zeros(case.classes, case.classes, dtype=dtype)
            z[:, 0] = scale
            z.requires_grad_()
            value = case.make()(z, case.labels(case.classes))
            (gradient,) = torch.autograd.grad(value, z)
            if not bool(torch.isfinite(value)) or not bool(torch.isfinite(gradient).all()):
                raise AssertionError(f"not finite at logits of {scale:g} in {dtype}")


def _transforms(case: Case) -> None:
    z, y = case.draw(), case.labels()
    rows, one = case.rows(), case.make()
    close(torch.func.vmap(one)(z, y), rows(z, y), "vmap over rows")
    v = z.clone().requires_grad_()
    (expected,) = torch.autograd.grad(rows(v, y).sum(), v)
    close(torch.func.vmap(torch.func.grad(one))(z, y), expected, "vmap of grad")


def _compiles(case: Case) -> None:
    z, y = case.draw().requires_grad_(), case.labels()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own internals
        compiled = torch.compile(case.make(), backend="aot_eager", fullgraph=True)
        value = compiled(z, y)
        (gradient,) = torch.autograd.grad(value, z)
    torch.compiler.reset()
    plain = case.make()(z, y)
    close(value, plain, "compiled")
    close(gradient, torch.autograd.grad(plain, z)[0], "gradient, compiled")


def _device(case: Case) -> None:
    if not torch.cuda.is_available():
        raise NotApplicable("no accelerator here")
    z, y = case.draw().requires_grad_(), case.labels()
    there = z.detach().cuda().requires_grad_()
    loss = case.make()
    module = loss.cuda() if isinstance(loss, torch.nn.Module) else loss
    value = module(there, y.cuda())
    plain = case.make()(z, y)
    close(value.cpu(), plain, "on the accelerator")
    close(torch.autograd.grad(value, there)[0].cpu(), torch.autograd.grad(plain, z)[0], "its gradient there")


def _checkpoint(case: Case) -> None:
    if not isinstance(case.loss, torch.nn.Module):
        raise NotApplicable("a function has no state")
    again = copy.deepcopy(case.loss)
    for buffer in again.buffers():
        buffer.fill_(1.0 / case.classes)
    again.load_state_dict(case.loss.state_dict())
    close(again(case.draw(), case.labels()), case.make()(case.draw(), case.labels()), "a loaded checkpoint")


CHECKS: dict[str, Check] = {
    "gradcheck": _gradients,
    "double backward": _double_backward,
    "second backward": _twice_backward,
    "nonnegative": _nonnegative,
    "bounded": _bounded,
    "convex": _convex,
    "symmetric": _symmetric,
    "shift invariance": _shift_invariant,
    "permutation equivariance": _equivariant,
    "proper": _proper,
    "consistent": _consistent,
    "limits": _limits,
    "reductions": _reductions,
    "ignore_index": _ignored,
    "weights": _weights,
    "axes": _axes,
    "soft targets": _soft,
    "dtypes": _dtypes,
    "stability": _stable,
    "vmap": _transforms,
    "compile": _compiles,
    "device": _device,
    "checkpoint": _checkpoint,
}


def check_loss(
    loss: Any,
    *,
    classes: int = 4,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
    only: Any = None,
) -> dict[str, str]:
    """Run the suite on a loss.

    Args:
        loss: a module (with `reduction`, `ignore_index`, `weight` as attributes, like those of `corollary.losses`), or
            a function `(logits, target, *, weight, ignore_index, reduction)`. What it declares (`convex`, `bounded`,
            ...) is verified; what it does not declare is skipped.
        classes: number of classes to test with (that of its prior, if it has one).
        seed: of every draw.
        expected_failures: check to reason; such a check must fail.
        only: names of the checks to run; default all.

    Returns:
        check -> "passed", "not applicable: ..." or "fails as declared: ...".

    Raises:
        LossCheckError: where a check fails that was not declared to, or passes that was.

    Guarantee: none; tests on random draws.

    Example:
        >>> from corollary.losses import CompSumLoss
        >>> check_loss(CompSumLoss(tau=1.5), only=["gradcheck", "bounded"])
        {'gradcheck': 'passed', 'bounded': 'passed'}
    """
    declared = dict(expected_failures or {})
    outcome, problems = {}, []
    if unknown := (set(declared) | set(only or ())) - set(CHECKS):
        raise LossCheckError(f"no check is named {', '.join(sorted(unknown))}; the checks are {', '.join(CHECKS)}")
    for name, found in _run(Case(loss, classes, seed), only or CHECKS):
        if found.startswith("failed") and name in declared:
            found = f"fails as declared: {declared[name]}"
        elif found.startswith("failed"):
            problems.append(f"{name} {found}")
        elif found == "passed" and name in declared:
            problems.append(f"{name} passed, and was declared to fail ({declared[name]})")
        outcome[name] = found
    if problems:
        raise LossCheckError(f"{type(loss).__name__}: " + "; ".join(problems))
    return outcome


def _run(case: Case, names: Any) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            CHECKS[name](case)
            yield name, "passed"
        except NotApplicable as reason:
            yield name, f"not applicable: {reason}"
        except Exception as problem:
            yield name, f"failed ({type(problem).__name__}: {str(problem)[:300]})"
