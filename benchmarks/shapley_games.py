"""The games of `benchmarks.shapley`: closed forms, with sources drawn anew for every seed."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxame import games
from jaxame.design import TruncatedUniform

UNIFORM = TruncatedUniform(1e-9)


@dataclasses.dataclass(frozen=True, eq=False)
class SideBySide:
    """Games over the same sources as queries of one game; normal noise may be added to some.

    Attributes:
      games: `[Q]` games of one query each.
      noise: `[Q]` standard deviations of the noise of one evaluation, in the unit of the game.
    """

    games: tuple[Any, ...]
    noise: np.ndarray

    @property
    def num_sources(self) -> int:
        """`N`."""
        return self.games[0].num_sources

    def __call__(self, keys: jax.Array, masks: jax.Array) -> jax.Array:
        """Return utilities float32 `[m, Q]`; the keys decide the noise."""
        exact = jnp.concatenate([game(keys, masks) for game in self.games], axis=1)
        return exact + _normal(keys, len(self.games)) * self.noise.astype(np.float32)

    def shapley(self) -> np.ndarray:
        """Return the Shapley values, float64 `[Q, N]`."""
        return np.stack([game.ame(UNIFORM) for game in self.games])


@functools.partial(jax.jit, static_argnums=1)
def _normal(keys: jax.Array, width: int) -> jax.Array:
    """Standard normal draws `[m, width]` from keys `[m]`."""
    return jax.vmap(lambda key: jax.random.normal(key, (width,)))(keys)


def sparse(seed: int, num_sources: int = 1000) -> dict[str, tuple[Any, float]]:
    """Return games in which at most 10 sources matter, and the standard deviation of their noise."""
    rng = np.random.default_rng([seed, num_sources])

    def members(count: int) -> list[int]:
        return rng.choice(num_sources, count, replace=False).tolist()

    weights = np.zeros(num_sources)
    weights[members(10)] = rng.uniform(0.5, 1.5, 10) * rng.choice([-1, 1], 10)
    costs = np.zeros(num_sources)
    costs[members(10)] = rng.uniform(0.5, 1.5, 10)
    coalitions = [members(size) for size in (1, 1, 2, 2, 3)]
    return {
        "2 of 3": (games.Threshold(num_sources, members(3), 2), 0.0),
        "5 of 10": (games.Threshold(num_sources, members(10), 5), 0.0),
        "saturating, 10": (games.Saturating(num_sources, members(10), slope=1.0, centre=5.0), 0.0),
        "majority of 9": (games.Majority(num_sources, members(9)), 0.0),
        "unanimity sum": (games.UnanimitySum(num_sources, coalitions, rng.uniform(0.5, 1.5, 5)), 0.0),
        "airport, 10": (games.Airport(costs), 0.0),
        "additive, 10, noise": (games.Additive(weights), 1.0),
        "saturating, 10, noise": (games.Saturating(num_sources, members(10), slope=1.0, centre=5.0), 0.25),
    }


def dense(seed: int, num_sources: int = 200) -> dict[str, tuple[Any, float]]:
    """Return games in which all sources matter."""
    rng = np.random.default_rng([seed, num_sources])
    everyone = list(range(num_sources))
    return {
        "additive, all": (games.Additive(rng.normal(size=num_sources)), 0.0),
        "additive, all, noise": (games.Additive(rng.normal(size=num_sources)), 5.0),
        "saturating, all": (games.Saturating(num_sources, everyone, slope=0.1, centre=num_sources / 2), 0.0),
        "airport, all": (games.Airport(rng.uniform(size=num_sources)), 0.0),
    }


def tiny(seed: int, num_sources: int = 10) -> dict[str, tuple[Any, float]]:
    """Return games with few sources."""
    rng = np.random.default_rng([seed, num_sources])
    weights = rng.integers(1, 10, num_sources)
    return {
        "2 of 3": (games.Threshold(num_sources, rng.choice(num_sources, 3, replace=False).tolist(), 2), 0.0),
        "weighted voting": (games.WeightedVoting(weights, int(weights.sum()) // 2 + 1), 0.0),
        "airport": (games.Airport(rng.uniform(size=num_sources)), 0.0),
        "gloves": (
            games.Gloves(num_sources, list(range(num_sources // 2)), list(range(num_sources // 2, num_sources))),
            0.0,
        ),
    }
