"""Augmentations, `augment(key, x [B, ...]) -> x [B, ...]`: pure, on the device, every example by its own random bits.

Axes: `B` examples of a batch, `H` rows and `W` columns of an image, `C` channels. What becomes of an example depends on
the key and on its place in the batch only, not on the other examples or on how many there are.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxame import checks

Augmentation = Callable[[jax.Array, jax.Array], jax.Array]
"""One typed key and a batch `[B, ...]` to the augmented batch, of the same shape, dtype and unit."""


def random_crop_flip(padding: int, flip: bool = True) -> Augmentation:
    """Return the augmentation that shifts every image by a few pixels and mirrors half of them.

    An image is padded by reflection (the edge pixel is not repeated), as recipes for CIFAR-10 in the DAWNBench
    competition do, and an `H x W` window is cut out of it: the shifts down and right are uniform on the whole numbers
    from `-padding` to `padding`, independent of each other. Then it is mirrored left to right with probability 1/2.
    Pixels are moved, never computed with, so any dtype and unit will do.

    Args:
      padding: the largest shift, in pixels; 0 shifts nothing. Below `H` and `W` of the images.
      flip: whether to mirror. Shifts are the same either way.

    Returns:
      `augment(key, x)` for one typed key and a batch `x`, `[B, H, W]` or `[B, H, W, C]`. It raises a `ValueError` if
      `key` is not a typed key, `x` has another number of axes, or `padding` is not below `H` and `W`.

    Raises:
      ValueError: if `padding` is not an integer >= 0 or `flip` not a bool.
    """
    padding = checks.count(padding, "padding", minimum=0)
    checks.require(isinstance(flip, bool), "flip to be True or False", checks.describe(flip))

    def augment(key: jax.Array, x: jax.Array) -> jax.Array:
        key = checks.typed_key(key)
        checks.require(x.ndim in (3, 4), "x to be images [B, H, W] or [B, H, W, C]", checks.describe(x))
        batch, height, width = x.shape[:3]
        fits = padding < min(height, width)
        checks.require(fits, f"padding below the images' {height} rows and {width} columns", padding)
        shift, is_mirrored = _draw(key, batch, padding)
        rows, columns = jnp.arange(height)[None, :], jnp.arange(width)[None, :]
        if flip:
            columns = jnp.where(is_mirrored[:, None], width - 1 - columns, columns)
        rows = _reflected(rows - shift[:, :1], height)
        columns = _reflected(columns - shift[:, 1:], width)
        # One gather: on a CPU 2 to 3 times as fast as a dynamic slice per example.
        place = jnp.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]
        return jnp.asarray(x).at[place].get(mode="promise_in_bounds")

    return augment


def compose(*augmentations: Augmentation) -> Augmentation:
    """Return the augmentation that applies several, first to last; none leave the batch as it is.

    Args:
      *augmentations: each `augment(key, x) -> x`. The one in place `i` gets `fold_in(key, i)`.

    Raises:
      ValueError: if one of them cannot be called.
    """
    for augmentation in augmentations:
        needs = "each augmentation to be callable as augmentation(key, x)"
        checks.require(callable(augmentation), needs, checks.describe(augmentation))

    def augment(key: jax.Array, x: jax.Array) -> jax.Array:
        key = checks.typed_key(key)
        for place, augmentation in enumerate(augmentations):
            x = augmentation(jax.random.fold_in(key, place), x)
        return x

    return augment


def _draw(key: jax.Array, batch: int, padding: int) -> tuple[jax.Array, jax.Array]:
    """Draw the shifts down and right, int `[B, 2]`, and who is mirrored, bool `[B]`."""

    def bits(place: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(key, place), (3,), jnp.uint32)

    drawn = jax.vmap(bits)(jnp.arange(batch))
    # The remainder of 32 bits is uniform to within 2^-32 of each value's probability, and cheaper than `randint`.
    shift = (drawn[:, :2] % jnp.uint32(2 * padding + 1)).astype(int) - padding
    return shift, drawn[:, 2] % jnp.uint32(2) == 1


def _reflected(place: jax.Array, size: int) -> jax.Array:
    """Map places from `1 - size` to `2 size - 2` to those from 0 to `size - 1` that reflection padding shows there."""
    return (size - 1) - jnp.abs((size - 1) - jnp.abs(place))
