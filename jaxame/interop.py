"""Tables, and games of other packages, in and out.

Arrays need nothing of this: `jaxame.foreign_design` and `jaxame.estimate_ame` take those of any library with DLPack, as
what a game returns may be. Results go out as NumPy arrays, which every array library takes, and as a pandas DataFrame
(`Attribution.to_dataframe`), which `polars.from_pandas` takes.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxame import checks, exchange
from jaxame.data.parquet import require_extra
from jaxame.design import CODINGS, Design
from jaxame.evaluation import Game, call, rows_per_call
from jaxame.foreign import foreign_design
from jaxame.laws import Law
from jaxame.manifest import law_from_json


def from_table(table: Any, *, law: Law | None = None, paired: bool = False) -> tuple[Design, np.ndarray]:
    """Return the design and the utilities that a table holds, for `jaxame.estimate_ame`.

    Masks are checked like any from elsewhere, see `jaxame.foreign_design`; as there, the design has no key.

    Args:
      table: a row per submodel: a pandas or polars DataFrame, a PyArrow Table, anything else that has the Arrow stream
        interface, or the path of a parquet file. Columns, as `jaxame export` writes them: mask, lists of `N` booleans,
        True where the source is in; p, or none if it is unknown; utility_0 and so on. Where it has them: submodel, by
        which the rows are ordered; law, coding and paired. Others are not read. Missing utilities are left out.
      law: the law that `p` was drawn from, of a table without law, and of one by a law of your own.
      paired: whether rows are antithetic pairs, of a table without paired.

    Returns:
      The design, and utilities float64 `[M, Q]`.

    Raises:
      ImportError: without pyarrow.
      ValueError: for a column that is missing or of another type, rows that disagree about how they were drawn, and
        masks that cannot have been drawn so.
    """
    columns = _read(table)
    masks = _masks(columns)
    number = sum(name.startswith("utility_") for name in columns.column_names)
    checks.require(number > 0, "columns utility_0 and so on", columns.column_names)
    utilities = np.stack([_numbers(columns, f"utility_{q}") for q in range(number)], axis=1)
    p = _numbers(columns, "p") if "p" in columns.column_names else None
    if "submodel" in columns.column_names:
        order = np.argsort(_numbers(columns, "submodel"), kind="stable")
        masks, utilities, p = masks[order], utilities[order], None if p is None else p[order]
    coding = _alike(columns, "coding", "weighted")
    checks.require(coding in CODINGS, f"coding to be one of {CODINGS}", checks.describe(coding))
    saved = _alike(columns, "law", None)
    law = law_from_json(json.loads(saved)) if law is None and saved is not None else law
    checks.require(coding != "centered" or law is not None, 'the law of a table with coding "centered"', "None")
    of_p = None if coding == "centered" else law  # whose p are from the tilted law
    design = foreign_design(masks, p, law=of_p, paired=bool(_alike(columns, "paired", paired)))
    return dataclasses.replace(design, law=law or design.law, coding=coding), utilities


def _read(table: Any) -> Any:
    arrow = require_extra("pyarrow", "data")
    if isinstance(table, str | PathLike):
        return require_extra("pyarrow.parquet", "data").read_table(table)
    is_table = isinstance(table, arrow.Table) or hasattr(table, "__arrow_c_stream__")
    checks.require(is_table, "a DataFrame, or the path of a parquet file", type(table).__name__)
    return arrow.table(table)


def _column(columns: Any, name: str) -> Any:
    checks.require(name in columns.column_names, f"a column {name!r}", columns.column_names)
    return columns.column(name)


def _masks(columns: Any) -> np.ndarray:
    """Masks, bool `[M, N]`."""
    column = _column(columns, "mask")
    is_list = str(getattr(column.type, "value_type", None)) == "bool"
    checks.require(is_list, "a column 'mask' of lists of booleans", column.type)
    lengths = require_extra("pyarrow.compute", "data").list_value_length(column).unique().to_pylist()
    parts = [chunk.flatten() for chunk in column.chunks]
    gaps = sum(part.null_count for part in parts)
    whole = gaps == 0 and len(lengths) == 1 and lengths[0] is not None
    checks.require(whole, "masks of one length, without gaps", f"lengths {lengths}, {gaps} gaps")
    return np.concatenate([part.to_numpy(zero_copy_only=False) for part in parts]).reshape(len(column), lengths[0])


def _numbers(columns: Any, name: str) -> np.ndarray:
    """A column in float64, NaN where it is empty."""
    column = _column(columns, name)
    try:
        return np.asarray(column.cast("float64"), np.float64)
    except ValueError as error:  # what pyarrow raises is one
        raise ValueError(f"needs column {name!r} of numbers; got {column.type}") from error


def _alike(columns: Any, name: str, default: Any) -> Any:
    """The one value of a column, if there is such a column."""
    if name not in columns.column_names:
        return default
    values = columns.column(name).unique().to_pylist()
    checks.require(len(values) == 1, f"one {name} in all rows", values)
    return values[0]


@dataclasses.dataclass(frozen=True, eq=False)
class MaskGame:
    """A function of masks as a game, such as `jaxame.exchange.Channel.ask`.

    Args:
      function: maps masks, NumPy bool `[m, N]`, to utilities `[m, Q]` or, for one query, `[m]`, of any array library.
      num_sources: `N`.
      chunk_size: rows that it likes to be called with.
    """

    function: Callable[[np.ndarray], Any]
    num_sources: int
    chunk_size: int = 1024

    def __call__(self, keys: jax.Array, masks: ArrayLike) -> np.ndarray:
        """Return utilities `[m, Q]` of masks bool `[m, N]`; `keys` are not used."""
        del keys
        utilities = checks.array(self.function(np.asarray(masks)))
        return utilities[:, None] if utilities.ndim == 1 else utilities


def from_shapiq(game: Any, num_sources: int | None = None) -> MaskGame:
    """Return a game of shapiq as one for `jaxame.ame`, `jaxame.shapley` and the baselines.

    Args:
      game: a `shapiq.Game`, which its benchmarks and imputers are too, or any function of coalitions bool `[m, N]`.
      num_sources: `N`, of a function without `n_players`.

    Raises:
      ValueError: for what is neither.
    """
    checks.require(callable(game), "a shapiq.Game, or a function of coalitions", checks.describe(game))
    number = getattr(game, "n_players", num_sources)
    needs = "num_sources, for a function without n_players"
    checks.require(number is not None, needs, checks.describe(game))
    return MaskGame(game, checks.count(number, "num_sources"))


def to_shapiq(game: Game, *, key: jax.Array, query: int = 0) -> Any:
    """Return one query of a game as a `shapiq.Game`, for shapiq's approximators and explainers.

    As shapiq wants it, the empty coalition has value 0: its utility, which is evaluated here, is subtracted. A
    coalition gets a key of its own by `key`, so that a game with noise gives it the same value whenever it is asked.

    Args:
      game: see `jaxame.ame`.
      key: one typed key.
      query: which.

    Raises:
      ImportError: without shapiq.
      ValueError: for another kind of key, and for a query that the game does not have.
    """
    shapiq, key = require_extra("shapiq", "peers"), checks.typed_key(key)
    num_sources = checks.count(game.num_sources, "game.num_sources")
    size = rows_per_call(game)

    def value(coalitions: np.ndarray) -> np.ndarray:
        masks = np.asarray(coalitions, bool)
        return np.concatenate([of_rows(masks[first : first + size]) for first in range(0, len(masks), size)])

    def of_rows(masks: np.ndarray) -> np.ndarray:
        own = np.array([zlib.crc32(row) for row in np.packbits(masks, axis=1)], np.uint32)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, own)
        utilities = checks.array(game(keys, jnp.asarray(masks)), np.float64)
        fits = utilities.ndim == 2 and len(utilities) == len(masks) and utilities.shape[1] > query >= 0
        checks.require(fits, f"the game to return [{len(masks)}, Q > {query}]", list(utilities.shape))
        return utilities[:, query]

    empty = float(value(np.zeros((1, num_sources), bool))[0])
    made = shapiq.Game(num_sources, normalization_value=empty)
    made.value_function = value
    return made


def serve(
    game: Game,
    command: Sequence[str],
    *,
    key: jax.Array,
    patience: float | None = None,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Start an estimator in an environment of its own, answer what it asks about a game, and return its outcome.

    There, `jaxame_exchange.to_starter()` gives it `ask`, from masks to utilities, and `finish`; see `jaxame.exchange`.

    Args:
      game: see `jaxame.ame`; the row that is asked for as number `i` gets its key by `key` and `i`.
      command: the estimator and its arguments, such as `["/elsewhere/bin/python", "estimator.py"]`.
      key: one typed key.
      patience: seconds to wait for a line of it; by default as long as it takes.
      variables: of its environment, beside those that are there.

    Raises:
      ExchangeError: if it ends without an outcome, takes too long, or asks for what is no masks of the game.
      ValueError: if the game's utilities have the wrong shape.
    """
    key, asked = checks.typed_key(key), 0
    num_sources, size = checks.count(game.num_sources, "game.num_sources"), rows_per_call(game)

    def utility(masks: np.ndarray) -> np.ndarray:
        nonlocal asked
        parts = []
        for first in range(0, len(masks), size):
            parts.append(call(game, key, masks[first : first + size], asked, None))
            asked += len(parts[-1])
        return np.concatenate(parts)

    with exchange.start(command, patience=patience, variables=variables) as channel:
        return channel.answer(utility, num_sources)
