"""A game over sources of sources."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxame import checks
from jaxame.games.game import distinct_sources, finite, valid_masks
from jaxame.laws import Law


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
        responsible = distinct_sources(self.responsible, user.size, "responsible")
        coalitions = tuple(distinct_sources(c, int(user.max()) + 1, "every coalition") for c in self.coalitions)
        weights = finite(self.weights, "weights")
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
        is_in = np.asarray(valid_masks(masks, self.num_sources))[:, list(self.responsible)]
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
        """Return the AME of every post, its user being in: float64 `[n]`; `law` and `within` as for `user_ame`."""
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
        done: np.ndarray = 1 - (1 - self.saturation * r[:, None]) ** self._num_responsible()
        return done

    def _step(self, r: np.ndarray) -> np.ndarray:
        """What one responsible post of every user adds to `h(K_v)`, `[J, V]` at `r [J]`."""
        step: np.ndarray = self.saturation * (1 - self.saturation * r[:, None]) ** (self._num_responsible() - 1)
        return step

    def _num_responsible(self) -> np.ndarray:
        return np.bincount(self.user[list(self.responsible)], minlength=self.num_users)
