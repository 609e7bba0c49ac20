"""Several workers on one run: a Ray cluster, processes of jax.distributed, and shards that write at once."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import run_games

from jaxame import cluster, commands, factories, runs
from jaxame.design import Grid, sample_design

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


def start(place, game, num_submodels=M, factory="run_games:keeping", **settings):
    made_by = {"factory": factory, "settings": settings}
    options = {"num_submodels": num_submodels, "chunk_rows": CHUNK, "made_by": made_by}
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
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": search})
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
    start(tmp_path, game, factory="run_games:threshold", num_sources=30)
    with pytest.raises(ValueError, match="needs the same as in"):
        cluster.train(str(tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_workers_that_know_a_run_see_it_grow_wherever_they_are(tmp_path, monkeypatch, game, wanted, ray_here):
    monkeypatch.chdir(tmp_path)  # the workers are elsewhere
    start("run", game, M // 2)
    assert cluster.train("run") == M // 2
    run = start("run", game)
    assert cluster.train("run") == M // 2
    assert run.missing() == {}
    np.testing.assert_array_equal(run.utilities(), wanted)


def test_urls_stay_as_they_are():
    assert cluster._absolute("gs://bucket/run") == "gs://bucket/run"


def noting(folder: str):
    """A game that leaves a file wherever it is made."""
    tempfile.mkstemp(dir=folder)
    return run_games.threshold()


@pytest.mark.filterwarnings("ignore")
def test_a_worker_with_a_gpu_takes_many_chunks(tmp_path, ray_here):
    """The GPU is one in Ray's books only."""
    notes = tmp_path / "notes"
    notes.mkdir()
    start(tmp_path / "run", run_games.threshold(), 3 * CHUNK, "test_workers:noting", folder=str(notes))
    assert cluster.train(str(tmp_path / "run"), gpus=1) == 3 * CHUNK
    assert len(list(notes.iterdir())) == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("cpus", "gpus"), [(64, 0), (1, 2)])
def test_what_no_machine_has_is_refused(tmp_path, game, ray_here, cpus, gpus):
    start(tmp_path, game)
    needs = f"needs a machine in the cluster with {cpus} cores and {gpus} GPUs for a worker; got 2 and 1"
    with pytest.raises(ValueError, match=needs):
        cluster.train(str(tmp_path), cpus=cpus, gpus=gpus)


def deadly(mask: list[bool]):
    """A game that ends its process at rows that begin with a mask."""
    game = run_games.threshold(len(mask))

    def ending(keys, masks):
        if (np.asarray(masks[0]) == mask).all():
            os._exit(1)
        return game(keys, masks)

    ending.num_sources, ending.chunk_size, ending.fingerprint = game.num_sources, game.chunk_size, game.fingerprint
    return ending


@pytest.mark.filterwarnings("ignore")
def test_a_chunk_that_kills_its_workers_is_given_up(tmp_path, ray_here):
    game = run_games.threshold()
    masks = np.asarray(sample_design(KEY, LAW, num_submodels=M, num_sources=game.num_sources).masks())
    run = start(tmp_path, game, 5 * CHUNK, "test_workers:deadly", mask=masks[2 * CHUNK].tolist())
    with pytest.raises(cluster.ClusterError, match=r"needs workers that live through chunk 2 of .*; got 4 that died"):
        cluster.train(str(tmp_path), cpus=2)  # one worker at a time
    assert run.missing() == {2: 0}


def test_a_run_on_ray_that_is_stopped_says_how_to_go_on(tmp_path):
    place = tmp_path / "run"
    words = ["run", str(place), "--game", "run_games:threshold", "--num-submodels", "4000", "--set", "seconds=0.3"]
    process = subprocess.Popen(
        [*PROGRAM, *words, "--ray"],
        env=environment() | {"RAY_worker_niceness": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not list(place.glob("commits/*")):
        assert process.poll() is None
        time.sleep(0.05)
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == commands.STOPPED
    assert f"To go on: jaxame resume {place}" in told
