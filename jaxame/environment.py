"""What a run ran on: versions, devices, memory. Saved with every result."""

import functools
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax

_IMPORTED = time.monotonic()
_PACKAGES = ("jaxame", "jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """Versions of Python, of the packages that compute and of the working folder.

    "not installed" for what runs from its sources; the folder's is that of `commit`.
    """
    packages = {name: _version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **packages, "commit": commit()}


@functools.cache
def commit() -> str:
    """Commit of the git repository that the working folder is in, with "-dirty" after changes; "none" without one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "none"
    return found.stdout.strip() or "none"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def devices() -> list[str]:
    """Kind of every local device."""
    return [device.device_kind for device in jax.local_devices()]


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def seconds_since_start() -> float:
    """Seconds since this process started; where the system does not say, since this module was imported."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.monotonic() - _IMPORTED
    return uptime - ticks / os.sysconf("SC_CLK_TCK")
