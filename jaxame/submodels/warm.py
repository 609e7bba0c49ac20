"""How far warm-started submodels are from submodels trained from scratch."""

import dataclasses

import jax
import numpy as np
from scipy import stats

from jaxame import checks
from jaxame.design import Law, sample_design
from jaxame.submodels.game import TrainingGame


@dataclasses.dataclass(frozen=True, eq=False)
class Agreement:
    """Utilities of two games on the same subsets, compared query by query.

    Attributes:
      rank_correlation: `[Q]` Spearman correlation over submodels; NaN where a game's utility does not vary.
      ceiling: `[Q]` the same correlation between two trainings of the reference that share no key: what a perfect
        stand-in would reach.
      bias: `[Q]` mean difference, game less reference, in the unit of the query.
      bias_stderr: `[Q]` standard error of `bias`.
      spread: `[Q]` standard deviation of the reference's utility over submodels, to judge `bias` by.
      num_submodels: subsets compared.
    """

    rank_correlation: np.ndarray
    ceiling: np.ndarray
    bias: np.ndarray
    bias_stderr: np.ndarray
    spread: np.ndarray
    num_submodels: int

    def __str__(self) -> str:
        return (
            f"{self.num_submodels} submodels, median over {self.bias.size} queries: rank correlation "
            f"{np.median(self.rank_correlation):.3f} (of {np.median(self.ceiling):.3f} between two trainings of the "
            f"reference), bias {np.median(self.bias / self.spread):+.2f} standard deviations of the utility"
        )


def compare(
    game: TrainingGame, reference: TrainingGame, *, key: jax.Array, law: Law, num_submodels: int = 64
) -> Agreement:
    """Compare the utilities of a game, such as a warm-started one, with those of a reference on the same subsets.

    Args:
      game: the game in question.
      reference: the game that it is to stand in for, such as the one that trains from scratch; trained twice.
      key: one typed key; decides subsets and training.
      law: inclusion law of the subsets.
      num_submodels: subsets, at least 3.

    Raises:
      ValueError: if the games differ in sources or queries, or a utility is not finite.
    """
    ours, theirs = ((each.num_sources, each.num_queries) for each in (game, reference))
    checks.require(ours == theirs, f"games of the same sources and queries, {theirs}", ours)
    num_submodels = checks.count(num_submodels, "num_submodels", 3)
    design = sample_design(key, law, num_submodels=num_submodels, num_sources=game.num_sources)
    first, second = (jax.random.split(half, num_submodels) for half in jax.random.split(key))
    masks = np.asarray(design.masks())
    utilities, twice, expected = game(first, masks), reference(second, masks), reference(first, masks)
    is_finite = all(np.isfinite(part).all() for part in (utilities, twice, expected))
    checks.require(is_finite, "finite utilities", "a submodel that diverged")
    difference = utilities - expected
    return Agreement(
        rank_correlation=_spearman(utilities, expected),
        ceiling=_spearman(twice, expected),
        bias=difference.mean(axis=0),
        bias_stderr=difference.std(axis=0, ddof=1) / np.sqrt(num_submodels),
        spread=expected.std(axis=0, ddof=1),
        num_submodels=num_submodels,
    )


def _spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Correlate the ranks of each column, `[Q]`."""
    ranks = [stats.rankdata(part, axis=0) for part in (one, other)]
    centred = [rank - rank.mean(axis=0) for rank in ranks]
    norms = np.sqrt(np.prod([np.square(part).sum(axis=0) for part in centred], axis=0))
    with np.errstate(invalid="ignore"):
        correlation: np.ndarray = (centred[0] * centred[1]).sum(axis=0) / norms
        return correlation
