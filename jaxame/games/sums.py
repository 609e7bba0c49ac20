"""Games that are sums: of what sources add, and of what coalitions add."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxame import checks
from jaxame.games.game import distinct_sources, finite, valid_masks
from jaxame.laws import Law


@dataclasses.dataclass(frozen=True, eq=False)
class Additive:
    """`U_q(S) = bias_q + sum of weights_qi over i in S`; the AME of a source is its weight under every law.

    Args:
      weights: `[N]`, or `[Q, N]` for several queries; the unit of the utility.
      bias: the utility of the empty subset, a number or `[Q]`.

    Raises:
      ValueError: for other shapes and for non-finite values.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from jaxame.design import PointMass
      >>> from jaxame.games import Additive
      >>> game = Additive([2.0, 1.0, 0.0])
      >>> masks = np.array([[True, True, True], [True, False, False]])
      >>> game(jax.random.split(jax.random.key(0), 2), masks)
      Array([[3.],
             [2.]], dtype=float32)
      >>> game.ame(PointMass(0.5))
      array([2., 1., 0.])
    """

    weights: np.ndarray
    bias: float | np.ndarray = 0.0

    def __post_init__(self) -> None:
        """Validate, and store both fields as float64 arrays."""
        weights = finite(self.weights, "weights")
        checks.require(weights.ndim in (1, 2) and weights.size > 0, "weights [N] or [Q, N]", checks.describe(weights))
        bias = finite(self.bias, "bias")
        num_queries = 1 if weights.ndim == 1 else len(weights)
        checks.require(bias.shape in ((), (num_queries,)), f"bias a number or [{num_queries}]", checks.describe(bias))
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "bias", bias)

    @property
    def num_sources(self) -> int:
        """`N`."""
        return int(self.weights.shape[-1])

    def __call__(self, keys: jax.Array, masks: jax.Array) -> jax.Array:
        """Return utilities float32 `[m, Q]` of masks bool `[m, N]`; `keys` are not used."""
        del keys
        weights, bias = (np.atleast_2d(part).astype(np.float32) for part in (self.weights, self.bias))
        utilities: jax.Array = _linear_utility(valid_masks(masks, self.num_sources), weights.T, bias)
        return utilities

    def ame(self, law: Law) -> np.ndarray:
        """Return the AME under any `law`: the weights, float64 `[N]` or `[Q, N]` as they were given."""
        del law
        return self.weights.copy()


@dataclasses.dataclass(frozen=True, eq=False)
class UnanimitySum:
    """`U(S) = sum of weights_T over the coalitions T inside S`: any game, given by its Moebius coefficients.

    `AME_i = sum_{T contains i} weights_T E_P[p^(|T|-1)]`.

    Args:
      num_sources: `N`.
      coalitions: `[C]` sequences of distinct source indices; the empty one adds a constant.
      weights: `[C]`, any unit.

    Raises:
      ValueError: for indices that repeat or are out of range, and weights that do not fit the coalitions.
    """

    num_sources: int
    coalitions: Sequence[Sequence[int]]
    weights: np.ndarray

    def __post_init__(self) -> None:
        """Validate; store coalitions as tuples and weights as a float64 array."""
        num_sources = checks.count(self.num_sources, "num_sources")
        coalitions = tuple(distinct_sources(c, num_sources, "every coalition") for c in self.coalitions)
        checks.require(len(coalitions) > 0, "at least one coalition", "none")
        weights = finite(self.weights, "weights")
        checks.require(weights.shape == (len(coalitions),), f"weights [{len(coalitions)}]", checks.describe(weights))
        object.__setattr__(self, "coalitions", coalitions)
        object.__setattr__(self, "weights", weights)

    def _membership(self) -> np.ndarray:
        """Return bool `[C, N]`, True where the source is in the coalition."""
        membership = np.zeros((len(self.coalitions), self.num_sources), bool)
        for row, coalition in zip(membership, self.coalitions, strict=True):
            row[list(coalition)] = True
        return membership

    def __call__(self, keys: jax.Array, masks: jax.Array) -> jax.Array:
        """Return utilities float32 `[m, 1]` of masks bool `[m, N]`; `keys` are not used."""
        del keys
        masks = valid_masks(masks, self.num_sources)
        utilities: jax.Array = _unanimity_utility(masks, self._membership(), self.weights.astype(np.float32))
        return utilities

    def ame(self, law: Law) -> np.ndarray:
        """Return the AME under `law`: float64 `[N]`, in the unit of the weights."""
        membership = self._membership()
        sizes = membership.sum(axis=1)
        moments = law.expectation(lambda p: p[:, None] ** np.arange(max(1, sizes.max())))
        values: np.ndarray = (self.weights * moments[np.maximum(sizes - 1, 0)]) @ membership
        return values


@jax.jit
def _linear_utility(masks: jax.Array, weights: jax.Array, bias: jax.Array) -> jax.Array:
    """Return `bias + masks weights` for weights `[N, Q]` and bias `[1, 1]` or `[1, Q]`; float32 `[m, Q]`."""
    return bias + jnp.matmul(masks.astype(jnp.float32), weights, precision="highest")


@jax.jit
def _unanimity_utility(masks: jax.Array, membership: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum the weights `[C]` of the coalitions `[C, N]` that are wholly in; float32 `[m, 1]`."""
    missing = jnp.matmul((~masks).astype(jnp.float32), membership.T.astype(jnp.float32), precision="highest")
    return jnp.matmul((missing == 0).astype(jnp.float32), weights[:, None], precision="highest")
