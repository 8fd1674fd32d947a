import numpy as np
import pytest
import torch

from corollary.errors import InvalidFileError, InvalidInputError, NotFittedError
from corollary.gating import RobustGate, robust_gate
from corollary.gating._game import state_masses
from corollary.gating._normaliser import estimate, per_expert_ratios, pooled_ratios
from corollary.gating._rows import Rows
from corollary.numerics import entropy, jensen_shannon, kl

FULL = {"gate": "tabular", "entropy": "empirical", "batch_size": None, "sample_batch_size": None,
        "gate_floor": 1e-6, "mixture_floor": 1e-6}  # fmt: skip


def world(seed, *, p=3, n=30):
    rng = np.random.default_rng(seed)
    domains = rng.dirichlet(np.full(n, 0.3), p)
    experts = 0.8 * domains + 0.2 * rng.dirichlet(np.full(n, 0.3), p)
    return domains / domains.sum(1, keepdims=True), experts / experts.sum(1, keepdims=True)


def census(domains, experts):
    """Every state once per domain, weighted; Z exactly."""
    p, n = domains.shape
    return {
        "log_likelihoods": np.log(np.tile(experts.T, (p, 1))), "domain": np.repeat(np.arange(p), n),
        "features": np.tile(np.arange(n), p), "weight": domains.reshape(-1), "samples_log_likelihoods":
        np.log(experts.T), "samples_features": np.arange(n), "samples_weight": experts.mean(0),
    }  # fmt: skip


def sampled(domains, experts, count, seed=0):
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.choice(experts.shape[1], count, p=q) for q in experts])
    who = np.repeat(np.arange(len(experts)), count)
    drawn = {
        "samples_log_likelihoods": np.log(experts.T[x]),
        "samples_features": x,
        "samples_weight": None,
        "samples_expert": who,
    }
    return census(domains, experts) | drawn


def documents(seed, count=600, p=3, lead=8.0):
    """Scored documents as a language model gives them: long, and nearly separable."""
    rng = np.random.default_rng(seed)
    k = rng.integers(p, size=count)
    logq = -rng.gamma(100, 1, (count, 1)) - rng.gamma(20, 0.5, (count, p))
    logq[np.arange(count), k] += lead
    return logq, k


def model(gate, experts):
    n = experts.shape[1]
    return np.exp(gate.log_density(np.log(experts.T), np.arange(n), normalised=False).numpy())


def check_full_batch(seed):
    domains, experts = world(seed)
    value = robust_gate(domains, experts, tol=1e-9).upper
    gate = RobustGate(steps=2000, **FULL).fit(**census(domains, experts))
    pi, h = model(gate, experts), gate.history_
    worst = kl(domains, pi / pi.sum()).max()
    assert value - 1e-9 <= worst <= value + 1e-3
    assert h["worst"][-1] == pytest.approx(worst, abs=1e-6)
    assert abs(pi.sum() - 1) < 1e-3
    # The theorem: the gap of the averages is at most the mean regret, and the dual value is below the game's.
    assert (h["gap"] <= h["regret"] + 1e-10).all()
    assert (h["dual"] <= value + 1e-9).all()
    assert h["gap"][-1] < 2e-3
    np.testing.assert_allclose(h["regret"], h["regret_gate"] + h["regret_mixture"] + h["regret_multiplier"])


@pytest.mark.parametrize("seed", range(3))
def test_full_batches_reach_the_exact_value(seed):
    check_full_batch(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 20))
def test_full_batches_reach_the_exact_value_in_more_worlds(seed):
    check_full_batch(seed)


@pytest.mark.parametrize(
    ("seed", "steps", "room"),
    [(0, 2000, 1.02), *(pytest.param(seed, 8000, 1.01, marks=pytest.mark.slow) for seed in range(4))],
)
def test_stochastic_steps_come_within_one_percent(seed, steps, room):
    """One percent after 8,000 steps; the short run is allowed two."""
    domains, experts = world(seed)
    value = robust_gate(domains, experts, tol=1e-9).upper
    gate = RobustGate(
        gate="tabular", entropy="empirical", steps=steps, batch_size=32, sample_batch_size=96, checkpoints=4
    )
    pi = model(gate.fit(**sampled(domains, experts, 20_000)), experts)
    assert kl(domains, pi / pi.sum()).max() <= room * value
    assert abs(pi.sum() - 1) < 5e-3


