"""How training is done: which feed, which convolutions, how many submodels at once, how many examples at once."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import Var

from jaxame import checks
from jaxame.submodels import conv
from jaxame.submodels.feeds import Examples
from jaxame.submodels.flops import flops_per_example
from jaxame.submodels.training import Recipe

FEEDS = ("auto", "masked", "gathered")
LOWERINGS = ("auto", *conv.LOWERINGS)

# Time per example of the gathered feed, in units of that of the masked feed: products without a common factor, and
# bytes to gather per operation. Fitted to logistic regression and an MLP in benchmarks/results/submodels.*.json.
_GATHERED_PRODUCTS, _GATHERED_BYTES = 1.3, 14.0

# Operations of a step with which one submodel fills an accelerator: a step of ResNet-9 is some 150 kernels, launched in
# 5 us each, in which a device of 800 TFLOP/s (bfloat16) at a third of its peak does 2e11. From there on patches only
# cost: nine times the activations through memory. Seen once, far on either side, on an H100: XLA's own convolutions
# train ResNet-9 on 1,024 images a step (2.3e12) 1.7 times as fast, patches a CNN on 256 (1.5e9) 3 times as fast.
_FILLING_STEP_ACCELERATOR = 2e11

# What a step of one tile should touch: a core's share of the cache; on an accelerator enough to fill it. Seen once on
# an H100: a CNN gains 9 % from four times as much, logistic regression on MNIST 25 % from tiles of 4,096, not 1,024.
_STEP_BYTES = {"cpu": 3 * 2**20}
_STEP_BYTES_ACCELERATOR = 2**31
_LARGEST_TILE = {"cpu": 64}
_LARGEST_TILE_ACCELERATOR = 4096
_SMALLEST_PIECE = 8
# Operations that a device does in about a second.
_SECOND = {"cpu": 1e11}
_SECOND_ACCELERATOR = 5e13


def choose_feed(recipe: Recipe, examples: Examples, feed: str, inclusion: float, *, full_batch: bool) -> Recipe:
    """Return the recipe with the feed asked for.

    `"auto"` gathers where `inclusion * B` own examples cost less than `B` shared ones, by a rule fitted to measured
    times. It is a rule, not a timing, so that the same call gives the same utilities on a busy machine. A full batch is
    always masked.

    Raises:
      ValueError: if `feed` is unknown, or gathered with a full batch.
    """
    checks.require(feed in FEEDS, f"feed to be one of {', '.join(FEEDS)}", repr(feed))
    checks.require(feed != "gathered" or not full_batch, "batch_size for the gathered feed", "None")
    own_batch = max(round(inclusion * recipe.batch_size), 1)
    is_gathered = feed == "gathered"
    if feed == "auto" and not full_batch:
        num_bytes = examples.x[0].size * examples.x.dtype.itemsize
        per_operation = num_bytes / max(flops_per_example(recipe, examples.x, examples.y), 1.0)
        ratio = _GATHERED_PRODUCTS + _GATHERED_BYTES * per_operation
        is_gathered = ratio * own_batch < recipe.batch_size
    return dataclasses.replace(recipe, own_batch=own_batch if is_gathered else None)


def choose_lowering(recipe: Recipe, examples: Examples, lowering: str, platform: str) -> str:
    """Return the lowering of convolutions asked for.

    `"auto"` takes patches on a CPU, where they were measured to be the fastest. On an accelerator it takes XLA's own
    convolutions, one submodel at a time, where a step of one submodel is large enough to fill the device, and patches,
    many submodels at a time, where it is not; where one becomes the other is reasoned, not measured.

    Args:
      recipe: what is trained, with any lowering: the operations are the same.
      examples: the training set, of which only shape and type count.
      lowering: one of `LOWERINGS`.
      platform: of the devices that train, such as `"cpu"` or `"gpu"`.

    Raises:
      ValueError: if `lowering` is unknown.
    """
    checks.require(lowering in LOWERINGS, f"lowering to be one of {', '.join(LOWERINGS)}", repr(lowering))
    if lowering != "auto":
        return lowering
    if platform == "cpu":
        return "patches"
    step = recipe.step_size * flops_per_example(recipe, examples.x, examples.y)
    return "native" if step >= _FILLING_STEP_ACCELERATOR else "patches"


def default_sizes(recipe: Recipe, examples: Examples, lowering: str, platform: str) -> tuple[int, int]:
    """Choose how many submodels a device trains at once, and the examples whose gradient is taken at once.

    Both are powers of two (a piece may also be the whole batch) such that a step touches about 3 MiB on a CPU, a core's
    share of the cache (best or within a few per cent of it for MLPs and CNNs), or 2 GiB on an accelerator, besides what
    all submodels share. A batch is cut into pieces only where one submodel alone is more than that. Native convolutions
    train one submodel at a time: mapped over several they would be grouped, see `jaxame.submodels.conv`.
    """
    budget = _STEP_BYTES.get(platform, _STEP_BYTES_ACCELERATOR)
    largest = _LARGEST_TILE.get(platform, _LARGEST_TILE_ACCELERATOR)
    whole, half = (_step_bytes(recipe, examples, size) for size in (recipe.step_size, -(-recipe.step_size // 2)))
    tile = 1 if lowering == "native" else min(max(2 ** round(math.log2(budget / whole)), 1), largest)
    per_example = max((whole - half) / max(recipe.step_size // 2, 1), 1)
    piece = max(2 ** round(math.log2(budget / per_example)), _SMALLEST_PIECE)
    return tile, min(piece, recipe.step_size) if tile == 1 else recipe.step_size


def rounds_per_chunk(recipe: Recipe, examples: Examples, tile: int, platform: str) -> int:
    """Choose how many rounds a call should make: about a second's work, so that finished rows are handed out, up to 16.

    More would keep the devices no busier; results do not depend on it.
    """
    per_submodel = recipe.num_steps * recipe.step_size * flops_per_example(recipe, examples.x, examples.y)
    second = _SECOND.get(platform, _SECOND_ACCELERATOR)
    return min(max(int(second / max(per_submodel * tile, 1.0)), 1), 16)


def _step_bytes(recipe: Recipe, examples: Examples, num_examples: int) -> int:
    """Estimate the bytes one submodel's step touches and no other's: parameters, gradient, optimiser, activations.

    Of what the backward pass needs, the batch itself and what is made of it alone belong to all submodels where all
    compute on the same batch.
    """
    batch = jax.ShapeDtypeStruct((num_examples, *examples.x.shape[1:]), examples.x.dtype)
    params = jax.eval_shape(recipe.model.init, jax.random.key(0))
    state = jax.eval_shape(recipe.optimizer.init, params)

    def forward(params: Any, x: jax.Array) -> tuple[Any, ...]:
        return jax.vjp(lambda p: recipe.model.apply(p, x), params)

    program = jax.make_jaxpr(forward)(params, batch).jaxpr
    own = {value for value in program.outvars if isinstance(value, Var)}
    if recipe.own_batch is None and recipe.share_order:
        own &= _made_of(program, program.invars[: len(jax.tree.leaves(params))])
    leaves = [*2 * jax.tree.leaves(params), *jax.tree.leaves(state), *(value.aval for value in own)]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _made_of(program: Any, values: Sequence[Any]) -> set[Any]:
    """Return those values of a jaxpr, and what is computed from them."""
    made = set(values)
    for equation in program.eqns:
        if any(isinstance(value, Var) and value in made for value in equation.invars):
            made.update(equation.outvars)
    return made
