"""The peers of the benchmark: what they are asked to do is what they do; the torch tests need PyTorch."""

import dataclasses
import os
import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from benchmarks.peers import common, sklearn_peer, torch_peer, workers
from benchmarks.peers.common import Task, Trainable

RNG = np.random.default_rng(0)
CLASSES = 3
LOOP = {"processes": 1, "threads": 1, "variant": "loop"}


def task_of(model, shape, n=40, **others):
    """Return a task whose labels depend on the inputs."""
    x = RNG.normal(size=(n, *shape)).astype(np.float32)
    y = x.reshape(n, -1)[:, :CLASSES].argmax(axis=1).astype(np.int64)
    return Task(model, x, y, CLASSES, **others)


LOGISTIC = task_of("logistic", (5,), n=120)
STEPS = {"num_steps": 6, "batch_size": 8, "learning_rate": 0.05}
TASKS = {
    "mlp": task_of("mlp", (3, 4), hidden=(8, 6), **STEPS),
    "cnn": task_of("cnn", (8, 8), **STEPS),
    "cnn, colours": task_of("cnn", (8, 8, 3), **STEPS),
    "resnet9": task_of("resnet9", (8, 8, 3), **STEPS | {"num_steps": 2, "batch_size": 4}),
}


def subsets(n, m=3, p=0.5):
    """Return masks and seeds of `m` subsets."""
    return np.random.default_rng(1).random((m, n)) < p, np.arange(m) + 7


@pytest.mark.parametrize("present", [[0, 2], [0, 1, 3]])
def test_a_subset_may_lack_a_class(present):
    x = RNG.normal(size=(80, 5)).astype(np.float32)
    task = Task("logistic", x, x[:, :4].argmax(axis=1).astype(np.int64), 4, tol=1e-6)
    mask = np.isin(task.y, present)
    ready = sklearn_peer.prepare(task, mask[None], np.zeros(1, int), {"dtype": "float64"})
    ready.train()
    model = LogisticRegression(C=50.0 / mask.sum(), tol=1e-6).fit(x[mask], task.y[mask])
    loss = log_loss(task.y[mask], model.predict_proba(x[mask]))
    np.testing.assert_allclose(ready.objectives(), [loss + (model.coef_**2).sum() / 100], rtol=1e-4)


def test_learning_rates():
    task = dataclasses.replace(LOGISTIC, num_steps=8, learning_rate=0.2)
    expected = 0.2 * np.array([1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    np.testing.assert_allclose(common.learning_rates(task), expected, rtol=1e-12)


def test_batches_are_epochs_of_own_examples():
    mask = np.arange(50) % 5 < 2  # 20 examples
    rows = common.batch_indices(mask, seed=3, num_steps=10, batch_size=8)
    assert rows.shape == (10, 8)
    assert rows.dtype == np.int32
    epochs = rows.reshape(4, 20)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.flatnonzero(mask), (4, 1)))
    assert (epochs[0] != epochs[1]).any()


