"""Where the files of a set may lie, and what to say when they do not."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxame.data.schema import Raw, Schema

ENVIRONMENT = "JAXAME_DATA"
DEFAULT = Path("../shared/data")  # of the current folder: an installed package has no folder of its own to start from


@dataclasses.dataclass(frozen=True)
class Format:
    """One way to store a set.

    Attributes:
      expected: split -> the file names, for messages.
      find: `(folder, split)` -> the files, all of them, in order; empty if they are not there.
      read: `(files, schema, verify)` -> what they hold; `verify` asks for a check of the files' own checksums, where
        the format has any.
    """

    expected: Callable[[str], str]
    find: Callable[[Path, str], list[Path]]
    read: Callable[[Sequence[Path], Schema, bool], Raw]


@dataclasses.dataclass(frozen=True)
class Places:
    """Where to look for a set.

    Attributes:
      folders: names of its folder within a data folder.
      formats: tried in this order in every folder.
      system: `(folder, package)` where a Debian package puts it, or None.
    """

    folders: tuple[str, ...]
    formats: tuple[Format, ...]
    system: tuple[Path, str] | None = None


def candidates(places: Places, data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """Return the folders to look in, best first.

    A `data_dir` that was asked for is the only data folder, and may itself be the folder of the set. Otherwise the data
    folder is `$JAXAME_DATA` or, if that is not set, `../shared/data`, and after it comes the system's folder.
    """
    if data_dir is not None:
        root = Path(data_dir).expanduser()
        return [*(root / folder for folder in places.folders), root]
    root = Path(os.environ.get(ENVIRONMENT) or DEFAULT).expanduser()
    system = [] if places.system is None else [places.system[0]]
    return [*(root / folder for folder in places.folders), *system]


def find(places: Places, split: str, folders: Sequence[Path]) -> tuple[Format, list[Path]] | None:
    """Return the first complete set of files and its format, or None."""
    for folder in folders:
        for form in places.formats:
            if files := form.find(folder, split):
                return form, files
    return None


def missing(name: str, split: str, places: Places, folders: Sequence[Path], elsewhere: str) -> str:
    """Return what to tell someone whose set is not there: where it was looked for, what for, and how to get it.

    Args:
      name: the set.
      split: the part of it.
      places: where it may lie.
      folders: where it was looked for.
      elsewhere: how to get it from outside of this machine.
    """
    files = "; or ".join(form.expected(split) for form in places.formats)
    ways = [
        f"data_dir: a folder that holds these files, or holds them in {' or '.join(places.folders)}",
        f"the environment variable {ENVIRONMENT}: a folder that holds them in {' or '.join(places.folders)}",
    ]
    if places.system is not None:
        ways.append(f"the Debian package: apt install {places.system[1]}")
    lines = [f"needs the files of {name}, split {split}: {files}; got not all of them in any of:"]
    lines += [f"  {os.path.abspath(folder)}" for folder in folders]
    return "\n".join([*lines, "Ways to get it:", *(f"  {way}" for way in [*ways, elsewhere])])


def describe(files: Sequence[Path]) -> str:
    """Name files of one folder in an error message."""
    if len(files) == 1:
        return str(files[0])
    return f"{files[0].parent} ({', '.join(file.name for file in files)})"
