"""Queries: what is measured on a submodel, `query(apply, params) -> [Q]`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxame import checks

Measure = Callable[[jax.Array, jax.Array], jax.Array]
"""Outputs `[n, C]` and labels `[n]` to values `[Q]`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
    """Behaviours of a classifier on labelled points; one forward pass serves them all.

    Attributes:
      x: float32 `[n, ...]` inputs.
      labels: int32 `[n]`, the class each point is asked about.
      measure: outputs `[n, C]` and labels `[n]` to values `[Q]`.
      names: a name for each of the `Q` values.
      unit: what a value counts.
    """

    x: np.ndarray
    labels: np.ndarray
    measure: Measure
    names: list[str]
    unit: str

    @property
    def num_queries(self) -> int:
        """`Q`, the number of values."""
        return len(self.names)

    def __call__(self, apply: Callable[[Any, jax.Array], jax.Array], params: Any) -> jax.Array:
        """Return the values `[Q]` of the model `apply` with parameters `params`.

        Raises:
          ValueError: if a label is not a class of the model's outputs `[n, C]`.
        """
        outputs = apply(params, jnp.asarray(self.x))
        top, num_classes = self.labels.max(), outputs.shape[-1]
        checks.require(top < num_classes, f"query labels from 0 to {num_classes - 1}", f"label {top}")
        return self.measure(outputs, jnp.asarray(self.labels))


def logit_margin(x: Any, labels: Any) -> Query:
    """Query each point's logit margin: the logit of its label minus the largest other logit.

    Args:
      x: float `[Q, ...]` points.
      labels: int `[Q]`, the class asked about, not necessarily the true one.

    Raises:
      ValueError: if `x` and `labels` do not fit together or are not finite floats and classes.
    """

    def measure(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        is_label = jax.nn.one_hot(labels, outputs.shape[-1], dtype=bool)
        others = jnp.where(is_label, -jnp.inf, outputs)
        return _of_label(outputs, labels) - jnp.max(others, axis=-1)

    return _per_point(x, labels, measure, "logit margin")


def probability(x: Any, labels: Any) -> Query:
    """Query the probability each point's label is given; arguments and errors as for `logit_margin`."""

    def measure(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        return _of_label(jax.nn.softmax(outputs), labels)

    return _per_point(x, labels, measure, "probability")


def correctness(x: Any, labels: Any) -> Query:
    """Query whether each point is put in its label's class, 1 or 0; arguments and errors as for `logit_margin`."""
    return _per_point(x, labels, _is_correct, "correctness")


def accuracy(x: Any, labels: Any) -> Query:
    """Query the share of points that are put in their label's class, one value.

    Args:
      x: float `[n, ...]` points of the set.
      labels: int `[n]`, their classes.

    Raises:
      ValueError: if `x` and `labels` do not fit together or are not finite floats and classes.
    """
    return _on_set(x, labels, lambda outputs, labels: jnp.mean(_is_correct(outputs, labels)), "accuracy")


def mean_loss(x: Any, labels: Any) -> Query:
    """Query the mean cross-entropy on a set, in nats, one value; arguments and errors as for `accuracy`."""

    def measure(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels))

    return _on_set(x, labels, measure, "mean cross-entropy in nats")


def _of_label(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Pick the entry of each row's label, `[n]`."""
    return jnp.take_along_axis(outputs, labels[:, None], axis=-1)[:, 0]


def _is_correct(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """1 where the largest output is the label's, `[n]`; NaN where the outputs are."""
    is_correct = (jnp.argmax(outputs, axis=-1) == labels).astype(outputs.dtype)
    return jnp.where(jnp.any(jnp.isnan(outputs), axis=-1), jnp.nan, is_correct)


def _per_point(x: Any, labels: Any, measure: Measure, quantity: str) -> Query:
    """Build a query with one value per point."""
    x, labels = _checked_points(x, labels)
    classes = sorted(set(labels.tolist()))
    unit = f"{quantity} of class {classes[0]}" if len(classes) == 1 else f"{quantity} of each point's label"
    names = [f"{quantity} of class {label} on point {q}" for q, label in enumerate(labels)]
    return Query(x, labels, measure, names, unit)


def _on_set(x: Any, labels: Any, measure: Measure, quantity: str) -> Query:
    """Build a query with one value for the whole set."""
    x, labels = _checked_points(x, labels)

    def one_value(outputs: jax.Array, labels: jax.Array) -> jax.Array:
        return measure(outputs, labels)[None]

    return Query(x, labels, one_value, [f"{quantity} on {len(x)} points"], quantity)


def _checked_points(x: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return `x` as float32 `[n, ...]` and `labels` as int32 `[n]`."""
    x, labels = np.asarray(x), np.asarray(labels)
    is_float = x.ndim >= 2 and len(x) > 0 and np.issubdtype(x.dtype, np.floating) and np.isfinite(x).all()
    checks.require(is_float, "query x to be a finite float array [n, ...] with n >= 1", checks.describe(x))
    is_label = labels.shape == (len(x),) and np.issubdtype(labels.dtype, np.integer) and labels.min() >= 0
    checks.require(is_label, f"query labels to be an array [{len(x)}] of classes >= 0", checks.describe(labels))
    return x.astype(np.float32), labels.astype(np.int32)
