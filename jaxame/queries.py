"""Queries: what is measured on a submodel, `query(apply, params) -> [Q]`.

Any function of that form is a query. Those made here know their points, so that `join` can measure many of them with
one forward pass. Axes: `n` points, `C` classes, `Q` values, `R` linear combinations of them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxame import checks

Apply = Callable[[Any, jax.Array], jax.Array]
"""Parameters and inputs `[n, ...]` to outputs `[n, C]`, each row's from that row alone."""
Function = Callable[[Apply, Any], jax.Array]
"""Any query: `(apply, params)` to values `[Q]`."""
_Measure = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, eq=False)
class Query:
    """Behaviours of a model; one forward pass over all their points serves them all.

    Attributes:
      points: arrays `[n, ...]` of inputs, float32 or int32; none for a plain function.
      measure: `(outputs, apply, params)` to values `[Q]`, where `outputs` has `[n, C]` for each array of `points`.
      entries: for each value its name; for a plain function, whose values are not known in number, the function.
      units: what a value counts; several where values differ in it.
    """

    points: tuple[np.ndarray, ...] = dataclasses.field(repr=False)
    measure: Callable[[list[jax.Array], Apply, Any], jax.Array] = dataclasses.field(repr=False)
    entries: tuple[str | Function, ...]
    units: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """A name for each of the `Q` values.

        Raises:
          ValueError: if a plain function is among the parts; `names_of` knows the names, given a model.
        """
        names = [entry for entry in self.entries if isinstance(entry, str)]
        plain = [_name(entry) for entry in self.entries if not isinstance(entry, str)]
        needs = "named parts, or names_of(query, apply, params) to count what plain functions return"
        checks.require(not plain, needs, f"a query with {', '.join(plain)} among its parts")
        return names

    @property
    def num_queries(self) -> int:
        """`Q`, the number of values; errors as for `names`."""
        return len(self.names)

    @property
    def unit(self) -> str:
        """What a value counts, or that values differ in it."""
        return self.units[0] if len(self.units) == 1 else f"units differ: {'; '.join(self.units)}"

    @property
    def _has_names(self) -> bool:
        return all(isinstance(entry, str) for entry in self.entries)

    def __call__(self, apply: Apply, params: Any) -> jax.Array:
        """Return the values `[Q]` of the model `apply` with parameters `params`, at least float32.

        Raises:
          ValueError: if a label is not a class of the model's outputs `[n, C]`, or a function returns no vector `[Q]`.
        """
        return self.values(_forward(self.points, apply, params), apply, params)

    def values(self, outputs: list[jax.Array], apply: Apply, params: Any) -> jax.Array:
        """Return the values `[Q]` of `apply` with `params`, given its `outputs`, `[n, C]` for each array of `points`.

        Errors are those of a call.
        """
        values = jnp.asarray(self.measure(outputs, apply, params))
        checks.require(values.ndim == 1, f"{self.unit} as a vector [Q]", checks.describe(values))
        return _at_least_float32(values)


def logit_margin(x: Any, labels: Any) -> Query:
    """Query each point's logit margin: the logit of its label minus the largest other logit.

    Args:
      x: `[Q, ...]` points: finite floats, or integers `[Q, L]` such as the tokens of texts, passed on as int32.
      labels: int `[Q]`, the class asked about, not necessarily the true one.

    Raises:
      ValueError: if `x` and `labels` do not fit together or are not points and classes.

    Example:
      >>> import numpy as np
      >>> from jaxame import queries
      >>> query = queries.logit_margin(np.eye(3), [0, 1, 1])
      >>> query.names[2]
      'logit margin of class 1 on point 2'
      >>> query(lambda params, x: x @ params, np.diag([1.0, 2.0, 3.0]))
      Array([ 1.,  2., -3.], dtype=float32)
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


def loss(x: Any, labels: Any) -> Query:
    """Query each point's cross-entropy in nats; arguments and errors as for `logit_margin`."""
    return _per_point(x, labels, optax.softmax_cross_entropy_with_integer_labels, "cross-entropy in nats")


def accuracy(x: Any, labels: Any) -> Query:
    """Query the share of points that are put in their label's class, one value.

    Args:
      x: `[n, ...]` points of the set, as for `logit_margin`.
      labels: int `[n]`, their classes.

    Raises:
      ValueError: if `x` and `labels` do not fit together or are not points and classes.
    """
    return _on_set(x, labels, _is_correct, "accuracy")


def mean_loss(x: Any, labels: Any) -> Query:
    """Query the mean cross-entropy on a set, in nats, one value; arguments and errors as for `accuracy`."""
    return _on_set(x, labels, optax.softmax_cross_entropy_with_integer_labels, "mean cross-entropy in nats")


