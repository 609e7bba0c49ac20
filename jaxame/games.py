"""Games with closed-form values: the oracle for tests, documentation and baselines.

A game maps masks to utilities. Those here have an AME that follows from `AME_i = E_P[m_i(p)]` (DESIGN.md section 4) by
integrating over the law in float64, so that an estimate can be compared with the truth, scale included.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxame import checks
from jaxame.laws import Law

_MAX_ENUMERATED = 16
_ENUMERATION_CHUNK = 4096


class Game(Protocol):
    """Anything that maps subsets to utilities.

    It is called on the host with concrete arrays, chunk by chunk: it may jit inside, or run anything else.

    Attributes:
      num_sources: `N`.
    """

    @property
    def num_sources(self) -> int:
        """`N`."""

    def __call__(self, keys: jax.Array, masks: jax.Array) -> jax.Array:
        """Map typed keys `[m]` and masks bool `[m, N]` to utilities `[m, Q]`, in the game's own unit."""


@dataclasses.dataclass(frozen=True, eq=False)
class Additive:
    """`U_q(S) = bias_q + sum of weights_qi over i in S`; the AME of a source is its weight under every law.

    Args:
      weights: `[N]`, or `[Q, N]` for several queries; the unit of the utility.
      bias: the utility of the empty subset, a number or `[Q]`.

    Raises:
      ValueError: for other shapes and for non-finite values.
    """

    weights: np.ndarray
    bias: float | np.ndarray = 0.0

    def __post_init__(self) -> None:
        """Validate, and store both fields as float64 arrays."""
        weights = _finite(self.weights, "weights")
        checks.require(weights.ndim in (1, 2) and weights.size > 0, "weights [N] or [Q, N]", checks.describe(weights))
        bias = _finite(self.bias, "bias")
        num_queries = 1 if weights.ndim == 1 else len(weights)
        checks.require(bias.shape in ((), (num_queries,)), f"bias a number or [{num_queries}]", checks.describe(bias))
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "bias", bias)

    @property
    def num_sources(self) -> int:
        """`N`."""
        return self.weights.shape[-1]

    def __call__(self, keys: jax.Array, masks: jax.Array) -> jax.Array:
        """Return utilities float32 `[m, Q]` of masks bool `[m, N]`; `keys` are not used."""
        del keys
        weights = np.atleast_2d(self.weights).T.astype(np.float32)
        return _linear_utility(
            _valid_masks(masks, self.num_sources), weights, np.atleast_2d(self.bias).astype(np.float32)
        )

    def ame(self, law: Law) -> np.ndarray:
        """Return the AME: the weights, float64 in their own shape."""
        del law
        return self.weights.copy()


@dataclasses.dataclass(frozen=True, eq=False)
class CountGame:
    """`U(S) = levels[number of members in S]`: a game in which the members are alike and nobody else matters.

    With `k` members, `AME_i = E_P sum_j Binomial(j; k-1, p) (levels[j+1] - levels[j])` for a member and 0 otherwise.

    Args:
      num_sources: `N`.
      members: `[k]` distinct source indices.
      levels: `[k+1]` utility with 0 to `k` members in, any unit.

    Raises:
      ValueError: for members that repeat or are out of range, and levels that do not fit them.
    """

    num_sources: int
    members: Sequence[int]
    levels: np.ndarray

    def __post_init__(self) -> None:
        """Validate; store members as a tuple and levels as a float64 array."""
        num_sources = checks.count(self.num_sources, "num_sources")
        members = _distinct_sources(self.members, num_sources, "members")
        checks.require(len(members) > 0, "at least one member", "none")
        levels = _finite(self.levels, "levels")
        checks.require(levels.shape == (len(members) + 1,), f"levels [{len(members) + 1}]", checks.describe(levels))
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "levels", levels)

    def __call__(self, keys: jax.Array, masks: jax.Array) -> jax.Array:
        """Return utilities float32 `[m, 1]` of masks bool `[m, N]`; `keys` are not used."""
        del keys
        masks = _valid_masks(masks, self.num_sources)
        return _count_utility(masks, np.array(self.members), self.levels.astype(np.float32))

    def ame(self, law: Law) -> np.ndarray:
        """Return the AME under `law`: float64 `[N]`, in the unit of the levels."""
        steps = np.diff(self.levels)
        counts = np.flatnonzero(steps)
        others = len(self.members) - 1
        values = np.zeros(self.num_sources)
        values[list(self.members)] = law.expectation(
            lambda p: _binomial_pmf(counts, others, p[:, None]) @ steps[counts]
        )
        return values


