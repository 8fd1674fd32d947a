"""`BudgetedDeferral`: what it buys, what it learns, its limits, and the regression targets of the specification."""

import numpy as np
import pytest
from budgeted_worlds import linear_world, mostly_easy, regions
from scipy.optimize import minimize
from sklearn.utils.estimator_checks import parametrize_with_checks

from corollary.deferral import (
    BudgetedDeferral,
    TwoStageRouter,
    committee_spread,
    convex_margin_range,
    ellipsoid_margin_range,
    fit_margin,
    fit_softmax,
    loss_spread,
    scale_to_budget,
)
from corollary.deferral import _margin_ranges as margins
from corollary.errors import InvalidInputError, NotFittedError


def simple(n=900, *, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    return x, np.stack([x[:, 0] > 0, x[:, 0] < 0], 1) * 1.0


# what is bought


def test_only_what_was_drawn_is_looked_at():
    x, costs = simple()
    bought = []

    def ask(rows, experts):
        bought.extend(zip(rows.tolist(), experts.tolist(), strict=True))
        return costs[rows, experts]

    asked = BudgetedDeferral(warm=100, every=100, experts=2).fit(x, ask)
    given = BudgetedDeferral(warm=100, every=100, compare=False).fit(x, costs)
    assert len(bought) == len(set(bought)) == asked.queries_ < x.size
    assert set(bought) == set(zip(*np.nonzero(asked.asked_), strict=True))
    np.testing.assert_array_equal(asked.coef_, given.coef_)  # an array is bought from in the same way
    hidden = np.where(given.asked_, costs, 1 - costs)  # what was not bought may be anything
    np.testing.assert_array_equal(
        BudgetedDeferral(warm=100, every=100, compare=False).fit(x, hidden).coef_, given.coef_
    )


def test_draws_follow_their_probabilities_and_weights_are_unbiased():
    """Over 40 seeds the weighted mean cost of every expert is its mean: committee, budget, floor and prices at once."""
    x, costs = simple(80)
    found = []
    for seed in range(40):
        m = BudgetedDeferral(
            warm=20, every=30, members=2, budget=0.5, prices=[1.0, 4.0], iterations=1, seed=seed, compare=False
        ).fit(x, costs)
        found.append((m.asked_ / np.where(m.asked_, m.probability_, 1) * np.nan_to_num(m.costs_)).mean(0))
        assert (m.probability_[20:] >= 0.03 - 1e-12).all()
    error = np.std(found, axis=0) / np.sqrt(40)
    assert (np.abs(np.mean(found, 0) - costs.mean(0)) < 4 * error).all()


def test_a_hard_budget_is_spent_by_price():
    x, costs = simple(2100)
    for budget in (0.2, 0.6):
        m = BudgetedDeferral(warm=100, every=500, budget=budget, prices=[1.0, 9.0], members=3, compare=False).fit(
            x, costs
        )
        assert m.share_ == pytest.approx(budget, abs=0.03)  # draws: the expected spend is exact
        assert m.asked_[100:, 0].mean() > m.asked_[100:, 1].mean()  # cheap queries are worth more
    with pytest.raises(InvalidInputError, match="warm-up"):
        BudgetedDeferral(warm=1000, budget=0.2).fit(x, costs)


def test_scaling_to_a_budget_is_exact():
    rng = np.random.default_rng(0)
    for _ in range(100):
        p = 0.001 + 0.999 * rng.random((40, 3)) ** 4
        price, budget, floor = rng.random(3) + 0.05, rng.uniform(0.05, 0.9), rng.uniform(0.001, 0.05)
        q = scale_to_budget(p, budget, floor=floor, prices=price)
        assert (q @ price).sum() == pytest.approx(budget * price.sum() * 40, rel=1e-6)
        assert (q >= min(floor, budget) - 1e-12).all()
        inner = (q > floor + 1e-9) & (q < 1 - 1e-9)  # between the clips: proportional to p / sqrt(price)
        ratio = q[inner] / (p / np.sqrt(price))[inner]
        assert ratio.size == 0 or np.ptp(ratio) < 1e-6 * ratio.max()
    assert scale_to_budget(np.zeros((4, 2)), 0.3).tolist() == [[0.3, 0.3]] * 4
    assert scale_to_budget(np.ones((4, 2)) * 0.1, 0.3, prices=[0.0, 1.0])[:, 0].tolist() == [1.0] * 4
    assert (scale_to_budget(np.ones((4, 2)) * 0.1, 1.0) == 1).all()


def test_one_over_the_root_of_the_price_is_the_best_exponent():
    """Sum of 1/p at a given spend: exponents 0 and 1 do worse than 1/2."""
    price = np.array([1.0, 16.0])

    def variance(exponent):
        base = np.ones((1, 2)) / price**exponent
        return (1 / (base * 0.2 * price.sum() / (base @ price).sum())).sum()

    q = scale_to_budget(np.full((1, 2), 0.01), 0.2, prices=price)
    assert (1 / q).sum() == pytest.approx(variance(0.5), rel=1e-6)
    assert variance(0.5) < min(variance(0.0), variance(1.0))


def test_fewer_queries_where_everybody_agrees():
    x, costs = simple(2000)
    m = BudgetedDeferral(warm=200, every=200, l2=0.1).fit(x, costs)
    assert m.share_ < 0.5
    assert m.cost(x, costs) < 0.03
    told = m.report(x, costs)
    assert set(told) == {"committee", "uniform"}
    assert told["uniform"]["share"] == pytest.approx(m.share_, abs=0.05)


def test_equal_weights_are_those_of_an_ordinary_fit_on_what_was_bought():
    x, costs = simple()
    m = BudgetedDeferral(warm=100, every=200, weights="equal", loss="value", l2=1.0, compare=False).fit(x, costs)
    ordinary = TwoStageRouter(loss="value", l2=1.0).fit(x, np.where(m.asked_, costs, np.nan))
    np.testing.assert_allclose(m.coef_, ordinary.coef_, atol=1e-8)


def test_sparse_features_are_those_of_an_array():
    from scipy import sparse

    x, costs = simple(400)
    settings = {"warm": 50, "every": 150, "members": 3, "compare": False}
    dense = BudgetedDeferral(**settings).fit(x, costs)
    thin = BudgetedDeferral(**settings).fit(sparse.csr_matrix(x), costs)
    np.testing.assert_allclose(thin.coef_, dense.coef_, atol=1e-6)
    np.testing.assert_array_equal(thin.predict(sparse.csr_matrix(x)), dense.predict(x))


class BudgetedLabels(BudgetedDeferral):
    """scikit-learn gives one column of targets: one expert is right below the median, one above."""

    def fit(self, X, y=None):
        if y is None:
            return super().fit(X, None)
        y = np.asarray(y).ravel()
        above = np.unique(y, return_inverse=True)[1] > len(np.unique(y)) / 2 - 0.5
        return super().fit(X, np.column_stack([above, ~above]).astype(float))


@pytest.mark.filterwarnings("ignore")  # scikit-learn's checks warn on purpose
@parametrize_with_checks([BudgetedLabels(warm=3, every=40, members=2, compare=False)])
def test_scikit_learn_checks(estimator, check, as_shipped):
    check(estimator)


# limits


def test_everything_bought_is_ordinary_deferral():
    x, costs = simple()
    m = BudgetedDeferral(method="full", l2=1.0).fit(x, costs)
    ordinary = TwoStageRouter(l2=1.0).fit(x, costs)
    np.testing.assert_allclose(m.coef_, ordinary.coef_, atol=1e-8)
    assert m.share_ == 1.0


def test_one_candidate_buys_nothing_and_all_candidates_alike():
    x, costs, candidates = linear_world(0, t=200, routers=1)
    m = BudgetedDeferral(method="finite", candidates=candidates, compare=False).fit(x, costs)
    assert m.queries_ == 0
    x, costs, candidates = linear_world(0, t=300, routers=20)
    by_array = BudgetedDeferral(method="finite", candidates=candidates, compare=False).fit(x, costs)

    def scores(rows):
        return np.einsum("nd,rdk->rnk", rows, candidates)

    by_function = BudgetedDeferral(method="finite", candidates=scores, compare=False).fit(x, costs)
    np.testing.assert_allclose(by_array.probability_, by_function.probability_, atol=1e-12)
    assert by_array.chosen_ == by_function.chosen_
    assert by_array.alive_[by_array.chosen_]
    assert (np.diff(by_array.survivors_) <= 0).all()
    assert len(by_array.radius_) == 300


def test_the_estimator_can_be_cloned():
    from sklearn.base import clone

    x, costs = simple(300)
    model = BudgetedDeferral(warm=50, every=100, deviation="bernstein", members=3)
    again = clone(model)
    assert again.get_params() == model.get_params()
    np.testing.assert_array_equal(model.fit(x, costs).coef_, again.fit(x, costs).coef_)


def test_bernstein_form_in_the_estimator():
    x, costs, candidates = linear_world(1, t=2000, routers=20, scale=4.0)
    settings = {"method": "finite", "candidates": candidates, "bounded": "ec", "every": 50, "compare": False}
    radii = [
        BudgetedDeferral(deviation=d, multiplier=1.0, **settings).fit(x, costs).radius_[-1]
        for d in ("azuma", "bernstein")
    ]
    assert radii[1] < radii[0]


def test_the_multiplier_is_exposed_and_works():
    x, costs, candidates = linear_world(1, t=600, routers=100)
    queries = [
        BudgetedDeferral(method="finite", candidates=candidates, multiplier=c, every=20, compare=False)
        .fit(x, costs)
        .queries_
        for c in (1.0, 0.1, 0.03, 0.01)
    ]
    assert queries == sorted(queries, reverse=True)
    assert queries[-1] < queries[0] / 2


@pytest.mark.parametrize("bounded", ["mae", "log", "ec"])
def test_finite_classes_with_every_bounded_loss(bounded):
    x, costs, candidates = linear_world(2, t=800, routers=60, scale=4.0)
    settings = {"candidates": candidates, "bounded": bounded, "every": 50}
    m = BudgetedDeferral(method="finite", multiplier=0.03, **settings).fit(x, costs)
    full = BudgetedDeferral(method="full", **settings).fit(x, costs)
    assert m.share_ < 0.8
    assert m.cost(x, costs) <= full.cost(x, costs) + 0.02
    assert m.uniform_.share_ == pytest.approx(m.share_, abs=0.06)


# one stage


@pytest.fixture(scope="module")
def labelled():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1500, 3))
    y = np.where(rng.random(1500) < np.where(x[:, 1] > 0, 0.98, 0.5), np.where(x[:, 0] > 0, "a", "b"), "c")
    costs = np.stack([x[:, 1] > 0, np.ones(1500)], 1) * 1.0  # expert 0 knows where the label is noise
    return x, y, costs