def test_both_estimators_agree_with_the_exact_sum():
    _, experts = world(0)
    rng = np.random.default_rng(0)
    gate = torch.as_tensor(rng.dirichlet(np.ones(3), 30))
    exact = float((gate.T.numpy() * experts).sum())
    count, results = 20_000, []
    for shares in ([1 / 3, 1 / 3, 1 / 3], [0.2, 0.3, 0.5]):
        who = np.repeat(np.arange(3), (np.array(shares) * 3 * count).astype(int))
        x = np.concatenate([rng.choice(30, (who == k).sum(), p=experts[k]) for k in range(3)])
        logq, log_g, c = (
            torch.as_tensor(np.log(experts.T[x])),
            gate[x].log(),
            torch.tensor(shares, dtype=torch.float64),
        )
        pooled = estimate(pooled_ratios(log_g, logq, c))
        plain = estimate(per_expert_ratios(log_g, torch.as_tensor(who), c))
        for found in (pooled, plain):
            assert abs(found.value - exact) < 4 * found.standard_error
        results.append((pooled.standard_error, plain.standard_error))
    assert all(pooled < plain for pooled, plain in results)  # Rao and Blackwell
    # Exactly unbiased: expectations of both by summing over the space.
    q, share = torch.as_tensor(experts), torch.full((3,), 1 / 3, dtype=torch.float64)
    ratios = pooled_ratios(gate.log(), q.T.log(), share)
    assert float((q.mean(0) * ratios).sum()) == pytest.approx(exact, abs=1e-12)
    own = sum(float((q[k] / 3 * per_expert_ratios(gate.log(), torch.full((30,), k), share)).sum()) for k in range(3))
    assert own == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("options", [{"normalisation": "free"}, {"rho": 5.0}, {"estimator": "per_expert"}])
def test_variants_reach_the_same_value(options):
    domains, experts = world(4)
    value = robust_gate(domains, experts, tol=1e-9).upper
    gate = RobustGate(**(FULL | {"steps": 1200, "checkpoints": 2} | options))
    data = sampled(domains, experts, 1500) if "estimator" in options else census(domains, experts)
    pi = model(gate.fit(**data), experts)
    # The free variant may leave the band and be better; 1,500 samples an expert move Z by up to half a
    # percent.
    room = 2e-2 if "estimator" in options else 2e-3
    assert kl(domains, pi / pi.sum()).max() <= value + room


def test_restricted_mixtures_with_their_diversity():
    domains, experts = world(5)
    points = np.array([[0.6, 0.4, 0.0], [0.6, 0.0, 0.4], [0.0, 0.6, 0.4], [0.2, 0.2, 0.6]])
    exact = robust_gate(domains, experts, mixtures=points, tol=1e-9)
    gate = RobustGate(**FULL, steps=1200, checkpoints=4, mixtures=points, diversity=jensen_shannon(domains, points))
    pi = model(gate.fit(**census(domains, experts)), experts)
    assert kl(points @ domains, pi / pi.sum()).max() <= exact.upper + 1e-3
    assert gate.mixture_.sum() == pytest.approx(1)
    assert gate.history_["worst"][-1] == pytest.approx(kl(points @ domains, pi / pi.sum()).max(), abs=1e-6)


def test_entropy_options_move_the_mixture():
    domains, experts = world(6)
    data, h = census(domains, experts), entropy(domains)
    options = FULL | {"steps": 300, "checkpoints": 3}
    given = RobustGate(**(options | {"entropy": h})).fit(**data)
    empirical = RobustGate(**options).fit(**data)
    np.testing.assert_allclose(given.mixture_, empirical.mixture_, atol=1e-10)
    excess = RobustGate(**(options | {"entropy": "expert"})).fit(**data)
    assert np.abs(excess.mixture_ - given.mixture_).max() > 1e-3
    own = h + kl(domains, experts)
    np.testing.assert_allclose(
        RobustGate(**(options | {"entropy": own})).fit(**data).mixture_, excess.mixture_, atol=1e-10
    )