class Threshold(CountGame):
    """`U(S) = 1` if at least `threshold` of the members are in `S`, else 0.

    `AME_i = E_P[Binomial(threshold-1; k-1, p)]` for each of the `k` members.

    Args:
      num_sources: `N`.
      members: `[k]` distinct source indices.
      threshold: 1 to `k`.

    Raises:
      ValueError: for other arguments.
    """

    def __init__(self, num_sources: int, members: Sequence[int], threshold: int) -> None:
        num_members = np.size(members)
        threshold = checks.count(threshold, "threshold")
        checks.require(threshold <= num_members, f"threshold at most the number of members, {num_members}", threshold)
        super().__init__(num_sources, members, np.arange(num_members + 1) >= threshold)


class Unanimity(CountGame):
    """`U(S) = weight` if all `k` members are in `S`, else 0; `AME_i = weight E_P[p^(k-1)]` for a member.

    Args:
      num_sources: `N`.
      members: `[k]` distinct source indices.
      weight: any unit.

    Raises:
      ValueError: for other arguments.
    """

    def __init__(self, num_sources: int, members: Sequence[int], weight: float = 1.0) -> None:
        super().__init__(num_sources, members, np.append(np.zeros(np.size(members)), weight))


class Majority(CountGame):
    """Symmetric majority: `U(S) = 1` if more than half of the `k` members are in `S`, else -1.

    `AME_i = 2 E_P[Binomial((k-1)/2; k-1, p)]` for a member. The game is self-dual: `U(S) = -U(complement of S)`.

    Args:
      num_sources: `N`.
      members: `[k]` distinct source indices, `k` odd; None for all sources.

    Raises:
      ValueError: for an even number of members, and for other arguments.
    """

    def __init__(self, num_sources: int, members: Sequence[int] | None = None) -> None:
        members = range(checks.count(num_sources, "num_sources")) if members is None else members
        num_members = np.size(members)
        checks.require(num_members % 2 == 1, "an odd number of members", num_members)
        super().__init__(num_sources, members, np.where(2 * np.arange(num_members + 1) > num_members, 1.0, -1.0))


class Saturating(CountGame):
    """`U(S) = sigmoid(slope * (number of members in S - centre))`: many members add little to enough members.

    Args:
      num_sources: `N`.
      members: `[k]` distinct source indices.
      slope: per member.
      centre: number of members at which the utility is 1/2.

    Raises:
      ValueError: for other arguments.
    """

    def __init__(self, num_sources: int, members: Sequence[int], slope: float = 1.0, centre: float = 0.0) -> None:
        slope, centre = float(_finite(slope, "slope")), float(_finite(centre, "centre"))
        super().__init__(num_sources, members, special.expit(slope * (np.arange(np.size(members) + 1) - centre)))


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
        coalitions = tuple(_distinct_sources(c, num_sources, "every coalition") for c in self.coalitions)
        checks.require(len(coalitions) > 0, "at least one coalition", "none")
        weights = _finite(self.weights, "weights")
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
        masks = _valid_masks(masks, self.num_sources)
        return _unanimity_utility(masks, self._membership(), self.weights.astype(np.float32))

    def ame(self, law: Law) -> np.ndarray:
        """Return the AME under `law`: float64 `[N]`, in the unit of the weights."""
        membership = self._membership()
        sizes = membership.sum(axis=1)
        moments = law.expectation(lambda p: p[:, None] ** np.arange(max(1, sizes.max())))
        return (self.weights * moments[np.maximum(sizes - 1, 0)]) @ membership


