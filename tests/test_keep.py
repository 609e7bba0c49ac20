"""What submodels leave behind answers other queries: the utilities that training for them would give."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from jaxame import estimate_ame, queries, runs
from jaxame.design import Grid
from jaxame.submodels import TrainingGame, mlp

NUM, CLASSES, M = 40, 3, 24
RNG = np.random.default_rng(0)
X = RNG.normal(size=(NUM, 5)).astype(np.float32)
Y = RNG.integers(0, CLASSES, NUM)
POINTS = RNG.normal(size=(7, 5)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, 7)
ASKED = np.array([5, 0, 3])
LATER = queries.join(
    queries.probability(POINTS[ASKED], LABELS[ASKED]),
    queries.accuracy(POINTS, LABELS),
    queries.loss(POINTS[:2], LABELS[:2]),
)


def spread(apply, params):
    """A query of no points of its own."""
    return apply(params, POINTS * 2).std(axis=1)


def make(query, keep=None):
    optimizer = optax.sgd(0.3, 0.9)
    sizes = {"num_steps": 5, "batch_size": 16, "tile": 4}
    return TrainingGame(mlp((5, 8, CLASSES)), optimizer, X, Y, query=query, keep=keep, **sizes)


FIRST = queries.logit_margin(POINTS[:2], LABELS[:2])


@pytest.fixture(scope="module")
def rows():
    return jax.random.split(jax.random.key(1), 6), RNG.random((6, NUM)) < 0.5


@pytest.fixture(scope="module")
def keepers():
    return {"outputs": make(FIRST, keep=POINTS), "params": make(FIRST, keep="params")}


@pytest.mark.parametrize("name", ["outputs", "params"])
def test_keeping_changes_no_bit_of_the_utilities(keepers, rows, name):
    game = keepers[name]
    utilities, kept = game.measure(*rows)
    np.testing.assert_array_equal(utilities, make(FIRST)(*rows))
    np.testing.assert_array_equal(utilities, game(*rows))
    assert {key: part.shape for key, part in kept.items()} == {name: (6, *game.kept_shapes[name])}
    params = game.train(rows[0][3], rows[1][3])
    if name == "params":
        jax.tree.map(np.testing.assert_array_equal, game.unravel(kept["params"][3]), params)
    else:
        np.testing.assert_allclose(kept["outputs"][3], game.predict(params, POINTS), atol=1e-5)
    nothing = game.measure(rows[0][:0], rows[1][:0])
    assert nothing[0].shape == (0, 2)
    assert nothing[1][name].shape == (0, *game.kept_shapes[name])


@pytest.mark.parametrize("name", ["outputs", "params"])
def test_a_run_answers_what_nobody_had_asked(tmp_path, keepers, name):
    game, trained = keepers[name], make(LATER)
    run = runs.start(tmp_path, game, key=jax.random.key(2), law=Grid((0.3, 0.6)), num_submodels=M, chunk_rows=10)
    run.train(game, stopped=iter([False, True]).__next__)
    found = runs.open_run(tmp_path).ask(LATER, game)
    assert np.isnan(found[10:]).all()
    run.train(game)
    wanted = trained(run_keys(run), np.asarray(run.design().masks()))
    for asking in (game, make(LATER, keep=game.kept_points if name == "outputs" else "params")):
        found = runs.open_run(tmp_path).ask(LATER, asking)
        assert found.shape == (M, 3 + 1 + 2)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    result = estimate_ame(run.design(), found, copies=0, folds=3)
    assert result.values.shape == (6, NUM)
    if name == "params":
        np.testing.assert_allclose(
            run.ask(spread, game), make(spread)(run_keys(run), np.asarray(run.design().masks())), atol=1e-5
        )


def run_keys(run):
    from jaxame.evaluation import game_keys

    return game_keys(jax.random.key(2), 0, M)


def test_what_was_not_kept_is_not_told(tmp_path, keepers):
    game, options = keepers["outputs"], {"key": jax.random.key(0), "law": Grid((0.5,)), "num_submodels": 4}
    run = runs.start(tmp_path / "kept", game, **options)
    run.train(game)
    for query, message in (
        (queries.loss(POINTS + 1, LABELS), "points among the 7 whose outputs are kept; got 7 others"),
        (spread, 'keep="params" for a function of the model'),
        (queries.join(FIRST, spread), 'keep="params" for a query that calls the model'),
    ):
        with pytest.raises(ValueError, match=message):
            run.ask(query, game)
    with pytest.raises(ValueError, match=r"game\.kept_points"):
        run.ask(FIRST, make(FIRST, keep=POINTS + 1))
    plain = make(FIRST)
    with pytest.raises(ValueError, match="a game that keeps something"):
        runs.start(tmp_path / "plain", plain, **options).ask(FIRST, plain)
    for keep in ("everything", POINTS[:, :4], POINTS[:0]):
        with pytest.raises(ValueError, match='keep to be "params" or points'):
            make(FIRST, keep=keep)


def test_only_rows_that_are_done_are_answered(tmp_path, keepers, monkeypatch):
    game, answered = keepers["outputs"], []
    run = runs.start(tmp_path, game, key=jax.random.key(2), law=Grid((0.3, 0.6)), num_submodels=M, chunk_rows=10)
    with pytest.raises(ValueError, match=r"needs rows of .* that are done; got none"):
        run.ask(LATER, game)
    run.train(game, chunks=[2])

    def answer(query, game, kept):
        answered.append(len(kept["outputs"]))
        assert np.isfinite(kept["outputs"]).all()
        return kept_answer(query, game, kept)

    kept_answer = runs.answer
    monkeypatch.setattr(runs, "answer", answer)
    found = run.ask(LATER, game)
    assert answered == [M - 20]
    assert np.isnan(found[:20]).all()
    assert np.isfinite(found[20:]).all()
    with pytest.raises(ValueError, match=f"needs all {M} rows of .* got 4"):
        run.ask(LATER, game, partial=False)
    assert answered == [M - 20]


def test_an_interrupted_chunk_keeps_with_its_rows(tmp_path, keepers):
    """A run that becomes longer has what was kept of the rows before, to the bit."""
    game, options = keepers["outputs"], {"key": jax.random.key(0), "law": Grid((0.5,)), "chunk_rows": 10}
    runs.start(tmp_path, game, num_submodels=6, **options).train(game)
    first = runs.open_run(tmp_path).ask(LATER, game)
    longer = runs.start(tmp_path, game, num_submodels=16, **options)
    assert longer.train(game) == 10
    np.testing.assert_array_equal(longer.ask(LATER, game)[:6], first)


def test_a_query_is_compiled_once_for_all_chunks(tmp_path, keepers):
    game, traced = keepers["params"], []
    run = runs.start(tmp_path, game, key=jax.random.key(4), law=Grid((0.3, 0.6)), num_submodels=M, chunk_rows=4)
    run.train(game)

    def measure(*arguments):
        traced.append(arguments)
        return FIRST.measure(*arguments)

    found = run.ask(dataclasses.replace(FIRST, measure=measure), game)
    assert len(traced) == 1
    np.testing.assert_array_equal(found, run.ask(FIRST, game))
    assert run.ask(LATER, game).shape[1] > found.shape[1]
