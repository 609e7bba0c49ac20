"""Which columns outside of the working sets are shown to be optimal at zero, mostly without a product over all of them.

The gradient of a column is linear in the residual. So where two residuals `h_0`, `h_1` have known gradients `g_0`,
`g_1` (references), any other `h = a_0 h_0 + a_1 h_1 + d` has, by Cauchy-Schwarz,

    |g - a_0 g_0 - a_1 g_1| <= ||x|| ||d||.                                                              (1)

With the last two full products as references, `d` is of second order in the step down the path, and the bound settles
nearly all columns. The rest are computed; where they are many, all are, and become a reference.

References:
  Fercoq, Gramfort, Salmon, ICML 2015, and Ndiaye et al., JMLR 18, 2017 (safe rules from a ball around a dual point).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxame.lasso import workset
from jaxame.lasso.problem import Problem
from jaxame.lasso.prox import pull
from jaxame.lasso.workset import WorkingSet

_PARALLEL = 1e-4  # share of the older reference that must not be explained by the newer one for it to serve


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """Residuals whose gradients are known, the newest first.

    Attributes:
      residual: `[Q, 2, F+1, M]`, times the square root of the training weight.
      gradient: `[Q, 2, F+1, P]`.
      norm: `[P]` norm of each column in the largest training weight that a row has in any problem.
    """

    residual: Array
    gradient: Array
    norm: Array


@jax.jit
def start(problem: Problem) -> References:
    """Return references without any residual."""
    num_queries, num_problems = problem.z_inverse.shape[:2]
    shape, dtype = (num_queries, 2, num_problems), problem.y.dtype
    weight = problem.training_weight()
    return References(
        residual=jnp.zeros((*shape, weight.shape[2]), dtype),
        gradient=jnp.zeros((*shape, problem.columns.num_columns), dtype),
        norm=jnp.sqrt(problem.columns.squares(weight.max(axis=(0, 1)))),
    )


@functools.partial(jax.jit, donate_argnames="references")
def refer(
    problem: Problem, references: References, residual: Float[Array, "Q F1 M"], which: Int[Array, "n"]
) -> References:
    """Make the residuals of queries `which` (repeats do no harm) the newest references, by a product over all columns.

    Args:
      problem: the problems.
      references: what is known.
      residual: plain residuals of all queries.
      which: query numbers.
    """
    weight = problem.training_weight()[which]
    weighted = weight * residual[which]
    product = problem.columns.product(weighted.reshape(-1, weighted.shape[2]))

    def shift(known: Array, new: Array) -> Array:
        return known.at[which, 1].set(known[which, 0]).at[which, 0].set(new)

    return References(
        residual=shift(references.residual, jnp.sqrt(weight) * residual[which]),
        gradient=shift(references.gradient, product.reshape(*weighted.shape[:2], -1)),
        norm=references.norm,
    )


def _combination(known: Float[Array, "Q 2 F1 M"], h: Float[Array, "Q F1 M"]) -> tuple[Array, Array, Array]:
    """Least-squares combination of the references, and how far it is from `h`: `a_0`, `a_1`, `||d||`, `[Q, F+1]`."""

    def dot(a: Array, b: Array) -> Array:
        return (a * b).sum(axis=2)

    newest, older = known[:, 0], known[:, 1]
    square = dot(newest, newest)
    square = jnp.where(square > 0, square, 1.0)
    slope = dot(older, newest) / square
    rest = older - slope[..., None] * newest
    left = dot(rest, rest)
    serves = left > _PARALLEL**2 * dot(older, older)
    second = jnp.where(serves, dot(h, rest) / jnp.where(serves, left, 1.0), 0.0)
    first = dot(h, newest) / square - second * slope
    off = h - first[..., None] * newest - second[..., None] * older
    return first, second, jnp.sqrt(dot(off, off))


@functools.partial(jax.jit, static_argnames="most")
def screen(
    problem: Problem,
    references: References,
    working: WorkingSet,
    residual: Float[Array, "Q F1 M"],
    bound: Float[Array, "Q F1"],
    most: int,
) -> tuple[Float[Array, "Q P"], Bool[Array, "Q"]]:
    """Score every column by how near it is to entering a problem: 1 where it would enter at a penalty of `bound`.

    Args:
      problem: the problems.
      references: residuals with known gradients.
      working: the working sets.
      residual: plain residuals.
      bound: per problem; infinite for queries that are not asked about.
      most: columns that are computed for a query at most.

    Returns:
      `[Q, P]` scores, 0 for the columns of the working sets, exact unless (1) proves them to be at most 1; and `[Q]`
      whether all that (1) leaves open were computed.
    """
    penalty, weight = problem.penalty, problem.training_weight()
    *shares, off = _combination(references.residual, jnp.sqrt(weight) * residual)

    def one(query: tuple[Array, ...]) -> tuple[Array, Array]:
        number, first, second, gradients, off, bound, rows, own = query
        l1 = penalty.l1_ratio * penalty.of_query(number)

        def problem_by_problem(b: Array, so_far: tuple[Array, Array]) -> tuple[Array, Array]:
            pulled = pull(first[b] * gradients[0, b] + second[b] * gradients[1, b], penalty.least)
            highest = (pulled + off[b] * references.norm) / bound[b]
            return jnp.maximum(so_far[0], pulled / bound[b]), jnp.maximum(so_far[1], highest)

        nothing = jnp.zeros_like(references.norm)
        estimate, highest = jax.lax.fori_loop(0, off.size, problem_by_problem, (nothing, nothing))
        unsure = (highest / l1).at[own].set(0.0, mode="drop") > 1
        index = jnp.nonzero(unsure, size=most, fill_value=unsure.size)[0]
        exact = (pull(rows @ problem.columns.gather(index).T, penalty.least) / bound[:, None]).max(axis=0)
        # What (1) settles can be estimated beyond 1 by rounding only.
        score = jnp.minimum(estimate, l1).at[index].set(exact, mode="drop") / l1
        return score.at[own].set(0.0, mode="drop"), unsure.sum() <= most

    def one_or_none(query: tuple[Array, ...]) -> tuple[Array, Array]:
        none = jnp.zeros_like(references.norm), jnp.bool_(True)
        return jax.lax.cond(jnp.isfinite(query[5]).any(), lambda: one(query), lambda: none)

    own = working.index.reshape(off.shape[0], -1)
    numbers = jnp.arange(off.shape[0])
    return jax.lax.map(one_or_none, (numbers, *shares, references.gradient, off, bound, weight * residual, own))


@jax.jit
def score(
    problem: Problem, references: References, working: WorkingSet, bound: Float[Array, "Q F1"]
) -> Float[Array, "Q P"]:
    """Scores of all columns as those of `screen`, at the newest references."""
    penalty = problem.penalty

    def one(query: tuple[Array, Array]) -> Array:
        gradient, bound = query

        def problem_by_problem(b: Array, so_far: Array) -> Array:
            return jnp.maximum(so_far, pull(gradient[b], penalty.least) / bound[b])

        return jax.lax.fori_loop(0, bound.size, problem_by_problem, jnp.zeros_like(references.norm))

    largest = jax.lax.map(one, (references.gradient[:, 0], bound))
    return workset.outside(working, largest / (penalty.l1_ratio * penalty.factor))


@jax.jit
def largest_penalty(problem: Problem, references: References) -> Float[Array, "Q"]:
    """Smallest penalty at which the fit on all rows is zero, if the newest references are the residuals at zero."""
    penalty = problem.penalty
    pulled = pull(references.gradient[:, 0, -1], penalty.least)
    return (pulled / (penalty.l1_ratio * penalty.factor)).max(axis=1)