def test_one_stage_defers_where_labels_are_noise(labelled):
    x, y, costs = labelled
    m = BudgetedDeferral(stage="single-stage", warm=150, every=150, l2=0.1).fit(x, costs, y)
    full = BudgetedDeferral(stage="single-stage", method="full", l2=0.1).fit(x, costs, y)
    assert m.scores(x).shape == (1500, 5)
    assert m.values(x).shape == (1500, 5)
    assert m.share_ < 0.7
    assert m.cost(x, costs, y) < full.cost(x, costs, y) + 0.03
    assert full.cost(x, costs, y) < 0.1
    deferred = m.predict(x) >= 3
    assert deferred[x[:, 1] < -0.5].mean() > 0.9
    assert deferred[x[:, 1] > 0.5].mean() < 0.1
    assert set(m.report(x, costs, y)) == {"committee", "uniform"}


def test_one_stage_on_a_finite_class(labelled):
    """The label's loss is free: with no expert bought at all, the class is still told apart."""
    x, y, costs = labelled
    rng = np.random.default_rng(1)
    good = BudgetedDeferral(stage="single-stage", method="full", l2=0.1).fit(x, costs, y)
    ones = np.hstack([x, np.ones((len(x), 1))])
    truth = np.vstack([good.coef_, good.intercept_])
    candidates = truth + rng.uniform(0, 4, (40, 1, 1)) * rng.normal(size=(40, 4, 5))
    candidates[0] = truth
    m = BudgetedDeferral(
        stage="single-stage", method="finite", candidates=candidates, multiplier=0.03, every=50, compare=False
    ).fit(ones, costs, y)
    assert m.design_.space.terms == 3
    assert m.share_ < 0.9
    full = BudgetedDeferral(stage="single-stage", method="full", candidates=candidates, every=50).fit(ones, costs, y)
    assert m.cost(ones, costs, y) < full.cost(ones, costs, y) + 0.03


