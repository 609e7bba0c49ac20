"""Tests of the game that trains: bit for bit against itself, on any number of devices and in two processes."""

import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats
from training_helpers import (
    NUM_EXAMPLES,
    SET,
    TILE,
    assert_trees_equal,
    draw_rows,
    make_game,
    mesh_of,
    momentum_sgd,
)

import jaxame
from jaxame import queries
from jaxame.design import Grid, sample_design
from jaxame.submodels import as_model, cnn, compare, mlp, resnet9, tiles
from jaxame.submodels.feeds import Examples
from jaxame.submodels.sizes import choose_lowering, default_sizes
from jaxame.submodels.training import Recipe


@pytest.fixture(scope="module", params=["masked", "gathered"])
def game(request):
    return make_game(feed=request.param)


def test_training_on_everything_learns_the_training_set(game):
    params = game.train(jax.random.key(3), np.ones(NUM_EXAMPLES, bool))
    assert np.mean(np.argmax(game.predict(params, SET.x), axis=1) == SET.y) > 0.5  # by chance .1


def test_many_inputs_are_predicted_a_few_hundred_at_a_time():
    seen = []

    def apply(params, x):
        seen.append(len(x))
        return x.reshape(len(x), size) @ params

    size = SET.x[0].size
    game = make_game(model=(lambda key: jnp.zeros((size, 10)), apply))
    params, many = jnp.eye(size, 10), np.random.default_rng(0).normal(size=(600, *SET.x.shape[1:])).astype(np.float32)
    seen.clear()
    np.testing.assert_array_equal(game.predict(params, many), many.reshape(600, -1)[:, :10])
    assert seen == [256, 88]  # each shape is compiled once
    assert game.predict(params, many[:0]).shape == (0, 10)


def test_the_training_data_goes_with_the_game(game):
    np.testing.assert_array_equal(game.data.x, SET.x)
    np.testing.assert_array_equal(game.data.y, SET.y)
    np.testing.assert_array_equal(game.data.source, np.arange(NUM_EXAMPLES))


def test_train_gives_the_submodel_that_a_call_measures(game):
    keys, masks = draw_rows(3)
    margins = game.query(game.predict, game.train(keys[1], masks[1]))
    np.testing.assert_allclose(game(keys, masks)[1], margins, rtol=1e-4, atol=1e-5)


