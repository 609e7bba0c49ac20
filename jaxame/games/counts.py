"""Games in which some sources are alike and the others do not matter."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from scipy import special

from jaxame import checks
from jaxame.games.game import binomial_pmf, distinct_sources, finite, valid_masks
from jaxame.laws import Law


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
        members = distinct_sources(self.members, num_sources, "members")
        checks.require(len(members) > 0, "at least one member", "none")
        levels = finite(self.levels, "levels")
        checks.require(levels.shape == (len(members) + 1,), f"levels [{len(members) + 1}]", checks.describe(levels))
        object.__setattr__(self, "members", members)
        object.__setattr__(self, "levels", levels)

    def __call__(self, keys: jax.Array, masks: jax.Array) -> jax.Array:
        """Return utilities float32 `[m, 1]` of masks bool `[m, N]`; `keys` are not used."""
        del keys
        masks = valid_masks(masks, self.num_sources)
        utilities: jax.Array = _count_utility(masks, np.array(self.members), self.levels.astype(np.float32))
        return utilities

    def ame(self, law: Law) -> np.ndarray:
        """Return the AME under `law`: float64 `[N]`, in the unit of the levels."""
        steps = np.diff(self.levels)
        counts = np.flatnonzero(steps)
        others = len(self.members) - 1
        values = np.zeros(self.num_sources)
        values[list(self.members)] = law.expectation(lambda p: binomial_pmf(counts, others, p[:, None]) @ steps[counts])
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


class Miner(CountGame):
    """`U(S)` = whole pairs among the members in `S`: it takes two miners to carry an ingot.

    `AME_i = E_P[P(Binomial(k-1, p) is odd)] = E_P[1 - (1-2p)^(k-1)] / 2` for a member.

    Args:
      num_sources: `N`.
      members: `[k]` distinct source indices; None for all sources.

    Raises:
      ValueError: for other arguments.
    """

    def __init__(self, num_sources: int, members: Sequence[int] | None = None) -> None:
        members = range(checks.count(num_sources, "num_sources")) if members is None else members
        super().__init__(num_sources, members, np.arange(np.size(members) + 1) // 2)


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
        slope, centre = float(finite(slope, "slope")), float(finite(centre, "centre"))
        super().__init__(num_sources, members, special.expit(slope * (np.arange(np.size(members) + 1) - centre)))


@jax.jit
def _count_utility(masks: jax.Array, members: jax.Array, levels: jax.Array) -> jax.Array:
    """Look the number of members `[k]` in each mask up in `levels [k+1]`; float32 `[m, 1]`."""
    return levels[masks[:, members].sum(axis=1)][:, None]
