"""Many rows as few: a least-squares problem depends on its rows only through their products.

Where there are many times more rows than columns, the rows of every fold are exchanged for `P + D + 1` with the same
products: the Cholesky factor of those of `X` and `Z`, and a last row with what these do not explain of the targets. So
all fits, their gradients and duality gaps, and held-out errors are those of the rows, but cost as if there were few.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jax import Array
from jaxtyping import Float, Int

from jaxame.lasso.admm import alike
from jaxame.lasso.problem import DenseColumns, Problem

_FEWER = 3  # times; products of rows cost about as much as a few passes of the descent
_FEWEST_ENTRIES = 2**24  # of `X`; with fewer, the compilation costs more than is saved
_ROWS_AT_ONCE = 4096
_INDEPENDENT = 1e-2  # share of a column's square that the columns before it leave; with less, rounding is not small


def num_rows_after(num_rows: int, num_columns: int, num_unpenalised: int, num_groups: int) -> int:
    """Return the rows that are left of `M`, of `P` columns, `D` unpenalised ones and so many folds; `M` if all are."""
    few = num_groups * (num_columns + num_unpenalised + 1)
    worthwhile = num_rows >= _FEWER * few and num_rows * num_columns >= _FEWEST_ENTRIES
    return few if worthwhile else num_rows


def condense(problem: Problem) -> Problem:
    """Return an equivalent problem with fewer rows, or the same one.

    It is the same one where there are not many rows, where queries do not have the same, and where columns depend on
    each other.
    """
    num_rows, groups = problem.y.shape[1], np.unique(problem.fold)
    sizes = problem.columns.num_columns, problem.z.shape[1], groups.size
    if num_rows_after(num_rows, *sizes) == num_rows or not alike(problem).all():
        return problem
    weight, fold = np.asarray(problem.weight[0], np.float64), np.asarray(problem.fold)
    with problem.numerics():
        parts = [_condense_group(problem, np.flatnonzero(fold == group), weight) for group in groups]
    if any(part is None for part in parts):
        return problem
    rows, y = (np.concatenate(part, axis=1) for part in zip(*(part for part in parts if part is not None), strict=True))
    num_columns, number = problem.columns.num_columns, rows.shape[1] // groups.size
    share = np.repeat([weight[fold == group].sum() / number for group in groups], number)
    dtype = problem.y.dtype
    return dataclasses.replace(
        problem,
        columns=DenseColumns(jnp.asarray(rows[:num_columns], dtype)),
        y=jnp.asarray(y, dtype),
        weight=jnp.asarray(np.tile(share, (len(y), 1)), dtype),
        z=jnp.asarray(rows[num_columns:].T, dtype),
        fold=jnp.asarray(np.repeat(groups, number), problem.fold.dtype),
    )


def _condense_group(problem: Problem, index: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the columns `[P+D, n]` and targets `[Q, n]` of `n` rows of equal weight, or None if columns depend."""
    gram, moments, squares = _products(problem, index, weight / weight[index].sum())
    try:
        lower = scipy.linalg.cholesky(gram, lower=True)
    except scipy.linalg.LinAlgError:
        return None
    if (np.diagonal(lower) ** 2 < _INDEPENDENT * np.diagonal(gram)).any():
        return None
    explained = scipy.linalg.solve_triangular(lower, moments, lower=True)
    rest = np.sqrt(np.maximum(squares - (explained**2).sum(axis=0), 0.0))
    scale = np.sqrt(len(gram) + 1)
    columns = np.pad(lower, ((0, 0), (0, 1)))
    return scale * columns, scale * np.concatenate([explained, rest[None]]).T


def _products(problem: Problem, index: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted products over the rows `index`, summed in float64: `[P+D, P+D]`, `[P+D, Q]`, `[Q]`."""
    size = min(_ROWS_AT_ONCE, index.size)
    number = -(-index.size // size)
    counts = (np.arange(number * size) < index.size).reshape(number, size)
    parts = np.resize(index, (number, size))
    width = problem.columns.num_columns + problem.z.shape[1]
    total, squares = np.zeros((width, width + len(problem.y))), np.zeros(len(problem.y))
    for rows, count in zip(parts, counts, strict=True):
        own = jnp.asarray(np.where(count, weight[rows], 0.0), problem.y.dtype)
        product, square = _product(problem, jnp.asarray(rows), own)
        total += np.asarray(product)
        squares += np.asarray(square)
    return total[:, :width], total[:, width:], squares


@jax.jit
def _product(problem: Problem, index: Int[Array, "c"], weight: Float[Array, "c"]) -> tuple[Array, Array]:
    columns = jnp.concatenate([problem.columns.rows(index), problem.z[index].T])
    targets = problem.y[:, index]
    product = (weight * columns) @ jnp.concatenate([columns, targets]).T
    return product, targets**2 @ weight
