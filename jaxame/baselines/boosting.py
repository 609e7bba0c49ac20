"""Gradient boosting of small regression trees on memberships, for many targets at once.

A source is in a subset or not, so that a split is the choice of a source, and the sums on one side of all possible
splits of a level are one matrix product: of memberships, and of residuals told apart by the node that a row is in. Of
every two nodes of one parent only one takes part; the other is the rest.
"""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

_PRECISE = jax.lax.Precision.HIGHEST  # sums of residuals; an accelerator would round them to 10 bits


@dataclasses.dataclass(frozen=True, eq=False)
class Forest:
    """A sum of trees of depth `D` for each of `F` targets.

    Attributes:
      start: float `[F]`, what every prediction begins with.
      source: int `[T, F, 2^D - 1]`, the source that a node asks for, level by level; -1: none, and rows go to the left.
      leaves: float `[T, F, 2^D]`, what a leaf adds. A row goes to the right at a node whose source is in its subset.
    """

    start: np.ndarray
    source: np.ndarray
    leaves: np.ndarray

    def predict(self, masks: np.ndarray, targets: slice = slice(None)) -> np.ndarray:
        """Predictions `[m, F]` of some of the targets on subsets `[m, N]`."""
        source, leaves = self.source[:, targets], self.leaves[:, targets]
        number, rows = np.arange(source.shape[1]), np.arange(len(masks))[:, None]
        total = np.tile(self.start[targets], (len(masks), 1))
        inside = np.asarray(masks, bool)
        for asked, added in zip(source, leaves, strict=True):
            node = np.zeros(total.shape, int)
            while node.size and node.flat[0] < source.shape[2]:  # all rows are on the same level
                asks = asked[number, node]
                node = 2 * node + 1 + ((asks >= 0) & inside[rows, asks])
            total += added[number, node - source.shape[2]]
        return total

    def shapley(self, num_sources: int) -> np.ndarray:
        """Shapley values `[F, N]` of the predictions as a game over the sources.

        A leaf that is reached if all of `a` sources are in and all of `b` are out gives each of the former
        `(a-1)! b! / (a+b)!` of what it adds and takes `a! (b-1)! / (a+b)!` from each of the latter.
        """
        depth = self.leaves.shape[2].bit_length() - 1
        leaf, level = np.arange(2**depth), np.arange(depth)[:, None]
        on_path = self.source[..., 2**level - 1 + (leaf >> (depth - level))]  # [T, F, D, 2^D]
        went = (leaf >> (depth - 1 - level)) & 1
        asked = on_path >= 0
        there, absent = (asked & (went == 1)).sum(axis=2), (asked & (went == 0)).sum(axis=2)
        share = np.zeros((2, depth + 1, depth + 1))  # by way, a and b
        for a, b in itertools.product(range(depth + 1), repeat=2):
            share[1, a, b] = 1 / (a * math.comb(a + b, a)) if a else 0.0
            share[0, a, b] = -1 / (b * math.comb(a + b, b)) if b else 0.0
        value = np.where(asked, self.leaves[:, :, None] * share[went, there[:, :, None], absent[:, :, None]], 0.0)
        shapley = np.zeros((self.source.shape[1], num_sources))
        target = np.broadcast_to(np.arange(self.source.shape[1])[:, None, None], value.shape)
        np.add.at(shapley, (target, np.maximum(on_path, 0)), value)
        return shapley


