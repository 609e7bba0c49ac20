"""Estimators that count: every subset, every source left out, or the subsets that happen to hold a source."""

import itertools
import math
from typing import Any

import jax
import numpy as np
from scipy import special

from jaxame import checks
from jaxame.attribution import Attribution
from jaxame.baselines.evaluation import Budget, Evaluations, none_and_all, subsets

_MOST_ENUMERATED = 20


def exact(game: Any, *, key: jax.Array, budget: int) -> Attribution:
    """Compute Shapley values from their definition, on all `2^N` subsets.

    Args:
      game: maps masks to utilities; attribute `num_sources`, `N <= 20`.
      key: one typed key, of the game's randomness.
      budget: evaluations allowed, at least `2^N`.

    Returns:
      An `Attribution`, values `[Q, N]`; without standard errors.

    Raises:
      ValueError: for more sources, and for a smaller budget.

    References:
      Shapley, Contributions to the Theory of Games II, 1953.

    Example:
      >>> import jax
      >>> from jaxame import baselines
      >>> from jaxame.games import Unanimity
      >>> baselines.exact(Unanimity(5, [0, 1]), key=jax.random.key(0), budget=32).values
      array([[0.5, 0.5, 0. , 0. , 0. ]])
    """
    num_sources = checks.count(getattr(game, "num_sources", 0), "game.num_sources")
    few = f"at most {_MOST_ENUMERATED} sources, as all subsets are evaluated"
    checks.require(num_sources <= _MOST_ENUMERATED, few, f"{num_sources}, with 2^{num_sources} subsets")
    counted = Budget(game, key, budget, 2**num_sources)
    numbers = np.arange(2**num_sources, dtype=np.uint32)
    masks = (numbers[:, None] >> np.arange(num_sources, dtype=np.uint32) & 1).astype(bool)
    found = counted.evaluate([masks])
    size = masks.sum(axis=1)
    # A subset of s weighs (s-1)! (N-s)! / N! for its members, and s! (N-s-1)! / N! against the others.
    of_size = special.gammaln(np.arange(1, num_sources + 1))
    within = np.exp(of_size + of_size[::-1] - special.gammaln(num_sources + 1))  # by size, from 1
    for_members, against = np.append(0.0, within)[size], np.append(within, 0.0)[size]
    utilities = found.utilities
    members = found.moments((for_members + against)[:, None] * utilities)
    values = members - (against[:, None] * utilities).sum(axis=0)[:, None]
    return counted.result("exact", values, None)


def leave_one_out(game: Any, *, key: jax.Array, budget: int) -> Attribution:
    """Estimate what every source adds to all others: `U(all) - U(all but i)`.

    A larger budget repeats the whole, for a game with noise of its own.

    Args:
      game: maps masks to utilities; attribute `num_sources`.
      key: one typed key, of the game's randomness.
      budget: evaluations allowed, at least `N + 1`.

    Returns:
      An `Attribution`, values `[Q, N]`; with standard errors from the repeats if there are any.

    Raises:
      ValueError: for a smaller budget, and for a bad game or key.

    References:
      Koh and Liang, ICML 2017 (as what influence functions approximate).
    """
    num_sources = checks.count(getattr(game, "num_sources", 0), "game.num_sources")
    counted = Budget(game, key, budget, num_sources + 1)
    repeats = counted.budget // (num_sources + 1)
    one = np.concatenate([np.ones((1, num_sources), bool), ~np.eye(num_sources, dtype=bool)])
    found = counted.evaluate([one] * repeats)
    utilities = found.utilities.reshape(repeats, num_sources + 1, -1)
    effects = np.swapaxes(utilities[:, :1] - utilities[:, 1:], 1, 2)
    return counted.result("leave-one-out", effects.mean(axis=0), standard_error(effects), repeats=repeats)


def standard_error(draws: np.ndarray) -> np.ndarray | None:
    """Standard error of the mean of independent draws `[n, Q, N]`, or None of a single one."""
    return None if len(draws) == 1 else draws.std(axis=0, ddof=1) / math.sqrt(len(draws))


