"""Shapes, certificates, ragged orbits, views, transformations, and what is said of bad input."""

import numpy as np
import pytest

from corollary.certificates import load_certificate, save_certificate
from corollary.coherence import (
    Bregman,
    column_symmetries,
    connected_orbits,
    contrast,
    image_crops,
    image_flips,
    image_rotations,
    image_shifts,
    issue_orbit_gain,
    make_views,
    option_orders,
    project,
    project_orbits,
    project_values,
    relax,
    sequence_variants,
    text_variants,
)
from corollary.coherence import _projection as module
from corollary.errors import InvalidInputError


@pytest.fixture
def views(rng):
    return np.log(rng.dirichlet(np.ones(3), size=(4, 60)))


def test_blocks_change_nothing(views, monkeypatch):
    whole = project(views)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert (project(views).log_probs == whole.log_probs).all()
    assert (project(views).gain == whole.gain).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes(views, dtype):
    found = project(views.astype(dtype))
    assert found.log_probs.dtype == np.float64
    assert np.allclose(found.log_probs, project(views).log_probs, atol=1e-5)
    assert np.allclose(np.exp(found.log_probs).sum(1), 1, atol=1e-12)


@pytest.mark.parametrize("divergence", ["kl", "squared"])
def test_the_certificate_is_derived_again_and_edits_are_found(views, divergence, tmp_path, rng):
    found = project(views, divergence=divergence, weights=rng.dirichlet(np.ones(4)))
    save_certificate(tmp_path, found.certificate, found.evidence)
    certificate, evidence = load_certificate(tmp_path)
    assert certificate.check(**evidence).status.name == "HOLDS"
    assert certificate.claims[1].rhs == pytest.approx(found.gain.mean(), abs=1e-8)
    assert certificate.claims[1].trivial == 0.0
    other = {**evidence, "answer": np.log(np.full_like(evidence["answer"], 1 / 3))}
    assert certificate.check(**other).status.name != "HOLDS"


def test_an_answer_that_is_no_projection_does_not_pass(views):
    from corollary.coherence._certificate import gain

    found = project(views)
    witness = found.certificate.witness
    assert all(claim.holds for claim in gain(witness, found.evidence))
    moved = found.log_probs + np.array([0.01, 0.0, -0.01])
    moved -= np.log(np.exp(moved).sum(-1, keepdims=True))
    assert not all(claim.holds for claim in gain(witness, {**found.evidence, "answer": moved}))


def test_orbit_interval_covers(rng):
    """Gains of inputs drawn anew: the interval holds the mean of the population in nearly all of 200 worlds."""
    floor, missed = 1e-3, 0
    pool = project(np.log(0.99 * rng.dirichlet(np.ones(3), size=(3, 20_000)) + 0.01 / 3)).gain
    for _ in range(200):
        certificate, evidence = issue_orbit_gain(rng.choice(pool, 150), floor=floor, delta=0.1)
        lower, upper = (claim.rhs for claim in certificate.claims)
        missed += not lower <= pool.mean() <= upper
        assert certificate.check(**evidence).status.name == "HOLDS"
    assert missed <= 33  # 200 worlds at delta = .1
    few, evidence = issue_orbit_gain(pool[:20], floor=floor)
    assert few.check(**evidence).status.name == "UNDECIDED"


def test_ragged_orbits_equal_one_by_one(rng):
    sizes = rng.integers(1, 7, size=40)
    orbit = rng.permutation(np.repeat(np.arange(40), sizes))
    rows, weights = np.log(rng.dirichlet(np.ones(4), size=len(orbit))), rng.uniform(0.1, 1, len(orbit))
    for divergence in ("kl", "squared"):
        found, index = project_orbits(rows, orbit, weights=weights, divergence=divergence)
        for o in range(40):
            mine = orbit == o
            alone = project(rows[mine][:, None], weights=weights[mine], divergence=divergence)
            assert np.allclose(found.log_probs[o], alone.log_probs[0])
            assert found.gain[o] == pytest.approx(alone.gain[0], abs=1e-12)
        assert (index == orbit).all()


def test_views_all_and_drawn(rng):
    X = rng.normal(size=(500, 4))
    transforms = [lambda x: x, lambda x: -x, lambda x: 2 * x]
    assert len(make_views(X, transforms)) == 3
    drawn = make_views(X, transforms, samples=6, weights=[0.5, 0.5, 0.0], seed=1)
    assert len(drawn) == 6
    share = np.mean([(v[:, 0] == X[:, 0]) for v in drawn])
    assert 0.45 < share < 0.55
    assert not any((v[:, 0] == 2 * X[:, 0]).any() for v in drawn)
    assert make_views(["A b"], text_variants(), samples=2)[0][0].lower() == "a b"


