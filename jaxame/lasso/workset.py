"""Working sets: the few columns of each query that the coordinate descent sees, with their Gram matrices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxame.lasso.problem import Problem


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class WorkingSet:
    """`A` columns per query, shared by its `F+1` problems; `B = Q (F+1)` problems in all.

    Attributes:
      index: `[Q, A]` column numbers; `P` marks an unused place, a column of zeros.
      x: `[Q, M, A]` the columns.
      gram: `[A, A, B]` `X'WX / sum w` after elimination of `Z`.
      curvature: `[A, Q]` its diagonal in the fit on all rows.
    """

    index: Array
    x: Array
    gram: Array
    curvature: Array


def _leave_out(by_fold: Float[Array, "F ..."], num_folds: int) -> Float[Array, "F1 ..."]:
    """Sums over the training rows of each problem from sums over the rows of each fold."""
    total = by_fold.sum(axis=0, keepdims=True)
    return jnp.concatenate([total - by_fold, total]) if num_folds else total


def _build_query(
    problem: Problem, weight: Float[Array, "M"], z_inverse: Float[Array, "F1 D D"], index: Int[Array, "A"]
) -> tuple[Float[Array, "M A"], Float[Array, "F1 A A"]]:
    x = problem.columns.gather(index)
    rows = functools.partial(jnp.take, indices=problem.blocks, axis=0, mode="fill", fill_value=0.0)
    x_rows, z_rows, w_rows = rows(x), rows(problem.z), rows(weight)
    weighted = x_rows * w_rows[..., None]
    gram = _leave_out(jnp.einsum("fra,frb->fab", weighted, x_rows), problem.num_folds)
    z_cross = _leave_out(jnp.einsum("frd,fra->fda", z_rows, weighted), problem.num_folds)
    total = _leave_out(w_rows.sum(axis=1), problem.num_folds)
    own = jnp.einsum("faa->fa", gram)
    gram = gram - jnp.einsum("fda,fde,feb->fab", z_cross, z_inverse, z_cross)
    # A column that Z explains leaves only rounding behind; it must not be divided by.
    usable = jnp.einsum("faa->fa", gram) > 1e-5 * own
    gram = jnp.where(usable[:, :, None] & usable[:, None, :], gram, 0.0)
    return x, gram / jnp.where(total > 0, total, 1.0)[:, None, None]


def build(problem: Problem, index: Int[Array, "Q A"]) -> WorkingSet:
    """Gather the columns `index` of every query and form their Gram matrices, one query at a time."""
    x, gram = jax.lax.map(lambda query: _build_query(problem, *query), (problem.weight, problem.z_inverse, index))
    place = jnp.arange(index.shape[1])
    return WorkingSet(
        index=index,
        x=x,
        gram=gram.reshape(-1, place.size, place.size).transpose(1, 2, 0),
        curvature=gram[:, -1, place, place].T,
    )


def choose(gradient: Float[Array, "P Q F1"], in_use: Float[Array, "P Q"], size: int) -> Int[Array, "Q size"]:
    """Pick `size` columns per query: those in use first, then those with the largest gradient in any problem."""
    score = jnp.where(in_use, jnp.inf, jnp.abs(gradient).max(axis=2)).T
    return jax.lax.top_k(score, size)[1].astype(jnp.int32)


def _gradient(problem: Problem, fitted: Float[Array, "Q F1 M"]) -> tuple[Float[Array, "P Q F1"], Float[Array, "Q F"]]:
    weight = problem.training_weight()
    residual = problem.y[:, None, :] - fitted
    moments = jnp.einsum("md,qfm->qfd", problem.z, weight * residual)
    residual = residual - jnp.einsum("md,qfde,qfe->qfm", problem.z, problem.z_inverse, moments)
    total = weight.sum(axis=2)
    rows = weight * residual / jnp.where(total > 0, total, 1.0)[..., None]
    full = problem.columns.transpose_product(rows.reshape(-1, rows.shape[-1]).T)
    held_out = (problem.weight[:, None] - weight)[:, :-1]
    held_total = held_out.sum(axis=2)
    errors = (held_out * residual[:, :-1] ** 2).sum(axis=2) / jnp.where(held_total > 0, held_total, 1.0)
    return full.reshape(-1, *fitted.shape[:2]), errors


@jax.jit
def initial_gradient(problem: Problem) -> Float[Array, "P Q F1"]:
    """Gradient of every column at coefficients of zero."""
    return _gradient(problem, jnp.zeros((*problem.z_inverse.shape[:2], problem.y.shape[1])))[0]


def gradient(
    problem: Problem, working: WorkingSet, coef: Float[Array, "A Q F1"]
) -> tuple[Float[Array, "P Q F1"], Float[Array, "Q F"]]:
    """Gradient of every column and weighted held-out squared errors, from fresh residuals.

    Returns:
      `[P, Q, F+1]` minus the derivative of the loss of (1), and `[Q, F]` mean held-out errors.
    """
    return _gradient(problem, jnp.einsum("qma,aqf->qfm", working.x, coef))
