import numpy as np
import pytest
from scipy.special import logsumexp, rel_entr
from scipy.stats import entropy as scipy_entropy

from corollary.errors import InvalidInputError
from corollary.numerics import entropy, jensen_shannon, kl, log_sum_exp


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def sparse(rng, *shape):
    p = rng.dirichlet(np.full(shape[-1], 0.2), shape[:-1])
    p[..., 0] = 0.0
    return p / p.sum(-1, keepdims=True)


def test_against_scipy(rng):
    p, q = sparse(rng, 50, 7), rng.dirichlet(np.ones(7), 50)
    np.testing.assert_allclose(entropy(p), scipy_entropy(p, axis=-1), atol=1e-12)
    np.testing.assert_allclose(kl(p, q), rel_entr(p, q).sum(-1), atol=1e-12)
    a, w = rng.normal(0, 300, (5, 9)), rng.random((5, 9))
    np.testing.assert_allclose(log_sum_exp(a, weights=w), logsumexp(a, b=w, axis=-1), rtol=1e-13)
    np.testing.assert_allclose(log_sum_exp(a, axis=0), logsumexp(a, axis=0), rtol=1e-13)


def test_zeros():
    assert kl([0.0, 1.0], [0.0, 1.0]) == 0
    assert kl([0.5, 0.5], [0.0, 1.0]) == np.inf
    assert entropy([1.0, 0.0]) == 0
    assert log_sum_exp([-np.inf, -np.inf]) == -np.inf
    assert log_sum_exp([5.0, 1000.0], weights=[1.0, 0.0]) == 5.0


def test_jensen_shannon_is_entropy_of_the_mixture_minus_mean_entropy(rng):
    for _ in range(200):
        p, lam = sparse(rng, 4, 6), sparse(rng, 4)
        value = jensen_shannon(p, lam)
        assert value == pytest.approx(entropy(lam @ p) - lam @ entropy(p), abs=1e-12)
        assert -1e-12 <= value <= entropy(lam) + 1e-12
    lams = rng.dirichlet(np.ones(4), 3)
    np.testing.assert_allclose(jensen_shannon(p, lams), [jensen_shannon(p, x) for x in lams], atol=1e-14)


@pytest.mark.parametrize("bad", [[], [np.nan, 1.0], [-0.1, 1.1], np.array(0.5)])
def test_refuses(bad):
    with pytest.raises(InvalidInputError):
        entropy(bad)
    with pytest.raises(InvalidInputError):
        kl(bad, [0.5, 0.5])


def test_refuses_shapes():
    with pytest.raises(InvalidInputError, match="one distribution a row"):
        jensen_shannon([0.5, 0.5])
    with pytest.raises(InvalidInputError, match="for 2 distributions"):
        jensen_shannon(np.eye(2), [1.0])
    with pytest.raises(InvalidInputError):
        log_sum_exp([np.nan])
