"""KernelSHAP and its kin: Shapley values as the best additive fit to a game, under the Shapley kernel.

The kernel gives a subset of `s` sources the weight `1 / (C(N, s) s (N - s))`, so that sizes go by `1 / (s (N - s))`.
The fit is exact on nobody and on all: the values sum to `U(all) - U(none)`.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike
from scipy import linalg

from jaxame import checks
from jaxame.attribution import Attribution
from jaxame.baselines.evaluation import Budget, Evaluations, none_and_all, subsets, with_complements

_RANK = 1e-10  # share of the largest eigenvalue that rounding may leave of none
SAMPLINGS = ("kernel", "leverage")


def kernel_shap(
    game: Any,
    *,
    key: jax.Array,
    budget: int,
    paired: bool = True,
    sampling: str = "kernel",
    num_features: int | ArrayLike | None = None,
) -> Attribution:
    """Estimate Shapley values by weighted least squares on random subsets.

    With fewer subsets than sources the fit of smallest norm about the mean value is taken.

    Args:
      game: maps masks to utilities; attribute `num_sources`, at least 2.
      key: one typed key.
      budget: evaluations, at least 4, two of them on nobody and on all.
      paired: whether every subset is followed by its complement; an odd evaluation is then not made.
      sampling: "kernel": sizes by the kernel, all subsets weigh alike. "leverage": every size as likely, which is how
        much a subset matters for the fit, and weights that make up for it.
      num_features: sources that may have a value other than 0, those that enter the LASSO path first; a number, or one
        for each query `[Q]`. None for all.

    Returns:
      An `Attribution`, values `[Q, N]`; with standard errors (sandwich) if there are more subsets, or pairs, than
      sources and no selection.

    Raises:
      ValueError: for a smaller budget, and for a bad game, key or option.

    References:
      Lundberg and Lee, NeurIPS 2017 (with the L1 selection of their code); Covert and Lee, AISTATS 2021 (pairs); Musco
      and Witter, Provably Accurate Shapley Value Estimation via Leverage Score Sampling, ICLR 2025.
    """
    checks.require(sampling in SAMPLINGS, f"sampling to be one of {SAMPLINGS}", checks.describe(sampling))
    counted, ends, found, weight = sample_by_size(game, key, budget, paired, sampling)
    num_sources, total = counted.num_sources, ends[1] - ends[0]
    gram, moments = _moments(found, weight, found.utilities - ends[0])
    about: dict[str, Any] = {"paired": paired, "sampling": sampling, "num_features": None}
    if num_features is not None:
        numbers = _numbers_of_features(num_features, num_sources, len(total))
        about["num_features"] = numbers.tolist()
        along = weight @ (found.utilities - ends[0])
        each = zip(moments, total, along, numbers, strict=True)
        values = np.stack([_on_few(gram, b, sum_, weight.sum(), y, number) for b, sum_, y, number in each])
        return counted.result("KernelSHAP with L1", values, None, **about)
    # Every subset less its mean over sources: then the values are their mean, total / N, and what is fitted here.
    centred = _apart(_apart(gram).T)
    pull = _apart((moments - np.outer(total, gram.sum(axis=0)) / num_sources).T)
    size, vectors = linalg.eigh(centred)
    kept = size > _RANK * size[-1]
    inverse = (vectors[:, kept] / size[kept]) @ vectors[:, kept].T
    values = (inverse @ pull).T + total[:, None] / num_sources
    stderr = None
    if len(found) // (1 + paired) > num_sources:
        residual = _residuals(found, values, ends[0])
        stderr = _sandwich(found, inverse, weight[:, None] * residual, paired)
    return counted.result("KernelSHAP", values, stderr, **about)


def unbiased_kernel_shap(game: Any, *, key: jax.Array, budget: int, paired: bool = True) -> Attribution:
    """Estimate Shapley values by KernelSHAP's formula with the expected covariance of memberships for the observed one.

    Args:
      game: maps masks to utilities; attribute `num_sources`, at least 2.
      key: one typed key.
      budget: evaluations, at least 6, two of them on nobody and on all.
      paired: whether every subset is followed by its complement; an odd evaluation is then not made.

    Returns:
      An `Attribution`, values `[Q, N]` with standard errors.

    Raises:
      ValueError: for a smaller budget, and for a bad game or key.

    References:
      Covert and Lee, Improving KernelSHAP, AISTATS 2021, section 3.2.
    """
    counted, ends, found, _ = sample_by_size(game, key, budget, paired, "kernel", least=6)
    effects, stderr = by_expected_covariance(found, ends, found.utilities - ends[0], paired)
    return counted.result("unbiased KernelSHAP", effects, stderr, paired=paired)


def group_testing(game: Any, *, key: jax.Array, budget: int) -> Attribution:
    """Estimate Shapley values from all differences between two, which random groups tell.

    The values whose differences are the estimated ones, and which sum to `U(all) - U(none)`, have a closed form: they
    are those of `unbiased_kernel_shap` but for the utility of nobody, which is not taken off here.

    Args:
      game: maps masks to utilities; attribute `num_sources`, at least 2.
      key: one typed key.
      budget: evaluations, at least 4, two of them on nobody and on all.

    Returns:
      An `Attribution`, values `[Q, N]` with standard errors.

    Raises:
      ValueError: for a smaller budget, and for a bad game or key.

    References:
      Jia et al., Towards Efficient Data Valuation Based on the Shapley Value, AISTATS 2019, algorithm 1.
    """
    counted, ends, found, _ = sample_by_size(game, key, budget, False, "kernel")
    effects, stderr = by_expected_covariance(found, ends, found.utilities, False)
    return counted.result("group testing", effects, stderr)


def sample_by_size(
    game: Any, key: jax.Array, budget: int, paired: bool, sampling: str, least: int = 4
) -> tuple[Budget, np.ndarray, Evaluations, np.ndarray]:
    """Evaluate nobody and all, `[2, Q]`, and random subsets; return these with their weights `[B]`."""
    counted = Budget(game, key, budget, least)
    num_sources = counted.num_sources
    checks.require(num_sources >= 2, "at least 2 sources", num_sources)
    sizes = np.arange(1, num_sources)
    odds = 1 / (sizes * (num_sources - sizes))
    chance = odds if sampling == "kernel" else np.ones(num_sources - 1)
    number = (counted.budget - 2) // 2 if paired else counted.budget - 2
    drawn = counted.rng.choice(sizes, number, p=chance / chance.sum())

    def parts() -> Iterator[np.ndarray]:
        yield none_and_all(num_sources)
        own = subsets(counted.rng, drawn, num_sources)
        yield from with_complements(own) if paired else own

    everything = counted.evaluate(parts())
    weight = (odds / odds.mean() if sampling == "leverage" else np.ones(num_sources - 1))[drawn - 1]
    found = everything[slice(2, None)]
    return counted, everything.utilities[:2], found, np.repeat(weight, 2) if paired else weight


def _numbers_of_features(given: ArrayLike, num_sources: int, num_queries: int) -> np.ndarray:
    """Return the number of features of every query, int `[Q]`."""
    numbers = np.asarray(given)
    fits = np.issubdtype(numbers.dtype, np.integer) and numbers.shape in ((), (num_queries,))
    fits = fits and bool(((numbers >= 1) & (numbers < num_sources)).all())
    needs = f"num_features from 1 to {num_sources - 1}, one number or [{num_queries}]"
    checks.require(fits, needs, checks.describe(given))
    return np.broadcast_to(numbers, num_queries)


def _apart(columns: np.ndarray) -> np.ndarray:
    """Columns `[N, ...]` less their mean over sources."""
    centred: np.ndarray = columns - columns.mean(axis=0)
    return centred


def _moments(found: Evaluations, weight: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted products of memberships with each other, `[N, N]`, and with the targets `[B, Q]`, `[Q, N]`."""
    gram = np.zeros((found.num_sources, found.num_sources))
    for masks, rows in found.blocks():
        gram += masks.T @ (weight[rows, None] * masks)
    return gram, found.moments(weight[:, None] * targets)


