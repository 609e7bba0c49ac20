"""What several stages share: status codes and the progress callback."""

import enum
from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)` whenever a long part has moved on; `stage` is a short name such as
`"train"`."""


class Status(enum.IntEnum):
    """What became of one query; `Attribution.check` turns anything but `OK` into an error."""

    OK = 0
    NOT_CONVERGED = 1
    LEFT_OUT_RELATED_TO_SOURCE = 2
    LEFT_OUT_RELATED_TO_P = 3


def silent(stage: str, done: int, total: int) -> None:
    """Ignore progress: the default for library calls."""
    del stage, done, total
