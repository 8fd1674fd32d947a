"""Comp-sum losses: identities, limits, conditional optima, both paths of the kernel, and bad inputs."""

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import corollary.losses._softmax_rows as kernel
from corollary import losses
from corollary.errors import InvalidInputError

TAUS = (0.0, 0.3, 0.9, 1.0, 1.2, 1.5, 1.9, 2.0, 3.0)


def draw(rows=40, classes=5, scale=2.0, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    z = scale * torch.randn(rows, classes, generator=g, dtype=torch.float64)
    return z.to(dtype), torch.randint(0, classes, (rows,), generator=g)


@pytest.mark.parametrize("tau", TAUS)
def test_psi_of_the_softmax_is_phi_of_the_ratio_sum(tau):
    z, y = draw()
    u = torch.exp(z - z.gather(1, y[:, None])).sum(1) - 1
    phi = torch.log1p(u) if tau == 1 else ((1 + u) ** (1 - tau) - 1) / (1 - tau)
    torch.testing.assert_close(losses.comp_sum(z, y, tau=tau, reduction="none"), phi, atol=1e-10, rtol=1e-10)


def test_named_members_are_known_losses():
    z, y = draw()
    s_y = torch.softmax(z, 1).gather(1, y[:, None])[:, 0]
    torch.testing.assert_close(losses.cross_entropy(z, y), F.cross_entropy(z, y))
    torch.testing.assert_close(losses.sum_exponential(z, y), (1 / s_y - 1).mean())
    torch.testing.assert_close(losses.mean_absolute_error(z, y), (1 - s_y).mean())
    torch.testing.assert_close(losses.generalized_cross_entropy(z, y, q=0.7), ((1 - s_y**0.7) / 0.7).mean())


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_agrees_with_torch_everywhere(reduction):
    z, y = draw(24)
    w = torch.linspace(0.5, 2, 5, dtype=torch.float64)
    y[3] = -100
    for kwargs in ({}, {"weight": w}, {"ignore_index": 2}, {"weight": w, "ignore_index": 2}):
        yy = torch.where(y == -100, 0, y) if "ignore_index" in kwargs else y
        torch.testing.assert_close(
            losses.comp_sum(z, yy, reduction=reduction, **kwargs), F.cross_entropy(z, yy, reduction=reduction, **kwargs)
        )
    t = torch.softmax(draw(24, seed=3)[0], 1)
    for kwargs in ({}, {"weight": w}):
        torch.testing.assert_close(
            losses.comp_sum(z, t, reduction=reduction, **kwargs), F.cross_entropy(z, t, reduction=reduction, **kwargs)
        )
    zz, yy = z.reshape(4, 3, 2, 5).movedim(-1, 1), y.reshape(4, 3, 2)
    torch.testing.assert_close(
        losses.comp_sum(zz, yy, reduction=reduction), F.cross_entropy(zz, yy, reduction=reduction)
    )


def test_continuity_at_one_and_decrease_in_tau():
    z, y = draw()
    ce = losses.comp_sum(z, y, reduction="none")
    for tau in (1 - 1e-6, 1 + 1e-6):
        # 1e-4: the difference is first order in |tau - 1| times the square of the loss
        torch.testing.assert_close(losses.comp_sum(z, y, tau=tau, reduction="none"), ce, atol=1e-4, rtol=1e-4)
    rows = torch.stack([losses.comp_sum(z, y, tau=tau, reduction="none") for tau in np.linspace(0, 2, 21)])
    assert (rows.diff(dim=0) <= 1e-12).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 3), st.integers(0, 1000))
def test_gradient_in_closed_form(tau, seed):
    z, y = draw(seed=seed, scale=3.0)
    z.requires_grad_()
    (auto,) = torch.autograd.grad(losses.comp_sum(z, y, tau=tau, reduction="sum"), z)
    torch.testing.assert_close(losses.comp_sum_gradient(z.detach(), y, tau=tau), auto, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 1.8])
