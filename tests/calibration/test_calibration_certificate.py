"""The certificate of a realised sequence: holds on its evidence, on nothing else; false claims are caught."""

import dataclasses

import numpy as np
import pytest

from corollary.calibration import (
    Ball,
    FollowTheLeader,
    Hedge,
    PengCal,
    Polytope,
    SampleTreeCal,
    Simplex,
    TreeCal,
    adversary,
    certify_stream,
    play,
    replay,
)
from corollary.certificates import Claim, Status
from corollary.errors import InvalidInputError
from corollary.testing import check_certificate

TRIANGLE = Polytope([[0, 0], [1, 0], [0, 1]])


@pytest.mark.parametrize("domain", [Simplex(2), Simplex(4), Ball(3), TRIANGLE])
def test_certificate_of_treecal(domain):
    forecaster = TreeCal(domain, 2, 12)
    game = play(forecaster, adversary("bursts", domain, seed=1), 200)  # with a restart
    certificate, evidence = certify_stream(*game, domain=domain, forecaster=forecaster)
    check_certificate(certificate, evidence)
    assert certificate.confidence is None
    assert len(certificate.claims) == 3 * 3 + 2
    assert "every sequence" in str(certificate)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TreeCal(3, 2, 5, leaf=3, mixing=0.1),
        lambda: PengCal(3, 2, 5),
        lambda: TreeCal(Simplex(3), 2, 5, start="mean"),
        lambda: TreeCal(3, start=[1.0, 0.0, 0.0]),
    ],
)
def test_every_form_of_the_tree_is_run_again(make):
    forecaster = make()
    game = play(forecaster, adversary("random", Simplex(3)), 90)
    certificate, evidence = certify_stream(*game, domain=Simplex(3), forecaster=forecaster)
    assert certificate.check(**evidence)
    gap = next(c for c in certificate.claims if c.name.startswith("largest difference"))
    assert gap.lhs < 1e-12


def test_certificate_of_another_method_claims_no_theorem():
    game = play(Hedge(3), adversary("random", Simplex(3)), 50)
    certificate, evidence = certify_stream(*game, domain=Simplex(3), norms=[1])
    check_certificate(certificate, evidence)
    assert len(certificate.claims) == 2
    for forecaster in (Hedge(3), SampleTreeCal(3)):
        with pytest.raises(InvalidInputError, match="claimed for TreeCal only"):
            certify_stream(*game, domain=Simplex(3), forecaster=forecaster)
    with pytest.raises(InvalidInputError, match="l_p norms"):
        certify_stream(*game, domain=Simplex(3), norms=[np.linalg.norm])


def test_forecasts_of_another_method_do_not_pass_for_treecal():
    game = play(FollowTheLeader(Simplex(2)), adversary("anti-leader", Simplex(2)), 64)
    certificate, evidence = certify_stream(*game, domain=Simplex(2), forecaster=TreeCal(Simplex(2), 2, 8))
    report = certificate.check(**evidence)
    assert report.status is Status.VIOLATED
    assert "largest difference" in report.reason or "theorem" in report.reason
    tree = replay(game.outcomes, 2, 8)
    swapped = np.flip(tree.forecasts(), 1)  # the same distribution in another order is not the same array
    certificate, evidence = certify_stream(swapped, None, game.outcomes, domain=Simplex(2), forecaster=TreeCal(2, 2, 8))
    assert certificate.check(**evidence).status is Status.VIOLATED


def test_smaller_errors_and_other_sets_are_caught():
    forecaster = TreeCal(Simplex(2), 2, 8)
    game = play(forecaster, adversary("random", Simplex(2)), 64)
    certificate, evidence = certify_stream(*game, domain=Simplex(2), forecaster=forecaster)
    first = certificate.claims[0]
    lower = Claim(first.name, first.lhs, "<=", first.rhs / 2, first.tol, first.trivial)
    claims = (lower, *certificate.claims[1:])
    assert dataclasses.replace(certificate, claims=claims).check(**evidence).status is Status.VIOLATED
    witness = {**certificate.witness, "tree": {**certificate.witness["tree"], "branching": 9}}
    assert dataclasses.replace(certificate, witness=witness).check(**evidence).status is Status.VIOLATED
    witness = {**certificate.witness, "set": Ball(2, radius=0.5).as_plain()}
    assert dataclasses.replace(certificate, witness=witness).check(**evidence).status is Status.UNDECIDED
    witness = {**certificate.witness, "set": {"set": "sphere"}}
    assert dataclasses.replace(certificate, witness=witness).check(**evidence).status is Status.UNDECIDED


def test_vacuous_bounds_say_so():
    forecaster = TreeCal(Simplex(20))
    game = play(forecaster, adversary("random", Simplex(20)), 100)
    certificate, evidence = certify_stream(*game, domain=Simplex(20), forecaster=forecaster, norms=[1])
    theorem = [c for c in certificate.claims if "theorem" in c.name]
    assert all(c.vacuous for c in theorem)
    assert certificate.check(**evidence)
    assert "says nothing" in str(certificate)
    long = play(TreeCal(Simplex(2), 2, 64), adversary("random", Simplex(2)), 4096)
    certificate, _ = certify_stream(*long, domain=Simplex(2), forecaster=TreeCal(Simplex(2), 2, 64), norms=[1])
    assert not any(c.vacuous for c in certificate.claims)  # here the theorem speaks
