"""Answers to other queries from what was kept of submodels, without training."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax import Array

from jaxame import checks, queries
from jaxame.submodels.adapter import Params
from jaxame.submodels.keep import PARAMS


class Keeper(Protocol):
    """A game that keeps something of every submodel; see `TrainingGame`."""

    kept_points: np.ndarray | None
    tile: int

    def predict(self, params: Params, x: Any) -> Array:
        """Outputs `[B, C]` on inputs `x [B, ...]`."""

    def unravel(self, params: Array) -> Params:
        """Parameters from `[P]`."""


def answer(query: Any, game: Keeper, kept: Mapping[str, np.ndarray]) -> np.ndarray:
    """Measure a query on submodels of which something was kept.

    What the query computes is compiled once for calls that follow each other with the same query and game.

    Args:
      query: any query, if parameters were kept; otherwise one whose points are among those whose outputs were.
      game: the game that kept it.
      kept: of `m` submodels, as `TrainingGame.measure` returns it.

    Returns:
      Utilities `[m, Q]`; rounding aside those that training would give. Not finite where a submodel diverged.

    Raises:
      ValueError: if what was kept does not tell, saying why.
    """
    if PARAMS in kept:
        return _map(_compiled(_Asked(query, game), _from_params), kept[PARAMS], game.tile)
    needs = "a game that keeps parameters or outputs"
    checks.require("outputs" in kept and game.kept_points is not None, needs, sorted(kept))
    return _map(_compiled(_Asked(query, game), _from_outputs), kept["outputs"], game.tile)


@dataclasses.dataclass(frozen=True, eq=False)
class _Asked:
    """A query and the game that answers it; equal are those of the same objects, which need no hash."""

    query: Any
    game: Keeper

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and self.query is other.query and self.game is other.game

    def __hash__(self) -> int:
        return hash((id(self.query), id(self.game)))


@functools.lru_cache(maxsize=1)  # one is enough for the chunks of a run, and more would hold the data of more games
def _compiled(asked: _Asked, measure: Callable[[_Asked], Callable[[Array], Array]]) -> Callable[[Array], Array]:
    """Return a function of what was kept of several submodels."""
    return jax.jit(jax.vmap(measure(asked)))


def _from_params(asked: _Asked) -> Callable[[Array], Array]:
    def measure(params: Array) -> Array:
        values: Array = asked.query(asked.game.predict, asked.game.unravel(params))
        return values

    return measure


def _from_outputs(asked: _Asked) -> Callable[[Array], Array]:
    points = asked.game.kept_points
    assert points is not None
    places = [_places(points, x) for x in _points_of(asked.query)]

    def measure(outputs: Array) -> Array:
        values: Array = asked.query.values([outputs[place] for place in places], _no_model, None)
        return values

    return measure


def _map(together: Callable[[Any], Array], rows: np.ndarray, size: int) -> np.ndarray:
    """Map over rows, `size` at a time; the last ones are padded, so that one size is compiled."""
    parts = []
    for start in range(0, len(rows), size):
        part = rows[np.minimum(np.arange(start, start + size), len(rows) - 1)]
        parts.append(np.asarray(together(part)))
    return np.concatenate(parts)[: len(rows)]


def _points_of(query: Any) -> tuple[np.ndarray, ...]:
    needs = 'a query of points, or keep="params" for a function of the model'
    checks.require(isinstance(query, queries.Query) and len(query.points) > 0, needs, checks.describe(query))
    points: tuple[np.ndarray, ...] = query.points
    return points


def _places(kept: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return where points `[n, ...]` are among those that were kept, int `[n]`."""
    known = {point.tobytes(): place for place, point in enumerate(kept)}
    found = [known.get(point.tobytes(), -1) for point in points.astype(kept.dtype)]
    missing = [number for number, place in enumerate(found) if place < 0]
    needs = f"points among the {len(kept)} whose outputs are kept"
    checks.require(not missing, needs, f"{len(missing)} others, the first at {missing[:1]}")
    return np.array(found)


def _no_model(params: Any, x: Array) -> Array:
    del params
    raise ValueError(f'needs keep="params" for a query that calls the model; got outputs only, for x {list(x.shape)}')
