"""How often 95 % intervals hold the true AME, by law, game and number of submodels.

Question: do the intervals of `Attribution.interval` cover what they promise, for sources with an effect and without,
with fewer, as many and more submodels than sources?

Every replicate plants its sources anew among `N = 100` and adds normal noise of half the utility's standard deviation;
ten replicates of every game share a design, so standard errors are those of the means over designs. The games: ten
additive effects, ten sources that saturate together, and one in which all but twenty sources have an effect. True
values are closed forms.

`intervals` are "debiased" (the default) or "cross-fitted"; `zero` says whether a record is about the sources without an
effect; `width` is the mean width in units of the standard deviation of the utility.
"""

import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np
import tyro
from scipy import stats

from experiments import records
from jaxame import cli, environment, games, inference
from jaxame.design import Beta, Design, Grid, Law, PointMass, TruncatedUniform, sample_design
from jaxame.features import code, mask_columns
from jaxame.lasso import assign_folds, cross_validate, make_problem

NUM_SOURCES, SEED, PER_DESIGN, FOLDS, LEVEL = 100, 30, 10, 10, 0.95
LAWS: dict[str, Law] = {
    "grid": Grid((0.2, 0.4, 0.6, 0.8)),
    "TU(.05)": TruncatedUniform(0.05),
    "Beta(4,6)": Beta(4, 6),
    "point mass": PointMass(0.5),
}
GAMES = ("additive", "saturating", "dense")
KINDS = ("debiased", "cross-fitted")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    designs: int = 50
    """Of ten replicates of every game each."""
    submodels: tuple[int, ...] = (NUM_SOURCES // 4, NUM_SOURCES, 4 * NUM_SOURCES)
    """Numbers of rows."""
    smoke: bool = False
    """Six designs of 100 rows under the grid; ends with an error if coverage is far from what is claimed."""
    json: Path | None = None
    """File for the records."""
    figure: Path | None = None
    """File for the figure."""


class Planted(NamedTuple):
    """Utilities `[M, Q]`, the games they are of, and their AME `[Q, N]`."""

    utilities: np.ndarray
    names: list[str]
    truth: np.ndarray


def _make(name: str, rng: np.random.Generator) -> Any:
    if name == "saturating":
        members = rng.choice(NUM_SOURCES, 10, replace=False).tolist()
        return games.Saturating(NUM_SOURCES, members, slope=1.0, centre=5.0)
    weights = rng.normal(size=NUM_SOURCES) * (rng.permutation(NUM_SOURCES) < (10 if name == "additive" else 80))
    return games.Additive(weights)


def plant(design: Design, rng: np.random.Generator) -> Planted:
    """Draw games and evaluate them, ten of each kind."""
    names = [name for name in GAMES for _ in range(PER_DESIGN)]
    drawn = [_make(name, rng) for name in names]
    masks = np.asarray(design.masks())
    exact = np.concatenate([np.asarray(game(None, masks), np.float64) for game in drawn], axis=1)
    truth = np.stack([game.ame(design.law) for game in drawn])
    return Planted(exact + rng.normal(size=exact.shape) * exact.std(axis=0) / 2, names, truth)


def replicates(law: str, num_submodels: int, number: int) -> Iterator[dict[str, Any]]:
    """Yield the coverage in every replicate on design `number`."""
    key = jax.random.fold_in(jax.random.key(SEED), number)
    design = sample_design(key, LAWS[law], num_submodels=num_submodels, num_sources=NUM_SOURCES)
    planted = plant(design, np.random.default_rng([SEED, number]))
    coding = code(design)
    fold = np.asarray(assign_folds(key, num_submodels, FOLDS))
    problem = make_problem(mask_columns(design, coding), planted.utilities, coding.weight, coding.z, fold)
    fit = cross_validate(problem, keep_folds=True, devices=jax.local_devices())
    half = stats.norm.ppf((1 + LEVEL) / 2)
    for kind in KINDS:
        coef, stderr = inference.estimate(kind, design, coding, planted.utilities, fit, fold)
        inside = np.abs(coding.scale * coef - planted.truth) <= half * coding.scale * stderr
        width = 2 * half * coding.scale * stderr / planted.utilities.std(axis=0)[:, None]
        for query, zero in itertools.product(range(len(planted.names)), (False, True)):
            chosen = (planted.truth[query] == 0) == zero
            cell = {"game": planted.names[query], "law": law, "M": num_submodels, "intervals": kind, "zero": zero}
            share = {"coverage": inside[query, chosen].mean(), "width": width[query, chosen].mean()}
            yield cell | share | {"number": number}


def summarise(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a record per cell, with the standard error of the mean over designs."""
    names = ("game", "law", "M", "intervals", "zero")
    cells: dict[tuple, list[dict[str, Any]]] = {}
    for one in found:
        cells.setdefault(tuple(one[name] for name in names), []).append(one)
    return [dict(zip(names, cell, strict=True)) | _of_cell(own) for cell, own in cells.items()]


def _of_cell(found: list[dict[str, Any]]) -> dict[str, float]:
    coverage, number = (np.array([one[name] for one in found]) for name in ("coverage", "number"))
    by_design = np.array([coverage[number == each].mean() for each in np.unique(number)])
    return {
        "coverage": float(coverage.mean()),
        "coverage_se": float(by_design.std(ddof=1) / np.sqrt(by_design.size)),
        "width": float(np.mean([one["width"] for one in found])),
        "replicates": len(found),
    }


def main(settings: Settings) -> dict[str, Any]:
    """Run all cells and return the records."""
    laws = tuple(LAWS)
    if settings.smoke:
        settings, laws = dataclasses.replace(settings, designs=6, submodels=(NUM_SOURCES,)), laws[:1]
    found, begin = [], time.perf_counter()
    for num_submodels, law in itertools.product(settings.submodels, laws):
        for number in range(settings.designs):
            found += list(replicates(law, num_submodels, number))
        print(f"M = {num_submodels}, {law}: done", flush=True)
    cells = summarise(found)
    if settings.smoke:
        check(cells)
    about = {"seconds": time.perf_counter() - begin, "versions": environment.versions()}
    return {"records": cells, "devices": environment.devices()} | about


def check(cells: list[dict[str, Any]]) -> None:
    """End with an error if the claim is plainly not met."""
    default = [cell for cell in cells if cell["intervals"] == "debiased" and cell["M"] >= NUM_SOURCES]
    wrong = [cell for cell in default if abs(cell["coverage"] - LEVEL) > 0.02 + 4 * cell["coverage_se"]]
    if wrong or not default:
        raise SystemExit(f"the claim is not met: {wrong}")


def draw(cells: list[dict[str, Any]], path: Path) -> None:
    """Draw the coverage of every cell, a panel per game and kind of source."""
    figure, axes = plt.subplots(
        2, len(GAMES), figsize=(11, 6), sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    for (row, zero), (column, game) in itertools.product(enumerate((False, True)), enumerate(GAMES)):
        panel = axes[row, column]
        panel.axhspan(0.93, 0.97, color="0.9")
        panel.axhline(LEVEL, color="0.5", linewidth=1)
        own = [cell for cell in cells if cell["game"] == game and cell["zero"] == zero]
        for (law, colour), kind in itertools.product(_COLOURS.items(), KINDS):
            line = [cell for cell in own if (cell["law"], cell["intervals"]) == (law, kind)]
            style = {"color": colour, "marker": "o" if kind == "debiased" else "s"}
            style |= {"linestyle": "-" if kind == "debiased" else "--", "label": f"{law}, {kind}"}
            panel.errorbar(
                [c["M"] for c in line], [c["coverage"] for c in line], [2 * c["coverage_se"] for c in line], **style
            )
        panel.set_title(f"{game}, {'no effect' if zero else 'with an effect'}")
        panel.set_xscale("log", base=2)
        panel.set_xticks(sorted({cell["M"] for cell in cells}), [str(m) for m in sorted({cell["M"] for cell in cells})])
        panel.minorticks_off()
    for panel in axes[-1]:
        panel.set_xlabel(f"submodels (N = {NUM_SOURCES})")
    for panel in axes[:, 0]:
        panel.set_ylabel("coverage of 95 % intervals\n(bars: 2 standard errors)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


_COLOURS = dict(zip(LAWS, ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), strict=True))

if __name__ == "__main__":
    cli.use_all_cores()
    chosen = tyro.cli(Settings, description=__doc__)
    outcome = main(chosen)
    records.finish(outcome, chosen.json)
    if chosen.figure:
        draw(outcome["records"], chosen.figure)
