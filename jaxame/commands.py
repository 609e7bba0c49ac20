"""The commands on a run: start or go on with it, say how far it is, estimate, export."""

import dataclasses
import json
import logging
import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from jaxame import checks, cluster, growth, knockoffs, runs
from jaxame.attribution import Attribution
from jaxame.console import StageProgress, duration
from jaxame.estimators import estimate_ame
from jaxame.factories import make, make_again
from jaxame.fingerprint import differences, fingerprint
from jaxame.interrupts import stop_on_signals
from jaxame.laws import Beta, Grid, Law, PointMass, TruncatedUniform

log = logging.getLogger(__name__)
STOPPED = 3
"""Exit status of a run that was stopped before its end."""
_LAWS: dict[str, Callable[..., Law]] = {
    "grid": lambda *points: Grid(points),
    "uniform": TruncatedUniform,
    "beta": Beta,
    "point": PointMass,
}
Place = Annotated[str, tyro.conf.Positional]


class StoppedEarlyError(Exception):
    """A run was stopped before its end; the text says how to go on."""


@dataclasses.dataclass(frozen=True)
class Workers:
    """Who trains: this process on all its devices, unless something else is said."""

    shard: str = "0/1"
    """`i/n`: train every n-th chunk only, from the i-th on, so that n processes share the run, as in a job array."""
    distributed: str | None = None
    """Share the run with the other processes of `jax.distributed`: `auto` where it finds them, as under SLURM, or
    `host:port,i/n` for the `i`-th of `n`, of which the first is at that address."""
    ray: bool = False
    """Share the run out over a Ray cluster."""
    address: str | None = None
    """Of the cluster; by default the one that the environment names, or else one on this machine."""
    cpus: float = 1
    """Cores that a Ray worker takes."""
    gpus: float = 0
    """GPUs that a Ray worker takes."""


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What to run; a run that is there goes on."""

    place: Place
    """Folder of the run, or URL of a bucket."""
    game: str
    """`package.module:factory`, a function that returns the game; or "demo"."""
    num_submodels: int
    """Submodels to train; more than before extends the run."""
    set: tuple[str, ...] = ()
    """Arguments of the factory, each `name=value`; a value that is JSON is read as such."""
    law: str = "grid:0.2,0.4,0.6,0.8"
    """Inclusion law: `grid:p,p,...`, `uniform:eps`, `beta:a,b`, `beta:a,b,eps` or `point:p`."""
    seed: int = 0
    """Decides everything that the factory does not."""
    paired: bool = False
    """Antithetic pairs of subsets."""
    chunk_rows: int | None = None
    """Submodels that are committed together; by default what takes about a second."""
    workers: Workers = dataclasses.field(default_factory=Workers)
    """Who trains."""
    quiet: bool = False
    """No progress."""


@dataclasses.dataclass(frozen=True)
class ResumeSettings:
    """A run to go on with, made as it was."""

    place: Place
    """Folder of the run, or URL of a bucket."""
    workers: Workers = dataclasses.field(default_factory=Workers)
    """Who trains."""
    quiet: bool = False
    """No progress."""


@dataclasses.dataclass(frozen=True)
class StatusSettings:
    """A run to look at."""

    place: Place
    """Folder of the run, or URL of a bucket."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class AttributeSettings:
    """What to estimate from a run."""

    place: Place
    """Folder of the run, or URL of a bucket."""
    fdr: float = 0.1
    """False discovery rate of the selection."""
    alternative: str = "two-sided"
    """Which sources to select: "greater", those that raise the query, "less" or "two-sided"."""
    copies: int = 4
    """Knockoff copies."""
    partial: bool = False
    """Estimate from the submodels that are done, if not all are."""
    out: Path | None = None
    """File for the whole result, `.npz`; `jaxame.load` reads it."""
    quiet: bool = False
    """No progress."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuerySettings(AttributeSettings):
    """Another query, to be answered from what the submodels of a run left behind."""

    query: str
    """`package.module:factory`, a function that returns a query."""
    set: tuple[str, ...] = ()
    """Arguments of the factory, each `name=value`; a value that is JSON is read as such."""


@dataclasses.dataclass(frozen=True)
class ReportSettings:
    """What to report on."""

    place: Place
    """Folder of the run, or URL of a bucket."""
    out: Path | None = None
    """File to write, `.html`; by default `report.html` in the folder of the run."""
    fdr: float = 0.1
    """False discovery rate of the selection."""
    alternative: str = "two-sided"
    """Which sources to select: "greater", those that raise the query, "less" or "two-sided"."""
    copies: int = 4
    """Knockoff copies."""
    partial: bool = False
    """Report on the submodels that are done, if not all are."""
    title: str = "Which training data is responsible?"
    """Of the page."""
    quiet: bool = False
    """No progress."""


@dataclasses.dataclass(frozen=True)
class ExportSettings:
    """What to write for other programs."""

    place: Place
    """Folder of the run, or URL of a bucket; or a file that `jaxame attribute --out` wrote."""
    out: Annotated[Path, tyro.conf.Positional]
    """File to write, `.parquet` or `.csv`: a row per submodel of a run, or per query and source of a result. A run's
    `.parquet` has the masks, so that `jaxame.interop.from_table` can read it back."""


def run(settings: RunSettings) -> None:
    """Train submodels into a folder; what is there already is kept."""
    shard = shard_of(settings.workers)  # before anything of JAX, if there are several processes
    law, key = parse_law(settings.law), checks.seed(settings.seed)
    asked: dict[str, Any] = {"key": key, "law": law, "num_submodels": settings.num_submodels, "paired": settings.paired}
    if settings.chunk_rows is not None:
        checks.count(settings.chunk_rows, "chunk_rows")
    runs.require_startable(settings.place, **asked)
    game, made_by = make(settings.game, settings.set)
    made_by |= {"command": _command(settings)}
    started = runs.start(settings.place, game, chunk_rows=settings.chunk_rows, made_by=made_by, **asked)
    _train(started, game, shard, settings.workers, settings.quiet)


def resume(settings: ResumeSettings) -> None:
    """Go on with a run that was stopped or killed, with the game that it was started with."""
    shard = shard_of(settings.workers)
    opened = runs.open_run(settings.place)
    game = None if settings.workers.ray else make_again(opened.manifest["made_by"])
    _train(opened, game, shard, settings.workers, settings.quiet)


def status(settings: StatusSettings) -> None:
    """Say how many submodels are done, how fast, how long it will take, and what failed."""
    opened = runs.open_run(settings.place)
    how_far = opened.how_far()
    left = (how_far.total - how_far.done) / how_far.rows_per_second if how_far.rows_per_second else None
    if settings.json:
        print(json.dumps(dataclasses.asdict(how_far) | {"seconds_left": left}))
        return
    text = f"{how_far.done:,} of {how_far.total:,} submodels ({how_far.done / how_far.total:.0%})"
    text += f", {how_far.rows_per_second:,.3g} a second and worker" if how_far.done else ""
    if left:
        text += f"; {duration(left)} left for one worker"
    failed = [f"{count:,} {name}" for name, count in how_far.failures.items() if count]
    print(f"{text}. Failures: {', '.join(failed) or 'none'}.")


def attribute(settings: AttributeSettings) -> None:
    """Estimate the effects of all sources from a run, and select among them."""
    _check(settings)
    _attribute(settings, runs.open_run(settings.place), None)


def query(settings: QuerySettings) -> None:
    """Do as `attribute` does for another query, from what a game with `keep=` left behind, without training."""
    _check(settings)
    asked, _ = make(settings.query, settings.set)
    opened = runs.open_run(settings.place)
    game = make_again(opened.manifest["made_by"])
    _attribute(settings, opened, opened.ask(asked, game, partial=settings.partial))


def _attribute(settings: AttributeSettings, opened: runs.Run, utilities: np.ndarray | None) -> None:
    console = Console()
    with StageProgress(console, settings.quiet) as progress:
        result = opened.estimate(utilities, partial=settings.partial, copies=settings.copies, progress=progress)
    console.print(_table(result, settings))
    if settings.out is not None:
        result.save(settings.out)
        console.print(f"Written to {settings.out}.", soft_wrap=True)
    result.check()


def _check(settings: "AttributeSettings | ReportSettings") -> None:
    """Check, before the work, what selecting and writing need after it."""
    checks.probability(settings.fdr, "fdr")
    checks.count(settings.copies, "copies")
    knockoffs.require_alternative(settings.alternative)
    if settings.out is not None:
        checks.writable(settings.out, "--out")


def report(settings: ReportSettings) -> None:
    """Write a report on a run for people who did not run it: one HTML file that needs nothing else."""
    _check(settings)
    opened = runs.open_run(settings.place)
    known = settings.out is not None or "://" not in settings.place
    checks.require(known, "--out FILE for a run that is not in a folder", settings.place)
    made_by, how_far = opened.manifest["made_by"], opened.how_far()
    design, utilities = opened.finished(partial=settings.partial)
    game = _game_of(opened)
    selecting: dict[str, Any] = {"fdr": settings.fdr, "alternative": settings.alternative}
    with StageProgress(Console(), settings.quiet) as progress:
        about = getattr(game, "about", {}) | opened.manifest["game"]
        result = estimate_ame(design, utilities, copies=settings.copies, about=about, progress=progress)
    with Console(quiet=settings.quiet).status("Writing the report, after a look at fewer submodels"):
        earlier = growth.selections(design, utilities, copies=settings.copies, **selecting)
        last = [result.select(query=q, **selecting) for q in range(result.num_queries)]
        path = result.report(
            settings.out or Path(settings.place) / "report.html",
            **selecting,
            game=game,
            design=design,
            utilities=utilities,
            growth=[*earlier, (result.submodel_status.size, last)],
            title=settings.title,
            facts=_facts(opened, how_far),
            command=_commands(made_by, settings),
        )
    print(f"Written to {path}.")
    result.check()


def _game_of(opened: runs.Run) -> Any:
    """Make the game of a run again, which tells what sources and queries look like.

    None if nobody said how, and if it now is another game, which is reported as a warning: its pictures would be
    others. Its tile and pieces, which a machine chooses for itself, may be others.
    """
    if opened.manifest["made_by"] is None:
        return None
    game = make_again(opened.manifest["made_by"])
    known = opened.manifest["game"]
    found = differences(known, fingerprint(game) | {name: known[name] for name in ("tile", "piece") if name in known})
    if found:
        log.warning("no pictures: the game of %s is another one when made here: %s", opened.place, "; ".join(found))
    return None if found else game


def _facts(opened: runs.Run, how_far: runs.HowFar) -> dict[str, str]:
    rate = f"{how_far.done:,} of {how_far.total:,}, {how_far.rows_per_second:,.3g} a second and worker"
    return {"submodels trained": rate, "trained on": str(opened.manifest["device"]), "run": opened.place}


def _commands(made_by: dict[str, Any] | None, settings: ReportSettings) -> str:
    """Return the commands that make the run and the report again, as far as they are known."""
    flags = ["--fdr", f"{settings.fdr:g}", "--alternative", settings.alternative, "--copies", str(settings.copies)]
    flags += ["--partial"] if settings.partial else []
    lines = [(made_by or {}).get("command", ""), shlex.join(["jaxame", "report", settings.place, *flags])]
    return "\n".join(filter(None, lines))


def _command(settings: RunSettings) -> str:
    """Return the command that starts a run."""
    words = ["jaxame", "run", settings.place, "--game", settings.game, "--num-submodels", str(settings.num_submodels)]
    words += [*(["--set", *settings.set] if settings.set else []), "--law", settings.law, "--seed", str(settings.seed)]
    return shlex.join([*words, *(["--paired"] if settings.paired else [])])


def export(settings: ExportSettings) -> None:
    """Write a run or a result as a table for other programs."""
    import pandas as pd

    write = {".parquet": "to_parquet", ".csv": "to_csv"}.get(settings.out.suffix)
    checks.require(write is not None, "a file that ends in .parquet or .csv", settings.out)
    checks.writable(settings.out, "the table")
    if settings.place.endswith(".npz"):
        from jaxame.attribution import load

        frame = load(settings.place).to_dataframe()
    else:
        columns = runs.open_run(settings.place).rows()
        masks = columns.pop("mask")
        frame = pd.DataFrame(columns)
        if settings.out.suffix == ".parquet":
            frame["mask"] = list(masks)
    getattr(frame, str(write))(settings.out, index=False)
    print(f"{len(frame):,} rows written to {settings.out}.")


ALL = (run, resume, status, attribute, query, report, export)
"""The commands, each a function of its settings."""


def parse_law(text: str) -> Law:
    """Return the law that a text such as `uniform:0.01` names.

    Raises:
      ValueError: if it names none.
    """
    name, _, values = text.partition(":")
    needs = f"a law such as grid:0.2,0.4 (one of {', '.join(_LAWS)})"
    checks.require(name in _LAWS, needs, text)
    try:
        numbers = [float(value) for value in values.split(",")]
    except ValueError as error:
        raise ValueError(f"needs {needs}; got {text}: {error}") from error
    try:
        return _LAWS[name](*numbers)
    except TypeError as error:
        raise ValueError(f"needs {needs}; got {text}: {error}") from error


def shard_of(workers: Workers) -> tuple[int, int]:
    """Return which chunks are this process's, `(i, n)`; it then is one of several, if it is to be.

    Raises:
      ValueError: for another text than `i/n`, for more than one way to share, and for settings of Ray without it.
    """
    ways = [workers.shard != "0/1", workers.distributed is not None, workers.ray]
    checks.require(sum(ways) <= 1, "one of --shard, --distributed and --ray", f"{sum(ways)} of them")
    ours = Workers(workers.shard, workers.distributed, workers.ray)
    checks.require(workers.ray or workers == ours, "--ray with --address, --cpus and --gpus", "them without it")
    if workers.distributed is None:
        return _parse_shard(workers.shard)
    if workers.distributed == "auto":
        jax.distributed.initialize()
    else:
        address, comma, shard = workers.distributed.partition(",")
        checks.require(bool(comma), "--distributed to be auto or host:port,i/n", workers.distributed)
        number, of = _parse_shard(shard)
        jax.distributed.initialize(address, of, number)
    return jax.process_index(), jax.process_count()


def _parse_shard(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    fits = number.isdigit() and of.isdigit() and int(number) < int(of)
    checks.require(fits, "a shard i/n with 0 <= i < n", text)
    return int(number), int(of)


def _train(run: runs.Run, game: Any, shard: tuple[int, int], workers: Workers, quiet: bool) -> None:
    with stop_on_signals() as stopped, StageProgress(Console(), quiet) as progress:
        failures = run.how_far().failures
        told = {"diverged": failures["DIVERGED"], "partly": failures["SOME_NOT_FINITE"]}
        progress.note("train", **told, lowest=math.nan, highest=math.nan)
        if workers.ray:
            address, cpus, gpus = workers.address, workers.cpus, workers.gpus
            cluster.train(run.place, address=address, cpus=cpus, gpus=gpus, progress=progress, stopped=stopped)
        else:
            run.train(game, chunks=run.shard(*shard), progress=progress, stopped=stopped)
        was_stopped = stopped()
    how_far = run.how_far()
    text = f"{how_far.done:,} of {how_far.total:,} submodels are in {run.place}"
    if was_stopped and how_far.done < how_far.total:
        again = "jaxame resume" if run.manifest["made_by"] else "runs.open_run"
        raise StoppedEarlyError(f"stopped; {text}. To go on: {again} {run.place}")
    print(f"{text}.", flush=True)


def _table(result: Attribution, settings: AttributeSettings) -> Table:
    title = f"Sources selected at a false discovery rate of {settings.fdr:g}, and their average marginal effects"
    table = Table(title=title, title_justify="left")
    for name in ("query", "selected", "sources"):
        table.add_column(name, justify="left" if name == "sources" else "right")
    for q in range(result.num_queries):
        selection = result.select(settings.fdr, q, alternative=settings.alternative)
        order = selection.indices[np.argsort(-np.abs(result.values[q, selection.indices]))]
        text = "  ".join(f"{i} ({result.values[q, i]:+.3g})" for i in order) or selection.reason
        table.add_row(str(q), str(order.size), text)
    return table
