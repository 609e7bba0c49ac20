"""Shapley values: the AME under the uniform law, truncated, and what makes up for the truncation."""

import dataclasses
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxame import checks, stopping, truncation
from jaxame.attribution import Attribution
from jaxame.design import TruncatedUniform
from jaxame.estimators import Options, ame, with_contrasts
from jaxame.evaluation import Game
from jaxame.types import Progress, Status, silent

_ENDS_STREAM = 2**32 - 9  # of a design's key, as those in `jaxame.estimators`
_UNIFORM = TruncatedUniform(1e-9)


def shapley(
    game: Game,
    *,
    key: jax.Array,
    num_submodels: int,
    eps: float | None = None,
    efficient: bool = True,
    paired: bool = False,
    stop: stopping.Rule | None = None,
    max_submodels: int | None = None,
    repeats: int = 0,
    progress: Progress = silent,
    **options: Unpack[Options],
) -> Attribution:
    """Estimate the Shapley value of every source: the AME under `p ~ U(0, 1)`, truncated to `U(eps, 1 - eps)`.

    Args:
      game: see `ame`.
      key: likewise.
      num_submodels: likewise; evaluations, but for the two of `efficient`.
      eps: the truncation; by default chosen for `num_submodels`, see `jaxame.truncation`. How far it can move a value
        is in the result's `about["truncation"]`, if no subset has a utility beyond those seen. What `interactions`
        explain is not truncated, as they say what a source adds at every `p`.
      efficient: evaluate the game on no source and on all as well, and let the values of every query sum to the
        difference, see `Attribution.efficient`; its variance is twice that of training, where `repeats` or else
        `interactions` tell it. Needs `shrunken`. A query for which one of the two is not finite gets
        the status `TOTAL_NOT_FINITE`.
      paired: see `ame`.
      stop: likewise.
      max_submodels: likewise.
      repeats: likewise.
      progress: likewise.
      **options: of the estimate, see `estimate_ame`; `interactions` is true unless given.

    Returns:
      An `Attribution`, values `[Q, N]`. `debiased`, its intervals, and the selection are those of the truncated law.

    Raises:
      ValueError: as `ame` does, and for `efficient` values that are not shrunken.

    References:
      Owen, Management Science 18(5), 1972 (the integral form); Lin et al., ICML 2022, section 2.

    Example:
      >>> import jax
      >>> import jaxame
      >>> from jaxame.games import Additive
      >>> game = Additive([2.0, 1.0] + [0.0] * 18)
      >>> result = jaxame.shapley(game, key=jax.random.key(0), num_submodels=100)
      >>> result.values[0, :2].round(2)
      array([2., 1.])
      >>> round(float(result.values.sum()), 4)  # the utility of all sources, less that of none
      3.0
    """
    eps = truncation.choose_eps(num_submodels) if eps is None else eps
    law = TruncatedUniform(eps)
    checks.require(not efficient or options.get("shrunken", True), "efficient=False with shrunken=False", efficient)
    result = ame(
        game,
        key=key,
        num_submodels=num_submodels,
        law=law,
        paired=paired,
        stop=stop,
        max_submodels=max_submodels,
        repeats=repeats,
        progress=progress,
        **{"interactions": True} | options | {"product_law": _UNIFORM},
    )
    lowest, highest = np.array(result.about["utility_range"]).T
    if efficient:
        contrasts = options.get("contrasts")
        num_measured = result.num_queries - (0 if contrasts is None else len(np.asarray(contrasts)))
        ends = with_contrasts(_none_and_all(game, key, num_measured), contrasts)
        result = _with_total(result, ends[1] - ends[0])
        lowest, highest = np.fmin(lowest, ends.min(axis=0)), np.fmax(highest, ends.max(axis=0))
    bound = truncation.bias_bound(eps, highest - lowest, result.values)
    about = {"efficient": efficient, "truncation": {"eps": eps, "bias_bound": bound.tolist()}}
    return dataclasses.replace(result, about=result.about | about)


def _none_and_all(game: Game, key: jax.Array, num_queries: int) -> np.ndarray:
    """Utilities of no source and of all, `[2, Q]`."""
    keys = jax.random.split(jax.random.fold_in(key, _ENDS_STREAM))
    masks = np.repeat([[False], [True]], game.num_sources, axis=1)
    ends = checks.array(game(keys, jnp.asarray(masks)), np.float64)
    checks.require(ends.shape == (2, num_queries), f"the game to return [2, {num_queries}]", list(ends.shape))
    return ends


def _with_total(result: Attribution, total: np.ndarray) -> Attribution:
    """Let the values sum to `total [Q]` where that is finite, and mark the queries where it is not."""
    known = np.isfinite(total)
    unknown = np.full(result.num_queries, np.nan)
    told, guessed = result.training_variance, result.about["noise_variance"]
    told, guessed = (unknown if noise is None else np.array(noise, float) for noise in (told, guessed))
    noise = np.where(np.isfinite(told), told, guessed)
    variance = 2 * np.where(np.isfinite(noise), noise, 0.0)
    values = result.efficient(np.where(known, total, result.values.sum(axis=1)), variance)
    return dataclasses.replace(result, values=values, status=np.where(known, result.status, Status.TOTAL_NOT_FINITE))