# ranges of margins


def test_convex_ranges_are_those_of_a_general_solver():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 3))
    gains = rng.random((150, 2)) * rng.choice([1.0, 3.0, 0.0], size=(150, 2))
    fit = fit_margin(x, gains, l2=1.0)
    points = rng.normal(size=(4, 3))
    for slack in (0.001, 0.05, 0.5):
        low, high = convex_margin_range(fit, points, slack=slack)
        for i, phi in enumerate(points):
            for sign, found in ((1, high[i]), (-1, -low[i])):
                rest = {"type": "ineq", "fun": lambda w, s=slack: fit.value + s - margins._value(fit, w[None])[0]}
                slow = minimize(
                    lambda w, phi=phi, sign=sign: -sign * phi @ w,
                    fit.weight,
                    constraints=[rest],
                    method="SLSQP",
                    options={"ftol": 1e-12, "maxiter": 500},
                )
                assert found == pytest.approx(-slow.fun, rel=1e-4)  # SLSQP itself stops near 1e-5
    assert convex_margin_range(fit, np.zeros((1, 3)), slack=1.0)[0].tolist() == [0.0]


def test_margin_fit_is_the_softmax_fit_of_two_experts():
    """Half the penalty on the difference: two columns share it."""
    rng = np.random.default_rng(0)
    x, gains = rng.normal(size=(80, 3)), rng.random((80, 2))
    two = fit_softmax(x, gains, l2=1.0)
    np.testing.assert_allclose(fit_margin(x, gains, l2=0.5).weight, two[:, 0] - two[:, 1], atol=1e-4)  # L-BFGS
    low, high = ellipsoid_margin_range(two, x, gains, x[:5], l2=1.0, slack=1e-6)
    exact = convex_margin_range(fit_margin(x, gains, l2=0.5), x[:5], slack=1e-6)
    np.testing.assert_allclose(low[:, 0, 1], exact[0], atol=1e-4)  # a small set is an ellipsoid
    np.testing.assert_allclose(high[:, 0, 1], exact[1], atol=1e-4)
    np.testing.assert_allclose(low, -np.swapaxes(high, 1, 2), atol=1e-12)