def test_transformations(rng):
    images = rng.normal(size=(2, 5, 5))
    for maker in (image_shifts(1, wrap=True), image_flips(vertical=True), image_rotations()):
        together = np.sort(np.stack([t(images).sum((1, 2)) for t in maker]))
        assert np.allclose(together, together[:1])  # pixels only move
        assert (maker[0](images) == images).all()
    back = image_shifts(1, wrap=True)
    assert any(np.allclose(back[1](t(images)), images) for t in back)
    border = image_shifts(1)[1](images)
    assert border.shape == images.shape
    assert image_crops(3)[5](images).shape == images.shape
    assert np.allclose(image_crops(5)[1](images), images)
    X = rng.normal(size=(3, 4))
    for t in column_symmetries(swaps=[(0, 2)], signs=[[1, 3]]):
        assert np.allclose(t(t(X)), X)
    assert [t(np.array([[0, 1, 2]])).tolist() for t in sequence_variants(relabellings=[[1, 2, 0]])] == [
        [[0, 1, 2]],
        [[2, 1, 0]],
        [[1, 2, 0]],
    ]
    texts = text_variants({"car": "auto"})
    assert texts[3](["The Car is a carpet"]) == ["The Auto is a carpet"]
    assert len(option_orders(4, count=10)) == len(set(option_orders(4, count=10))) == 10
    assert connected_orbits(4, []).tolist() == [0, 1, 2, 3]


def bad_cases(views):
    nan = views.copy()
    nan[1, 41, 0] = np.nan
    with np.errstate(divide="ignore"):
        disjoint = np.log([[[1.0, 0.0]], [[0.0, 1.0]]])
    return {
        "nan": (lambda: project(nan), "view 1 of input 41 holds NaN"),
        "probabilities": (lambda: project(np.exp(views)), "not 1; pass log-probabilities"),
        "shape": (lambda: project(views[0]), "shape \\(views, inputs, classes\\)"),
        "empty": (lambda: project(views[:, :0]), "none of them 0"),
        "integers": (lambda: project(np.zeros((2, 2, 1), dtype=int)), "floating-point"),
        "divergence": (lambda: project(views, divergence="tv"), "`divergence` must be kl"),
        "side": (lambda: project(views, side="up"), "`side` must be"),
        "weights": (lambda: project(views, weights=[1, 2]), "`weights` must have shape"),
        "negative weights": (lambda: project(views, weights=[1, 1, 1, -1]), "not negative"),
        "floor": (lambda: project(views, floor=0.5), "`floor` must lie"),
        "disjoint": (lambda: project(disjoint), "give a floor"),
        "zeros": (lambda: project(disjoint, divergence="itakura-saito"), "give a floor"),
        "domain": (lambda: project_values([[[2.0]]], divergence="logistic"), "leave the domain"),
        "values": (lambda: project_values([[np.nan]]), "must be finite"),
        "orbits": (lambda: project_orbits(views[0], [1, 2]), "rows \\(R, K\\) and orbits"),
        "ragged evidence": (lambda: project_orbits(views[0], np.arange(60) // 2)[0].evidence, "keep no views"),
        "both": (lambda: relax(views, strength=0.5, limit=0.1), "either"),
        "strength": (lambda: relax(views, strength=2.0), "`strength` must lie"),
        "relax zero": (lambda: relax(disjoint, strength=0.5), "zero; relaxing|give a floor"),
        "labels": (lambda: contrast(views, np.zeros(60, dtype=int)), "Views need labels of their own"),
        "no transform": (lambda: make_views(views, []), "no transformation"),
        "lost rows": (lambda: make_views(np.ones((3, 1)), [lambda x: x[:2]]), "must keep them"),
        "pairs": (lambda: connected_orbits(3, [[0, 3]]), "must name inputs 0 to 2"),
        "relabelling": (lambda: sequence_variants(relabellings=[[0, 0]]), "permutation"),
        "options": (lambda: option_orders(3, count=7), "6 orders"),
        "floor of interval": (lambda: issue_orbit_gain([0.1] * 40, floor=2.0), "`floor` must lie"),
    }


@pytest.mark.parametrize("name", list(bad_cases(np.zeros((4, 60, 3)))))
def test_bad_input(name, views, as_shipped):
    call, message = bad_cases(views)[name]
    with pytest.raises(InvalidInputError, match=message):
        call()


def test_the_place_of_a_bad_row_counts_from_the_first(views, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 16)
    views[2, 50] = np.nan
    with pytest.raises(InvalidInputError, match="view 2 of input 50"):
        project(views)


def test_a_potential_of_the_users_own_is_checked(rng):
    points = rng.dirichlet(np.ones(3), size=20)
    Bregman("mine", lambda p: (p**4).sum(-1), lambda p: 4 * p**3, lambda g: np.cbrt(g / 4)).check(points)
    with pytest.raises(InvalidInputError, match="does not undo"):
        Bregman("wrong", lambda p: (p**4).sum(-1), lambda p: 4 * p**3, lambda g: g).check(points)
    with pytest.raises(InvalidInputError, match="not convex"):
        Bregman("concave", lambda p: -(p**2).sum(-1), lambda p: -2 * p, lambda g: -g / 2).check(points)


def test_floor_touches_zeros_only(views):
    assert (project(views, floor=1e-6).log_probs == project(views).log_probs).all()
    with np.errstate(divide="ignore"):
        disjoint = np.log([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert project(disjoint, floor=1e-6).probs[0] == pytest.approx([0.5, 0.5])
