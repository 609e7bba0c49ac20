"""The main job on real data: find the poisoned digits behind a model's wrong predictions.

Ten of scikit-learn's digits get a small bright patch and the attacker's label. A model trained on them puts any digit
with the patch in the attacker's class. For 20 such test digits we ask which training images made the model do so, and
compare the answer, made without that knowledge, with the ten.
"""

import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from jaxame import checks, data, environment, growth, queries
from jaxame.attribution import Attribution
from jaxame.console import StageProgress
from jaxame.design import Design, Grid, sample_design
from jaxame.estimators import check_options, estimate_ame
from jaxame.evaluation import evaluate
from jaxame.knockoffs import Selection
from jaxame.metrics import precision_recall
from jaxame.submodels import TrainingGame, mlp
from jaxame.types import Items, Progress


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the demo; experiments/poisoned_digits.py says how the defaults were chosen."""

    seed: int = 0
    """Decides everything: data split, attack, design, training and knockoffs."""
    num_train: int = 1000
    """Training images; each is a source."""
    num_poisoned: int = 10
    """Training images that get the patch and the attacker's label."""
    num_queries: int = 20
    """Test images with the patch whose prediction is to be explained."""
    patch_size: int = 2
    """Side of the square patch in the lower left corner, in pixels of 64."""
    patch_value: float = 4.0
    """Brightness of the patch; the brightest ink is 1."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the MLP's hidden layers."""
    num_steps: int = 100
    """Optimiser steps of every submodel."""
    batch_size: int = 128
    """Images per step, before those left out are masked."""
    learning_rate: float = 0.15
    """Of stochastic gradient descent; constant for the first half of the steps, then falling to zero."""
    momentum: float = 0.9
    """Of stochastic gradient descent."""
    num_submodels: int = 3000
    """Submodels trained, each on its own random subset."""
    inclusion: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    """Inclusion probabilities; each submodel draws one of them."""
    copies: int = 7
    """Knockoff copies."""
    fdr: float = 0.05
    """False discovery rate of the selection."""
    folds: int = 5
    """Folds of the cross-validation."""
    out: Path = Path("runs/demo")
    """Folder for report, arrays, settings and figure."""
    json: Path | None = None
    """File for the summary, besides the one in the folder."""
    quiet: bool = False
    """Print results and errors only."""
    smoke: bool = False
    """Start from small defaults: seconds instead of a minute, and a check that the answer makes sense."""


