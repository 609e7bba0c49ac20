"""Several workers on one run: a Ray cluster, processes of jax.distributed, and shards that write at once."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxame import cluster, factories, runs
from jaxame.design import Grid

pytestmark = pytest.mark.slow
LAW, KEY = Grid((0.3, 0.6)), jax.random.key(3)
M, CHUNK = 96, 8
PROGRAM = [sys.executable, "-m", "jaxame"]


@pytest.fixture(scope="module")
def game():
    return factories.make("run_games:keeping", ())[0]


@pytest.fixture(scope="module")
def wanted(tmp_path_factory, game):
    """Utilities of one undisturbed process on all of its devices."""
    place = tmp_path_factory.mktemp("one")
    return train_here(start(place, game), game)


def start(place, game):
    made_by = {"factory": "run_games:keeping", "settings": {}}
    options = {"num_submodels": M, "chunk_rows": CHUNK, "made_by": made_by}
    return runs.start(place, game, key=KEY, law=LAW, **options)


def train_here(run, game):
    run.train(game)
    return run.utilities()


def environment():
    return os.environ | {"PYTHONPATH": str(Path(__file__).parent), "JAX_NUM_CPU_DEVICES": "2"}


def test_shards_that_write_at_once_agree(tmp_path, game, wanted):
    start(tmp_path, game)
    both = [[*PROGRAM, "resume", str(tmp_path), "--shard", f"{i}/2"] for i in range(2)]
    processes = [subprocess.Popen(words, env=environment()) for words in both]
    # One more for all chunks, which meets the two at some of them.
    again = subprocess.Popen([*PROGRAM, "resume", str(tmp_path)], env=environment())
    assert [process.wait(300) for process in [*processes, again]] == [0, 0, 0]
    run = runs.open_run(tmp_path)
    assert run.missing() == {}
    np.testing.assert_array_equal(run.utilities(), wanted)


def test_processes_of_jax_distributed_agree(tmp_path, game, wanted):
    start(tmp_path, game)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    both = [[*PROGRAM, "resume", str(tmp_path), "--distributed", f"{address},{i}/2"] for i in range(2)]
    processes = [subprocess.Popen(words, env=environment()) for words in both]
    assert [process.wait(300) for process in processes] == [0, 0]
    run = runs.open_run(tmp_path)
    assert run.missing() == {}
    np.testing.assert_array_equal(run.utilities(), wanted)


@pytest.fixture
def ray_here(monkeypatch):
    import ray

    monkeypatch.setenv("RAY_worker_niceness", "0")  # or busy neighbours would starve them
    search = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": search})
    yield ray
    ray.shutdown()


@pytest.mark.filterwarnings("ignore")
def test_a_ray_worker_that_is_killed_costs_at_most_its_chunk(tmp_path, game, wanted, ray_here):
    run, seen = start(tmp_path, game), []
    killed = []

    def kill_one(stage, done, total):
        """Kill a process that has opened the run, once the first chunk is done."""
        seen.append((stage, done, total))
        if not killed:
            victims = [pid for pid in workers() if pid != os.getpid()]
            os.kill(victims[0], signal.SIGKILL)
            killed.append(victims[0])

    computed = cluster.train(str(tmp_path), cpus=1, progress=kill_one)
    assert killed
    assert M - CHUNK <= computed <= M  # what the killed one had committed, nobody computes again
    assert seen[-1][1:] == (computed, M)
    assert run.missing() == {}
    np.testing.assert_array_equal(run.utilities(), wanted)
    assert cluster.train(str(tmp_path)) == 0


def workers():
    """Process numbers of Ray's workers that run a task of ours."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes()
        except OSError:
            continue
        if text.startswith(b"ray::_train_chunk"):
            found.append(int(path.parent.name))
    return found


@pytest.mark.filterwarnings("ignore")
def test_errors_of_a_worker_are_those_of_a_process_here(tmp_path, game, ray_here):
    made_by = {"factory": "run_games:threshold", "settings": {"num_sources": 30}}
    runs.start(tmp_path, game, key=KEY, law=LAW, num_submodels=M, chunk_rows=CHUNK, made_by=made_by)
    with pytest.raises(ValueError, match="needs the same as in"):
        cluster.train(str(tmp_path))
