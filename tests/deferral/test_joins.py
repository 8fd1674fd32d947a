"""Joins with other themes: comp-sum losses train routers, a rejector stands before a composed model."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from corollary.certificates import Status
from corollary.deferral import Rejector, TwoStageRouter, coverage_at, max_probability, two_stage_loss
from corollary.deferral._training import fit_linear
from corollary.documents import Documents
from corollary.gating import ComposedLM, FixedShareGate
from corollary.losses import comp_sum
from corollary.models import NgramModel


def weighted_comp_sum(scores, costs, *, tau):
    """The losses of `corollary.losses`, one an expert, weighted by one minus its cost."""
    n, k = scores.shape
    each = [comp_sum(scores, torch.full((n,), j), tau=tau, reduction="none") for j in range(k)]
    return ((1 - costs) * torch.stack(each, 1)).sum(1)


@pytest.mark.parametrize(("kind", "tau"), [("exp", 0.0), ("log", 1.0), ("gce", 1.3), ("mae", 2.0)])
def test_two_stage_losses_are_those_of_the_losses_package(kind, tau):
    rng = torch.Generator().manual_seed(0)
    scores = 2 * torch.randn(500, 4, generator=rng, dtype=torch.float64)
    costs = torch.rand(500, 4, generator=rng, dtype=torch.float64)
    ours = two_stage_loss(scores, costs, kind=f"compsum-{kind}", q=0.3, reduction="none")
    torch.testing.assert_close(weighted_comp_sum(scores, costs, tau=tau), ours, atol=1e-9, rtol=1e-9)


def test_a_router_trained_by_them_is_the_router():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(600, 3))
    costs = (rng.random((600, 3)) < 1 / (1 + np.exp(x))).astype(float)
    router = TwoStageRouter(loss="compsum-log", l2=1.0).fit(x, costs)
    target = torch.from_numpy(costs)
    found = fit_linear(x, lambda s: weighted_comp_sum(s, target, tau=1.0).mean(), outputs=3, l2=1.0)
    np.testing.assert_allclose(found.weight, router.coef_, atol=1e-4)
    assert router.score(x, costs) > 1 - costs.mean(0).min() + 0.1


def example():
    path = Path(__file__).parents[2] / "examples" / "in_depth" / "reject_composed.py"
    spec = importlib.util.spec_from_file_location("reject_composed", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_rejector_in_front_of_a_composed_model():
    """Next bytes of a composed model: in the middle of a word they are certain, at its start they are a guess."""
    shown, rng = example(), np.random.default_rng(2)
    experts = {
        name: NgramModel.fit(Documents.from_texts([make(rng) for _ in range(150)]), order=4)
        for name, make in (("sums", shown.sums), ("words", shown.words))
    }
    model = ComposedLM(experts, FixedShareGate(2), eps=0.05)
    x, p, good = shown.outputs(model, [(shown.sums if i % 2 else shown.words)(rng) for i in range(1200)])
    assert 0.2 < (~good).mean() < 0.7
    rejector = Rejector(cost=0.2).fit(x[:500], good[:500])
    taken = rejector.accept(x[500:])
    assert taken.mean() > 0.2
    assert (~good[500:][taken]).mean() < 0.2  # the price bounds the error of what is accepted
    ours = coverage_at(rejector.decision_function(x[500:]), good[500:], error=0.1)
    assert ours > coverage_at(max_probability(p[500:]), good[500:], error=0.1) - 0.05
    certificate = rejector.certify(x[500:], good[500:], error=0.2)
    assert certificate.check(**rejector.evidence_).status is Status.HOLDS
