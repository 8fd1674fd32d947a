"""Every loss passes the shipped suite; the suite catches wrong declarations."""

import subprocess
import sys

import pytest
import torch

from corollary import losses
from corollary.testing import check_loss
from corollary.testing._loss_checks import CHECKS

PRIOR = [0.5, 0.3, 0.15, 0.05]
COUNTS = [100, 60, 30, 10]
N2 = "its gradient in the margin of every label needs n^2 numbers a row"

CASES = {
    **{f"comp_sum {tau}": (losses.CompSumLoss(tau=tau), {}) for tau in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)},
    **{f"gla {q}": (losses.GLALoss(prior=PRIOR, q=q), {}) for q in (-1.0, 0.0, 0.3)},
    "gca": (losses.GCALoss(prior=PRIOR), {}),
    "gca equal": (losses.GCALoss(prior=PRIOR, margin=torch.full((4,), 2.0), q=0.3), {}),
    "gca calibrated": (losses.GCALoss(prior=PRIOR, form="scale_calibrated"), {}),
    "gca additive": (losses.GCALoss(prior=PRIOR, form="additive", normalise=False), {}),
    "immax": (losses.IMMAXLoss(counts=COUNTS), {}),
    "logit adjusted": (losses.LogitAdjustedLoss(counts=COUNTS), {}),
    "balanced softmax": (losses.BalancedSoftmaxLoss(counts=COUNTS), {}),
    "weighted": (losses.WeightedCrossEntropyLoss(counts=COUNTS), {}),
    "class balanced": (losses.ClassBalancedLoss(counts=COUNTS), {}),
    "focal": (losses.FocalLoss(), {}),
    "focal 0.5": (losses.FocalLoss(gamma=0.5, alpha=[1.0, 1.0, 2.0, 3.0]), {}),
    "ldam": (losses.LDAMLoss(counts=COUNTS, scale=3.0), {}),
    "vs": (losses.VectorScalingLoss(counts=COUNTS), {}),
    "equalization": (losses.EqualizationLoss(counts=COUNTS, threshold=0.1, drop=1.0), {}),
    "equalization sigmoid": (losses.EqualizationLoss(counts=COUNTS, threshold=0.1, form="sigmoid"), {}),
    "sce": (losses.SymmetricCrossEntropyLoss(), {}),
    "rce": (losses.ReverseCrossEntropyLoss(), {}),
    "nce": (losses.NormalisedCrossEntropyLoss(), {}),
    "agce": (losses.AGCELoss(), {}),
    "aul": (losses.AULLoss(), {}),
    "squentropy": (losses.SquentropyLoss(), {}),
    "label smoothing": (losses.LabelSmoothingLoss(), {}),
    "maxsup": (losses.MaxSupLoss(), {}),
    "poly": (losses.PolyLoss(), {}),
    "poly focal": (losses.PolyLoss(gamma=2.0, e=-1.0), {}),
    "log partition": (losses.LogPartitionLoss(c=0.1), {}),
    "lade": (losses.LADELoss(counts=COUNTS), {}),
}


EAGER = [name for name in CHECKS if name != "compile"]


@pytest.mark.parametrize("name", CASES)
def test_every_loss_passes_the_suite(name):
    loss, failures = CASES[name]
    outcome = check_loss(loss, expected_failures=failures, only=EAGER)
    assert outcome["gradcheck"] == "passed"
    assert sum(v == "passed" for v in outcome.values()) >= 8


def test_every_loss_compiles():
    # In a process of its own: the compiler cannot read the type checks that the tests put around every function.
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["passed"] * len(CASES)


if __name__ == "__main__":
    for loss, _ in CASES.values():
        print(check_loss(loss, only=["compile"])["compile"])