def names_of(query: Function, apply: Apply, params: Any) -> list[str]:
    """Return a name for each of the `Q` values of any query.

    Args:
      query: any query. A plain function is traced, not run, to count its values.
      apply: as for the query.
      params: as for the query; shapes and dtypes will do.

    Raises:
      ValueError: if `query` cannot be called, or a plain function does not return a vector.
    """

    def expand(entry: str | Function) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        size = jax.eval_shape(lambda params: _as_query(entry)(apply, params), params).size
        return [f"{_name(entry)}[{i}]" for i in range(size)]

    return [name for entry in _as_query(query).entries for name in expand(entry)]


def join(*queries: Function) -> Query:
    """Return several queries side by side: their values one after the other, `[Q]` with `Q` the sum of theirs.

    The points of all of them pass through the model together, in one forward pass; an array of points that several
    queries share passes once. (A batch of another size may round differently.) A plain function has no points to share
    and runs whatever forward passes it makes itself.

    Args:
      *queries: any queries, joins and contrasts among them.

    Raises:
      ValueError: if there is none, one cannot be called, or points differ in shape or dtype.
    """
    checks.require(len(queries) > 0, "at least one query to join", "none")
    parts = [_as_query(query) for query in queries]
    points: list[np.ndarray] = []
    places = [[_place(points, x) for x in part.points] for part in parts]

    def measure(outputs: list[jax.Array], apply: Apply, params: Any) -> jax.Array:
        pairs = zip(parts, places, strict=True)
        return jnp.concatenate([part.values([outputs[i] for i in place], apply, params) for part, place in pairs])

    entries = tuple(entry for part in parts for entry in part.entries)
    units = tuple(dict.fromkeys(unit for part in parts for unit in part.units))
    return Query(tuple(points), measure, entries, units)


def contrast(query: Function, weights: Any, names: Sequence[str] | None = None) -> Query:
    """Return linear combinations of a query's values, such as the difference of two.

    A value of weight 0 has no part in a combination, even if it is NaN or infinite.

    Args:
      query: any query; `join` makes one of several.
      weights: `[R, Q]` finite weights of the `Q` values in each of `R` combinations, or `[Q]` for one.
      names: `R` names; by default each spells out its combination if that is short.

    Returns:
      A query with `R` values.

    Raises:
      ValueError: if `query` cannot be called, `weights` do not fit its values (where a plain function is among its
        parts, when it is called) or are all 0 in a row, or `names` are not `R` strings.

    Example:
      >>> import numpy as np
      >>> from jaxame import queries
      >>> query = queries.contrast(queries.probability(np.eye(2), [0, 1]), [1.0, -1.0])
      >>> query.names
      ['+1 (probability of class 0 on point 0) -1 (probability of class 1 on point 1)']
    """
    inner, weights = _as_query(query), _checked_weights(weights)
    num_rows, num_values = weights.shape
    of = inner.names if inner._has_names else [f"value {q}" for q in range(num_values)]
    checks.require(len(of) == num_values, f"weights [R, {len(of)}] or [{len(of)}]", checks.describe(weights))
    names = [_formula(row, of, r) for r, row in enumerate(weights)] if names is None else names
    is_names = isinstance(names, Sequence) and all(isinstance(name, str) for name in names)
    is_names = is_names and not isinstance(names, str) and len(names) == num_rows
    checks.require(is_names, f"names to be {num_rows} strings", checks.describe(names))

    def measure(outputs: list[jax.Array], apply: Apply, params: Any) -> jax.Array:
        values = inner.values(outputs, apply, params)
        checks.require(values.size == num_values, f"{num_values} values of {inner.unit}", checks.describe(values))
        used = jnp.where(weights != 0, values[None, :], 0.0)
        return jnp.sum(jnp.asarray(weights, values.dtype) * used, axis=1)

    return Query(inner.points, measure, tuple(names), (f"contrast of {' and '.join(inner.units)}",))


def _as_query(query: Any) -> Query:
    """Return a plain function as a `Query` without points."""
    if isinstance(query, Query):
        return query
    checks.require(callable(query), "each query to be callable as query(apply, params)", checks.describe(query))
    return Query((), lambda _, apply, params: query(apply, params), (query,), (f"value of {_name(query)}",))


def _name(function: Function) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _forward(points: tuple[np.ndarray, ...], apply: Apply, params: Any) -> list[jax.Array]:
    """Return the outputs `[n, C]` on each array of points, all from one call of `apply`."""
    if not points:
        return []
    x = jnp.asarray(np.concatenate(points))
    outputs = apply(params, x)
    is_batch = outputs.ndim == 2 and len(outputs) == len(x)
    checks.require(is_batch, f"a model that maps x {list(x.shape)} to outputs [{len(x)}, C]", checks.describe(outputs))
    return jnp.split(_at_least_float32(outputs), np.cumsum([len(part) for part in points])[:-1])