def test_the_losses_to_watch_are_those_on_what_was_seen(game):
    keys, masks = draw_rows(3)
    assert make_game().training_losses().size == 0
    before = game(keys, masks)
    losses = game.training_losses()
    rows = np.linspace(0, NUM_EXAMPLES - 1, min(NUM_EXAMPLES, 256, game.piece)).astype(int)
    for key, mask, loss in zip(keys, np.asarray(masks), losses, strict=False):
        seen = rows[mask[rows]]
        outputs = game.predict(game.train(key, mask), SET.x[seen])
        wanted = optax.softmax_cross_entropy_with_integer_labels(outputs, SET.y[seen]).mean()
        np.testing.assert_allclose(loss, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(game(keys, masks), before)


# Bit identity.


@pytest.mark.parametrize("cut", [1, 3, TILE, 7], ids="rows_per_call={}".format)
def test_cutting_rows_into_calls_changes_no_bit(game, cut):
    keys, masks = draw_rows(11)
    pieces = [game(keys[i : i + cut], masks[i : i + cut]) for i in range(0, 11, cut)]
    np.testing.assert_array_equal(np.concatenate(pieces), game(keys, masks))


def test_permuting_rows_changes_no_bit(game):
    keys, masks = draw_rows(11)
    rows = np.random.default_rng(0).permutation(11)
    np.testing.assert_array_equal(game(keys[rows], masks[rows]), game(keys, masks)[rows])


@pytest.mark.parametrize("num_devices", [2, 8])
def test_the_number_of_devices_changes_no_bit(game, num_devices):
    if jax.device_count() < num_devices:
        pytest.skip(f"needs {num_devices} devices; XLA_FLAGS=--xla_force_host_platform_device_count=8 makes them")
    keys, masks = draw_rows(num_devices * TILE + 3)
    np.testing.assert_array_equal(make_game(mesh=mesh_of(num_devices), feed=game.feed)(keys, masks), game(keys, masks))


@pytest.mark.slow
def test_two_processes_change_no_bit(tmp_path):
    """Each brings two devices, and both get all utilities."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    here = Path(__file__).parent
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent)]), "JAX_PLATFORMS": "cpu"}
    paths = [tmp_path / f"{rank}.npz" for rank in range(2)]
    command = [sys.executable, here / "one_of_several.py", address, "2"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), path], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for rank, path in enumerate(paths)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    expected = make_game()(*draw_rows(19))
    for path in paths:
        with np.load(path) as found:
            assert found["devices"] == 4
            np.testing.assert_array_equal(found["utilities"], expected)
            np.testing.assert_allclose(found["margins"], expected[1], rtol=1e-4, atol=1e-5)


def test_submodels_do_differ(game):
    keys, masks = draw_rows(4)
    utilities = game(keys, masks)
    assert utilities.shape == (4, 5)
    assert utilities.dtype == np.float32
    assert len(np.unique(utilities[:, 0])) == 4
    same_start = game(keys[jnp.zeros(4, int)], masks)
    assert len(np.unique(same_start[:, 0])) == 4


def test_calls_of_any_length_share_one_compilation():
    traces = []

    def counting_query(apply, params):
        traces.append(1)
        return apply(params, SET.x[:1])[0]

    keys, masks = draw_rows(9)
    game = make_game(query=counting_query, num_steps=2)
    game(keys[:1], masks[:1])
    num_traces = len(traces)
    for num_rows in (0, 3, TILE, 9):
        assert game(keys[:num_rows], masks[:num_rows]).shape == (num_rows, 10)
    game.train(keys[0], masks[0])
    assert len(traces) == num_traces


def test_a_diverging_submodel_leaves_its_neighbours_alone():
    targets = np.linspace(-1, 1, NUM_EXAMPLES).astype(np.float32)
    targets[0] = 3e38  # finite, but whoever sees it diverges
    game = make_game(y=targets, loss=lambda out, y: jnp.square(out[:, 0] - y))
    keys, masks = draw_rows(8)
    masks[:, 0] = False
    alone = game(keys, masks)
    masks[2, 0] = True
    beside = game(keys, masks)
    assert np.isfinite(alone).all()
    assert not np.isfinite(beside[2]).any()
    others = np.arange(8) != 2
    np.testing.assert_array_equal(beside[others], alone[others])


def test_a_group_is_the_sum_of_its_examples(game):
    groups = np.arange(NUM_EXAMPLES) % 7
    grouped = make_game(groups=groups, feed=game.feed)
    keys, masks = draw_rows(3, num_sources=7)
    assert grouped.num_sources == 7
    np.testing.assert_allclose(grouped(keys, masks), game(keys, masks[:, groups]), rtol=1e-3, atol=1e-3)


# Sharing and warm starts.


def test_what_is_shared_is_addressed_by_the_shared_key():
    keys, masks = draw_rows(2)
    untrained = {
        share: make_game(share_init=share, num_steps=1, feed="masked")(keys, np.zeros_like(masks)) for share in (0, 1)
    }
    assert (untrained[0][0] != untrained[0][1]).all()
    np.testing.assert_array_equal(untrained[1][0], untrained[1][1])
    other = make_game(share_init=True, num_steps=1, shared_key=jax.random.key(12))(keys, np.zeros_like(masks))
    assert (other != untrained[1]).all()


@pytest.fixture(scope="module")
def warm():
    """A game that trains briefly from a model that has seen everything, and the game that trains from scratch."""
    scratch = make_game()
    start = scratch.train(jax.random.key(3), np.ones(NUM_EXAMPLES, bool))
    return make_game(start=start, num_steps=16), scratch, start


def test_a_warm_start_is_where_the_empty_subset_stays(warm):
    game, _, start = warm
    assert game.warm_start
    assert_trees_equal(game.train(jax.random.key(9), np.zeros(NUM_EXAMPLES, bool)), start)


@pytest.mark.slow
def test_a_result_carries_the_warm_start(warm):
    results = [
        jaxame.ame(game, key=jax.random.key(0), num_submodels=32, law=Grid((0.5,)), folds=2, copies=0)
        for game in warm[:2]
    ]
    assert [result.warm_start for result in results] == [True, False]
    assert [result.about["game"] for result in results] == [game.about for game in warm[:2]]
    assert results[0].about["game"].items() > {"feed": "masked", "tile": TILE, "num_steps": 16}.items()


def test_parameters_of_another_model_are_no_start(warm):
    with pytest.raises(ValueError, match=r"start to be parameters of the model.*\(13, 64\)"):
        make_game(model=mlp((64, 13, 10)), start=warm[2])


def test_compare_tells_how_far_a_stand_in_is_from_its_reference(warm):
    game, scratch, _ = warm
    law = Grid((0.2, 0.8))
    agreement = compare(game, scratch, key=jax.random.key(1), law=law, num_submodels=24)
    itself = compare(scratch, scratch, key=jax.random.key(1), law=law, num_submodels=24)
    np.testing.assert_allclose(itself.rank_correlation, 1.0)
    np.testing.assert_array_equal(itself.bias, 0.0)
    assert (itself.ceiling < 1).all()
    np.testing.assert_array_equal(agreement.ceiling, itself.ceiling)
    assert (agreement.rank_correlation < itself.rank_correlation).all()
    design = sample_design(jax.random.key(1), law, num_submodels=24, num_sources=NUM_EXAMPLES)
    first, _ = (jax.random.split(half, 24) for half in jax.random.split(jax.random.key(1)))
    ours, theirs = (each(first, np.asarray(design.masks())) for each in (game, scratch))
    expected = [stats.spearmanr(ours[:, q], theirs[:, q]).statistic for q in range(5)]
    np.testing.assert_allclose(agreement.rank_correlation, expected, rtol=1e-6)
    np.testing.assert_allclose(agreement.bias, (ours - theirs).mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(agreement.bias_stderr, stats.sem(ours - theirs), rtol=1e-4)
    assert "24 submodels, median over 5 queries" in str(agreement)
    with pytest.raises(ValueError, match=r"same sources and queries, \(60, 5\); got \(7, 5\)"):
        compare(make_game(groups=np.arange(NUM_EXAMPLES) % 7), scratch, key=jax.random.key(1), law=law)


# Sizes, memory, cost.


@pytest.mark.parametrize(
    ("feed", "inclusion", "chosen"),
    [
        ("masked", 0.5, "masked"),
        ("gathered", 0.9, "gathered"),
        ("auto", 0.5, "gathered"),
        ("auto", 0.9, "masked"),
    ],
)
def test_the_feed_is_chosen_by_cost(feed, inclusion, chosen):
    assert make_game(model=mlp((64, 64, 10)), feed=feed, inclusion=inclusion).feed == chosen


def test_inputs_with_much_to_gather_and_little_to_compute_are_masked():
    wide = np.zeros((NUM_EXAMPLES, 784), np.float32)
    query = queries.accuracy(wide[:2], SET.y[:2])
    games = [make_game(model=mlp(sizes), x=wide, query=query, feed="auto") for sizes in ((784, 10), (784, 256, 10))]
    assert [game.feed for game in games] == ["masked", "gathered"]


def test_a_full_batch_is_masked():
    assert make_game(batch_size=None, feed="auto").feed == "masked"
    with pytest.raises(ValueError, match="batch_size for the gathered feed; got None"):
        make_game(batch_size=None, feed="gathered")


def sizes_of(model, x, platform, batch_size=128, lowering="patches", **options):
    recipe = Recipe(as_model(model, x), momentum_sgd, None, num_steps=3, batch_size=batch_size, **options)
    return default_sizes(recipe, Examples(x, SET.y, np.arange(len(x))), lowering, platform)


def test_default_sizes_follow_the_model():
    large = np.zeros((1, 28, 28), np.float32)
    assert sizes_of(mlp((64, 32, 10)), SET.x, "cpu") == (64, 128)
    assert sizes_of(mlp((64, 4096, 10)), SET.x, "cpu")[0] < 4
    tile, piece = sizes_of(cnn((28, 28), 10), large, "cpu")
    assert tile == 1
    assert 8 <= piece <= 32
    assert sizes_of(cnn((28, 28), 10), large, "gpu")[0] > 8
    assert sizes_of(cnn((28, 28), 10), large, "gpu")[1] == 128
    assert sizes_of(cnn((28, 28), 10), large, "gpu", lowering="native") == (1, 128)


def test_a_batch_of_all_submodels_is_no_submodels_own():
    wide = np.zeros((1, 784), np.float32)  # 128 rows of it are 400 kB; parameters, gradient and momentum 94 kB
    of_all = sizes_of(mlp((784, 10)), wide, "cpu")[0]
    assert of_all == 32
    for own in ({"share_order": False}, {"own_batch": 128}):
        assert sizes_of(mlp((784, 10)), wide, "cpu", **own)[0] == 8


COLOURED = np.zeros((1, 32, 32, 3), np.float32)


@pytest.mark.parametrize(
    ("model", "x", "batch_size", "platform", "chosen"),
    [
        (resnet9(10), COLOURED, 512, "cpu", "patches"),
        (resnet9(10), COLOURED, 512, "gpu", "native"),
        (resnet9(10), COLOURED, 8, "gpu", "patches"),
        (cnn((8, 8), 10), SET.x, 128, "gpu", "patches"),
    ],
)
def test_the_lowering_is_chosen_by_device_and_by_the_size_of_a_step(model, x, batch_size, platform, chosen):
    recipe = Recipe(as_model(model, x), momentum_sgd, optax.softmax_cross_entropy_with_integer_labels, 3, batch_size)
    examples = Examples(x, SET.y[: len(x)], np.arange(len(x)))
    assert choose_lowering(recipe, examples, "auto", platform) == chosen
    for lowering in ("patches", "native"):
        assert choose_lowering(recipe, examples, lowering, platform) == lowering


@pytest.mark.parametrize("feed", ["masked", "gathered"])
def test_native_convolutions_are_trained_one_submodel_at_a_time_and_not_grouped(feed):
    shared = {"model": cnn((8, 8), 10, (2, 3)), "num_steps": 4, "feed": feed, "tile": None}
    patches, native = (make_game(lowering=name, **shared) for name in ("auto", "native"))
    assert (patches.about["lowering"], native.about["lowering"], native.about["tile"]) == ("patches", "native", 1)
    program = native._tile_program().run.as_text()
    assert "convolution(" in program
    assert "group_count" not in program
    keys, masks = draw_rows(3)
    np.testing.assert_allclose(native(keys, masks), patches(keys, masks), rtol=1e-3, atol=1e-4)


def test_a_small_step_takes_less_memory(monkeypatch):
    """The tile is halved until the compiler's own count fits, before anything runs."""
    keys, masks = draw_rows(8)
    small = make_game(tile=2, num_steps=2)
    small(keys, masks)
    limit = small._tile_program().num_bytes / 0.8 + 1
    monkeypatch.setattr(tiles, "memory_limit", lambda device: limit)
    game = make_game(tile=8, num_steps=2)
    assert game.chunk_size == 8 * 16
    np.testing.assert_array_equal(game(keys, masks), small(keys, masks))
    assert (game.tile, game.chunk_size) == (2, 2 * 16)


def test_when_memory_runs_out_the_run_goes_on_with_smaller_tiles(monkeypatch, caplog):
    keys, masks = draw_rows(8)
    expected = make_game(tile=2, num_steps=2)(keys, masks)
    compile_tile = tiles.compile_tile

    def with_little_memory(recipe, query, keep, mesh, impl, arguments):
        def run(keys, *rest):
            if len(keys) > 2:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
            return compile_tile(recipe, query, keep, mesh, impl, arguments).run(keys, *rest)

        return tiles.CompiledTile(run, 0)

    monkeypatch.setattr(tiles, "compile_tile", with_little_memory)
    game = make_game(tile=8, num_steps=2)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(game(keys, masks), expected)
    assert game.tile == 2
    assert "memory ran out with a tile of 8; going on with a tile of 4" in caplog.text


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    monkeypatch.setattr(tiles, "compile_tile", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        make_game(num_steps=2)(*draw_rows(2))


def test_the_preview_tells_time_and_memory(game):
    preview = game.preview(1000)
    assert preview.seconds > 0
    assert preview.num_bytes > SET.x.nbytes
    assert (preview.tile, preview.feed, preview.lowering, preview.num_devices) == (TILE, game.feed, "patches", 1)
    assert preview.submodels_per_second == pytest.approx(1000 / preview.seconds)
    assert "1,000 submodels in about" in str(preview)
    with pytest.raises(ValueError, match="num_submodels"):
        game.preview(0)


NOT_FINITE = SET.x.copy()
NOT_FINITE[3, 2, 1] = np.nan
BAD_ARGUMENTS = [
    ({"x": SET.x[:0], "y": SET.y[:0]}, r"at least one example; got float32\[0, 8, 8\]"),
    ({"x": SET.x > 0}, r"float or integer array \[n, ...\]; got bool"),
    ({"x": NOT_FINITE}, "finite x; got 1 non-finite"),
    ({"y": SET.y[:-1]}, r"y with 60 rows.*got int32\[59\]"),
    ({"y": SET.y + 1}, "labels from 0 to 9; got labels from 1 to 10"),
    ({"y": SET.y - 1}, "labels from 0 to 9; got labels from -1 to 8"),
    ({"y": SET.y.astype(float)}, r"integer labels \[60\]; got float64"),
    ({"y": np.eye(10, dtype=int)[SET.y]}, r"integer labels \[60\]; got int64\[60, 10\]"),
    ({"loss": lambda out, y: jnp.mean(out)}, r"one number per example \[B\]; got float32\[\]"),
    ({"groups": np.arange(5)}, r"groups to be an integer array \[60\]; got int64\[5\]"),
    ({"groups": 2 * np.arange(60)}, "numbered 0 to N-1, each in use; got 60 numbers, 0 to 118"),
    ({"optimizer": "sgd"}, "needs optimizer.*got 'sgd'"),
    ({"query": None}, "query to be callable"),
    ({"query": lambda apply, params: 1.0}, r"vector \[Q\] with Q >= 1; got float32"),
    ({"query": queries.accuracy(SET.x, SET.y + 1)}, "query labels from 0 to 9; got label 10"),
    ({"num_steps": 0}, "num_steps to be an integer >= 1; got int 0"),
    ({"batch_size": 0}, "batch_size to be an integer >= 1"),
    ({"tile": 2.0}, "tile to be an integer >= 1; got float 2.0"),
    ({"piece": 0}, "piece to be an integer >= 1; got int 0"),
    ({"feed": "fast"}, "feed to be one of auto, masked, gathered; got 'fast'"),
    ({"lowering": "fft"}, "lowering to be one of auto, patches, native; got 'fft'"),
    ({"inclusion": 1.0}, "inclusion strictly between 0 and 1; got float 1.0"),
    ({"augment": 3}, "augment to be callable"),
    ({"augment": lambda key, x: x[:1]}, r"augment to return float32\[2, 8, 8\].*; got float32\[1, 8, 8\]"),
    ({"compute_dtype": int}, "compute_dtype to be a floating-point type"),
    ({"shared_key": 7}, "shared_key to be one typed key.*got int 7"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_game(**changes)


BAD_ROWS = [
    (slice(0, 2), np.ones((3, NUM_EXAMPLES), bool), r"typed keys \[3\], one per row of masks; got key<fry>\[2\]"),
    (slice(0, 3), np.ones((3, NUM_EXAMPLES - 1), bool), r"masks to be a bool array \[m, 60\]; got bool\[3, 59\]"),
    (slice(0, 3), np.ones((3, NUM_EXAMPLES)), r"masks to be a bool array \[m, 60\]; got float64"),
    (0, np.ones((1, NUM_EXAMPLES), bool), r"typed keys \[1\]"),
]


@pytest.mark.parametrize(("rows", "masks", "message"), BAD_ROWS)
def test_bad_rows_are_refused(game, rows, masks, message):
    keys, _ = draw_rows(3)
    with pytest.raises(ValueError, match=message):
        game(keys[rows], masks)
    with pytest.raises(ValueError, match="same kind as shared_key, threefry2x32; got rbg"):
        game(jax.random.split(jax.random.key(0, impl="rbg"), 3), np.ones((3, NUM_EXAMPLES), bool))
    with pytest.raises(ValueError, match="typed keys"):
        game(np.arange(3), np.ones((3, NUM_EXAMPLES), bool))
