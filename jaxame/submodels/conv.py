"""Convolution as patches times a matrix, the form that stays fast when it is mapped over submodels.

Mapping `jax.lax.conv_general_dilated` over its weights makes XLA emit a grouped convolution, which is slow forward and
slower backward (jax issues 13800 and 15339). A matrix product becomes a batched matrix product instead.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LOWERINGS = ("patches", "native")
CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    **options: Any,
) -> jax.Array:
    """Do what `jax.lax.conv_general_dilated` does, as a matrix product where the convolution is a plain one.

    A plain convolution has images `[B, H, W, C]` with channels last, one group and no input dilation; any other one is
    left to `jax.lax`. Flax layers take this function as their argument `conv_general_dilated`.

    Args:
      lhs: `[B, H, W, C]` images.
      rhs: `[h, w, C, D]` kernel.
      window_strides: of the two axes.
      padding: `"SAME"`, `"VALID"`, or what to add before and after each axis.
      lhs_dilation: of the images; a plain convolution has none.
      rhs_dilation: of the kernel.
      dimension_numbers: as for `jax.lax`.
      feature_group_count: as for `jax.lax`.
      **options: as for `jax.lax`.

    Returns:
      `[B, H', W', D]`, equal to that of `jax.lax` up to rounding.
    """
    if _is_plain(lhs, rhs, lhs_dilation, dimension_numbers, feature_group_count, options):
        return _as_product(lhs, rhs, window_strides, padding, rhs_dilation or (1, 1), options)
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        dimension_numbers,
        feature_group_count,
        **options,
    )


def _is_plain(
    lhs: jax.Array, rhs: jax.Array, lhs_dilation: Any, dimension_numbers: Any, num_groups: int, options: dict[str, Any]
) -> bool:
    if lhs.ndim != 4 or num_groups != 1 or options.get("batch_group_count", 1) != 1:
        return False
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    is_last = numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, CHANNELS_LAST)
    return is_last and (lhs_dilation is None or tuple(lhs_dilation) == (1, 1))


def _as_product(
    lhs: jax.Array,
    rhs: jax.Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    dilation: Sequence[int],
    options: dict[str, Any],
) -> jax.Array:
    reach = [(size - 1) * step + 1 for size, step in zip(rhs.shape[:2], dilation, strict=True)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], reach, strides, padding)
    padded = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    counts = [(n - r) // s + 1 for n, r, s in zip(padded.shape[1:3], reach, strides, strict=True)]
    stops = [(count - 1) * stride + 1 for count, stride in zip(counts, strides, strict=True)]
    shifted = [
        padded[:, i : i + stops[0] : strides[0], j : j + stops[1] : strides[1]]
        for i in range(0, reach[0], dilation[0])
        for j in range(0, reach[1], dilation[1])
    ]
    patches = jnp.stack(shifted, axis=3).reshape(-1, np.prod(rhs.shape[:3]))
    chosen = {name: options[name] for name in ("precision", "preferred_element_type") if name in options}
    product = jnp.matmul(patches, rhs.reshape(-1, rhs.shape[3]), **chosen)
    return product.reshape(lhs.shape[0], *counts, rhs.shape[3])
