"""Every baseline against closed forms, the axioms that it keeps, and its budget: a row of the table is all it takes."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import numpy as np
import pytest
from scipy import stats
from sklearn.ensemble import BaggingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import roc_auc_score

from jaxame import baselines, games
from jaxame.attribution import AttributionError
from jaxame.baselines import boosting, regression
from jaxame.baselines.evaluation import Evaluations
from jaxame.design import Beta, PointMass, TruncatedUniform
from jaxame.types import Status

N, KEYS, BUDGET = 7, 40, 130
KEY = jax.random.key(3)
NULL, ALIKE = 6, (1, 2)
SHAPLEY = TruncatedUniform(1e-9)


@dataclasses.dataclass
class Sums:
    """Two games by their Moebius coefficients, in NumPy, and the sum of the first and twice the second.

    Source 6 changes nothing, sources 1 and 2 are alike.
    """

    chunk_size: int = 64
    noise: float = 0.0
    num_sources: int = N
    calls: list = dataclasses.field(default_factory=list)
    games = (
        games.UnanimitySum(N, [(), (0,), (1, 2), (0, 1, 2, 3), (3, 4), (5,)], [7.0, 1.0, -2.0, 1.5, 0.5, 0.25]),
        games.UnanimitySum(N, [(), (1,), (2,), (0, 4, 5), (3,)], [-1.0, 0.5, 0.5, 3.0, -1.0]),
    )

    def __call__(self, keys, masks):
        self.calls.append(len(masks))
        rows = [
            sum(w * masks[:, list(t)].all(axis=1) for t, w in zip(game.coalitions, game.weights, strict=True))
            for game in self.games
        ]
        both = np.stack([*rows, rows[0] + 2 * rows[1]], axis=1)
        if not self.noise:
            return both
        return both + self.noise * np.asarray(jax.vmap(lambda key: jax.random.normal(key, (3,)))(keys))

    def ame(self, law):
        first, second = (game.ame(law) for game in self.games)
        return np.stack([first, second, first + 2 * second])


GAME = Sums()
NONE, ALL = GAME(None, np.stack([np.zeros(N, bool), np.ones(N, bool)]))


def of_a_share(size):
    """Mean utility with a source less that without, over the subsets of one size."""
    numbers = np.arange(2**N)
    masks = (numbers[:, None] >> np.arange(N) & 1).astype(bool)
    masks = masks[masks.sum(axis=1) == size]
    utilities = GAME(None, masks)
    return np.stack([utilities[m].mean(axis=0) - utilities[~m].mean(axis=0) for m in masks.T], axis=1)


def of_all_others():
    every = np.ones((N, N), bool)
    return (ALL - GAME(None, every & ~np.eye(N, dtype=bool))).T


def shapley():
    return GAME.ame(SHAPLEY)


@dataclasses.dataclass(frozen=True)
class Row:
    """A baseline and what is promised of it.

    `least` evaluations; `truth [Q, N]` of its expectation, None if it has a bias; whether a
    source without effect has the value 0; whether its values sum to what all
    have over none; whether it is linear in the utility, given the key; whether it draws at random.
    """

    estimate: Callable
    least: int
    truth: Callable | None = shapley
    null: bool = True
    efficient: bool = False
    linear: bool = True
    random: bool = True
    errors: bool = True


kernel = functools.partial(functools.partial, baselines.kernel_shap)
TABLE = {
    "exact": Row(baselines.exact, 2**N, efficient=True, random=False, errors=False),
    "leave one out": Row(baselines.leave_one_out, N + 1, of_all_others, random=False, errors=False),
    "permutation": Row(baselines.permutation, N + 1, efficient=True),
    "antithetic": Row(functools.partial(baselines.permutation, antithetic=True), 2 * N, efficient=True),
    "truncated": Row(baselines.truncated_permutation, N + 1, None, linear=False),
    "beta": Row(
        functools.partial(baselines.beta_shapley, alpha=2.0, beta=3.0),
        N + 1,
        functools.partial(GAME.ame, Beta(3, 2)),
    ),
    "owen": Row(baselines.owen, N + 1),
    "kernel": Row(kernel(paired=False), 4, None, efficient=True),
    "kernel, paired": Row(kernel(), 4, None, efficient=True),
    "kernel, leverage": Row(kernel(sampling="leverage"), 4, None, efficient=True),
    "kernel, L1": Row(kernel(num_features=6), 4, None, efficient=True, linear=False, errors=False),
    "kernel, unbiased": Row(functools.partial(baselines.unbiased_kernel_shap, paired=False), 6, efficient=True),
    "kernel, unbiased and paired": Row(baselines.unbiased_kernel_shap, 6, efficient=True),
    "group testing": Row(baselines.group_testing, 4, efficient=True),
    "compressive": Row(
        functools.partial(baselines.compressive_sensing, num_measurements=20, noise=1e-6),
        N + 1,
        efficient=True,
        linear=False,
        errors=False,
    ),
    "adjusted": Row(baselines.regression_adjusted, 22, efficient=True, linear=False),
    "adjusted by trees": Row(
        functools.partial(baselines.regression_adjusted, surrogate="trees", folds=2), 10, efficient=True, linear=False
    ),
    "svarm": Row(baselines.svarm, 2 * N),
    "banzhaf": Row(baselines.banzhaf, 4, functools.partial(GAME.ame, PointMass(0.5))),
    "subsample influence": Row(
        functools.partial(baselines.subsample_influence, share=0.6), 4, functools.partial(of_a_share, 4), null=False
    ),
    "random": Row(baselines.random, 2, None, efficient=True, linear=False, errors=False),
}
rows = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())


@functools.cache
def results(name):
    """Results of one baseline under `KEYS` keys."""
    return [TABLE[name].estimate(GAME, key=jax.random.key(100 + seed), budget=BUDGET) for seed in range(KEYS)]


UNBIASED = [name for name, row in TABLE.items() if row.truth is not None]
# Chance that any of the comparisons fails for a correct estimator: about 1 in 1,000.
LIMIT = stats.t.isf(1e-3 / (2 * len(UNBIASED) * 3 * N), KEYS - 1)


def deviation(name, factor=1.0):
    """Largest distance of the mean result from the truth, in its standard errors."""
    values = factor * np.stack([result.values for result in results(name)])
    error = values.std(axis=0, ddof=1) / math.sqrt(KEYS)
    return (np.abs(values.mean(axis=0) - TABLE[name].truth()) / (error + 1e-7)).max()


@pytest.mark.parametrize("name", UNBIASED)
def test_unbiased(name):
    assert deviation(name) < LIMIT
    for wrong in (0.0, 0.5, 2.0):
        assert deviation(name, wrong) > LIMIT


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.truth is None and name != "random"])
def test_biased_ones_come_near_the_truth(name):
    """At a thousand subsets, far fewer would do for a fit of seven coefficients."""
    result = TABLE[name].estimate(GAME, key=KEY, budget=2000)
    truth = GAME.ame(SHAPLEY)
    size = np.linalg.norm(truth, axis=1)
    off = np.linalg.norm(result.values - truth, axis=1) / size
    assert off.max() < 0.1
    if result.stderr is not None:
        assert (np.abs(result.values - truth) < 5 * result.stderr + 0.01 * size[:, None]).all()


@pytest.mark.parametrize("name", [name for name, row in TABLE.items() if row.errors])
def test_errors_are_those_of_repetition(name):
    """In the mean over sources; twice the spread at most where the errors leave something out of account."""
    found = results(name)
    claimed = np.sqrt(np.mean([result.stderr**2 for result in found], axis=(0, 2)))
    spread = np.sqrt(np.stack([result.values for result in found]).var(axis=0, ddof=1).mean(axis=1))
    slack = 4 / math.sqrt(2 * (KEYS - 1))
    assert (claimed > spread * (1 - slack)).all()
    assert (claimed < (2 if name == "owen" else 1 + slack) * spread).all()


@rows
def test_axioms(row):
    """Efficiency and linearity to rounding; a source without effect and two alike within the sampling error."""
    result = row.estimate(GAME, key=KEY, budget=4000)
    if row.efficient:
        np.testing.assert_allclose(result.values.sum(axis=1), ALL - NONE, atol=1e-9)
    if row.linear:
        np.testing.assert_allclose(result.values[2], result.values[0] + 2 * result.values[1], atol=1e-8)
    if result.stderr is not None and row.null:
        assert (np.abs(result.values[:, NULL]) <= 5 * result.stderr[:, NULL] + 1e-9).all()
    if result.stderr is not None:
        apart = result.values[:, ALIKE[0]] - result.values[:, ALIKE[1]]
        assert (np.abs(apart) <= 5 * np.sqrt((result.stderr[:, ALIKE] ** 2).sum(axis=1)) + 1e-9).all()


@rows
@pytest.mark.parametrize("more", [0, 1, 50])
def test_the_budget_is_kept_and_counted(row, more):
    game = Sums()
    result = row.estimate(game, key=KEY, budget=row.least + more)
    assert sum(game.calls) == result.about["evaluations"] <= row.least + more
    assert result.about["budget"] == row.least + more
    assert result.values.shape == (3, N)
    assert result.submodel_status.shape == (result.about["evaluations"],)
    result.check()


@rows
def test_a_smaller_budget_is_refused(row):
    game = Sums()
    with pytest.raises(ValueError, match=f"a budget of at least {row.least} evaluations for 7 sources; got"):
        row.estimate(game, key=KEY, budget=row.least - 1)
    assert not game.calls


@rows
def test_the_key_decides(row):
    """A game with noise, in chunks of another size: the same key gives the same bits, another key does not."""
    one, same = (row.estimate(Sums(chunk, noise=0.1), key=KEY, budget=BUDGET) for chunk in (64, 13))
    np.testing.assert_array_equal(one.values, same.values)
    np.testing.assert_array_equal(one.stderr, same.stderr)
    other = row.estimate(Sums(noise=0.1), key=jax.random.key(4), budget=BUDGET)
    assert (one.values != other.values).any()


def test_leave_one_out_repeats_itself_to_know_its_errors():
    result = baselines.leave_one_out(Sums(noise=0.2), key=KEY, budget=100 * (N + 1))
    np.testing.assert_allclose(result.stderr, 0.2 * math.sqrt(2 / 100), rtol=0.4)
    assert (np.abs(result.values - of_all_others()) < 5 * result.stderr).all()


def test_pairs_solve_a_self_dual_game_in_two_orders():
    """What an order leaves over its reverse makes up for, where every effect is linear or of pairs."""

    class Pairs(Sums):
        games = (games.UnanimitySum(N, [(0,), (1, 2), (3, 4)], [1.0, -2.0, 0.5]),) * 2

    game = Pairs()
    for result in (
        baselines.permutation(game, key=KEY, budget=2 * N, antithetic=True),
        baselines.kernel_shap(game, key=KEY, budget=2 + 8 * N),
    ):
        np.testing.assert_allclose(result.values, game.ame(SHAPLEY), atol=1e-6)


@pytest.mark.parametrize("name", TABLE)
def test_a_single_source_has_all_there_is(name):
    """But for methods that compare sources: these say that they need two."""
    row, game = TABLE[name], games.Additive([3.0], bias=1.0)
    if name.startswith(("kernel", "group", "adjusted", "subsample")):
        with pytest.raises(ValueError, match=r"at least 2 sources|some sources in and some out"):
            row.estimate(game, key=KEY, budget=200)
        return
    result = row.estimate(game, key=KEY, budget=200)
    assert result.about["evaluations"] <= 200
    np.testing.assert_allclose(result.values, [[3.0]], atol=1e-5)


def test_truncation_ends_where_nothing_is_between_none_and_all():
    class Flat(Sums):
        def __call__(self, keys, masks):
            return np.where(masks.all(axis=1), self.noise, 0.0)[:, None]

    flat = baselines.truncated_permutation(Flat(), key=KEY, budget=100).check()
    np.testing.assert_array_equal(flat.values, np.zeros((1, N)))
    failing = baselines.truncated_permutation(Flat(noise=np.nan), key=KEY, budget=100)
    assert failing.status.tolist() == [Status.NOT_FINITE]
    assert np.isnan(failing.values).any()


def test_truncation_spares_evaluations():
    """One source does all: an order is over once it is in."""

    class One(Sums):
        games = (games.Additive(np.eye(N)[3]),)

        def __call__(self, keys, masks):
            self.calls.append(len(masks))
            return masks[:, 3:4] * 1.0

    result = baselines.truncated_permutation(One(), key=KEY, budget=200)
    assert result.about["orders"] > 1.3 * 200 / N
    np.testing.assert_array_equal(result.values, np.eye(N)[3:4])


def test_l1_keeps_as_many_as_asked():
    result = baselines.kernel_shap(GAME, key=KEY, budget=500, num_features=3)
    assert ((result.values != 0).sum(axis=1) <= 3).all()
    assert (result.values[0, 0] != 0).all()
    each = baselines.kernel_shap(GAME, key=KEY, budget=500, num_features=[1, 3, 2])
    np.testing.assert_array_equal(each.values[1], result.values[1])
    assert ((each.values != 0).sum(axis=1) <= [1, 3, 2]).all()


def test_datamodels_are_a_lasso_at_one_share():
    game = Sums()
    result = baselines.datamodels(game, key=KEY, budget=BUDGET, share=0.4).check()
    assert sum(game.calls) == result.about["evaluations"] == BUDGET
    truth = game.ame(PointMass(0.4))
    assert np.linalg.norm(result.values - truth) < 0.3 * np.linalg.norm(truth)
    assert result.stderr is None
    with pytest.raises(ValueError, match="a budget of at least 2 evaluations for 7 sources; got 1"):
        baselines.datamodels(game, key=KEY, budget=1)


@functools.cache
def some_evaluations():
    masks = np.random.default_rng(0).random((300, N)) < 0.5
    return masks, Evaluations(np.packbits(masks, axis=1, bitorder="little"), GAME(None, masks), N)


def test_ridge_is_that_of_scikit_learn():
    masks, found = some_evaluations()
    fold = np.arange(300) % 3
    fits = list(regression._linear(found, fold, np.random.default_rng(0)))
    for query, own in ((0, 0), (1, 2)):
        predict, values = (lambda masks, own=own, query=query: fits[own][0](masks)[:, query]), fits[own][1][query]
        rest = fold != own
        ridges = (Ridge(alpha).fit(masks[rest], found.utilities[rest, query]) for alpha in np.geomspace(1e-6, 1e4, 21))
        model = min(ridges, key=lambda ridge: np.abs(ridge.coef_ - values).max())
        np.testing.assert_allclose(values, model.coef_, atol=1e-9)
        np.testing.assert_allclose(predict(masks[:9] * 1.0), model.predict(masks[:9]), atol=1e-9)
        chosen = RidgeCV(alphas=np.geomspace(1e-6, 1e4, 21)).fit(masks[rest], found.utilities[rest, query])
        np.testing.assert_allclose(values, chosen.coef_, rtol=0.05, atol=0.02)


def test_trees_know_their_values():
    """Of a sum of trees on memberships: against enumeration."""
    _, found = some_evaluations()
    fits = list(regression._trees(found, np.arange(300) % 5, np.random.default_rng(0)))
    predict, values = fits[1]

    class Predicted(Sums):
        def __call__(self, keys, masks):
            return predict(masks)

    exact = baselines.exact(Predicted(), key=KEY, budget=2**N).values
    np.testing.assert_allclose(values, exact, atol=1e-9)
    assert np.abs(values).max() > 0.5


def test_trees_are_those_of_scikit_learn():
    """Several targets at once, each on rows of its own, without a choice of columns."""
    rng = np.random.default_rng(0)
    masks, weights = rng.random((400, 12)) < 0.5, rng.random((400, 3)) < 0.7
    targets = masks[:, :3] * masks[:, 3:6] + masks[:, 6:7] + 0.3 * rng.normal(size=(400, 3))
    forest = boosting.boost(KEY, masks, targets, weights, columns=1.0)
    for target, own in enumerate(weights.T):
        model = HistGradientBoostingRegressor(max_depth=4, min_samples_leaf=5, early_stopping=False)
        model.fit(masks[own].astype(float), targets[own, target])
        theirs = model.predict(masks.astype(float))
        ours = forest.predict(masks, slice(target, target + 1))[:, 0]
        assert np.std(ours - theirs) < 0.02 * np.std(theirs)
        np.testing.assert_allclose(forest.predict(masks)[:, target], ours)


def test_compressive_sensing_needs_fewer_sums_than_sources():
    """Two sources among 60 do all there is."""
    game = games.Additive(np.where(np.isin(np.arange(60), [7, 30]), 2.0, 0.0))
    result = baselines.compressive_sensing(game, key=KEY, budget=500)
    assert result.about["num_measurements"] == 30
    both, others = result.values[0, [7, 30]], np.delete(result.values[0], [7, 30])
    assert both.min() > 1.5  # a tenth need not be explained, and what is not is missing from the largest
    assert np.abs(others).max() < 0.2


def neighbours(size=40, num_neighbours=3):
    """A game of a classifier on two clouds, the labels of the first five swapped."""
    rng = np.random.default_rng(4)
    y = np.arange(size) % 2
    x = rng.normal(size=(size, 2)) + 6.0 * y[:, None]
    test_y = np.arange(10) % 2
    labels = np.where(np.arange(size) < 5, 1 - y, y)
    return games.NearestNeighbours(x, labels, rng.normal(size=(10, 2)) + 6.0 * test_y[:, None], test_y, num_neighbours)


@pytest.mark.parametrize("num_neighbours", [1, 3, 50])
def test_knn_shapley_is_that_of_its_game(num_neighbours):
    game = neighbours(num_neighbours=num_neighbours)
    test = {"test_x": game.test_x, "test_y": game.test_y, "num_neighbours": num_neighbours}
    result = baselines.knn_shapley(game, key=KEY, budget=0, **test)
    np.testing.assert_allclose(result.values, game.ame(SHAPLEY), atol=1e-7)
    ends = np.asarray(game(None, np.stack([np.zeros(40, bool), np.ones(40, bool)])))
    np.testing.assert_allclose(result.values.sum(axis=1), ends[1] - ends[0], atol=1e-6)
    assert result.about["evaluations"] == 0
    result.check()


def test_data_oob_finds_swapped_labels():
    game = neighbours(size=120)
    result = baselines.data_oob(game, key=KEY, budget=200).check()
    assert result.values.shape == (1, 120)
    assert roc_auc_score(np.arange(120) < 5, -result.values[0]) > 0.9
    again, fewer = (baselines.data_oob(game, key=KEY, budget=budget) for budget in (200, 50))
    np.testing.assert_array_equal(result.values, again.values)
    assert (np.abs(fewer.values - result.values) <= 5 * np.hypot(fewer.stderr, result.stderr) + 1e-12).all()
    # Against scikit-learn's bagging, which votes: an example that most trees get right is right there.
    bagged = BaggingClassifier(n_estimators=200, oob_score=True, random_state=0).fit(game.x, game.y)
    voted = bagged.oob_decision_function_[np.arange(120), game.y]
    np.testing.assert_allclose(result.values[0], voted, atol=5 * math.sqrt(2 * 0.25 / 70))


def test_data_oob_of_few_examples():
    """A tree whose bag holds every example has none to be asked about, as happens to one in two of two examples."""
    result = baselines.data_oob(neighbours(size=2), key=KEY, budget=40)
    assert np.isfinite(result.values).all()
    alone = baselines.data_oob(neighbours(size=1), key=KEY, budget=5)
    assert np.isnan(alone.values).all()
    assert alone.status.tolist() == [Status.NOT_FINITE]


def test_p_values_of_what_is_known_exactly_and_of_what_is_not_known():
    """An error of 0 is one of certainty, and a value that is NaN has no p-value."""
    sure = baselines.permutation(games.Additive([2.0, -1.0, 0.0]), key=KEY, budget=20)
    assert (sure.stderr == 0).all()
    np.testing.assert_array_equal(sure.p_values(), [[0, 0, 1]])
    np.testing.assert_array_equal(sure.p_values("greater"), [[0, 1, 0.5]])
    np.testing.assert_array_equal(sure.select(0.1, method="bh-approximate").indices, [0, 1])
    unknown = dataclasses.replace(sure, debiased=np.array([[np.nan, 1, 0]]), stderr=np.array([[np.nan, 0.1, 0.1]]))
    np.testing.assert_array_equal(np.isnan(unknown.p_values()), [[True, False, False]])
    np.testing.assert_array_equal(np.isnan(unknown.q_values()), [[True, False, False]])
    np.testing.assert_array_equal(unknown.select(0.1, method="bh-approximate").indices, [1])


def test_exact_takes_few_sources():
    with pytest.raises(ValueError, match=r"at most 20 sources, as all subsets are evaluated; got 40, with 2\^40"):
        baselines.exact(games.Majority(39 + 1, range(39)), key=KEY, budget=10**13)


@pytest.mark.parametrize("name", TABLE)
def test_a_utility_that_is_not_finite_shows(name):
    class Failing(Sums):
        def __call__(self, keys, masks):
            utilities = super().__call__(keys, masks)
            utilities[masks.all(axis=1) | (masks[:, 0] & masks[:, 1] & ~masks[:, 2]), 1] = np.nan
            return utilities

    row = TABLE[name]
    result = row.estimate(Failing(), key=KEY, budget=BUDGET)
    assert result.status.tolist() == [Status.OK, Status.NOT_FINITE, Status.OK]
    assert np.isnan(result.values[1]).any()
    assert np.isfinite(result.values[[0, 2]]).all()
    with pytest.raises(AttributionError, match="query 1: the utility of some subset is not finite"):
        result.check()


BAD = {
    "no game": (lambda: baselines.banzhaf(3, key=KEY, budget=9), "a callable game with num_sources"),
    "no sources": (lambda: baselines.svarm(lambda keys, masks: 0, key=KEY, budget=9), "game.num_sources"),
    "untyped key": (lambda: baselines.owen(GAME, key=3, budget=90), "key to be one typed key"),
    "no sampling": (lambda: baselines.kernel_shap(GAME, key=KEY, budget=90, sampling="all"), "sampling to be one of"),
    "all features": (
        lambda: baselines.kernel_shap(GAME, key=KEY, budget=90, num_features=N),
        r"num_features from 1 to 6, one number or \[3\]; got int 7",
    ),
    "no alpha": (lambda: baselines.beta_shapley(GAME, key=KEY, budget=90, alpha=0), "alpha above 0 and finite"),
    "no surrogate": (lambda: baselines.regression_adjusted(GAME, key=KEY, budget=90, surrogate="x"), "surrogate to be"),
    "one fold": (
        lambda: baselines.regression_adjusted(GAME, key=KEY, budget=90, folds=1),
        "folds to be an integer >= 2",
    ),
    "all noise": (lambda: baselines.compressive_sensing(GAME, key=KEY, budget=90, noise=1.0), "noise strictly between"),
    "no tolerance": (lambda: baselines.truncated_permutation(GAME, key=KEY, budget=90, tolerance=-1), "tolerance"),
    "share of none": (
        lambda: baselines.subsample_influence(GAME, key=KEY, budget=90, share=0.05),
        "a share that leaves some sources in and some out; got 0 of 7",
    ),
    "no data": (
        lambda: baselines.data_oob(GAME, key=KEY, budget=90),
        "a game with data.* got Sums",
    ),
    "one tree": (lambda: baselines.data_oob(neighbours(), key=KEY, budget=1), "a budget of at least 2 evaluations"),
    "test points of another kind": (
        lambda: baselines.knn_shapley(neighbours(), key=KEY, budget=0, test_x=np.ones((3, 4)), test_y=np.ones(3)),
        r"test_x \[Q, ...\] of 2 numbers each and test_y \[Q\]",
    ),
    "test points that are not finite": (
        lambda: baselines.knn_shapley(neighbours(), key=KEY, budget=0, test_x=np.full((1, 2), np.nan), test_y=[1]),
        "finite test_x; got 2 entries",
    ),
    "one source": (
        lambda: baselines.group_testing(games.Additive([1.0]), key=KEY, budget=90),
        "at least 2 sources; got 1",
    ),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_results_can_be_kept(tmp_path):
    import jaxame

    result = baselines.kernel_shap(GAME, key=KEY, budget=500)
    result.save(tmp_path / "kept")
    again = jaxame.load(tmp_path / "kept")
    np.testing.assert_array_equal(again.values, result.values)
    assert again.lasso_min is None
    lower, upper = again.interval()
    assert (lower <= result.values).all()
    assert (result.values <= upper).all()
    assert {"query", "source", "value", "stderr"} <= set(again.to_dataframe().columns)
    with pytest.raises(ValueError, match="knockoff copies"):
        again.select()
