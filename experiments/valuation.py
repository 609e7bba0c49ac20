"""What values of training examples are used for, and how well every estimator serves at the same number of trainings.

Question: whose values find mislabelled examples, order examples for removal and addition, predict what training on
other subsets gives, and agree with retraining without each example?

Of 200 training examples a tenth have another label than their own. `digits` are scikit-learn's, for a small
multilayer perceptron, whose start differs between submodels; `breast cancer` is scikit-learn's table of 30 standardised
numbers, for logistic regression by full gradients, which has no noise. The utility, of values and curves, is the mean
probability of the right class on 300 test examples. Every estimator has a budget of five trainings per example;
Data-OOB has as many trees, and KNN-Shapley, whose values are means over the test examples, trains nothing. KernelSHAP
with L1 is told how many examples ours kept. A seed decides data, labels, game and estimator.

- `mislabel_auc`, `mislabel_f1`: see `jaxame.metrics`; the F1 score is that of two clusters of values.
- `removal_gap`: mean over fractions up to a half of the utility without the examples of the lowest values less that
  without those of the highest; `addition_gap`: of the utility on nothing but the highest less that on the lowest.
- `lds`: rank correlation of sums of values with the utility on 200 held-out subsets of about half of the examples, each
  the mean of four trainings; `lds_ceiling`: what the expected utility would reach.
- `loo_correlation`: rank correlation with retraining without each example, the mean of eight trainings that share
  their randomness; `loo_ceiling` likewise.
- `seconds`: of the estimator, with its trainings and, where a shape is new, compilation.

Result (`results/valuation.cpu-2-cores.json`, 5 seeds, means and standard errors, 140 s on two cores): values at
inclusion 1/2 predict best, ours (`jaxame, Banzhaf`) and datamodels alike. They reach an LDS of .65 (.01) on digits, of
a ceiling of .86, and of .96 (.01) of 1 on breast cancer; Banzhaf values by sample reuse .61 (.02) and .86 (.01). The
held-out subsets hold half of the examples, which favours them. Of Shapley values on digits, ours find mislabelled
examples best, with an AUC of .91 (.02), before regression adjustment with trees, .83 (.02), and permutations, .59
(.05); the LDS of ours is .45 (.04), theirs .42 (.01) and .09 (.01). On breast cancer the AUC of ours is .97 (.01), as
that of permutations and Owen sampling, and the LDS .87 (.01), where Owen has .88 (.04) and the next one .76 (.02);
with leave-one-out Owen agrees best, .75 (.08), and ours .57 (.02). Without interactions ours do badly there: .82 (.03)
and .70 (.04). Without any noise, leave-one-out does as well there as the best (AUC .98, LDS .96); on digits it is near
chance (.61 and .13). KNN-Shapley and Data-OOB, which train no submodels, find mislabelled examples best on digits
(.99), but predict less (LDS .48 and .24). The F1 score is low wherever two clusters are not what values fall in: of
Shapley values on digits, ours have the highest, .31 (.09).
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

from benchmarks import shapley_estimators
from experiments import records
from jaxame import ame, baselines, data, evaluate, metrics, queries
from jaxame.attribution import Attribution
from jaxame.design import PointMass, sample_design
from jaxame.submodels import TrainingGame, logistic, mlp

SEED, NUM_TEST, PER_EXAMPLE, FLIPPED = 50, 300, 5, 0.1


def at_half(game: TrainingGame, *, key: jax.Array, budget: int) -> Attribution:
    """Estimate by `jaxame.ame`, every example being in with probability 1/2: Banzhaf values."""
    return ame(game, key=key, num_submodels=budget, law=PointMass(0.5), copies=0)


OURS = shapley_estimators.OURS | {"jaxame, Banzhaf": at_half}
OTHERS: dict[str, Callable[..., Attribution]] = {
    "leave-one-out": baselines.leave_one_out,
    "Banzhaf": baselines.banzhaf,
    "Beta-Shapley": baselines.beta_shapley,
    "datamodels": baselines.datamodels,
    "subsample influence": baselines.subsample_influence,
    "Data-OOB": baselines.data_oob,
    "KNN-Shapley": baselines.knn_shapley,
}
"""Others of other values than Shapley's."""
ESTIMATORS = OURS | shapley_estimators.BASELINES | OTHERS
NAMES = (*OURS, *shapley_estimators.LINEAR, shapley_estimators.TREES, shapley_estimators.WITH_L1, *OTHERS, "random")
DATA = ("digits", "breast cancer")
CURVES = {
    "remove highest": (metrics.removal_curve, False),
    "remove lowest": (metrics.removal_curve, True),
    "add highest": (metrics.addition_curve, False),
    "add lowest": (metrics.addition_curve, True),
}
"""Each a function and whether the lowest values go first."""
METRICS = {
    "mislabel_auc": "mislabelled:\narea under ROC",
    "mislabel_f1": "mislabelled:\nF1 score",
    "removal_gap": "removal gap\n(probability)",
    "addition_gap": "addition gap\n(probability)",
    "lds": "linear datamodeling\nscore (Spearman)",
    "loo_correlation": "with leave-one-out\n(Spearman)",
}
"""Those of an estimator, and how they are labelled."""
CEILINGS = {"lds": "lds_ceiling", "loo_correlation": "loo_ceiling"}
SHOWN = ("jaxame", "jaxame, Banzhaf", "permutation", "Banzhaf", "KNN-Shapley", "leave-one-out", "random")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    seeds: int = 5
    """Every estimator is run on as many."""
    data: tuple[str, ...] = DATA
    """Data sets."""
    estimators: tuple[str, ...] = NAMES
    """Some of them, by name; "jaxame" must be before "KernelSHAP, L1"."""
    num_train: int = 200
    """Training examples, each a source."""
    masks: int = 200
    """Held-out subsets."""
    mask_repeats: int = 4
    """Trainings on each of these."""
    loo_repeats: int = 8
    """Trainings without each example."""
    curve_repeats: int = 4
    """Trainings at each point of a curve."""
    smoke: bool = False
    """One seed, 60 examples of breast cancer, few estimators; ends with an error if ours does not serve."""
    json: Path | None = None
    """File for the records."""
    figure: Path | None = None
    """File for the figure."""