@dataclasses.dataclass(frozen=True, eq=False)
class TwoLevel:
    r"""A game over users and their posts: posts of a user saturate, and users interact.

    `U(S) = sum over coalitions T of weights_T prod_{v in T} h(K_v)`, with `K_v` the number of the user's responsible
    posts in `S` and `h(K) = 1 - (1 - saturation)^K`: each of them alone does what the others have left to do.

    With users in with probability `p` and their posts, if so, with probability `r`, user `v` with `k_v` responsible
    posts and `e_v(r) = E[h(K_v)] = 1 - (1 - saturation r)^{k_v}`,

        AME of user v = sum_{T contains v} weights_T E[p^{|T|-1}] E[prod_{w in T} e_w(r)],
        AME of a responsible post, its user v being in = the same with saturation (1 - saturation r)^{k_v - 1} for e_v.

    Args:
      user: int `[n]`, the user of every post, from 0; posts are the sources.
      responsible: distinct posts that count.
      coalitions: `[C]` sequences of distinct users.
      weights: `[C]`, any unit.
      saturation: above 0 and at most 1; 1 for a user who does all there is to do with any one post.

    Raises:
      ValueError: for indices that repeat or are out of range, and for other weights or saturation.
    """

    user: np.ndarray
    responsible: Sequence[int]
    coalitions: Sequence[Sequence[int]]
    weights: np.ndarray
    saturation: float = 0.5

    def __post_init__(self) -> None:
        """Validate; store indices as arrays and tuples, and weights as a float64 array."""
        user = np.asarray(self.user)
        fits = user.ndim == 1 and user.size > 0 and np.issubdtype(user.dtype, np.integer) and user.min() >= 0
        checks.require(bool(fits), "user, integers [n] from 0", checks.describe(self.user))
        responsible = _distinct_sources(self.responsible, user.size, "responsible")
        coalitions = tuple(_distinct_sources(c, int(user.max()) + 1, "every coalition") for c in self.coalitions)
        weights = _finite(self.weights, "weights")
        checks.require(weights.shape == (len(coalitions),), f"weights [{len(coalitions)}]", checks.describe(weights))
        inside = 0 < self.saturation <= 1
        checks.require(inside, "saturation above 0 and at most 1", checks.describe(self.saturation))
        values = {"user": user, "responsible": responsible, "coalitions": coalitions, "weights": weights}
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def num_sources(self) -> int:
        """`n`, the number of posts."""
        return self.user.size

    @property
    def num_users(self) -> int:
        """`V`."""
        return int(self.user.max()) + 1

    def __call__(self, keys: jax.Array, masks: jax.Array) -> jax.Array:
        """Return utilities float32 `[m, 1]` of masks bool `[m, n]`; `keys` are not used."""
        del keys
        is_in = np.asarray(_valid_masks(masks, self.num_sources))[:, list(self.responsible)]
        count = is_in.astype(np.float64) @ np.eye(self.num_users)[self.user[list(self.responsible)]]
        done = 1 - (1 - self.saturation) ** count
        terms = [done[:, list(coalition)].prod(axis=1) for coalition in self.coalitions]
        return jnp.asarray(np.stack(terms, axis=1) @ self.weights, jnp.float32)[:, None]

    def user_ame(self, law: Law, within: Law) -> np.ndarray:
        """Return the AME of every user: float64 `[V]`, users in by `law` and their posts by `within`."""
        r, share = within.quadrature()
        done, values = self._done(r), np.zeros(self.num_users)
        for coalition, weight in self._moments(law):
            values[coalition] += weight * share @ done[:, coalition].prod(axis=1)
        return values

    def post_ame(self, law: Law, within: Law) -> np.ndarray:
        """Return the AME of every post given that its user is in: float64 `[n]`."""
        r, share = within.quadrature()
        done, step, of_user = self._done(r), self._step(r), np.zeros(self.num_users)
        for coalition, weight in self._moments(law):
            for own in coalition:
                others = [other for other in coalition if other != own]
                of_user[own] += weight * share @ (step[:, own] * done[:, others].prod(axis=1))
        values = np.zeros(self.num_sources)
        values[list(self.responsible)] = of_user[self.user[list(self.responsible)]]
        return values

    def _moments(self, law: Law) -> list[tuple[list[int], float]]:
        """Coalitions with `weights_T E[p^{|T|-1}]`; the empty one has no effect."""
        sizes = np.array([max(1, len(coalition)) for coalition in self.coalitions])
        weights = self.weights * law.expectation(lambda p: p[:, None] ** (sizes - 1))
        return [(list(c), float(weight)) for c, weight in zip(self.coalitions, weights, strict=True)]

    def _done(self, r: np.ndarray) -> np.ndarray:
        """`E[h(K_v)]` of every user that is in, `[J, V]` at `r [J]`."""
        return 1 - (1 - self.saturation * r[:, None]) ** self._num_responsible()

    def _step(self, r: np.ndarray) -> np.ndarray:
        """What one responsible post of every user adds to `h(K_v)`, `[J, V]` at `r [J]`."""
        return self.saturation * (1 - self.saturation * r[:, None]) ** (self._num_responsible() - 1)

    def _num_responsible(self) -> np.ndarray:
        return np.bincount(self.user[list(self.responsible)], minlength=self.num_users)


