"""How good values are: tasks that data valuation is used for, as metrics over the values of any estimator.

All but `precision_recall`, which is of selections, take `values [Q, N]` as in `Attribution.values`, or `[N]` for one
query, and have a result per query.
"""

from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from jaxame import checks

FRACTIONS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Shares of the sources that curves go through by default."""
_ORDER_STREAM, _GAME_STREAM = 2**32 - 1, 2**32 - 2
_CHUNK = 1024


def precision_recall(selected: ArrayLike, planted: ArrayLike) -> tuple[float, float]:
    """Return the share of the selected sources that were planted, and of the planted ones that were selected.

    An empty selection has precision 1, as it says nothing wrong, and recall 0; where precisions are averaged, say how
    many selections are empty.

    Args:
      selected: `[m]` sources, such as `Selection.indices`.
      planted: `[k]` the sources that should be found, at least one.

    Raises:
      ValueError: if these are not arrays of numbers of sources, none twice, or nothing was planted.

    Example:
      >>> from jaxame import metrics
      >>> metrics.precision_recall([4, 0, 2, 3], [1, 4])
      (0.25, 0.5)
    """
    selected, planted = (_checked_sources(*each) for each in ((selected, "selected"), (planted, "planted")))
    checks.require(planted.size > 0, "at least one planted source", "none")
    right = np.intersect1d(selected, planted).size
    return right / selected.size if selected.size else 1.0, right / planted.size


def mislabel_auc(values: ArrayLike, mislabelled: ArrayLike) -> np.ndarray:
    """Return how well low values tell mislabelled sources from others: the area under the ROC curve.

    The probability that a random mislabelled source has a lower value than a random other one, equal values counting
    half: 1 is perfect, .5 chance, which values that are all equal have too.

    Args:
      values: `[Q, N]` or `[N]`, larger for sources that raise a utility such as accuracy; any unit.
      mislabelled: bool `[N]`, some true and some false.

    Returns:
      `[Q]`, from 0 to 1.

    Raises:
      ValueError: for values that are not finite or not of these shapes, and if no source or every one is mislabelled.

    References:
      Ghorbani and Zou, Data Shapley, ICML 2019, section 4 (the task); Mann and Whitney, 1947 (the area).

    Example:
      >>> from jaxame import metrics
      >>> metrics.mislabel_auc([-1.0, 0.5, 0.2, 0.1], [True, False, False, False])
      array([1.])
    """
    values = _checked_values(values)
    mislabelled = _checked_labels(mislabelled, values.shape[1])
    right = np.count_nonzero(~mislabelled)
    above = stats.rankdata(values, axis=1)[:, ~mislabelled].sum(axis=1) - right * (right + 1) / 2
    area: np.ndarray = above / (right * np.count_nonzero(mislabelled))
    return area


def mislabel_f1(values: ArrayLike, mislabelled: ArrayLike) -> np.ndarray:
    """Return the F1 score of calling those sources mislabelled that are `suspicious`.

    Args:
      values: `[Q, N]` or `[N]`, larger for sources that raise a utility such as accuracy; any unit.
      mislabelled: bool `[N]`, some true and some false.

    Returns:
      `[Q]`, harmonic means of precision and recall, from 0 to 1; 0 if nothing is suspicious.

    Raises:
      ValueError: for values that are not finite or not of these shapes, and if no source or every one is mislabelled.

    References:
      Jiang et al., OpenDataVal: a Unified Benchmark for Data Valuation, NeurIPS 2023 (the task).
    """
    found = suspicious(values)
    mislabelled = _checked_labels(mislabelled, found.shape[1])
    score: np.ndarray = 2 * (found & mislabelled).sum(axis=1) / (found.sum(axis=1) + mislabelled.sum())
    return score


def suspicious(values: ArrayLike) -> np.ndarray:
    """Return which sources have low values, by cutting the values in two clusters: nobody has to say how many.

    The cut is the best one, as measured by squared distances from the two means, not one that an iteration happens to
    end in. One value far from all others can be a cluster of its own.

    Args:
      values: `[Q, N]` or `[N]`, any unit.

    Returns:
      bool `[Q, N]`, the sources of the lower cluster; none if all values are equal.

    Raises:
      ValueError: for values that are not finite or not of these shapes.

    References:
      Jiang et al., OpenDataVal, NeurIPS 2023 (two means, by Lloyd's iteration).
    """
    values = _checked_values(values)
    # From the first value, so that values that are all equal leave no rounding.
    apart = np.sort(values - values[:, :1], axis=1)
    size = np.arange(1, values.shape[1])
    below = apart.cumsum(axis=1)
    gap = below[:, :-1] / size - (below[:, -1:] - below[:, :-1]) / size[::-1]
    first_above = np.argmax(size * size[::-1] * gap**2, axis=1) + 1 if size.size else np.zeros(len(values), int)
    is_low: np.ndarray = values - values[:, :1] < np.take_along_axis(apart, first_above[:, None], axis=1)
    return is_low


def removal_curve(
    game: Any,
    values: ArrayLike,
    *,
    key: jax.Array,
    fractions: ArrayLike = FRACTIONS,
    lowest_first: bool = False,
    repeats: int = 1,
) -> np.ndarray:
    """Measure a game without the sources of the highest (or lowest) values.

    Utilities such as accuracy fall fast without the sources that matter most, and rise at first without harmful ones.

    Args:
      game: maps masks to utilities; attribute `num_sources` is `N`.
      values: `[Q, N]`, the order of sources for each of the game's queries, or `[N]`, one for all of them.
      key: one typed key; decides the order of equal values and the game's randomness, which is the same at every
        fraction and for any values: what differs is due to the sources.
      fractions: `[K]` shares of the sources to remove, from 0 to 1, each rounded to a number of sources.
      lowest_first: whether to remove the lowest values first.
      repeats: evaluations of every subset with keys of their own, whose mean is returned.

    Returns:
      Utilities `[K, Q]`, in the unit of the query; NaN where one is not finite.

    Raises:
      ValueError: for values or fractions that are not as described, for another game or key, and if there are neither
        one order nor as many as the game has queries.

    References:
      Ghorbani and Zou, Data Shapley, ICML 2019, section 4.
    """
    return _curve(game, values, key, fractions, lowest_first, repeats, removed=True)


def addition_curve(
    game: Any,
    values: ArrayLike,
    *,
    key: jax.Array,
    fractions: ArrayLike = FRACTIONS,
    lowest_first: bool = False,
    repeats: int = 1,
) -> np.ndarray:
    """Measure a game on nothing but the sources of the highest (or lowest) values.

    Utilities such as accuracy rise fast with the sources that matter most. Adding the highest first is removing the
    lowest first, from the other end.

    Args:
      game: maps masks to utilities; attribute `num_sources` is `N`.
      values: `[Q, N]` or `[N]`, as for `removal_curve`.
      key: likewise.
      fractions: `[K]` shares of the sources to start from nothing with, from 0 to 1.
      lowest_first: whether to add the lowest values first.
      repeats: evaluations of every subset, as for `removal_curve`.

    Returns:
      Utilities `[K, Q]`, in the unit of the query; NaN where one is not finite.

    Raises:
      ValueError: as for `removal_curve`.

    References:
      Kwon and Zou, Beta Shapley, AISTATS 2022.
    """
    return _curve(game, values, key, fractions, lowest_first, repeats, removed=False)


def leave_one_out(game: Any, *, key: jax.Array, repeats: int = 1) -> np.ndarray:
    """Retrain without each source: the reference for `leave_one_out_correlation`.

    Unlike `jaxame.baselines.leave_one_out`, all subsets of a repeat are evaluated with the same key, so that most of
    the game's own noise cancels. `noise_ceiling` of these effects says how much is left.

    Args:
      game: maps masks to utilities; attribute `num_sources` is `N`.
      key: one typed key, of the game's randomness.
      repeats: `R`.

    Returns:
      `[R, N, Q]`, what every source adds to all others: `U(all) - U(all but i)`, in the unit of the query.

    Raises:
      ValueError: for another game, key or number of repeats.
    """
    num_sources = checks.count(getattr(game, "num_sources", 0), "game.num_sources")
    masks = np.concatenate([np.ones((1, num_sources), bool), ~np.eye(num_sources, dtype=bool)])
    utilities = _measure(game, key, masks, repeats)
    effects: np.ndarray = utilities[:, :1] - utilities[:, 1:]
    return effects


def leave_one_out_correlation(values: ArrayLike, effects: ArrayLike) -> np.ndarray:
    """Return the rank correlation (Spearman) of values with effects of retraining without each source.

    Args:
      values: `[Q, N]` or `[N]`, any unit.
      effects: `[N, Q]` what every source adds to all others, such as the mean over repeats of `leave_one_out`.

    Returns:
      `[Q]`; 0 for values that are all equal, NaN for effects that are.

    Raises:
      ValueError: for arrays that are not finite or do not fit together.

    References:
      Koh and Liang, ICML 2017, section 4.1 (the comparison, by plain correlation).
    """
    values = _checked_values(values)
    return _agreement(values, _checked_utilities(effects, "effects", values.shape[::-1]).T)


def datamodeling_score(values: ArrayLike, masks: ArrayLike, utilities: ArrayLike) -> np.ndarray:
    """Return the linear datamodeling score: how well sums of values predict the utilities of other subsets.

    The rank correlation (Spearman), over held-out subsets, of the sum of the values of a subset's sources with its
    utility. A perfect prediction reaches `noise_ceiling` only.

    Args:
      values: `[Q, N]` or `[N]`, any unit.
      masks: bool `[m, N]`, `m >= 2` subsets that the values were not estimated from.
      utilities: `[m, Q]` of these subsets, such as means over repeats.

    Returns:
      `[Q]`; 0 where all predictions are equal, NaN where all utilities are.

    Raises:
      ValueError: for arrays that are not finite or do not fit together.

    References:
      Ilyas et al., Datamodels, ICML 2022; Park et al., TRAK, ICML 2023 (the score).

    Example:
      >>> import numpy as np
      >>> from jaxame import metrics
      >>> masks = np.array([[True, False, False], [False, True, False], [True, True, False], [True, True, True]])
      >>> utilities = masks @ np.array([[3.0], [2.0], [1.0]])
      >>> metrics.datamodeling_score([2.0, 1.0, 0.5], masks, utilities)
      array([1.])
    """
    values, masks = _checked_values(values), np.asarray(masks)
    fits = masks.dtype == bool and masks.ndim == 2 and masks.shape[1] == values.shape[1] and len(masks) >= 2
    checks.require(fits, f"masks bool [m, {values.shape[1]}] of at least 2 subsets", checks.describe(masks))
    utilities = _checked_utilities(utilities, "utilities", (len(masks), len(values)))
    # From the first value: equal values then give subsets of a size the same sum, to the bit.
    first = values[:, :1]
    predicted = (values - first) @ masks.T + first * masks.sum(axis=1)
    return _agreement(predicted, utilities.T)


def noise_ceiling(utilities: ArrayLike, *, num_averaged: int | None = None) -> np.ndarray:
    """Return the rank correlation that a perfect prediction has with utilities that hold the noise of training.

    The best `datamodeling_score` (or `leave_one_out_correlation`) to be had: that of the expected utility of every
    subset. An additive prediction need not reach it, if the game is not additive. From the mean rank correlation `s`
    over pairs of repeats, for normal distributions: `r = 2 sin(pi s / 6)` is the share of a single utility's variance
    that is not noise, `k r / (1 + (k - 1) r)` that of the mean of `k` repeats (Spearman and Brown), and its root the
    correlation with the expected utility, whose rank correlation is `6 / pi arcsin(root / 2)`.

    Args:
      utilities: `[R, m, Q]`, `R >= 2` repeats on the same `m >= 2` subsets (or effects of `m` sources).
      num_averaged: `k`, how many repeats the utilities to be predicted are the mean of; by default `R`.

    Returns:
      `[Q]`, from 0 to 1; 0 where repeats do not agree at all, NaN where all utilities of a repeat are equal.

    Raises:
      ValueError: for utilities that are not finite or have another shape, and another number to average.

    References:
      Spearman, 1910, and Brown, 1910; Pearson, 1907 (rank correlations of normal variables).
    """
    utilities = np.asarray(utilities)
    enough = utilities.ndim == 3 and len(utilities) >= 2
    checks.require(enough, "utilities [R, m, Q] of at least 2 repeats", checks.describe(utilities))
    utilities = _checked_utilities(utilities, "utilities", utilities.shape)
    repeats = len(utilities)
    averaged = repeats if num_averaged is None else checks.count(num_averaged, "num_averaged")
    ranks = _standardised_ranks(np.swapaxes(utilities, 1, 2))
    # The square of a sum of unit vectors holds 1 for each of them and every pair twice.
    of_sum = np.square(ranks.sum(axis=0)).sum(axis=-1)
    single = np.maximum(2 * np.sin(np.pi / 6 * (of_sum - repeats) / (repeats * (repeats - 1))), 0.0)
    root = np.sqrt(averaged * single / (1 + (averaged - 1) * single))
    ceiling: np.ndarray = 6 / np.pi * np.arcsin(np.minimum(root, 1.0) / 2)
    return ceiling


def _curve(
    game: Any,
    values: ArrayLike,
    key: jax.Array,
    fractions: ArrayLike,
    lowest_first: bool,
    repeats: int,
    *,
    removed: bool,
) -> np.ndarray:
    """Utilities `[K, Q]` with the first shares of an order removed, or with nothing else."""
    values, fractions = _checked_values(values), np.asarray(fractions)
    num_orders, num_sources = values.shape
    of_game = checks.count(getattr(game, "num_sources", 0), "game.num_sources")
    checks.require(of_game == num_sources, f"values [Q, {of_game}], one per source", checks.describe(values))
    is_share = fractions.ndim == 1 and fractions.size > 0 and np.issubdtype(fractions.dtype, np.number)
    is_share = is_share and bool(np.all((fractions >= 0) & (fractions <= 1)))
    checks.require(is_share, "fractions [K] from 0 to 1", fractions)
    first = np.rint(fractions * num_sources)[:, None]
    chosen = _places(values if lowest_first else -values, key)[:, None] < first
    masks = (chosen ^ removed).reshape(-1, num_sources)
    utilities = _measure(game, key, masks, repeats).mean(axis=0).reshape(num_orders, len(fractions), -1)
    if num_orders == 1:
        curve: np.ndarray = utilities[0]
        return curve
    fits = utilities.shape[2] == num_orders
    checks.require(fits, f"values [{utilities.shape[2]}, N], as the game has queries, or [N]", checks.describe(values))
    return np.diagonal(utilities, axis1=0, axis2=2)


def _places(values: np.ndarray, key: jax.Array) -> np.ndarray:
    """The place of every source in the order of its query's values, from 0, `[Q, N]`; of equal ones at random."""
    # In the order of the sources, equal values would give away what that order knows.
    seed = np.asarray(jax.random.key_data(jax.random.fold_in(checks.typed_key(key), _ORDER_STREAM)))
    at_random = np.random.default_rng(seed.tolist()).permutation(values.shape[1])
    order = at_random[np.argsort(values[:, at_random], axis=1, kind="stable")]
    return np.argsort(order, axis=1)


def _measure(game: Any, key: jax.Array, masks: np.ndarray, repeats: int) -> np.ndarray:
    """Utilities `[R, m, Q]` of `masks [m, N]`; all of a repeat with the same key."""
    game_key = jax.random.fold_in(checks.typed_key(key), _GAME_STREAM)
    chunk = checks.count(getattr(game, "chunk_size", _CHUNK), "game.chunk_size")
    repeat, row = np.divmod(np.arange(checks.count(repeats, "repeats") * len(masks), dtype=np.uint32), len(masks))
    parts: list[np.ndarray] = []
    for start in range(0, len(row), chunk):
        rows = slice(start, start + chunk)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(game_key, repeat[rows])
        part = checks.array(game(keys, masks[row[rows]]), np.float64)
        width = parts[0].shape[1] if parts else "Q"
        fits = part.ndim == 2 and len(part) == len(row[rows]) and width in ("Q", part.shape[1])
        checks.require(fits, f"the game to return [{len(row[rows])}, {width}]", list(part.shape))
        parts.append(part)
    return np.concatenate(parts).reshape(repeats, len(masks), -1)


def _agreement(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Spearman correlation of the rows of two arrays `[Q, m]`: 0 if a prediction is constant, NaN if a truth is."""
    correlation = (_standardised_ranks(predicted) * _standardised_ranks(measured)).sum(axis=1)
    uninformed = (np.ptp(predicted, axis=1) == 0) & (np.ptp(measured, axis=1) > 0)
    return np.where(uninformed, 0.0, correlation)


def _standardised_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks along the last axis, of mean 0 and sum of squares 1; NaN where all are equal."""
    ranks = stats.rankdata(values, axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        standardised: np.ndarray = ranks / np.linalg.norm(ranks, axis=-1, keepdims=True)
        return standardised


def _checked_values(values: ArrayLike) -> np.ndarray:
    """Values as float64 `[Q, N]`."""
    given = np.asarray(values)
    is_table = given.ndim in (1, 2) and given.size > 0 and np.issubdtype(given.dtype, np.number)
    checks.require(is_table, "values [Q, N] or [N]", checks.describe(given))
    checks.require(bool(np.isfinite(given).all()), "finite values", f"{(~np.isfinite(given)).sum()} that are not")
    return np.atleast_2d(given).astype(np.float64)


def _checked_sources(sources: ArrayLike, name: str) -> np.ndarray:
    """Numbers of sources, int `[m]`."""
    given = np.asarray(sources)
    fits = given.ndim == 1 and (not given.size or np.issubdtype(given.dtype, np.integer))
    fits = fits and np.unique(given).size == given.size
    checks.require(fits, f"{name} [m], different sources", checks.describe(given))
    return given


def _checked_labels(mislabelled: ArrayLike, num_sources: int) -> np.ndarray:
    """Which sources are mislabelled, bool `[N]`."""
    given = np.asarray(mislabelled)
    fits = given.dtype == bool and given.shape == (num_sources,)
    checks.require(fits, f"mislabelled bool [{num_sources}]", checks.describe(given))
    checks.require(0 < given.sum() < given.size, "some sources mislabelled and some not", f"{given.sum()} of them")
    return given


def _checked_utilities(utilities: ArrayLike, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Utilities as float64 of a shape, all finite."""
    given = np.asarray(utilities)
    fits = given.shape == shape and given.size > 0 and np.issubdtype(given.dtype, np.number)
    checks.require(fits, f"{name} {list(shape)}", checks.describe(given))
    not_finite = np.count_nonzero(~np.isfinite(given))
    checks.require(not_finite == 0, f"finite {name}; leave the rows of others out", f"{not_finite} that are not")
    return given.astype(np.float64)
