"""The cases of `benchmarks.submodels`: data, model, subsets, schedule, for a machine with or without a GPU."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.peers.common import Task
from jaxame import data
from jaxame.submodels import TrainingGame, cnn, logistic, mlp, resnet9

MODELS = ("logistic", "mlp", "cnn", "resnet9")


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One race.

    Attributes:
      task: what peers are given.
      model: ours, a factory for `TrainingGame`.
      optimizer: ours.
      num_steps: of ours; that of the peers unless they stop by themselves.
      batch_size: of ours, before any example is excluded: twice the examples of its own that a submodel sees.
      inclusion: lowest and highest inclusion probability of the subsets.
      penalty: what is added to the mean loss to make the objective, of the parameters.
      num_timed: submodels trained in one timing.
      compute_dtype: of ours.
      lowering: of the convolutions of ours; see `TrainingGame`.
    """

    task: Task
    model: Callable[..., Any]
    optimizer: optax.GradientTransformation
    num_steps: int
    batch_size: int
    inclusion: tuple[float, float]
    penalty: Callable[[Any], jax.Array]
    num_timed: int
    compute_dtype: Any = None
    lowering: str = "auto"

    def game(self, query: Callable, **changes: Any) -> TrainingGame:
        """Return our game on this case, with any argument of `TrainingGame` changed."""
        arguments: dict[str, Any] = {
            "query": query,
            "num_steps": self.num_steps,
            "batch_size": self.batch_size,
            "compute_dtype": self.compute_dtype,
            "lowering": self.lowering,
        }
        return TrainingGame(self.model, self.optimizer, self.task.x, self.task.y, **arguments | changes)

    def masks(self, key: jax.Array, num_submodels: int) -> np.ndarray:
        """Draw subsets, bool `[num_submodels, n]`."""
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        p = rng.uniform(*self.inclusion, (num_submodels, 1))
        return rng.random((num_submodels, len(self.task.x))) < p


def make_case(model: str, data_dir: str | None, *, has_gpu: bool) -> Case:
    """Return the case of one model.

    Args:
      model: one of `MODELS`.
      data_dir: see `jaxame.data`.
      has_gpu: whether to choose sizes for a GPU.
    """
    make = {"logistic": _logistic, "mlp": _mlp, "cnn": _cnn, "resnet9": _resnet9}[model]
    return make(data_dir, has_gpu)


def _logistic(data_dir: str | None, has_gpu: bool) -> Case:
    """MNIST with standardised pixels, as in scikit-learn's example on MNIST, which has this C and tolerance.

    Steps and rate were chosen on the subsets of another key, so that the objective is lower than scikit-learn's.
    """
    train = data.mnist("train", data_dir=data_dir).take(np.arange(1000))
    pixels = train.x.reshape(len(train), -1)
    spread = pixels.std(axis=0)
    x = (pixels - pixels.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    task = Task("logistic", x.astype(np.float32), train.y.astype(np.int64), 10)

    def kernel(params: Any) -> jax.Array:
        return params["layers"][0]["kernel"][...]

    def is_kernel(params: Any) -> Any:
        return jax.tree.map_with_path(lambda path, _: "kernel" in jax.tree_util.keystr(path), params)

    decay = optax.add_decayed_weights(1.0 / task.c_times_size, mask=is_kernel)
    return Case(
        task,
        logistic(784, 10),
        optax.chain(decay, optax.sgd(0.2, momentum=0.5)),
        num_steps=4,
        batch_size=250,
        inclusion=(0.05, 0.95),
        penalty=lambda params: jnp.sum(jnp.square(kernel(params))) / (2.0 * task.c_times_size),
        num_timed=65536 if has_gpu else 4096,
    )


def _mlp(data_dir: str | None, has_gpu: bool) -> Case:
    del data_dir
    digits = data.digits().take(np.arange(1000))
    task = Task("mlp", digits.x, digits.y.astype(np.int64), 10, hidden=(64,), num_steps=100, batch_size=125)
    return _stepwise(task, mlp((64, 64, 10)), num_timed=16384 if has_gpu else 512)


def _cnn(data_dir: str | None, has_gpu: bool) -> Case:
    """Fashion-MNIST, at the largest rate of .05, .02, .01, .005 that lets a difference of two per cent be seen.

    That is, 200 subsets give either side's mean objective to about half a per cent, by its spread over the subsets of
    another key. On MNIST no rate does: .05 takes the objective to .01, with an error of three per cent.
    """
    train = data.fashion_mnist("train", data_dir=data_dir).take(np.arange(1000))
    task = Task("cnn", train.x, train.y.astype(np.int64), 10, num_steps=100, batch_size=128, learning_rate=0.01)
    return _stepwise(task, cnn((28, 28), 10), num_timed=512 if has_gpu else 8)


def _resnet9(data_dir: str | None, has_gpu: bool) -> Case:
    train = data.cifar10("train", data_dir=data_dir).take(np.arange(5000 if has_gpu else 200))
    steps, batch = (50, 512) if has_gpu else (2, 16)
    y = train.y.astype(np.int64)
    task = Task("resnet9", train.x, y, 10, num_steps=steps, batch_size=batch, learning_rate=0.02)
    case = _stepwise(task, resnet9(10), num_timed=64 if has_gpu else 2)
    return dataclasses.replace(case, compute_dtype=jnp.bfloat16 if has_gpu else None)


def _stepwise(task: Task, model: Callable[..., Any], num_timed: int) -> Case:
    """Return a case in which both sides take the same steps of gradient descent with momentum; half is included."""

    def rate(step: jax.Array) -> jax.Array:
        return task.learning_rate * jnp.minimum(1.0, 2.0 * (1.0 - step / task.num_steps))

    return Case(
        task,
        model,
        optax.sgd(rate, momentum=task.momentum),
        num_steps=task.num_steps,
        batch_size=2 * task.batch_size,
        inclusion=(0.5, 0.5),
        penalty=lambda params: jnp.float32(0.0),
        num_timed=num_timed,
    )
