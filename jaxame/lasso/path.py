"""Down the path of penalties: warm starts, growing working sets, every step checked against all columns."""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxame.lasso import screen, workset
from jaxame.lasso.descent import Block, Descent, Query, descend
from jaxame.lasso.problem import DenseColumns, Problem
from jaxame.lasso.workset import BLOCK, WorkingSet

_FEWEST_BLOCKS = 32
_ROUNDS = 20
_PARTS = 4  # the product over all columns takes this share of the queries at a time, as queries end
# Queries that the descent works on side by side; on a CPU one after the other, each only until it is done.
_QUERIES_AT_ONCE = {"cpu": 1}
log = logging.getLogger(__name__)


class Tolerance(NamedTuple):
    """When a fit is accepted: as soon as one of the two is met.

    Attributes:
      gap: largest `relative_gap` of a `Certificate`: on the rows that the fit was trained on.
      violation: largest violation of an optimality condition, as a share of the penalty.
    """

    gap: float = 1e-6
    violation: float = 2e-4


TOLERANCE = Tolerance()
"""Of fits that are looked at column by column."""
CURVE_TOLERANCE = Tolerance(gap=1e-5)
"""Of fits that only their errors matter of: a twentieth of scikit-learn's default."""


@dataclasses.dataclass(frozen=True, eq=False)
class PathStep:
    """All problems solved at one penalty per query.

    Attributes:
      number: position on the path, from 0.
      penalty: `[Q]` in units of the standardised target.
      index: `[Q, A]` columns of the working set, `P` where a place is unused.
      coef: `[Q, A]` coefficients of the fit on all rows.
      fold_coef: `[Q, F, A]` those of the fits on each fold's training rows.
      curvature: `[Q, A]` mean square of each column in that fit, after elimination of `Z`.
      errors: `[Q, F]` mean squared held-out errors.
      converged: `[Q]` no optimality condition of any problem is violated by more than allowed.
      passes: `[Q]` passes over the working set.
    """

    number: int
    penalty: np.ndarray
    index: np.ndarray
    coef: np.ndarray
    fold_coef: np.ndarray
    curvature: np.ndarray
    errors: np.ndarray
    converged: np.ndarray
    passes: np.ndarray


@functools.partial(jax.jit, static_argnames="at_once")
def _descend(
    problem: Problem,
    working: WorkingSet,
    coef: Float[Array, "Q A F1 K"],
    residual: Float[Array, "Q F1 M"],
    penalty: Float[Array, "Q"],
    slack: Float[Array, "Q"],
    active: Bool[Array, "Q"],
    gap: Float[Array, ""],
    max_passes: Int[Array, ""],
    at_once: int,
) -> tuple[Array, ...]:
    """Coordinate descent within the working sets of the `active` queries.

    Returns:
      coefficients `[Q, A, F+1, K]`, residuals `[Q, F+1, M]`, the largest pull on a working column of every problem
      `[Q, F+1]`, whether each query met a tolerance and how many passes it took, `[Q]`.
    """

    def one(parts: tuple[Any, ...]) -> tuple[Array, ...]:
        goes_on, blocks, count, start, residual, y, weight, z_inverse, unit, lam, violation = parts
        l1_ratio = problem.penalty.l1_ratio
        form = l1_ratio, (1 - l1_ratio) * unit, problem.penalty.least
        query = Query(y, weight, problem.z, z_inverse, lam, *form, gap, violation)
        zeros = jnp.zeros(weight.shape[0], y.dtype)
        nothing = Descent(start, residual, zeros, zeros == 0, jnp.bool_(True), jnp.int32(0))
        end = jax.lax.cond(goes_on, lambda: descend(query, blocks, count, start, max_passes), lambda: nothing)
        return end.coef, end.residual, end.steepest, end.settled, end.passes

    blocks = Block(working.x, working.gram, working.z_part, working.factor)
    rows = problem.y, problem.training_weight(), problem.z_inverse, problem.unit
    parts = active, blocks, working.count, coef, residual, *rows, penalty, slack
    # A batch, even of one, would compute both sides of every condition: blocks that have settled could not be skipped.
    return jax.lax.map(one, parts, batch_size=None if at_once == 1 else at_once)


