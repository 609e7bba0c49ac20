"""What a run ran on: versions, devices, memory. Saved with every result."""

import importlib.metadata
import platform
import resource
import sys

import jax

_PACKAGES = ("jaxame", "jax", "jaxlib", "flax", "optax", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def devices() -> list[str]:
    """Kind of every local device."""
    return [device.device_kind for device in jax.local_devices()]


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