def boost(
    key: jax.Array,
    masks: np.ndarray,
    targets: np.ndarray,
    weights: np.ndarray,
    *,
    num_trees: int = 100,
    depth: int = 4,
    rate: float = 0.1,
    columns: float = 0.5,
    least: int = 5,
) -> Forest:
    """Fit a forest to the squared error of every target.

    Args:
      key: one typed key; decides the sources that each tree may ask for.
      masks: `[M, N]` memberships.
      targets: `[M, F]`.
      weights: `[M, F]`, 1 for the rows that a target is fitted to, 0 for the others.
      num_trees: `T`.
      depth: `D`, splits on the way to a leaf.
      rate: share of its mean residual that a leaf adds.
      columns: share of the sources that a tree may ask for.
      least: rows on each side of a split.

    References:
      Friedman, Greedy Function Approximation: A Gradient Boosting Machine, Annals of Statistics 29(5), 2001.
    """
    parts = (np.asarray(part, np.float32) for part in (masks, targets, weights))
    num_columns = max(1, round(columns * np.shape(masks)[1]))
    source, leaves, start = _boost(key, *parts, num_trees, depth, rate, num_columns, least)
    return Forest(np.asarray(start, np.float64), np.asarray(source), np.asarray(leaves, np.float64))


@functools.partial(jax.jit, static_argnums=(4, 5, 7))
def _boost(
    key: jax.Array,
    masks: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    num_trees: int,
    depth: int,
    rate: float,
    num_columns: int,
    least: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    start = (weights * targets).sum(axis=0) / weights.sum(axis=0)

    def add_tree(predicted: jax.Array, key: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        left = targets - predicted
        asked_for = jax.random.choice(key, masks.shape[1], (num_columns,), replace=False)
        some = masks[:, asked_for]
        node, sources = jnp.zeros(targets.shape, jnp.int32), []
        rows = _by_node(node, left, weights, 1)
        inside, total = _inside(some, rows), rows.sum(axis=0)
        for level in range(depth):
            best = _best(inside, total, least)
            sources.append(jnp.where(best >= 0, asked_for[best], -1))
            asks = jnp.take_along_axis(best.T, node, axis=0)
            is_in = (asks >= 0) & (jnp.take_along_axis(some, jnp.maximum(asks, 0), axis=1) > 0)
            rows = _by_node(node, left, weights * is_in, 2**level)
            node = 2 * node + is_in
            total = _children(total, rows.sum(axis=0))
            if level < depth - 1:
                inside = _children(inside, _inside(some, rows))
        leaves = rate * total[..., 0] / jnp.maximum(total[..., 1], 1)
        return predicted + jnp.take_along_axis(leaves.T, node, axis=0), (jnp.concatenate(sources, axis=1), leaves)

    keys = jax.random.split(key, num_trees)
    _, (source, leaves) = jax.lax.scan(add_tree, jnp.broadcast_to(start, targets.shape), keys)
    return source, leaves, start


def _by_node(node: jax.Array, left: jax.Array, weights: jax.Array, width: int) -> jax.Array:
    """Residuals and weights of rows `[M, F, width, 2]`, zero but for the node that the row is in."""
    own = (node[..., None] == jnp.arange(width)) * weights[..., None]
    return jnp.stack([own * left[..., None], own], axis=-1)


def _inside(masks: jax.Array, rows: jax.Array) -> jax.Array:
    """Sums `[N, F, width, 2]` over the rows that a source is in."""
    return jnp.einsum("mn,mfwc->nfwc", masks, rows, precision=_PRECISE)


def _children(parent: jax.Array, right: jax.Array) -> jax.Array:
    """Sums `[..., 2 width, 2]` of both children of every node, from those `[..., width, 2]` of one of them."""
    both = jnp.stack([parent - right, right], axis=-2)
    return both.reshape(*parent.shape[:-2], -1, 2)


def _best(inside: jax.Array, total: jax.Array, least: int) -> jax.Array:
    """The column `[F, width]` whose split of a node lowers the squared error most; -1 where none does."""
    outside = total - inside
    possible = jnp.minimum(inside[..., 1], outside[..., 1]) >= least
    gain = sum(side[..., 0] ** 2 / jnp.maximum(side[..., 1], 1) for side in (inside, outside))
    gain = jnp.where(possible, gain - total[..., 0] ** 2 / jnp.maximum(total[..., 1], 1), 0.0)
    return jnp.where(gain.max(axis=0) > 0, gain.argmax(axis=0), -1)
