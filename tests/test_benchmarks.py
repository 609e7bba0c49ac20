"""The benchmark of submodels measures what it says, at a tiny size; and its count of operations is right."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks import cases, submodels
from benchmarks.peers.common import cross_entropy, learning_rates
from jaxame.submodels import as_model, cnn, mlp
from jaxame.submodels.flops import flops_per_example, matrix_flops
from jaxame.submodels.training import Recipe

STEPS, FRESH = 5, 6


@pytest.fixture(scope="module")
def case():
    full = cases.make_case("mlp", None, has_gpu=False)
    task = dataclasses.replace(full.task, num_steps=STEPS)
    return dataclasses.replace(full, task=task, num_steps=STEPS, num_timed=32)


@pytest.fixture(scope="module")
def results(case):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(submodels, "make_case", lambda *_, **__: case)
        patch.setattr(submodels.cli, "use_all_cores", lambda: None)
        patch.setitem(submodels._PEAK_SIDE, "cpu", 256)
        return submodels.main(submodels.Settings(model="mlp", repeats=2, num_fresh=FRESH))


def test_every_solver_has_a_rate_and_an_objective(results):
    records = {record["solver"]: record for record in results["records"]}
    assert set(records) == {"jaxame", "jaxame-masked", "jaxame-loop"}
    for record in records.values():
        assert record["submodels_per_second"] == pytest.approx(record["num_submodels"] / np.median(record["seconds"]))
        assert len(record["seconds"]) == 2
        assert 0 < record["objective_se"] < record["objective"]
        assert record["fraction_of_peak"] == pytest.approx(
            record["flops_per_second"] / results["peak_flops_per_second"]
        )
    assert records["jaxame"]["flops_per_submodel"] == STEPS * 125 * FLOPS_MLP
    assert records["jaxame-masked"]["flops_per_submodel"] == STEPS * 250 * FLOPS_MLP


def test_a_large_batch_of_one_model_is_a_mark_to_reach(case):
    assert submodels._unbatched(case)() > 0


def test_an_unknown_peer_is_refused():
    with pytest.raises(ValueError, match=r"peers among sklearn, torch.*got 'sklearn,jax'"):
        submodels.main(submodels.Settings(peers="sklearn,jax"))


def test_the_objective_is_that_of_the_trained_submodels(case, results):
    keys, masks = submodels._rows(submodels._FRESH_SEED, case, FRESH)
    game = case.game(lambda apply, params: jnp.zeros(1), feed="gathered")
    x, y = case.task.x, case.task.y
    expected = np.mean(
        [cross_entropy(game.predict(game.train(k, m), x[m]), y[m]) for k, m in zip(keys, masks, strict=True)]
    )
    found = next(record["objective"] for record in results["records"] if record["solver"] == "jaxame")
    assert found == pytest.approx(expected, rel=1e-3)


def test_both_sides_have_the_same_schedule():
    case = cases.make_case("mlp", None, has_gpu=False)
    state = case.optimizer.init(jnp.zeros(()))
    step = jax.jit(case.optimizer.update)
    momentum, rates = 0.0, []
    for _ in range(case.num_steps):
        update, state = step(jnp.ones(()), state)
        momentum = case.task.momentum * momentum + 1.0
        rates.append(-float(update) / momentum)
    np.testing.assert_allclose(rates, learning_rates(case.task), atol=1e-6)


# Operations. No slope is taken with respect to the inputs, so the first layer costs two products and others three.

FLOPS_MLP = 2 * (2 * 64 * 64 + 3 * 64 * 10)
FLOPS_CNN = 2 * (2 * 64 * 9 * 1 * 4 + 3 * 16 * 9 * 4 * 8 + 3 * 32 * 10)


@pytest.mark.parametrize(
    ("model", "lowering", "expected"),
    [
        (mlp((64, 64, 10)), "native", FLOPS_MLP),
        (cnn((8, 8), 10, (4, 8)), "native", FLOPS_CNN),
        (cnn((8, 8), 10, (4, 8)), "patches", FLOPS_CNN),
    ],
)
def test_operations_of_an_example(model, lowering, expected):
    x, y = np.zeros((3, 8, 8), np.float32), np.zeros(3, np.int32)
    loss = optax.softmax_cross_entropy_with_integer_labels
    recipe = Recipe(as_model(model, x, lowering=lowering), optax.sgd(1.0), loss, num_steps=1, batch_size=2)
    assert flops_per_example(recipe, x, y) == expected


def test_operations_in_loops_count_each_time():
    def repeated(a):
        return jax.lax.scan(lambda carry, _: (jax.jit(jnp.matmul)(carry, a), None), a, None, length=7)[0]

    assert matrix_flops(jax.make_jaxpr(repeated)(np.zeros((3, 3))).jaxpr) == 7 * 2 * 27
