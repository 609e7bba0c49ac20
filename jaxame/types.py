"""What several stages share: status codes and the progress callback."""

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)` whenever a long part has moved on; `stage` is a short name such as
`"train"`. An `Observer` is told more."""


class Observer(Protocol):
    """A `Progress` with a method `note`, which is told what a stage found; a plain callable is told nothing of it.

    All facts are numbers. They come before the call of `progress` that they belong to.
    """

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Do as `Progress` says."""

    def note(self, stage: str, **facts: float) -> None:
        """Take what is known of a stage.

        Args:
          stage: as for `Progress`.
          **facts: at the beginning of a stage, or of another round of it, `start` of `total` are done. When training,
            for the submodels since the last note: `diverged`, how many have no finite utility; `partly`, how many have
            some that are not finite; `lowest` and `highest` finite utility over all queries, NaN if there is none;
            `lowest_loss` and `highest_loss`, likewise of the latest of them on what they were trained on. When
            regressing or selecting: the `fewest` and the `most` columns in the fit of one query at the last penalty.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingData:
    """What a game trains on, for estimators that need more than utilities; attribute `data` of such a game.

    Attributes:
      x: `[n, ...]` inputs.
      y: `[n]` labels, or targets `[n, ...]`.
      source: int `[n]` source of every example, 0 to N-1.
    """

    x: np.ndarray
    y: np.ndarray
    source: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Items:
    """What queries or sources look like to a person, for reports; a game may have `query_items` and `source_items`.

    Attributes:
      captions: `[n]` a short text for each, such as its label; or None.
      images: `[n, H, W]` grey, from 0 (white) to the largest value, or `[n, H, W, 3]` colour from 0 to 1; or None.
      texts: `[n]` texts of any length; or None.
    """

    captions: Sequence[str] | None = None
    images: np.ndarray | None = None
    texts: Sequence[str] | None = None


class Status(enum.IntEnum):
    """What became of one query; `Attribution.check` turns anything but `OK` into an error."""

    OK = 0
    NOT_CONVERGED = 1
    LEFT_OUT_RELATED_TO_SOURCE = 2
    LEFT_OUT_RELATED_TO_P = 3
    NOT_FINITE = 4
    TOTAL_NOT_FINITE = 5


class SubmodelStatus(enum.IntEnum):
    """What became of one submodel; one that is not `OK` is left out of the regression of the queries concerned."""

    OK = 0
    SOME_NOT_FINITE = 1
    DIVERGED = 2


def submodel_status(utilities: np.ndarray) -> np.ndarray:
    """Return one `SubmodelStatus` per submodel, `[M]`, from utilities `[M, Q]`: diverged if none is finite."""
    finite = np.isfinite(utilities)
    some = np.where(finite.all(axis=1), SubmodelStatus.OK, SubmodelStatus.SOME_NOT_FINITE)
    return np.where(finite.any(axis=1), some, SubmodelStatus.DIVERGED)


def tell(progress: Progress, stage: str, **facts: float) -> None:
    """Hand facts to an `Observer`."""
    note = getattr(progress, "note", None)
    if note is not None:
        note(stage, **facts)


def tell_utilities(progress: Progress, utilities: np.ndarray, game: Any) -> None:
    """Hand what new utilities `[m, Q]` look like, and the losses that a game that trains had, to an `Observer`."""
    if hasattr(progress, "note"):
        losses = getattr(game, "training_losses", lambda: np.zeros(0))()
        tell(progress, "train", **measured(utilities), **_ends(losses, "_loss"))


def measured(utilities: np.ndarray) -> dict[str, float]:
    """Return what `Observer.note` takes of new utilities `[m, Q]`."""
    status = submodel_status(utilities)
    counts = {"diverged": SubmodelStatus.DIVERGED, "partly": SubmodelStatus.SOME_NOT_FINITE}
    numbers = {name: int((status == code).sum()) for name, code in counts.items()}
    return numbers | _ends(utilities)


def _ends(values: np.ndarray, of: str = "") -> dict[str, float]:
    """Return the lowest and the highest finite value, NaN if there is none."""
    finite = values[np.isfinite(values)]
    lowest, highest = (finite.min(), finite.max()) if finite.size else (np.nan, np.nan)
    return {f"lowest{of}": float(lowest), f"highest{of}": float(highest)}


def silent(stage: str, done: int, total: int) -> None:
    """Ignore progress: the default for library calls."""
    del stage, done, total