@jax.jit
def _held_out_errors(problem: Problem, residual: Float[Array, "Q F1 M"]) -> Float[Array, "Q F"]:
    return (problem.held_out_weight() * residual[:, : problem.num_folds] ** 2).sum(axis=2)


@jax.jit
def _fits(working: WorkingSet, coef: Float[Array, "Q A F1 K"]) -> tuple[Array, Array, Array]:
    """Columns `[Q, A K]`, coefficients `[Q, F+1, A K]`, and curvatures of the fits on all rows, `[Q, A K]`."""
    curvature = jnp.einsum("qakk->qak", working.gram[:, :, :, -1])
    flat = (coef.shape[0], -1)
    by_problem = jnp.moveaxis(coef, 2, 1).reshape(coef.shape[0], coef.shape[2], -1)
    return working.index.reshape(flat), by_problem, curvature.reshape(flat)


@jax.jit
def _extrapolate(coef: Array, before: Array, ratio: Float[Array, "Q"]) -> Array:
    """Go on along the path by `ratio` of the last step: it is piecewise linear in the penalty."""
    ahead = coef + ratio[:, None, None, None] * (coef - before)
    return jnp.where(ahead * coef > 0, ahead, 0.0)


_append = jax.jit(workset.append, donate_argnames="working")
_next_block = jax.jit(workset.next_block)
_outside = jax.jit(workset.outside)


