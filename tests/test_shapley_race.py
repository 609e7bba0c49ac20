"""The race of estimators of Shapley values, its games, and the experiments that use them."""

import dataclasses
import json

import jax
import matplotlib.image
import numpy as np
import pytest

from benchmarks import shapley, shapley_estimators, shapley_games
from experiments import shapley_mnist, shapley_threshold
from jaxame.games import enumerate_ame

KEYS = jax.random.split(jax.random.key(0), 400)


def side_by_side(named):
    return shapley_games.SideBySide(tuple(game for game, _ in named.values()), np.array([s for _, s in named.values()]))


def test_truth_of_the_tiny_games_is_that_of_enumeration():
    game = side_by_side(shapley_games.tiny(3))
    np.testing.assert_allclose(game.shapley(), enumerate_ame(game, shapley_games.UNIFORM), atol=1e-5)


@pytest.mark.parametrize("make", [shapley_games.sparse, shapley_games.dense])
def test_values_sum_to_what_all_sources_add(make):
    named = make(1)
    game = side_by_side(named)
    ends = np.repeat([[False], [True]], game.num_sources, axis=1)
    none, everyone = np.concatenate([np.asarray(one(None, ends)) for one in game.games], axis=1)
    np.testing.assert_allclose(game.shapley().sum(axis=1), everyone - none, atol=1e-4)
    if make is shapley_games.sparse:
        assert ((game.shapley() != 0).sum(axis=1) <= 10).all()
        assert game.num_sources == 1000
    noisy = np.asarray(game(KEYS, np.ones((len(KEYS), game.num_sources), bool)), np.float64).std(axis=0)
    np.testing.assert_allclose(noisy, [noise for _, noise in named.values()], rtol=0.2, atol=1e-6)


def test_every_seed_has_games_of_its_own():
    first, second, again = (side_by_side(shapley_games.sparse(seed)).shapley() for seed in (1, 2, 1))
    np.testing.assert_array_equal(first, again)
    assert ((first != second).any(axis=1)).all()


def test_verdicts():
    rng = np.random.default_rng(0)
    best = rng.uniform(0.9, 1.1, 20)
    half = shapley.compare(best / 2, best)
    assert half["verdict"] == "wins"
    np.testing.assert_allclose([half["relative"], half["relative_se"]], [0.5, 0.0], atol=1e-12)
    assert shapley.compare(best * 2, best)["verdict"] == "loses"
    noisy = shapley.compare(best + rng.normal(size=20), best)
    assert noisy["verdict"] == "tie"
    assert 0.1 < noisy["relative_se"] < 0.5
    assert shapley.compare(np.full(20, 1e-9), np.full(20, 1e-7))["verdict"] == "tie"


def test_the_best_is_never_ours():
    errors = {
        ("tiny", "a game", 64, name): [e, e] for name, e in (("jaxame", 0.1), ("Owen", 0.4), ("permutation", 0.2))
    }
    records = shapley.summarise(errors, {("tiny", 64, name): [1.0] for *_, name in errors})
    assert {r["estimator"]: r["best"] for r in records} == {"jaxame": False, "Owen": False, "permutation": True}
    assert [r["relative"] for r in records] == pytest.approx([0.5, 2.0, 1.0])


def test_estimators_that_run_again_join_those_of_an_earlier_run(tmp_path):
    settings = shapley.Settings(
        kinds=("tiny",), budgets=(15, 64), seeds=2, estimators=("permutation", "SVARM", "random")
    )
    first, path = shapley.main(settings), tmp_path / "first.json"
    for record in first["records"]:
        if record["estimator"] == "random":
            record["errors"] = [-1.0, -1.0]
    path.write_text(json.dumps(first))
    again = dataclasses.replace(settings, budgets=(64,), estimators=("random", "Owen"), earlier=path)
    both = shapley.main(again)
    assert both["earlier"]["settings"] == first["settings"]
    assert both["skipped"] == first["skipped"]
    of_both, of_first = (
        {(r["game"], r["budget"], r["estimator"]): r["errors"] for r in run["records"]} for run in (both, first)
    )
    assert {key[1:] for key in of_both} == {key[1:] for key in of_first} | {(64, "Owen")}
    for key, errors in of_first.items():
        if key[1:] == (64, "random"):
            assert of_both[key] != errors
        else:
            assert of_both[key] == errors
    with pytest.raises(ValueError, match="earlier run on 3 seeds"):
        shapley.main(dataclasses.replace(again, seeds=3))