def _place(points: list[np.ndarray], x: np.ndarray) -> int:
    """Return where `x` is among `points`, after appending it if it is new."""
    for i, other in enumerate(points):
        if other is x or np.array_equal(other, x):
            return i
    like = points[0] if points else x
    fits = (x.shape[1:], x.dtype) == (like.shape[1:], like.dtype)
    checks.require(fits, f"joined queries to have points like {checks.describe(like)}", checks.describe(x))
    points.append(x)
    return len(points) - 1


def _at_least_float32(values: jax.Array) -> jax.Array:
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def _formula(weights: np.ndarray, names: list[str], row: int) -> str:
    """Spell out a combination of up to 4 values."""
    used = np.flatnonzero(weights)
    if used.size > 4:
        return f"contrast {row} of {used.size} values"
    return " ".join(f"{weights[q]:+g} ({names[q]})" for q in used)


def _of_label(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """Pick the entry of each row's label, `[n]`."""
    return jnp.take_along_axis(outputs, labels[:, None], axis=-1)[:, 0]


def _is_correct(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """1 where the largest output is the label's, `[n]`; NaN where the outputs are."""
    is_correct = (jnp.argmax(outputs, axis=-1) == labels).astype(outputs.dtype)
    return jnp.where(jnp.any(jnp.isnan(outputs), axis=-1), jnp.nan, is_correct)


def _per_point(x: Any, labels: Any, measure: _Measure, quantity: str) -> Query:
    """Build a query with one value per point from `measure`, outputs `[n, C]` and labels `[n]` to values `[n]`."""
    x, labels = _checked_points(x, labels)
    classes = sorted(set(labels.tolist()))
    unit = f"{quantity} of class {classes[0]}" if len(classes) == 1 else f"{quantity} of each point's label"
    names = tuple(f"{quantity} of class {label} on point {q}" for q, label in enumerate(labels))
    return Query((x,), lambda outputs, *_: _measured(outputs[0], labels, measure), names, (unit,))


def _on_set(x: Any, labels: Any, measure: _Measure, quantity: str) -> Query:
    """Build a query for the mean over a set of what `measure`, as in `_per_point`, gives each point."""
    x, labels = _checked_points(x, labels)

    def mean(outputs: list[jax.Array], *_: Any) -> jax.Array:
        return jnp.mean(_measured(outputs[0], labels, measure), keepdims=True)

    return Query((x,), mean, (f"{quantity} on {len(x)} points",), (quantity,))


def _measured(outputs: jax.Array, labels: np.ndarray, measure: _Measure) -> jax.Array:
    """Return `measure(outputs, labels)` after checking that each label is a class."""
    top, num_classes = labels.max(), outputs.shape[1]
    checks.require(top < num_classes, f"query labels from 0 to {num_classes - 1}", f"label {top}")
    return measure(outputs, jnp.asarray(labels))


def _checked_points(x: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return `x` as float32 `[n, ...]` or int32 `[n, L]` and `labels` as int32 `[n]`."""
    x, labels = np.asarray(x), np.asarray(labels)
    is_float = x.ndim >= 2 and np.issubdtype(x.dtype, np.floating)
    is_tokens = x.ndim == 2 and np.issubdtype(x.dtype, np.integer)
    with np.errstate(over="ignore"):
        points = x.astype(np.float32) if is_float else x.astype(np.int32) if is_tokens else x
    fits = (is_float and np.isfinite(points).all()) or (is_tokens and np.array_equal(points, x))
    needs = "query x to be a finite float array [n, ...] or an int32 array [n, L] with n >= 1"
    checks.require(bool(fits) and len(x) > 0, needs, checks.describe(x))
    is_label = labels.shape == (len(x),) and np.issubdtype(labels.dtype, np.integer) and labels.min() >= 0
    checks.require(is_label, f"query labels to be an array [{len(x)}] of classes >= 0", checks.describe(labels))
    return points, labels.astype(np.int32)


def _checked_weights(weights: Any) -> np.ndarray:
    """Return weights as float64 `[R, Q]`."""
    given = np.asarray(weights)
    is_number = np.issubdtype(given.dtype, np.floating) or np.issubdtype(given.dtype, np.integer)
    is_table = is_number and given.ndim in (1, 2) and given.size > 0
    checks.require(is_table, "weights [R, Q] or [Q]", checks.describe(given))
    table: np.ndarray = np.atleast_2d(given).astype(np.float64)
    largest = np.abs(table).max(axis=1)
    limits = np.finfo(np.float32)
    fits = (largest >= limits.tiny) & (largest <= limits.max)
    checks.require(
        bool(fits.all()), "finite weights, not all 0 in a row", f"rows with largest weights {largest.tolist()}"
    )
    return table
