"""Randomised experiments against attribution by gradients, on the poisoned digits of `jaxame demo`.

Question: who finds the ten poisoned digits among 1,000 behind the logit margins of 20 triggered test digits, whose
values predict training on other subsets, and at what cost?

All see the same data and the same queries. Estimators from gradients look into ten models trained on everything; ours
train submodels. Whose values rank is told how many were poisoned: `found` is the share of the ten among the ten
highest values, precision and recall alike. Ours is also run as one would use it, by knockoffs at a false discovery rate
of .05, which are not told: `precision` and `recall`. Every estimator has a process of its own.

- `average_precision`: area under the curve of precision against recall, in steps; chance has .01.
- `lds`: rank correlation of sums of values with the margins of 100 held-out submodels, each on half of the digits, the
  mean of four trainings; `lds_ceiling`: what the expected margin would reach. All of these are means over queries.
- `seconds`: with training and, on the first seed, compilation; the median is shown. `peak_rss_mb`: of the process.

Settings of the others were chosen on seed 100, by the highest LDS (`--choose`, `CHOICES`, and
`results/choice.gradient_baselines.json`). TRAK is also run as in its paper, on models trained on random halves, ten of
them and 40, which take as long as ours. LiSSA needs 20,000 steps to solve for half of a gradient here, and was not
given more. Settings of ours are those of the demo, chosen on seeds of its own and on this very task, by who is found.

Result (`results/gradient_baselines.cpu-2-cores.json`, 3 seeds, 838 s on two cores, which did other work while LiSSA
ran): ours have an average precision of .97 and an LDS of .59, of a ceiling of .78, in 18 s; from 1,000 submodels .87
and .56 in 8 s. Not told how many, knockoffs have a precision of .95 and a recall of .92 (from 1,000: .95 and .54). Told
how many, representer points find all of this poison (1.00) in 2 s, and the nearest neighbours in the last hidden layer
most (.96): to the models the triggered digits are like the poison, and that is what these two ask about. They predict
less, .34 and .20. Gradients of models trained on everything find little (.02 to .13, LDS at most .19); scaled to norm 1
they have .53 and .23, on halves TRAK has .64 and .48, and with 40 models .59 and .46.
"""

import dataclasses
import functools
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import average_precision_score

from experiments import records
from experiments.hidden import last_hidden
from jaxame import ame, baselines, checks, demo, environment, evaluate, metrics
from jaxame.attribution import Attribution
from jaxame.design import Grid, PointMass, sample_design
from jaxame.submodels import TrainingGame

