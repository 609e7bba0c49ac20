"""How often 95 % intervals hold the true AME, by law, game and number of submodels.

Question: do the intervals of `Attribution.interval` cover what they promise, for sources with an effect and without,
with fewer, as many and more submodels than sources?

Every replicate plants its sources anew among `N = 100` and adds normal noise of half the utility's standard deviation;
twenty replicates of every game share a design, so standard errors are those of the means over designs. The games: ten
additive effects, ten sources that saturate together, and one in which all but twenty sources have an effect. True
values are closed forms.

`intervals` are "debiased" (the default) or "cross-fitted"; `zero` says whether a record is about the sources without an
effect; `width` is the mean width in units of the standard deviation of the utility.

`stopped` records are of experiments under the grid that grow from 100 to at most 400 rows, doubling in every round,
until the widest interval is at most half a standard deviation of the utility (`jaxame.stopping.Width`; the deviation is
that on 2,000 other subsets). Their `M` is the mean number of rows at the end.

Cross-validation has five folds, and 14 penalties down to a twentieth of the first; its fits have a duality gap of at
most 1e-3, the fit that is used one of 1e-6.

Result (`results/interval_coverage.cpu-2-cores.json`, 500 replicates a cell, 459 s on two cores): every one of the 150
cells covers between 93.1 and 96.5 %, also with a quarter as many rows as sources and after stopping. The lowest are the
additive game with 25 rows (93.1 %, standard error .4) and, of those with more rows, the dense game under TU(.05) with
100 (93.3 %, standard error .2). Sources without an effect are covered in 94.3 % or more.
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
from scipy import stats

from experiments import records
from jaxame import games, inference, stopping
from jaxame.design import Beta, Design, Grid, Law, PointMass, TruncatedUniform, sample_design
from jaxame.features import code, mask_columns
from jaxame.lasso import Tolerance, assign_folds, cross_validate, make_problem

NUM_SOURCES, SEED, PER_DESIGN, FOLDS, LEVEL, NOISE = 100, 30, 20, 5, 0.95, 0.5
LAWS: dict[str, Law] = {
    "grid": Grid((0.2, 0.4, 0.6, 0.8)),
    "TU(.05)": TruncatedUniform(0.05),
    "Beta(4,6)": Beta(4, 6),
    "point mass": PointMass(0.5),
}
GAMES = ("additive", "saturating", "dense")
KINDS = ("debiased", "cross-fitted")
PATH: dict[str, Any] = {"num_penalties": 14, "min_ratio": 0.05, "tolerance": Tolerance(gap=1e-3)}
MOST_INTERCEPTS = 5
ROUNDS, WIDEST, STOPPED = (100, 200, 400), 0.5, ("grid",)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    designs: int = 25
    """Of twenty replicates of every game each."""
    submodels: tuple[int, ...] = (NUM_SOURCES // 4, NUM_SOURCES, 4 * NUM_SOURCES)
    """Numbers of rows."""
    smoke: bool = False
    """Three designs of 100 rows, none stopped; ends with an error if coverage is far from what is claimed."""
    json: Path | None = None
    """File for the records."""
    figure: Path | None = None
    """File for the figure."""


class Planted(NamedTuple):
    """Utilities `[M, Q]`, the games they are of, their AME `[Q, N]` and the utilities' standard deviation `[Q]`."""

    utilities: np.ndarray
    names: list[str]
    truth: np.ndarray
    spread: np.ndarray


def _make(name: str, rng: np.random.Generator) -> Any:
    if name == "saturating":
        members = rng.choice(NUM_SOURCES, 10, replace=False).tolist()
        return games.Saturating(NUM_SOURCES, members, slope=1.0, centre=5.0)
    weights = rng.normal(size=NUM_SOURCES) * (rng.permutation(NUM_SOURCES) < (10 if name == "additive" else 80))
    return games.Additive(weights)


def plant(design: Design, rng: np.random.Generator) -> Planted:
    """Draw games and evaluate them, twenty of each kind."""
    names = [name for name in GAMES for _ in range(PER_DESIGN)]
    drawn = [_make(name, rng) for name in names]
    other_key = jax.random.fold_in(jax.random.key(SEED + 1), rng.integers(2**31))
    others = sample_design(other_key, design.law, num_submodels=2000, num_sources=NUM_SOURCES)
    exact, reference = (
        np.concatenate([np.asarray(game(None, masks), np.float64) for game in drawn], axis=1)
        for masks in (np.asarray(design.masks()), np.asarray(others.masks()))
    )
    spread = reference.std(axis=0)
    truth = np.stack([game.ame(design.law) for game in drawn])
    noise = NOISE * spread * rng.normal(size=exact.shape)
    return Planted(exact + noise, names, truth, np.hypot(1, NOISE) * spread)


