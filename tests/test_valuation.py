"""The experiment on data valuation: its tasks, what it counts, its small run, and that its check can fail."""

import jax
import numpy as np
import pytest

from benchmarks import shapley_estimators
from experiments import valuation
from jaxame import data, metrics
from jaxame.games import Additive

EFFECTS = np.where(np.arange(20) < 4, -1.0, 1.0) * np.linspace(1, 2, 20)
TASK = valuation.Task(Additive(EFFECTS), None, EFFECTS < 0)
LINE = {
    "data": "digits",
    "estimator": "jaxame",
    "mislabel_auc": 0.9,
    "lds": 0.8,
    "lds_ceiling": 0.9,
    "removal_gap": 0.1,
}


def of_curves(values):
    return valuation.gaps(valuation.curves(values, TASK.game, 1, jax.random.key(0)))


def test_a_tenth_of_the_labels_is_wrong():
    key = jax.random.key(1)
    task = valuation.make_task("breast cancer", 60, key)
    clean, test = data.split(valuation.breast_cancer(), jax.random.split(key, 3)[0], 60)
    np.testing.assert_array_equal(task.game.data.y != clean.y, task.mislabelled)
    assert task.mislabelled.sum() == 6
    np.testing.assert_allclose(task.game.data.x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(task.game.data.x.std(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(task.test.y, test.y[: valuation.NUM_TEST])
    keys, masks = jax.random.split(key, 2), np.stack([np.zeros(60, bool), ~task.mislabelled])
    untrained, trained = task.game(keys, masks)[:, 0]
    assert untrained == pytest.approx(0.5)  # of two classes, by a model that starts from zero
    assert 0.85 < trained < 1
    np.testing.assert_array_equal(task.game(keys[::-1], masks), task.game(keys, masks))  # no noise


def test_digits_get_another_class():
    task = valuation.make_task("digits", 50, jax.random.key(2))
    clean = data.split(data.digits(), jax.random.split(jax.random.key(2), 3)[0], 50)[0]
    np.testing.assert_array_equal(task.game.data.y != clean.y, task.mislabelled)
    assert task.mislabelled.sum() == 5


def test_true_values_are_judged_perfect():
    settings = valuation.Settings(masks=50, mask_repeats=2, loo_repeats=2)
    reference = valuation.refer(TASK.game, settings, jax.random.key(3))
    assert reference.utilities.shape == (2, 50, 1)
    found = valuation.judge(EFFECTS[None], TASK, reference)
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=1e-3)  # utilities are float32
    opposite = valuation.judge(-EFFECTS[None], TASK, reference)
    assert opposite["mislabel_auc"] == 0
    assert opposite["lds"] == pytest.approx(-1, abs=1e-3)
    assert opposite["loo_correlation"] == pytest.approx(-1, abs=1e-3)


def test_gaps_are_those_of_an_additive_game():
    counts = np.rint(20 * np.array(metrics.FRACTIONS)).astype(int)
    ordered = np.sort(EFFECTS)
    expected = np.mean([ordered[20 - count :].sum() - ordered[:count].sum() for count in counts])
    assert of_curves(EFFECTS[None]) == pytest.approx({"removal_gap": expected, "addition_gap": expected})
    assert of_curves(-EFFECTS[None]) == pytest.approx({"removal_gap": -expected, "addition_gap": -expected})


def test_every_estimator_has_a_name_and_those_shown_a_colour():
    assert {*valuation.ESTIMATORS, shapley_estimators.WITH_L1} == set(valuation.NAMES)
    assert set(valuation.SHOWN) <= set(valuation.NAMES)
    assert len(valuation.SHOWN) == len(set(valuation._COLOURS))


def test_means_and_their_errors_are_over_seeds():
    names = (*valuation.METRICS, *valuation.CEILINGS.values(), "seconds")
    found = [
        {"data": "digits", "estimator": "jaxame", "budget": 9, "seed": seed} | dict.fromkeys(names, value)
        for seed, value in enumerate((0.5, 0.7))
    ]
    mean, single = valuation.summarise([*found, found[0] | {"data": "breast cancer"}])
    assert (mean["lds"], mean["lds_se"], mean["seeds"]) == (pytest.approx(0.6), pytest.approx(0.1), 2)
    assert (single["lds"], single["lds_se"], single["seeds"]) == (0.5, None, 1)


def test_the_check_can_fail():
    chance = LINE | {"estimator": "random", "mislabel_auc": 0.5, "lds": 0.0, "removal_gap": 0.0}
    valuation.check([LINE, chance, chance | {"estimator": "Banzhaf"}])
    for bad in ({"mislabel_auc": 0.5}, {"lds": 0.1}, {"removal_gap": -0.1}, {"lds_ceiling": 0.5}):
        with pytest.raises(SystemExit, match="the claim is not met"):
            valuation.check([LINE | bad, chance])
    with pytest.raises(SystemExit, match="the claim is not met"):
        valuation.check([LINE, chance | {"lds": 0.7}])
