"""Estimators from gradients: what a training example does to a query, to first order, in models trained on everything.

All take a `TrainingGame` and any query that has a gradient. The budget counts models, each trained with a key of its
own, on everything unless `trak` is told otherwise; values are means over them, with standard errors, of training only,
from two on. Values of a source of several examples are sums over these.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxame import checks
from jaxame.attribution import Attribution
from jaxame.baselines.evaluation import attribution
from jaxame.baselines.linearised import Linearised, norms, project
from jaxame.baselines.trained import Params, by_source, checked, mean_over_models, trained, with_labels

SOLVERS = ("cg", "lissa")
_UNSOLVED = 0.5
"""Share of a gradient that a recursion may leave."""
_PROJECTION_STREAM, _SOLVER_STREAM = 2**32 - 1, 2**32 - 2


def gradient_dot(game: Any, *, key: jax.Array, budget: int) -> Attribution:
    """Estimate by how much a small step on an example alone raises the query: `-<grad u, grad loss_i>`.

    Args:
      game: a `TrainingGame`.
      key: one typed key.
      budget: models, at least 1.

    Returns:
      An `Attribution`, values `[Q, N]` in the unit of the query for a step of size 1.

    Raises:
      ValueError: for another game, and for a bad key or budget.

    References:
      Charpiat, Girard, Felardos, Tarabalka, Input Similarity from the Neural Network Perspective, NeurIPS 2019.
    """
    return _mean(game, key, budget, "gradient dot product", lambda first, params, _: _dot(first, params))


def gradient_cosine(game: Any, *, key: jax.Array, budget: int) -> Attribution:
    """Do as `gradient_dot` does, with both gradients scaled to norm 1: cosines from -1 to 1.

    Args, errors and source are those of `gradient_dot`. A gradient of zero gives zero.
    """

    def cosine(first: Linearised, params: Params, _: jax.Array) -> np.ndarray:
        gradients = first.query_gradients(params)
        scale = np.asarray(norms(gradients))[:, None] * np.asarray(first.gradient_norms(params))
        cosines: np.ndarray = np.divide(_dot(first, params), scale, out=np.zeros_like(scale), where=scale != 0)
        return cosines

    return _mean(game, key, budget, "gradient cosine", cosine)


def tracin(
    game: Any,
    *,
    key: jax.Array,
    budget: int,
    checkpoints: int = 10,
    learning_rate: Callable[[np.ndarray], Any] | None = None,
) -> Attribution:
    """Estimate what all steps on an example did to the query: `gradient_dot` summed over checkpoints (TracInCP).

    Args:
      game: a `TrainingGame`.
      key: one typed key.
      budget: models, at least 1.
      checkpoints: of each, evenly spaced over its steps, the last at the end.
      learning_rate: that of training, from the numbers of steps, such as an optax schedule: a checkpoint weighs the
        mean rate of the steps that it ends. By default all weigh 1, as with a constant rate.

    Returns:
      An `Attribution`, values `[Q, N]` in the unit of the query, for one step by every checkpoint.

    Raises:
      ValueError: for another game, more checkpoints than steps, rates that are negative or not finite, and for a bad
        key or budget.

    References:
      Pruthi, Liu, Kale, Sundararajan, Estimating Training Data Influence by Tracing Gradient Descent, NeurIPS 2020,
      section 3.2.
    """
    first, number = Linearised.of(checked(game)), checks.count(checkpoints, "checkpoints")
    weights = np.ones(number) if learning_rate is None else _mean_rates(learning_rate, game.about["num_steps"], number)

    def summed(every: Params, _: jax.Array) -> tuple[np.ndarray, np.ndarray]:
        each = [jax.tree.map(lambda leaf, c=c: leaf[c], every) for c in range(number)]
        total = sum(weight * _dot(first, params) for weight, params in zip(weights, each, strict=True))
        return np.asarray(total), np.asarray(first.utilities(each[-1]))

    about = {"checkpoints": number}
    train = functools.partial(game.checkpoints, number=number)
    return mean_over_models(game, key, budget, "TracInCP", summed, about, train)


def _mean_rates(learning_rate: Callable[[np.ndarray], Any], num_steps: int, number: int) -> np.ndarray:
    """Mean rates `[number]` of the parts of the steps that `TrainingGame.checkpoints` ends with one."""
    checks.require(number <= num_steps, f"a number of at most {num_steps} steps", number)
    steps = np.arange(num_steps)
    rates = np.broadcast_to(np.asarray(learning_rate(steps), np.float64), steps.shape)
    good = bool((np.isfinite(rates) & (rates >= 0)).all())
    checks.require(good, f"finite rates >= 0 of the {num_steps} steps", checks.describe(rates))
    part = steps * number // num_steps
    return np.bincount(part, rates) / np.bincount(part)


def influence(
    game: Any,
    *,
    key: jax.Array,
    budget: int,
    damping: float = 1e-2,
    solver: str = "cg",
    tolerance: float = 1e-4,
    max_steps: int = 200,
    scale: float = 10.0,
    sample: int = 64,
) -> Attribution:
    """Estimate what leaving an example out takes from the query, by influence functions.

    That is `-<grad u, H^-1 grad loss_i> / n`, where `H` is the Gauss-Newton matrix of the mean training loss, plus
    `damping`. For a convex model trained to the end with weight decay `damping` it is the change to first order in
    `1/n`; for others, a guess.

    Args:
      game: a `TrainingGame`.
      key: one typed key.
      budget: models, at least 1.
      damping: what is added to the diagonal, above 0: the weight decay of training, if there is one.
      solver: `"cg"`, conjugate gradients on all examples, or `"lissa"`, a recursion on samples of them.
      tolerance: of conjugate gradients: the relative residual at which they end.
      max_steps: of either solver. Conjugate gradients that end before their tolerance warn, and a recursion that
        leaves more than half; the residuals, relative, are in `about["relative_residual"]`.
      scale: of the recursion, above the largest eigenvalue of `H`.
      sample: of the recursion: examples of a step.

    Returns:
      An `Attribution`, values `[Q, N]` in the unit of the query.

    Raises:
      ValueError: for another game or an option out of range, and if the recursion diverges.

    References:
      Koh and Liang, Understanding Black-box Predictions via Influence Functions, ICML 2017 (both solvers); Bae, Ng, Lo,
      Ghassemi, Grosse, If Influence Functions are the Answer, Then What is the Question?, NeurIPS 2022 (Gauss-Newton).
    """
    checks.require(solver in SOLVERS, f"a solver among {SOLVERS}", repr(solver))
    for name, value in (("damping", damping), ("scale", scale), ("tolerance", tolerance)):
        checks.require(value > 0, f"{name} above 0", value)
    max_steps, sample = checks.count(max_steps, "max_steps"), checks.count(sample, "sample")
    residuals: list[float] = []

    def solved(first: Linearised, params: Params, own_key: jax.Array) -> np.ndarray:
        gradients = first.query_gradients(params)
        if solver == "cg":
            found = _conjugate_gradients(first, params, gradients, damping, tolerance, max_steps)
        else:
            recursion_key = jax.random.fold_in(own_key, _SOLVER_STREAM)
            found = _recursion(first, params, gradients, recursion_key, damping, scale, max_steps, sample)
            solvable = _is_finite(found) or not _is_finite(gradients)
            checks.require(
                solvable, "a scale above the largest eigenvalue of the curvature", f"{scale}, which diverges"
            )
        residuals.append(float(jnp.max(_relative_residual(first, params, gradients, found, damping))))
        return -np.asarray(first.slopes(params, found), np.float64) / first.num_examples

    about = {"solver": solver, "damping": damping, "relative_residual": residuals}
    result = _mean(game, key, budget, "influence functions", solved, **about)
    # Rounding parts what conjugate gradients keep account of from what is left; samples never solve to the end.
    name, allowed = ("conjugate gradients", 2 * tolerance) if solver == "cg" else ("the recursion", _UNSOLVED)
    if max(residuals) > allowed:
        text = f"{name} ended at a relative residual of {max(residuals):.2g}, above {allowed:g}"
        warnings.warn(f"{text}: raise max_steps or damping", UserWarning, stacklevel=2)
    return result


def trak(
    game: Any,
    *,
    key: jax.Array,
    budget: int,
    num_projections: int = 512,
    ridge: float = 1e-3,
    inclusion: float = 1.0,
) -> Attribution:
    """Estimate what leaving an example out takes from the query, in a linear model of projected gradients (TRAK).

    Args:
      game: a `TrainingGame` with integer labels.
      key: one typed key.
      budget: models, at least 1; each has a projection of its own.
      num_projections: numbers that a gradient is projected to.
      ridge: added to the diagonal of the kernel, relative to its mean; at least 0. More projections than examples
        need one above 0.
      inclusion: probability with which a source is trained on, by each model anew; at most 1. The paper has 1/2.

    Returns:
      An `Attribution`, values `[Q, N]` in the unit of the query; without standard errors.

    Raises:
      ValueError: for another game, other targets than labels, and for a bad key, budget or option.

    References:
      Park, Georgiev, Ilyas, Leclerc, Madry, TRAK: Attributing Model Behavior at Scale, ICML 2023, section 3.
    """
    first = Linearised.of(with_labels(game))
    num_projections = checks.count(num_projections, "num_projections")
    checks.require(ridge >= 0, "a ridge of at least 0", ridge)
    checks.require(0 < inclusion <= 1, "an inclusion above 0 and at most 1", inclusion)
    regular = ridge > 0 or num_projections < first.num_examples
    checks.require(
        regular, f"a ridge above 0 for {num_projections} projections of {first.num_examples} examples", ridge
    )
    scores, missing, utilities = [], [], []
    for params, own_key in trained(game, key, budget, inclusion=inclusion):
        random = jax.random.fold_in(own_key, _PROJECTION_STREAM)
        features, not_p = first.margin_features(params, random, num_projections)
        phi = np.asarray(features, np.float64)
        asked = np.asarray(project(first.query_gradients(params), random, num_projections), np.float64)
        kernel = phi.T @ phi
        kernel[np.diag_indices_from(kernel)] += ridge * np.trace(kernel) / num_projections
        scores.append(np.linalg.solve(kernel, asked.T).T @ phi.T)
        missing.append(np.asarray(not_p, np.float64))
        utilities.append(np.asarray(first.utilities(params)))
    values = np.mean(scores, axis=0) * np.mean(missing, axis=0)
    about = {"budget": budget, "evaluations": budget, "num_projections": num_projections, "ridge": ridge}
    about["inclusion"] = inclusion
    return attribution(game, "TRAK", by_source(game, values), None, np.array(utilities), about)


def _mean(
    game: Any,
    key: jax.Array,
    budget: int,
    method: str,
    scores: Callable[[Linearised, Params, jax.Array], np.ndarray],
    **about: Any,
) -> Attribution:
    """Make a result of `scores(first, params, key) [Q, n]` of every model."""
    first = Linearised.of(checked(game))

    def with_utilities(params: Params, own_key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
        return scores(first, params, own_key), np.asarray(first.utilities(params))

    return mean_over_models(game, key, budget, method, with_utilities, about)


def _is_finite(tree: Params) -> bool:
    return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(tree))


def _dot(first: Linearised, params: Params) -> np.ndarray:
    return -np.asarray(first.slopes(params, first.query_gradients(params)), np.float64)


@functools.partial(jax.jit, static_argnums=5)
def _conjugate_gradients(
    first: Linearised, params: Params, gradients: Params, damping: float, tolerance: float, max_steps: int
) -> Params:
    """Solve for every one of `gradients [Q, ...]`."""

    def solve(gradient: Params) -> Params:
        product = functools.partial(_damped, first, params, damping)
        return jax.scipy.sparse.linalg.cg(product, gradient, tol=tolerance, maxiter=max_steps)[0]

    return jax.vmap(solve)(gradients)


@jax.jit
def _relative_residual(
    first: Linearised, params: Params, gradients: Params, found: Params, damping: float
) -> jax.Array:
    """What is left of every one of `gradients [Q, ...]`, as a share of its norm, `[Q]`."""
    solved = jax.vmap(functools.partial(_damped, first, params, damping))(found)
    left = jax.tree.map(jnp.subtract, gradients, solved)
    return norms(left) / jnp.maximum(norms(gradients), jnp.finfo(jnp.float32).tiny)


def _damped(first: Linearised, params: Params, damping: float, vector: Params) -> Params:
    """The damped Gauss-Newton matrix times a vector."""
    return jax.tree.map(lambda own, bent: bent + damping * own, vector, first.curvature(params, vector))


@functools.partial(jax.jit, static_argnums=(6, 7))
def _recursion(
    first: Linearised,
    params: Params,
    gradients: Params,
    key: jax.Array,
    damping: float,
    scale: float,
    max_steps: int,
    sample: int,
) -> Params:
    """Sum the Neumann series of the inverse for every one of `gradients [Q, ...]`, each term on another sample."""

    def step(number: jax.Array, total: Params) -> Params:
        own_key = jax.random.fold_in(key, number)
        bent = jax.vmap(lambda vector: first.curvature_of_sample(params, vector, own_key, sample))(total)
        return jax.tree.map(lambda g, h, b: g + h - (b + damping * h) / scale, gradients, total, bent)

    return jax.tree.map(lambda leaf: leaf / scale, jax.lax.fori_loop(0, max_steps, step, gradients))
