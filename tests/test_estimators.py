"""The whole chain: what depends on what, missing rows, units, and bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import COPIES, FOLDS, GAME, GRID, SIZES, M, N, Q, assert_same

import jaxame
from jaxame.design import Beta, Grid, PointMass, TruncatedUniform, sample_design

KEY = jax.random.key(2)


@pytest.fixture(scope="module")
def design():
    return sample_design(KEY, GRID, num_submodels=M, num_sources=N)


@pytest.fixture(scope="module")
def utilities(design):
    """Return closed-form utilities plus noise, float64 `[M, Q]`, each query with a spread near 1."""
    clean = jaxame.evaluate(GAME, design).astype(np.float64)
    return clean / clean.std(axis=0) + np.random.default_rng(3).normal(0, 0.3, (M, Q))


@pytest.fixture(scope="module")
def estimate(design):
    def run(utilities, **options):
        return jaxame.estimate_ame(design, utilities, **{"folds": FOLDS, "copies": COPIES} | options)

    return run


@pytest.fixture(scope="module")
def result(estimate, utilities):
    return estimate(utilities)


def test_one_call_equals_its_stages_and_repeats_itself(design, estimate):
    whole = jaxame.ame(GAME, key=KEY, law=GRID, **SIZES)
    in_stages = estimate(jaxame.evaluate(GAME, design))
    assert_same(whole, in_stages)
    assert whole.about == in_stages.about
    assert_same(whole, jaxame.ame(GAME, key=KEY, law=GRID, **SIZES))
    other = jaxame.ame(GAME, key=jax.random.key(3), law=GRID, **SIZES)
    assert (other.values != whole.values).any()


def test_about_says_what_was_run(result, utilities):
    about = dict(result.about)
    np.testing.assert_allclose(about.pop("utility_range"), np.stack([utilities.min(axis=0), utilities.max(axis=0)], 1))
    assert about.pop("versions")["jax"] == jax.__version__
    assert about == {
        "law": repr(GRID),
        "coding": "weighted",
        "paired": False,
        "prior": False,
        "shrunken": True,
        "interactions": False,
        "noise_variance": None,
        "num_submodels": M,
        "num_sources": N,
        "folds": FOLDS,
        "copies": COPIES,
        "draws": 1,
        "statistic": "entry",
        "redraws": 0,
        "intervals": "debiased",
        "game": {},
    }
    assert (result.num_queries, result.num_sources, result.num_copies) == (Q, N, COPIES)
    assert result.relative_gap.shape == (Q, 2)
    assert result.relative_gap.max() <= 1e-3
    assert result.violation.shape == (Q, 2)
    assert result.violation.max() <= 1e-3


def test_the_copies_have_a_key_of_their_own(estimate, utilities, result):
    other = estimate(utilities, knockoff_key=jax.random.key(8))
    same = estimate(utilities, knockoff_key=KEY)
    np.testing.assert_array_equal(other.values, result.values)
    assert (other.importance != result.importance).any()
    assert_same(same, result)


class FromKeys:
    """A game whose utilities depend on the key of each row, computed row by row."""

    num_sources = N

    def __init__(self, chunk_size=None, as_array=np.asarray):
        self.as_array = as_array
        self.sizes = []
        if chunk_size is not None:
            self.chunk_size = chunk_size

    def __call__(self, keys, masks):
        assert masks.shape == (len(keys), N)
        assert masks.dtype == bool
        self.sizes.append(len(keys))
        bits = np.asarray(jax.random.key_data(keys)).astype(np.float32)
        return self.as_array(bits[:, :1] / np.float32(2**32) + np.asarray(masks)[:, :1])


@pytest.mark.parametrize(("chunk_size", "calls"), [(M, 1), (100, 8), (7, 103)])
def test_a_game_called_in_chunks_gives_the_same(design, chunk_size, calls):
    whole, in_chunks = FromKeys(), FromKeys(chunk_size)
    np.testing.assert_array_equal(jaxame.evaluate(in_chunks, design), jaxame.evaluate(whole, design))
    assert (len(in_chunks.sizes), sum(in_chunks.sizes), max(in_chunks.sizes)) == (calls, M, chunk_size)


def test_a_longer_run_starts_with_the_shorter_one(design):
    longer = sample_design(KEY, GRID, num_submodels=M + 50, num_sources=N)
    utilities = jaxame.evaluate(FromKeys(), longer)
    np.testing.assert_array_equal(utilities[:M], jaxame.evaluate(FromKeys(), design))
    assert np.unique(utilities).size == M + 50
    assert (jaxame.evaluate(FromKeys(), design, key=jax.random.key(3)) != utilities[:M]).all()


def test_a_game_may_return_numpy_or_jax_arrays(design):
    from_numpy, from_jax = (jaxame.evaluate(FromKeys(as_array=f), design) for f in (np.asarray, jnp.asarray))
    assert isinstance(from_jax, np.ndarray)
    np.testing.assert_array_equal(from_numpy, from_jax)


def test_progress_is_told_of_every_stage(design, utilities):
    calls = []
    jaxame.evaluate(FromKeys(100), design, progress=lambda *call: calls.append(call))
    assert calls == [("train", done, M) for done in (100, 200, 300, 400, 500, 600, 700, M)]
    calls.clear()
    jaxame.estimate_ame(
        design, utilities, folds=FOLDS, copies=COPIES, progress=lambda stage, *counts: calls.append((stage, *counts))
    )
    assert list(dict.fromkeys(stage for stage, _, _ in calls)) == ["regress", "select"]
    for stage in ("regress", "select"):
        done, total = np.array([counts for name, *counts in calls if name == stage]).T
        assert (np.diff(done) > 0).all()
        assert done[-1] == total[-1]


def test_queries_do_not_affect_each_other(estimate, utilities, result):
    others_constant = np.where(np.arange(Q) == 3, utilities, 1.0)
    assert_same(estimate(others_constant), result, [3])
    assert_same(estimate(utilities[:, [3] * Q]), result, [3])


def test_a_query_on_its_own_agrees_with_the_batch(estimate, utilities, result):
    alone = estimate(utilities[:, :1], copies=0)
    assert alone.num_copies == 0
    np.testing.assert_allclose(alone.values[0], result.values[0], rtol=1e-9)
    np.testing.assert_allclose(alone.cv_error[:, 0], result.cv_error[:, 0], rtol=1e-4)


def test_utilities_that_no_source_moves_have_no_values(design, estimate, utilities):
    p = np.asarray(design.p)
    moved = utilities.copy()
    moved[:, 0], moved[:, 1], moved[:, 2] = 5.0, 0.0, p
    moved[:, 3], moved[:, 4] = 1e6 + 100 * p**7, np.where(p > 0.5, 0.7, -300.0)
    found = estimate(moved).check()
    for array in (found.values, found.lasso_min, found.lasso_1se, found.importance):
        np.testing.assert_array_equal(array[:5], 0.0)
    assert (found.values[5] != 0).any()
    assert found.select(0.2, 0).indices.size == 0


def test_an_offset_changes_nothing(estimate, utilities, result):
    shifted = estimate(utilities + 1e6)
    for name in ("values", "lasso_min", "lasso_1se", "importance"):
        array = getattr(result, name)
        np.testing.assert_allclose(getattr(shifted, name), array, atol=1e-5 * np.abs(array).max(), err_msg=name)


def test_values_are_in_the_unit_of_the_utility(estimate, utilities, result):
    unit = 2.0 ** np.array([10, -10, 3, 20, -20, 0]) * np.array([1, -1, -1, 1, -1, -1])  # exact in floating point
    scaled = estimate(utilities * unit)
    for name in ("values", "lasso_min", "lasso_1se"):
        np.testing.assert_array_equal(getattr(scaled, name), getattr(result, name) * unit[:, None])
    np.testing.assert_array_equal(scaled.importance, result.importance * unit[:, None, None, None])
    np.testing.assert_array_equal(scaled.cv_penalty, result.cv_penalty * np.abs(unit))
    np.testing.assert_array_equal(scaled.cv_error, result.cv_error * unit**2)


def test_rows_missing_at_random_are_left_out_of_their_query_only(estimate, design, utilities, result):
    broken = utilities.copy()
    broken[:, 0] = 3.0 * np.asarray(design.masks()).sum(axis=1)
    missing = np.random.default_rng(4).random(M) < 0.2
    broken[missing, 0] = np.where(np.arange(missing.sum()) % 2, np.nan, np.inf)
    found = estimate(broken).check()
    np.testing.assert_array_equal(found.num_left_out, [missing.sum(), 0, 0, 0, 0, 0])
    assert_same(found, result, slice(1, Q))
    np.testing.assert_allclose(found.values[0], 3.0, rtol=1e-10)  # a zero in place of a missing row would show


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (lambda p, masks, u: (p > 0.7) & (u < 0.3), "query 4.* depend on p,"),
        (lambda p, masks, u: masks[:, 7] & (u < 0.4), "query 4.* depend on a source,"),
        (lambda p, masks, u: ~masks[:, 7] & (u < 0.4), "query 4.* depend on a source,"),
    ],
    ids=["p", "source in", "source out"],
)
def test_rows_missing_for_a_reason_are_reported(estimate, design, utilities, result, missing, message):
    chosen = missing(np.asarray(design.p), np.asarray(design.masks()), np.random.default_rng(4).random(M))
    broken = np.where(chosen[:, None] & (np.arange(Q) == 4), np.nan, utilities)
    found = estimate(broken)
    with pytest.raises(RuntimeError, match=message) as error:
        found.check()
    assert f"({chosen.sum()} rows left out)" in str(error.value)
    assert "query 0" not in str(error.value)
    others = [0, 1, 2, 3, 5]
    assert_same(found, result, others)


@pytest.mark.slow
def test_two_submodels_are_enough_to_run():
    found = jaxame.ame(GAME, key=KEY, num_submodels=2, law=GRID, copies=COPIES)
    assert found.about["folds"] == 2
    for name in ("values", "lasso_min", "lasso_1se", "importance"):
        assert np.isfinite(getattr(found, name)).all(), name
    assert found.select(0.2).indices.size <= N


class Counted:
    """A game that counts its calls."""

    def __init__(self):
        self.num_sources = N
        self.calls = 0

    def __call__(self, keys, masks):
        self.calls += 1
        return np.zeros((len(keys), 1))


class NoSources:
    def __call__(self, keys, masks):
        raise AssertionError("must not be called")


BAD_OPTIONS = {
    "one submodel": ({"num_submodels": 1}, r"needs num_submodels to be an integer >= 2; got int 1"),
    "no integer": ({"num_submodels": 99.0}, "needs num_submodels to be an integer >= 2; got float 99.0"),
    "not a law": ({"law": 0.5}, r"needs a jaxame.design.Law.*; got float 0.5"),
    "negative copies": ({"copies": -1}, "needs copies to be an integer >= 0; got int -1"),
    "fractional copies": ({"copies": 1.5}, "needs copies to be an integer >= 0; got float 1.5"),
    "more folds than rows": ({"num_submodels": 10, "folds": 11}, "needs at most 10 folds.*; got 11"),
    "one fold": ({"folds": 1}, "needs folds to be an integer >= 2; got int 1"),
    "untyped key": ({"key": jax.random.PRNGKey(0)}, r"needs key to be one typed key.*; got uint32\[2\]"),
    "several keys": ({"key": jax.random.split(KEY, 2)}, r"needs key to be one typed key.*; got key.*\[2\]"),
    "untyped knockoff key": ({"knockoff_key": jax.random.PRNGKey(0)}, r"needs knockoff_key .*; got uint32\[2\]"),
    "prior of other sources": ({"prior": np.ones(N + 1)}, rf"needs prior \[{N}\] or \[6, {N}\]; got \[25\]"),
    "prior of other queries": ({"prior": np.ones((2, N))}, rf"needs prior \[{N}\] or \[6, {N}\]; got \[2, 24\]"),
    "contrasts of other queries": ({"contrasts": np.ones((1, 2))}, r"needs contrasts \[C, Q=6\]; got \[1, 2\]"),
    "unknown coding": ({"coding": "banzhaf"}, "needs coding to be .*'weighted'.*; got str 'banzhaf'"),
    "p of 1": ({"law": lambda: Grid((0.5, 1.0))}, "needs every point strictly between 0 and 1; got float 1.0"),
    "negative p": ({"law": lambda: Grid((-0.5, 0.5))}, "needs every point strictly between 0 and 1; got float -0.5"),
    "p of 0": ({"law": lambda: PointMass(0)}, "needs p strictly between 0 and 1; got int 0"),
    "U(0, 1) as Beta": ({"law": lambda: Beta(1, 1)}, "needs a law with finite v.*got Beta.*infinite v"),
    "U(0, 1)": ({"law": lambda: TruncatedUniform(0.0)}, "needs a law with finite v.*use TruncatedUniform.0.01.*; got"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_bad_options_are_refused_before_the_game_is_called(changes, message):
    game = Counted()
    game.num_queries = Q
    options = {"key": KEY, "num_submodels": M, "law": GRID} | changes
    with pytest.raises(ValueError, match=message):
        jaxame.ame(game, **options | ({"law": options["law"]()} if callable(options["law"]) else {}))
    assert game.calls == 0


def test_a_prior_of_other_sources_is_refused_of_a_game_that_does_not_say_its_queries():
    game = Counted()
    with pytest.raises(ValueError, match=rf"needs prior \[{N}\]"):
        jaxame.ame(game, key=KEY, num_submodels=M, law=GRID, prior=np.ones(N - 1))
    assert game.calls == 0


@pytest.mark.parametrize(
    "game", [NoSources(), "game", None, np.zeros((M, Q))], ids=["no sources", "str", "None", "array"]
)
def test_what_is_not_a_game_is_refused(game):
    with pytest.raises(ValueError, match="needs a callable game with num_sources; got"):
        jaxame.ame(game, key=KEY, num_submodels=M, law=GRID)


@pytest.mark.parametrize("num_sources", [0, -3, 2.5, None])
def test_a_game_without_sources_is_refused(num_sources):
    game = Counted()
    game.num_sources = num_sources
    with pytest.raises(ValueError, match=r"needs game.num_sources to be an integer >= 1; got"):
        jaxame.ame(game, key=KEY, num_submodels=M, law=GRID)
    assert game.calls == 0


def test_a_game_of_another_size_is_refused(design):
    game = Counted()
    game.num_sources = N + 1
    with pytest.raises(ValueError, match="needs 24 sources; got 25"):
        jaxame.evaluate(game, design)
    assert game.calls == 0


class Returns(Counted):
    """A game that returns an array of a shape chosen per call."""

    chunk_size = 500

    def __init__(self, shape):
        super().__init__()
        self.shape = shape

    def __call__(self, keys, masks):
        super().__call__(keys, masks)
        return np.zeros(self.shape(len(keys), self.calls))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (lambda m, call: (m,), r"the game to return \[500, Q\]; got \[500\]"),
        (lambda m, call: (m + 1, 2), r"the game to return \[500, Q\]; got \[501, 2\]"),
        (lambda m, call: (2, m), r"the game to return \[500, Q\]; got \[2, 500\]"),
        (lambda m, call: (), r"the game to return \[500, Q\]; got \[\]"),
        (lambda m, call: (m, 1 + call), r"the game to return \[220, 2\]; got \[220, 3\]"),
    ],
    ids=["vector", "extra row", "transposed", "scalar", "changing width"],
)
def test_a_game_that_returns_another_shape_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        jaxame.ame(Returns(shape), key=KEY, num_submodels=M, law=GRID)


ONE_FINITE_ROW = np.where((np.arange(M)[:, None] > 0) & (np.arange(Q) == 2), np.nan, 1.0)
BAD_UTILITIES = {
    "vector": (np.zeros(M), rf"needs utilities \[M={M}, Q\]; got \[{M}\]"),
    "extra row": (np.zeros((M + 1, Q)), rf"needs utilities \[M={M}, Q\]; got \[{M + 1}, {Q}\]"),
    "transposed": (np.zeros((Q, M)), rf"needs utilities \[M={M}, Q\]; got \[{Q}, {M}\]"),
    "no query": (np.zeros((M, 0)), rf"needs utilities \[M={M}, Q\]; got \[{M}, 0\]"),
    "one finite row": (ONE_FINITE_ROW, "needs at least 2 finite rows for every query; got 1 for query 2"),
    "none finite": (np.full((M, 1), np.nan), "needs at least 2 finite rows for every query; got 0 for query 0"),
}


@pytest.mark.parametrize(("bad", "message"), BAD_UTILITIES.values(), ids=BAD_UTILITIES.keys())
def test_bad_utilities_are_refused(design, bad, message):
    with pytest.raises(ValueError, match=message):
        jaxame.estimate_ame(design, bad)


def test_finite_rows_in_one_fold_are_refused(design, utilities, monkeypatch):
    monkeypatch.setattr("jaxame.estimators.assign_folds", lambda *_: np.arange(M) * FOLDS // M)
    bad = np.where((np.arange(M) > 1)[:, None] & (np.arange(Q) == 1), np.nan, utilities)
    message = "finite rows in at least 2 folds of the cross-validation for every query; got all rows of query 1 in one"
    with pytest.raises(ValueError, match=message):
        jaxame.estimate_ame(design, bad, folds=FOLDS, copies=0)


def test_copies_of_a_foreign_design_need_a_key(design, utilities, result):
    foreign = dataclasses.replace(design, key=None)
    with pytest.raises(ValueError, match="needs knockoff_key, as this design has no key of its own; got None"):
        jaxame.estimate_ame(foreign, utilities)
    with pytest.raises(ValueError, match="needs key to be one typed key"):
        jaxame.evaluate(GAME, foreign)
    found = jaxame.estimate_ame(foreign, utilities, knockoff_key=KEY, folds=FOLDS, copies=COPIES)
    np.testing.assert_array_equal(found.importance, result.importance)
    with pytest.raises(ValueError, match=r"needs a jaxame.design.Design; got"):
        jaxame.estimate_ame(np.asarray(design.masks()), utilities)
