"""What a run on disk survives, and what that costs: `python -m benchmarks.faults --json FILE`.

A run is started in a process of its own and killed with SIGKILL again and again, at moments that are uniform over its
chunks and the time that each takes; a share of the kills wait for a chunk to be written and come within that. Each
time the run goes on in a new process. Afterwards its utilities are compared, bit for bit, with those of a run that
nobody disturbed, and the rows that were begun more than once are counted: at most a chunk for each kill.

Then bytes of stored chunks are changed, and chunks are truncated. Every case has to be noticed, and mended.

Last, training into a run is compared with drawing the design and training without one, at the default chunk size. The
cost of durability is what is added to the time outside of the game, as a share of all time without a run: the game does
the same in both, and its own time varies by more than the difference. Medians over repeats that take turns.
That alone, for a machine that does nothing else: `--kills 0 --in-writes 0 --corruptions 0 --chunks 8 --repeats 15`.
"""

import dataclasses
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import tyro

from jaxame import checks, cli, data, environment, evaluate, queries, runs
from jaxame.design import Grid, sample_design
from jaxame.submodels import TrainingGame, mlp

LAW, SEED = Grid((0.2, 0.4, 0.6, 0.8)), 90


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to do to a run."""

    kills: int = 50
    """Times that the process is killed."""
    in_writes: int = 15
    """Of these, kills that wait for a chunk to be written."""
    chunks: int = 120
    """Chunks of the run that is killed."""
    corruptions: int = 20
    """Stored chunks that are damaged, by turns with a changed byte and truncated."""
    repeats: int = 9
    """Of either side of the comparison of times."""
    json: Path | None = None
    """File for the records."""
    worker: Path | None = None
    """Used within: train the run in this folder, and say what is being done."""


def make_game(num_steps: int = 100) -> TrainingGame:
    """Return a small network on scikit-learn's digits."""
    train, test = data.split(data.digits(), jax.random.key(SEED), 500)
    model, query = mlp((64, 32, 10)), queries.logit_margin(test.x[:20], test.y[:20])
    return TrainingGame(
        model, optax.sgd(0.1, 0.9), train.x, train.y, query=query, num_steps=num_steps, batch_size=64, tile=8
    )


def start(place: Path, game: TrainingGame, num_chunks: int) -> runs.Run:
    """Start a run of small chunks, or go on with it."""
    rows = game.tile * jax.local_device_count()
    options: dict[str, Any] = {"law": LAW, "num_submodels": num_chunks * rows, "chunk_rows": rows}
    return runs.start(place, game, key=jax.random.key(SEED), **options)


def work(place: Path) -> None:
    """Train a run, and print a line before every chunk, before it is written and after."""
    run: Any = runs.open_run(place)
    game = make_game()
    write, compute = run._store.write, run._compute

    def say(what: str, chunk: int) -> None:
        print(what, chunk, flush=True)

    def noting_write(chunk: int, *arguments: Any) -> bool:
        say("write", chunk)
        done = write(chunk, *arguments)
        say("done", chunk)
        return done

    def noting_compute(game: Any, chunk: int, kept: int) -> int:
        say("begin", chunk)
        return compute(game, chunk, kept)

    run._store.write, run._compute = noting_write, noting_compute
    run.train(game)


class Kill(NamedTuple):
    """When to kill a worker: so many seconds after it says a word about a chunk or a later one."""

    chunk: int
    word: str
    seconds: float


def attempt(place: Path, kill: Kill | None) -> dict[str, Any]:
    """Run a worker to its end, or kill it; return the chunks that it began, and how it was killed."""
    command = [sys.executable, "-m", "benchmarks.faults", "--worker", str(place)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said: list[tuple[str, int]] = []
    killed = False
    for line in process.stdout:
        word, chunk = line.split()
        said.append((word, int(chunk)))
        if kill is not None and not killed and word == kill.word and int(chunk) >= kill.chunk:
            time.sleep(kill.seconds)
            process.send_signal(signal.SIGKILL)
            killed = True
    process.wait()
    checks.require(killed or process.returncode == 0, "a worker that ends well", process.returncode)
    record = {"killed": killed, "begun": [chunk for word, chunk in said if word == "begin"]}
    return record | ({"chunk": said[-1][1], "inside_a_write": said[-1][0] == "write"} if killed else {})


def kill_again_and_again(place: Path, settings: Settings, seconds: dict[str, float]) -> list[dict[str, Any]]:
    """Kill the workers of a run, then let one end; return a record of each."""
    rng = np.random.default_rng(SEED)
    moments, waits = np.sort(rng.uniform(0, settings.chunks, settings.kills)), np.zeros(settings.kills, bool)
    waits[rng.choice(settings.kills, settings.in_writes, replace=False)] = True
    log = []
    for moment, in_write in zip(moments, waits, strict=True):
        word = "write" if in_write else "begin"
        log.append(attempt(place, Kill(int(moment), word, moment % 1 * seconds[word])))
        print(f"kill {len(log)}: {log[-1]}", flush=True)
    return [*log, attempt(place, None)]


def measure_chunk(place: Path, game: TrainingGame) -> dict[str, float]:
    """Seconds from the beginning of a chunk to its write, and of the write."""
    run: Any = start(place, game, 6)
    took: dict[str, list[float]] = {"begin": [], "write": []}
    write, compute = run._store.write, run._compute

    def timed_write(*arguments: Any) -> bool:
        begin = time.perf_counter()
        done = write(*arguments)
        took["write"].append(time.perf_counter() - begin)
        return done

    def timed_compute(*arguments: Any) -> int:
        begin = time.perf_counter()
        done = compute(*arguments)
        took["begin"].append(time.perf_counter() - begin)
        return done

    run._store.write, run._compute = timed_write, timed_compute
    run.train(game)
    return {name: statistics.median(values[1:]) for name, values in took.items()}


def damage(place: Path, game: TrainingGame, wanted: np.ndarray, settings: Settings) -> list[dict[str, Any]]:
    """Damage stored chunks, one at a time; return for each whether it was noticed, alone, and mended."""
    rng = np.random.default_rng(SEED + 1)
    files = sorted(path for path in place.glob("*/c/**/*") if path.is_file()) + sorted(place.glob("commits/*"))
    found = []
    for number, path in enumerate(rng.choice(np.array(files, object), settings.corruptions, replace=False)):
        content = bytearray(path.read_bytes())
        if number % 2:
            content = content[: rng.integers(len(content))]
        else:
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        run = runs.open_run(place)
        missing = run.missing()
        noticed = len(missing) == 1
        rows = run.train(game)
        mended = np.array_equal(run.utilities(), wanted) and not run.missing()
        case = {"file": str(path.relative_to(place)), "how": "truncated" if number % 2 else "changed"}
        found.append(case | {"detected": noticed, "mended": bool(mended), "rows_recomputed": rows})
        print(found[-1], flush=True)
    return found


class Timed:
    """A game, and the seconds that were spent in it."""

    def __init__(self, game: TrainingGame):
        self.game, self.seconds = game, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.game, name)

    def __call__(self, keys: jax.Array, masks: Any) -> np.ndarray:
        """Return the game's utilities."""
        begin = time.perf_counter()
        utilities = self.game(keys, masks)
        self.seconds += time.perf_counter() - begin
        return utilities