class Task(NamedTuple):
    """Training with wrong labels: the game, the test set of its utility, and which examples are mislabelled, `[N]`."""

    game: TrainingGame
    test: data.Dataset
    mislabelled: np.ndarray


class Reference(NamedTuple):
    """What values are judged by: held-out `masks [m, N]`, their `utilities [R, m, 1]`, and `loo [R, N, 1]`."""

    masks: np.ndarray
    utilities: np.ndarray
    loo: np.ndarray


def breast_cancer() -> data.Dataset:
    """Load scikit-learn's table of tumours: 569 examples, 30 numbers, benign or not."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return data.Dataset(x=x.astype(np.float32), y=y.astype(np.int32), name="breast cancer", num_classes=2)


def make_task(name: str, num_train: int, key: jax.Array) -> Task:
    """Split a data set, flip labels and make the game."""
    split_key, flip_key, shared_key = jax.random.split(key, 3)
    full = data.digits() if name == "digits" else breast_cancer()
    train, test = data.split(full, split_key, num_train)
    test = test.take(np.arange(NUM_TEST))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(flip_key)).tolist())
    mislabelled = rng.permutation(num_train) < round(FLIPPED * num_train)
    by = rng.integers(1, full.num_classes, num_train)
    y = np.where(mislabelled, (train.y + by) % full.num_classes, train.y).astype(np.int32)
    if name == "breast cancer":
        mean, spread = train.x.mean(axis=0), train.x.std(axis=0)
        train, test = (dataclasses.replace(part, x=(part.x - mean) / spread) for part in (train, test))
    each = queries.probability(test.x, test.y)
    query = queries.contrast(each, np.full(NUM_TEST, 1 / NUM_TEST), ["mean probability of the right class"])
    make = functools.partial(TrainingGame, x=train.x, y=y, query=query, shared_key=shared_key)
    if name == "digits":
        game = make(mlp((64, 16, 10)), optax.sgd(0.2, momentum=0.9), num_steps=40, batch_size=64)
    else:
        game = make(logistic(30, 2), optax.sgd(0.5), num_steps=40)
    return Task(game, test, mislabelled)


def refer(game: TrainingGame, settings: Settings, key: jax.Array) -> Reference:
    """Train what values are judged by."""
    design_key, loo_key, *keys = jax.random.split(key, 2 + settings.mask_repeats)
    half = PointMass(0.5)
    design = sample_design(design_key, half, num_submodels=settings.masks, num_sources=game.num_sources)
    utilities = np.stack([evaluate(game, design, key=each) for each in keys])
    loo = metrics.leave_one_out(game, key=loo_key, repeats=settings.loo_repeats)
    return Reference(np.asarray(design.masks()), utilities, loo)


def estimate(name: str, task: Task, key: jax.Array, ours: Attribution | None) -> Attribution:
    """Run an estimator; `ours` is what KernelSHAP with L1 is told from."""
    budget = PER_EXAMPLE * task.game.num_sources
    if name == shapley_estimators.WITH_L1:
        assert ours is not None
        return shapley_estimators.l1(ours)(task.game, key=key, budget=budget)
    if name == "KNN-Shapley":
        return baselines.knn_shapley(task.game, key=key, budget=budget, test_x=task.test.x, test_y=task.test.y)
    return ESTIMATORS[name](task.game, key=key, budget=budget)


def judge(values: np.ndarray, task: Task, reference: Reference) -> dict[str, float]:
    """Return the metrics of `values [1, N]` but for those of curves."""
    utilities, loo = reference.utilities.mean(axis=0), reference.loo.mean(axis=0)
    found = {
        "mislabel_auc": metrics.mislabel_auc(values, task.mislabelled),
        "mislabel_f1": metrics.mislabel_f1(values, task.mislabelled),
        "lds": metrics.datamodeling_score(values, reference.masks, utilities),
        "lds_ceiling": metrics.noise_ceiling(reference.utilities),
        "loo_correlation": metrics.leave_one_out_correlation(values, loo),
        "loo_ceiling": metrics.noise_ceiling(reference.loo),
    }
    return {name: float(of_query[0]) for name, of_query in found.items()}


def curves(values: np.ndarray, game: TrainingGame, repeats: int, key: jax.Array) -> dict[str, np.ndarray]:
    """Return the four curves of `values [1, N]`, utilities `[K]` each."""
    return {
        name: measure(game, values, key=key, lowest_first=lowest, repeats=repeats)[:, 0]
        for name, (measure, lowest) in CURVES.items()
    }


def gaps(found: dict[str, np.ndarray]) -> dict[str, float]:
    """Return how far curves are apart in the mean, larger being better."""
    return {
        "removal_gap": float((found["remove lowest"] - found["remove highest"]).mean()),
        "addition_gap": float((found["add highest"] - found["add lowest"]).mean()),
    }


def run(name: str, seed: int, settings: Settings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return records and curves of all estimators on one data set and seed."""
    of_data = jax.random.fold_in(jax.random.key(SEED + seed), DATA.index(name))
    task_key, reference_key, curve_key, key = jax.random.split(of_data, 4)
    task = make_task(name, settings.num_train, task_key)
    reference = refer(task.game, settings, reference_key)
    results: dict[str, Attribution] = {}
    scores, lines = [], []
    for estimator in settings.estimators:
        begin = time.perf_counter()
        result = estimate(estimator, task, key, results.get("jaxame"))
        seconds = time.perf_counter() - begin
        results[estimator] = result
        values = result.values.mean(axis=0, keepdims=True)  # over the test examples of KNN-Shapley
        found = curves(values, task.game, settings.curve_repeats, curve_key)
        about = {"data": name, "estimator": estimator, "seed": seed}
        scores.append(
            about
            | {"budget": PER_EXAMPLE * task.game.num_sources}
            | judge(values, task, reference)
            | gaps(found)
            | {"seconds": seconds}
        )
        lines.append(about | {curve: np.round(line, 5).tolist() for curve, line in found.items()})
    return scores, lines