def test_loss_spread_covers_every_router_in_the_ranges():
    rng = np.random.default_rng(0)
    x, gains = rng.normal(size=(60, 2)), rng.random((60, 3))
    w = fit_softmax(x, gains, l2=1.0)
    low, high = ellipsoid_margin_range(w, x, gains, x[:10], slack=0.05)
    p = loss_spread(low, high)
    unit = np.log1p(2 * np.exp(10))
    losses = []
    while len(losses) < 30:
        scores = x[:10] @ (w + 0.3 * rng.normal(size=w.shape))
        gap = scores[:, :, None] - scores[:, None, :]
        if (gap >= low).all() and (gap <= high).all():
            losses.append((np.log(np.exp(scores).sum(1, keepdims=True)) - scores) / unit)
    spread = np.max(losses, axis=0) - np.min(losses, axis=0)
    assert (spread <= p + 1e-9).all()
    assert (p > 0).all()


@pytest.mark.parametrize("method", ["convex", "ellipsoid"])
def test_margin_methods_learn_with_fewer_queries(method):
    x, costs = simple(600)
    m = BudgetedDeferral(method=method, multiplier=0.002, warm=150, every=225, l2=1.0, compare=False).fit(x, costs)
    assert m.share_ < 0.7
    assert m.cost(x, costs) < 0.03
    assert len(m.design_.radii) == 3