class _Solver:
    """The warm-started state of all problems between two penalties. No query influences another."""

    def __init__(self, problem: Problem, tolerance: Tolerance, max_passes: int):
        num_queries, num_problems, _, _ = problem.z_inverse.shape
        num_columns = problem.columns.num_columns
        self.problem = problem
        # The descent does not see the columns, so it is compiled once for designs of any width.
        no_columns = DenseColumns(jnp.zeros((0, problem.y.shape[1]), problem.y.dtype))
        factor = jnp.zeros((1, 0), problem.y.dtype)
        self.rows = dataclasses.replace(
            problem, columns=no_columns, penalty=dataclasses.replace(problem.penalty, factor=factor)
        )
        self.tolerance = tolerance
        self.largest_gap = jnp.asarray(tolerance.gap, problem.y.dtype)
        self.max_passes = jnp.int32(max_passes)
        self.at_once = _QUERIES_AT_ONCE.get(jax.default_backend(), num_queries)
        self.most = min(num_columns, max(1024, num_columns // 16))
        self.working = workset.empty(problem, min(_FEWEST_BLOCKS, -(-num_columns // BLOCK)))
        self.coef = self.before = jnp.zeros((num_queries, self.working.room, num_problems, BLOCK), problem.y.dtype)
        self.residual = jnp.repeat(problem.y[:, None], num_problems, axis=1)
        self.references = screen.start(problem)
        self._refer(np.ones(num_queries, bool))
        self.first = np.asarray(screen.largest_penalty(problem, self.references), np.float64)
        # Gradients of a standardised target carry about 10 eps of rounding.
        self.rounding = 20 * np.finfo(problem.y.dtype).eps * self.first
        at_first = jnp.asarray(np.where(self.first > 0, self.first, np.inf), problem.y.dtype)[:, None]
        self.score = screen.score(problem, self.references, self.working, at_first)

    def _refer(self, queries: np.ndarray) -> None:
        """Compute the gradients of all columns for some queries."""
        which = np.flatnonzero(queries)
        # One size, so that a product is rounded alike whatever the other queries do.
        size = -(-queries.size // _PARTS)
        which = np.resize(which, (-(-which.size // size), size))
        for part in which:
            self.references = screen.refer(self.problem, self.references, self.residual, jnp.asarray(part))

    def _grow(self, bound: np.ndarray) -> None:
        """Take in blocks of columns until none that scores beyond `bound [Q]` is left outside."""
        self.score = _outside(self.working, self.score)
        while (growing := np.asarray(self.score.max(axis=1) > bound)).any():
            added = _next_block(self.score)
            if int(self.working.count.max()) == self.working.room:
                self._make_room()
            self.working = _append(self.problem, self.working, added, jnp.asarray(growing))
            self.score = _outside(self.working, self.score)

    def _make_room(self) -> None:
        # Columns that can never be needed leave places empty, so more blocks may be in use than the columns would fill.
        more = max(1, min(self.working.room, -(-self.problem.columns.num_columns // BLOCK) - self.working.room))
        self.working = workset.enlarge(self.working, self.working.room + more, self.problem.columns.num_columns)
        self.coef, self.before = (jnp.pad(c, ((0, 0), (0, more), (0, 0), (0, 0))) for c in (self.coef, self.before))
        log.debug("working sets of up to %d columns", self.working.room * BLOCK)

    def _check(self, bound: Array, queries: np.ndarray) -> None:
        """Score the columns outside of the working sets of some queries, in units of `bound [Q, F+1]`."""
        asked = jnp.asarray(queries)[:, None]
        bound = jnp.where(asked, bound, jnp.inf)
        score, settled = screen.screen(self.problem, self.references, self.working, self.residual, bound, self.most)
        if (unsettled := ~np.asarray(settled)).any():
            self._refer(unsettled)
            exact = screen.score(self.problem, self.references, self.working, bound)
            score = jnp.where(jnp.asarray(unsettled)[:, None], exact, score)
        # The others keep theirs: what they take in next must not depend on how long these take.
        self.score = jnp.where(asked, score, self.score)

    def solve(self, penalty: np.ndarray, last: list[np.ndarray], active: np.ndarray) -> np.ndarray:
        """Solve at `penalty [Q]`, after the penalties `last`; return which queries met a tolerance."""
        with np.errstate(divide="ignore", invalid="ignore"):
            needed, ahead = penalty / last[-1], (last[-1] - penalty) / (last[0] - last[-1])
        self._grow(np.where(active, needed, np.inf))
        ahead = np.clip(np.nan_to_num(ahead, posinf=0.0), 0.0, 1.0)
        start = _extrapolate(self.coef, self.before, jnp.asarray(ahead, self.problem.y.dtype))
        self.coef, self.before = start, self.coef
        return self._settle(penalty, active)

    def solve_near(self, penalty: np.ndarray, near: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Solve at `penalty [Q]` from the coefficients `near [Q, P]`; return which queries met a tolerance."""
        # Columns that are not asked for score too, so that every block is full.
        self.score = jnp.asarray(np.where(near != 0, 1.0, 0.1), self.problem.y.dtype)
        self._grow(np.where(active, 0.5, np.inf))
        padded = jnp.pad(jnp.asarray(near, self.problem.y.dtype), ((0, 0), (0, 1)))
        flat = self.working.index.reshape(active.size, -1)
        placed = jnp.take_along_axis(padded, flat, axis=1).reshape(self.working.index.shape)
        self.coef = jnp.repeat(placed[:, :, None], self.coef.shape[2], axis=2)
        return self._settle(penalty, active)

    def _settle(self, penalty: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Solve at `penalty [Q]` from where the coefficients are."""
        lam = jnp.asarray(penalty, self.problem.y.dtype)
        slack = jnp.asarray(np.maximum(self.tolerance.violation * penalty, self.rounding), lam.dtype)
        pending, met = active, np.ones_like(active)
        self.passes = np.zeros(active.size, int)
        for _ in range(_ROUNDS):
            self.coef, self.residual, steepest, settled, passes = _descend(
                self.rows,
                self.working,
                self.coef,
                self.residual,
                lam,
                slack,
                jnp.asarray(pending),
                self.largest_gap,
                max_passes=self.max_passes,
                at_once=self.at_once,
            )
            met = np.where(pending, np.asarray(settled), met)
            self.passes += np.asarray(passes)
            # Columns outside may be pulled as strongly as those inside were when the tolerance was met.
            bound = jnp.maximum(steepest, (lam + slack)[:, None])
            self._check(bound, pending)
            pending = pending & np.asarray(self.score.max(axis=1) > 1)
            if not pending.any():
                return met
            self._grow(np.where(pending, 1.0, np.inf))
        return met & ~pending


def walk_path(
    problem: Problem,
    consume: Callable[[PathStep], np.ndarray],
    *,
    num_penalties: int = 100,
    min_ratio: float = 0.01,
    penalties: np.ndarray | None = None,
    tolerance: Tolerance = TOLERANCE,
    max_passes: int = 1000,
) -> None:
    """Solve all problems at falling penalties and hand every step to `consume`.

    Args:
      problem: `Q x (F+1)` problems.
      consume: called with each `PathStep`; returns which queries go on, `bool [Q]`. A query that ended keeps its
        coefficients. The walk stops when none goes on.
      num_penalties: `L`, from the smallest that gives zero, spaced evenly in log scale.
      min_ratio: last over first penalty.
      penalties: `[L, Q]` falling penalties to use instead, in units of the standardised target.
      tolerance: when a fit is accepted.
      max_passes: passes over the working set per penalty.
    """
    solver = _Solver(problem, tolerance, max_passes)
    active = np.asarray(problem.unit) > 0
    last = [solver.first, solver.first]
    if penalties is None:
        active = solver.first > 0
        penalties = solver.first * np.geomspace(1.0, min_ratio, num_penalties)[:, None]
    for number, penalty in enumerate(penalties):
        converged = solver.solve(penalty, last, active)
        index, coef, curvature = (np.asarray(part) for part in _fits(solver.working, solver.coef))
        step = PathStep(
            number=number,
            penalty=penalty,
            index=index,
            coef=coef[:, -1].astype(np.float64),
            fold_coef=coef[:, :-1],
            curvature=curvature.astype(np.float64),
            errors=np.asarray(_held_out_errors(problem, solver.residual), np.float64),
            converged=converged,
            passes=solver.passes,
        )
        active = active & consume(step)
        last = [last[-1], penalty]
        if not active.any():
            return


def solve_near(
    problem: Problem,
    penalties: np.ndarray,
    near: np.ndarray,
    *,
    tolerance: Tolerance = TOLERANCE,
    max_passes: int = 1000,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit at some penalties from coefficients that are nearly optimal there.

    Args:
      problem: `Q` problems without folds.
      penalties: `[K, Q]` in units of the standardised target.
      near: `[K, Q, P]` coefficients, in units of the standardised target.
      tolerance: when a fit is accepted.
      max_passes: passes over the working set per penalty.

    Returns:
      coefficients `[K, Q, P]`, and which queries met the tolerance, `bool [K, Q]`.
    """
    solver = _Solver(problem, tolerance, max_passes)
    active = solver.first > 0
    fits, met = np.zeros(near.shape), np.ones(penalties.shape, bool)
    for fit, done, penalty, start in zip(fits, met, penalties, near, strict=True):
        done[:] = solver.solve_near(penalty, start, active)
        index, coef, _ = (np.asarray(part) for part in _fits(solver.working, solver.coef))
        query, place = np.nonzero(coef[:, -1])
        fit[query, index[query, place]] = coef[query, -1, place]
    return fits, met


def fit_near(problem: Problem, penalty: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Fit the `Q` problems of `problem`, without folds, at one penalty each.

    Args:
      problem: without folds.
      penalty: `[Q]`, in the unit of the standardised target.
      near: `[Q, P]` coefficients to start from, in the same unit.

    Returns:
      `[Q, P]` coefficients, in the same unit.

    Raises:
      RuntimeError: if a fit does not meet the tolerance.
    """
    fits, met = solve_near(problem, penalty[None], near[None])
    if not met.all():
        raise RuntimeError(f"the LASSO did not converge for {int((~met).sum())} of {met.size} fits")
    return fits[0]
