"""Checks of what `TrainingGame` is given, all before any training."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxame import checks
from jaxame.submodels.adapter import Apply, Params
from jaxame.submodels.training import Augment, Recipe


def cross_entropy(outputs: jax.Array, y: jax.Array) -> jax.Array:
    """Return the softmax cross-entropy of logits `[B, C]` and classes int `[B]`, in nats, `[B]`.

    Computed with examples last: classes are few, and vector units want many numbers in a row.
    """
    logits = outputs.T - jax.lax.stop_gradient(jnp.max(outputs, axis=1))
    is_label = jnp.arange(logits.shape[0])[:, None] == y
    return jnp.log(jnp.sum(jnp.exp(logits), axis=0)) - jnp.sum(jnp.where(is_label, logits, 0.0), axis=0)


def checked_examples(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return `x` as float32 or int32 and `y` as it is, in memory of the host."""
    x, y = np.asarray(x), np.asarray(y)
    is_integer = np.issubdtype(x.dtype, np.integer)
    is_number = x.ndim >= 1 and (is_integer or np.issubdtype(x.dtype, np.floating))
    checks.require(is_number, "x to be a float or integer array [n, ...]", checks.describe(x))
    checks.require(len(x) > 0, "a training set with at least one example", checks.describe(x))
    checks.require(y.shape[:1] == x.shape[:1], f"y with {len(x)} rows, one per row of x", checks.describe(y))
    is_finite = np.isfinite(x)
    checks.require(is_finite.all(), "finite x", f"{x.size - is_finite.sum()} non-finite entries")
    return x.astype(np.int32 if is_integer else np.float32), y


def checked_groups(groups: Any, num_examples: int) -> np.ndarray:
    """Return the source of each example, int32 `[n]`."""
    groups = np.asarray(np.arange(num_examples) if groups is None else groups)
    is_integer = groups.shape == (num_examples,) and np.issubdtype(groups.dtype, np.integer)
    checks.require(is_integer, f"groups to be an integer array [{num_examples}]", checks.describe(groups))
    used = np.unique(groups)
    is_dense = np.array_equal(used, np.arange(len(used)))
    checks.require(is_dense, "groups numbered 0 to N-1, each in use", f"{len(used)} numbers, {used[0]} to {used[-1]}")
    return np.asarray(groups, np.int32)


def check_loss(recipe: Recipe, x: np.ndarray, y: np.ndarray) -> None:
    """Check that the loss fits outputs and targets, abstractly; labels of the default loss by value."""
    model = recipe.model
    outputs = jax.eval_shape(lambda key: model.apply(model.init(key), jnp.asarray(x[:1])), jax.random.key(0))
    if recipe.loss is cross_entropy:
        num_classes = outputs.shape[1]
        is_label = y.ndim == 1 and np.issubdtype(y.dtype, np.integer)
        checks.require(is_label, f"y to be integer labels [{len(x)}]", checks.describe(y))
        in_range = y.min() >= 0 and y.max() < num_classes
        checks.require(in_range, f"labels from 0 to {num_classes - 1}", f"labels from {y.min()} to {y.max()}")
    losses = jax.eval_shape(recipe.loss, outputs, jax.ShapeDtypeStruct((1, *y.shape[1:]), jnp.asarray(y[:1]).dtype))
    is_vector = getattr(losses, "shape", None) == (1,)
    checks.require(is_vector, "a loss that returns one number per example [B]", checks.describe(losses))


def check_augment(augment: Augment | None, x: np.ndarray) -> None:
    """Check, abstractly, that the augmentation keeps a batch's shape and type."""
    if augment is None:
        return
    checks.require(callable(augment), "augment to be callable as augment(key, x)", checks.describe(augment))
    batch = jax.ShapeDtypeStruct((2, *x.shape[1:]), x.dtype)
    result = jax.eval_shape(augment, jax.random.key(0), batch)
    is_alike = getattr(result, "shape", None) == batch.shape and result.dtype == batch.dtype
    needs = f"augment to return {checks.describe(batch)} for a batch of that shape"
    checks.require(is_alike, needs, checks.describe(result))


def check_start(recipe: Recipe, start: Any) -> None:
    """Check that the parameters to start from are those of the model."""
    expected = jax.eval_shape(recipe.model.init, jax.random.key(0))
    given, needed = (
        [(jax.tree_util.keystr(path), jnp.shape(leaf)) for path, leaf in jax.tree.leaves_with_path(tree)]
        for tree in (start, expected)
    )
    checks.require(given == needed, f"start to be parameters of the model, {needed}", given)


def checked_num_queries(recipe: Recipe, query: Callable[[Apply, Params], jax.Array]) -> int:
    """Return `Q`, found abstractly."""
    checks.require(callable(query), "query to be callable as query(apply, params)", checks.describe(query))
    model = recipe.model
    values = jax.eval_shape(lambda key: query(model.apply, model.init(key)), jax.random.key(0))
    is_vector = hasattr(values, "ndim") and values.ndim == 1 and values.size > 0
    checks.require(is_vector, "a query that returns a vector [Q] with Q >= 1", checks.describe(values))
    return int(values.size)


def checked_rows(keys: Any, masks: Any, num_sources: int, impl: str) -> np.ndarray:
    """Return `masks` on the host after checking that it and `keys`, of the kind `impl`, make `m` rows."""
    given: np.ndarray = np.asarray(masks)
    is_mask = given.dtype == np.bool_ and given.ndim == 2 and given.shape[1] == num_sources
    checks.require(is_mask, f"masks to be a bool array [m, {num_sources}]", checks.describe(given))
    is_keys = isinstance(keys, jax.Array) and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
    is_keys = is_keys and keys.shape == given.shape[:1]
    checks.require(is_keys, f"typed keys [{len(given)}], one per row of masks", checks.describe(keys))
    kind = str(jax.random.key_impl(keys))
    checks.require(kind == impl, f"keys of the same kind as shared_key, {impl}", kind)
    return given