# regression targets, section 5 of the specification (its own worlds could not be seen: rebuilt, so figures differ)


def test_5a_the_finite_class():
    """C0 = 1 buys (almost) everything, .1 two thirds or more, .03 a third to a half, at full accuracy."""
    rows = {}
    for seed in range(2):
        x, costs, candidates = linear_world(seed, routers=300, scale=4.0)
        new = np.random.default_rng(1000 + seed).normal(size=(4000, 4))
        best = 1.0 - np.eye(3)[(new @ candidates[0]).argmax(1)]
        for name, settings in {
            "full": {"method": "full"},
            1.0: {"multiplier": 1.0},
            0.1: {"multiplier": 0.1},
            0.03: {"multiplier": 0.03},
        }.items():
            settings = {"method": "finite", "candidates": candidates, "every": 100, "compare": False} | settings
            m = BudgetedDeferral(**settings, seed=seed).fit(x, costs)
            rows.setdefault(name, []).append((1 - m.cost(new, best), m.share_))
    accuracy, share = ({k: np.mean([r[i] for r in v]) for k, v in rows.items()} for i in (0, 1))
    assert accuracy["full"] > 0.9
    assert accuracy[1.0] == accuracy["full"]
    assert share[1.0] > 0.98
    assert accuracy[0.1] >= accuracy["full"] - 0.01
    assert 0.55 < share[0.1] < 0.9
    assert accuracy[0.03] >= accuracy["full"] - 0.01
    assert 0.2 < share[0.03] < 0.55


def accuracies(world, seeds, new_seeds, **settings):
    """(seeds, 3): expected accuracy of budgeted, uniform at equal spend, full; the share; and the fitted models."""
    out = []
    for seed, other in zip(seeds, new_seeds, strict=True):
        x, costs, *_ = world(seed)
        m = BudgetedDeferral(seed=seed, **settings).fit(x, costs)
        full = BudgetedDeferral(**(settings | {"method": "full", "budget": None})).fit(x, costs)
        out.append((m, m.uniform_, full, other))
    return out


def test_5b_scaled_to_a_budget_the_committee_is_no_better_than_uniform():
    """The note measured .816 against .823 (17 %), .867 against .871 (54 %): slightly worse. Here the same sign."""
    gaps = []
    for m, uniform, full, (new, chance) in accuracies(
        regions, range(3), [held_out_regions(s) for s in range(3)], budget=0.2, warm=250, every=550, members=4
    ):
        found = [1 - q.cost(new, 1 - chance) for q in (m, uniform, full)]
        assert found[2] > found[1] - 0.005
        gaps.append(found[0] - found[1])
    assert -0.03 < np.mean(gaps) < 0.002


def held_out_regions(seed):
    direction = np.random.default_rng(seed).normal(size=(10, 5))
    new = np.random.default_rng(50 + seed).normal(size=(4000, 10))
    return new, 1 / (1 + np.exp(-(new @ direction)))


def test_5c_where_disagreement_is_concentrated_the_committee_gains():
    """The note: .942 (hard part .708) against .933 (.611), full .955 (.831), at 20 %. Here at 16 %, loss `value`."""
    found = []
    for m, uniform, full, seed in accuracies(
        mostly_easy, range(3), range(100, 103), loss="value", l2=0.5, every=500, members=6
    ):
        new, _, chance, hard = mostly_easy(seed)
        everywhere = [1 - q.cost(new, 1 - chance) for q in (m, uniform, full)]
        found.append(everywhere + [1 - q.cost(new[hard], 1 - chance[hard]) for q in (m, uniform, full)] + [m.share_])
    committee, uniform, full, hard, hard_uniform, hard_full, share = np.mean(found, axis=0)
    assert share < 0.25
    assert committee > uniform
    assert hard > hard_uniform + 0.02
    assert full == pytest.approx(0.955, abs=0.01)
    assert committee == pytest.approx(0.942, abs=0.015)
    assert hard_full > hard


