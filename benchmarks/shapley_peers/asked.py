"""What a package asks about a game: one number for each subset, counted like the evaluations of our own estimators."""

from collections.abc import Callable

import numpy as np

from jaxame.baselines.evaluation import Budget

Ask = Callable[[np.ndarray], np.ndarray]


class RefusedError(ValueError):
    """The package cannot do this problem; the text says why."""


class Asked:
    """A game that is evaluated once on every subset that a package asks for.

    No package knows games of several queries. It is run once for every query, from the same seed, and so asks for the
    same subsets each time; what was evaluated then answers.

    Args:
      counted: the game and its budget; spending more is an error.
    """

    def __init__(self, counted: Budget):
        self._counted = counted
        self._known: dict[bytes, np.ndarray] = {}

    @property
    def left(self) -> int:
        """Subsets that may still be asked for."""
        return self._counted.left

    def values(self, run: Callable[[Ask], np.ndarray]) -> np.ndarray:
        """Return values `[Q, N]`: `run` gets a function of masks, bool `[m, N]` or `[N]`, and returns values `[N]`."""
        first = run(self.of_query(0))
        num_queries = len(next(iter(self._known.values())))
        return np.stack([first, *(run(self.of_query(query)) for query in range(1, num_queries))])

    def of_query(self, query: int) -> Ask:
        """Return the function from masks, bool `[m, N]` or `[N]`, to float64 `[m]`."""
        return lambda masks: self._utilities(np.atleast_2d(masks).astype(bool))[:, query]

    def _utilities(self, masks: np.ndarray) -> np.ndarray:
        names = [row.tobytes() for row in np.packbits(masks, axis=1)]
        new = {name: mask for name, mask in zip(names, masks, strict=True) if name not in self._known}
        if new:
            utilities = self._counted.evaluate([np.stack(list(new.values()))]).utilities
            self._known.update(zip(new, utilities, strict=True))
        return np.stack([self._known[name] for name in names])