def cost_of_durability(folder: Path, repeats: int) -> dict[str, Any]:
    """Seconds to train into a run and without one, by turns, at the default chunk size, in the game and in all."""
    game = make_game(num_steps=200)
    key, num_rows = jax.random.key(SEED), 6 * game.chunk_size

    def without(game: Any) -> None:
        evaluate(game, sample_design(key, LAW, num_submodels=num_rows, num_sources=game.num_sources))

    sides: dict[str, list[dict[str, float]]] = {"stored": [], "in_memory": []}
    for repeat in range(repeats + 1):  # the first compiles
        place = folder / f"durability{repeat}"
        run = runs.start(place, game, key=key, law=LAW, num_submodels=num_rows)
        for name, train in (("stored", run.train), ("in_memory", without)):
            timed: Any = Timed(game)
            begin = time.perf_counter()
            train(timed)
            sides[name].append({"seconds": time.perf_counter() - begin, "in_game": timed.seconds})
    turns = list(zip(sides["stored"][1:], sides["in_memory"][1:], strict=True))
    added = [(_outside(stored) - _outside(plain)) / plain["seconds"] for stored, plain in turns]
    totals = [stored["seconds"] / plain["seconds"] - 1 for stored, plain in turns]
    return {
        "chunk_rows": game.chunk_size,
        "rows": num_rows,
        "share": statistics.median(added),
        "shares": added,
        "share_of_totals": statistics.median(totals),
        **sides,
    }


def _outside(spent: dict[str, float]) -> float:
    return spent["seconds"] - spent["in_game"]


def main(settings: Settings) -> dict[str, Any]:
    """Do all three and return the records."""
    begin = time.perf_counter()
    game = make_game()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = measure_chunk(folder / "timed", game)
        quiet = start(folder / "quiet", game, settings.chunks)
        quiet.train(game)
        wanted = quiet.utilities()
        run = start(folder / "killed", game, settings.chunks)
        log = kill_again_and_again(folder / "killed", settings, seconds)
        chunk_rows = run.manifest["chunk_rows"]
        begun = np.bincount([chunk for record in log for chunk in record["begun"]], minlength=settings.chunks)
        found, missing = run.utilities(), run.missing()
        cases = damage(folder / "killed", game, wanted, settings)
        durability = cost_of_durability(folder, settings.repeats)
    killed = [record for record in log if record["killed"]]
    return {
        "kills": len(killed),
        "kills_inside_a_write": sum(record["inside_a_write"] for record in killed),
        "rows": run.num_submodels,
        "rows_lost": sum(missing.values()) + int((begun == 0).sum()) * chunk_rows,
        "rows_recomputed": int((begun - 1).clip(min=0).sum()) * chunk_rows,
        "chunk_rows": chunk_rows,
        "bit_identical": bool(np.array_equal(found, wanted)) and not missing,
        "corruptions": len(cases),
        "corruptions_detected": sum(case["detected"] for case in cases),
        "corruptions_mended": sum(case["mended"] for case in cases),
        "durability": durability,
        "moments": killed,
        "cases": cases,
        "seconds": time.perf_counter() - begin,
        "devices": environment.devices(),
        "versions": environment.versions(),
    }


if __name__ == "__main__":
    cli.use_all_cores()
    chosen = tyro.cli(Settings, description=__doc__)
    if chosen.worker is not None:
        work(chosen.worker)
        sys.exit()
    results = main(chosen)
    print({name: value for name, value in results.items() if name not in ("moments", "cases", "versions")})
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(results, indent=2) + "\n")
