"""Tables, arrays and games of other packages, in and out."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import COPIES, FOLDS, GRID, M, N, assert_same

import jaxame
from jaxame import baselines, checks, cli, factories, games, interop, runs
from jaxame.design import Beta, PointMass, TruncatedUniform, sample_design
from jaxame.games import Additive, Threshold

KEY = jax.random.key(2)
OPTIONS = {"knockoff_key": KEY, "folds": FOLDS, "copies": COPIES}


class OnlyDLPack:
    """An array that knows no other way than DLPack; one elsewhere says that it is on another device."""

    def __init__(self, value, device=1):
        self._value, self._device = np.asarray(value), device

    def __dlpack__(self, *, dl_device=None, **options):
        if self._device != 1 and dl_device != (1, 0):
            raise BufferError("not on this device")
        return self._value.__dlpack__(**options)

    def __dlpack_device__(self):
        return (self._device, 0)


@pytest.fixture(scope="module")
def measured():
    """A design, its masks and utilities."""
    design = sample_design(KEY, GRID, num_submodels=M, num_sources=N)
    return design, np.asarray(design.masks()), jaxame.evaluate(Threshold(N, [2, 5, 11], 2), design)


@pytest.mark.parametrize("device", [1, 2], ids=["here", "elsewhere"])
def test_arrays_by_dlpack_alone(measured, device):
    design, masks, utilities = measured
    foreign = jaxame.foreign_design(OnlyDLPack(masks, device), OnlyDLPack(np.asarray(design.p), device))
    np.testing.assert_array_equal(foreign.packed, design.packed)
    np.testing.assert_array_equal(foreign.p, design.p)
    found = jaxame.estimate_ame(foreign, OnlyDLPack(utilities, device), **OPTIONS)
    assert_same(found, jaxame.estimate_ame(dataclasses.replace(design, key=None), utilities, **OPTIONS))


def test_games_may_return_what_has_dlpack_alone(measured):
    design, masks, utilities = measured
    del masks
    game = Threshold(N, [2, 5, 11], 2)
    returning = interop.MaskGame(lambda masks: OnlyDLPack(np.asarray(game(None, masks))[:, 0]), N)
    np.testing.assert_array_equal(jaxame.evaluate(returning, design), utilities)


def test_what_does_not_go_by_dlpack_is_told():
    class Gone(OnlyDLPack):
        def __dlpack__(self, **options):
            raise BufferError("it is gone")

    with pytest.raises(ValueError, match="takes by DLPack; got Gone: it is gone"):
        jaxame.foreign_design(Gone(np.ones((3, 2), bool)), 0.5)


def test_torch_in_and_out(measured):
    torch = pytest.importorskip("torch")
    design, masks, utilities = measured
    foreign = jaxame.foreign_design(torch.tensor(masks), torch.tensor(np.array(design.p)))
    np.testing.assert_array_equal(foreign.packed, design.packed)
    found = jaxame.estimate_ame(foreign, torch.tensor(utilities), **OPTIONS)
    for field in dataclasses.fields(found):
        array = getattr(found, field.name)
        if isinstance(array, np.ndarray):
            np.testing.assert_array_equal(torch.from_dlpack(array).numpy(), array)
            np.testing.assert_array_equal(np.from_dlpack(array), array)
    with pytest.raises(ValueError, match=r"DLPack; got Tensor: .*gradient"):
        checks.array(torch.ones(3, requires_grad=True))


LAWS = {"grid": GRID, "uniform": TruncatedUniform(0.05), "beta": Beta(4, 6), "banzhaf": PointMass(0.5)}
READERS = ("path", "pandas", "polars", "pyarrow")


def read(path, reader):
    if reader == "path":
        return path
    if reader == "pyarrow":
        return pytest.importorskip("pyarrow.parquet").read_table(path)
    return pytest.importorskip(reader).read_parquet(path)


def exported(folder, law, paired=False, number=M):
    """Start and export a run; return it and the file."""
    game = factories.make("run_games:threshold", ("num_sources=24",))[0]
    run = runs.start(folder / "run", game, key=KEY, law=law, num_submodels=number, paired=paired)
    run.train(game)
    assert cli.main(["export", str(folder / "run"), str(folder / "run.parquet")]) in (0, None)
    return run, folder / "run.parquet"


@pytest.fixture(scope="module")
def grid_run(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("grid"), GRID)


@pytest.mark.parametrize("reader", READERS)
def test_an_exported_run_is_enough_to_estimate_from(grid_run, reader):
    run, path = grid_run
    design, utilities = interop.from_table(read(path, reader))
    own = run.design()
    np.testing.assert_array_equal(design.packed, own.packed)
    np.testing.assert_array_equal(design.p, own.p)
    assert (design.law, design.coding, design.paired, design.key) == (own.law, own.coding, False, None)
    np.testing.assert_array_equal(utilities, run.utilities())
    if reader == "polars":
        found = jaxame.estimate_ame(design, utilities, **OPTIONS)
        assert_same(found, jaxame.estimate_ame(dataclasses.replace(own, key=None), run.utilities(), **OPTIONS))


@pytest.mark.parametrize("name", LAWS)
def test_a_table_says_how_its_rows_were_drawn(tmp_path, name):
    """In any order of its rows; pairs come together again."""
    run, path = exported(tmp_path, LAWS[name], paired=True, number=65)
    frame = read(path, "pandas").sample(frac=1, random_state=0)
    design, utilities = interop.from_table(frame)
    own = run.design()
    assert (design.law, design.coding, design.paired) == (own.law, own.coding, True)
    assert (design.coding == "centered") == (name == "uniform")
    np.testing.assert_array_equal(design.packed, own.packed)
    np.testing.assert_array_equal(utilities, run.utilities())


def test_a_table_of_somebody_else(measured):
    """Masks and utilities are what it takes; a cell without utility is left out."""
    pandas = pytest.importorskip("pandas")
    design, masks, utilities = measured
    frame = pandas.DataFrame({"mask": masks.tolist(), "utility_0": utilities[:, 0], "utility_1": 2 * utilities[:, 0]})
    frame["p"] = np.asarray(design.p)
    frame.loc[3, "utility_1"] = None
    found, read_utilities = interop.from_table(frame, law=GRID)
    np.testing.assert_array_equal(found.packed, design.packed)
    assert (found.law, found.coding) == (GRID, "weighted")
    expected = utilities * [1.0, 2.0]
    expected[3, 1] = np.nan
    np.testing.assert_array_equal(read_utilities, expected)


def changed(**columns):
    """Return a function that changes a table."""
    return lambda frame: frame.assign(**columns)


BAD_TABLES = {
    "no masks": (lambda frame: frame.drop(columns="mask"), "a column 'mask'; got"),
    "no utilities": (lambda frame: frame.drop(columns="utility_0"), "columns utility_0 and so on"),
    "a query left out": (lambda frame: frame.rename(columns={"utility_0": "utility_1"}), "a column 'utility_0'"),
    "masks of text": (changed(mask="0101"), "'mask' of lists of booleans; got (large_)?string"),
    "masks of numbers": (changed(mask=lambda frame: [[0, 1]] * len(frame)), "got (large_)?list<.*int64>"),
    "masks of two lengths": (
        changed(mask=lambda frame: [[True]] + [[True, False]] * (len(frame) - 1)),
        r"one length, without gaps; got lengths \[1, 2\]",
    ),
    "a gap in a mask": (changed(mask=lambda frame: [[True, None]] * len(frame)), "2 gaps|64 gaps"),
    "p of text": (changed(p="half"), "column 'p' of numbers"),
    "another p": (changed(p=0.9), "every source in with the row's probability"),
    "p missing": (changed(p=None), "p strictly between 0 and 1"),
    "two laws": (
        changed(law=lambda frame: ["{}"] + [json.dumps({"name": "PointMass", "p": 0.5})] * (len(frame) - 1)),
        "one law in all rows",
    ),
    "a law that is not its own": (changed(law=json.dumps({"name": "PointMass", "p": 0.3})), "p that PointMass"),
    "a law of a user's own": (changed(law=json.dumps({"repr": "Mine()"})), "the law of the run as an argument"),
    "an unknown coding": (changed(coding="sharp"), "coding to be one of"),
    "centered without a law": (lambda frame: frame.assign(coding="centered").drop(columns="law"), "the law of a table"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_tables_that_are_none_are_refused(tmp_path, name):
    pandas = pytest.importorskip("pandas")
    change, message = BAD_TABLES[name]
    design = sample_design(KEY, PointMass(0.5), num_submodels=64, num_sources=N)
    columns = {"mask": np.asarray(design.masks()).tolist(), "p": np.asarray(design.p), "utility_0": np.zeros(64)}
    frame = pandas.DataFrame(columns).assign(law=json.dumps({"name": "PointMass", "p": 0.5}), coding="weighted")
    interop.from_table(frame)
    with pytest.raises(ValueError, match=message):
        interop.from_table(change(frame))


def test_no_table_at_all(tmp_path):
    with pytest.raises(ValueError, match="needs a DataFrame, or the path of a parquet file"):
        interop.from_table(np.zeros((3, 2)))
    with pytest.raises(FileNotFoundError):
        interop.from_table(Path(tmp_path / "none.parquet"))


def test_results_go_to_polars(measured):
    polars = pytest.importorskip("polars")
    design, masks, utilities = measured
    del masks
    found = jaxame.estimate_ame(design, utilities, folds=FOLDS, copies=0)
    frame = polars.from_pandas(found.to_dataframe())
    assert frame.columns == ["query", "source", "value", "debiased", "stderr"]
    np.testing.assert_array_equal(frame["value"], found.values[0])
    np.testing.assert_array_equal(frame["source"], np.arange(N))


PLAYERS = 7
SHAPLEY = TruncatedUniform(1e-9)
GAMES = {
    "additive": games.Additive(np.linspace(-2, 3, PLAYERS), bias=0.5),
    "threshold": games.Threshold(PLAYERS, [0, 2, 5], 2),
    "unanimity sum": games.UnanimitySum(PLAYERS, [(), (0,), (1, 2), (0, 1, 2, 3), (5,)], [7.0, 1.0, -2.0, 1.5, 0.25]),
    "majority": games.Majority(PLAYERS, range(5)),
    "saturating": games.Saturating(PLAYERS, range(4), slope=1.5, centre=1.0),
    "airport": games.Airport(np.arange(1.0, PLAYERS + 1)),
    "gloves": games.Gloves(PLAYERS, [0, 1], [2, 3, 4]),
    "votes": games.WeightedVoting(np.arange(1, PLAYERS + 1), 15),
}


@pytest.fixture(scope="module")
def shapiq():
    return pytest.importorskip("shapiq")


def of(found):
    """Values of all players."""
    return np.array([found[(player,)] for player in range(PLAYERS)])


@pytest.mark.parametrize("name", GAMES)
def test_exact_values_are_those_of_shapiq(shapiq, name):
    game = GAMES[name]
    theirs = interop.to_shapiq(game, key=KEY)
    assert isinstance(theirs, shapiq.Game)
    assert theirs(theirs.empty_coalition) == 0
    computer = shapiq.ExactComputer(theirs)
    np.testing.assert_allclose(of(computer("SV")), np.ravel(game.ame(SHAPLEY)), atol=1e-6)
    np.testing.assert_allclose(
        of(computer("SV")), baselines.exact(game, key=KEY, budget=2**PLAYERS).values[0], atol=1e-6
    )
    np.testing.assert_allclose(of(computer("BV")), np.ravel(game.ame(PointMass(0.5))), atol=1e-6)


class Squares:
    """`(sum of weights)^2`: no player is without effect, and all of them interact."""

    num_sources = PLAYERS
    weights = np.arange(1.0, PLAYERS + 1) / 4

    def __call__(self, keys, masks):
        return np.stack([masks[:, 0], (np.asarray(masks) @ self.weights + 1) ** 2], axis=1)

    @property
    def shapley(self):
        return self.weights * (self.weights.sum() + 2)


APPROXIMATORS = {
    "KernelSHAP": (2**PLAYERS, 1e-5),
    "UnbiasedKernelSHAP": (2**PLAYERS, 1e-5),
    "SVARM": (2**PLAYERS, 1e-5),
    "PermutationSamplingSV": (3000, 1.2),
    "StratifiedSamplingSV": (3000, 1.2),
    "OwenSamplingSV": (3000, 1.2),
}
"""Budget and tolerance: the first three see all coalitions; the others draw some 500 values of each player, of a
standard deviation of up to 6.6, and have four standard errors."""


@pytest.mark.filterwarnings("ignore:Not all budget is required")
@pytest.mark.parametrize("name", APPROXIMATORS)
def test_approximators_of_shapiq_take_our_games(shapiq, name):
    budget, tolerance = APPROXIMATORS[name]
    options = {"n_anchor_points": 10} if name == "OwenSamplingSV" else {}
    game = interop.to_shapiq(Squares(), key=KEY, query=1)
    found = of(getattr(shapiq.approximator, name)(PLAYERS, random_state=0, **options).approximate(budget, game))
    np.testing.assert_allclose(found, Squares().shapley, atol=tolerance)


def test_noise_belongs_to_the_coalition(shapiq):
    class Noisy:
        num_sources, chunk_size = PLAYERS, 5

        def __call__(self, keys, masks):
            assert len(masks) <= self.chunk_size
            return jax.vmap(jax.random.normal)(keys)[:, None]

    masks = np.random.default_rng(0).random((16, PLAYERS)) < 0.5
    game = interop.to_shapiq(Noisy(), key=KEY)
    assert len(np.unique(game(masks))) == len(np.unique(masks, axis=0))
    np.testing.assert_array_equal(game(masks[::-1]), game(masks)[::-1])
    assert game(np.zeros(PLAYERS, bool)) == 0
    assert interop.to_shapiq(Noisy(), key=jax.random.key(7))(masks[:1]) != game(masks[:1])


def test_a_query_that_is_not_there(shapiq):
    with pytest.raises(ValueError, match=r"the game to return \[1, Q > 2\]; got \[1, 2\]"):
        interop.to_shapiq(Squares(), key=KEY, query=2)


def test_games_of_shapiq_are_ours(shapiq):
    """Our estimates of a game of shapiq's have its exact values within their standard errors."""

    class Theirs(shapiq.Game):
        def value_function(self, coalitions):
            return Squares()(None, coalitions)[:, 1]

    theirs = Theirs(PLAYERS, normalization_value=1.0)
    exact = shapiq.ExactComputer(theirs)
    game = interop.from_shapiq(theirs)
    np.testing.assert_allclose(baselines.exact(game, key=KEY, budget=2**PLAYERS).values[0], of(exact("SV")), atol=1e-6)
    options = {"key": KEY, "num_submodels": 2000, "copies": 0, "folds": FOLDS}
    for found, index in (
        (jaxame.ame(game, law=PointMass(0.5), **options), "BV"),
        (jaxame.shapley(game, **options), "SV"),
    ):
        z = (found.debiased[0] - of(exact(index))) / found.stderr[0]
        assert np.abs(z).max() < 4
        assert np.abs(1.1 * found.debiased[0] - of(exact(index))).max() > 4 * found.stderr[0].max()


def test_functions_of_coalitions_are_games():
    game = interop.from_shapiq(lambda coalitions: coalitions @ np.arange(3.0), 3)
    np.testing.assert_allclose(baselines.exact(game, key=KEY, budget=8).values, [[0, 1, 2]], atol=1e-9)
    with pytest.raises(ValueError, match="num_sources, for a function without n_players"):
        interop.from_shapiq(np.sum)
    with pytest.raises(ValueError, match=r"a shapiq\.Game, or a function"):
        interop.from_shapiq("game")


def test_without_shapiq_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "shapiq", None)
    with pytest.raises(ImportError, match=r"pip install 'jaxame\[peers\]'"):
        interop.to_shapiq(Additive(np.ones(2)), key=KEY)