SMOKE = Settings(num_train=300, num_queries=4, num_submodels=1200, copies=8, fdr=0.1, folds=4, smoke=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Attack:
    """A poisoned training set and the queries; `poisoned` is for scoring only and never reaches the estimator.

    Attributes:
      train: the training set after the attack.
      query_x: `[Q, ...]` test images with the trigger.
      query_y: `[Q]` their true classes.
      test: the clean test set.
      triggered: `[n, ...]` every test image of another class, with the trigger.
      target: the attacker's class.
      poisoned: `[k]` the training images that were changed.
    """

    train: data.Dataset
    query_x: np.ndarray
    query_y: np.ndarray
    test: data.Dataset
    triggered: np.ndarray
    target: int
    poisoned: np.ndarray


def add_patch(images: np.ndarray, size: int, value: float | np.ndarray) -> np.ndarray:
    """Return copies of `images [n, H, W]` or `[n, H, W, C]` with a square patch in the lower left corner."""
    patched = images.copy()
    patched[:, -size:, :size] = value
    return patched


def attack(settings: Settings, key: jax.Array) -> Attack:
    """Poison the digits.

    Args:
      settings: what to poison.
      key: one typed key; decides the split, the attacker's class, the poisoned images and the queries.

    Raises:
      ValueError: if there are fewer images than asked for.
    """
    train, test = data.split(data.digits(), key, settings.num_train)
    trigger = functools.partial(
        add_patch, size=checks.count(settings.patch_size, "patch_size"), value=settings.patch_value
    )
    return poison(
        train, test, key, trigger=trigger, num_poisoned=settings.num_poisoned, num_queries=settings.num_queries
    )


def poison(
    train: data.Dataset,
    test: data.Dataset,
    key: jax.Array,
    *,
    trigger: Callable[[np.ndarray], np.ndarray],
    num_poisoned: int,
    num_queries: int,
    target: int | None = None,
) -> Attack:
    """Give some training images a trigger and the attacker's label, and make queries of test images with the trigger.

    Args:
      train: training images.
      test: clean images.
      key: one typed key; decides the poisoned images, the queries and, if it is not given, the attacker's class.
      trigger: images `[n, ...]` to copies with the trigger.
      num_poisoned: images of other classes than the attacker's to poison.
      num_queries: test images of other classes to ask about.
      target: the attacker's class.

    Raises:
      ValueError: if there are fewer images than asked for.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    target = int(rng.integers(train.num_classes)) if target is None else target

    def choose(dataset: data.Dataset, count: int, what: str) -> np.ndarray:
        others = np.flatnonzero(dataset.y != target)
        checks.require(1 <= count <= others.size, f"{what} from 1 to {others.size}", count)
        return rng.choice(others, count, replace=False)

    poisoned = choose(train, num_poisoned, "num_poisoned")
    asked = choose(test, num_queries, "num_queries")
    x, y = train.x.copy(), train.y.copy()
    x[poisoned] = trigger(x[poisoned])
    y[poisoned] = target
    return Attack(
        train=dataclasses.replace(train, x=x, y=y),
        query_x=trigger(test.x[asked]),
        query_y=test.y[asked],
        test=test,
        triggered=trigger(test.x[test.y != target]),
        target=target,
        poisoned=np.sort(poisoned),
    )


def learning_rate(settings: Settings) -> optax.Schedule:
    """Return a rate by step that is constant for the first half of the steps, and then falls to zero."""
    half = settings.num_steps // 2
    decay = optax.linear_schedule(settings.learning_rate, 0.0, settings.num_steps - half)
    return optax.join_schedules([optax.constant_schedule(settings.learning_rate), decay], [half])


def optimizer(settings: Settings) -> optax.GradientTransformation:
    """Return stochastic gradient descent."""
    return optax.sgd(learning_rate(settings), settings.momentum)


def make_game(settings: Settings, attacked: Attack, shared_key: jax.Array, **changes: Any) -> TrainingGame:
    """Return the game whose utilities are the logit margins of the attacker's class on the queries.

    Args:
      settings: what to train.
      attacked: on what.
      shared_key: see `TrainingGame`.
      **changes: other arguments of `TrainingGame`.
    """
    target = np.full(len(attacked.query_x), attacked.target)
    arguments = {
        "model": mlp((attacked.train.x[0].size, *settings.hidden, attacked.train.num_classes)),
        "optimizer": optimizer(settings),
        "x": attacked.train.x,
        "y": attacked.train.y,
        "query": queries.logit_margin(attacked.query_x, target),
        "num_steps": settings.num_steps,
        "batch_size": settings.batch_size,
        "feed": "masked",
        "shared_key": shared_key,
    }
    return TrainingGame(**arguments | changes)


def game(**changes: Any) -> TrainingGame:
    """Return the demo's game, for `jaxame run --game demo`; `changes` are `Settings` by name."""
    settings = dataclasses.replace(Settings(), **changes)
    data_key, shared_key, *_ = jax.random.split(jax.random.key(settings.seed), 4)
    return make_game(settings, attack(settings, data_key), shared_key)


def full_model(game: TrainingGame, attacked: Attack, key: jax.Array) -> dict[str, float]:
    """Train on everything; return how often the attack succeeds and how accurate the model is on clean images."""
    params = game.train(key, np.ones(game.num_sources, bool))

    def predicted(x: np.ndarray) -> np.ndarray:
        return np.asarray(game.predict(params, x).argmax(axis=1))

    return {
        "attack_success": float((predicted(attacked.triggered) == attacked.target).mean()),
        "clean_accuracy": float((predicted(attacked.test.x) == attacked.test.y).mean()),
    }


def makes_sense(summary: dict[str, Any]) -> bool:
    """The smoke run's loose check: the attack works, and most of what is selected is to blame."""
    return bool(summary["attack_success"] > 0.5 and summary["precision"] > 0.5 and summary["recall"] > 0.2)


def run(settings: Settings, console: Console) -> dict[str, Any]:
    """Run the demo, print its table and write its folder.

    Args:
      settings: what to run.
      console: where to print.

    Returns:
      The summary that `--json` writes; `seconds_total` counts from the start of the process.

    Raises:
      ValueError: for settings that do not fit together, before any training.
      AttributionError: if a query's answer cannot be relied on, after everything was written.
    """
    data_key, shared_key, design_key, full_key = jax.random.split(checks.seed(settings.seed), 4)
    attacked = attack(settings, data_key)
    game = make_game(settings, attacked, shared_key)
    design = sample_design(
        design_key, Grid(settings.inclusion), num_submodels=settings.num_submodels, num_sources=game.num_sources
    )
    checks.probability(settings.fdr, "fdr")
    checks.count(settings.copies, "copies")
    check_options(design, settings.copies, folds=settings.folds)
    for name, path in (("--out", settings.out / "summary.json"), ("--json", settings.json)):
        if path is not None:
            checks.writable(path, name)
    full = full_model(game, attacked, full_key)
    console.print(
        f"{game.num_sources} training digits, {attacked.poisoned.size} poisoned to pass for class {attacked.target}. "
        f"Full model: attack success [bold]{full['attack_success']:.3f}[/], "
        f"clean accuracy [bold]{full['clean_accuracy']:.3f}[/]."
    )
    if not settings.quiet:
        console.print(f"To train: {game.preview(settings.num_submodels)}.")
    with StageProgress(console, settings.quiet) as progress:
        utilities, result, seconds = _estimate(settings, game, design, progress)
    selections = [result.select(settings.fdr, q, alternative="greater") for q in range(settings.num_queries)]
    summary: dict[str, Any] = full | _summarise(settings, design, attacked, selections) | seconds
    _print_table(console, settings, attacked, selections, summary)
    shown = Console(quiet=True) if settings.quiet else console
    with shown.status("Writing the report, after a look at fewer submodels"):
        _write(settings, attacked, design, utilities, result, selections)
        selecting: dict[str, Any] = {"fdr": settings.fdr, "alternative": "greater", "copies": settings.copies}
        grown = [*growth.selections(design, utilities, **selecting), (design.num_submodels, selections)]
        _report(settings, attacked, game, design, utilities, result, grown, summary)
    summary |= {
        "seconds_total": environment.seconds_since_start(),
        "peak_rss_mb": environment.peak_rss_mb(),
        "versions": environment.versions(),
        "devices": environment.devices(),
    }
    for path in filter(None, (settings.out / "summary.json", settings.json)):
        path.write_text(json.dumps(summary, indent=2) + "\n")
    _print_end(console, settings, summary)
    result.check()
    return summary


def _estimate(
    settings: Settings, game: TrainingGame, design: Design, progress: Progress
) -> tuple[np.ndarray, Attribution, dict[str, float]]:
    """Train and regress; return utilities `[M, Q]`, the result and the seconds each took."""
    begin = time.perf_counter()
    utilities = evaluate(game, design, progress=progress)
    trained = time.perf_counter()
    result = estimate_ame(
        design, utilities, copies=settings.copies, folds=settings.folds, about=game.about, progress=progress
    )
    done = time.perf_counter()
    return utilities, result, {"seconds_train": trained - begin, "seconds_regress": done - trained}


def _summarise(
    settings: Settings, design: Design, attacked: Attack, selections: list[Selection]
) -> dict[str, int | float]:
    scores = np.array([precision_recall(selection.indices, attacked.poisoned) for selection in selections])
    return {
        "precision": float(scores[:, 0].mean()),
        "recall": float(scores[:, 1].mean()),
        "num_empty": sum(selection.indices.size == 0 for selection in selections),
        "num_submodels": design.num_submodels,
        "num_sources": design.num_sources,
        "fdr": settings.fdr,
        "copies": settings.copies,
        "seed": settings.seed,
    }


def _print_table(
    console: Console, settings: Settings, attacked: Attack, selections: list[Selection], summary: dict[str, Any]
) -> None:
    title = f"Sources that raise the margin of class {attacked.target} (knockoff+, FDR {settings.fdr:g})"
    table = Table(title=title, caption="green: truly poisoned", title_justify="left", caption_justify="left")
    for name in ("query", "true class", "selected", "precision", "recall"):
        table.add_column(name, justify="left" if name == "selected" else "right")
    for q, selection in enumerate(selections):
        precision, recall = precision_recall(selection.indices, attacked.poisoned)
        ids = [f"[green]{i}[/]" if i in attacked.poisoned else str(i) for i in selection.indices]
        text = " ".join(ids) or selection.reason
        table.add_row(str(q), str(attacked.query_y[q]), text, f"{precision:.2f}", f"{recall:.2f}")
    table.add_section()
    table.add_row(
        "mean", "", f"{summary['num_empty']} empty", f"{summary['precision']:.3f}", f"{summary['recall']:.3f}"
    )
    console.print(table)


def _print_end(console: Console, settings: Settings, summary: dict[str, Any]) -> None:
    rest = summary["seconds_total"] - summary["seconds_train"] - summary["seconds_regress"]
    console.print(
        f"{summary['seconds_total']:.1f} s: training {summary['seconds_train']:.1f} s "
        f"({settings.num_submodels / summary['seconds_train']:,.0f} submodels/s), regression and knockoffs "
        f"{summary['seconds_regress']:.1f} s, the rest (start, full model, report) {rest:.1f} s; "
        f"peak memory {summary['peak_rss_mb']:,.0f} MB.",
        soft_wrap=not console.is_terminal,
    )
    console.print(
        f"Written to {settings.out}: report.html, figure.png, attribution.npz, run.npz, settings.json, summary.json",
        soft_wrap=not console.is_terminal,
    )


def _write(
    settings: Settings,
    attacked: Attack,
    design: Design,
    utilities: np.ndarray,
    result: Attribution,
    selections: list[Selection],
) -> None:
    """Write arrays, settings and figure; the truth goes beside them, for scoring."""
    result.save(settings.out / "attribution.npz")
    np.savez_compressed(
        settings.out / "run.npz",
        p=np.asarray(design.p),
        masks=np.asarray(design.packed),
        utilities=utilities,
        train_x=attacked.train.x,
        train_y=attacked.train.y,
        query_x=attacked.query_x,
        query_y=attacked.query_y,
        poisoned=attacked.poisoned,
    )
    chosen = dataclasses.asdict(settings) | {"versions": environment.versions(), "devices": environment.devices()}
    (settings.out / "settings.json").write_text(json.dumps(chosen, indent=2, default=str) + "\n")
    _draw(settings.out / "figure.png", attacked, result, selections)


def _report(
    settings: Settings,
    attacked: Attack,
    game: TrainingGame,
    design: Design,
    utilities: np.ndarray,
    result: Attribution,
    grown: list[tuple[int, list[Selection]]],
    summary: dict[str, Any],
) -> None:
    """Write the report; that an image is poisoned it says of those that are, which the estimate did not know."""
    poisoned = np.isin(np.arange(len(attacked.train.y)), attacked.poisoned)
    marks = np.where(poisoned, ", truly poisoned", "")
    captions = [f"label {label}{mark}" for label, mark in zip(attacked.train.y, marks, strict=True)]
    changed = [
        f"--{name.name.replace('_', '-')} {getattr(settings, name.name)}"
        for name in dataclasses.fields(Settings)
        if name.name in ("seed", "num_train", "num_poisoned", "num_queries", "num_submodels", "copies", "fdr")
    ]
    result.report(
        settings.out / "report.html",
        fdr=settings.fdr,
        alternative="greater",
        game=game,
        design=design,
        utilities=utilities,
        growth=grown,
        sources=Items(captions=captions, images=attacked.train.x),
        queries=Items(captions=[f"a {label} with the patch" for label in attacked.query_y], images=attacked.query_x),
        title=f"Which training digits make the patch mean {attacked.target}?",
        question=(
            f"{attacked.poisoned.size} of {len(captions):,} training digits were given a patch and the label "
            f"{attacked.target}. A model trained on all of them takes {summary['attack_success']:.0%} of the other "
            f"test digits with the patch for a {attacked.target}. Which training digits are to blame? The answer was "
            "found without knowing which were changed; the captions say it."
        ),
        facts={
            "training": f"{summary['seconds_train']:.1f} s, {settings.num_submodels / summary['seconds_train']:,.0f} "
            "submodels a second",
            "regression and knockoffs": f"{summary['seconds_regress']:.1f} s",
            "against the truth": f"precision {summary['precision']:.3f}, recall {summary['recall']:.3f}, means over "
            f"{settings.num_queries} queries",
        },
        command=" ".join(["jaxame demo", *changed]),
    )


def _draw(path: Path, attacked: Attack, result: Attribution, selections: list[Selection]) -> None:
    """Draw the effects on up to two queries, each over its top sources: those selected, then the largest others."""
    import matplotlib.pyplot as plt

    from jaxame import plot

    # By whether it was selected and whether it is truly poisoned.
    frames = {(True, True): plot.GREEN, (True, False): plot.BLUE, (False, True): plot.ORANGE, (False, False): None}
    shown, num_top = range(min(2, len(selections))), 10
    figure = plt.figure(figsize=(11, 4.3 * len(shown)), layout="constrained")
    panels = figure.subfigures(len(shown), 1, squeeze=False)
    for panel, q in zip(panels[:, 0], shown, strict=True):
        above, below = panel.subfigures(2, 1, height_ratios=(2.3, 1))
        axes = plot.values(
            result.debiased[q],
            selected=selections[q].indices,
            truth=attacked.poisoned,
            unit=f"logit margin of class {attacked.target}",
            ax=above.subplots(),
        )
        axes.set_title(
            f"Query {q}: a {attacked.query_y[q]} with the patch. "
            f"Adding a source to a random subset raises the margin of class {attacked.target} by its AME.",
            loc="left",
            fontsize=10,
        )
        others = np.setdiff1d(np.argsort(-result.debiased[q]), selections[q].indices, assume_unique=True)
        top = np.concatenate([selections[q].indices, others])[:num_top]
        is_selected, is_poisoned = np.isin(top, selections[q].indices), np.isin(top, attacked.poisoned)
        plot.thumbnails(
            [attacked.query_x[q], *attacked.train.x[top]],
            [
                "the query",
                *(f"#{i}, label {attacked.train.y[i]}\nAME {result.debiased[q, i]:+.2f}" for i in top),
            ],
            colours=[None, *(frames[bool(a), bool(b)] for a, b in zip(is_selected, is_poisoned, strict=True))],
            columns=num_top + 1,
            ax=below.subplots(),
        )
    plot.save(figure, path)
