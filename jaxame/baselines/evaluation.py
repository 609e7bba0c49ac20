"""What all baselines share: evaluations that are counted, kept as bits, and turned into a result."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxame import checks, environment
from jaxame.attribution import Attribution
from jaxame.types import Status, submodel_status

_SAMPLE_STREAM, _GAME_STREAM = 2**32 - 1, 2**32 - 2
_CHUNK = 1024
_BLOCK = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluations:
    """Utilities of `B` subsets.

    Attributes:
      packed: uint8 `[B, ceil(N/8)]`, the subsets as `numpy.packbits(bitorder="little")`.
      utilities: float64 `[B, Q]`.
      num_sources: `N`.
    """

    packed: np.ndarray
    utilities: np.ndarray
    num_sources: int

    def __getitem__(self, rows: slice) -> "Evaluations":
        """The evaluations of some rows."""
        return dataclasses.replace(self, packed=self.packed[rows], utilities=self.utilities[rows])

    def __len__(self) -> int:
        """`B`."""
        return len(self.packed)

    def blocks(self) -> Iterator[tuple[np.ndarray, slice]]:
        """Yield masks as float64 `[b, N]`, an even number of rows but for the last, and which rows they are."""
        for start in range(0, len(self), _BLOCK):
            rows = slice(start, min(start + _BLOCK, len(self)))
            bits = np.unpackbits(self.packed[rows], axis=1, count=self.num_sources, bitorder="little")
            yield bits.astype(np.float64), rows

    def moments(self, values: np.ndarray) -> np.ndarray:
        """Sum `values [B, V]` over the subsets that each source is in, `[V, N]`."""
        return sum((values[rows].T @ masks for masks, rows in self.blocks()), np.zeros((values.shape[1], 1)))


class Budget:
    """A game of which no more than `budget` evaluations are asked.

    Evaluation `t` of the game gets the key `t`, so that the same key gives the same answer.

    Args:
      game: maps masks to utilities; attribute `num_sources`.
      key: one typed key; decides everything.
      budget: evaluations at most.
      least: evaluations that the method needs.

    Attributes:
      num_sources: `N`.
      rng: randomness for the choice of subsets.

    Raises:
      ValueError: for a budget below the least, naming it, and for anything else that is not as described.
    """

    def __init__(self, game: Any, key: jax.Array, budget: int, least: int):
        checks.require(callable(game) and hasattr(game, "num_sources"), "a callable game with num_sources", type(game))
        self.game, self.budget = game, checks.count(budget, "budget")
        self.num_sources = checks.count(game.num_sources, "game.num_sources")
        enough = f"a budget of at least {least} evaluations for {self.num_sources} sources"
        checks.require(self.budget >= least, enough, budget)
        key = checks.typed_key(key)
        seed = np.asarray(jax.random.key_data(jax.random.fold_in(key, _SAMPLE_STREAM)))
        self.rng = np.random.default_rng(seed.tolist())
        self._key = jax.random.fold_in(key, _GAME_STREAM)
        self._chunk = checks.count(getattr(game, "chunk_size", _CHUNK), "game.chunk_size")
        self._used, self._num_queries = 0, 0
        self._seen: list[np.ndarray] = []

    @property
    def left(self) -> int:
        """Evaluations that may still be made."""
        return self.budget - self._used

    def evaluate(self, masks: Iterable[np.ndarray]) -> Evaluations:
        """Evaluate the game on subsets that come in parts, bool `[m, N]` each, in chunks of the game's size."""
        packed: list[np.ndarray] = []
        utilities: list[np.ndarray] = []
        waiting, count = [np.empty((0, self.num_sources), bool)], 0
        for part in masks:
            packed.append(np.packbits(part, axis=1, bitorder="little"))
            waiting.append(part)
            count += len(part)
            if count < self._chunk:
                continue
            *whole, rest = np.split(np.concatenate(waiting), range(self._chunk, count + 1, self._chunk))
            utilities += map(self._call, whole)
            waiting, count = [rest], len(rest)
        if count:
            utilities.append(self._call(np.concatenate(waiting)))
        return Evaluations(np.concatenate(packed), np.concatenate(utilities), self.num_sources)

    def _call(self, masks: np.ndarray) -> np.ndarray:
        number, self._used = self._used, self._used + len(masks)
        if self._used > self.budget:
            raise RuntimeError(f"{self._used} evaluations, which is more than the budget of {self.budget}")
        keys = jax.vmap(jax.random.fold_in, (None, 0))(self._key, np.arange(number, self._used, dtype=np.uint32))
        utilities = checks.array(self.game(keys, masks), np.float64)
        fits = utilities.ndim == 2 and len(utilities) == len(masks) and self._num_queries in (0, utilities.shape[1])
        width = self._num_queries or "Q"
        checks.require(fits, f"the game to return [{len(masks)}, {width}]", list(utilities.shape))
        self._num_queries = utilities.shape[1]
        self._seen.append(utilities)
        return utilities

    def result(self, method: str, values: np.ndarray, stderr: np.ndarray | None, **about: Any) -> Attribution:
        """Make an `Attribution` of `values [Q, N]` and their errors; see `attribution`."""
        about = {"budget": self.budget, "evaluations": self._used, **about}
        return attribution(self.game, method, values, stderr, np.concatenate(self._seen), about)


