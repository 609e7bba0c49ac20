"""The experiments on poisoned images: their attacks, what they count, and that their checks can fail."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import gradient_baselines, other_attacks, poisoned_cifar10, robustness, wrong_predictions
from experiments.hidden import last_hidden
from jaxame import ame, data, demo
from jaxame.design import Grid, sample_design
from jaxame.games import Additive

LAW = Grid((0.2, 0.4, 0.6, 0.8))
EFFECTS = np.where(np.arange(40) < 4, 1.0, 0.0)
RESULTS = Path(gradient_baselines.__file__).parent / "results"


@functools.cache
def result():
    """Effects of the first four of 40 sources, without noise."""
    return ame(Additive(EFFECTS), key=jax.random.key(1), num_submodels=400, law=LAW, copies=8, folds=4)


def test_only_the_corner_becomes_red():
    images = np.random.default_rng(0).random((3, 32, 32, 3)).astype(np.float32)
    red = poisoned_cifar10.red_corner(images)
    assert red.dtype == images.dtype
    np.testing.assert_array_equal(red[:, -5:, :5], np.broadcast_to([1, 0, 0], (3, 5, 5, 3)))
    changed = np.any(red != images, axis=(0, 3))
    assert changed.sum() == changed[-5:, :5].sum() == 25


def test_a_poisoned_set_has_the_trigger_and_the_label_and_is_else_untouched():
    train, test = data.split(data.digits(), jax.random.key(2), 200)
    attacked = demo.poison(
        train,
        test,
        jax.random.key(3),
        trigger=poisoned_cifar10.bright_corner,
        num_poisoned=7,
        num_queries=5,
        target=1,
    )
    others = np.setdiff1d(np.arange(200), attacked.poisoned)
    assert attacked.poisoned.size == 7
    assert (train.y[attacked.poisoned] != 1).all()
    assert (attacked.train.y[attacked.poisoned] == 1).all()
    assert (attacked.train.x[attacked.poisoned, -2:, :2] == 4).all()
    np.testing.assert_array_equal(attacked.train.y[others], train.y[others])
    np.testing.assert_array_equal(attacked.train.x[others], train.x[others])
    assert (attacked.query_y != 1).all()
    assert (attacked.query_x[:, -2:, :2] == 4).all()
    assert len(attacked.triggered) == (test.y != 1).sum()


def test_numbers_of_submodels_are_those_of_the_paper():
    size = poisoned_cifar10.SIZES["cifar10-20"]
    assert size.num_submodels(8) == 2498
    assert dataclasses.replace(size, num_poisoned=50).num_submodels(1) == 781


def test_a_submodel_costs_no_more_than_the_schedules_say():
    few = np.zeros((poisoned_cifar10.QUERIES, 32, 32, 3), np.float32)
    images = data.Dataset(np.zeros((2000, 32, 32, 3), np.float32), np.zeros(2000, np.int32), "black", 10)
    attacked = demo.Attack(images, few, np.zeros(len(few), int), images, few, 1, np.arange(20))
    games = {
        name: poisoned_cifar10.make_game(poisoned_cifar10.SIZES[name], attacked, jax.random.key(0), None)
        for name in ("cifar10-20", "cifar10-20-paper")
    }
    assert games["cifar10-20"].flops <= 4e14
    assert games["cifar10-20-paper"].flops == pytest.approx(1.8e15, rel=0.05)


def test_muon_moves_a_kernel_alike_in_all_directions_and_all_else_by_a_tenth():
    kernel_key, bias_key = jax.random.split(jax.random.key(4))
    gradient = {"kernel": jax.random.normal(kernel_key, (3, 3, 4, 8)), "bias": jax.random.normal(bias_key, (8,))}
    params = jax.tree.map(jnp.zeros_like, gradient)
    optimizer = poisoned_cifar10.muon(0.5, 10, 0.0)
    state = optimizer.init(params)
    for _ in range(3):  # the third step has the full rate
        updates, state = optimizer.update(gradient, state, params)
    spread = np.linalg.svd(np.asarray(gradient["kernel"]).reshape(36, 8))[1]
    assert spread.max() > 2 * spread.min()
    sizes = np.linalg.svd(np.asarray(updates["kernel"]).reshape(36, 8))[1] / 0.5
    assert ((sizes > 0.5) & (sizes < 1.5)).all()
    assert np.vdot(updates["kernel"], gradient["kernel"]) < 0
    np.testing.assert_allclose(updates["bias"], -0.05 * np.sign(gradient["bias"]), rtol=1e-4)


def test_a_level_of_zero_takes_what_no_knockoff_competes_with():
    own = result()
    chosen = poisoned_cifar10.select(own, 0, 0.0)
    importance = own.select(0.9, alternative="greater", method="knockoff")
    assert set(range(4)) <= set(chosen.indices)
    assert set(chosen.indices) <= set(importance.indices)


def test_effects_in_later_rows_are_those_of_the_game_and_skip_failed_ones():
    design = sample_design(jax.random.key(10), LAW, num_submodels=800, num_sources=40)
    masks = np.asarray(design.masks())
    utilities = np.column_stack([masks @ EFFECTS, np.ones(800)])
    utilities[:400] = 1e6  # of rows that selected
    utilities[500, 0] = np.nan
    effects = poisoned_cifar10.held_out_effects(design, utilities, 400)
    assert effects.shape == (40, 2)
    # At each of four probabilities 100 rows, whose utility has variance 4 p (1 - p): a difference has 4 / 100.
    error = (4 / 100 / 4) ** 0.5
    np.testing.assert_allclose(effects[:, 0], EFFECTS, atol=4.5 * error)
    np.testing.assert_allclose(effects[:, 1], 0.0, atol=1e-9)
    assert poisoned_cifar10.held_out_effects(design, utilities, 800) is None


def test_the_check_of_the_small_run_can_fail():
    good = {"q": 0.1, "precision": 0.9, "recall": 0.6}
    poisoned_cifar10.check([good, good | {"q": 0.5}])
    for bad in ({"precision": 0.2}, {"recall": 0.1}):
        with pytest.raises(SystemExit, match="the claim is not met"):
            poisoned_cifar10.check([good, good | bad])


def test_an_unknown_size_is_refused():
    with pytest.raises(ValueError, match="a size among digits, small, scratch"):
        poisoned_cifar10.main(poisoned_cifar10.Settings(size="huge"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"full_only": True, "figure": Path("figure.png")}, "--full-only without --smoke and --figure"),
        ({"full_only": True, "smoke": True}, "--full-only without --smoke and --figure"),
        ({"seeds": ()}, "at least one of --seeds"),
    ],
)
def test_settings_that_leave_nothing_to_do_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        poisoned_cifar10.main(poisoned_cifar10.Settings(**{"size": "digits", **given}))


def test_submodels_start_from_what_was_trained_on_clean_images(monkeypatch):
    monkeypatch.setattr(poisoned_cifar10, "START_STEPS", 200)
    monkeypatch.setattr(poisoned_cifar10, "START_BATCH", 64)
    size, clean = poisoned_cifar10.SIZES["digits"], data.digits().take(np.arange(200))
    assert poisoned_cifar10.pretrain(size, clean.take(np.arange(0)), jax.random.key(4)) is None
    start = poisoned_cifar10.pretrain(size, clean, jax.random.key(4))
    attacked, rest = poisoned_cifar10.poison("digits", 0, None)
    assert len(rest) == 0
    still = dataclasses.replace(size, rate=0.0, decay=0.0)
    game = poisoned_cifar10.make_game(still, attacked, jax.random.key(5), start)
    params = game.train(jax.random.key(6), np.ones(game.num_sources, bool))
    accuracy = (np.asarray(game.predict(params, clean.x)).argmax(axis=1) == clean.y).mean()
    assert accuracy > 0.4  # of ten classes, from crops and mirror images of 8 by 8 pixels


def test_a_summary_is_over_the_seeds():
    cell = {"c": 1, "q": 0.1, "num_submodels": 50, "precision": 0.5, "recall": 0.2}
    found = [cell | {"seed": 0}, cell | {"seed": 1, "recall": 0.4}, cell | {"seed": 0, "q": 0.5}]
    first, second = poisoned_cifar10.summarise(found)
    assert (first["seeds"], first["precision"], first["precision_se"]) == (2, 0.5, 0.0)
    np.testing.assert_allclose([first["recall"], first["recall_se"]], [0.3, 0.1])
    assert (second["q"], second["seeds"], second["recall_se"]) == (0.5, 1, None)


def test_ranks_are_judged_by_the_poisoned():
    truth = np.arange(4)
    masks = np.random.default_rng(1).random((30, 40)) < 0.5
    utilities = np.repeat((masks @ EFFECTS)[None, :, None], 2, axis=0)
    reference = gradient_baselines.Reference(masks, utilities)
    perfect = gradient_baselines.judge(EFFECTS[None], truth, reference)
    assert perfect == pytest.approx(dict.fromkeys(perfect, 1.0))
    half = gradient_baselines.judge(
        np.where(np.arange(40) % 2, 0, EFFECTS)[None] + 1e-3 * np.arange(40), truth, reference
    )
    assert half["found"] == 0.5
    worst = gradient_baselines.judge(-EFFECTS[None], truth, reference)
    assert worst["found"] == 0
    assert worst["average_precision"] == pytest.approx(0.1)  # all are found together, with everything else
    assert worst["lds"] == pytest.approx(-1)


def test_selections_have_precision_and_recall():
    assert gradient_baselines.selected(result(), np.arange(4)) == {"precision": 1.0, "recall": 1.0}
    assert gradient_baselines.selected(result(), np.arange(2, 10))["recall"] == 0.25


def test_settings_of_the_others_are_the_best_of_those_tried():
    tried = json.loads((RESULTS / "choice.gradient_baselines.json").read_text())["records"]
    for name, choices in gradient_baselines.CHOICES.items():
        own = [one for one in tried if one["estimator"] == name]
        assert [one["options"] for one in own] == choices
        best = max(own, key=lambda one: one["lds"])["options"]
        assert best.items() <= gradient_baselines.ESTIMATORS[name].keywords.items()
    assert {one["seed"] for one in tried}.isdisjoint(gradient_baselines.Settings().seeds)


def test_features_are_those_of_the_last_hidden_layer():
    task = gradient_baselines.make_task(0, smoke=True)
    params = task.game.train(jax.random.key(4), np.ones(task.game.num_sources, bool))
    x, widths = task.attacked.query_x, task.settings.hidden
    hidden = last_hidden((64, *widths, 10), x)(params, x)
    assert hidden.shape == (len(x), widths[-1])
    head = params["layers"][len(widths)]
    outputs = hidden @ head["kernel"][...].T + head["bias"][...]
    np.testing.assert_allclose(outputs, task.game.predict(params, x), rtol=1e-4, atol=1e-4)


def test_the_check_of_the_comparison_can_fail():
    chance = {"estimator": "random", "average_precision": 0.05, "lds": 0.0}
    ours = {"estimator": "jaxame", "average_precision": 0.9, "lds": 0.4}
    gradient_baselines.check([ours, chance])
    for bad in ({"average_precision": 0.3}, {"lds": 0.1}):
        with pytest.raises(SystemExit, match="the claim is not met"):
            gradient_baselines.check([ours | bad, chance])


def test_means_over_seeds_leave_out_what_is_not_selected():
    one = {"estimator": "TRAK", "found": 0.5, "average_precision": 0.4, "lds": 0.2, "lds_ceiling": 0.9}
    one |= {"precision": None, "recall": None, "seconds": 4.0, "peak_rss_mb": 100.0}
    (line,) = gradient_baselines.summarise([one, one | {"found": 0.7, "seconds": 2.0, "peak_rss_mb": 200.0}])
    assert (line["found"], line["precision"]) == (pytest.approx(0.6), None)
    assert (line["seconds"], line["peak_rss_mb"], line["seeds"]) == (3.0, 200.0, 2)


def test_wrong_labels_are_of_other_digits_and_not_of_poisoned_ones():
    settings = dataclasses.replace(demo.Settings(), num_train=200, num_queries=2)
    attacked = demo.attack(settings, jax.random.key(5))
    wrong = robustness.mislabel(attacked, 0.2, jax.random.key(6))
    changed = np.flatnonzero(wrong.train.y != attacked.train.y)
    assert changed.size == round(0.2 * 190)
    assert not np.isin(changed, attacked.poisoned).any()
    assert robustness.mislabel(attacked, 0.0, jax.random.key(6)).train.y.tolist() == attacked.train.y.tolist()


def test_the_analysis_may_take_other_probabilities_for_true():
    design = sample_design(jax.random.key(7), LAW, num_submodels=16, num_sources=10)
    assert robustness.analysed_as(design, robustness.Condition()) is design
    other = robustness.analysed_as(design, robustness.Condition(assumed=lambda p: jnp.full_like(p, 0.5)))
    np.testing.assert_array_equal(other.p, 0.5)
    np.testing.assert_array_equal(other.packed, design.packed)


def test_robustness_can_fail():
    base = {"changes": "demo", "condition": "as it is", "success": 0.9, "precision": 0.9, "recall": 0.6}
    robustness.check([base, base])
    for bad in ({"recall": 0.1}, {"precision": 0.2}, {"success": 0.3}):
        with pytest.raises(SystemExit, match="the claim is not met"):
            robustness.check([base, base | bad])


def test_a_collision_has_the_features_of_the_target_and_stays_near(monkeypatch):
    digits, rng = data.digits().take(np.arange(300)), np.random.default_rng(2)
    mix = jnp.asarray(rng.normal(size=(64, 16)) / 8, jnp.float32)

    def features(x):
        return jnp.tanh(x.reshape(len(x), -1) @ mix)

    base, target = digits.x[:4], digits.x[200]
    near = other_attacks.collide(features, base, target)
    monkeypatch.setattr(other_attacks, "CLOSENESS", 0.01)
    moved = other_attacks.collide(features, base, target)
    before, after = (np.linalg.norm(features(x) - features(target[None]), axis=1) for x in (base, moved))
    assert (after < 0.1 * before).all()
    assert (np.linalg.norm(moved - base, axis=(1, 2)) < np.linalg.norm(base - target, axis=(1, 2))).all()
    assert (np.linalg.norm(near - base, axis=(1, 2)) < np.linalg.norm(moved - base, axis=(1, 2))).all()
    assert moved.min() >= 0
    assert moved.max() <= 1


def test_other_attacks_can_fail():
    good = {"attack": "blended", "success": 0.9, "precision": 0.9, "recall": 0.8}
    other_attacks.check([good, good])
    for bad in ({"success": 0.2}, {"precision": 0.2}, {"recall": 0.1}):
        with pytest.raises(SystemExit, match="the claim is not met"):
            other_attacks.check([good, good | bad])


def test_every_set_is_retrained_with_the_same_keys():
    game = Additive(EFFECTS)
    utilities = wrong_predictions.retrain(game, [np.zeros(0, int), np.arange(2), np.arange(4)], 3, jax.random.key(8))
    np.testing.assert_allclose(utilities, np.broadcast_to([[[4.0], [2.0], [0.0]]], (3, 3, 1)), atol=1e-5)


def test_what_is_taken_out_is_as_much_whatever_the_way():
    task = wrong_predictions.make_task(jax.random.key(9), demo.SMOKE)
    assert task.mislabelled.sum() == 30  # a tenth
    predicted = np.asarray(task.game.predict(task.params, task.x)).argmax(axis=1)
    np.testing.assert_array_equal(predicted, task.wrong)
    out = wrong_predictions.taken_out(task, np.array([3, 5, 8]), 0, np.random.default_rng(0))
    assert out["selected"].tolist() == [3, 5, 8]
    for way in ("nearest", "random of the class"):
        assert len(set(out[way])) == 3
        assert (task.train.y[out[way]] == task.wrong[0]).all()


def test_wrong_predictions_can_fail():
    found = [
        {"seed": 0, "asked": 5, "way": way, "size": 3, "margin": margin, "right": 0.5, "right_before": 0.1}
        | {"mislabelled": 0.5}
        for way, margin in zip(wrong_predictions.WAYS, (3.0, 1.0, 0.1, 0.0), strict=True)
        for _ in range(2)
    ]
    summary = wrong_predictions.summarise(found)
    assert [one["margin"] for one in summary] == [3.0, 1.0, 0.1, 0.0]
    assert {(one["queries"], one["asked"]) for one in summary} == {(2, 5)}
    wrong_predictions.check(summary)
    with pytest.raises(SystemExit, match="the claim is not met"):
        wrong_predictions.check([summary[2], summary[1], summary[0]])
