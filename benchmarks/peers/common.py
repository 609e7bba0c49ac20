"""What every peer shares: the task, its schedule, batches and objective in plain NumPy, and the form of a peer."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from scipy import special

Setting = dict[str, Any]
"""One way to run a peer, as it goes into the JSON; `processes` and `threads` (per process) are always there."""

_TRUNCATED_STD = 0.87962566103423978  # standard deviation of a standard normal truncated at +-2


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What each submodel is trained to do; plain NumPy, so that worker processes can receive it.

    Attributes:
      model: "logistic", "mlp", "cnn" or "resnet9".
      x: float32 `[n, ...]`; images are `[n, H, W]` or `[n, H, W, 3]`.
      y: int64 `[n]`, in `0 .. num_classes - 1`.
      num_classes: number of classes.
      hidden: widths of the hidden layers; mlp only.
      num_steps: optimiser steps of a submodel; not for logistic, nor are the next three.
      batch_size: examples of its own that a submodel sees per step.
      learning_rate: its peak; see `learning_rates`.
      momentum: heavy ball, as in torch.optim.SGD and optax.sgd.
      c_times_size: scikit-learn's `C` times the size of the subset; logistic only; see `logistic_objective`.
      tol: scikit-learn's stopping rule, on the largest entry of the gradient of that objective; logistic only.
    """

    model: str
    x: np.ndarray
    y: np.ndarray
    num_classes: int
    hidden: tuple[int, ...] = ()
    num_steps: int = 100
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    c_times_size: float = 50.0
    tol: float = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Trainable:
    """A share of the submodels, warmed up and ready to be trained.

    Attributes:
      train: trains all of them from their initial parameters; this is what is timed. May be called again.
      objectives: float64 `[m]`, the final objective of each (nats); call it after `train`.
    """

    train: Callable[[], None]
    objectives: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What one setting of a peer came to.

    Attributes:
      setting: the setting.
      seconds: `[repeats]` wall-clock times to train all submodels, without process start, imports and warm-up.
      objectives: float64 `[m]`, the final objective of each submodel (nats).
      error: why there is nothing above, or empty.
    """

    setting: Setting
    seconds: tuple[float, ...] = ()
    objectives: np.ndarray | None = None
    error: str = ""


class Peer(Protocol):
    """A module of this package."""

    def missing(self, task: Task) -> str:
        """Return why this peer cannot run here or has no solver for the task, or an empty string."""

    def version(self) -> str:
        """Return the version of the library."""

    def settings(self, task: Task) -> list[Setting]:
        """Return the settings to try."""

    def run(self, task: Task, masks: np.ndarray, seeds: np.ndarray, setting: Setting, repeats: int = 1) -> Outcome:
        """Train one submodel per row of masks bool `[m, n]`, with seeds int `[m]`, not negative, `repeats` times.

        Raises:
          workers.WorkerError: if a worker process failed; the text is the worker's traceback.
        """


def learning_rates(task: Task) -> np.ndarray:
    """Return the learning rate of every step, float64 `[num_steps]`: constant for half of them, then linear to 0."""
    return task.learning_rate * np.minimum(1.0, 2.0 * (1.0 - np.arange(task.num_steps) / task.num_steps))


def batch_indices(mask: np.ndarray, seed: int, num_steps: int, batch_size: int) -> np.ndarray:
    """Draw the batches of one submodel from its own examples only.

    Args:
      mask: bool `[n]`, the examples that are in.
      seed: of this submodel.
      num_steps: `T`.
      batch_size: `B`.

    Returns:
      int32 `[T, B]`: one shuffle of the subset after the other, or draws with replacement where it is smaller than `B`.

    Raises:
      ValueError: if no example is in.
    """
    members = np.flatnonzero(mask).astype(np.int32)
    if not len(members):
        raise ValueError("needs a subset with at least one example; got an empty one")
    rng = np.random.default_rng([0, seed])
    total = num_steps * batch_size
    if len(members) < batch_size:
        return rng.choice(members, (num_steps, batch_size))
    epochs = [rng.permutation(members) for _ in range(-(-total // len(members)))]
    return np.concatenate(epochs)[:total].reshape(num_steps, batch_size)


def lecun_normal(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    """Draw float32 weights from the normal law truncated at two deviations, with variance `1 / fan_in` (as in Flax)."""
    tail = special.ndtr(-2.0)
    return (special.ndtri(rng.uniform(tail, 1.0 - tail, shape)) / (_TRUNCATED_STD * fan_in**0.5)).astype(np.float32)


def cross_entropy(logits: np.ndarray, y: np.ndarray) -> float:
    """Return the mean cross-entropy, in nats and float64, of logits `[n, C]` for labels int `[n]`."""
    logits = np.asarray(logits, np.float64)
    return float(np.mean(special.logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]))


def logistic_objective(
    W: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray, mask: np.ndarray, c_times_size: float = 50.0
) -> float:
    r"""Return the objective of multinomial logistic regression on one subset, computed in float64.

        J(W, b) = mean over the subset of the cross-entropy  +  ||W||^2 / (2 c_times_size),      (1)

    which is scikit-learn's `C sum of losses + ||W||^2 / 2` divided by `c_times_size = C |subset|`. The intercept is not
    penalised.

    Args:
      W: `[C, F]` weights.
      b: `[C]` intercepts.
      x: `[n, ...]` inputs of `F` features.
      y: int `[n]` labels.
      mask: bool `[n]`, the subset.
      c_times_size: `C` times the size of the subset.
    """
    W = np.asarray(W, np.float64)
    logits = x[mask].reshape(mask.sum(), -1).astype(np.float64) @ W.T + np.asarray(b, np.float64)
    return cross_entropy(logits, y[mask]) + float((W**2).sum()) / (2.0 * c_times_size)


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def layouts() -> list[Setting]:
    """Return every way to spread over the cores that is tried, the one that is usually fastest first.

    One process per core, one process with all cores, one with a single core, and from four cores on two threads for
    each process.
    """
    c = cores()
    pairs = [(c, 1), (1, c), (1, 1), *([(c // 2, 2)] if c >= 4 else [])]
    return [{"processes": p, "threads": t} for p, t in dict.fromkeys(pairs)]


def attempt(
    peer: Peer, task: Task, masks: np.ndarray, seeds: np.ndarray, setting: Setting, repeats: int = 1
) -> Outcome:
    """Run one setting of a peer; one that does not work here (no compiler, no memory) is an outcome with its error."""
    from benchmarks.peers.workers import WorkerError

    try:
        return peer.run(task, masks, seeds, setting, repeats)
    except WorkerError as error:
        return Outcome(setting, error=str(error))
