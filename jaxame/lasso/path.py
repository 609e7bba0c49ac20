"""Down the path of penalties: warm starts, growing working sets, every step checked against all columns."""

import dataclasses
import functools
import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, Shaped

from jaxame.lasso import workset
from jaxame.lasso.descent import descend
from jaxame.lasso.problem import Problem
from jaxame.lasso.prox import violation
from jaxame.lasso.workset import WorkingSet, initial_gradient

_SMALLEST_WORKING_SET = 128
_ROUNDS = 20
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class PathStep:
    """All problems solved at one penalty per query.

    Attributes:
      number: position on the path, from 0.
      penalty: `[Q]` in units of the standardised target.
      index: `[Q, A]` columns of the working set.
      coef: `[A, Q, F+1]` coefficients; the last problem of a query is the fit on all its rows.
      curvature: `[A, Q]` mean square of each column in the fit on all rows, after elimination of `Z`.
      errors: `[Q, F]` mean squared held-out errors.
      converged: `[Q]` no optimality condition of any problem is violated by more than allowed.
    """

    number: int
    penalty: np.ndarray
    index: Array
    coef: Array
    curvature: Array
    errors: np.ndarray
    converged: np.ndarray

    def support_size(self) -> np.ndarray:
        """Number of non-zero coefficients of the fit on all rows, `[Q]`."""
        return np.asarray((self.coef[..., -1] != 0).sum(axis=0))


@functools.partial(jax.jit, static_argnames="num_columns")
def scatter_coef(index: Int[Array, "Q A"], coef: Shaped[Array, "A Q *F"], num_columns: int) -> Shaped[Array, "P Q *F"]:
    """Spread working-set values `[A, Q, ...]` over all columns, `[P, Q, ...]`."""
    full = jnp.zeros((num_columns, *coef.shape[1:]), coef.dtype)
    return full.at[index.T, jnp.arange(coef.shape[1])[None, :]].set(coef, mode="drop")


def _gather(index: Int[Array, "Q A"], full: Float[Array, "P Q *F"]) -> Float[Array, "A Q *F"]:
    return full.at[index.T, jnp.arange(full.shape[1])[None, :]].get(mode="fill", fill_value=0.0)


@jax.jit
def _assess(
    problem: Problem, working: WorkingSet, coef: Float[Array, "A Q F1"], penalty: Float[Array, "Q"]
) -> tuple[Float[Array, "P Q F1"], Float[Array, "Q F"], Float[Array, "Q"], Float[Array, "Q"]]:
    """Fresh gradient and held-out errors, and the largest violation in and outside of the working set, `[Q]` each."""
    gradient, errors = workset.gradient(problem, working, coef)
    inside = violation(_gather(working.index, gradient), coef, penalty[None, :, None]).max(axis=(0, 2))
    queries = jnp.arange(penalty.size)[None, :]
    outside = jnp.abs(gradient).max(axis=2).at[working.index.T, queries].set(0.0, mode="drop").max(axis=0) - penalty
    return gradient, errors, inside, outside


@functools.partial(jax.jit, static_argnames="max_epochs")
def _descend(
    working: WorkingSet,
    gradient: Float[Array, "P Q F1"],
    coef: Float[Array, "A Q F1"],
    penalty: Float[Array, "Q"],
    tolerance: Float[Array, "Q"],
    active: Bool[Array, "Q"],
    max_epochs: int,
) -> Float[Array, "A Q F1"]:
    """Coordinate descent within the working sets, all `Q (F+1)` problems side by side."""
    shape = coef.shape
    own = _gather(working.index, gradient).reshape(shape[0], -1)
    penalty, tolerance, active = (jnp.repeat(a, shape[2]) for a in (penalty, tolerance, active))
    return descend(working.gram, own, coef.reshape(shape[0], -1), penalty, tolerance, active, max_epochs).reshape(shape)


@jax.jit
def _needed(
    index: Int[Array, "Q A"], coef: Float[Array, "A Q F1"], gradient: Float[Array, "P Q F1"], bound: Float[Array, "Q"]
) -> Int[Array, ""]:
    """Most columns of a query that are in use or whose gradient exceeds `bound`."""
    in_use = scatter_coef(index, (coef != 0).any(axis=2), num_columns=gradient.shape[0])
    return (in_use | (jnp.abs(gradient).max(axis=2) > bound)).sum(axis=0).max()


