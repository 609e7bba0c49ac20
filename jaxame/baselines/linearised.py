"""A trained model to first order: gradients of its queries and of the losses of training examples, chunk by chunk."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxame.baselines.trained import Params
from jaxame.submodels import TrainingGame

_CHUNK_NUMBERS = 2**24
"""Numbers that the gradients of a chunk of examples may take."""
_LARGEST_CHUNK = 256
_BLOCK = 4096
"""Rows of a random projection that are drawn at a time."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linearised:
    """What gradient-based estimators need of a game that trains; nothing is kept that grows with examples x parameters.

    Attributes:
      x: `[n, ...]` training inputs.
      y: `[n, ...]` targets.
      rows: int `[k, c]`, the examples in chunks; the last one is filled up.
      counts: float `[k, c]`, 0 for what it is filled with, else 1.
      apply: see `TrainingGame.model`.
      loss: see `TrainingGame`.
      query: likewise.
    """

    x: jax.Array
    y: jax.Array
    rows: jax.Array
    counts: jax.Array
    apply: Callable[[Params, jax.Array], jax.Array] = dataclasses.field(metadata={"static": True})
    loss: Callable[[jax.Array, jax.Array], jax.Array] = dataclasses.field(metadata={"static": True})
    query: Callable[..., jax.Array] = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, game: TrainingGame) -> "Linearised":
        """Return that of a game."""
        num_examples = len(game.data.x)
        size = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(game.model.init, jax.random.key(0))))
        chunk = int(np.clip(_CHUNK_NUMBERS // size, 1, min(_LARGEST_CHUNK, num_examples)))
        rows = np.arange(-(-num_examples // chunk) * chunk).reshape(-1, chunk)
        counts = (rows < num_examples).astype(np.float32)
        return cls(
            x=jnp.asarray(game.data.x),
            y=jnp.asarray(game.data.y),
            rows=jnp.asarray(np.minimum(rows, num_examples - 1)),
            counts=jnp.asarray(counts),
            apply=game.model.apply,
            loss=game.loss,
            query=game.query,
        )

    @property
    def num_examples(self) -> int:
        """`n`."""
        return len(self.x)

    @jax.jit
    def utilities(self, params: Params) -> jax.Array:
        """Return the values `[Q]` of the query."""
        return self.query(self.apply, params)

    @jax.jit
    def query_gradients(self, params: Params) -> Params:
        """Return the gradients of the query, a pytree of `[Q, ...]`."""
        return jax.jacrev(functools.partial(self.query, self.apply))(params)

    @jax.jit
    def slopes(self, params: Params, directions: Params) -> jax.Array:
        """Return the slope of every example's loss along each of `directions [Q, ...]`, `[Q, n]`."""

        def of_chunk(rows: jax.Array) -> jax.Array:
            losses = functools.partial(self._losses, rows=rows)
            slopes: jax.Array = jax.vmap(lambda direction: jax.jvp(losses, (params,), (direction,))[1])(directions)
            return slopes

        found = jnp.moveaxis(jax.lax.map(of_chunk, self.rows), 0, 1)
        return found.reshape(len(found), -1)[:, : self.num_examples]

    @jax.jit
    def gradient_norms(self, params: Params) -> jax.Array:
        """Return the norm of the gradient of every example's loss, `[n]`."""

        def of_one(row: jax.Array) -> jax.Array:
            gradient = jax.grad(lambda p: self._losses(p, row[None])[0])(params)
            return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient)))

        of_all: jax.Array = jax.lax.map(jax.vmap(of_one), self.rows).reshape(-1)[: self.num_examples]
        return of_all

    def curvature(self, params: Params, vector: Params) -> Params:
        """Return the Gauss-Newton matrix of the mean training loss times a vector; for use within `jax.jit`."""

        def add(total: Params, part: tuple[jax.Array, jax.Array]) -> tuple[Params, None]:
            return jax.tree.map(jnp.add, total, self._curvature_on(params, vector, *part)), None

        nothing = jax.tree.map(jnp.zeros_like, vector)
        total = jax.lax.scan(add, nothing, (self.rows, self.counts))[0]
        return jax.tree.map(lambda leaf: leaf / self.num_examples, total)

    def curvature_of_sample(self, params: Params, vector: Params, key: jax.Array, size: int) -> Params:
        """Do so for the mean loss over `size` examples, drawn with replacement."""
        rows = jax.random.randint(key, (size,), 0, self.num_examples)
        return self._curvature_on(params, vector, rows, jnp.full(size, 1 / size))

    def _curvature_on(self, params: Params, vector: Params, rows: jax.Array, weight: jax.Array) -> Params:
        def outputs(p: Params) -> jax.Array:
            return self.apply(p, self.x[rows])

        def slope(out: jax.Array) -> jax.Array:
            slope: jax.Array = jax.grad(lambda o: jnp.sum(weight * self.loss(o, self.y[rows])))(out)
            return slope

        out, moved = jax.jvp(outputs, (params,), (vector,))
        return jax.vjp(outputs, params)[1](jax.jvp(slope, (out,), (moved,))[1])[0]

    @functools.partial(jax.jit, static_argnums=3)
    def margin_features(self, params: Params, key: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
        """Return projected gradients of every example's `log p/(1-p)` of its label, `[n, size]`, and `1-p`, `[n]`."""

        def margin(p: Params, row: jax.Array) -> tuple[jax.Array, jax.Array]:
            log_p = jax.nn.log_softmax(self.apply(p, self.x[row][None])[0])
            own = jnp.arange(log_p.size) == self.y[row]
            others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, log_p))
            return jnp.sum(jnp.where(own, log_p, 0.0)) - others, jnp.exp(others)

        def of_chunk(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
            gradients, missing = jax.vmap(jax.grad(margin, has_aux=True), (None, 0))(params, rows)
            return project(gradients, key, size), missing

        features, missing = jax.lax.map(of_chunk, self.rows)
        return features.reshape(-1, size)[: self.num_examples], missing.reshape(-1)[: self.num_examples]

    def _losses(self, params: Params, rows: jax.Array) -> jax.Array:
        return self.loss(self.apply(params, self.x[rows]), self.y[rows])


def project(vectors: Params, key: jax.Array, size: int) -> jax.Array:
    """Project `vectors [m, ...]` by a matrix of random signs, over the root of `size`, to `[m, size]`."""
    flat = jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(vectors)], axis=1)
    num_blocks = -(-flat.shape[1] // _BLOCK)
    flat = jnp.pad(flat, ((0, 0), (0, num_blocks * _BLOCK - flat.shape[1])))

    def add(total: jax.Array, block: jax.Array) -> tuple[jax.Array, None]:
        signs = jax.random.rademacher(jax.random.fold_in(key, block), (_BLOCK, size), jnp.float32)
        part = jax.lax.dynamic_slice_in_dim(flat, block * _BLOCK, _BLOCK, axis=1)
        return total + jnp.matmul(part, signs, precision="highest"), None

    total = jax.lax.scan(add, jnp.zeros((len(flat), size)), jnp.arange(num_blocks))[0]
    scaled: jax.Array = total / np.sqrt(size)
    return scaled


def norms(vectors: Params) -> jax.Array:
    """Return the norms `[m]` of `vectors [m, ...]`."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf.reshape(len(leaf), -1)), axis=1) for leaf in jax.tree.leaves(vectors)))
