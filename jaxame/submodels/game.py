"""`TrainingGame`: masks to utilities by training one submodel per mask."""

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from jaxame import checks
from jaxame.fingerprint import sum_of_arrays, sum_of_program
from jaxame.submodels import arguments, sizes, tiles
from jaxame.submodels.adapter import Apply, Params, as_model, in_dtype
from jaxame.submodels.feeds import Examples
from jaxame.submodels.flops import flops_per_example
from jaxame.submodels.keep import checked_points, keeper, unravel
from jaxame.submodels.preview import Preview
from jaxame.submodels.training import Augment, Loss, Recipe, own_loss, share, trajectory
from jaxame.types import TrainingData

T = TypeVar("T")
log = logging.getLogger(__name__)

# Share of a device's memory that a tile may take: the rest is for the allocator and for what else lives there.
_MEMORY_SHARE = 0.8
_PREDICTED_AT_ONCE = 256


class TrainingGame:
    """The game that trains: a submodel per subset of the training data, and what each query measures on it.

    All submodels take the same number of steps. An excluded example has no part in the loss of a step, and a step
    without an included example changes nothing. An excluded example changes no bit of a submodel as long as the model's
    activations on it are finite. Submodels are trained in fixed tiles, one per device at a time, so a row's utilities
    do not depend, to the bit, on the rows beside it, on how rows are cut into calls or on the number of devices.

    Args:
      model: a Flax NNX factory `make(rngs=...)`, a Flax Linen module, or a pair `(init, apply)`; see `as_model`.
        `jaxame.submodels` has factories of the usual ones.
      optimizer: any optax optimiser; its step count leaves out the steps that change nothing.
      x: `[n, ...]` training inputs, floats in the unit the model expects, or integers such as tokens.
      y: `[n]` integer labels, or targets `[n, ...]` of whatever kind `loss` takes.
      query: `query(apply, params) -> [Q]`, what is measured on a submodel; `jaxame.queries` has the usual ones.
      num_steps: optimiser steps, the same for every submodel.
      batch_size: `B`, examples per step before any is excluded; `None` takes all `n`.
      loss: `(outputs [B, C], y [B, ...]) -> [B]`, the loss of each example by itself.
      groups: int `[n]`, the source of each example, 0 to N-1; by default each example is a source.
      feed: `"masked"`: all submodels compute on the same batch, and excluded examples weigh nothing. `"gathered"`: each
        computes on its own batch of `inclusion * B` included examples, as many as a masked batch holds on average.
        `"auto"`: whichever is cheaper by what was measured, see `sizes.choose_feed`.
      inclusion: mean inclusion probability of the design that the game is for; sizes the gathered batch.
      share_order: whether all submodels see the examples in the same order, or each in its own.
      share_init: whether all submodels start from the same parameters, or each from its own.
      shared_key: one typed key; decides what the submodels share.
      start: parameters that every submodel starts from, as `train` returns them: a warm start.
      augment: `(key, x [B, ...]) -> x [B, ...]`, applied to every batch; see `jaxame.submodels.augment`.
      compute_dtype: floating-point type of the forward and backward pass, such as `jnp.bfloat16`; parameters, optimiser
        and loss keep theirs.
      lowering: how the convolutions of an NNX module are computed. `"patches"`: as batched matrix products. `"native"`:
        as XLA does, with tiles of 1. `"auto"`: by device and by the size of a step, see `sizes.choose_lowering`.
      tile: submodels trained at once on a device, `T`; chosen from the model's size by default. Changing it changes
        results by rounding, which training amplifies.
      piece: examples whose gradient is taken at once; chosen like `tile`, with the same effect on results.
      keep: what `measure` returns of every submodel besides its utilities, so that `jaxame.kept` can answer other
        queries later: `"params"`, its parameters, or points `[n, ...]` like `x`, its outputs there. None for nothing.
      mesh: devices to train on, all axes over submodels; by default all devices of this process. With devices of
        several processes (`jax.distributed`) every process makes the same calls and gets all utilities.

    Attributes:
      num_sources: `N`.
      num_queries: `Q`.
      data: the training set and the source of each example.
      kept_points: points whose outputs are kept, or None.
      query: the query, as given.
      model: the model as pure functions, in the precision and with the convolutions that it is trained with.
      loss: `(outputs [B, C], y [B, ...]) -> [B]`.
      feed: `"masked"` or `"gathered"`.
      lowering: `"patches"` or `"native"`.
      warm_start: whether the submodels start from given parameters.
      tile: `T`. Becomes smaller when memory runs out, which is logged.
      piece: examples whose gradient is taken at once.
      about: what utilities depend on besides data, model, optimiser and keys, and their unit; results carry it.
      chunk_size: rows a driver should hand over per call: a whole number of rounds, each a tile on every device, that
        take about a second; 16 at most.

    Raises:
      ValueError: before any training, if the training set is empty, `x` is not finite, labels or groups are out of
        range, shapes disagree, or the model has state other than parameters.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> import optax
      >>> import jaxame
      >>> from jaxame import queries
      >>> from jaxame.design import Grid, sample_design
      >>> from jaxame.submodels import TrainingGame, logistic
      >>> x = np.linspace(-1.0, 1.0, 20)[:, None]
      >>> y = (x[:, 0] > 0).astype(int)
      >>> query = queries.logit_margin(x[:2], y[:2])
      >>> game = TrainingGame(logistic(1, 2), optax.sgd(0.5), x, y, query=query, num_steps=20)
      >>> design = sample_design(jax.random.key(0), Grid((0.1, 0.3, 0.5, 0.7, 0.9)), num_submodels=100, num_sources=20)
      >>> jaxame.evaluate(game, design).shape  # 100 submodels, 2 queries
      (100, 2)
    """

    def __init__(
        self,
        model: Any,
        optimizer: optax.GradientTransformation,
        x: Any,
        y: Any,
        *,
        query: Callable[[Apply, Params], jax.Array],
        num_steps: int,
        batch_size: int | None = None,
        loss: Loss = arguments.cross_entropy,
        groups: Any = None,
        feed: str = "auto",
        inclusion: float = 0.5,
        share_order: bool = True,
        share_init: bool = False,
        shared_key: jax.Array | None = None,
        start: Params | None = None,
        augment: Augment | None = None,
        compute_dtype: Any = None,
        lowering: str = "auto",
        tile: int | None = None,
        piece: int | None = None,
        keep: Any = None,
        mesh: Mesh | None = None,
    ):
        x, y = arguments.checked_examples(x, y)
        groups = arguments.checked_groups(groups, len(x))
        is_optimizer = isinstance(optimizer, optax.GradientTransformation)
        checks.require(is_optimizer, "optimizer to be an optax GradientTransformation", repr(optimizer))
        recipe = Recipe(
            as_model(model, x),
            optimizer,
            loss,
            num_steps=checks.count(num_steps, "num_steps"),
            batch_size=len(x) if batch_size is None else min(checks.count(batch_size, "batch_size"), len(x)),
            share_order=share_order,
            augment=augment,
        )
        arguments.check_loss(recipe, x, y)
        arguments.check_augment(augment, x)
        self.query = query
        self.num_queries = arguments.checked_num_queries(recipe, query)
        self.num_sources = int(groups.max()) + 1
        self.data = TrainingData(x, y, groups)
        self.kept_points = checked_points(keep, x)
        self._keep = keeper(keep, self.kept_points)
        self._inclusion = checks.probability(inclusion, "inclusion")
        examples = Examples(x, y, groups, start=start)
        self._recipe = sizes.choose_feed(recipe, examples, feed, self._inclusion, full_batch=batch_size is None)
        self.feed = "masked" if self._recipe.own_batch is None else "gathered"
        self.warm_start = start is not None
        self._share_init = bool(share_init)
        if start is not None:
            arguments.check_start(recipe, start)

        shared_key = jax.random.key(0) if shared_key is None else checks.typed_key(shared_key, "shared_key")
        examples = share(self._recipe, examples, shared_key, share_init=share_init)
        self._mesh = tiles.local_mesh() if mesh is None else mesh
        self._impl = str(jax.random.key_impl(shared_key))
        self._shared = tiles.put_everywhere((jax.random.key_data(shared_key), examples), self._mesh)
        platform = self._mesh.devices.flat[0].platform
        self.lowering = sizes.choose_lowering(self._recipe, examples, lowering, platform)
        pure = as_model(model, x, lowering=self.lowering)
        pure = pure if compute_dtype is None else in_dtype(pure, compute_dtype)
        self._dtype = None if compute_dtype is None else jnp.dtype(compute_dtype).name
        self._recipe = dataclasses.replace(self._recipe, model=pure)
        default = sizes.default_sizes(self._recipe, examples, self.lowering, platform)
        self.tile = default[0] if tile is None else checks.count(tile, "tile")
        self.piece = default[1] if piece is None else min(checks.count(piece, "piece"), self._recipe.step_size)
        self._recipe = dataclasses.replace(self._recipe, piece=self.piece)
        self._rounds_per_chunk = sizes.rounds_per_chunk(self._recipe, examples, self.tile, platform)
        self._compiled: tiles.CompiledTile | None = None
        self._last: tuple[Params, jax.Array] | None = None  # parameters of the last round, and its masks
        self.model, self.loss = self._recipe.model, loss
        self._apply = jax.jit(self.model.apply)

    def __call__(self, keys: jax.Array, masks: Any) -> np.ndarray:
        """Train one submodel per row and measure it.

        When memory runs out, the tile is halved and the rows of this call are trained anew.

        Args:
          keys: typed keys `[m]`, of the kind of `shared_key`; each decides what its submodel shares with no other.
          masks: bool `[m, N]`, the sources each submodel may see.

        Returns:
          Utilities float32 `[m, Q]`, in the unit of the query. A submodel that diverged has non-finite entries.

        Raises:
          ValueError: if `keys` or `masks` have the wrong type or shape.
          jax.errors.JaxRuntimeError: if memory runs out with a single submodel.
        """
        return self.measure(keys, masks)[0]

    def measure(self, keys: jax.Array, masks: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Train and measure as a call does; return what is kept, too.

        Args:
          keys: `[m]` typed keys.
          masks: bool `[m, N]`, the sources that each submodel may see.

        Returns:
          utilities `[m, Q]`, and by name "params", float32 `[m, P]`, all parameters of a submodel in a row, or
          "outputs", float32 `[m, n, C]`, if `keep` asks for one of them.
        """
        masks = arguments.checked_rows(keys, masks, self.num_sources, self._impl)
        nothing = np.zeros((0, self.num_queries), np.float32), self._nothing_kept
        rounds = self._with_memory(lambda: [jax.tree.map(fetch, part) for part in self._dispatched(keys, masks)])
        utilities, kept = jax.tree.map(lambda *parts: np.concatenate(parts)[: len(masks)], nothing, *rounds)
        return utilities, kept

    @property
    def kept_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of what `measure` returns of one submodel, by name."""
        return {name: part.shape[1:] for name, part in self._nothing_kept.items()}

    def unravel(self, params: jax.Array) -> Params:
        """Return `params`, `[P]` as `measure` kept them, in the form that `train` returns."""
        return unravel(self._recipe.model, jax.random.key(0, impl=self._impl), params)

    def train(self, key: jax.Array, mask: Any) -> Params:
        """Return the parameters of one submodel, to the bit those whose utilities a call gives.

        Args:
          key: one typed key.
          mask: bool `[N]`, the sources this submodel may see; all true gives the model trained on everything.

        Raises:
          ValueError: if `key` or `mask` has the wrong type or shape.
        """
        masks = arguments.checked_rows(
            checks.typed_key(key)[None], np.asarray(mask)[None], self.num_sources, self._impl
        )

        def first(leaf: jax.Array) -> jax.Array:
            return jnp.asarray(np.asarray(leaf.addressable_data(0)[0]))

        return self._with_memory(lambda: jax.tree.map(first, next(self._rounds(key[None], masks))[0]))

    def checkpoints(self, key: jax.Array, number: int) -> Params:
        """Return the parameters `[number, ...]` of one submodel trained on everything, as training goes on.

        Args:
          key: one typed key.
          number: of parts that the steps are cut into, as equal as may be; at most as many as steps. The parameters are
            those after each; the last are those of `train`, but for rounding.

        Raises:
          ValueError: if `key` or `number` is none of these.
        """
        steps = self._recipe.num_steps
        checks.require(checks.count(number, "number") <= steps, f"a number of at most {steps} steps", number)
        shared_data, examples = self._shared
        shared_key = jax.random.wrap_key_data(shared_data, impl=self._impl)
        return _trajectory(self._recipe, examples, checks.typed_key(key), shared_key, number)

    def predict(self, params: Params, x: Any) -> jax.Array:
        """Return the outputs `[B, C]` of a submodel with `params`, as from `train`, on inputs `x [B, ...]`.

        They are computed a few hundred at a time, so that many inputs take no more memory than a few.
        """
        x = jnp.asarray(x)
        starts = range(0, max(len(x), 1), _PREDICTED_AT_ONCE)
        return jnp.concatenate([self._apply(params, x[i : i + _PREDICTED_AT_ONCE]) for i in starts])

    def training_losses(self) -> np.ndarray:
        """Return the loss of each submodel of the last round, on up to 256 of the examples that it saw.

        To watch how training goes; it changes nothing. Empty before the first call, and for devices of several
        processes.

        Returns:
          float `[m]`, in the unit of the loss; NaN for a submodel that saw none of those looked at, or diverged.
        """
        if self._last is None or self._mesh.is_multi_process:
            return np.zeros(0)
        return np.asarray(_own_losses(self._recipe, self._shared[1], *self._last))

    def preview(self, num_submodels: int) -> Preview:
        """Say what training would cost, from one round that is compiled, run once, and timed the second time.

        Args:
          num_submodels: `M`.

        Raises:
          ValueError: if `num_submodels` is not a positive integer.
        """
        num_submodels, num_rows = checks.count(num_submodels, "num_submodels"), self._round_size
        masks = np.random.default_rng(0).random((num_rows, self.num_sources)) < self._inclusion
        keys = jax.random.split(jax.random.key(0, impl=self._impl), num_rows)
        seconds = []
        for _ in range(2):
            begin = time.perf_counter()
            self(keys, masks)
            seconds.append(time.perf_counter() - begin)
        return Preview(
            num_submodels=num_submodels,
            seconds=seconds[1] * -(-num_submodels // num_rows),
            seconds_to_compile=max(seconds[0] - seconds[1], 0.0),
            num_bytes=self._tile_program().num_bytes,
            num_devices=self._mesh.size,
            tile=self.tile,
            piece=self.piece,
            feed=self.feed,
            lowering=self.lowering,
        )

    @functools.cached_property
    def flops(self) -> float:
        """Operations of the matrix products of one submodel's training, those on excluded examples too."""
        recipe = self._recipe
        return recipe.num_steps * recipe.step_size * flops_per_example(recipe, self.data.x, self.data.y)

    @property
    def about(self) -> dict[str, Any]:
        """What to record with results."""
        known = {"unit": getattr(self.query, "unit", None), "compute_dtype": self._dtype}
        return self._sizes | {name: value for name, value in known.items() if value is not None}

    @property
    def _sizes(self) -> dict[str, Any]:
        """What utilities depend on besides data, model, optimiser, query and keys."""
        names = ("num_steps", "batch_size", "own_batch", "share_order")
        recipe = {name: getattr(self._recipe, name) for name in names}
        sizes = {"lowering": self.lowering, "tile": self.tile, "piece": self.piece}
        return {"feed": self.feed, **recipe, "share_init": self._share_init, "warm_start": self.warm_start, **sizes}

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What utilities depend on, by name; see `jaxame.fingerprint`."""
        return {"kind": "jaxame.submodels.TrainingGame", **self._sums, **self._sizes}

    @functools.cached_property
    def _sums(self) -> dict[str, Any]:
        """Sums of the data and of the programs that a submodel is made by."""
        recipe, (shared_key, examples) = self._recipe, self._shared
        key = jax.random.key(0, impl=self._impl)
        params = jax.eval_shape(recipe.model.init, key)
        batch = jax.ShapeDtypeStruct((recipe.step_size, *self.data.x.shape[1:]), examples.x.dtype)
        outputs = jax.eval_shape(recipe.model.apply, params, batch)
        labels = jax.ShapeDtypeStruct((recipe.step_size, *self.data.y.shape[1:]), examples.y.dtype)
        state = jax.eval_shape(recipe.optimizer.init, params)
        programs = {
            "start": (recipe.model.init, key),
            "model": (recipe.model.apply, params, batch),
            "loss": (recipe.loss, outputs, labels),
            "optimizer": (recipe.optimizer.update, params, state, params),
            "query": (functools.partial(self.query, recipe.model.apply), params),
        }
        if recipe.augment is not None:
            programs["augment"] = recipe.augment, key, batch
        sums = {name: sum_of_program(*program) for name, program in programs.items()}
        if examples.start is not None:
            sums["start"] = sum_of_arrays(examples.start)
        return {
            "data": {name: sum_of_arrays(getattr(self.data, name)) for name in ("x", "y", "source")},
            **sums,
            "shared_key": sum_of_arrays(shared_key),
            "kept": {name: list(shape) for name, shape in self.kept_shapes.items()},
            "kept_points": None if self.kept_points is None else sum_of_arrays(self.kept_points),
        }

    @property
    def chunk_size(self) -> int:
        """Rows a driver should hand over per call."""
        return self._rounds_per_chunk * self._round_size

    @property
    def _round_size(self) -> int:
        return self.tile * self._mesh.size

    @functools.cached_property
    def _nothing_kept(self) -> dict[str, np.ndarray]:
        params = jax.eval_shape(self._recipe.model.init, jax.random.key(0, impl=self._impl))
        shapes = jax.eval_shape(functools.partial(self._keep, self._recipe.model.apply), params)
        return {name: np.zeros((0, *part.shape), part.dtype) for name, part in shapes.items()}

    def _rounds(self, keys: jax.Array, masks: np.ndarray) -> Iterator[tuple[Params, jax.Array, dict[str, jax.Array]]]:
        """Yield the `(params, utilities, kept)` of one tile per device at a time.

        The last round is padded with its last row. Rounds are handed to the devices without waiting for the one before.
        """
        program, data = self._tile_program(), np.asarray(jax.random.key_data(keys))
        for start in range(0, len(masks), self._round_size):
            rows = np.minimum(np.arange(start, start + self._round_size), len(masks) - 1)
            placed = [tiles.put_rows(part[rows], self._mesh) for part in (data, masks)]
            params, utilities, kept = program.run(*placed, *self._shared)
            self._last = params, placed[1]
            yield params, utilities, kept

    def _dispatched(self, keys: jax.Array, masks: np.ndarray) -> list[tuple[jax.Array, dict[str, jax.Array]]]:
        """Hand all rounds to the devices; parameters are let go at once."""
        return [(utilities, kept) for _, utilities, kept in self._rounds(keys, masks)]

    def _tile_program(self) -> tiles.CompiledTile:
        """Compile a round, at the first call; the tile is halved until the compiler's count fits the memory."""
        while self._compiled is None:
            keys = jax.random.key_data(jax.random.split(jax.random.key(0, impl=self._impl), self._round_size))
            masks = np.zeros((self._round_size, self.num_sources), bool)
            rows = [tiles.put_rows(part, self._mesh) for part in (keys, masks)]
            arrays = *rows, *self._shared
            compiled = tiles.compile_tile(self._recipe, self.query, self._keep, self._mesh, self._impl, arrays)
            limit = _MEMORY_SHARE * tiles.memory_limit(self._mesh.local_devices[0])
            if compiled.num_bytes > limit and self.tile > 1:
                self._halve_tile(f"a tile of {self.tile} takes {compiled.num_bytes:,} of {limit:,.0f} bytes")
            else:
                self._compiled = compiled
        return self._compiled

    def _with_memory(self, work: Callable[[], T]) -> T:
        """Do `work`, with smaller tiles when memory runs out."""
        while True:
            try:
                return work()
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error) or self.tile == 1:
                    raise
                self._halve_tile(f"memory ran out with a tile of {self.tile}")

    def _halve_tile(self, why: str) -> None:
        self.tile, self._compiled = self.tile // 2, None
        log.warning("%s; going on with a tile of %d, which changes results by rounding", why, self.tile)


_trajectory = jax.jit(trajectory, static_argnums=(0, 4))
_own_losses = jax.jit(jax.vmap(own_loss, (None, None, 0, 0)), static_argnums=0)


def fetch(utilities: jax.Array) -> np.ndarray:
    """Return an array, which may lie on the devices of several processes, on this host."""
    if utilities.is_fully_addressable:
        return np.asarray(utilities)
    return np.asarray(multihost_utils.process_allgather(utilities, tiled=True))