def unigrams(seed, count, *, from_experts=False, p=3, length=20):
    """Sequences of 8 symbols, scored by experts that know their domain roughly; counts are features."""
    fixed, rng = np.random.default_rng(42), np.random.default_rng(seed)
    truth = fixed.dirichlet(np.ones(8), p)
    experts = 0.7 * truth + 0.3 / 8
    k = np.repeat(np.arange(p), count)
    counts = rng.multinomial(length, (experts if from_experts else truth)[k])
    return counts @ np.log(experts).T, k, counts / length


def test_network_repairs_experts_on_sequences():
    """Better in the worst domain than the uniform mixture, on documents the gate has not seen."""
    logq, k, x = unigrams(0, 1000)
    held, who, y = unigrams(1, 1000)
    drawn, expert, z = unigrams(2, 2000, from_experts=True)
    fresh, _, u = unigrams(3, 20_000, from_experts=True)
    seen = []
    gate = RobustGate(steps=400, checkpoints=5, entropy="expert").fit(
        logq, k, features=x, samples_log_likelihoods=drawn, samples_expert=expert, samples_features=z,
        validation={"log_likelihoods": held, "domain": who, "features": y}, progress=seen.append,
    )  # fmt: skip
    assert len(seen) == len(gate.history_["step"]) == 5
    torch.testing.assert_close(gate.log_gate(held, y).exp().sum(1), torch.ones(3000, dtype=torch.float64))
    found = gate.estimate_normaliser(fresh, u)
    own = held[np.arange(3000), who]
    excess = own - gate.log_density(held, y, normalised=False).numpy() + np.log(found.value)
    uniform = own - np.logaddexp.reduce(held, axis=1) + np.log(3)
    worst = [max(e[who == j].mean() for j in range(3)) for e in (excess, uniform)]
    assert worst[0] < worst[1] - 0.1
    assert gate.history_["worst"][-1] < gate.history_["worst"][0]


def test_token_objective_weighs_by_length():
    logq, k = documents(0)
    drawn, _ = documents(2)
    lengths = np.where(k == 0, 100.0, 10.0)
    gates = [RobustGate(steps=200, objective=o).fit(logq, k, lengths=lengths, samples_log_likelihoods=drawn)
             for o in ("sequence", "token")]  # fmt: skip
    assert gates[1].mixture_[0] < gates[0].mixture_[0]
    with pytest.raises(InvalidInputError, match="lengths"):
        RobustGate(objective="token").fit(logq, k, samples_log_likelihoods=drawn)


def test_without_normalisation_no_samples_are_needed():
    logq, k = documents(0)
    with pytest.raises(InvalidInputError, match="cannot be estimated from documents"):
        RobustGate().fit(logq, k)
    gate = RobustGate(steps=50, normalisation="none").fit(logq, k)
    assert np.isnan(gate.normaliser_.standard_error)


@pytest.mark.parametrize("kind", ["tabular", "network"])
def test_resumed_training_is_the_same(kind, tmp_path):
    if kind == "tabular":
        data = sampled(*world(0), 500)
        options = {"gate": "tabular", "entropy": "empirical", "steps": 60, "checkpoints": 6}
    else:
        (logq, k), (drawn, _) = documents(0), documents(1)
        data, options = (
            {"log_likelihoods": logq, "domain": k, "samples_log_likelihoods": drawn},
            {"steps": 60, "checkpoints": 6},
        )
    whole = RobustGate(**options).fit(**data, seed=3)
    half = RobustGate(**options).fit(**data, seed=3, until=37)
    loaded = RobustGate.load(half.save(tmp_path / "gate"))
    np.testing.assert_array_equal(loaded.mixture_, half.mixture_)
    loaded.fit(**data, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor.nan_to_num(), loaded.state_dict()[name].nan_to_num()), name
    assert RobustGate(**options).fit(**data, seed=4).mixture_.tolist() != whole.mixture_.tolist()
    rows = (data["log_likelihoods"][:5], data.get("features", np.zeros(0))[:5] if kind == "tabular" else None)
    torch.testing.assert_close(loaded.log_density(*rows), whole.log_density(*rows), rtol=0, atol=0)