def summarise(scores: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean over seeds of every number, and its standard error, by data set and estimator."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in scores:
        cells.setdefault((one["data"], one["estimator"]), []).append(one)
    summary = []
    for (name, estimator), own in cells.items():
        line: dict[str, Any] = {"data": name, "estimator": estimator, "budget": own[0]["budget"], "seeds": len(own)}
        for metric in (*METRICS, *CEILINGS.values(), "seconds"):
            drawn = np.array([one[metric] for one in own])
            line[metric] = float(drawn.mean())
            line[f"{metric}_se"] = float(drawn.std(ddof=1) / np.sqrt(len(own))) if len(own) > 1 else None
        summary.append(line)
    return summary


def main(settings: Settings) -> dict[str, Any]:
    """Run all estimators on all data sets and seeds; return records, curves and their summary."""
    if settings.smoke:
        few = ("jaxame", "permutation", "Banzhaf", "KNN-Shapley", "random")
        small: dict[str, Any] = {"seeds": 1, "data": DATA[1:], "num_train": 60, "masks": 100, "estimators": few}
        settings = dataclasses.replace(settings, **small)
    begin, scores, lines = time.perf_counter(), [], []
    for seed in range(settings.seeds):
        for name in settings.data:
            own = run(name, seed, settings)
            scores += own[0]
            lines += own[1]
            print(f"{name}, seed {seed}: done after {time.perf_counter() - begin:.0f} s", flush=True)
    summary = summarise(scores)
    if settings.smoke:
        check(summary)
    given = {"num_train": settings.num_train, "flipped": FLIPPED, "fractions": list(metrics.FRACTIONS)}
    return {"records": scores, "summary": summary, "curves": lines} | given


def check(summary: list[dict[str, Any]]) -> None:
    """End with an error if ours does not serve, chance does, or a score is far above its ceiling."""
    for line in summary:
        ours, chance = line["estimator"] == "jaxame", line["estimator"] == "random"
        serves = line["mislabel_auc"] > 0.65 and line["lds"] > 0.3 and line["removal_gap"] > 0
        by_chance = abs(line["lds"]) < 0.4 and line["mislabel_auc"] < 0.85
        if (ours and not serves) or (chance and not by_chance) or line["lds"] > line["lds_ceiling"] + 0.2:
            raise SystemExit(f"the claim is not met: {line}")


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw every metric of every estimator, and below them the curves of some."""
    summary = results["summary"]
    names = list(dict.fromkeys(line["data"] for line in summary))
    estimators = list(dict.fromkeys(line["estimator"] for line in summary))
    figure = plt.figure(figsize=(16, 6.5 + 0.27 * len(estimators)), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1.5 + 0.27 * len(estimators), 5))
    above, below = parts
    axes = above.subplots(1, len(METRICS), sharey=True)
    for ax, metric in zip(axes, METRICS, strict=True):
        _dots(ax, metric, summary, names, estimators)
    axes[0].set_yticks(range(len(estimators)), estimators)
    axes[0].invert_yaxis()
    handles, labels = axes[list(METRICS).index("lds")].get_legend_handles_labels()
    order = np.argsort(["noise" in label or label == "chance" for label in labels], kind="stable")
    handles, labels = [handles[i] for i in order], [labels[i] for i in order]
    above.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    _curves(below, results, names)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _dots(ax: Any, metric: str, summary: list[dict[str, Any]], names: list[str], estimators: list[str]) -> None:
    """Draw one metric, a row per estimator; bars are standard errors over seeds."""
    for number, name in enumerate(names):
        own = {line["estimator"]: line for line in summary if line["data"] == name}
        colour, marker = _DATA_STYLE[number]
        rows = np.arange(len(estimators)) + 0.3 * (number - (len(names) - 1) / 2)
        mean = [own[estimator][metric] for estimator in estimators]
        error = [own[estimator][f"{metric}_se"] or 0.0 for estimator in estimators]
        ax.errorbar(mean, rows, xerr=error, fmt=marker, color=colour, markersize=4.5, elinewidth=1, label=name)
        if metric in CEILINGS:
            ceiling = own[estimators[0]][CEILINGS[metric]]
            ax.axvline(ceiling, color=colour, linestyle="--", linewidth=1, label=f"noise ceiling, {name}")
    if metric != "mislabel_f1":  # what chance reaches there depends on how many it names
        ax.axvline(0.5 if metric == "mislabel_auc" else 0.0, color="black", linewidth=0.6, label="chance")
    ax.set_title(METRICS[metric], fontsize=10)
    ax.grid(axis="y", linewidth=0.3)
    ax.tick_params(axis="y", length=0)


def _curves(figure: Any, results: dict[str, Any], names: list[str]) -> None:
    """Draw the curves of some estimators: removal and addition, on every data set."""
    figure.suptitle("solid: highest values first; dashed: lowest values first", fontsize=10)
    axes = figure.subplots(1, 2 * len(names), sharex=True)
    panels = [(name, kind) for name in names for kind in ("remove", "add")]
    percent = 100 * np.array(results["fractions"])
    for ax, (name, kind) in zip(axes, panels, strict=True):
        for estimator, colour in zip(SHOWN, _COLOURS, strict=True):
            own = [one for one in results["curves"] if (one["data"], one["estimator"]) == (name, estimator)]
            for end, style in (("highest", "-"), ("lowest", "--")):
                if own:
                    mean = np.mean([one[f"{kind} {end}"] for one in own], axis=0)
                    label = estimator if end == "highest" else None
                    ax.plot(percent, mean, style, color=colour, linewidth=1.4, label=label)
        ax.set_title(name, fontsize=10)
        ax.set_xlabel(f"training examples {'removed' if kind == 'remove' else 'added'} (%)")
    axes[0].set_ylabel("mean probability of the right class")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


_DATA_STYLE = (("#0072b2", "o"), ("#d55e00", "s"))
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555")

if __name__ == "__main__":
    records.run(Settings, main, __doc__, draw)
