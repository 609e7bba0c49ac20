"""Games, and their utilities on the rows of a design."""

import functools
from typing import Any, Protocol

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxame import checks
from jaxame.design import Design
from jaxame.types import Progress, silent, tell, tell_utilities

_GAME_STREAM = 2**32 - 2  # of a design's key, whose rows are numbered from 0
_CHUNK = 1024


class Game(Protocol):
    """Maps subsets to utilities. Called on the host with concrete arrays, chunk by chunk.

    A game may have the attributes `chunk_size`, the number of rows it likes to be called with, and `about`, a mapping
    that `json` can write, which the result then carries.
    """

    num_sources: int

    def __call__(self, keys: jax.Array, masks: jax.Array) -> ArrayLike:
        """Utilities `[m, Q]` of subsets `masks`, bool `[m, N]`, with randomness from typed keys `[m]`."""


def num_sources_of(game: Any) -> int:
    """Return `N` of a game.

    Raises:
      ValueError: if it is none.
    """
    checks.require(callable(game) and hasattr(game, "num_sources"), "a callable game with num_sources", type(game))
    return checks.count(game.num_sources, "game.num_sources")


def evaluate(
    game: Game, design: Design, *, key: jax.Array | None = None, start: int = 0, progress: Progress = silent
) -> np.ndarray:
    """Evaluate a game on the rows of a design.

    Args:
      game: maps masks to utilities.
      design: `M` rows over the game's sources.
      key: the game's randomness on row `i` depends on it and on `i` only; by default the design's.
      start: the first row, below `M`.
      progress: called after every chunk.

    Returns:
      Utilities `[M - start, Q]`.

    Raises:
      ValueError: if the game's sources are not those of the design, there is no key or no such row, or the game returns
        another shape than `[m, Q]`.

    Example:
      >>> import jax
      >>> import jaxame
      >>> from jaxame.design import Grid, sample_design
      >>> from jaxame.games import Additive
      >>> design = sample_design(jax.random.key(0), Grid((0.1, 0.3, 0.5, 0.7, 0.9)), num_submodels=100, num_sources=20)
      >>> jaxame.evaluate(Additive([2.0, 1.0] + [0.0] * 18), design).shape
      (100, 1)
    """
    key = checks.typed_key(design.key if key is None else key)
    checks.require(num_sources_of(game) == design.num_sources, f"{design.num_sources} sources", game.num_sources)
    num_rows = design.num_submodels
    chunk = rows_per_call(game)
    checks.require(checks.count(start, "start", 0) < num_rows, f"start below {num_rows}", start)
    parts: list[np.ndarray] = []
    tell(progress, "train", start=start, total=num_rows)
    for first in range(start, num_rows, chunk):
        stop = min(first + chunk, num_rows)
        parts.append(call(game, key, design.masks(first, stop), first, parts[0].shape[1] if parts else None))
        tell_utilities(progress, parts[-1], game)
        progress("train", stop, num_rows)
    return np.concatenate(parts)


def rows_per_call(game: Game) -> int:
    """Rows that a game likes to be called with."""
    return checks.count(getattr(game, "chunk_size", _CHUNK), "game.chunk_size")


def call(game: Game, key: jax.Array, masks: ArrayLike, first: int, num_queries: int | None) -> np.ndarray:
    """Call a game on the rows of a run from number `first` on; utilities `[m, Q]`, of which `Q` may be known."""
    number = np.shape(masks)[0]
    utilities = checks.array(game(game_keys(key, first, number), jax.numpy.asarray(masks)))
    width = "Q" if num_queries is None else num_queries
    fits = utilities.ndim == 2 and len(utilities) == number and width in ("Q", utilities.shape[1])
    checks.require(fits, f"the game to return [{number}, {width}]", list(utilities.shape))
    return utilities


@functools.partial(jax.jit, static_argnames="number")
def game_keys(key: jax.Array, first: int, number: int) -> jax.Array:
    """Return the keys that a game gets for rows of a run from number `first` on, `[number]`."""
    game_key = jax.random.fold_in(key, _GAME_STREAM)
    return jax.vmap(jax.random.fold_in, (None, 0))(game_key, first + jax.numpy.arange(number))