class Intervals(NamedTuple):
    """Estimates and their standard errors, `[Q, N]` each."""

    middle: np.ndarray
    stderr: np.ndarray

    @property
    def num_queries(self) -> int:
        """`Q`."""
        return self.middle.shape[0]

    @property
    def num_sources(self) -> int:
        """`N`."""
        return self.middle.shape[1]

    def interval(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """As `Attribution.interval`."""
        half = stats.norm.ppf((1 + level) / 2) * self.stderr
        return self.middle - half, self.middle + half


def estimate(design: Design, utilities: np.ndarray, key: jax.Array, kinds: tuple[str, ...]) -> list[Intervals]:
    """Return the intervals of each kind as `jaxame.estimate_ame` makes them, from one cross-validation."""
    coding = code(design)
    fold = np.asarray(assign_folds(key, design.num_submodels, FOLDS))
    z = np.pad(coding.z, ((0, 0), (0, MOST_INTERCEPTS - coding.z.shape[1])))  # laws then share what is compiled
    problem = make_problem(mask_columns(design, coding), utilities, coding.weight, z, fold)
    fit = cross_validate(problem, **PATH, keep_folds=True, devices=jax.local_devices())
    steps = [inference.estimate(kind, design, coding, utilities, fit, fold) for kind in kinds]
    return [Intervals(coding.scale * step.coef, coding.scale * step.stderr) for step in steps]


def replicates(law: str, num_submodels: int, number: int) -> Iterator[dict[str, Any]]:
    """Yield the coverage in every replicate on design `number`."""
    key = jax.random.fold_in(jax.random.key(SEED), number)
    design = sample_design(key, LAWS[law], num_submodels=num_submodels, num_sources=NUM_SOURCES)
    planted = plant(design, np.random.default_rng([SEED, number]))
    for kind, found in zip(KINDS, estimate(design, planted.utilities, key, KINDS), strict=True):
        cell = {"law": law, "intervals": kind, "stopped": False, "number": number, "M": num_submodels}
        lower, upper = found.interval(LEVEL)
        for query in range(len(planted.names)):
            yield from _covered(planted, query, lower[query], upper[query], cell)


def stopped(law: str, number: int) -> Iterator[dict[str, Any]]:
    """Yield the coverage in every replicate on design `number`, each stopped where the rule holds for it."""
    key = jax.random.fold_in(jax.random.key(SEED), number)
    designs = [sample_design(key, LAWS[law], num_submodels=rows, num_sources=NUM_SOURCES) for rows in ROUNDS]
    planted = plant(designs[-1], np.random.default_rng([SEED, number]))
    own = zip(ROUNDS, designs, strict=True)
    results: list[Any] = [estimate(design, planted.utilities[:rows], key, KINDS[:1])[0] for rows, design in own]
    history = [stopping.Round(result, 0.0) for result in results]
    cell = {"law": law, "intervals": KINDS[0], "stopped": True, "number": number}
    for query, spread in enumerate(planted.spread):
        rule = stopping.Width(WIDEST * spread, LEVEL, query=query)
        last = next((n for n in range(len(ROUNDS)) if rule(history[: n + 1]).holds), len(ROUNDS) - 1)
        lower, upper = (bound[query] for bound in results[last].interval(LEVEL))
        yield from _covered(planted, query, lower, upper, cell | {"M": ROUNDS[last]})


def _covered(
    planted: Planted, query: int, lower: np.ndarray, upper: np.ndarray, cell: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Yield the coverage of a query's intervals `[N]`, of sources with an effect and without."""
    truth = planted.truth[query]
    inside, width = (lower <= truth) & (truth <= upper), (upper - lower) / planted.spread[query]
    for zero in (False, True):
        chosen = (truth == 0) == zero
        share = {"coverage": inside[chosen].mean(), "width": width[chosen].mean()}
        yield {"game": planted.names[query], "zero": zero} | cell | share


def summarise(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a record per cell, with the standard error of the mean over designs."""
    names = ("game", "law", "intervals", "zero", "stopped")
    cells: dict[tuple, list[dict[str, Any]]] = {}
    for one in found:
        number = None if one["stopped"] else one["M"]
        cells.setdefault((*(one[name] for name in names), number), []).append(one)
    return [dict(zip(names, cell, strict=False)) | _of_cell(own) for cell, own in cells.items()]


def _of_cell(found: list[dict[str, Any]]) -> dict[str, float]:
    coverage, number = (np.array([one[name] for one in found]) for name in ("coverage", "number"))
    by_design = np.array([coverage[number == each].mean() for each in np.unique(number)])
    return {
        "M": round(np.mean([one["M"] for one in found])),
        "coverage": float(coverage.mean()),
        "coverage_se": float(by_design.std(ddof=1) / np.sqrt(by_design.size)),
        "width": float(np.mean([one["width"] for one in found])),
        "replicates": len(found),
    }


def main(settings: Settings) -> dict[str, Any]:
    """Run all cells and return the records."""
    laws = tuple(LAWS)
    if settings.smoke:
        settings, laws = dataclasses.replace(settings, designs=3, submodels=(NUM_SOURCES,)), laws[:1]
    found, begin = [], time.perf_counter()
    for num_submodels, law in itertools.product(settings.submodels, laws):
        for number in range(settings.designs):
            found += list(replicates(law, num_submodels, number))
        print(f"M = {num_submodels}, {law}: {time.perf_counter() - begin:.0f} s", flush=True)
    for law in () if settings.smoke else STOPPED:
        for number in range(settings.designs):
            found += list(stopped(law, number))
        print(f"stopped, {law}: {time.perf_counter() - begin:.0f} s", flush=True)
    cells = summarise(found)
    if settings.smoke:
        check(cells)
    return {"records": cells}


def check(cells: list[dict[str, Any]]) -> None:
    """End with an error if the claim is plainly not met."""
    default = [cell for cell in cells if cell["intervals"] == "debiased" and cell["M"] >= NUM_SOURCES]
    wrong = [cell for cell in default if abs(cell["coverage"] - LEVEL) > 0.02 + 4 * cell["coverage_se"]]
    if wrong or not default:
        raise SystemExit(f"the claim is not met: {wrong}")


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the coverage of every cell, a panel per game and kind of source."""
    cells = results["records"]
    figure, axes = plt.subplots(
        2, len(GAMES), figsize=(11, 6), sharex=True, sharey=True, layout="constrained", squeeze=False
    )
    rows = sorted({cell["M"] for cell in cells if not cell["stopped"]})
    for (row, zero), (column, game) in itertools.product(enumerate((False, True)), enumerate(GAMES)):
        panel = axes[row, column]
        panel.axhspan(0.93, 0.97, color="0.9")
        panel.axhline(LEVEL, color="0.5", linewidth=1)
        own = [cell for cell in cells if cell["game"] == game and cell["zero"] == zero]
        for (law, colour), kind in itertools.product(_COLOURS.items(), KINDS):
            line = [cell for cell in own if (cell["law"], cell["intervals"]) == (law, kind) and not cell["stopped"]]
            style = {"color": colour, "marker": "o" if kind == "debiased" else "s"}
            style |= {"linestyle": "-" if kind == "debiased" else "--", "label": f"{law}, {kind}"}
            panel.errorbar(*_points(line), **style)
        panel.errorbar(
            *_points([c for c in own if c["stopped"]]), color="black", marker="*", ms=9, label="grid, stopped"
        )
        panel.set_title(f"{game}, {'no effect' if zero else 'with an effect'}")
        panel.set_xscale("log", base=2)
        panel.set_xticks(rows, [str(number) for number in rows])
        panel.minorticks_off()
    for panel in axes[-1]:
        panel.set_xlabel(f"submodels (N = {NUM_SOURCES})")
    for panel in axes[:, 0]:
        panel.set_ylabel("coverage of 95 % intervals\n(bars: 2 standard errors)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _points(cells: list[dict[str, Any]]) -> list[list[float]]:
    """Numbers of rows, coverages and two standard errors of these."""
    return [[c["M"] for c in cells], [c["coverage"] for c in cells], [2 * c["coverage_se"] for c in cells]]


_COLOURS = dict(zip(LAWS, ("#0072b2", "#d55e00", "#009e73", "#cc79a7"), strict=True))

if __name__ == "__main__":
    records.run(Settings, main, __doc__, draw)
