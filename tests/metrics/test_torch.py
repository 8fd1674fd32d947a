"""The torch version: the loss and its gradient, the module oracle, the deep rounds."""

import numpy as np
import pytest
import torch
from torch import nn

from corollary.errors import InvalidInputError
from corollary.metrics import Costs, MetroClassifier, cost_sensitive_loss, surrogate_loss, train_metro
from corollary.metrics._surrogates import SURROGATES


@pytest.mark.parametrize("name", SURROGATES)
def test_values_and_gradients_agree_with_numpy(name, rng):
    f = torch.tensor(rng.normal(size=40) * 2, requires_grad=True)
    y = torch.tensor(rng.random(40) < 0.5)
    loss = cost_sensitive_loss(f, y, costs=Costs(1.0, 0.3), surrogate=name, rho=0.7, reduction="none")
    sign = np.where(y, 1.0, -1.0)
    value, slope = surrogate_loss(sign * f.detach().numpy(), name, rho=0.7)
    weight = np.where(y, 1.0, 0.3)
    assert np.allclose(loss.detach(), weight * value, atol=1e-12)
    loss.sum().backward()
    assert np.allclose(f.grad, weight * slope * sign, atol=1e-12)
    assert torch.autograd.gradcheck(lambda u: cost_sensitive_loss(u, y, costs=(1.0, 0.3), surrogate=name), f)


def rings(n, seed):
    """A ring of positives that no line can cut out."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    eta = 1 / (1 + np.exp(6 * (np.hypot(*X.T) - 0.7)))
    return X, rng.random(n) < eta


def test_deep_rounds_raise_the_metric():
    X, y = rings(3000, 0)
    Xt, yt = rings(3000, 1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    found = train_metro(net, X[:2000], y[:2000], X[2000:], y[2000:], metric="f2")
    assert found.value == max(found.values) > found.values[0] + 0.03  # the plain fit comes first
    with torch.no_grad():
        h = net(torch.tensor(Xt, dtype=torch.float32)).reshape(-1) > 0
    from corollary.metrics import FBeta

    assert FBeta(2.0).score(yt, h.numpy()) > 0.6


def test_a_module_as_estimator_leaves_the_users_alone():
    X, y = rings(800, 2)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    before = [p.clone() for p in net.parameters()]
    model = MetroClassifier("f1", net, search="dinkelbach", validation=0.3, max_rounds=3).fit(X, y)
    assert all((a == b).all() for a, b in zip(before, net.parameters(), strict=True))
    assert model.score(X, y) > MetroClassifier("f1").fit(X, y).score(X, y) + 0.1  # a line cannot
    assert model.predict_proba(X).shape == (800, 2)


def test_nonsense(as_shipped):
    with pytest.raises(InvalidInputError, match="one shape"):
        cost_sensitive_loss(torch.zeros(3), torch.zeros(2), costs=(1.0, 1.0))
    with pytest.raises(InvalidInputError, match="reduction"):
        cost_sensitive_loss(torch.zeros(3), torch.zeros(3), costs=(1.0, 1.0), reduction="max")
    with pytest.raises(InvalidInputError, match="both classes"):
        train_metro(nn.Linear(2, 1), np.zeros((5, 2)), np.zeros(5), np.zeros((5, 2)), np.zeros(5))
