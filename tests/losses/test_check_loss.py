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
HELD = dict.fromkeys(["gradcheck", "double backward"], "its weights carry no gradient, as in the authors' training")
DRAWN = dict.fromkeys(
    ["gradcheck", "double backward", "shift invariance", "permutation equivariance"],
    "every call draws a new loss, and only the gradient of that one means anything",
)
FLAT = "the risk is flat where all probabilities lie below k, and the minimiser of the suite starts there"

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
    **{f"entmax {alpha}": (losses.EntmaxLoss(alpha=alpha), {}) for alpha in (1.0, 1.2, 1.5, 1.8)},
    "sparsemax": (losses.SparsemaxLoss(), {}),
    **{f"sparse softmax {k}": (losses.SparseSoftmaxLoss(k=k), {}) for k in (2, 3, 10)},
    "dual focal": (losses.DualFocalLoss(), {}),
    "dual focal 0.5": (losses.DualFocalLoss(gamma=0.5), {}),
    "asymmetric": (losses.AsymmetricLoss(), {}),
    "asymmetric positive": (losses.AsymmetricLoss(positive=1.5, smoothing=0.0), {}),
    "asymmetric labels": (losses.AsymmetricMultiLabelLoss(), HELD),
    "asymmetric labels, gradient": (losses.AsymmetricMultiLabelLoss(detach=False), {}),
    "asymmetric labels, no shift": (losses.AsymmetricMultiLabelLoss(detach=False, shift=0.0), {}),
    "truncated": (losses.TruncatedCrossEntropyLoss(k=0.1), {}),
    "truncated half": (losses.TruncatedCrossEntropyLoss(), {"consistent": FLAT}),
    "ldr": (losses.LDRKLLoss(), {}),
    "ldr margin": (losses.LDRKLLoss(temperature=0.5, margin=0.3), {}),
    "aldr": (losses.ALDRKLLoss(), {}),
    "aldr margin": (losses.ALDRKLLoss(temperature=2.0, margin=0.5), {}),
    "z": (losses.ZLoss(), {}),
    "legendre": (losses.LegendreTron(classes=4), {}),
}
PAIRS = {  # of two classes
    **{f"any {m}": (losses.AnyLoss(metric=m), {}) for m in ("f1", "f2", "accuracy", "balanced accuracy", "g-mean")},
    "ensemble": (losses.EnsLoss(), {**DRAWN, "compile": "it makes a generator while it runs"}),
}


EAGER = [name for name in CHECKS if name != "compile"]
FIRST = list(CASES)[: list(CASES).index("sce")]  # the comp-sum and balanced losses; the others compile in slow tests
REST = [name for name in (*CASES, *PAIRS) if name not in FIRST]


@pytest.mark.parametrize("name", [*CASES, *PAIRS])
def test_every_loss_passes_the_suite(name):
    loss, failures = (CASES | PAIRS)[name]
    eager = {k: v for k, v in failures.items() if k != "compile"}
    outcome = check_loss(loss, classes=4 if name in CASES else 2, expected_failures=eager, only=EAGER)
    assert outcome["gradcheck"] == (
        "passed" if "gradcheck" not in failures else f"fails as declared: {failures['gradcheck']}"
    )
    assert sum(v == "passed" for v in outcome.values()) >= (8 if name in CASES else 5)  # fewer apply to a batch


@pytest.mark.parametrize("names", [FIRST, pytest.param(REST, marks=pytest.mark.slow)], ids=["first", "rest"])
def test_every_loss_compiles(names):
    # In a process of its own: the compiler cannot read the type checks that the tests put around every function.
    done = subprocess.run([sys.executable, __file__, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    reason = PAIRS["ensemble"][1]["compile"]
    expected = ["passed" if n != "ensemble" else f"fails as declared: {reason}" for n in names]
    assert done.stdout.splitlines() == expected


if __name__ == "__main__":
    for name in sys.argv[1:]:
        loss, failures = (CASES | PAIRS)[name]
        expected = {k: v for k, v in failures.items() if k == "compile"}
        classes = 4 if name in CASES else 2
        print(check_loss(loss, classes=classes, expected_failures=expected, only=["compile"])["compile"])