SEED, FDR, MODELS, OURS = 60, 0.05, 10, "jaxame"
CHOICE_SEED = 100


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each decides the attack, the trainings and the held-out subsets."""
    estimators: tuple[str, ...] = ()
    """Some of them, by name; all by default."""
    masks: int = 100
    """Held-out subsets."""
    mask_repeats: int = 4
    """Trainings on each of these."""
    choose: bool = False
    """Compare settings of the others, on a seed of its own, instead; without `--smoke` and `--figure`."""
    smoke: bool = False
    """One seed of 300 digits, few estimators; ends with an error if ours does not find the poison."""
    json: Path | None = None
    """File for the records."""
    figure: Path | None = None
    """File for the figure."""


class Task(NamedTuple):
    """What is to be explained; `attacked.poisoned` is for scoring only."""

    settings: demo.Settings
    attacked: demo.Attack
    game: TrainingGame


def make_task(seed: int, smoke: bool) -> Task:
    """Poison the digits, and make the game."""
    settings = demo.SMOKE if smoke else demo.Settings()
    data_key, shared_key = jax.random.split(jax.random.key(SEED + seed))
    attacked = demo.attack(settings, data_key)
    return Task(settings, attacked, demo.make_game(settings, attacked, shared_key))


def ours(task: Task, key: jax.Array, num_submodels: int | None = None) -> Attribution:
    """Estimate by `jaxame.ame`, as the demo does."""
    chosen = task.settings
    return ame(
        task.game,
        key=key,
        num_submodels=num_submodels or chosen.num_submodels,
        law=Grid(chosen.inclusion),
        copies=chosen.copies,
        folds=chosen.folds,
    )


def by_gradients(method: Callable[..., Attribution], task: Task, key: jax.Array, **options: Any) -> Attribution:
    """Look into ten models, or as many as the options say, trained on everything unless they say otherwise."""
    return method(task.game, key=key, **{"budget": MODELS, **options})


def by_checkpoints(task: Task, key: jax.Array, **options: Any) -> Attribution:
    """Look into checkpoints, weighed by the rates of training."""
    rate = demo.learning_rate(task.settings)
    return by_gradients(baselines.tracin, task, key, learning_rate=rate, **options)


def by_features(method: Callable[..., Attribution], task: Task, key: jax.Array, **options: Any) -> Attribution:
    """Compare the queries with training images by the last hidden layer."""
    labels = np.full(len(task.attacked.query_x), task.attacked.target)
    train = task.attacked.train
    hidden = last_hidden((train.x[0].size, *task.settings.hidden, train.num_classes), train.x)
    points = {"test_x": task.attacked.query_x, "test_y": labels, "features": hidden}
    return by_gradients(method, task, key, **points, **options)


ESTIMATORS: dict[str, Callable[..., Attribution]] = {
    OURS: ours,
    "jaxame, 1,000": functools.partial(ours, num_submodels=1000),
    "gradient dot product": functools.partial(by_gradients, baselines.gradient_dot),
    "gradient cosine": functools.partial(by_gradients, baselines.gradient_cosine),
    "TracInCP": functools.partial(by_checkpoints, checkpoints=50),
    "influence, CG": functools.partial(
        by_gradients, baselines.influence, damping=0.0001, max_steps=1000, tolerance=0.001
    ),
    "influence, LiSSA": functools.partial(
        by_gradients, baselines.influence, solver="lissa", damping=0.001, scale=30.0, max_steps=20_000
    ),
    "TRAK": functools.partial(by_gradients, baselines.trak, ridge=0.1, num_projections=512),
    "TRAK, on halves": functools.partial(by_gradients, baselines.trak, ridge=10.0, num_projections=512, inclusion=0.5),
    "TRAK, 40 halves": functools.partial(
        by_gradients, baselines.trak, ridge=10.0, num_projections=512, inclusion=0.5, budget=40
    ),
    "representer points": functools.partial(by_features, baselines.representer_points, penalty=100.0),
    "nearest in features": functools.partial(by_features, baselines.feature_similarity),
    "random": lambda task, key: baselines.random(task.game, key=key, budget=2),
}
FEW = (OURS, "TracInCP", "random")
CHOICES: dict[str, list[dict[str, Any]]] = {
    "TracInCP": [{"checkpoints": number} for number in (5, 10, 20, 50, 100)],
    "influence, CG": [
        {"damping": 0.0001, "max_steps": 1000},
        *({"damping": damping} for damping in (0.001, 0.01, 0.1, 1.0)),
    ],
    "influence, LiSSA": [
        {"damping": damping, "scale": scale, "max_steps": 20_000}
        for damping, scale in ((0.001, 30.0), (0.01, 30.0), (0.1, 30.0), (0.001, 100.0), (0.001, 1000.0))
    ],
    **{
        name: [{"ridge": ridge, "num_projections": number} for number in (512, 2048) for ridge in ridges]
        for name, ridges in (
            ("TRAK", (0.001, 0.01, 0.1, 1.0, 10.0)),
            ("TRAK, on halves", (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)),
        )
    },
    "representer points": [{"penalty": penalty} for penalty in (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)],
}
"""Settings of the others to choose from."""


class Reference(NamedTuple):
    """Held-out `masks [m, N]` and their `utilities [R, m, Q]`."""

    masks: np.ndarray
    utilities: np.ndarray


def refer(seed: int, settings: Settings) -> Reference:
    """Train what values are to predict."""
    game = make_task(seed, settings.smoke).game
    design_key, *keys = jax.random.split(jax.random.key(2 * SEED + seed), 1 + settings.mask_repeats)
    design = sample_design(design_key, PointMass(0.5), num_submodels=settings.masks, num_sources=game.num_sources)
    return Reference(np.asarray(design.masks()), np.stack([evaluate(game, design, key=key) for key in keys]))


def judge(values: np.ndarray, poisoned: np.ndarray, reference: Reference) -> dict[str, float]:
    """Return the metrics of `values [Q, N]`, means over queries."""
    truth = np.isin(np.arange(values.shape[1]), poisoned)
    # Of equal values none comes first by its number.
    order = np.random.default_rng(0).permutation(values.shape[1])
    highest = order[np.argsort(-values[:, order], axis=1, kind="stable")[:, : poisoned.size]]
    return {
        "found": float(truth[highest].mean()),
        "average_precision": float(np.mean([average_precision_score(truth, row) for row in values])),
        "lds": float(metrics.datamodeling_score(values, reference.masks, reference.utilities.mean(axis=0)).mean()),
        "lds_ceiling": float(metrics.noise_ceiling(reference.utilities).mean()),
    }


def selected(result: Attribution, poisoned: np.ndarray) -> dict[str, float]:
    """Return mean precision and recall of what knockoffs select."""
    chosen = [result.select(FDR, q, alternative="greater") for q in range(len(result.values))]
    precision, recall = np.mean([metrics.precision_recall(one.indices, poisoned) for one in chosen], axis=0)
    return {"precision": float(precision), "recall": float(recall)}


def run(estimator: str, references: dict[int, Reference], smoke: bool, **options: Any) -> list[dict[str, Any]]:
    """Return the records of an estimator, one per seed; `options` in place of the settings taken."""
    found = []
    for seed, reference in references.items():
        task, key = make_task(seed, smoke), jax.random.key(3 * SEED + seed)
        begin = time.perf_counter()
        result = ESTIMATORS[estimator](task, key, **options)
        seconds = time.perf_counter() - begin
        poisoned = task.attacked.poisoned
        record = {"estimator": estimator, "seed": seed} | judge(result.values, poisoned, reference)
        record |= selected(result, poisoned) if result.num_copies else {"precision": None, "recall": None}
        found.append(record | {"seconds": seconds, "peak_rss_mb": environment.peak_rss_mb()})
    return found


def choose(settings: Settings) -> list[dict[str, Any]]:
    """Return a record for each of the settings to choose from."""
    references, found = {CHOICE_SEED: refer(CHOICE_SEED, settings)}, []
    for name, choices in CHOICES.items():
        for options in choices:
            found += [one | {"options": options} for one in run(name, references, smoke=False, **options)]
            print(f"{name}, {options}: LDS {found[-1]['lds']:.3f}, found {found[-1]['found']:.2f}", flush=True)
    return found


def run_apart(names: tuple[str, ...], references: dict[int, Reference], smoke: bool) -> Iterator[list[dict[str, Any]]]:
    """Yield the records of every estimator, each from a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for name in names:
            yield pool.submit(run, name, references, smoke).result()