def _on_few(
    gram: np.ndarray, moments: np.ndarray, total: float, weight: float, along: float, number: int
) -> np.ndarray:
    """Values `[N]` of one query with all but `number` sources at 0, those that enter the LASSO path first.

    The path is that of the memberships `z` with targets `u`, and of `z - 1` with `u - total`, of summed `weight` and
    summed weighted target `along`: so `U(none)` and `U(all)` count alike.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lars_path_gram

    if not np.isfinite(moments).all():
        return np.full(len(gram), np.nan)
    share = np.diagonal(gram)
    both = 2 * gram - share - share[:, None] + weight
    pull = 2 * moments - along - total * (share - weight)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few subsets may not tell sources apart
        coef = lars_path_gram(pull, both, n_samples=1, method="lasso", max_iter=4 * number)[2]
    entered = [np.flatnonzero(step) for step in coef.T]  # a source may leave again
    return _constrained(gram, moments, total, [own for own in entered if own.size <= number][-1])


def _constrained(gram: np.ndarray, moments: np.ndarray, total: float, on: np.ndarray) -> np.ndarray:
    """Least squares on the sources `on` with values that sum to `total`, 0 elsewhere, `[N]`."""
    size = on.size
    if not size:
        return np.full(len(gram), total / len(gram))
    system = np.ones((size + 1, size + 1))
    system[:size, :size], system[size, size] = gram[np.ix_(on, on)], 0.0
    values = np.zeros(len(gram))
    values[on] = np.linalg.lstsq(system, np.append(moments[on], total))[0][:size]
    return values


def _residuals(found: Evaluations, values: np.ndarray, none: np.ndarray) -> np.ndarray:
    """Utilities less the fit, `[B, Q]`."""
    fitted = [masks @ values.T for masks, _ in found.blocks()]
    unexplained: np.ndarray = found.utilities - none - np.concatenate(fitted)
    return unexplained


def _sandwich(found: Evaluations, inverse: np.ndarray, score: np.ndarray, paired: bool) -> np.ndarray:
    """Standard errors `[Q, N]` from the weighted residuals `score [B, Q]`, pairs being one observation."""
    square = np.zeros((score.shape[1], found.num_sources))
    if paired:  # a complement is the negative of its subset, once the mean over sources is taken off
        score = score[0::2] - score[1::2]
    for masks, rows in found.blocks():
        part = _apart(masks.T).T @ inverse
        own = slice(rows.start // 2, rows.stop // 2) if paired else rows
        square += (score[own] ** 2).T @ part[:: 2 if paired else 1] ** 2
    # Residuals of a fit are too small, by as many observations as it has coefficients.
    return np.sqrt(square * len(score) / (len(score) - found.num_sources + 1))


def by_expected_covariance(
    found: Evaluations, ends: np.ndarray, targets: np.ndarray, paired: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Values `[Q, N]` with the covariance that memberships have in expectation, and their standard errors.

    That of the kernel is `I / (2 H)` but for its mean over sources, `H` being the harmonic number of `N - 1`.
    """
    num_sources = found.num_sources
    scale = 2 * (1 / np.arange(1, num_sources)).sum()
    draws = (targets[0::2] - targets[1::2]) / 2 if paired else targets
    first, second = (np.zeros((targets.shape[1], num_sources)) for _ in range(2))
    for masks, rows in found.blocks():
        part = scale * _apart(masks.T).T[:: 2 if paired else 1]
        own = draws[rows.start // 2 : rows.stop // 2] if paired else draws[rows]
        first += own.T @ part
        second += (own**2).T @ part**2
    number = len(draws)
    mean = first / number
    variance = np.maximum(second / number - mean**2, 0.0) / (number - 1)
    return mean + (ends[1] - ends[0])[:, None] / num_sources, np.sqrt(variance)