def test_conditional_optimum_against_a_minimiser(tau):
    for seed in range(3):
        eta = np.random.default_rng(seed).dirichlet(np.ones(4))

        def risk(z, eta=eta):
            zt = torch.tensor(z, requires_grad=True)
            value = losses.comp_sum(zt[None], torch.tensor(eta)[None], tau=tau, reduction="sum")
            value.backward()
            return value.item(), zt.grad.numpy()

        best = scipy.optimize.minimize(risk, np.zeros(4), jac=True, method="L-BFGS-B", options={"gtol": 1e-11})
        assert losses.comp_sum_optimum(torch.tensor(eta), tau=tau).item() == pytest.approx(best.fun, abs=1e-8)
        # 1e-4: where the risk is flat the minimiser is found to the root of its accuracy
        s = torch.softmax(torch.tensor(best.x), 0)
        torch.testing.assert_close(losses.comp_sum_minimiser(torch.tensor(eta), tau=tau), s, atol=1e-4, rtol=1e-3)
        minimiser = losses.comp_sum_minimiser(torch.tensor(eta), tau=tau)
        at = (torch.tensor(eta) * kernel.psi(minimiser.log(), tau - 1)).sum().item()
        assert at == pytest.approx(best.fun, abs=1e-8)
        back = losses.comp_sum_probabilities(minimiser.log()[None], tau=tau)[0]
        torch.testing.assert_close(back, torch.tensor(eta), atol=1e-10, rtol=1e-10)


def test_optimum_from_two_on_is_a_vertex():
    rng = np.random.default_rng(0)
    for tau in (2.0, 2.5, 4.0):
        eta = torch.tensor(rng.dirichlet(np.ones(4)))
        s = torch.tensor(rng.dirichlet(np.full(4, 0.3), 20000))
        risks = (eta * (1 - s ** (tau - 1)) / (tau - 1)).sum(1)
        assert losses.comp_sum_optimum(eta, tau=tau) <= risks.min() + 1e-12
        one = losses.comp_sum_minimiser(eta, tau=tau)
        assert one.argmax() == eta.argmax()
        assert ((eta * (1 - one ** (tau - 1)) / (tau - 1)).sum() - losses.comp_sum_optimum(eta, tau=tau)).abs() < 1e-12


def test_symmetric_noise_leaves_the_minimiser_of_mae():
    z, _ = draw(200, 4)
    every = torch.stack([losses.mean_absolute_error(z, torch.full((200,), k), reduction="none") for k in range(4)], 1)
    torch.testing.assert_close(every.sum(1), torch.full((200,), 3.0, dtype=torch.float64))
    eta = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    noisy = 0.6 * eta + 0.4 * (1 - eta) / 3
    clean_risk, noisy_risk = (every * eta).sum(1), (every * noisy).sum(1)
    assert clean_risk.argsort().tolist() == noisy_risk.argsort().tolist()


