"""Sizes and games that the tests share: every new shape costs seconds of compilation."""

import dataclasses

import numpy as np

import jaxame
from jaxame.design import Grid
from jaxame.games import Additive, Majority, Saturating, Threshold, UnanimitySum

M, N, Q, FOLDS, COPIES = 720, 24, 6, 5, 4
GRID = Grid((0.2, 0.4, 0.6, 0.8))
SIZES = {"num_submodels": M, "folds": FOLDS, "copies": COPIES}


@dataclasses.dataclass(frozen=True, eq=False)
class Stacked:
    """The queries of several games over the same sources, side by side."""

    games: tuple

    @property
    def num_sources(self):
        return self.games[0].num_sources

    def __call__(self, keys, masks):
        return np.concatenate([np.asarray(game(keys, masks)) for game in self.games], axis=1)

    def ame(self, law):
        return np.stack([game.ame(law) for game in self.games])


_WEIGHTS = np.random.default_rng(1)
GAMES = {
    "all-equal additive": Additive(np.full(N, 3.0)),
    "large additive": Additive(_WEIGHTS.uniform(100, 900, N) * _WEIGHTS.choice([-1, 1], N)),
    "2 of 3": Threshold(N, [2, 5, 11], 2),
    "unanimity sum": UnanimitySum(N, [(0,), (1, 2), (3, 4, 5), (6, 7)], [2.0, -1.5, 3.0, 1.0]),
    "majority": Majority(N, range(5)),
    "saturating": Saturating(N, range(8, 16), slope=1.5, centre=3.0),
}
GAME = Stacked(tuple(GAMES.values()))


def arrays_of(result, queries=slice(None)):
    """Return every array of an `Attribution`, restricted to some queries; `submodel_status` only with all of them."""
    fields = {field.name: getattr(result, field.name) for field in dataclasses.fields(jaxame.Attribution)}
    arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
    if queries == slice(None):
        return arrays
    del arrays["submodel_status"]
    return {name: a[:, queries] if name.startswith("cv_") else a[queries] for name, a in arrays.items()}


def assert_same(one, other, queries=slice(None)):
    """Require two results to agree bit for bit."""
    one, other = arrays_of(one, queries), arrays_of(other, queries)
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)
        assert value.dtype == other[name].dtype
