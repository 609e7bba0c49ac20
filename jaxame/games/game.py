"""What a game is, its AME from the definition, and what the games here share."""

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
        """Map subsets to utilities.

        Args:
          keys: `[m]` typed keys, the randomness of each row.
          masks: bool `[m, N]`, True where the source is in.

        Returns:
          `[m, Q]`, in the game's own unit.
        """


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
        chunks.append(finite(utilities, "utilities"))
    return np.concatenate(chunks)


def finite(value: Any, name: str) -> np.ndarray:
    """Return `value` as a float64 array, requiring finite entries."""
    array = np.asarray(value, np.float64)
    checks.require(bool(np.all(np.isfinite(array))), f"{name} finite", value)
    return array


def distinct_sources(indices: Sequence[int], num_sources: int, name: str) -> tuple[int, ...]:
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


def valid_masks(masks: Any, num_sources: int) -> jax.Array:
    """Return masks as a device array, requiring bool `[m, N]`."""
    given = jnp.asarray(masks)
    fits = given.ndim == 2 and given.shape[1] == num_sources and given.dtype == bool
    checks.require(fits, f"masks bool [m, {num_sources}]", checks.describe(given))
    return given


def binomial_pmf(count: np.ndarray | int, trials: np.ndarray | int, p: np.ndarray) -> np.ndarray:
    """Return `P(Binomial(trials, p) = count)` in float64, by way of logarithms."""
    log_choose = special.gammaln(trials + 1) - special.gammaln(count + 1) - special.gammaln(trials - count + 1)
    probability: np.ndarray = np.exp(log_choose + special.xlogy(count, p) + special.xlog1py(trials - count, -p))
    return probability
