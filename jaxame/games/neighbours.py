"""The utility of a nearest-neighbour classifier, the one trained model whose values are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special
from scipy.spatial import distance

from jaxame import checks
from jaxame.games.game import binomial_pmf, finite, valid_masks
from jaxame.laws import Law
from jaxame.types import TrainingData


@dataclasses.dataclass(frozen=True, eq=False)
class NearestNeighbours:
    r"""`U_q(S)`: probability that a `K`-nearest-neighbour classifier trained on `S` gives to the label of test point q.

    That is the share of right labels among the `K` nearest examples of `S`; where `S` has fewer, the missing ones
    count as wrong. With examples in the order of their distance, numbered from 0, and `right_j` for a right label,

        AME_j = (right_j E_P[P(Binomial(j, p) < K)] - sum_{l > j} right_l E_P[p P(Binomial(l-1, p) = K-1)]) / K:

    an example counts if fewer than `K` are nearer, and then puts out the one that was the `K`-th.

    Args:
      x: `[N, d]` training inputs.
      y: `[N]` labels, of any kind that can be compared.
      test_x: `[Q, d]` test inputs, in the unit of `x`.
      test_y: `[Q]` their labels.
      num_neighbours: `K`.

    Raises:
      ValueError: for shapes that disagree, and for inputs that are not finite.

    References:
      Jia et al., Efficient Task-Specific Data Valuation for Nearest Neighbor Algorithms, VLDB 2019, theorem 1: the
      Shapley value, to which this is the AME of any law.
    """

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    num_neighbours: int = 5
    _order: np.ndarray = dataclasses.field(init=False, repr=False)
    _right: np.ndarray = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Validate; store inputs as float64 arrays."""
        for inputs, labels in (("x", "y"), ("test_x", "test_y")):
            array, label = finite(getattr(self, inputs), inputs), np.asarray(getattr(self, labels))
            checks.require(array.ndim == 2 and len(array) > 0, f"{inputs} [n, d]", checks.describe(array))
            fits = label.shape == (len(array),)
            checks.require(fits, f"{labels} [{len(array)}], a label for every input", checks.describe(label))
            object.__setattr__(self, inputs, array)
            object.__setattr__(self, labels, label)
        width = self.x.shape[1]
        checks.require(self.test_x.shape[1] == width, f"test_x [Q, {width}]", checks.describe(self.test_x))
        checks.count(self.num_neighbours, "num_neighbours")
        order = np.argsort(distance.cdist(self.test_x, self.x), axis=1, kind="stable")
        object.__setattr__(self, "_order", order)
        object.__setattr__(self, "_right", self.y[order] == self.test_y[:, None])

    @property
    def num_sources(self) -> int:
        """`N`."""
        return len(self.x)

    @property
    def data(self) -> TrainingData:
        """The training set, each example a source."""
        return TrainingData(self.x, self.y, np.arange(len(self.x)))

    @property
    def num_queries(self) -> int:
        """`Q`."""
        return len(self.test_x)

    def __call__(self, keys: jax.Array, masks: jax.Array) -> jax.Array:
        """Return utilities float32 `[m, Q]` of masks bool `[m, N]`; `keys` are not used."""
        del keys
        masks = valid_masks(masks, self.num_sources)
        utilities: jax.Array = _share_right(masks, self._order, self._right, self.num_neighbours)
        return utilities

    def ame(self, law: Law) -> np.ndarray:
        """Return the AME under `law`: float64 `[Q, N]`, a difference of probabilities."""
        near = law.expectation(lambda p: _has_room(self.num_sources, self.num_neighbours, p))
        last = law.expectation(lambda p: _is_last(self.num_sources, self.num_neighbours, p))
        put_out = self._right * last
        after = put_out[:, ::-1].cumsum(axis=1)[:, ::-1] - put_out
        values = np.empty(self._right.shape)
        np.put_along_axis(values, self._order, (self._right * near - after) / self.num_neighbours, axis=1)
        return values


@jax.jit
def _share_right(masks: jax.Array, order: jax.Array, right: jax.Array, num_neighbours: jax.Array) -> jax.Array:
    """Share of right labels among the nearest of each of the masks `[m, N]`, one test point at a time, `[m, Q]`."""

    def of_point(parts: tuple[jax.Array, jax.Array]) -> jax.Array:
        is_in = masks[:, parts[0]]
        counts = is_in & (jnp.cumsum(is_in, axis=1) <= num_neighbours) & parts[1]
        return counts.sum(axis=1) / num_neighbours

    utilities: jax.Array = jax.lax.map(of_point, (order, right)).T.astype(jnp.float32)
    return utilities


def _has_room(num_sources: int, num_neighbours: int, p: np.ndarray) -> np.ndarray:
    """`P(Binomial(j, p) < K)` for `j` of 0 to N-1, `[J, N]` at `p [J]`."""
    nearer = np.arange(num_sources)
    too_many = special.betainc(num_neighbours, np.maximum(nearer - num_neighbours + 1, 1), p[:, None])
    return np.where(nearer < num_neighbours, 1.0, 1.0 - too_many)


def _is_last(num_sources: int, num_neighbours: int, p: np.ndarray) -> np.ndarray:
    """`p P(Binomial(l-1, p) = K-1)` for `l` of 0 to N-1, `[J, N]` at `p [J]`."""
    nearer = np.arange(num_sources) - 1  # besides the example that is added
    probability = binomial_pmf(num_neighbours - 1, np.maximum(nearer, num_neighbours - 1), p[:, None])
    return np.where(nearer >= num_neighbours - 1, p[:, None] * probability, 0.0)
