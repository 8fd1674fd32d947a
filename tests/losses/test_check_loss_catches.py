"""`check_loss` catches: every check has a loss that is wrong in that way only as far as one can be."""

import pytest
import torch
from torch.nn import functional as F

from corollary.losses import SurrogateLoss
from corollary.testing import LossCheckError, check_loss

WEIGHT = torch.tensor([5.0, 1.0, 1.0, 0.2], dtype=torch.float64)


def ce(z, y):
    return -torch.log_softmax(z, -1).gather(1, y[:, None])[:, 0]


def mae(z, y):
    return 1 - torch.softmax(z, -1).gather(1, y[:, None])[:, 0]


def wrong(at, **declared):
    """A loss with these rows that declares these properties."""
    return type("Wrong", (SurrogateLoss,), {"at": lambda self, z, y: at(z, y), **declared})()


class Plain(SurrogateLoss):
    """Cross-entropy by torch, right in all that the subclasses below do not change."""

    def forward(self, logits, target):
        weight = None if self.weight is None else self.weight.to(logits)
        return F.cross_entropy(logits, target, weight=weight, ignore_index=self.ignore_index, reduction=self.reduction)


class OneMean(Plain):
    def forward(self, logits, target):
        rows = F.cross_entropy(logits, target, reduction="none", ignore_index=self.ignore_index)
        return rows if self.reduction == "none" else rows.sum()


class CountsIgnored(Plain):
    def forward(self, logits, target):
        rows = F.cross_entropy(logits, target, reduction="none", ignore_index=self.ignore_index)
        return rows if self.reduction == "none" else getattr(rows, self.reduction)()


class NoWeights(Plain):
    def forward(self, logits, target):
        return F.cross_entropy(logits, target, ignore_index=self.ignore_index, reduction=self.reduction)


class LastAxis(Plain):
    def forward(self, logits, target):
        rows = -torch.log_softmax(logits, -1).gather(-1, target[..., None])[..., 0]
        return rows if self.reduction == "none" else getattr(rows, self.reduction)()


class Hardened(Plain):
    def forward(self, logits, target):
        return super().forward(logits, target.argmax(1) if target.is_floating_point() else target)


class Double(Plain):
    def forward(self, logits, target):
        return super().forward(logits.double(), target)


class Forgetful(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.linspace(0, 1, 4, dtype=torch.float64), persistent=False)

    def forward(self, logits, target):
        return super().forward(logits + self.shift, target)


class Peeks(Plain):
    def forward(self, logits, target):
        return super().forward(logits, target) + min(0.0, logits.sum().item() * 0.0)


class Once(torch.autograd.Function):
    """Cross-entropy whose gradient is handed out once, and has none of its own."""

    @staticmethod
    def forward(ctx, z, y):
        ctx.gradient = torch.softmax(z, -1) - F.one_hot(y, z.shape[-1])
        return ce(z, y)

    @staticmethod
    def backward(ctx, outer):
        gradient, ctx.gradient = ctx.gradient, None
        return gradient * outer[:, None], None


class Doubled(SurrogateLoss):
    proper = True

    def at(self, z, y):
        return ce(z, y)

    def predict_proba(self, logits):
        return torch.softmax(2 * logits, 1)


FAULTS = {
    "gradcheck": wrong(lambda z, y: ce(z, y) + 0.1 * (z * z).sum(-1).detach()),
    "double backward": wrong(lambda z, y: Once.apply(z, y)),
    "second backward": wrong(lambda z, y: Once.apply(z, y)),
    "nonnegative": wrong(lambda z, y: ce(z, y) - 1),
    "convex": wrong(mae, convex=True),
    "symmetric": wrong(ce, symmetric=True),
    "shift invariance": wrong(lambda z, y: ce(z, y) + (z * z).sum(-1)),
    "permutation equivariance": wrong(lambda z, y: WEIGHT.to(z)[y] * ce(z, y)),
    "proper": Doubled(),
    "consistent": wrong(lambda z, y: WEIGHT.to(z)[y] * ce(z, y), calibrated=True),
    "limits": wrong(lambda z, y: 1.001 * ce(z, y), limits={"cross-entropy": {}}),
    "reductions": OneMean(),
    "ignore_index": CountsIgnored(),
    "weights": NoWeights(),
    "axes": LastAxis(),
    "soft targets": Hardened(),
    "dtypes": Double(),
    "stability": wrong(lambda z, y: -torch.softmax(z, -1).gather(1, y[:, None])[:, 0].log()),
    "vmap": Peeks(),
    "checkpoint": Forgetful(),
}


@pytest.mark.parametrize("check", FAULTS)
def test_every_check_catches(check):
    with pytest.raises(LossCheckError, match=f"{check} failed"):
        check_loss(FAULTS[check], only=[check])


@pytest.mark.parametrize(("loss", "message"), [(wrong(ce, bounded=True), "grows"), (wrong(mae), "does not grow")])
def test_bounded_is_checked_both_ways(loss, message):
    with pytest.raises(LossCheckError, match=message):
        check_loss(loss, only=["bounded"])


def test_a_failure_must_be_declared_and_a_declared_one_must_happen():
    fault = FAULTS["nonnegative"]
    outcome = check_loss(fault, only=["nonnegative"], expected_failures={"nonnegative": "shifted"})
    assert outcome == {"nonnegative": "fails as declared: shifted"}
    with pytest.raises(LossCheckError, match="was declared to fail"):
        check_loss(Plain(), only=["reductions"], expected_failures={"reductions": "no reason"})
    with pytest.raises(LossCheckError, match="no check is named"):
        check_loss(Plain(), only=["everything"])


def test_a_function_is_checked_too():
    assert check_loss(F.cross_entropy, only=["gradcheck", "weights", "axes", "vmap"]) == dict.fromkeys(
        ["gradcheck", "weights", "axes", "vmap"], "passed"
    )