@functools.partial(jax.jit, static_argnames="size")
def _regrow(
    problem: Problem,
    index: Int[Array, "Q A"],
    coef: Float[Array, "A Q F1"],
    gradient: Float[Array, "P Q F1"],
    size: int,
) -> tuple[WorkingSet, Float[Array, "size Q F1"]]:
    """Choose working sets of `size` columns: those in use first, then those with the largest gradient."""
    full = scatter_coef(index, coef, num_columns=gradient.shape[0])
    chosen = workset.choose(gradient, (full != 0).any(axis=2), size)
    return workset.build(problem, chosen), _gather(chosen, full)


def _size(needed: int, num_columns: int) -> int:
    """Room for `needed` columns and an eighth more, in powers of two so that few shapes are compiled."""
    size = _SMALLEST_WORKING_SET
    while size < needed * 9 / 8:
        size *= 2
    return min(size, num_columns)


class _Solver:
    """The warm-started state of all problems between two penalties."""

    def __init__(self, problem: Problem, max_epochs: int):
        num_queries, num_problems = problem.z_inverse.shape[:2]
        self.problem = problem
        self.max_epochs = max_epochs
        self.size = _size(0, problem.columns.num_columns)
        self.gradient = initial_gradient(problem)
        start = jnp.zeros((self.size, num_queries, num_problems))
        empty = jnp.full((num_queries, self.size), problem.columns.num_columns, jnp.int32)
        self.working, self.coef = _regrow(problem, empty, start, self.gradient, size=self.size)

    def _grow(self, bound: np.ndarray) -> None:
        """Rebuild the working sets with room for every column whose gradient exceeds `bound [Q]`."""
        needed = int(_needed(self.working.index, self.coef, self.gradient, jnp.asarray(bound, jnp.float32)))
        self.size = max(self.size, _size(needed, self.problem.columns.num_columns))
        log.debug("working set: room for %d columns, %d needed", self.size, needed)
        self.working, self.coef = _regrow(self.problem, self.working.index, self.coef, self.gradient, size=self.size)

    def solve(self, penalty: np.ndarray, previous: np.ndarray, tolerance: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Solve at `penalty [Q]`; return which queries met `tolerance [Q]`."""
        lam, allowed, moving = jnp.float32(penalty), jnp.float32(tolerance), jnp.asarray(active)
        for _ in range(_ROUNDS):
            self.coef = _descend(
                self.working, self.gradient, self.coef, lam, allowed, moving, max_epochs=self.max_epochs
            )
            self.gradient, self.errors, *off = _assess(self.problem, self.working, self.coef, lam)
            inside, outside = map(np.asarray, off)
            if (active & (outside > tolerance)).any():
                self._grow(np.where(active, 2 * penalty - previous, np.inf))
            elif not (active & (inside > 2 * tolerance)).any():
                break
        return (inside <= 2 * tolerance) & (outside <= tolerance)


def walk_path(
    problem: Problem,
    consume: Callable[[PathStep], np.ndarray],
    *,
    num_penalties: int = 100,
    min_ratio: float = 0.01,
    tolerance: float = 2e-4,
    max_epochs: int = 1000,
) -> None:
    """Solve all problems at `num_penalties` falling penalties and hand every step to `consume`.

    Args:
      problem: `Q x (F+1)` problems.
      consume: called with each `PathStep`; returns which queries go on, `bool [Q]`. A query that ended keeps its
        coefficients. The walk stops when none goes on.
      num_penalties: `L`, spaced evenly in log scale.
      min_ratio: last over first penalty.
      tolerance: largest violation of an optimality condition, as a share of the penalty.
      max_epochs: passes over the working set per penalty.
    """
    solver = _Solver(problem, max_epochs)
    first = np.asarray(jnp.abs(solver.gradient[..., -1]).max(axis=0), np.float64)
    # Gradients of a standardised target carry about 1e-6 of rounding in float32.
    floor = np.maximum(2e-6 * first, 1e-12)
    active = first > 0
    previous = first
    for number, ratio in enumerate(np.geomspace(1.0, min_ratio, num_penalties)):
        penalty = first * ratio
        allowed = np.maximum(tolerance * penalty, floor)
        converged = solver.solve(penalty, previous, allowed, active)
        step = PathStep(
            number=number,
            penalty=penalty,
            index=solver.working.index,
            coef=solver.coef,
            curvature=solver.working.curvature,
            errors=np.asarray(solver.errors),
            converged=converged,
        )
        active = active & consume(step)
        previous = penalty
        if not active.any():
            return