@pytest.mark.parametrize("q", [-1.0, -0.4, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_blocked_path_equals_the_plain_one(q, shifted, scaled, monkeypatch):
    monkeypatch.setattr(kernel, "BLOCK", 35)  # seven rows a block
    z, y = draw(50, 5, scale=4.0)
    shift = torch.linspace(-1, 1, 5, dtype=torch.float64) if shifted else None
    factor = torch.linspace(0.5, 2, 5, dtype=torch.float64) if scaled else None
    z.requires_grad_()
    fast = kernel.softmax_rows(z, y, q=q, shift=shift, factor=factor)
    assert type(fast.grad_fn).__name__ == "_BlockedBackward"
    slow = kernel.psi(kernel.label_log_probs(z, y, shift=shift, factor=factor), q)
    torch.testing.assert_close(fast, slow, atol=1e-11, rtol=1e-11)
    outer = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (a,), (b,) = torch.autograd.grad(fast, z, outer), torch.autograd.grad(slow, z, outer)
    torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own, on the first jvp
def test_plain_path_is_chosen_where_it_must_be():
    z, y = draw()
    name = lambda t: type(t.grad_fn).__name__  # noqa: E731
    leaf = z.clone().requires_grad_()
    assert "Blocked" in name(kernel.softmax_rows(leaf, y, q=0.5))
    assert kernel.softmax_rows(z, y, q=0.5).grad_fn is None
    learnt = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    assert "Blocked" not in name(kernel.softmax_rows(leaf, y, q=0.5, shift=learnt))
    _, tangent = torch.func.jvp(lambda v: losses.comp_sum(v, y, tau=1.5), (z,), (torch.ones_like(z),))
    assert abs(tangent.item()) < 1e-12  # shifts change nothing
    hessian = torch.func.hessian(lambda v: losses.comp_sum(v, y[:1], tau=1.5))(z[:1])
    assert torch.isfinite(hessian).all()


def test_underflow_takes_the_exact_logarithm():
    z = torch.tensor([[0.0, 1000.0]], requires_grad=True)
    value = losses.comp_sum(z, torch.tensor([0]))
    assert value.item() == 1000.0
    value.backward()
    torch.testing.assert_close(z.grad, torch.tensor([[-1.0, 1.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sum_exponential_goes_on_linearly_and_keeps_its_gradient(dtype):
    z = torch.tensor([[0.0, 1e4], [0.0, 59.0]], dtype=dtype, requires_grad=True)
    rows = losses.sum_exponential(z, torch.tensor([0, 0]), reduction="none")
    assert torch.isfinite(rows).all()
    assert rows[1].item() == pytest.approx(np.exp(59.0), rel=1e-4)
    (g,) = torch.autograd.grad(rows[0], z)
    assert torch.isfinite(g).all()
    assert g[0, 1] > 1e20


def test_wrong_inputs_say_what_was_wrong(as_shipped):
    z, y = draw(4, 3)
    for bad, message in [
        (lambda: losses.comp_sum(z, y, tau=-0.1), "`tau` must be"),
        (lambda: losses.comp_sum(z, y, tau=float("nan")), "`tau` must be"),
        (lambda: losses.comp_sum(z, y, tau=float("inf")), "`tau` must be"),
        (lambda: losses.comp_sum(z, y[:2]), "`target` has shape"),
        (lambda: losses.comp_sum(z, y + 3), "labels from"),
        (lambda: losses.comp_sum(z, -y - 1), "labels from"),
        (lambda: losses.comp_sum(z, y > 0), "boolean"),
        (lambda: losses.comp_sum(z.long(), y), "floating point"),
        (lambda: losses.comp_sum(z[:, :1], y * 0), "at least two"),
        (lambda: losses.comp_sum(z, y, weight=torch.ones(2)), "`weight` must have shape"),
        (lambda: losses.comp_sum(z, y, reduction="avg"), "`reduction`"),
        (lambda: losses.CompSumLoss(reduction="avg"), "`reduction`"),
        (lambda: losses.comp_sum_probabilities(z, tau=2.0), "no probabilities"),
        (lambda: losses.comp_sum_optimum(-z.abs()), "nonnegative"),
        (lambda: losses.comp_sum_minimiser(torch.zeros(3)), "nonnegative"),
        (lambda: losses.generalized_cross_entropy(z, y, q=2.0), "`q` must be"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            bad()


def test_empty_batches_and_nan():
    z = torch.zeros(0, 3, requires_grad=True)
    value = losses.comp_sum(z, torch.zeros(0, dtype=torch.long))
    value.backward()
    assert value.item() == 0.0
    assert losses.comp_sum(torch.zeros(0, 3), torch.zeros(0, 3)).item() == 0.0
    assert torch.isnan(losses.comp_sum(torch.full((1, 3), float("nan")), torch.tensor([0])))  # as in torch: not hidden


def test_warm_up_and_checkpoint():
    loss = losses.CompSumLoss(tau=1.8)
    warm = losses.TauWarmup(loss, steps=4)
    assert loss.tau == 1.0
    for _ in range(2):
        warm.step()
    assert loss.tau == pytest.approx(1.4)
    other = losses.CompSumLoss(tau=1.8)
    again = losses.TauWarmup(other, steps=4)
    again.load_state_dict(warm.state_dict())
    assert other.tau == pytest.approx(1.4)
    for _ in range(9):
        again.step()
    assert other.tau == 1.8


def test_declarations_and_decoding():
    loss = losses.CompSumLoss(tau=1.5)
    z, _ = draw()
    assert (loss.predict(z) == z.argmax(1)).all()
    torch.testing.assert_close(loss.predict_proba(z).sum(1), torch.ones(40, dtype=torch.float64))
    assert loss.consistent_for == "zero-one"
    with pytest.raises(InvalidInputError, match="no probabilities"):
        losses.CompSumLoss(tau=2.0).predict_proba(z)
    with pytest.raises(InvalidInputError, match="not proper"):
        losses.FocalLoss().predict_proba(z)
    assert "tau=1.5" in repr(loss)
