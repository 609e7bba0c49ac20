"""All problems of a design with few columns side by side, by the alternating direction method of multipliers.

Where columns are few, the end of a path holds nearly as many of them as there are rows, and coordinate descent takes
hundreds of passes there. An iteration here multiplies by `(X'WX + rho I)^-1` of each fold, which all queries share: a
few tens of iterations suffice, at the speed of matrix products. Where rows are few, that matrix is not formed, but
`X` and an inverse over the rows.

Between two penalties the path is nearly linear in the penalty, and the gradient is linear in the coefficients. So the
duality gap of an interpolated fit is known without any product; where it is within the tolerance, the fit is accepted.

References:
  Boyd et al., Found. Trends Mach. Learn. 3(1), 2011 (ADMM; its over-relaxation); Giesen, Jaggi, Laue, ACM Trans. Algor.
  9(1), 2012, and Mairal and Yu, ICML 2012 (paths to within a duality gap).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from jaxame.lasso.gap import duality_gap
from jaxame.lasso.path import PathStep
from jaxame.lasso.problem import Columns, Problem
from jaxame.lasso.prox import pull, soft_threshold
from jaxame.lasso.system import System, assemble, held_out_errors, held_rows, invert, rows_are_few

SMALLEST_GAP = 1e-5
"""Smallest tolerance on the relative gap that float32 is trusted with here."""
QUERIES_AT_ONCE = 64
MOST_BYTES = 2**30
_MOST_COLUMNS = 4  # a row
_UNLIKE = 4.0  # ratio of the mean squares of two columns up to which one `rho` serves both
_OVER_RELAXATION = 1.9
_STIFFNESS = 8.0  # `rho` as a multiple of the columns' mean square times the penalty's share of the first
_STRIDE = 8  # penalties to the next that is solved before those between are looked at
_CHECKED_EVERY = 4  # iterations


class _Point(NamedTuple):
    """Fits at one penalty per query.

    Attributes:
      coef: `[F+1, Q, P]`.
      gradient: `[F+1, Q, P]` `X'W` times the residuals.
      met: `[Q]` whether all problems of the query meet the tolerance.
      iterations: `[Q]` that they took at most.
    """

    coef: Array
    gradient: Array
    met: Array
    iterations: Array


def alike(problem: Problem) -> np.ndarray:
    """Return which queries have the same rows as the one with the most, `bool [Q]`: only they can share a system."""
    weight = np.asarray(problem.weight)
    return (weight == weight[(weight > 0).sum(axis=1).argmax()]).all(axis=1)


def memory(num_rows: int, num_columns: int, num_queries: int, num_folds: int) -> int:
    """Memory of a problem of these sizes, in bytes."""
    few = rows_are_few(num_rows, num_columns)
    matrices = (num_folds + 1) * (num_rows**2 if few else 2 * num_columns**2)
    states = 12 * num_columns * (num_folds + 1) * min(num_queries, QUERIES_AT_ONCE)
    return 4 * (matrices + 3 * num_columns * num_rows + states)


def suits(problem: Problem, gap: float) -> bool:
    """Whether the method is for this problem: few columns, of about one scale, and a tolerance `gap` it can meet."""
    columns, rows = problem.columns.num_columns, problem.y.shape[1]
    num_bytes = memory(rows, columns, problem.y.shape[0], problem.num_folds)
    if num_bytes > MOST_BYTES or columns > _MOST_COLUMNS * rows:
        return False
    if problem.y.dtype != np.float32 or gap < SMALLEST_GAP or problem.num_folds < 2:
        return False
    weight = problem.weight[np.argmax((np.asarray(problem.weight) > 0).sum(axis=1))]
    squares = np.asarray(_squares(problem.columns, weight))
    return bool(0 < squares.max() <= _UNLIKE * squares.min())


@jax.jit
def _squares(columns: Columns, weight: Float[Array, "M"]) -> Float[Array, "P"]:
    return columns.squares(weight)


_Steps: TypeAlias = dict[int, PathStep]
_State: TypeAlias = tuple[Array, Array, Array, Array, Array]


def _strength(problem: Problem, penalty: Float[Array, "Q"]) -> tuple[Array, Array]:
    """L1 and L2 penalties of the columns, `[Q, P]`; a column that is kept out needs no L2."""
    factor, l1_ratio = problem.penalty.factor, problem.penalty.l1_ratio
    l2 = (1 - l1_ratio) * problem.unit * penalty
    return l1_ratio * penalty[:, None] * factor, l2[:, None] * jnp.where(jnp.isfinite(factor), factor, 0.0)


def _gap(problem: Problem, system: System, penalty: Array, coef: Array, gradient: Array) -> Float[Array, "F1 Q"]:
    """Duality gap of every problem, as a share of its objective at zero."""
    l1, l2 = _strength(problem, penalty)
    ridge = (l2 * coef**2).sum(axis=2)
    along = system.square - (system.moment * coef).sum(axis=2)
    square = along - (gradient * coef).sum(axis=2) + ridge
    l1_part = (jnp.where(jnp.isfinite(l1), l1, 0.0) * jnp.abs(coef)).sum(axis=2)
    steepest = (pull(gradient - l2 * coef, problem.penalty.least) / jnp.where(l1 > 0, l1, 1.0)).max(axis=2)
    tiny = jnp.finfo(steepest.dtype).tiny
    return 2 * duality_gap(square, l1_part, along, 1 / jnp.maximum(steepest, tiny)) / jnp.maximum(system.square, tiny)


@jax.jit
def _solve(
    problem: Problem,
    system: System,
    inverse: Float[Array, "F1 n n"],
    rho: Array,
    penalty: Float[Array, "Q"],
    start: tuple[Float[Array, "F1 Q P"], Float[Array, "F1 Q P"]],
    going: Bool[Array, "Q"],
    largest_gap: Array,
    most: Array,
) -> _Point:
    """Iterate the problems of the queries that are `going`, from coefficients and gradients, each until it is done."""
    l1, l2 = _strength(problem, penalty)

    def iterate(_: Array, state: tuple[Array, Array], going: Array) -> tuple[Array, Array]:
        coef, dual = state
        smooth = system.products.smooth(inverse, rho, coef - dual)
        ahead = _OVER_RELAXATION * smooth + (1 - _OVER_RELAXATION) * coef + dual
        new = soft_threshold(ahead, l1 / rho, problem.penalty.least) / (1 + l2 / rho)
        return jnp.where(going, new, coef), jnp.where(going, ahead - new, dual)

    def some(state: _State) -> _State:
        coef, dual, _, going, iterations = state
        iterating = functools.partial(iterate, going=going[:, :, None])
        coef, dual = jax.lax.fori_loop(0, _CHECKED_EVERY, iterating, (coef, dual))
        gradient = system.products.gradient(coef)
        done = _gap(problem, system, penalty, coef, gradient) <= largest_gap
        return coef, dual, gradient, going & ~done, iterations + _CHECKED_EVERY * going

    def more(state: _State) -> Array:
        return state[3].any() & (state[4].max() < most)

    coef, gradient = start
    going = jnp.broadcast_to(going, system.square.shape)
    first = coef, gradient / rho, gradient, going, jnp.zeros(going.shape, jnp.int32)
    coef, _, gradient, going, iterations = jax.lax.while_loop(more, some, first)
    return _Point(coef, gradient, ~going.any(axis=0), iterations.max(axis=0))


@jax.jit
def _between(
    problem: Problem, system: System, ends: tuple[_Point, _Point], share: Float[Array, "Q"], penalty: Float[Array, "Q"]
) -> tuple[Array, Array, Array]:
    """Interpolate between two points; coefficients, gradients, and the largest relative gap of each query `[Q]`."""
    coef, gradient = (a + share[:, None] * (b - a) for a, b in zip(ends[0][:2], ends[1][:2], strict=True))
    return coef, gradient, _gap(problem, system, penalty, coef, gradient).max(axis=0)


@jax.jit
def _beyond(before: _Point, last: _Point, share: Float[Array, "Q"]) -> tuple[Array, Array]:
    """Go on along the path by `share` of the last step."""
    coef, gradient = (b + share[:, None] * (b - a) for a, b in zip(before[:2], last[:2], strict=True))
    return jnp.where(coef * last.coef > 0, coef, 0.0), gradient


class _Walk:
    """The path between two of its points."""

    def __init__(self, problem: Problem, gap: float, ratios: np.ndarray, most: int):
        leader = int((np.asarray(problem.weight) > 0).sum(axis=1).argmax())
        weight = problem.training_weight()[leader]
        self.problem = problem
        self.system = assemble(problem, weight, held_rows(problem), leader)
        self.largest_gap = jnp.asarray(gap, problem.y.dtype)
        self.most = jnp.int32(most)
        self.ratios = ratios
        diagonal = np.asarray(self.system.diagonal)
        self.curvature = np.broadcast_to(diagonal, (problem.y.shape[0], diagonal.size))
        shape = self.system.moment.shape
        self.zero = jnp.zeros(shape, problem.y.dtype), self.system.moment
        l1, _ = _strength(problem, jnp.ones(shape[1], problem.y.dtype))
        self.first = np.asarray((pull(self.system.moment[-1], problem.penalty.least) / l1).max(axis=1), np.float64)
        self.level: int | None = None

    def stiffen(self, number: int) -> None:
        """Choose `rho` for the penalties around `number`: a power of two, so that it changes a few times only."""
        level = int(np.floor(-np.log2(self.ratios[number])))
        if level != self.level:
            self.level = level
            self.rho = jnp.asarray(_STIFFNESS * 0.7 * 0.5**level * self.curvature[0].mean(), self.problem.y.dtype)
            self.inverse = invert(self.system, self.rho)

    def penalty(self, number: int) -> np.ndarray:
        """`[Q]`."""
        return self.first * self.ratios[number]

    def solve(self, number: int, start: tuple[Array, Array], going: np.ndarray) -> _Point:
        """Solve for the queries that are `going`."""
        penalty = jnp.asarray(self.penalty(number), self.problem.y.dtype)
        matrices = self.system, self.inverse, self.rho
        limits = self.largest_gap, self.most
        return _solve(self.problem, *matrices, penalty, start, jnp.asarray(going), *limits)

    def interpolate(self, number: int, a: int, b: int, ends: tuple[_Point, _Point]) -> tuple[Array, Array, np.ndarray]:
        """Interpolate at `number` between the points at `a` and `b`; see `_between`, but whether it will do."""
        share = np.full(self.first.size, (self.ratios[a] - self.ratios[number]) / (self.ratios[a] - self.ratios[b]))
        penalty = jnp.asarray(self.penalty(number), self.problem.y.dtype)
        *start, gap = _between(self.problem, self.system, ends, jnp.asarray(share, penalty.dtype), penalty)
        return *start, np.asarray(gap <= self.largest_gap)

    def start(self, number: int, solved: list[tuple[int, _Point]]) -> tuple[Array, Array]:
        """Where to start at `number`: extrapolated from the last two points, by no more than their distance."""
        if len(solved) < 2:
            return solved[0][1][:2] if solved else self.zero
        (a, before), (b, last) = solved
        share = min(1.0, (self.ratios[b] - self.ratios[number]) / (self.ratios[a] - self.ratios[b]))
        return _beyond(before, last, jnp.full(self.first.size, share, self.problem.y.dtype))

    def fill(self, a: int, b: int, ends: tuple[_Point, _Point], queries: np.ndarray, steps: _Steps) -> None:
        """Fit the `queries` at the penalties between `a` and `b`: interpolate, or else solve half way and go on so."""
        between = [self.interpolate(number, a, b, ends) for number in range(a + 1, b)]
        if not between:
            return
        fine = queries & np.all([will_do for *_, will_do in between], axis=0)
        none = np.zeros(fine.size, int)
        for number, (coef, _, _) in enumerate(between, a + 1):
            self.write(steps[number], coef, fine, np.ones_like(fine), none)
        if (rest := queries & ~fine).any():
            middle = (a + b) // 2
            point = self.solve(middle, between[middle - a - 1][:2], rest)
            self.write(steps[middle], point.coef, rest, np.asarray(point.met), np.asarray(point.iterations))
            self.fill(a, middle, (ends[0], point), rest, steps)
            self.fill(middle, b, (point, ends[1]), rest, steps)

    def blank(self, number: int) -> PathStep:
        """Return a step to be written, query by query."""
        num_queries, num_columns = self.curvature.shape
        return PathStep(
            number=number,
            penalty=self.penalty(number),
            index=np.broadcast_to(np.arange(num_columns), self.curvature.shape),
            coef=np.zeros(self.curvature.shape),
            fold_coef=np.zeros((num_queries, self.problem.num_folds, num_columns), self.problem.y.dtype),
            curvature=self.curvature,
            errors=np.zeros((num_queries, self.problem.num_folds)),
            converged=np.ones(num_queries, bool),
            passes=np.zeros(num_queries, int),
        )

    def write(self, step: PathStep, coef: Array, queries: np.ndarray, met: np.ndarray, passes: np.ndarray) -> None:
        """Write the fits of `queries` into a step."""
        if queries.any():
            *folds, whole = np.asarray(coef)
            step.coef[queries] = whole[queries]
            step.fold_coef[queries] = np.stack(folds, axis=1)[queries]
            step.errors[queries] = np.asarray(held_out_errors(self.system, coef)).T[queries]
            step.converged[queries], step.passes[queries] = met[queries], passes[queries]


def walk_path(
    problem: Problem,
    consume: Callable[[PathStep], np.ndarray],
    *,
    num_penalties: int = 100,
    min_ratio: float = 0.01,
    gap: float,
    max_iterations: int = 500,
) -> np.ndarray:
    """Fit all problems at falling penalties, as `jaxame.lasso.path.walk_path` does.

    A query of which a fit does not meet the tolerance goes no further.

    Args:
      problem: `Q x (F+1)` problems with the same rows for each query, or a target of zeros.
      consume: called with each `PathStep`, whose working set is all columns.
      num_penalties: `L`.
      min_ratio: last over first penalty.
      gap: largest relative duality gap of a fit, on the rows that it was trained on.
      max_iterations: per penalty.

    Returns:
      which queries had every fit within the tolerance, `bool [Q]`.
    """
    ratios = np.geomspace(1.0, min_ratio, num_penalties)
    walk = _Walk(problem, gap, ratios, max_iterations)
    active = (np.asarray(problem.unit) > 0) & (walk.first > 0)
    met = np.ones_like(active)
    solved: list[tuple[int, _Point]] = []
    for number in sorted({0, *range(_STRIDE, num_penalties, _STRIDE), num_penalties - 1}):
        walk.stiffen(number)
        begin = solved[-1][0] if solved else -1
        steps = {between: walk.blank(between) for between in range(begin + 1, number + 1)}
        point = walk.solve(number, walk.start(number, solved), active)
        walk.write(steps[number], point.coef, active, np.asarray(point.met), np.asarray(point.iterations))
        if solved:
            walk.fill(begin, number, (solved[-1][1], point), active, steps)
        for step in steps.values():
            met &= step.converged | ~active
            active = active & consume(step) & met
        solved = [*solved[-1:], (number, point)]
        if not active.any():
            break
    return met
