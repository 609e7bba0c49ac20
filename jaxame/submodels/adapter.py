"""One form for every model: a pure `init` and a pure `apply` that can be mapped over submodels."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
from flax import nnx
from flax.errors import InvalidRngError

from jaxame import checks
from jaxame.submodels import conv

Params = Any
"""A pytree of floating-point arrays."""
Apply = Callable[[Params, jax.Array], jax.Array]
"""`(params, x [B, ...])` to outputs `[B, C]`."""

_NO_STATE = (
    "a model whose only state is its parameters (batch statistics would let excluded examples leak into a submodel, "
    "and dropout draws randomness that no key addresses)"
)


@dataclasses.dataclass(frozen=True)
class Model:
    """A model as two pure functions.

    Attributes:
      init: one typed key to parameters, a pytree of floating-point arrays.
      apply: `(params, x [B, ...])` to outputs `[B, C]`.
    """

    init: Callable[[jax.Array], Params]
    apply: Apply


def as_model(model: Any, sample_x: Any, *, lowering: str = "patches") -> Model:
    """Turn any supported model into a `Model`.

    Args:
      model: one of a Flax NNX factory `make(rngs=nnx.Rngs) -> nnx.Module` (a module class or a partial of one will
        do), a Flax Linen module, a pair `(init, apply)`, or a `Model`.
      sample_x: `[n, ...]` inputs, or anything with their shape and dtype; nothing is computed on them.
      lowering: of the convolutions of an NNX module, `"patches"` (see `jaxame.submodels.conv`) or `"native"`;
        `TrainingGame` chooses. Other models choose for themselves: Linen's layers take `conv_general_dilated`.

    Returns:
      The model as pure functions, safe under `jax.vmap`.

    Raises:
      ValueError: if the model is of no supported kind, has state other than its parameters, has parameters that are
        not floating-point, or does not map `[B, ...]` to `[B, C]`.
    """
    sample = jax.ShapeDtypeStruct((2, *sample_x.shape[1:]), sample_x.dtype)
    checks.require(lowering in conv.LOWERINGS, f"lowering to be one of {', '.join(conv.LOWERINGS)}", repr(lowering))
    pure = _adapter(model)(model, sample, lowering)
    _check_shapes(pure, sample)
    return pure


def in_dtype(model: Model, dtype: Any) -> Model:
    """Return `model` computing in another floating-point type; parameters and outputs keep theirs.

    Raises:
      ValueError: if `dtype` is not a floating-point type.
    """
    checks.require(jnp.issubdtype(dtype, jnp.floating), "compute_dtype to be a floating-point type", dtype)

    def cast(leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    def apply(params: Params, x: jax.Array) -> jax.Array:
        return model.apply(jax.tree.map(cast, params), cast(x)).astype(jnp.float32)

    return Model(model.init, apply)


def _adapter(model: Any) -> Callable[[Any, jax.ShapeDtypeStruct, str], Model]:
    """Pick the adapter for a kind of model."""
    if isinstance(model, Model):
        return lambda given, *_: given
    if isinstance(model, flax.linen.Module):
        return _from_linen
    if isinstance(model, tuple) and len(model) == 2 and all(map(callable, model)):
        return lambda pair, *_: Model(*pair)
    is_factory = callable(model) and not isinstance(model, nnx.Module)
    checks.require(is_factory, "model to be an NNX factory, a Linen module or a pair (init, apply)", repr(model))
    return _from_nnx


def _from_nnx(make: Callable[..., Any], sample: jax.ShapeDtypeStruct, lowering: str) -> Model:
    """Adapt an NNX factory; its graph definition is found once, abstractly."""
    del sample
    module = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
    checks.require(isinstance(module, nnx.Module), "the factory to return an nnx.Module", checks.describe(module))
    layers = [part for _, part in nnx.iter_graph(module) if isinstance(part, nnx.Conv)]
    for layer in layers if lowering == "patches" else ():
        if layer.conv_general_dilated is jax.lax.conv_general_dilated:
            layer.conv_general_dilated = conv.conv_general_dilated
    graphdef, state = nnx.split(module)
    variables = [variable for _, variable in nnx.to_flat_state(state)]
    others = sorted({type(variable).__name__ for variable in variables if not isinstance(variable, nnx.Param)})
    checks.require(not others, _NO_STATE, f"{type(module).__name__} with {', '.join(others)}")

    def init(key: jax.Array) -> Params:
        return nnx.state(make(rngs=nnx.Rngs(key)), nnx.Param)

    def apply(params: Params, x: jax.Array) -> jax.Array:
        outputs: jax.Array = nnx.merge(graphdef, params)(x)
        return outputs

    return Model(init, apply)


def _from_linen(module: flax.linen.Module, sample: jax.ShapeDtypeStruct, lowering: str) -> Model:
    """Adapt a Linen module."""
    del lowering
    variables: Any = jax.eval_shape(module.init, jax.random.key(0), sample)
    others = sorted(set(variables) - {"params"})
    checks.require(not others, _NO_STATE, f"{type(module).__name__} with {', '.join(others)}")

    def init(key: jax.Array) -> Params:
        variables: Any = module.init(key, jnp.zeros(sample.shape, sample.dtype))
        return variables.get("params", {})

    def apply(params: Params, x: jax.Array) -> jax.Array:
        outputs: Any = module.apply({"params": params}, x)
        return jnp.asarray(outputs)

    return Model(init, apply)


def _check_shapes(model: Model, sample: jax.ShapeDtypeStruct) -> None:
    """Check, abstractly, what `model` makes of a batch of two."""
    params = jax.eval_shape(model.init, jax.random.key(0))
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(params)}
    is_float = all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes)
    checks.require(is_float, "floating-point parameters", sorted(map(str, dtypes)))
    try:
        outputs = jax.eval_shape(model.apply, params, sample)
    except InvalidRngError as error:
        raise ValueError(f"needs {_NO_STATE}; got a module that asks for a random key when applied") from error
    is_batch = hasattr(outputs, "ndim") and outputs.ndim == 2 and outputs.shape[0] == sample.shape[0]
    checks.require(is_batch, f"a model that maps x {list(sample.shape)} to outputs [2, C]", checks.describe(outputs))