def test_a_race_without_ours():
    estimators = ("permutation", "SVARM", "random")
    results = shapley.main(shapley.Settings(kinds=("tiny",), budgets=(15, 64), seeds=2, estimators=estimators))
    cells = {(r["game"], r["budget"], r["estimator"]) for r in results["records"]}
    assert len(cells) == len(results["records"]) == 4 * (2 + 3)
    (left_out,) = results["skipped"]
    assert (left_out["budget"], left_out["estimator"]) == (15, "SVARM")
    assert "at least 20 evaluations" in left_out["reason"]
    shapley.show(results)
    for settings, message in (
        (shapley.Settings(kinds=("huge",)), "kinds among"),
        (shapley.Settings(estimators=("ours",)), "estimators among"),
        (shapley.Settings(peers="pandas"), "peers among shapiq, pydvl"),
        (shapley.Settings(workers=0), "workers to be an integer >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            shapley.main(settings)


@pytest.mark.slow
def test_workers_change_nothing():
    one, two = (
        shapley.main(
            shapley.Settings(
                kinds=("tiny",), budgets=(20,), seeds=2, estimators=("permutation", "Owen"), workers=workers
            )
        )["records"]
        for workers in (1, 2)
    )
    assert [record["errors"] for record in one] == [record["errors"] for record in two]
    assert all(len(record["errors"]) == 2 for record in one)


@pytest.mark.slow
def test_ours_and_what_it_tells_l1():
    game, key = side_by_side(shapley_games.tiny(0)), jax.random.key(5)
    names = ("jaxame", "KernelSHAP, L1")
    (_, mine, *_), (_, other, *_) = shapley_estimators.attribute(names, game, key, 64)
    kept = np.clip((mine.lasso_1se != 0).sum(axis=1), 1, 9)
    assert other.about["num_features"] == kept.tolist()
    assert mine.about["num_submodels"] == 62
    assert other.about["evaluations"] <= 64


def test_means_of_the_threshold_experiment(tmp_path):
    found = [
        {"estimator": name, "budget": budget, "seed": seed, "l2_error": error * (1 + seed), "seconds": 1.0}
        for name, error in (("jaxame", 1e-9), ("jaxame, linear", 0.01), ("Owen", 0.3))
        for budget in (1024, 2048)
        for seed in range(3)
    ]
    means = shapley_threshold.mean_errors(found)
    assert means["Owen"][2048] == pytest.approx((0.6, 0.3 / np.sqrt(3)))
    shapley_threshold.check(found)
    for ours in ("jaxame", "jaxame, linear"):
        swapped = {ours: "Owen", "Owen": ours}
        wrong = [record | {"estimator": swapped.get(record["estimator"], record["estimator"])} for record in found]
        with pytest.raises(SystemExit, match="not met"):
            shapley_threshold.check(wrong)
    shapley_threshold.draw({"records": found}, tmp_path / "figure.png")
    assert matplotlib.image.imread(tmp_path / "figure.png").std() > 0.05


def test_the_trigger_is_a_bright_square():
    marked = shapley_mnist._with_trigger(np.zeros((2, 28, 28)))
    assert marked.sum() == 2 * 25 * 2
    assert (marked[:, 22:27, 22:27] == 2).all()


def test_the_check_of_the_mnist_experiment_can_fail():
    good = [{"estimator": "jaxame", "squared_error": 0.1}, {"estimator": "permutation", "squared_error": 0.3}]
    shapley_mnist.check(good)
    with pytest.raises(SystemExit, match="not met"):
        shapley_mnist.check([good[0] | {"squared_error": 0.4}, good[1]])


def test_the_poisoned_digits_make_the_attack():
    try:
        game, poisoned = shapley_mnist.make_game(shapley_mnist.Settings())
    except FileNotFoundError:
        pytest.skip("mnist is not there")
    clean = ~np.isin(np.arange(game.num_sources), poisoned)
    everyone, without = np.asarray(game(KEYS[:2], np.stack([np.ones_like(clean), clean])))[:, 0]
    assert everyone > 0.7
    assert without < 0.3
    np.testing.assert_array_equal(game(KEYS[2:3], np.ones((1, clean.size), bool))[0], [everyone])  # no noise
