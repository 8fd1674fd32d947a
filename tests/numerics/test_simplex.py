import numpy as np
import pytest
from scipy.optimize import linprog

from corollary.errors import InvalidInputError
from corollary.numerics import (
    exponentiated_gradient,
    maximise_on_simplex,
    polytope_vertices,
    project_to_simplex,
)


@pytest.fixture
def rng():
    return np.random.default_rng(1)


def test_projection_meets_the_optimality_conditions(rng):
    v = rng.normal(0, 2, (500, 6))
    x = project_to_simplex(v)
    np.testing.assert_allclose(x.sum(-1), 1, atol=1e-12)
    assert (x >= 0).all()
    # The residual v - x is the same where x > 0, and no larger elsewhere.
    theta = np.where(x > 0, v - x, -np.inf).max(-1, keepdims=True)
    np.testing.assert_allclose(np.where(x > 0, v - x - theta, 0), 0, atol=1e-12)
    assert (v - x <= theta + 1e-12).all()


def test_exponentiated_gradient_has_the_known_regret(rng):
    steps, p, scale = 400, 5, 3.0
    payoffs = rng.uniform(0, scale, (steps, p)) * rng.integers(0, 2, (steps, 1))
    lam, played = np.full(p, 1 / p), 0.0
    for g in payoffs:
        played += lam @ g
        lam = exponentiated_gradient(lam, g, rate=np.sqrt(2 * np.log(p) / steps) / scale)
    assert payoffs.sum(0).max() - played <= scale * np.sqrt(2 * steps * np.log(p))
    assert exponentiated_gradient([1.0, 0.0], [0.0, 0.0], rate=1.0, floor=0.2).tolist() == [0.9, 0.1]


def test_vertices_support_every_direction(rng):
    """Largest value of a linear function over the vertices is that of the linear program."""
    for _ in range(40):
        p = int(rng.integers(2, 6))
        a, inside = rng.normal(size=(3, p)), rng.dirichlet(np.ones(p))
        b = a @ inside + rng.uniform(0, 0.3, 3)
        vertices = polytope_vertices(a, b)
        assert (vertices @ a.T <= b + 1e-8).all()
        np.testing.assert_allclose(vertices.sum(1), 1, atol=1e-12)
        for c in rng.normal(size=(5, p)):
            best = linprog(-c, A_ub=a, b_ub=b, A_eq=np.ones((1, p)), b_eq=[1], bounds=(0, 1))
            assert (vertices @ c).max() == pytest.approx(-best.fun, abs=1e-7)


def test_vertices_of_known_polytopes():
    np.testing.assert_allclose(polytope_vertices(np.zeros((0, 3)), np.zeros(0)), np.eye(3)[::-1])
    # A degenerate vertex, met by several subsets, appears once.
    assert len(polytope_vertices([[1.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]], [0.5, 0.5, 1.0])) == 4
    single = polytope_vertices(np.vstack([np.eye(3), -np.eye(3)]), [0.2, 0.3, 0.5, -0.2, -0.3, -0.5])
    np.testing.assert_allclose(single, [[0.2, 0.3, 0.5]], atol=1e-9)
    np.testing.assert_allclose(polytope_vertices([[1.0]], [2.0]), [[1.0]])


def test_vertices_refuse():
    with pytest.raises(InvalidInputError, match="no mixture of the 2 domains"):
        polytope_vertices([[1.0, 1.0]], [0.5])
    with pytest.raises(InvalidInputError, match="candidate vertices"):
        polytope_vertices(np.ones((60, 20)), np.ones(60))
    with pytest.raises(InvalidInputError, match="shapes"):
        polytope_vertices([1.0, 1.0], [0.5])
    with pytest.raises(InvalidInputError, match="finite"):
        polytope_vertices([[np.nan, 1.0]], [0.5])


def test_other_refusals():
    with pytest.raises(InvalidInputError):
        project_to_simplex([np.nan])
    with pytest.raises(InvalidInputError, match="floor"):
        exponentiated_gradient([1.0], [0.0], rate=1.0, floor=1.0)
    with pytest.raises(InvalidInputError, match="negative"):
        exponentiated_gradient([-1.0, 2.0], [0.0, 0.0], rate=1.0)
    with pytest.raises(InvalidInputError, match="must be positive"):
        maximise_on_simplex(lambda x: (0.0, x, np.eye(2)), [1.0, 0.0])


def test_newton_reaches_interior_and_boundary_maxima(rng):
    """A concave quadratic, whose maximum is the projection of its centre."""
    for _ in range(50):
        centre = rng.normal(0.2, 0.5, 5)

        def objective(x, c=centre):
            return -0.5 * float(((x - c) ** 2).sum()), c - x, -np.eye(5)

        found = maximise_on_simplex(objective, np.full(5, 0.2), tol=1e-10)
        assert found.gap <= 1e-10
        # A gap of 1e-10 of a 1-strongly concave function: within sqrt(2e-10) of the maximum.
        np.testing.assert_allclose(found.point, project_to_simplex(centre), atol=2e-5)


def test_the_gap_bounds_what_is_left_when_stopped_early(rng):
    matrix = rng.normal(size=(6, 30)) ** 2

    def objective(x):
        mix = x @ matrix
        return float(np.log(mix).sum()), (matrix / mix).sum(1), -(matrix / mix**2) @ matrix.T

    best = maximise_on_simplex(objective, np.full(6, 1 / 6), tol=1e-10).value
    for steps in (0, 1, 2, 3, 5):
        early = maximise_on_simplex(objective, np.full(6, 1 / 6), tol=1e-10, max_steps=steps)
        assert best <= early.value + early.gap + 1e-10
