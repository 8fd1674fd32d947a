"""Related losses: identities with torch and with the comp-sum family, limits, symmetry."""

import math

import pytest
import torch
from torch.nn import functional as F

from corollary import losses
from corollary.errors import InvalidInputError


def draw():
    g = torch.Generator().manual_seed(0)
    return 2 * torch.randn(30, 5, generator=g, dtype=torch.float64), torch.randint(0, 5, (30,), generator=g)


def test_identities():
    z, y = draw()
    close = lambda a, b: torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)  # noqa: E731
    ce, mae = F.cross_entropy(z, y), losses.mean_absolute_error(z, y)
    close(losses.SymmetricCrossEntropyLoss(share=0.3, scale=2.0)(z, y), 0.7 * ce + 0.6 * mae)
    s = torch.softmax(z, 1)
    reverse = -(s * torch.log(F.one_hot(y, 5).double().clamp(min=1e-4))).sum(1).mean()
    close(losses.ReverseCrossEntropyLoss()(z, y), reverse)
    close(losses.AGCELoss(a=0.0, q=0.7)(z, y), losses.generalized_cross_entropy(z, y, q=0.7))
    close(losses.AULLoss(q=1.0)(z, y), mae)
    close(losses.LabelSmoothingLoss(a=0.2)(z, y), F.cross_entropy(z, y, label_smoothing=0.2))
    close(losses.PolyLoss(e=0.5)(z, y), ce + 0.5 * mae)
    close(losses.PolyLoss(e=0.0, gamma=1.5)(z, y), losses.focal(z, y, gamma=1.5))
    close(losses.LogPartitionLoss(c=0.0)(z, y), ce)
    shifted = z - torch.logsumexp(z, 1, keepdim=True)  # where the penalty is zero
    close(losses.LogPartitionLoss(c=3.0)(shifted, y), ce)
    right = z.argmax(1)
    close(losses.MaxSupLoss(a=0.1)(z, right), losses.LabelSmoothingLoss(a=0.1)(z, right))
    assert losses.MaxSupLoss(a=0.1)(z, y) > losses.LabelSmoothingLoss(a=0.1)(z, y)
    log_s = torch.log_softmax(z, 1)
    close(losses.NormalisedCrossEntropyLoss()(z, y), (log_s.gather(1, y[:, None])[:, 0] / log_s.sum(1)).mean())
    wrong = torch.stack([z[i, [j for j in range(5) if j != y[i]]] ** 2 for i in range(30)]).mean(1)
    close(losses.SquentropyLoss()(z, y), ce + wrong.mean())


def test_reverse_cross_entropy_is_a_multiple_of_the_absolute_error():
    z, y = draw()
    multiple = losses.ReverseCrossEntropyLoss(floor=1e-4)(z, y) / losses.mean_absolute_error(z, y)
    assert multiple.item() == pytest.approx(-math.log(1e-4))


def test_wrong_options(as_shipped):
    for call in (
        lambda: losses.ReverseCrossEntropyLoss(floor=0.0),
        lambda: losses.AULLoss(a=1.0),
        lambda: losses.AGCELoss(q=0.0),
        lambda: losses.LabelSmoothingLoss(a=1.0),
        lambda: losses.PolyLoss(e=-2.0),
    ):
        with pytest.raises(InvalidInputError, match="must"):
            call()