def attribution(
    game: Any,
    method: str,
    values: np.ndarray,
    stderr: np.ndarray | None,
    utilities: np.ndarray,
    about: dict[str, Any],
) -> Attribution:
    """Make an `Attribution` of an estimator without a LASSO.

    Args:
      game: the game.
      method: name of the estimator.
      values: `[Q, N]`; NaN where a utility that is not finite went in. A query with nothing else has not the status OK.
      stderr: `[Q, N]`, or None.
      utilities: `[B, Q]`, all that were evaluated.
      about: what to add to the result's `about`.
    """
    finite = np.isfinite(utilities)
    known = [of_query[np.isfinite(of_query)] for of_query in utilities.T]
    return Attribution(
        values=values,
        values_sd=None,
        stderr=stderr,
        status=np.where(finite.all(axis=0) & np.isfinite(values).any(axis=1), Status.OK, Status.NOT_FINITE),
        lasso_min=None,
        lasso_1se=None,
        debiased=values,
        num_left_out=np.zeros(len(values), int),
        submodel_status=submodel_status(utilities),
        relative_gap=None,
        violation=None,
        cv_penalty=None,
        cv_error=None,
        cv_error_se=None,
        importance=np.zeros((len(values), 1, 1, values.shape[1])),
        randomisation_p=None,
        training_variance=None,
        utility_variance=np.array([own.var(ddof=1) if own.size > 1 else np.nan for own in known]),
        about={
            "method": method,
            "num_sources": values.shape[1],
            "versions": environment.versions(),
            "game": dict(getattr(game, "about", None) or {}),
            **about,
        },
    )


def finite_points(test_x: np.ndarray) -> None:
    """Refuse test points that are not finite."""
    bad = test_x.size - np.count_nonzero(np.isfinite(test_x))
    checks.require(bad == 0, "finite test_x", f"{bad} entries that are not")


def none_and_all(num_sources: int) -> np.ndarray:
    """The empty subset and the whole, bool `[2, N]`."""
    return np.stack([np.zeros(num_sources, bool), np.ones(num_sources, bool)])


def subsets(rng: np.random.Generator, sizes: np.ndarray, num_sources: int) -> Iterator[np.ndarray]:
    """Yield subsets of the given `sizes [B]`, every one of a size as likely, in parts, bool `[b, N]`."""
    for start in range(0, len(sizes), _BLOCK):
        of_block = sizes[start : start + _BLOCK, None]
        yield rng.permuted(np.arange(num_sources) < of_block, axis=1)


def with_complements(parts: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield every subset followed by its complement, bool `[2b, N]`."""
    for part in parts:
        yield np.stack([part, ~part], axis=1).reshape(-1, part.shape[1])