# what goes wrong


def test_answers_that_never_came_are_left_out():
    x, costs = simple()
    rng = np.random.default_rng(0)
    m = BudgetedDeferral(warm=100, every=200, experts=2).fit(
        x, lambda i, k: np.where(rng.random(len(i)) < 0.2, np.nan, costs[i, k])
    )
    assert np.isnan(m.costs_[m.asked_]).mean() == pytest.approx(0.2, abs=0.05)
    assert m.cost(x, costs) < 0.05


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"method": "greedy"}, "method"),
        ({"stage": "three"}, "stage"),
        ({"loss": "t1"}, "t1"),
        ({"loss": "hinge"}, "kind"),
        ({"budget": 0.0}, "budget"),
        ({"method": "uniform"}, "needs a `budget`"),
        ({"method": "finite"}, "candidates"),
        ({"candidates": np.zeros((2, 3, 2))}, "finite"),
        ({"method": "finite", "candidates": np.zeros((2, 5, 2))}, "features"),
        ({"method": "finite", "candidates": np.zeros(3)}, "candidates"),
        ({"floor": 0.0}, "floor"),
        ({"weights": "heavy"}, "weights"),
        ({"members": 1}, "members"),
        ({"every": 0}, "every"),
        ({"prices": [0.0, 0.0]}, "zero"),
        ({"prices": [1.0]}, "prices"),
        ({"stage": "single-stage"}, "`y`"),
        ({"method": "uniform", "budget": 1e-6}, "no cost at all"),
        ({"method": "convex", "stage": "single-stage"}, "`y`"),
    ],
)
def test_senseless_settings(settings, match):
    x, costs = simple(100)
    with pytest.raises(InvalidInputError, match=match):
        BudgetedDeferral(**({"warm": 20, "every": 40} | settings)).fit(x, costs)


def test_senseless_data():
    x, costs = simple(100)
    model = BudgetedDeferral(warm=20, every=40)
    for bad in (costs[:50], costs[:, :1], costs[0]):
        with pytest.raises(InvalidInputError, match="costs"):
            model.fit(x, bad)
    with pytest.raises(InvalidInputError, match=r"\[0, 1\]"):
        model.fit(x, 2 * costs)
    with pytest.raises(InvalidInputError, match="how many experts"):
        model.fit(x, lambda i, k: costs[i, k])
    with pytest.raises(InvalidInputError, match="asked for"):
        BudgetedDeferral(warm=20, experts=2).fit(x, lambda i, k: 0.0)
    with pytest.raises(InvalidInputError, match="NaN"):
        model.fit(np.full_like(x, np.nan), costs)
    with pytest.raises(InvalidInputError, match="two experts"):
        BudgetedDeferral(method="convex", warm=20, every=40).fit(x, np.hstack([costs, costs]))
    with pytest.raises(NotFittedError):
        BudgetedDeferral().predict(x)
    with pytest.raises(InvalidInputError, match="features"):
        model.fit(x, costs).predict(x[:, :1])


@pytest.mark.parametrize(
    "call",
    [
        lambda: scale_to_budget([[2.0]], 0.5),
        lambda: scale_to_budget([[0.5]], 1.5),
        lambda: scale_to_budget([[0.5]], 0.5, prices=[-1.0]),
        lambda: committee_spread([[0.5]]),
        lambda: committee_spread([[[np.nan]]]),
        lambda: fit_margin([[1.0]], [[1.0, 0.0]], l2=0.0),
        lambda: fit_margin([[1.0]], [[-1.0, 0.0]]),
        lambda: fit_margin([[1.0]], [[1.0]]),
        lambda: convex_margin_range(fit_margin([[1.0]], [[1.0, 0.5]]), [[1.0]], slack=0.0),
        lambda: ellipsoid_margin_range([[1.0]], [[1.0]], [[1.0, 1.0]], [[1.0]], slack=1.0),
    ],
)
def test_senseless_arguments_of_the_functions(call):
    with pytest.raises(InvalidInputError):
        call()
