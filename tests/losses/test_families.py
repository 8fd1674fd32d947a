"""Focal-like, robust, spherical, learned and batch-wise losses: identities, limits, links, wrong inputs."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from corollary import losses
from corollary.errors import InvalidInputError


def draw(rows=40, classes=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(rows, classes, generator=g, dtype=torch.float64)
    return z, torch.randint(0, classes, (rows,), generator=g)


def close(a, b, tolerance=1e-10):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


# truncated


def test_truncated_cross_entropy():
    z, y = draw()
    close(losses.truncated_cross_entropy(z, y, k=1e-12), losses.generalized_cross_entropy(z, y, q=0.7))
    s = torch.softmax(z, 1)[torch.arange(40), y]
    rows = losses.truncated_cross_entropy(z, y, q=0.7, k=0.3, reduction="none")
    close(rows, (1 - s.clamp(min=0.3) ** 0.7) / 0.7)
    kept = losses.kept_rows(z, y, k=0.3)
    assert 0 < kept.sum() < 40
    # The authors' form: the kept rows, less the constant; here by ignored labels.
    plain = losses.generalized_cross_entropy(z, y.masked_fill(~kept, -100), q=0.7, reduction="sum")
    constant = (1 - 0.3**0.7) / 0.7
    close(plain - int(kept.sum()) * constant, rows.sum() - 40 * constant)


def test_truncated_cross_entropy_is_calibrated_by_enumeration():
    rng = np.random.default_rng(0)
    grid = torch.tensor([g for g in itertools.product(np.linspace(0, 1, 41), repeat=3) if abs(sum(g) - 1) < 1e-9])
    for k in (0.1, 0.3, 0.5, 0.7):
        psi = (1 - grid.clamp(min=k) ** 0.7) / 0.7
        for eta in rng.dirichlet(np.ones(3), 50):
            risk = psi @ torch.tensor(eta)
            best = grid[risk <= risk.min() + 1e-12]
            assert (best.argmax(1) == eta.argmax()).all()


# focal-like


def test_dual_focal():
    z, y = draw()
    close(losses.dual_focal(z, y, gamma=0.0), F.cross_entropy(z, y))
    rows, s = losses.dual_focal(z, y, gamma=1.7, reduction="none"), torch.softmax(z, 1)
    for i in range(40):
        own = s[i, y[i]]
        below = max([v for v in s[i].tolist() if v < own.item()], default=0.0)
        close(rows[i], -((1 - own + below) ** 1.7) * own.log())
    assert (rows >= losses.focal(z, y, gamma=1.7, reduction="none") - 1e-12).all()
    assert (rows <= F.cross_entropy(z, y, reduction="none") + 1e-12).all()
    hit = torch.tensor([[3.0, 0.0]]).double()  # two classes, a right prediction: focal at twice the distance from one
    away = 1 - torch.softmax(hit, 1)[0, 0]
    close(losses.dual_focal(hit, torch.tensor([0])), -((2 * away) ** 2) * (1 - away).log())


def test_asymmetric_for_one_label():
    z, y = draw()
    smoothed = F.cross_entropy(z, y, label_smoothing=0.2)
    close(losses.asymmetric(z, y, positive=0.0, negative=0.0, smoothing=0.2), smoothed)
    close(losses.asymmetric(z, y, positive=1.5, smoothing=0.0), losses.focal(z, y, gamma=1.5))
    log_s = torch.log_softmax(z, 1)
    hot = F.one_hot(y, 5).double()
    weight = (1 - log_s.exp() * hot - (1 - log_s.exp()) * (1 - hot)) ** (1.0 * hot + 4.0 * (1 - hot))
    expected = -((0.9 * hot + 0.1 / 5) * log_s * weight).sum(1).mean()
    close(losses.asymmetric(z, y, positive=1.0, negative=4.0, smoothing=0.1), expected)


@pytest.mark.parametrize("detach", [True, False])
def test_asymmetric_for_several_labels(detach):
    z, _ = draw()
    t = (draw(seed=1)[0] > 0).double()
    plain = losses.asymmetric_multilabel(z, t, positive=0, negative=0, shift=0, detach=detach)
    close(plain, F.binary_cross_entropy_with_logits(z, t, reduction="none").sum(1).mean())
    p = torch.sigmoid(z)
    low = (p - 0.05).clamp(min=0)
    expected = -(t * (1 - p) * p.log() + (1 - t) * low**4 * (1 - low).log()).sum(1)
    got = losses.asymmetric_multilabel(z, t, detach=detach, reduction="none")
    close(got, expected)
    easy = torch.full((1, 5), -4.0)  # all below the shift
    assert losses.asymmetric_multilabel(easy, torch.zeros(1, 5), detach=detach).item() == 0
    # A label is the one class that holds; weights are those of the classes; trailing axes fold.
    y = torch.arange(40) % 5
    hot = F.one_hot(y, 5).double()
    close(losses.asymmetric_multilabel(z, y, detach=detach), losses.asymmetric_multilabel(z, hot, detach=detach))
    folded = losses.asymmetric_multilabel(
        z.reshape(8, 5, 5).movedim(-1, 1), t.reshape(8, 5, 5).movedim(-1, 1), detach=detach, reduction="none"
    )
    close(folded, got.reshape(8, 5))
    one = losses.asymmetric_multilabel(z, t, detach=detach, weight=torch.eye(5)[2].double(), reduction="none")
    close(one, -(t * (1 - p) * p.log() + (1 - t) * low**4 * (1 - low).log())[:, 2])
    with pytest.raises(InvalidInputError, match="shape of the logits"):
        losses.asymmetric_multilabel(z, t[:, :3])
    assert losses.AsymmetricMultiLabelLoss().predict_labels(z).tolist() == (z > 0).long().tolist()


# label-distributionally robust


def test_limits_of_ldr_kl():
    z, y = draw()
    ce = F.cross_entropy(z, y)
    close(losses.ldr_kl(z, y), ce - math.log(5))
    gaps = z - z.gather(1, y[:, None])
    away = gaps + 0.3 * (1 - F.one_hot(y, 5))
    close(losses.ldr_kl(z, y, temperature=1e-5, margin=0.3), away.amax(1).mean(), 1e-4)  # Crammer-Singer
    close(losses.ldr_kl(z, y, temperature=1e5, margin=0.3), away.mean(1).mean(), 1e-3)  # the mean of the gaps
    close(losses.aldr_kl(z, y, alpha=1e9, margin=0.3), losses.ldr_kl(z, y, margin=0.3), 1e-8)


def test_aldr_kl_against_a_search_over_temperatures():
    z, y = draw(60)
    alpha, t, c = 2.0, 1.5, 0.2
    rows = losses.aldr_kl(z, y, temperature=t, alpha=alpha, margin=c, reduction="none")
    grid = torch.linspace(t * (1 - 1 / alpha), t, 4001, dtype=torch.float64)
    away = z - z.gather(1, y[:, None]) + c * (1 - F.one_hot(y, 5))
    values = grid * (torch.logsumexp(away[:, None] / grid[:, None], -1) - math.log(5))
    values = values - alpha * math.log(5) / (2 * t) * (grid - t) ** 2
    falling = values.diff(dim=1) < 0  # walking down from lambda_0, the first maximum
    first = [int((~falling[i]).nonzero().max()) + 1 for i in range(60)]
    close(rows, torch.stack([values[i, k] for i, k in enumerate(first)]), 1e-6)  # 1e-6: the grid
    assert (rows >= losses.ldr_kl(z, y, temperature=t, margin=c, reduction="none") - 1e-12).all()
    lowest = losses.ldr_kl(z, y, temperature=t * (1 - 1 / alpha), margin=c, reduction="none")
    assert (rows <= lowest + 1e-12).all()


# spherical


def test_z_loss():
    z, y = draw()
    zeta = (z - z.mean(1, keepdim=True)) / z.std(1, correction=0, keepdim=True)
    own = zeta.gather(1, y[:, None])[:, 0]
    close(losses.z_loss(z, y, a=0.7, b=1.0), F.softplus(0.7 * (1.0 - own)).mean() / 0.7, 1e-4)  # 1e-5 in the variance
    close(losses.z_loss(5 * z + 3, y), losses.z_loss(z, y), 1e-4)
    close(losses.z_loss(z, y, a=1e4, b=1.0), (1.0 - own).clamp(min=0).mean(), 1e-3)
    assert (zeta <= 2 + 1e-9).all()  # sqrt(n - 1)


def test_harmonic_layer():
    layer = losses.HarmonicLinear(6, 4, exponent=2.5, noise=0.0).double()
    x = draw(7, 6)[0]
    distance = torch.cdist(x, layer.centres)
    expected = distance**-2.5 / (distance**-2.5).sum(1, keepdim=True)
    close(torch.softmax(layer(x), 1), expected)
    scaled = losses.harmonic_logits(3 * x, 3 * layer.centres, exponent=2.5, noise=0.0)
    close(torch.softmax(scaled, 1), expected)
    near = losses.HarmonicLinear(6, 4)
    at_centre = near(near.centres.detach())
    assert torch.isfinite(at_centre).all()
    assert (at_centre.argmax(1) == torch.arange(4)).all()
    assert near.exponent == pytest.approx(math.sqrt(6))
    assert layer(x.reshape(7, 1, 6)).shape == (7, 1, 4)
    assert torch.autograd.gradcheck(
        lambda v, w: losses.harmonic_logits(v, w, exponent=2.0),
        (x.requires_grad_(), layer.centres.detach().requires_grad_()),
    )
    learned = torch.optim.Adam(near.parameters(), lr=0.05)
    points = near.centres.detach().roll(1, 0) + 0.01  # every class at another's first centre
    for _ in range(400):
        learned.zero_grad()
        F.cross_entropy(near(points), torch.arange(4)).backward()
        learned.step()
    assert (near(points).argmax(1) == torch.arange(4)).all()


# learned


def test_legendre_map_is_the_softmax_at_zero_and_one_to_one():
    z, y = draw()
    none = {"matrix": torch.zeros(3, 4), "bias": torch.zeros(3)}
    close(losses.legendre_probabilities(z, **none), torch.softmax(z, 1))
    close(losses.legendre_tron(z, y, **none), F.cross_entropy(z, y))
    loss = losses.LegendreTron(classes=5, units=8, seed=1).double()
    with torch.no_grad():
        loss.matrix.mul_(5)
    p = loss.predict_proba(z)
    close(p.sum(1), torch.ones(40).double())
    close(loss(z, y), -p.gather(1, y[:, None]).log().mean())
    # The gradient of the potential is symmetric and positive definite: a gradient, and one-to-one.
    v = z[0, :4] - z[0, 4]
    inner = lambda v: loss.map["curvature"] * v + torch.sigmoid(v @ loss.matrix.T + loss.bias) @ loss.matrix  # noqa: E731
    hessian = torch.autograd.functional.jacobian(inner, v)
    close(hessian, hessian.T)
    assert torch.linalg.eigvalsh(hessian).min() >= loss.map["curvature"].item() - 1e-9
    # Every interior distribution is reached: solve for scores that give it.
    for eta in np.random.default_rng(0).dirichlet(np.ones(5), 5):
        w, goal = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True), torch.tensor(eta)[None]
        newton = torch.optim.LBFGS([w], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

        def closure(w=w, goal=goal, newton=newton):
            newton.zero_grad()
            value = loss(w, goal)
            value.backward()
            return value

        newton.step(closure)
        close(loss.predict_proba(w.detach()), goal, 1e-4)


def test_legendre_tron_learns_its_map():
    # Labels from a map that no linear softmax can imitate: probabilities that saturate at .8.
    g = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(2000, 1, generator=g)
    p = 0.2 + 0.6 * torch.sigmoid(4 * x[:, 0])
    y = (torch.rand(2000, generator=g) < p).long()
    reached = {}
    for name, loss in (("learned", losses.LegendreTron(classes=2, seed=0)), ("softmax", losses.CompSumLoss())):
        layer = torch.nn.Linear(1, 2)
        torch.nn.init.zeros_(layer.weight)
        optimiser = torch.optim.Adam([*layer.parameters(), *loss.parameters()], lr=0.03)
        for _ in range(400):
            optimiser.zero_grad()
            value = loss(layer(x), y)
            value.backward()
            optimiser.step()
        reached[name] = value.item()
    assert reached["learned"] < reached["softmax"] - 0.005


# batch-wise


@pytest.mark.parametrize("power", [-1.0, -0.4, 0.0, 0.5, 1.0])
def test_ensemble_slopes_are_those_of_a_convex_calibrated_loss(power):
    for seed in range(50):
        m = 3 * torch.randn(64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        a = losses.ensemble_slopes(m, power=power, seed=seed)
        order = m.argsort()
        assert (a < 0).all()
        assert (a >= -1 - 1e-6 - 1e-12).all()
        assert (a[order].diff() >= -1e-12).all()
    far = losses.ensemble_slopes(torch.tensor([4.0, 8.0]), power=power)
    assert far[0] >= -1 / 4 - 1e-5  # divided by the margin


def test_ensemble_loss_trains_and_is_reproducible():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(600, 5, generator=g)
    y = (x[:, 0] - 0.5 * x[:, 1] > 0).long()
    found = []
    for _ in range(2):
        layer = torch.nn.Linear(5, 2)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        loss, optimiser = losses.EnsLoss(period=20, seed=3), torch.optim.Adam(layer.parameters(), lr=0.05)
        for _ in range(100):
            optimiser.zero_grad()
            loss(layer(x), y).backward()
            optimiser.step()
            loss.step()
        found.append(layer(x).detach())
    assert torch.equal(*found)
    assert (found[0].argmax(1) == y).double().mean() > 0.97
    z = torch.zeros(4, 2, requires_grad=True)
    losses.ensemble_loss(z, torch.tensor([0, 1, -100, -100])).backward()
    assert (z.grad[2:] == 0).all()


def test_any_loss_becomes_the_metric_of_hard_predictions():
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, fbeta_score, jaccard_score

    z, y = draw(200, 2)
    guess = z.argmax(1)
    expected = {
        "accuracy": accuracy_score(y, guess),
        "balanced accuracy": balanced_accuracy_score(y, guess),
        "f1": f1_score(y, guess),
        "f2": fbeta_score(y, guess, beta=2),
        "jaccard": jaccard_score(y, guess),
    }
    for name, value in expected.items():
        assert losses.any_loss(z, y, metric=name, amplify=1e6).item() == pytest.approx(1 - value, abs=1e-9)
    own = losses.any_loss(z, y, metric=lambda tp, fp, fn, tn: tp / (tp + fn), amplify=1e6).item()
    assert own == pytest.approx(1 - ((guess == 1) & (y == 1)).sum().item() / (y == 1).sum().item(), abs=1e-9)
    recalls = [((guess == k) & (y == k)).sum().item() / (y == k).sum().item() for k in (0, 1)]
    expected = 1 - math.sqrt(recalls[0] * recalls[1])
    assert losses.any_loss(z, y, metric="g-mean", amplify=1e6).item() == pytest.approx(expected, abs=1e-9)
    assert losses.any_loss(z, torch.full((200,), -100)).item() == 0


def test_wrong_options(as_shipped):
    z, y, two = torch.zeros(2, 3), torch.tensor([0, 1]), torch.zeros(2, 2)
    for call, message in [
        (lambda: losses.TruncatedCrossEntropyLoss(k=1.0), "`k` must"),
        (lambda: losses.truncated_cross_entropy(z, y, q=2.0), "`q` must"),
        (lambda: losses.DualFocalLoss(gamma=-1.0), "`gamma` must"),
        (lambda: losses.AsymmetricLoss(smoothing=1.0), "`smoothing` must"),
        (lambda: losses.LDRKLLoss(temperature=0.0), "`temperature` must"),
        (lambda: losses.ALDRKLLoss(alpha=1.0), "`alpha` must"),
        (lambda: losses.ZLoss(a=0.0), "`a` must"),
        (lambda: losses.harmonic_logits(z, torch.zeros(2, 4), exponent=1.0), "share their last axis"),
        (lambda: losses.HarmonicLinear(3, 2, exponent=0.0)(z), "`exponent` must"),
        (lambda: losses.LegendreTron(classes=1), "at least 2"),
        (lambda: losses.LegendreTron(classes=4)(z, y), "must have shape"),
        (lambda: losses.EnsLoss(power=2.0), "`power` must"),
        (lambda: losses.EnsLoss(period=0), "`period` must"),
        (lambda: losses.EnsLoss(reduction="none"), "quantity of the batch"),
        (lambda: losses.AnyLoss(metric="auc"), "`metric` must"),
        (lambda: losses.any_loss(z, y), r"\(N, 2, ...\)"),
        (lambda: losses.any_loss(two, two), r"\(N, 2, ...\)"),
        (lambda: losses.any_loss(two, torch.tensor([0, 2])), "labels run from"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            call()
