"""Trained and perturbed heads become automata; certificates hold at all lengths, or name the shortest difference."""

import copy

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from corollary.automata import (
    DFA,
    FiniteHead,
    RationalHead,
    RationalTransductor,
    Transducer,
    TransductorConfig,
    certify,
    certify_float,
    counter_head,
    eigen_angles,
    equivalent,
    extract,
    fit_read_out,
    fixed_head,
    from_automaton,
    head_group,
    learn,
    length_accuracy,
    permutation_head,
    rotations,
    save_certified,
    snap,
    task,
    universal,
)
from corollary.automata._certificate import all_lengths, error_bound, half_distance
from corollary.certificates import Status, load_certificate
from corollary.cli import app
from corollary.errors import InvalidInputError


def disturbed(matrices, initial, size, seed=0):
    """A head whose matrices were learned badly: turned by small random rotations."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(matrices.shape, generator=g, dtype=torch.float64) * size
    return fixed_head(torch.linalg.matrix_exp(noise - noise.mT) @ matrices, initial)


def test_the_representation_is_snapped_jointly():
    """Steps -1, 0, 1 of a cycle, each with its own error: inverses and orders hold exactly afterwards."""
    steps, k = torch.tensor([-1.0, 0.0, 1.0]), 5
    for seed in range(10):
        exact = rotations((2 * torch.pi / k * steps)[:, None].double())
        head = disturbed(exact, torch.tensor([1.0, 0.0], dtype=torch.float64), 5e-3, seed)
        M = head.matrices()
        assert (M[0] @ M[2] - torch.eye(2)).abs().max() > 1e-4  # no inverse before
        found = head.snap(8)
        P = found.matrices()
        eye = torch.eye(k, dtype=P.dtype)
        assert torch.equal(P[0] @ P[2], eye)
        assert torch.equal(P[1], eye)
        assert torch.equal(torch.linalg.matrix_power(P[2], k), eye)
        assert (found.vectors.norm(dim=-1) - 1).abs().max() < 0.05


def test_a_group_of_120_elements_is_found():
    exact = permutation_head()
    centred = exact.alpha.detach().double() - exact.alpha.mean().double()
    head = disturbed(exact.matrices().double(), centred, 2e-3)
    found = head.snap(8)
    assert found.transitions.shape == (120, 2)
    automaton = task("s5").automaton
    # the table is the group: the same machine up to the names of states
    machine = Transducer(found.transitions.numpy(), np.zeros((120, 2)))
    assert (Transducer(automaton.transitions, np.zeros((120, 2))).run(np.zeros((1, 3), dtype=int)) == 0).all()
    assert len(machine.reached()[0]) == 120
    with pytest.raises(InvalidInputError, match="cycle of length"):
        head.snap(3)  # the five-cycle


def test_stochastic_heads_snap_to_their_columns():
    head = RationalHead(3, 4, family="stochastic", seed=0)
    with torch.no_grad():
        table = torch.tensor([[1, 0, 2], [2, 1, 1], [3, 2, 1], [0, 3, 0]])
        head.weights["weight"].copy_(12.0 * torch.nn.functional.one_hot(table.T, 4).mT)
        head.alpha.copy_(torch.tensor([12.0, 0, 0, 0]))
    found = head.snap(60)
    columns = head.matrices().argmax(-2)  # (V, n): where each state mostly goes
    number, order = {0: 0}, [0]
    for q in order:
        for x in range(3):
            if (after := int(columns[x, q])) not in number:
                number[after] = len(number)
                order.append(after)
    wanted = np.array([[number[int(columns[x, q])] for x in range(3)] for q in order])
    assert (found.transitions.numpy() == wanted).all()


def test_heads_that_are_not_finite_are_refused():
    turn = fixed_head(
        rotations(torch.tensor([[1.0]], dtype=torch.float64)), torch.tensor([1.0, 0.0], dtype=torch.float64)
    )
    with pytest.raises(InvalidInputError, match="not near a finite automaton"):
        snap(turn, tolerance=1e-3, limit=60)
    with pytest.raises(InvalidInputError, match="q_max"):
        snap(turn, 0)
    with pytest.raises(InvalidInputError, match="no head"):
        RationalTransductor(TransductorConfig(vocab_size=2, classes=2)).snap()
    finite = counter_head(3)
    assert finite.snap() is finite


def test_angles_are_told_as_fractions_of_a_turn():
    head = fixed_head(
        rotations(torch.tensor([[2 * torch.pi * 2 / 7 + 1e-3, torch.pi]]).double()), torch.ones(4).double()
    )
    told = eigen_angles(head, q_max=10)[0]
    assert set(told["fractions"]) == {"2/7", "1/2"}
    length = told["lengths"][told["fractions"].index("2/7")]
    assert abs(length - 1 / (14 * 1e-3 / (2 * torch.pi))) < 1


def trained(name, family, dim, *, steps, seed=0, head=None, **options):
    problem = task(name)
    own = head or RationalHead(problem.vocab_size, dim, family=family, seed=seed)
    sizes = {"layers": 1, "attention": False} | options
    config = TransductorConfig(vocab_size=problem.vocab_size, classes=problem.classes, **sizes)
    model = RationalTransductor(config, own, seed=seed)
    learn(model, problem, steps=steps, seed=seed)
    return model, problem


@pytest.mark.parametrize(("name", "family", "dim"), [("parity", "signed", 8), ("flip-flop", "stochastic", 4)])
def test_trained_snapped_certified(name, family, dim, tmp_path):
    model, problem = trained(name, family, dim, steps=200)
    snapped = model.snap(60)
    certificate, evidence = certify(snapped, problem.automaton)
    assert certificate.rule == "automata.all_lengths"
    assert certificate.check(**evidence).status is Status.HOLDS
    assert certificate.claims[1].lhs > 0.1  # a margin far above rounding
    assert length_accuracy(snapped, problem, [20_000], count=2)[20_000]["words"] == 1.0
    save_certified(tmp_path / "run", snapped, problem.automaton, certificate, evidence)
    loaded, stored = load_certificate(tmp_path / "run")
    assert loaded.check(**stored).status is Status.HOLDS
    for more in ([], ["--rescore"]):
        done = CliRunner().invoke(app, ["verify", str(tmp_path / "run"), "--quiet", *more])
        assert done.exit_code == 0
        assert not done.output
    assert CliRunner().invoke(app, ["report", str(tmp_path / "run")]).exit_code == 0
    with pytest.raises(InvalidInputError, match="other settings"):
        save_certified(tmp_path / "run", from_automaton(problem.automaton), problem.automaton, certificate, evidence)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mod", "cycle", "s5"])
def test_more_trained_snapped_certified(name):
    recipes = {"mod": ("cayley", 8, 400), "cycle": ("cayley", 8, 400), "s5": ("signed", 16, 800)}
    family, dim, steps = recipes[name]
    problem = task(name)
    head = RationalHead(problem.vocab_size, dim, family=family, scale=0.3 if name == "s5" else None, seed=1)
    model, problem = trained(name, family, dim, steps=steps, seed=1, head=head, width=64 if name == "s5" else 32)
    certificate, evidence = certify(model.snap(200), problem.automaton)
    assert certificate.rule == "automata.all_lengths"
    assert certificate.check(**evidence)


def test_a_head_behind_attention_is_snapped_by_a_read_out_of_its_own():
    problem = task("cycle")
    exact = rotations((2 * torch.pi / 5 * torch.tensor([-1.0, 0.0, 1.0]))[:, None].double())
    noise = torch.linalg.matrix_exp(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]).double())  # a plane that never closes
    matrices = torch.stack([torch.block_diag(m, noise) for m in exact])
    head = disturbed(matrices, torch.tensor([1.0, 0.0, 1.0, 0.0]).double(), 1e-3)
    with pytest.raises(InvalidInputError, match="not near a finite automaton"):
        snap(head, tolerance=0.05, limit=100)
    answer = fit_read_out(head, problem)
    found = head.snap(8, answer=answer)
    V, n = 3, len(found.transitions)
    before, after = found.vectors.repeat_interleave(V, 0), found.vectors[found.transitions.reshape(-1)]
    answers = answer(before, torch.arange(V).repeat(n), after).view(n, V)
    certificate, evidence = certify(found, problem.automaton, read_out=answers.numpy())
    assert certificate.rule == "automata.all_lengths"
    assert certificate.check(**evidence).status is Status.HOLDS
    with pytest.raises(InvalidInputError, match="symbols"):
        fit_read_out(counter_head(2), problem)


def test_what_a_network_computes_is_extracted():
    model, problem = trained("flip-flop", "stochastic", 4, steps=120)
    found = extract(model, alphabet=problem.automaton.alphabet)
    assert equivalent(found, problem.automaton).equal
    assert found.states == 2
    formulas = task("arithmetic", k=3).automaton
    again = extract(from_automaton(formulas), domain=formulas)
    assert again.states == formulas.states
    assert equivalent(again, formulas).equal
    head = disturbed(rotations(torch.tensor([[2 * torch.pi / 6]]).double()), torch.tensor([1.0, 0.0]).double(), 1e-3)
    assert head_group(head.snap(6)).order == 6
    assert extract(head, 6).states == 6
    attending = RationalTransductor(TransductorConfig(vocab_size=2, classes=2), counter_head(2))
    with pytest.raises(InvalidInputError, match="more than the state"):
        extract(attending)


def test_modular_arithmetic_is_only_asked_about_its_own_words():
    """A network that is right on formulas and arbitrary elsewhere: the domain keeps the rest out."""
    problem = task("arithmetic", k=3)
    model = from_automaton(problem.automaton)
    rough = copy.copy(model)
    rough._modules = dict(model._modules)
    n = len(model.head.transitions)
    rough.head = fixed_head(model.head.matrices(), torch.eye(n)[model.head.start])
    found = rough.snap(60, domain=problem.automaton)
    certificate, evidence = certify(found, problem.automaton)
    assert certificate.check(**evidence).status is Status.HOLDS
    assert len(found.head.transitions) <= problem.automaton.states


def test_a_difference_is_certified_with_its_shortest_word():
    model = from_automaton(DFA.from_regex("(ab){0,4}", "ab"))
    declared = DFA.from_regex("(ab)*", "ab")
    certificate, evidence = certify(model, declared)
    assert certificate.rule == "automata.difference"
    assert "".join(certificate.witness["symbols"]) == "ababababab"
    assert certificate.check(**evidence).status is Status.HOLDS
    shorter = {**certificate.witness, "word": certificate.witness["word"][:-1]}
    assert not copy_with(certificate, witness=shorter).check(**evidence)


def test_the_empty_language_and_the_empty_word():
    """A network rejects everything: equal to the empty language at all lengths; of the empty word it says nothing."""
    model = RationalTransductor.from_regex("[]", "ab")
    for pattern in ("[]", ""):
        certificate, evidence = certify(model, DFA.from_regex(pattern, "ab"))
        assert certificate.rule == "automata.all_lengths"
        assert certificate.check(**evidence).status is Status.HOLDS
    other, evidence = certify(model, DFA.from_regex("b*", "ab"))
    assert (other.rule, other.witness["symbols"]) == ("automata.difference", ["b"])
    assert other.check(**evidence).status is Status.HOLDS


def copy_with(certificate, **changes):
    import dataclasses

    return dataclasses.replace(certificate, **changes)


def test_networks_with_attention_are_undecided():
    problem = task("parity")
    config = TransductorConfig(vocab_size=2, classes=2, width=16, layers=1, heads=2)
    certificate, evidence = certify(RationalTransductor(config, counter_head(2)), problem.automaton)
    report = certificate.check(**evidence)
    assert report.status is Status.UNDECIDED
    assert "attention" in report.reason
    # its head can be certified with a read-out of its own
    own, evidence = certify(counter_head(2), problem.automaton, read_out=[0, 1])
    assert own.check(**evidence).status is Status.HOLDS


def test_heads_against_group_tables_and_dfas():
    table = np.array([[(a + b) % 4 for b in range(4)] for a in range(4)])
    head = counter_head(4, steps=range(4))
    certificate, evidence = certify(head, table, read_out=range(4))
    assert certificate.check(**evidence).status is Status.HOLDS
    dfa = DFA.from_regex("(0|10*1)*", "01")
    certificate, evidence = certify(FiniteHead(dfa.transitions), dfa, read_out=dfa.accepting)
    assert certificate.check(**evidence).status is Status.HOLDS
    with pytest.raises(InvalidInputError, match="read_out"):
        certify(head, table)
    with pytest.raises(InvalidInputError, match="read_out"):
        certify(head, table, read_out=[0, 1])
    with pytest.raises(InvalidInputError, match="call `snap`"):
        certify(RationalHead(4, 4), table, read_out=range(4))
    with pytest.raises(InvalidInputError, match="symbols"):
        certify(counter_head(3), table, read_out=range(3))
    with pytest.raises(InvalidInputError, match="declared"):
        certify(head, "regex", read_out=range(4))


def machines(rng, n, V, C):
    return Transducer(rng.integers(0, n, (n, V)), rng.integers(0, C, (n, V)))


def test_the_rule_against_an_oracle_on_random_machines(rng):
    """Certified equal iff answers agree on all words up to the product of the numbers of states (enumerated)."""
    equal = 0
    for trial in range(150):
        a = machines(rng, 3, 2, 2)
        b = a.minimise() if trial % 2 else machines(rng, 2, 2, 2)
        certificate, evidence = certify(FiniteHead(a.transitions), b, read_out=a.outputs)
        words = np.array(np.meshgrid(*[[0, 1]] * 7)).reshape(7, -1).T
        same = bool((a.run(words) == b.run(words)).all())
        assert (certificate.rule == "automata.all_lengths") == same
        assert certificate.check(**evidence).status is Status.HOLDS
        if not same:
            word = np.array([certificate.witness["word"]])
            assert a.run(word)[0, -1] != b.run(word)[0, -1]
            short = words[:, : max(1, word.shape[1] - 1)]
            assert word.shape[1] == 1 or (a.run(short) == b.run(short)).all()
        equal += same
    assert 20 < equal < 130


def test_a_mutated_certificate_is_caught(rng):
    """One wrong answer, one wrong transition, a larger margin: each must fail."""
    dfa = DFA.from_regex("((a|b){3})*", "ab").transducer()
    certificate, evidence = certify(from_automaton(dfa), dfa)
    assert certificate.check(**evidence)
    flipped = dict(evidence, logits=evidence["logits"][..., ::-1].copy())
    assert certificate.check(**flipped).status is Status.UNDECIDED  # other evidence than it was issued on
    claims = all_lengths(certificate.witness, flipped)
    assert not claims[0].holds
    moved = dict(evidence, transitions=np.roll(evidence["transitions"], 1, axis=0))
    assert not all_lengths(certificate.witness, moved)[0].holds
    more = copy_with(certificate, witness={**certificate.witness, "margin": certificate.witness["margin"] * 1.01})
    assert more.check(**evidence).status is Status.VIOLATED


def test_float_errors_stay_below_their_bound(rng):
    """Disturbed rotations: the true distance never exceeds the bound, and half of the bound would be caught."""
    tight = 0
    for seed in range(12):
        k, size = 3 + seed % 5, 10.0 ** -(3 + seed % 4)
        exact = rotations(torch.tensor([[2 * torch.pi / k], [-2 * torch.pi / k], [0.0]], dtype=torch.float64))
        head = disturbed(exact, torch.tensor([1.0, 0.0], dtype=torch.float64), size, seed)
        finite = FiniteHead(
            [[(q + 1) % k, (q - 1) % k, q] for q in range(k)],
            torch.stack([torch.linalg.matrix_power(exact[0], q)[:, 0] for q in range(k)]),
        )
        x = torch.from_numpy(rng.integers(0, 3, (40, 300)))
        x[0] = 0  # the worst word turns one way
        for dtype in (torch.float64, torch.float32):
            run = fixed_head(head.matrices().to(dtype), head.alpha.detach().to(dtype))
            gap = (run(x).double() - finite(x)).norm(dim=-1).max(0).values
            for T in (1, 10, 300):
                certificate, evidence = certify_float(run, finite, length=T)
                bound = certificate.claims[0].lhs
                assert gap[:T].max() <= bound
                tight += bool(gap[:T].max() > bound / 2)
                holds = bound <= half_distance(evidence["vectors"])
                assert (certificate.check(**evidence).status is Status.HOLDS) == holds
    assert tight > 8  # so a bound half as large would have been caught


def test_error_bound_is_linear_without_growth():
    M = np.eye(2)[None]
    value = error_bound(M, [1.0, 0.0], np.array([[0]]), np.array([[1.0, 0.0]]), start=0, length=1000, unit=0.0)
    assert value < 1e-9
    with pytest.raises(InvalidInputError, match="length"):
        certify_float(fixed_head(M, [1.0, 0.0]), counter_head(1), length=0)


def test_snapping_with_a_universal_head_and_exclusive_states():
    model, problem = trained(
        "flip-flop", "", 0, steps=120, head=universal(3, orthogonal=4, stochastic=3, seed=0), state="exclusive"
    )
    snapped = model.snap(60)
    assert equivalent(
        Transducer(snapped.head.transitions.numpy(), _answers(snapped)), _unnamed(problem.automaton)
    ).equal


def _answers(model):
    from corollary.automata._evidence import network_logits

    return network_logits(model).argmax(-1)


def _unnamed(machine):
    return Transducer(machine.transitions, machine.outputs, machine.start)
