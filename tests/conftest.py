"""Several CPU devices for the tests of device independence, and no more compiled functions than a process may hold."""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import pytest

# Every compiled function takes several memory mappings. Linux allows a process 65,530, and past that XLA crashes.
_MANY_MAPPINGS = 30_000


@pytest.fixture(scope="module", autouse=True)
def _compiled_functions_are_let_go():
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and len(mappings.read_bytes().splitlines()) > _MANY_MAPPINGS:
        jax.clear_caches()
