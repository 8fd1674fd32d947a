"""Numbers that earlier runs found on digits and on Gaussians, met within their spread (linear softmax, L-BFGS)."""

import numpy as np
import pytest
import scipy.optimize
import torch
from sklearn.datasets import load_digits

from corollary import losses


def fit_linear(loss, x, y, classes, l2):
    """Weights (d + 1, n) of a linear softmax that minimise loss + l2 |W|^2; the bias is not penalised."""
    xt = torch.tensor(np.hstack([x, np.ones((len(x), 1))]))
    yt, shape = torch.tensor(y), (x.shape[1] + 1, classes)

    def value(flat):
        w = torch.tensor(flat.reshape(shape), requires_grad=True)
        total = loss(xt @ w, yt) + l2 * (w[:-1] ** 2).sum()
        total.backward()
        return total.item(), w.grad.numpy().ravel()

    found = scipy.optimize.minimize(
        value, np.zeros(np.prod(shape)), jac=True, method="L-BFGS-B", options={"maxiter": 500}
    )
    return found.x.reshape(shape)


def scores(w, x):
    return np.hstack([x, np.ones((len(x), 1))]) @ w


def noisy_digits(seed, noise):
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    x, y = x[order] / 16, y[order]
    label = y[:1000].copy()
    flip = rng.random(1000) < noise
    label[flip] = rng.integers(0, 10, flip.sum())  # any class, the true one included: 40 % drawn anew, 36 % wrong
    return x[:1000], label, x[1000:], y[1000:]


def accuracy_by_tau(tau, noise, l2):
    found = []
    for seed in range(5):
        x, label, held, truth = noisy_digits(seed, noise)
        w = fit_linear(losses.CompSumLoss(tau=tau), x, label, 10, l2)
        found.append((scores(w, held).argmax(1) == truth).mean())
    return np.mean(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tau", "expected"), [(0.0, 0.966), (0.5, 0.966), (1.0, 0.967), (1.5, 0.967), (1.7, 0.966), (2.0, 0.965)]
)
def test_clean_digits(tau, expected):
    assert accuracy_by_tau(tau, 0.0, 1e-4) == pytest.approx(expected, abs=0.008)  # two of its deviations


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tau", "expected", "spread"),
    [
        (0.0, 0.755, 0.012),
        (0.5, 0.837, 0.012),
        (1.0, 0.902, 0.01),
        (1.5, 0.936, 0.008),
        (1.7, 0.931, 0.01),
        (2.0, 0.902, 0.037),
    ],
)
def test_digits_with_forty_percent_of_the_labels_drawn_anew(tau, expected, spread):
    # Within the stated deviation over seeds, two of them where it is .004 or .005.
    assert accuracy_by_tau(tau, 0.4, 1e-3) == pytest.approx(expected, abs=spread)


def gaussians(seed):
    rng = np.random.default_rng(seed)

    def draw(rows, share):
        y = (rng.random(rows) < share).astype(int)
        return rng.normal(size=(rows, 2)) + (2 * y - 1)[:, None], y

    return (*draw(10000, 0.05), *draw(10000, 0.5))


def long_tailed_digits(seed, ratio, kind):
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    x, y = x / 16, rng.permutation(10)[y]  # which digit is rare depends on the seed
    test = np.concatenate([rng.choice(np.flatnonzero(y == k), 70, replace=False) for k in range(10)])
    rest = np.setdiff1d(np.arange(len(y)), test)
    train = rest[losses.make_imbalance(y[rest], ratio=ratio, kind=kind, largest=100, seed=rng)]
    return x[train], y[train], x[test], y[test]


