"""How many submodels per second: ours, a Python loop over ours, and the peers, in one run on one machine.

`python -m benchmarks.submodels --model mlp --peers torch --json FILE`

Every setting of a peer is timed once; its best one is then timed beside ours, in turns, and medians are reported. Times
are without start, compilation and warm-up. The objective is the mean over fresh subsets, the same for all, of the final
mean loss on the subset, plus the penalty of logistic regression; `objective_se` is its standard error.
"""

import dataclasses
import functools
import importlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from scipy import stats

from benchmarks.cases import Case, make_case
from benchmarks.peers.common import attempt
from jaxame import checks, cli, environment
from jaxame.submodels import TrainingGame
from jaxame.submodels.arguments import cross_entropy

Record = dict[str, Any]
_TIMED_SEED, _FRESH_SEED = 1, 2
_PEERS = ("sklearn", "torch")
_PEAK_SIDE = {"cpu": 2048, "gpu": 8192}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to race."""

    model: Literal["logistic", "mlp", "cnn", "resnet9"] = "mlp"
    """Model and data set; see `benchmarks.cases`."""
    peers: str = ""
    """Comma-separated: sklearn, torch. A peer that is not installed or does not have the model is skipped."""
    repeats: int = 5
    """Timings of each solver, in turns."""
    num_fresh: int = 200
    """Subsets for the objective."""
    lowering: Literal["auto", "patches", "native"] = "auto"
    """Of our convolutions; see `TrainingGame`."""
    data_dir: str | None = None
    """Where the data sets are; see `jaxame.data`."""
    json: Path | None = None
    """File for the records."""


@dataclasses.dataclass(eq=False)
class Solver:
    """Something to race.

    Attributes:
      record: what is known of it before the race.
      num_submodels: trained in one timing.
      train: trains them and returns the seconds it took.
      objectives: returns the final objective on each of the fresh subsets.
      seconds: of every timing.
    """

    record: Record
    num_submodels: int
    train: Callable[[], float]
    objectives: Callable[[], np.ndarray]
    seconds: list[float] = dataclasses.field(default_factory=list)

    def finished(self) -> Record:
        """Return the record with the median rate and the objective."""
        rate, objectives = self.num_submodels / float(np.median(self.seconds)), self.objectives()
        return self.record | {
            "submodels_per_second": rate,
            "objective": float(np.mean(objectives)),
            "objective_se": float(stats.sem(objectives)),
            "num_submodels": self.num_submodels,
            "seconds": self.seconds,
        }


def main(settings: Settings) -> dict[str, Any]:
    """Run the race and return what goes into the JSON file."""
    names = [name for name in settings.peers.split(",") if name]
    known = all(name in _PEERS for name in names)
    checks.require(known, f"peers among {', '.join(_PEERS)}, separated by commas", repr(settings.peers))
    cli.use_all_cores()
    platform = jax.default_backend()
    case = make_case(settings.model, settings.data_dir, has_gpu=platform == "gpu")
    case = dataclasses.replace(case, lowering=settings.lowering)
    solvers, tried, versions = list(_ours(case, settings.num_fresh)), [], environment.versions()
    for name in names:
        peer: Any = importlib.import_module(f"benchmarks.peers.{name}_peer")
        if reason := peer.missing(case.task):
            print(f"skipped {name}: {reason}")
            continue
        versions[name] = peer.version()
        all_settings = _try_settings(name, peer, case)
        tried += all_settings
        best = max(all_settings, key=lambda record: record["submodels_per_second"])
        solvers.append(_peer(name, peer, best, case, settings.num_fresh))
    marks: dict[str, Callable[[], float]] = {"peak": functools.partial(_peak, case, platform)}
    if settings.model == "resnet9":
        marks["unbatched"] = _unbatched(case)
    rates: dict[str, list[float]] = {name: [] for name in marks}
    for _ in range(settings.repeats):
        for name, measure in marks.items():
            rates[name].append(measure())
        for solver in solvers:
            solver.seconds.append(solver.train())
    reached = {name: float(np.median(found)) for name, found in rates.items()}
    records = [solver.finished() | {"device": environment.devices()[0]} for solver in solvers]
    for record in records:
        if "flops_per_submodel" in record:
            record["flops_per_second"] = record["flops_per_submodel"] * record["submodels_per_second"]
            record |= {f"fraction_of_{name}": record["flops_per_second"] / rate for name, rate in reached.items()}
    return {
        "records": records + tried,
        "model": settings.model,
        "num_fresh": settings.num_fresh,
        **{f"{name}_flops_per_second": rate for name, rate in reached.items()},
        "versions": versions,
        "devices": environment.devices(),
    }


def _ours(case: Case, num_fresh: int) -> Iterator[Solver]:
    """Yield our solvers: the game as it comes, with its other feed, and the loop that does without batching."""
    keys, masks = _rows(_TIMED_SEED, case, case.num_timed)

    def train(game: TrainingGame) -> float:
        begin = time.perf_counter()
        game(keys, masks)
        return time.perf_counter() - begin

    default = case.game(_nothing).feed
    for feed in sorted(("masked", "gathered"), key=lambda name: name != default):
        game = case.game(_nothing, feed=feed)
        game(keys[: game.chunk_size], masks[: game.chunk_size])
        record = {
            "solver": "jaxame" if feed == default else f"jaxame-{feed}",
            "setting": {"feed": feed, "tile": game.tile, "piece": game.piece},
            "lowering": game.lowering,
            "flops_per_submodel": game.flops,
        }
        yield Solver(
            record,
            case.num_timed,
            functools.partial(train, game),
            functools.partial(_objectives, case, feed, num_fresh),
        )
    yield _loop(case, default, num_fresh)


def _loop(case: Case, feed: str, num_fresh: int) -> Solver:
    """A Python loop over one jitted submodel on one device, which has all cores to itself."""
    num = max(case.num_timed // 16, 1)
    keys, masks = _rows(_TIMED_SEED, case, num)
    one = case.game(_nothing, feed=feed, tile=1, mesh=Mesh(np.array(jax.local_devices()[:1]), ("submodels",)))
    one(keys[:1], masks[:1])

    def train() -> float:
        begin = time.perf_counter()
        for i in range(num):
            one(keys[i : i + 1], masks[i : i + 1])
        return time.perf_counter() - begin

    record = {"solver": "jaxame-loop", "setting": {"feed": feed}, "flops_per_submodel": one.flops}
    return Solver(record, num, train, functools.partial(_objectives, case, feed, num_fresh))


def _nothing(apply: Callable, params: Any) -> jax.Array:
    """A query that costs next to nothing but needs the parameters."""
    del apply
    return jnp.sum(jnp.stack([jnp.sum(leaf) for leaf in jax.tree.leaves(params)]))[None]


@functools.cache
def _objectives(case: Case, feed: str, num_fresh: int) -> np.ndarray:
    """Train on fresh subsets and return the final objectives."""
    x, y = jnp.asarray(case.task.x), jnp.asarray(case.task.y)

    def query(apply: Callable, params: Any) -> jax.Array:
        losses = jax.lax.map(
            lambda part: cross_entropy(apply(params, part[0][None]), part[1][None])[0], (x, y), batch_size=250
        )
        return jnp.append(losses, case.penalty(params))

    keys, masks = _rows(_FRESH_SEED, case, num_fresh)
    values = case.game(query, feed=feed)(keys, masks).astype(np.float64)
    means = np.where(masks, values[:, :-1], 0.0).sum(axis=1) / masks.sum(axis=1)
    return means + values[:, -1]


def _try_settings(name: str, peer: Any, case: Case) -> list[Record]:
    """Time every setting of a peer once; one that fails is recorded with its error and the rate 0."""
    _, masks = _rows(_TIMED_SEED, case, _peer_count(case))
    records = []
    for setting in peer.settings(case.task):
        outcome = attempt(peer, case.task, masks, np.arange(len(masks)), setting)
        rate = 0.0 if outcome.error else len(masks) / outcome.seconds[0]
        text = _label(setting)
        print(f"  tried {name} {text}: {rate:.3g} submodels/s {outcome.error[-200:]}", flush=True)
        records.append(
            {"solver": f"{name}-{text}", "setting": setting, "submodels_per_second": rate, "error": outcome.error}
        )
    return sorted(records, key=lambda record: -record["submodels_per_second"])


def _label(setting: dict[str, Any]) -> str:
    """Name a setting in few letters, such as `2proc-1thread-stack16-compile`."""
    words = {"processes": "proc", "threads": "thread"}
    parts = []
    for key, value in setting.items():
        if key in words:
            parts.append(f"{value}{words[key]}")
        elif value is True or isinstance(value, int):
            parts.append(key if value is True else str(value))
        else:
            parts.append(str(value))
    return "-".join(parts)


def _peer(name: str, peer: Any, best: Record, case: Case, num_fresh: int) -> Solver:
    """A peer at its best setting."""
    _, masks = _rows(_TIMED_SEED, case, _peer_count(case))

    def train() -> float:
        return peer.run(case.task, masks, np.arange(len(masks)), best["setting"]).seconds[0]

    def objectives() -> np.ndarray:
        _, fresh = _rows(_FRESH_SEED, case, num_fresh)
        return peer.run(case.task, fresh, np.arange(num_fresh), best["setting"]).objectives

    return Solver({"solver": name, "setting": best["setting"]}, len(masks), train, objectives)


def _peer_count(case: Case) -> int:
    """Submodels in one timing of a peer: fewer than ours, but enough for all its processes and stacks."""
    return max(case.num_timed // 4, min(case.num_timed, 8))


def _rows(seed: int, case: Case, num: int) -> tuple[jax.Array, np.ndarray]:
    """Draw keys `[num]` and masks bool `[num, n]`."""
    key = jax.random.key(seed)
    return jax.random.split(key, num), case.masks(key, num)


def _peak(case: Case, platform: str) -> float:
    """Operations per second of a large matrix product on every device at once."""
    side = _PEAK_SIDE.get(platform, 4096)
    mesh = Mesh(np.array(jax.local_devices()), ("d",))
    product = jax.jit(jax.shard_map(jnp.matmul, mesh=mesh, in_specs=P("d"), out_specs=P("d")))
    a = jnp.ones((mesh.size, side, side), case.compute_dtype or jnp.float32)
    product(a, a).block_until_ready()
    begin = time.perf_counter()
    for _ in range(3):
        last = product(a, a)
    last.block_until_ready()
    return 3 * mesh.size * 2 * side**3 / (time.perf_counter() - begin)


def _unbatched(case: Case) -> Callable[[], float]:
    """Return what measures the operations per second of one model per device, trained on twice the batch in one piece.

    With `lowering="auto"` a GPU, which so large a step fills, computes its convolutions as XLA does.
    """
    batch = min(2 * case.batch_size, len(case.task.x))
    changes: dict[str, Any] = {"feed": "masked", "tile": 1, "batch_size": batch, "piece": batch}
    game, num = case.game(_nothing, **changes), jax.local_device_count()
    keys, masks = jax.random.split(jax.random.key(_TIMED_SEED), num), np.ones((num, len(case.task.x)), bool)
    game(keys, masks)
    flops = num * game.flops

    def measure() -> float:
        begin = time.perf_counter()
        game(keys, masks)
        return flops / (time.perf_counter() - begin)

    return measure


def _print(results: dict[str, Any]) -> None:
    for row in results["records"]:
        if "objective" in row:
            marks = [name for name in ("peak", "unbatched") if f"fraction_of_{name}" in row]
            share = "".join(f", {row[f'fraction_of_{name}']:.0%} of {name}" for name in marks)
            rate = f"{row['submodels_per_second']:10.4g} submodels/s"
            objective = f"objective {row['objective']:.4f} +- {row['objective_se']:.4f}"
            print(f"{row['solver']:16} {rate}, {objective}{share}")


if __name__ == "__main__":
    chosen = tyro.cli(Settings, description=__doc__)
    results = main(chosen)
    _print(results)
    if chosen.json:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps(results, indent=2) + "\n")