def enumerate_ame(game: Game, law: Law, key: jax.Array | None = None) -> np.ndarray:
    """Compute the AME from its definition, `E_P E_S [U(S+i) - U(S)]`, by calling the game on all `2^N` subsets.

    Args:
      game: with `N <= 16` sources.
      law: the target law.
      key: typed key from which the subsets get theirs, `jax.random.key(0)` if None; closed-form games ignore it.

    Returns:
      float64 `[Q, N]`, in the game's unit; as exact as the game's own utilities.

    Raises:
      ValueError: for more sources, and for utilities of the wrong shape or not finite.
    """
    num_sources = checks.count(game.num_sources, "num_sources")
    checks.require(num_sources <= _MAX_ENUMERATED, f"at most {_MAX_ENUMERATED} sources to enumerate", num_sources)
    key = jax.random.key(0) if key is None else checks.typed_key(key)
    subsets = np.arange(2**num_sources)
    masks = (subsets[:, None] >> np.arange(num_sources)) % 2 == 1
    utilities = _evaluate(game, key, masks)
    # P(S) given p, for S a subset of the other N-1 sources, depends on its size only.
    size = np.arange(num_sources)
    weights = law.expectation(lambda p: p[:, None] ** size * (1.0 - p[:, None]) ** (num_sources - 1 - size))
    values = np.empty((utilities.shape[1], num_sources))
    for source in range(num_sources):
        without = subsets[~masks[:, source]]
        effect = utilities[without + 2**source] - utilities[without]
        values[:, source] = weights[masks[without].sum(axis=1)] @ effect
    return values


def _evaluate(game: Game, key: jax.Array, masks: np.ndarray) -> np.ndarray:
    """Call the game on masks `[m, N]` chunk by chunk; float64 utilities `[m, Q]`."""
    chunks = []
    for start in range(0, len(masks), _ENUMERATION_CHUNK):
        chunk = jnp.asarray(masks[start : start + _ENUMERATION_CHUNK])
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, start + jnp.arange(len(chunk)))
        utilities = np.asarray(game(keys, chunk), np.float64)
        shape_fits = utilities.ndim == 2 and len(utilities) == len(chunk)
        checks.require(shape_fits, f"utilities [{len(chunk)}, Q]", checks.describe(utilities))
        chunks.append(_finite(utilities, "utilities"))
    return np.concatenate(chunks)


@jax.jit
def _linear_utility(masks: jax.Array, weights: jax.Array, bias: jax.Array) -> jax.Array:
    """Return `bias + masks weights` for weights `[N, Q]` and bias `[1, 1]` or `[1, Q]`; float32 `[m, Q]`."""
    return bias + jnp.matmul(masks.astype(jnp.float32), weights, precision="highest")


@jax.jit
def _count_utility(masks: jax.Array, members: jax.Array, levels: jax.Array) -> jax.Array:
    """Look the number of members `[k]` in each mask up in `levels [k+1]`; float32 `[m, 1]`."""
    return levels[masks[:, members].sum(axis=1)][:, None]


@jax.jit
def _unanimity_utility(masks: jax.Array, membership: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum the weights `[C]` of the coalitions `[C, N]` that are wholly in; float32 `[m, 1]`."""
    missing = jnp.matmul((~masks).astype(jnp.float32), membership.T.astype(jnp.float32), precision="highest")
    return jnp.matmul((missing == 0).astype(jnp.float32), weights[:, None], precision="highest")


def _binomial_pmf(count: np.ndarray, trials: int, p: np.ndarray) -> np.ndarray:
    """Return `P(Binomial(trials, p) = count)` in float64, by way of logarithms."""
    log_choose = special.gammaln(trials + 1) - special.gammaln(count + 1) - special.gammaln(trials - count + 1)
    return np.exp(log_choose + special.xlogy(count, p) + special.xlog1py(trials - count, -p))


def _finite(value: Any, name: str) -> np.ndarray:
    """Return `value` as a float64 array, requiring finite entries."""
    array = np.asarray(value, np.float64)
    checks.require(bool(np.all(np.isfinite(array))), f"{name} finite", value)
    return array


def _distinct_sources(indices: Sequence[int], num_sources: int, name: str) -> tuple[int, ...]:
    """Return source indices as a tuple of ints, requiring each to be in range and none twice."""
    array = np.asarray(indices)
    checks.require(
        array.ndim == 1 and (array.size == 0 or np.issubdtype(array.dtype, np.integer)),
        f"{name} to be a sequence of source indices",
        checks.describe(indices),
    )
    in_range = bool(np.all((array >= 0) & (array < num_sources)))
    checks.require(
        in_range and len(np.unique(array)) == array.size, f"{name} distinct and in 0 to {num_sources - 1}", indices
    )
    return tuple(array.tolist())


def _valid_masks(masks: Any, num_sources: int) -> jax.Array:
    """Return masks as a device array, requiring bool `[m, N]`."""
    masks = jnp.asarray(masks)
    checks.require(
        masks.ndim == 2 and masks.shape[1] == num_sources and masks.dtype == bool,
        f"masks bool [m, {num_sources}]",
        checks.describe(masks),
    )
    return masks
