"""Estimators by permutations: what every source adds to those before it."""

import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from scipy import special

from jaxame import checks
from jaxame.attribution import Attribution
from jaxame.baselines.counting import standard_error
from jaxame.baselines.evaluation import Budget, none_and_all


def permutation(game: Any, *, key: jax.Array, budget: int, antithetic: bool = False) -> Attribution:
    """Estimate Shapley values by what sources add to those before them, in the mean over random orders.

    Every order takes `N - 1` evaluations; those of nobody and of all are made once. Evaluations that are not enough for
    a further order are not made.

    Args:
      game: maps masks to utilities; attribute `num_sources`.
      key: one typed key.
      budget: evaluations allowed, at least `N + 1`; `2 N` for pairs.
      antithetic: whether every order is followed by its reverse.

    Returns:
      An `Attribution`, values `[Q, N]`, which sum to `U(all) - U(none)`, with standard errors from two orders (or pairs
      of them) on.

    Raises:
      ValueError: for a smaller budget, and for a bad game or key.

    References:
      Castro, Gomez, Tejada, Computers & OR 36(5), 2009; Mitchell, Cooper, Frank, Holmes, JMLR 23, 2022, section 4.1
      (pairs).

    Example:
      >>> import jax
      >>> from jaxame import baselines
      >>> from jaxame.games import Additive
      >>> result = baselines.permutation(Additive([2.0, 1.0, 0.0]), key=jax.random.key(0), budget=20)
      >>> result.values
      array([[2., 1., 0.]])
      >>> result.about["evaluations"] <= 20
      True
    """
    marginals, counted, orders = _marginals(game, key, budget, 2 if antithetic else 1)
    draws = marginals.reshape(-1, 2, *marginals.shape[1:]).mean(axis=1) if antithetic else marginals
    method = "antithetic permutations" if antithetic else "permutations"
    return counted.result(method, draws.mean(axis=0), standard_error(draws), orders=len(orders))


def beta_shapley(game: Any, *, key: jax.Array, budget: int, alpha: float = 4.0, beta: float = 1.0) -> Attribution:
    """Estimate Beta(`alpha`, `beta`) Shapley values by permutations, what a source adds weighted by its place.

    With `alpha > beta` what it adds to few others counts more. Beta(1, 1) is the Shapley value. It is the AME under
    `p ~ Beta(beta, alpha)`, as the paper's `alpha` goes with being left out.

    Args:
      game: maps masks to utilities; attribute `num_sources`.
      key: one typed key.
      budget: evaluations allowed, at least `N + 1`.
      alpha: above 0.
      beta: above 0.

    Returns:
      An `Attribution`, values `[Q, N]`, with standard errors from two orders on.

    Raises:
      ValueError: for a smaller budget, and for a bad game or key.

    References:
      Kwon and Zou, Beta Shapley, AISTATS 2022, equation (5).
    """
    alpha, beta = _positive(alpha, "alpha"), _positive(beta, "beta")
    marginals, counted, orders = _marginals(game, key, budget, 1)
    others = counted.num_sources - 1
    place = np.arange(counted.num_sources)
    # E[Binomial(others, p) = place] under p ~ Beta(beta, alpha), times N, as every place is as likely.
    log = special.betaln(place + beta, others - place + alpha) - special.betaln(alpha, beta)
    log_choose = special.gammaln(others + 1) - special.gammaln(place + 1) - special.gammaln(others - place + 1)
    weight = counted.num_sources * np.exp(log + log_choose)
    draws = marginals * weight[_rank(orders)][:, None]
    about = {"alpha": alpha, "beta": beta, "orders": len(orders)}
    return counted.result("Beta-Shapley", draws.mean(axis=0), standard_error(draws), **about)


