"""Operations that a computation needs, counted from its program."""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

from jaxame.submodels.training import Recipe, batch_gradient


def flops_per_example(recipe: Recipe, x: jax.Array | np.ndarray, y: jax.Array | np.ndarray) -> float:
    """Return the operations of the matrix products that one example of a step costs, forward and backward.

    Args:
      recipe: what is trained.
      x: `[n, ...]` inputs, of which only shape and type count.
      y: `[n, ...]` targets, likewise.
    """
    params = jax.eval_shape(recipe.model.init, jax.random.key(0))
    batch = [jax.ShapeDtypeStruct((2, *a.shape[1:]), jax.dtypes.canonicalize_dtype(a.dtype)) for a in (x, y)]
    gradient = functools.partial(batch_gradient, dataclasses.replace(recipe, piece=None))
    return matrix_flops(jax.make_jaxpr(gradient)(params, *batch, jax.ShapeDtypeStruct((2,), bool)).jaxpr) / 2


def matrix_flops(jaxpr: Any) -> int:
    """Return the operations of all matrix products and convolutions of a jaxpr, two per multiplication and addition."""
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, shapes = equation.primitive.name, [getattr(value.aval, "shape", ()) for value in equation.invars]
    out = equation.outvars[0].aval.shape if equation.outvars else ()
    if name == "dot_general":
        contracted = equation.params["dimension_numbers"][0][0]
        products: int = 2 * math.prod(out) * math.prod(shapes[0][axis] for axis in contracted)
        return products
    if name == "conv_general_dilated":
        return _of_convolution(equation, shapes[1], out)
    times = equation.params.get("length", 1) if name == "scan" else 1
    inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
    return times * sum(matrix_flops(program) for program in inner if hasattr(program, "eqns"))


def _of_convolution(equation: Any, kernel: tuple[int, ...], out: tuple[int, ...]) -> int:
    """Products of a convolution, those with padding or with the zeros between dilated inputs left out roughly."""
    numbers = equation.params["dimension_numbers"]
    features = kernel[numbers.rhs_spec[0]]
    dilation = math.prod(equation.params["lhs_dilation"])
    products: int = 2 * math.prod(out) * math.prod(kernel) // (features * dilation)
    return products