def _difference(found: Evaluations) -> tuple[np.ndarray, np.ndarray]:
    """Mean utility of the subsets with a source less that of those without, `[Q, N]`, and its standard error."""
    apart = found.utilities - found.utilities.mean(axis=0)  # so that squares keep their digits
    inside = [found.moments(part) for part in (apart, apart**2, np.ones((len(found), 1)))]
    outside = [0.0 - inside[0], (apart**2).sum(axis=0)[:, None] - inside[1], len(found) - inside[2]]
    means, variances = zip(*(_mean(*side) for side in (inside, outside)), strict=True)
    return means[0] - means[1], np.sqrt(variances[0] + variances[1])


def _mean(sums: np.ndarray, squares: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and the variances of these means; NaN where too few count to know."""
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = sums / count
        return mean, np.maximum(squares / count - mean**2, 0.0) / (count - 1)


def banzhaf(game: Any, *, key: jax.Array, budget: int) -> Attribution:
    """Estimate Banzhaf values by maximum sample reuse: every subset counts for every source.

    The mean utility of the subsets with a source, less that of those without; each source is in with probability 1/2.

    Args:
      game: maps masks to utilities; attribute `num_sources`.
      key: one typed key.
      budget: evaluations, at least 4.

    Returns:
      An `Attribution`, values `[Q, N]` with standard errors; NaN for a source that is in all subsets or in none.

    Raises:
      ValueError: for a smaller budget, and for a bad game or key.

    References:
      Wang and Jia, Data Banzhaf, AISTATS 2023, section 4.
    """
    counted = Budget(game, key, budget, 4)
    shape = counted.num_sources
    sizes = counted.rng.binomial(shape, 0.5, counted.budget)
    found = counted.evaluate(subsets(counted.rng, sizes, shape))
    return counted.result("Banzhaf, maximum sample reuse", *_difference(found))


def subsample_influence(game: Any, *, key: jax.Array, budget: int, share: float = 0.7) -> Attribution:
    """Estimate the influence of every source under training on a fixed share of the sources.

    The mean utility of the subsets with a source, less that of those without.

    Args:
      game: maps masks to utilities; attribute `num_sources`.
      key: one typed key.
      budget: evaluations, at least 4.
      share: of the sources in every subset, strictly between 0 and 1; rounded to a number of sources.

    Returns:
      An `Attribution`, values `[Q, N]` with standard errors; NaN for a source that is in all subsets or in none.

    Raises:
      ValueError: for a smaller budget, a share that leaves nobody or everybody in, and for a bad game or key.

    References:
      Feldman and Zhang, What Neural Networks Memorize and Why, NeurIPS 2020, section 2.
    """
    counted = Budget(game, key, budget, 4)
    size = round(checks.probability(share, "share") * counted.num_sources)
    inside = 0 < size < counted.num_sources
    checks.require(inside, "a share that leaves some sources in and some out", f"{size} of {counted.num_sources}")
    found = counted.evaluate(subsets(counted.rng, np.full(counted.budget, size), counted.num_sources))
    return counted.result("subsample influence", *_difference(found), share=share)


def svarm(game: Any, *, key: jax.Array, budget: int) -> Attribution:
    """Estimate Shapley values as a difference of two means, each sampled on its own.

    Half of the subsets are drawn so that, of those with a source, every size is as likely; half so that this holds of
    those without. `N` of either half make sure that every source has one.

    Args:
      game: maps masks to utilities; attribute `num_sources`.
      key: one typed key.
      budget: evaluations, at least `2 N`; an odd one is not used.

    Returns:
      An `Attribution`, values `[Q, N]`, with standard errors, which are NaN for a source in fewer than two subsets of
      a half.

    Raises:
      ValueError: for a smaller budget, and for a bad game or key.

    References:
      Kolpaczki, Bengs, Muschalik, Huellermeier, Approximating the Shapley Value without Marginal Contributions, AAAI
      2024, algorithm 1.
    """
    num_sources = checks.count(getattr(game, "num_sources", 0), "game.num_sources")
    counted = Budget(game, key, budget, 2 * num_sources)
    rng, half = counted.rng, counted.budget // 2
    chance = 1 / np.arange(1, num_sources + 1)
    sizes = rng.choice(np.arange(1, num_sources + 1), size=(2, half - num_sources), p=chance / chance.sum())
    sides = []
    for complement, drawn in zip((False, True), sizes, strict=True):
        parts = itertools.chain([_with_each(rng, num_sources)], subsets(rng, drawn, num_sources))
        sides.append(counted.evaluate(~part if complement else part for part in parts))
    (with_it, error), (without, other) = (_of_side(*side) for side in zip(sides, (False, True), strict=True))
    return counted.result("SVARM", with_it - without, np.sqrt(error + other))


def _with_each(rng: np.random.Generator, num_sources: int) -> np.ndarray:
    """For every source a subset with it, its size uniform on 1 to `N`, bool `[N, N]`."""
    others = rng.integers(0, num_sources, num_sources)
    masks = np.zeros((num_sources, num_sources), bool)
    drawn = rng.permuted(np.arange(num_sources - 1) < others[:, None], axis=1)
    for source in range(num_sources):
        masks[source] = np.insert(drawn[source], source, True)
    return masks


def _of_side(found: Evaluations, complements: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the utilities that count for each source, `[Q, N]`, and the variance of that mean.

    Of the first `N` subsets each counts for its own source only, of the others for all that it was drawn with.
    """
    num_sources, centre = found.num_sources, found.utilities.mean(axis=0)
    apart, rest = found.utilities - centre, found[slice(num_sources, None)]
    sums = []
    for part in (apart, apart**2, np.ones((len(found), 1))):
        inside = rest.moments(part[num_sources:])
        drawn_with = part[num_sources:].sum(axis=0)[:, None] - inside if complements else inside
        sums.append(part[:num_sources].T + drawn_with)
    mean, variance = _mean(*sums)
    return centre[:, None] + mean, variance


def owen(game: Any, *, key: jax.Array, budget: int) -> Attribution:
    """Estimate Shapley values as the integral over `p` of the marginal effect at inclusion probability `p`.

    One `p` from each of as many equal parts of (0, 1) as the budget allows, and one subset at each, into which every
    source is put, or from which it is taken.

    Args:
      game: maps masks to utilities; attribute `num_sources`.
      key: one typed key.
      budget: evaluations allowed, at least `N + 1`; those not enough for a further `p` are not made.

    Returns:
      An `Attribution`, values `[Q, N]`; with standard errors from two `p` on, which leave out of account that the `p`
      are spread evenly and are too large by that.

    Raises:
      ValueError: for a smaller budget, and for a bad game or key.

    References:
      Owen, Management Science 18(5), 1972; Okhrati and Lipani, A Multilinear Sampling Algorithm to Estimate Shapley
      Values, ICPR 2021.
    """
    num_sources = checks.count(getattr(game, "num_sources", 0), "game.num_sources")
    counted = Budget(game, key, budget, num_sources + 1)
    number = counted.budget // (num_sources + 1)
    p = (np.arange(number) + counted.rng.random(number)) / number
    drawn = counted.rng.random((number, num_sources)) < p[:, None]
    changed = np.concatenate([np.zeros((1, num_sources), bool), np.eye(num_sources, dtype=bool)])
    utilities = counted.evaluate(mask ^ changed for mask in drawn).utilities.reshape(number, num_sources + 1, -1)
    sign = np.where(drawn, 1.0, -1.0)[:, None]
    effects = sign * np.swapaxes(utilities[:, :1] - utilities[:, 1:], 1, 2)
    return counted.result("Owen's multilinear extension", effects.mean(axis=0), standard_error(effects))


def random(game: Any, *, key: jax.Array, budget: int) -> Attribution:
    """Draw standard normal values: what any estimator should beat.

    Args:
      game: maps masks to utilities; attribute `num_sources`. Evaluated twice, to know the number of queries and the
        total that the values are shifted to sum up to.
      key: one typed key.
      budget: evaluations allowed, at least 2.

    Returns:
      An `Attribution`, values `[Q, N]`; without standard errors.

    Raises:
      ValueError: for a smaller budget, and for a bad game or key.
    """
    counted = Budget(game, key, budget, 2)
    utilities = counted.evaluate([none_and_all(counted.num_sources)]).utilities
    values = counted.rng.normal(size=(utilities.shape[1], counted.num_sources))
    missing = (utilities[1] - utilities[0] - values.sum(axis=1)) / counted.num_sources
    return counted.result("random", values + missing[:, None], None)