def main(settings: Settings) -> dict[str, Any]:
    """Run all estimators on all seeds; return records and their summary."""
    names = settings.estimators or tuple(ESTIMATORS)
    if settings.smoke:
        names, settings = FEW, dataclasses.replace(settings, seeds=settings.seeds[:1], masks=50, mask_repeats=2)
    unknown = set(names) - set(ESTIMATORS)
    checks.require(not unknown, f"estimators among {tuple(ESTIMATORS)}", sorted(unknown))
    alone = "--choose without --smoke and --figure: it compares settings, not estimators"
    checks.require(not (settings.choose and (settings.smoke or settings.figure)), alone, "one of them")
    if settings.choose:
        return {"records": choose(settings)}
    begin = time.perf_counter()
    references = {seed: refer(seed, settings) for seed in settings.seeds}
    found: list[dict[str, Any]] = []
    # One that runs in this process has its memory and what is compiled already: only a small run does so.
    batches = (run(name, references, True) for name in names) if settings.smoke else run_apart(names, references, False)
    for own in batches:
        found += own
        print(f"{own[0]['estimator']}: done after {time.perf_counter() - begin:.0f} s", flush=True)
    if settings.smoke:
        check(found)
    return {"records": found, "summary": summarise(found)}


def summarise(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what every estimator has in the mean over seeds; of seconds the median, of memory the largest."""
    summary = []
    for estimator in dict.fromkeys(one["estimator"] for one in found):
        own = [one for one in found if one["estimator"] == estimator]
        line: dict[str, Any] = {"estimator": estimator, "seeds": len(own)}
        for name in ("found", "average_precision", "lds", "lds_ceiling", "precision", "recall"):
            line[name] = None if own[0][name] is None else float(np.mean([one[name] for one in own]))
        line["seconds"] = float(np.median([one["seconds"] for one in own]))
        line["peak_rss_mb"] = max(one["peak_rss_mb"] for one in own)
        summary.append(line)
    return summary


def check(found: list[dict[str, Any]]) -> None:
    """End with an error if ours does not find the poison, or chance does."""
    of = {one["estimator"]: one for one in found}
    if not (of[OURS]["average_precision"] > 0.5 and of[OURS]["lds"] > 0.2 and of["random"]["average_precision"] < 0.3):
        raise SystemExit(f"the claim is not met: {of}")


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw what every estimator finds and predicts, and what it costs."""
    summary = results["summary"]
    names = [line["estimator"] for line in summary]
    figure, axes = plt.subplots(1, 4, figsize=(13, 1.2 + 0.33 * len(names)), sharey=True, layout="constrained")
    panels = {
        "found": "poisoned among the k highest,\nk told (share)",
        "average_precision": "area under\nprecision and recall",
        "lds": "linear datamodeling score\n(Spearman)",
        "seconds": "time of one seed (s)",
    }
    for ax, (metric, title) in zip(axes, panels.items(), strict=True):
        for row, name in enumerate(names):
            colour = "#d55e00" if name.startswith(OURS) else "#0072b2"
            own = [one[metric] for one in results["records"] if one["estimator"] == name]
            ax.plot(own, np.full(len(own), row), "o", color=colour, markersize=4, alpha=0.5)
            ax.plot(summary[row][metric], row, "|", color=colour, markersize=14, markeredgewidth=2)
        ax.set_title(title, fontsize=10)
        ax.grid(axis="y", linewidth=0.3)
        ax.tick_params(axis="y", length=0)
    axes[2].axvline(summary[0]["lds_ceiling"], color="black", linestyle="--", linewidth=1, label="noise ceiling")
    axes[2].legend(frameon=False, fontsize=9)
    axes[3].set_xscale("log")
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.supxlabel("dots: seeds; bars: their mean, of times their median", fontsize=9)
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    records.run(Settings, main, __doc__, draw)