def methods(counts, beta=0.999):
    p = losses.class_priors(counts)
    third = losses.calibrated_margins(p)
    return {
        "CE": losses.CompSumLoss(),
        "focal": losses.FocalLoss(),
        "CB": losses.ClassBalancedLoss(counts=counts, beta=beta),
        "WCE": losses.WeightedCrossEntropyLoss(prior=p),
        "LDAM": losses.LDAMLoss(counts=counts, scale=10.0),
        "LA": losses.LogitAdjustedLoss(prior=p),
        "post-hoc LA": losses.CompSumLoss(),
        "VS": losses.VectorScalingLoss(counts=counts, gamma=0.15),
        "GLA -.5": losses.GLALoss(prior=p, q=-0.5),
        "GLA .1": losses.GLALoss(prior=p, q=0.1),
        "GLA .3": losses.GLALoss(prior=p, q=0.3),
        "GLA .5": losses.GLALoss(prior=p, q=0.5),
        "GCA 1/4": losses.GCALoss(prior=p, margin=losses.calibrated_margins(p, exponent=0.25)),
        "GCA 1/3": losses.GCALoss(prior=p, margin=third),
        "GCA-B 1/3": losses.GCALoss(prior=p, margin=third, form="scale_calibrated"),
        "GCA 1/2": losses.GCALoss(prior=p, margin=losses.calibrated_margins(p, exponent=0.5)),
        "GCA -1/3": losses.GCALoss(prior=p, margin=losses.calibrated_margins(p, exponent=-1 / 3)),
        "IMMAX": losses.IMMAXLoss(counts=counts),
    }


GAUSSIANS = {
    "CE": 0.1786,
    "focal": 0.1788,
    "LDAM": 0.1512,
    "CB": 0.0809,
    "WCE": 0.0794,
    "LA": 0.0794,
    "VS": 0.0794,
    "GLA .3": 0.0792,
    "GLA -.5": 0.0792,
    "GCA 1/3": 0.0814,
    "GCA-B 1/3": 0.0825,
    "IMMAX": 0.1411,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GAUSSIANS)
def test_two_gaussians_with_five_percent_positives(name):
    errors = []
    for seed in range(5):
        x, y, held, truth = gaussians(seed)
        counts = np.bincount(y)
        w = fit_linear(methods(counts, beta=0.9999)[name], x, y, 2, 1e-6)
        errors.append(losses.balanced_error(truth, scores(w, held).argmax(1)))
    assert np.mean(errors) == pytest.approx(GAUSSIANS[name], abs=0.008)  # stated spread .002 to .005 a run
    assert np.mean(errors) > 0.0786 - 0.004  # nothing beats the Bayes rule


DIGITS = {  # balanced error in %: exp 10, step 10, exp 50, step 50
    "CE": (7.7, 10.2, 19.5, 33.4),
    "focal": (8.1, 10.4, 20.3, 34.1),
    "CB": (6.5, 7.3, 13.5, 19.2),
    "WCE": (6.7, 7.5, 14.1, 20.8),
    "LDAM": (7.8, 9.2, 16.0, 23.8),
    "LA": (6.5, 6.3, 10.0, 13.7),
    "post-hoc LA": (6.4, 6.3, 10.0, 13.6),
    "VS": (7.0, 7.8, 11.0, 17.4),
    "GLA -.5": (6.4, 6.8, 11.9, 17.1),
    "GLA .1": (6.3, 6.4, 9.7, 13.3),
    "GLA .3": (6.3, 6.9, 10.0, 16.3),
    "GLA .5": (7.9, 10.4, 15.7, 33.8),
    "GCA 1/4": (6.5, 6.7, 11.1, 15.2),
    "GCA 1/3": (6.5, 6.5, 10.6, 14.4),
    "GCA-B 1/3": (6.4, 6.2, 10.0, 14.1),
    "GCA 1/2": (6.6, 6.3, 10.0, 14.0),
    "GCA -1/3": (7.7, 11.3, 21.0, 35.8),
    "IMMAX": (9.6, 15.6, 25.5, 41.6),
}
SETTINGS = [(10, "exponential"), (10, "step"), (50, "exponential"), (50, "step")]
SPREAD = {(10, "exponential"): 1.5, (10, "step"): 2.0, (50, "exponential"): 3.0, (50, "step"): 4.5}  # 1.2 to 3.8 a run


@pytest.mark.slow
@pytest.mark.parametrize("setting", range(4))
@pytest.mark.parametrize("name", DIGITS)
def test_long_tailed_digits(name, setting):
    ratio, kind = SETTINGS[setting]
    errors = []
    for seed in range(5):
        x, y, held, truth = long_tailed_digits(seed, ratio, kind)
        counts = np.bincount(y)
        z = torch.tensor(scores(fit_linear(methods(counts)[name], x, y, 10, 1e-4), held))
        if name == "post-hoc LA":
            z = losses.logit_adjust(z, prior=losses.class_priors(counts))
        errors.append(100 * losses.balanced_error(truth, z.argmax(1)))
    assert np.mean(errors) == pytest.approx(DIGITS[name][setting], abs=SPREAD[SETTINGS[setting]])
