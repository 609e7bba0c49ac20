"""How precision and recall of the selection move when the attack, the data, the training or the analysis is another.

Question: the poisoned digits of `jaxame demo` are found at its settings. At which others? Each condition changes one
thing, and the settings of estimation and selection stay those of the demo: 3,000 submodels, seven knockoff copies, a
false discovery rate of .05, 20 queries.

- `attack`: brightness of the patch (4 by default; the brightest ink is 1), and number of poisoned digits (10).
- `data`: a share of the other digits has a wrong label.
- `training`: batches gathered of included examples instead of masked; bfloat16 instead of float32; half and a quarter
  of the steps; a warm start from the model trained on everything, with all of the steps and with a quarter.
- `analysis`: submodels all at inclusion 1/2; and those drawn at .2, .4, .6 and .8 analysed as if all had been at 1/2,
  or at probabilities a tenth too high, so that knockoffs are drawn from a wrong law.

`success` is how often the model trained on everything falls for the attack, `accuracy` its accuracy on clean digits.
Precision and recall are means over the queries, who is poisoned being used for scoring only; a query for which nothing
is selected has a precision of 1 and a recall of 0, and counts as `empty`.

Result (`results/robustness.cpu-2-cores.json`, 3 seeds, means and standard errors, 816 s on two cores that did other
work as well), precision and recall: as it is .95 (.01) and .97 (.01). Recall falls where the poison is redundant: with
20 poisoned digits, any few of which suffice, it is .30 (.07), at brightness 6 .79 (.07). Precision falls where other
digits matter more: at brightness 1, where the attack succeeds in .83 of the cases only, it is .75 (.05), with 10 and
20 % wrong labels .86 (.03) and .82 (.04), with half of the steps .86 (.03); a digit that was not poisoned may well
raise the margin, and counts as a mistake here. Gathered batches have .89 (.03) and .98 (.00), bfloat16 .95 (.01) and
.95 (.01). A warm start finds less: .97 (.02) and .40 (.05) with as many steps, 1.7 of 20 selections being empty, and
with a quarter of them next to nothing: .33 (.13) and .02 (.01), where 5.7 are empty, and those that are not have a
precision of .06. From scratch a quarter of the steps has .93 (.03) and 1.00 (.00), at an accuracy of .87. All submodels
at 1/2 have .88 (.04) and .85 (.03). Probabilities that are a tenth too high in the analysis change nothing; taking all
for 1/2, though they were .2 to .8, costs recall, .79 (.03), and not precision.
"""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from experiments import records
from jaxame import demo, estimate_ame, evaluate, metrics
from jaxame.design import Design, Grid, sample_design

SEED = 200


@dataclasses.dataclass(frozen=True)
class Condition:
    """What is other than in the demo.

    Attributes:
      demo: changes of `demo.Settings`, by name.
      game: changes of the arguments of `TrainingGame`.
      label_noise: share of the clean training digits whose label is wrong.
      warm: whether submodels start from the model trained on everything.
      assumed: inclusion probabilities that the analysis takes for true, from those that are.
    """

    demo: dict[str, Any] = dataclasses.field(default_factory=dict)
    game: dict[str, Any] = dataclasses.field(default_factory=dict)
    label_noise: float = 0.0
    warm: bool = False
    assumed: Any = None


CONDITIONS: dict[tuple[str, str], Condition] = {
    ("demo", "as it is"): Condition(),
    **{("attack", f"brightness {value:g}"): Condition({"patch_value": value}) for value in (1.0, 2.0, 3.0, 6.0)},
    **{("attack", f"{number} poisoned"): Condition({"num_poisoned": number}) for number in (5, 20)},
    **{("data", f"{share:.0%} wrong labels"): Condition(label_noise=share) for share in (0.1, 0.2)},
    ("training", "gathered"): Condition(game={"feed": "gathered"}),
    ("training", "bfloat16"): Condition(game={"compute_dtype": jnp.bfloat16}),
    ("training", "half of the steps"): Condition({"num_steps": 50}),
    ("training", "a quarter of the steps"): Condition({"num_steps": 25}),
    ("training", "warm start"): Condition(warm=True),
    ("training", "warm start, a quarter"): Condition({"num_steps": 25}, warm=True),
    ("analysis", "all at 1/2"): Condition({"inclusion": (0.5,)}),
    ("analysis", "as if all at 1/2"): Condition(assumed=lambda p: jnp.full_like(p, 0.5)),
    ("analysis", "as if a tenth higher"): Condition(assumed=lambda p: 1.1 * p),
}
BASE = ("demo", "as it is")
FEW = (BASE, ("data", "10% wrong labels"), ("training", "gathered"))


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each decides attack, submodels and knockoffs."""
    smoke: bool = False
    """One seed, small sizes, three conditions; ends with an error if the poison is not found."""
    json: Path | None = None
    """File for the records."""
    figure: Path | None = None
    """File for the figure."""


def mislabel(attacked: demo.Attack, share: float, key: jax.Array) -> demo.Attack:
    """Give a share of the training digits that are not poisoned the label of another class."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    train = attacked.train
    clean = np.setdiff1d(np.arange(len(train)), attacked.poisoned)
    wrong = rng.choice(clean, round(share * clean.size), replace=False)
    y = train.y.copy()
    y[wrong] = (y[wrong] + rng.integers(1, train.num_classes, wrong.size)) % train.num_classes
    return dataclasses.replace(attacked, train=dataclasses.replace(train, y=y))