def compressive_sensing(
    game: Any, *, key: jax.Array, budget: int, num_measurements: int | None = None, noise: float = 0.1
) -> Attribution:
    """Estimate Shapley values that differ from their mean for few sources only, from sums of what orders measure.

    What sources add in random orders is summed with random signs; of all values that explain these sums to within
    the noise, those are taken whose differences from the mean are smallest in the L1 norm.

    Args:
      game: maps masks to utilities; attribute `num_sources`.
      key: one typed key.
      budget: evaluations allowed, at least `N + 1`.
      num_measurements: sums; by default half as many as sources.
      noise: what need not be explained, as a share of the norm of what differs from the mean, strictly between 0 and 1.

    Returns:
      An `Attribution`, values `[Q, N]`; without standard errors.

    Raises:
      ValueError: for a smaller budget, and for a bad game, key or option.

    References:
      Jia et al., Towards Efficient Data Valuation Based on the Shapley Value, AISTATS 2019, algorithm 2.
    """
    noise = checks.probability(noise, "noise")
    marginals, counted, orders = _marginals(game, key, budget, 1)
    num_sources, mean = counted.num_sources, marginals.mean(axis=0)
    number = (
        max(1, num_sources // 2) if num_measurements is None else checks.count(num_measurements, "num_measurements")
    )
    signs = counted.rng.choice([-1.0, 1.0], (number, num_sources)) / np.sqrt(number)
    centre = mean.mean(axis=1, keepdims=True)  # `(U(all) - U(none)) / N`
    apart = np.stack([_sparsest(signs, signs @ of_query, noise) for of_query in mean - centre])
    about = {"num_measurements": number, "noise": noise, "orders": len(orders)}
    return counted.result("compressive sensing", centre + apart, None, **about)


def _sparsest(signs: np.ndarray, measured: np.ndarray, noise: float) -> np.ndarray:
    """The first values `[N]` on the LASSO path that explain what is `measured` to within the noise."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import lars_path

    if not np.isfinite(measured).all():
        return np.full(signs.shape[1], np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few sums may not tell sources apart
        coef = lars_path(signs, measured, method="lasso")[2]
    left = np.linalg.norm(measured[:, None] - signs @ coef, axis=0)
    sparsest: np.ndarray = coef[:, np.argmax(left <= max(noise * np.linalg.norm(measured), left.min()))]
    return sparsest


def _marginals(game: Any, key: jax.Array, budget: int, at_once: int) -> tuple[np.ndarray, Budget, np.ndarray]:
    """What sources add in random orders, `[n, Q, N]`, and these orders, `[n, N]`; `n` a multiple of `at_once`."""
    num_sources = checks.count(getattr(game, "num_sources", 0), "game.num_sources")
    counted = Budget(game, key, budget, 2 + at_once * (num_sources - 1))
    # A single source has one order only.
    rounds = (counted.budget - 2) // (at_once * (num_sources - 1)) if num_sources > 1 else 1
    orders = counted.rng.permuted(np.tile(np.arange(num_sources), (rounds, 1)), axis=1)
    if at_once == 2:
        orders = np.stack([orders, orders[:, ::-1]], axis=1).reshape(-1, num_sources)

    def parts() -> Iterator[np.ndarray]:
        yield none_and_all(num_sources)
        for rank in _rank(orders):
            yield rank < np.arange(1, num_sources)[:, None]

    utilities = counted.evaluate(parts()).utilities
    num_orders, num_queries = len(orders), utilities.shape[1]
    ends = np.broadcast_to(utilities[:2, None], (2, num_orders, num_queries)).swapaxes(0, 1)
    between = utilities[2:].reshape(num_orders, num_sources - 1, num_queries)
    steps = np.diff(np.concatenate([ends[:, :1], between, ends[:, 1:]], axis=1), axis=1)
    marginals = np.empty((num_orders, num_queries, num_sources))
    np.put_along_axis(marginals, orders[:, None], steps.swapaxes(1, 2), axis=2)
    return marginals, counted, orders


def _rank(orders: np.ndarray) -> np.ndarray:
    """The place of every source in each of the orders `[n, N]`."""
    rank = np.empty_like(orders)
    np.put_along_axis(rank, orders, np.broadcast_to(np.arange(orders.shape[1]), orders.shape), axis=1)
    return rank


def truncated_permutation(
    game: Any, *, key: jax.Array, budget: int, tolerance: float = 0.01, at_once: int = 32
) -> Attribution:
    """Estimate Shapley values by permutations that end where the utility is near that of all sources.

    The sources after that are taken to add nothing, which biases the values by at most the tolerance. Orders go on side
    by side, one evaluation of each at a time.

    Args:
      game: maps masks to utilities; attribute `num_sources`.
      key: one typed key.
      budget: evaluations allowed, at least `N + 1`. Orders are begun as long as it suffices for one that is not cut.
      tolerance: distance from the utility of all sources, in every query, as a share of its distance from that of none.
        The first source of an order is always evaluated.
      at_once: orders side by side; fewer if the budget could end in them.

    Returns:
      An `Attribution`, values `[Q, N]`, with standard errors from two orders on.

    Raises:
      ValueError: for a smaller budget, and for a bad game or key.

    References:
      Ghorbani and Zou, Data Shapley, ICML 2019, algorithm 1.
    """
    num_sources = checks.count(getattr(game, "num_sources", 0), "game.num_sources")
    counted = Budget(game, key, budget, num_sources + 1)
    tolerance, at_once = _positive(tolerance, "tolerance"), checks.count(at_once, "at_once")
    ends = counted.evaluate([none_and_all(num_sources)]).utilities
    near = tolerance * np.abs(ends[1] - ends[0])
    draws: list[np.ndarray] = []
    steps = max(1, num_sources - 1)  # of an order that is not cut
    while not draws or (num_sources > 1 and counted.left >= steps):
        draws.append(_truncated(counted, ends, near, max(1, min(at_once, counted.left // steps))))
    values = np.concatenate(draws)
    about = {"tolerance": tolerance, "orders": len(values)}
    return counted.result("truncated permutations", values.mean(axis=0), standard_error(values), **about)


def _truncated(counted: Budget, ends: np.ndarray, near: np.ndarray, width: int) -> np.ndarray:
    """What sources add in `width` orders, `[width, Q, N]`, 0 once a utility is `near [Q]` that of all."""
    num_sources = counted.num_sources
    orders = counted.rng.permuted(np.tile(np.arange(num_sources), (width, 1)), axis=1)
    rank, marginals = _rank(orders), np.zeros((width, ends.shape[1], num_sources))
    last, going = np.tile(ends[0], (width, 1)), np.arange(width)
    for place in range(num_sources):
        if place:  # what is not finite is near nothing
            going = going[~(np.abs(ends[1] - last[going]) <= near).all(axis=1)]
        if not going.size:
            break
        if place == num_sources - 1:
            now = np.tile(ends[1], (going.size, 1))
        else:
            now = counted.evaluate([rank[going] <= place]).utilities
        marginals[going, :, orders[going, place]] = now - last[going]
        last[going] = now
    return marginals


def _positive(value: Any, name: str) -> float:
    positive = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < np.inf
    checks.require(positive, f"{name} above 0 and finite", checks.describe(value))
    return float(value)
