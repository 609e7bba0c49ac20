"""Games of the textbooks: cost of a runway, pairs of gloves, votes with weights."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxame import checks
from jaxame.games.game import binomial_pmf, distinct_sources, finite, valid_masks
from jaxame.laws import Law

_MOST_VOTES = 2**31 - 1


@dataclasses.dataclass(frozen=True, eq=False)
class Airport:
    """`U(S) = max of costs_i over i in S`: a runway as long as its largest aircraft needs; 0 if nobody lands.

    With costs in rising order, `AME_i = sum_{j <= i} (costs_j - costs_{j-1}) E_P[(1-p)^{N-j}]`: a source pays for a
    stretch of the runway if no other source needs it.

    Args:
      costs: `[N]`, not negative; any unit.

    Raises:
      ValueError: for other shapes and values.

    References:
      Littlechild and Owen, Management Science 20(3), 1973.
    """

    costs: np.ndarray

    def __post_init__(self) -> None:
        """Validate, and store the costs as a float64 array."""
        costs = finite(self.costs, "costs")
        checks.require(costs.ndim == 1 and costs.size > 0, "costs [N]", checks.describe(costs))
        checks.require(bool((costs >= 0).all()), "costs not negative", costs.min())
        object.__setattr__(self, "costs", costs)

    @property
    def num_sources(self) -> int:
        """`N`."""
        return self.costs.size

    def __call__(self, keys: jax.Array, masks: jax.Array) -> jax.Array:
        """Return utilities float32 `[m, 1]` of masks bool `[m, N]`; `keys` are not used."""
        del keys
        masks = valid_masks(masks, self.num_sources)
        return jnp.where(masks, self.costs.astype(np.float32), 0.0).max(axis=1, keepdims=True)

    def ame(self, law: Law) -> np.ndarray:
        """Return the AME under `law`: float64 `[N]`, in the unit of the costs."""
        order = np.argsort(self.costs)
        others = np.arange(self.num_sources)[::-1]  # that need a stretch too, from the first stretch to the last
        alone = law.expectation(lambda p: (1 - p[:, None]) ** others)
        values = np.empty(self.num_sources)
        values[order] = np.cumsum(np.diff(self.costs[order], prepend=0.0) * alone)
        return values


@dataclasses.dataclass(frozen=True, eq=False)
class Gloves:
    """`U(S)` = pairs that the gloves in `S` make, the smaller of the numbers of left and of right ones.

    Also known as the shoes game. `AME_i = E_P[P(Binomial(l-1, p) < Binomial(r, p))]` for one of `l` left gloves, with
    `r` right ones, and the other way round.

    Args:
      num_sources: `N`.
      left: distinct source indices.
      right: distinct source indices, none of them in `left`.

    Raises:
      ValueError: for indices that repeat or are out of range, and where one side has none.
    """

    num_sources: int
    left: Sequence[int]
    right: Sequence[int]

    def __post_init__(self) -> None:
        """Validate, and store both sides as tuples."""
        num_sources = checks.count(self.num_sources, "num_sources")
        left, right = (distinct_sources(getattr(self, side), num_sources, side) for side in ("left", "right"))
        distinct_sources((*left, *right), num_sources, "left and right together")
        checks.require(bool(left and right), "at least one source on either side", f"{len(left)} and {len(right)}")
        object.__setattr__(self, "left", left)
        object.__setattr__(self, "right", right)

    def __call__(self, keys: jax.Array, masks: jax.Array) -> jax.Array:
        """Return utilities float32 `[m, 1]` of masks bool `[m, N]`; `keys` are not used."""
        del keys
        masks = valid_masks(masks, self.num_sources)
        left, right = (masks[:, np.array(side)].sum(axis=1) for side in (self.left, self.right))
        return jnp.minimum(left, right).astype(jnp.float32)[:, None]

    def ame(self, law: Law) -> np.ndarray:
        """Return the AME under `law`: float64 `[N]`, in pairs."""
        values = np.zeros(self.num_sources)
        for own, other in ((self.left, self.right), (self.right, self.left)):
            lacking = functools.partial(_fewer, len(own) - 1, len(other))
            values[list(own)] = law.expectation(lacking)
        return values


def _fewer(few: int, many: int, p: np.ndarray) -> np.ndarray:
    """`P(Binomial(few, p) < Binomial(many, p))`, `[J]` at `p [J]`."""
    of_few, of_many = (binomial_pmf(np.arange(n + 1), n, p[:, None]) for n in (few, many))
    more = of_many[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]  # more than 0, 1, ... many - 1
    both = min(few + 1, many)
    probability: np.ndarray = (of_few[:, :both] * more[:, :both]).sum(axis=1)
    return probability


@dataclasses.dataclass(frozen=True, eq=False)
class WeightedVoting:
    """`U(S) = 1` if the votes in `S` are at least `quota`, else 0.

    `AME_i = E_P[P(quota - weights_i <= votes of the others < quota)]`; the law of the others' votes by its generating
    function. Takes `N quota` operations for every distinct weight and point of the law's quadrature.

    Args:
      weights: integers `[N]`, not negative.
      quota: votes needed, from 1 to the sum of the weights.

    Raises:
      ValueError: for other shapes and values.

    References:
      Mann and Shapley, Values of Large Games VI, RAND RM-3158, 1962.
    """

    weights: np.ndarray
    quota: int

    def __post_init__(self) -> None:
        """Validate, and store the weights as an int64 array."""
        weights = np.asarray(self.weights)
        fits = weights.ndim == 1 and weights.size > 0 and np.issubdtype(weights.dtype, np.integer)
        checks.require(fits and bool((weights >= 0).all()), "weights, integers [N] from 0", checks.describe(weights))
        quota, votes = checks.count(self.quota, "quota"), int(weights.sum())
        checks.require(votes <= _MOST_VOTES, f"at most {_MOST_VOTES} votes", votes)
        checks.require(quota <= votes, f"quota at most the sum of the weights, {votes}", quota)
        object.__setattr__(self, "weights", weights.astype(np.int64))

    @property
    def num_sources(self) -> int:
        """`N`."""
        return self.weights.size

    def __call__(self, keys: jax.Array, masks: jax.Array) -> jax.Array:
        """Return utilities float32 `[m, 1]` of masks bool `[m, N]`; `keys` are not used."""
        del keys
        votes = jnp.where(valid_masks(masks, self.num_sources), self.weights.astype(np.int32), 0).sum(axis=1)
        return (votes >= self.quota).astype(jnp.float32)[:, None]

    def ame(self, law: Law) -> np.ndarray:
        """Return the AME under `law`: float64 `[N]`, a difference of probabilities that the vote passes."""
        weights, inverse = np.unique(self.weights, return_inverse=True)
        first = [int(np.argmax(inverse == number)) for number in range(weights.size)]
        return law.expectation(lambda p: np.stack([self._pivotal(source, p) for source in first], axis=1))[inverse]

    def _pivotal(self, source: int, p: np.ndarray) -> np.ndarray:
        """Probability that the vote passes because of one source, `[J]` at `p [J]`."""
        of_votes = np.zeros((p.size, self.quota))  # the law of the others' votes, below the quota
        of_votes[:, 0] = 1.0
        others = np.delete(self.weights, source)
        for weight in others[others > 0]:
            absent = (1 - p)[:, None] * of_votes
            absent[:, weight:] += p[:, None] * of_votes[:, :-weight]
            of_votes = absent
        own = int(self.weights[source])
        return of_votes[:, max(0, self.quota - own) :].sum(axis=1) if own else np.zeros(p.size)
