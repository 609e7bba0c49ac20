"""What several stages share: status codes and the progress callback."""

import dataclasses
import enum
from collections.abc import Callable

import numpy as np

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)` whenever a long part has moved on; `stage` is a short name such as
`"train"`."""


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


def silent(stage: str, done: int, total: int) -> None:
    """Ignore progress: the default for library calls."""
    del stage, done, total
