"""Answers to other queries from what was kept of submodels, without training."""

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

        def measure(params: Array) -> Array:
            values: Array = query(game.predict, game.unravel(params))
            return values

        return _mapped(measure, kept[PARAMS], game.tile)
    points = game.kept_points
    checks.require("outputs" in kept and points is not None, "a game that keeps parameters or outputs", sorted(kept))
    assert points is not None
    places = [_places(points, x) for x in _points_of(query)]

    def from_outputs(outputs: Array) -> Array:
        values: Array = query.values([outputs[place] for place in places], _no_model, None)
        return values

    return _mapped(from_outputs, kept["outputs"], game.tile)


def _mapped(measure: Callable[[Array], Array], rows: np.ndarray, size: int) -> np.ndarray:
    """Map over rows, `size` at a time; the last ones are padded, so that one size is compiled."""
    together = jax.jit(jax.vmap(measure))
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
