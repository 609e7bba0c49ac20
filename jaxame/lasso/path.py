"""Down the path of penalties: warm starts, growing working sets, every step checked against all columns."""

import dataclasses
import functools
import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxame.lasso import workset
from jaxame.lasso.descent import descend
from jaxame.lasso.problem import Problem
from jaxame.lasso.prox import violation
from jaxame.lasso.workset import WorkingSet, initial_gradient

_SMALLEST_WORKING_SET = 256
_ROUNDS = 20
_LOOKAHEAD = 0.2  # share of the penalty by which columns are taken in before they are needed
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class PathStep:
    """All problems solved at one penalty per query.

    Attributes:
      number: position on the path, from 0.
      penalty: `[Q]` in units of the standardised target.
      index: `[Q, A]` columns of the working set, `P` where a place is unused.
      coef: `[Q, A]` coefficients of the fit on all rows.
      curvature: `[Q, A]` mean square of each column in that fit, after elimination of `Z`.
      errors: `[Q, F]` mean squared held-out errors.
      converged: `[Q]` no optimality condition of any problem is violated by more than allowed.
    """

    number: int
    penalty: np.ndarray
    index: np.ndarray
    coef: np.ndarray
    curvature: np.ndarray
    errors: np.ndarray
    converged: np.ndarray


def _gather(index: Int[Array, "Q A"], full: Float[Array, "Q F1 P"]) -> Float[Array, "Q F1 A"]:
    return jnp.take_along_axis(full, index[:, None, :], axis=2, mode="fill", fill_value=0.0)


@jax.jit
def _assess(
    problem: Problem, working: WorkingSet, coef: Float[Array, "Q F1 A"], penalty: Float[Array, "Q"]
) -> tuple[Float[Array, "Q F1 P"], Float[Array, "Q F"], Float[Array, "Q"], Float[Array, "Q"]]:
    """Fresh gradient and held-out errors, and the largest violation in and outside of the working set, `[Q]` each."""
    gradient, errors = workset.gradient(problem, working, coef)
    inside = violation(_gather(working.index, gradient), coef, penalty[:, None, None]).max(axis=(1, 2))
    return gradient, errors, inside, workset.outside(working, gradient).max(axis=1) - penalty


@functools.partial(jax.jit, static_argnames="max_epochs")
def _descend(
    working: WorkingSet,
    gradient: Float[Array, "Q F1 P"],
    coef: Float[Array, "Q F1 A"],
    penalty: Float[Array, "Q"],
    tolerance: Float[Array, "Q"],
    active: Bool[Array, "Q"],
    max_epochs: int,
) -> Float[Array, "Q F1 A"]:
    """Coordinate descent within the working sets, all `Q (F+1)` problems side by side."""
    size = coef.shape[2]
    own = _gather(working.index, gradient).reshape(-1, size)
    penalty, tolerance, active = (jnp.repeat(a, coef.shape[1]) for a in (penalty, tolerance, active))
    gram = working.gram.reshape(-1, size, size)
    return descend(gram, own, coef.reshape(-1, size), penalty, tolerance, active, max_epochs).reshape(coef.shape)


@jax.jit
def _curvature(working: WorkingSet) -> Float[Array, "Q A"]:
    place = jnp.arange(working.index.shape[1])
    return working.gram[:, -1, place, place]


@jax.jit
def _wanted(
    working: WorkingSet, gradient: Float[Array, "Q F1 P"], bound: Float[Array, "Q"], ahead: Float[Array, "Q"]
) -> tuple[Bool[Array, "Q"], Int[Array, "Q K"]]:
    """Which queries have columns beyond `bound` outside of their working set, and their columns beyond `ahead`."""
    largest = workset.outside(working, gradient)
    growing = largest.max(axis=1) > bound
    return growing, workset.candidates(largest, jnp.where(growing, ahead, jnp.inf))


_append = jax.jit(workset.append, donate_argnames="working")


class _Solver:
    """The warm-started state of all problems between two penalties. No query influences another."""

    def __init__(self, problem: Problem, max_epochs: int):
        num_queries, num_problems = problem.z_inverse.shape[:2]
        self.problem = problem
        self.max_epochs = max_epochs
        self.gradient = initial_gradient(problem)
        self.working = workset.empty(problem, _SMALLEST_WORKING_SET)
        self.coef = jnp.zeros((num_queries, num_problems, _SMALLEST_WORKING_SET))

    def _grow(self, bound: np.ndarray, ahead: np.ndarray) -> None:
        """Take in every column whose gradient exceeds `bound [Q]`, and with it those that exceed `ahead [Q]`."""
        limits = jnp.float32(bound), jnp.float32(ahead)
        growing, added = _wanted(self.working, self.gradient, *limits)
        while growing.any():
            self._make_room(int(self.working.count.max()) + added.shape[1])
            self.working = _append(self.problem, self.working, added)
            growing, added = _wanted(self.working, self.gradient, *limits)

    def _make_room(self, needed: int) -> None:
        size = self.coef.shape[2]
        if needed > size:
            size *= 2
            log.debug("working sets of up to %d columns", size)
            self.working = workset.enlarge(self.working, size, self.problem.columns.num_columns)
            self.coef = jnp.pad(self.coef, ((0, 0), (0, 0), (0, size - self.coef.shape[2])))

    def solve(self, penalty: np.ndarray, previous: np.ndarray, tolerance: np.ndarray, active: np.ndarray) -> np.ndarray:
        """Solve at `penalty [Q]`; return which queries met `tolerance [Q]`."""
        lam, allowed = jnp.float32(penalty), jnp.float32(tolerance)
        pending = active
        # The sequential strong rule says which columns will probably be needed; the check below catches its misses. On
        # a coarse path it would ask for nearly all of them, hence the lower limit.
        strong = np.where(active, np.maximum(2 * penalty - previous, penalty / 2), np.inf)
        self._grow(strong, strong - _LOOKAHEAD * penalty)
        for _ in range(_ROUNDS):
            self.coef = _descend(
                self.working, self.gradient, self.coef, lam, allowed, jnp.asarray(pending), max_epochs=self.max_epochs
            )
            self.gradient, self.errors, *off = _assess(self.problem, self.working, self.coef, lam)
            inside, outside = map(np.asarray, off)
            missing = pending & (outside > tolerance)
            pending = missing | (pending & (inside > 2 * tolerance))
            if not pending.any():
                break
            beyond = np.where(missing, penalty, np.inf)
            self._grow(beyond, beyond)
        return ~pending


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
    first = np.asarray(jnp.abs(solver.gradient[:, -1]).max(axis=1), np.float64)
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
            index=np.array(solver.working.index),  # a copy: the working set is overwritten as it grows
            coef=np.asarray(solver.coef[:, -1], np.float64),
            curvature=np.asarray(_curvature(solver.working), np.float64),
            errors=np.asarray(solver.errors, np.float64),
            converged=converged,
        )
        active = active & consume(step)
        previous = penalty
        if not active.any():
            return
