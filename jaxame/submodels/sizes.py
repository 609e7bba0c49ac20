"""How training is cut up: which feed, how many submodels at once, how many examples at once."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from jaxame import checks
from jaxame.submodels.feeds import Examples
from jaxame.submodels.training import Recipe

FEEDS = ("auto", "masked", "gathered")

# Time per example of the gathered feed, in units of that of the masked feed.
_GATHERING = 1.25

# What a step of one tile should touch: a core's share of the cache; on an accelerator enough to fill it (not measured).
_STEP_BYTES = {"cpu": 2**22}
_STEP_BYTES_ACCELERATOR = 2**31
_LARGEST_TILE = {"cpu": 64}
_LARGEST_TILE_ACCELERATOR = 1024
_SMALLEST_PIECE = 8


def choose_feed(recipe: Recipe, feed: str, inclusion: float, *, full_batch: bool) -> Recipe:
    """Return the recipe with the feed asked for.

    `"auto"` gathers where a batch of `inclusion * B` own examples costs less than a masked one of `B`; an example of a
    gathered batch was measured to cost up to 1.25 times one of a shared batch. A full batch is always masked.

    Raises:
      ValueError: if `feed` is unknown, or gathered with a full batch.
    """
    checks.require(feed in FEEDS, f"feed to be one of {', '.join(FEEDS)}", repr(feed))
    checks.require(feed != "gathered" or not full_batch, "batch_size for the gathered feed", "None")
    own_batch = max(round(inclusion * recipe.batch_size), 1)
    is_cheaper = _GATHERING * own_batch < recipe.batch_size and not full_batch
    is_gathered = is_cheaper if feed == "auto" else feed == "gathered"
    return dataclasses.replace(recipe, own_batch=own_batch if is_gathered else None)


def default_sizes(recipe: Recipe, examples: Examples, platform: str) -> tuple[int, int]:
    """Choose how many submodels a device trains at once, and the examples whose gradient is taken at once.

    Both are powers of two (a piece may also be the whole batch) such that a step touches about 4 MiB on a CPU, a core's
    share of the cache (best or within a few per cent of it for MLPs and CNNs), or 2 GiB on an accelerator (not
    measured). A batch is cut into pieces only where one submodel alone is more than that.
    """
    budget = _STEP_BYTES.get(platform, _STEP_BYTES_ACCELERATOR)
    largest = _LARGEST_TILE.get(platform, _LARGEST_TILE_ACCELERATOR)
    whole, half = (_step_bytes(recipe, examples, size) for size in (recipe.step_size, -(-recipe.step_size // 2)))
    tile = min(max(2 ** round(math.log2(budget / whole)), 1), largest)
    per_example = max((whole - half) / max(recipe.step_size // 2, 1), 1)
    piece = max(2 ** round(math.log2(budget / per_example)), _SMALLEST_PIECE)
    return tile, min(piece, recipe.step_size) if tile == 1 else recipe.step_size


def _step_bytes(recipe: Recipe, examples: Examples, num_examples: int) -> int:
    """Estimate the bytes one submodel's step touches: parameters, gradient, optimiser, saved activations."""

    def touched(key: jax.Array, x: jax.Array) -> tuple:
        params = recipe.model.init(key)
        outputs, pullback = jax.vjp(lambda p: recipe.model.apply(p, x), params)
        return params, pullback(jnp.zeros_like(outputs)), recipe.optimizer.init(params), outputs, pullback

    batch = jax.ShapeDtypeStruct((num_examples, *examples.x.shape[1:]), examples.x.dtype)
    leaves = jax.tree.leaves(jax.eval_shape(touched, jax.random.key(0), batch))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
