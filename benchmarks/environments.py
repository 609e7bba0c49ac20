"""Makes the environments of packages that cannot share ours, as they need numpy below 2.

`python -m benchmarks.environments pydvl DIR` and `... opendataval DIR`, for a DIR that is not there yet, of the Python
that runs this. It prints the variable that tells the benchmarks of it. OpenDataVal takes 5.4 GB, most of it CUDA.
"""

import dataclasses
import subprocess
import sys
import venv
from pathlib import Path
from typing import Annotated

import tyro

from jaxame import checks

_PACKAGES = {
    "pydvl": ("JAXAME_PYDVL_PYTHON", ("pydvl==0.10.0",)),
    "opendataval": ("JAXAME_OPENDATAVAL_PYTHON", ("opendataval==1.3.0", "transformers<4.46")),
}
"""By package: the variable, and what to install. OpenDataVal takes torch 2.1, which later transformers do not."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to make."""

    package: Annotated[str, tyro.conf.Positional]
    """Which: pydvl or opendataval."""
    folder: Annotated[Path, tyro.conf.Positional]
    """Where."""


def main(settings: Settings) -> None:
    """Make an environment."""
    checks.require(settings.package in _PACKAGES, f"one of {tuple(_PACKAGES)}", settings.package)
    checks.require(not settings.folder.exists(), "a folder that is not there yet", settings.folder)
    variable, packages = _PACKAGES[settings.package]
    venv.create(settings.folder, with_pip=True)
    python = settings.folder.absolute() / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    print(f"export {variable}={python}")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