def test_batches_depend_on_seed_only():
    mask = np.arange(50) < 20
    draws = [common.batch_indices(mask, seed, 10, 8) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_batches_of_a_small_subset_are_drawn_with_replacement():
    mask = np.arange(50) < 3
    rows = common.batch_indices(mask, seed=3, num_steps=200, batch_size=8)
    counts = np.bincount(rows.ravel(), minlength=50)
    assert counts[3:].sum() == 0
    # binomial with 1600 draws at 1/3: five standard deviations
    np.testing.assert_allclose(counts[:3], 1600 / 3, atol=5 * (1600 * 2 / 9) ** 0.5)


def test_empty_subset_is_refused():
    with pytest.raises(ValueError, match="at least one example"):
        common.batch_indices(np.zeros(5, bool), 0, 2, 2)


def test_lecun_normal():
    draws = common.lecun_normal(np.random.default_rng(0), (100_000,), fan_in=16)
    assert draws.dtype == np.float32
    assert abs(draws).max() <= 2 / 0.8796 / 4
    np.testing.assert_allclose(draws.std(), 0.25, rtol=0.01)
    np.testing.assert_allclose(draws.mean(), 0.0, atol=5 * 0.25 / 100_000**0.5)


def test_cross_entropy_of_equal_logits():
    np.testing.assert_allclose(common.cross_entropy(np.full((4, 8), 1e3), np.arange(4)), np.log(8), rtol=1e-12)


def test_logistic_objective_is_minimal_where_scikit_learn_stops():
    """The gradient of the objective, by central differences in float64, vanishes at a tight tolerance."""
    task = dataclasses.replace(LOGISTIC, tol=1e-10)
    mask = subsets(120)[0][0]
    ready = sklearn_peer.prepare(task, mask[None], np.zeros(1), {"processes": 1, "threads": 1, "dtype": "float64"})
    ready.train()
    W, b = fitted(task, mask)

    def objective(flat):
        return common.logistic_objective(flat[:-CLASSES].reshape(W.shape), flat[-CLASSES:], task.x, task.y, mask)

    flat = np.concatenate([W.ravel(), b])
    np.testing.assert_allclose(ready.objectives(), [objective(flat)], rtol=1e-9)
    steps = 1e-5 * np.eye(len(flat))
    gradient = [(objective(flat + step) - objective(flat - step)) / 2e-5 for step in steps]
    np.testing.assert_allclose(gradient, 0.0, atol=1e-7)
    assert abs(objective(flat + 0.1) - objective(flat)) > 1e-4


def fitted(task, mask):
    """Return the weights of a fit that does not go through the peer."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=50 / mask.sum(), tol=1e-10, max_iter=1000)
    model.fit(task.x[mask].astype(float), task.y[mask])
    return model.coef_, model.intercept_


def test_scikit_learn_in_processes():
    masks, seeds = subsets(120)
    setting = {"processes": 2, "threads": 1, "dtype": "float32"}
    outcome = sklearn_peer.run(dataclasses.replace(LOGISTIC, tol=1e-5), masks, seeds, setting, repeats=2)
    assert len(outcome.seconds) == 2
    assert min(outcome.seconds) > 0
    expected = [common.logistic_objective(*fitted(LOGISTIC, mask), LOGISTIC.x, LOGISTIC.y, mask) for mask in masks]
    np.testing.assert_allclose(outcome.objectives, expected, rtol=1e-5)


def sleepy(task, masks, seeds, setting):
    """Stand in for a peer: seconds of preparation that must not count, objectives that show what was received."""
    assert os.environ["OMP_NUM_THREADS"] == str(setting["threads"])
    if setting.get("fail"):
        raise ValueError("no compiler")
    time.sleep(0.5 * seeds[0])
    return Trainable(lambda: time.sleep(0.1), lambda: seeds + masks.sum(axis=1) * 0.5)


def test_only_training_is_timed_and_the_order_is_kept():
    before = dict(os.environ)
    masks = np.arange(6).reshape(3, 2) > 2
    outcome = workers.race(sleepy, LOGISTIC, masks, np.arange(3), {"processes": 2, "threads": 3})
    assert dict(os.environ) == before
    assert 0.1 <= outcome.seconds[0] < 0.5
    np.testing.assert_array_equal(outcome.objectives, [0.0, 1.5, 3.0])


def test_a_setting_that_fails_is_an_outcome():
    @dataclasses.dataclass
    class Failing:
        def run(self, *args):
            return workers.race(sleepy, *args)

    setting = {"processes": 1, "threads": 1, "fail": True}
    outcome = common.attempt(Failing(), LOGISTIC, *subsets(120), setting)
    assert outcome.seconds == ()
    assert outcome.objectives is None
    assert outcome.error.endswith("ValueError: no compiler\n")


def test_layouts_use_every_core(monkeypatch):
    monkeypatch.setattr(common, "cores", lambda: 4)
    assert [(each["processes"], each["threads"]) for each in common.layouts()] == [(4, 1), (1, 4), (1, 1), (2, 2)]
    monkeypatch.setattr(common, "cores", lambda: 1)
    assert [(each["processes"], each["threads"]) for each in common.layouts()] == [(1, 1)]


def test_peers_say_what_they_cannot_do():
    assert sklearn_peer.missing(LOGISTIC) == ""
    assert "no mlp" in sklearn_peer.missing(TASKS["mlp"])
    assert "scikit-learn" in torch_peer.missing(LOGISTIC)


def losses(task, setting):
    """Train three submodels in this process."""
    ready = torch_peer.prepare(task, *subsets(len(task.x)), setting)
    ready.train()
    return ready.objectives()


@pytest.mark.parametrize("name", TASKS)
def test_torch_variants_agree(name, monkeypatch):
    pytest.importorskip("torch")
    from benchmarks.peers import torch_models

    monkeypatch.setattr(torch_models, "_RESNET9", (16, 16, 32, 48))
    task = TASKS[name]
    reference = losses(task, LOOP)
    tried = [LOOP | {"variant": variant, "stack": 2} for variant in ("stack", "vmap")]
    tried += [LOOP | {"channels_last": True}] if name != "mlp" else []
    for setting in tried:
        np.testing.assert_allclose(losses(task, setting), reference, rtol=1e-4, err_msg=str(setting))
    assert np.ptp(reference) > 1e-3


def test_torch_agrees_with_the_optimiser_of_torch():
    """Modules and `torch.optim.SGD`, from the same parameters and batches, come to the same objective."""
    torch = pytest.importorskip("torch")
    from benchmarks.peers import torch_models

    task = TASKS["mlp"]
    masks, seeds = subsets(len(task.x))
    model = torch.nn.Sequential(torch.nn.Flatten())
    for inputs, outputs in ((12, 8), (8, 6), (6, CLASSES)):
        model.extend([torch.nn.Linear(inputs, outputs), torch.nn.ReLU()])
    model = model[:-1]
    for parameter, value in zip(model.parameters(), torch_models.initial(task, seeds[0]), strict=True):
        parameter.data = torch.tensor(value)
    optimiser = torch.optim.SGD(model.parameters(), momentum=task.momentum)
    rows = common.batch_indices(masks[0], seeds[0], task.num_steps, task.batch_size)
    for batch, rate in zip(rows, common.learning_rates(task), strict=True):
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.tensor(task.x[batch])), torch.tensor(task.y[batch])).backward()
        optimiser.step()
    logits = model(torch.tensor(task.x[masks[0]])).detach().numpy()
    np.testing.assert_allclose(losses(task, LOOP)[0], common.cross_entropy(logits, task.y[masks[0]]), rtol=1e-5)


def test_torch_learns():
    pytest.importorskip("torch")
    task = dataclasses.replace(TASKS["mlp"], num_steps=100)
    assert losses(task, LOOP).max() < 0.2


def test_torch_resnet9_has_the_size_of_its_original():
    pytest.importorskip("torch")
    from benchmarks.peers import torch_models

    task = dataclasses.replace(TASKS["resnet9"], num_classes=10)
    assert 6.5e6 < sum(array.size for array in torch_models.initial(task, 0)) < 6.6e6


def test_torch_settings():
    """Every setting is there once, with its layout, and every variant is tried."""
    pytest.importorskip("torch")
    for task in TASKS.values():
        tried = torch_peer.settings(task)
        assert len(tried) == len({str(setting) for setting in tried})
        assert {setting["variant"] for setting in tried} == {"loop", "stack", "vmap"}
        assert all({"processes", "threads"} <= setting.keys() for setting in tried)


def test_torch_in_a_process():
    pytest.importorskip("torch")
    task = TASKS["mlp"]
    outcome = torch_peer.run(task, *subsets(len(task.x)), LOOP)
    np.testing.assert_allclose(outcome.objectives, losses(task, LOOP), rtol=1e-5)