def analysed_as(design: Design, condition: Condition) -> Design:
    """Return the design with the inclusion probabilities that the analysis takes for true."""
    if condition.assumed is None:
        return design
    p = condition.assumed(design.p)
    law = Grid(tuple(sorted({float(value) for value in p})))
    return dataclasses.replace(design, p=p, law=law)


def run(condition: Condition, seed: int, base: demo.Settings) -> dict[str, Any]:
    """Attack, train, estimate and select; return the record."""
    begin = time.perf_counter()
    settings = dataclasses.replace(base, **condition.demo)
    keys = jax.random.split(jax.random.key(SEED + seed), 6)
    data_key, shared_key, design_key, full_key, noise_key, start_key = keys
    attacked = mislabel(demo.attack(settings, data_key), condition.label_noise, noise_key)
    everything = np.ones(settings.num_train, bool)
    changes = dict(condition.game)
    if condition.warm:
        scratch = demo.make_game(base, attacked, shared_key)
        changes["start"] = scratch.train(start_key, everything)
    game = demo.make_game(settings, attacked, shared_key, **changes)
    full = demo.full_model(game, attacked, full_key)
    draw_rows = functools.partial(sample_design, design_key, Grid(settings.inclusion))
    design = draw_rows(num_submodels=settings.num_submodels, num_sources=game.num_sources)
    utilities = evaluate(game, design)
    assumed = analysed_as(design, condition)
    result = estimate_ame(assumed, utilities, copies=settings.copies, folds=settings.folds)
    chosen = [result.select(settings.fdr, q, alternative="greater") for q in range(settings.num_queries)]
    precision, recall = np.mean([metrics.precision_recall(one.indices, attacked.poisoned) for one in chosen], axis=0)
    return {
        "success": full["attack_success"],
        "accuracy": full["clean_accuracy"],
        "precision": float(precision),
        "recall": float(recall),
        "empty": sum(one.indices.size == 0 for one in chosen),
        "seconds": time.perf_counter() - begin,
    }


def main(settings: Settings) -> dict[str, Any]:
    """Run all conditions on all seeds; return records and their summary."""
    base, names, seeds = demo.Settings(), tuple(CONDITIONS), settings.seeds
    if settings.smoke:
        base, names, seeds = demo.SMOKE, FEW, seeds[:1]
    begin, found = time.perf_counter(), []
    for name in names:
        for seed in seeds:
            about = {"changes": name[0], "condition": name[1], "seed": seed}
            found.append(about | run(CONDITIONS[name], seed, base))
        print(f"{name[1]}: done after {time.perf_counter() - begin:.0f} s", flush=True)
    summary = summarise(found)
    if settings.smoke:
        check(summary)
    return {"records": found, "summary": summary}


def summarise(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean over seeds of every number, by condition, and the standard errors of precision and recall."""
    summary = []
    for name in dict.fromkeys((one["changes"], one["condition"]) for one in found):
        own = [one for one in found if (one["changes"], one["condition"]) == name]
        line: dict[str, Any] = {"changes": name[0], "condition": name[1], "seeds": len(own)}
        for metric in ("success", "accuracy", "precision", "recall", "empty", "seconds"):
            drawn = np.array([one[metric] for one in own], float)
            line[metric] = float(drawn.mean())
            if metric in ("precision", "recall"):
                line[f"{metric}_se"] = float(drawn.std(ddof=1) / np.sqrt(len(own))) if len(own) > 1 else None
        summary.append(line)
    return summary


def check(summary: list[dict[str, Any]]) -> None:
    """End with an error if the attack does not work somewhere, or the poison is not found."""
    for one in summary:
        if not demo.makes_sense(one | {"attack_success": one["success"]}):
            raise SystemExit(f"the claim is not met: {one}")


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw precision and recall of every condition, and how well the attack worked."""
    summary = results["summary"]
    figure, axes = plt.subplots(
        1, 3, figsize=(10, 1 + 0.3 * len(summary)), sharex=True, sharey=True, layout="constrained"
    )
    titles = {"precision": "precision", "recall": "recall", "success": "attack success,\nmodel trained on everything"}
    rows = np.arange(len(summary))
    for ax, (metric, title) in zip(axes, titles.items(), strict=True):
        colours = [_COLOURS[one["changes"]] for one in summary]
        error = [one.get(f"{metric}_se") or 0.0 for one in summary]
        ax.errorbar([one[metric] for one in summary], rows, xerr=error, fmt="none", ecolor=colours, elinewidth=1.2)
        ax.scatter([one[metric] for one in summary], rows, c=colours, s=28, zorder=3)
        ax.axvline(summary[0][metric], color="black", linewidth=0.6, linestyle=":")
        ax.set_title(title, fontsize=10)
        ax.set_xlim(-0.03, 1.03)
        ax.grid(axis="y", linewidth=0.3)
        ax.tick_params(axis="y", length=0)
    axes[0].set_yticks(rows, [f"{one['changes']}: {one['condition']}" for one in summary])
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=100)
    plt.close(figure)


_COLOURS = {"demo": "#000000", "attack": "#d55e00", "data": "#009e73", "training": "#0072b2", "analysis": "#cc79a7"}

if __name__ == "__main__":
    records.run(Settings, main, __doc__, draw)
