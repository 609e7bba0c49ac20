"""Files that are whole or not there: what is written takes the place of an earlier file at the end, in one step."""

import contextlib
import os
from collections.abc import Iterator
from os import PathLike
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[Path]:
    """Yield a path to write to, beside `path`, and put it in its place once everything is on the disk.

    If anything goes wrong, or the process is killed, what was at `path` stays.
    """
    target = Path(path).resolve()  # a link stays one
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