def test_foreign_files_are_refused(tmp_path):
    gate = RobustGate(**FULL, steps=5).fit(**census(*world(0)))
    folder = gate.save(tmp_path / "gate")
    (folder / "gate.json").write_text('{"format": 1}')
    with pytest.raises(InvalidFileError, match="not a saved gate"):
        RobustGate.load(folder)
    (folder / "gate.json").write_text('{"format": 7}')
    with pytest.raises(InvalidFileError, match="format 7"):
        RobustGate.load(folder)
    (folder / "gate.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidFileError, match="not a safetensors file"):
        RobustGate.load(folder)
    with pytest.raises(InvalidFileError, match="no such file"):
        RobustGate.load(tmp_path)


def test_drawing_rows_follows_the_weights():
    domains, experts = world(1, n=6)
    c = census(domains, experts)
    rows = Rows.make(c["log_likelihoods"], c["domain"], c["features"], c["weight"], tabular=True)
    drawn = rows.draw(40_000, torch.Generator().manual_seed(0))
    for k in range(3):
        assert (rows.domain[drawn[k]] == k).all()
        frequency = np.bincount(rows.features[drawn[k]].numpy(), minlength=6) / 40_000
        np.testing.assert_allclose(frequency, domains[k], atol=0.01)
    np.testing.assert_allclose(state_masses(rows, rows.features, 6).numpy(), domains, atol=1e-12)


def test_impossible_experts_are_no_obstacle():
    """Minus infinity is an honest score: an expert that excludes a document."""
    logq, k = documents(0)
    logq[:50, 0] = np.where(k[:50] == 0, logq[:50, 0], -np.inf)
    gate = RobustGate(steps=30).fit(logq, k, samples_log_likelihoods=documents(1)[0])
    assert np.isfinite(gate.log_density(logq).numpy()).all()


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"gate": "tree"}, {}, "`gate` must be"),
        ({"entropy": "none"}, {}, "`entropy` must be"),
        ({"gate_floor": 1.0}, {}, "floors"),
        ({"steps": 0}, {}, "at least 1"),
        ({}, {"log_likelihoods": np.full((90, 3), np.nan)}, "NaN"),
        ({}, {"log_likelihoods": np.full((90, 3), -np.inf)}, "impossible under every expert"),
        ({}, {"log_likelihoods": np.zeros(3)}, "rows, experts"),
        ({}, {"domain": np.zeros(90)}, "`domain` must be"),
        ({}, {"domain": np.where(np.arange(90) < 30, 0, 2)}, "domain 1 has no rows"),
        ({}, {"features": None}, "state numbers"),
        ({}, {"weight": -np.ones(90)}, "nonnegative"),
        ({}, {"samples_log_likelihoods": np.zeros((30, 2))}, "scored by 2 experts"),
        ({}, {"samples_expert": np.zeros(30, dtype=int)}, "expert 1 has no samples"),
        ({"estimator": "per_expert"}, {}, "needs `samples_expert`"),
        ({"entropy": [1.0]}, {}, "3 finite values"),
        ({"mixtures": [[0.5, 0.5]]}, {}, "for 3 domains"),
        ({"mixtures": [[0.5, 0.5, 0.0]], "diversity": [0.0, 0.0]}, {}, "`diversity`"),
    ],
)
def test_refuses(options, changes, message):
    with pytest.raises(InvalidInputError, match=message):
        RobustGate(**(FULL | {"steps": 3} | options)).fit(**(census(*world(0)) | changes))


def test_refuses_before_and_after_fitting():
    with pytest.raises(NotFittedError):
        RobustGate().log_gate(np.zeros((2, 3)))
    with pytest.raises(NotFittedError):
        RobustGate().state_dict()
    gate = RobustGate(**FULL, steps=3).fit(**census(*world(0)))
    with pytest.raises(InvalidInputError, match="fitted on 3 experts and 30 states"):
        gate.log_gate(np.zeros((1, 3)), np.array([30]))
