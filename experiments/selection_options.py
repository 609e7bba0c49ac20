"""What every option of selection costs and gains, at equal numbers of submodels.

Question: which way to select finds most at a false discovery rate, how much does it depend on the draw of the knockoff
copies, and what does it take?

Every design has `N = 150` sources and `M` rows. On each, sources are planted anew and normal noise of half the
utility's standard deviation is added. An option changes one thing of the default, which is four copies that compete by
entry, two-sided knockoff+. `fdr` is the mean false discovery proportion, `power` the mean share of the planted sources
that are selected (of those that raise the utility where only these are looked for), `gain` the mean difference in power
to the reference on the same designs, and all standard errors are over designs. `jaccard` is the mean overlap of what
two keys of the copies select on the same data, where either selects anything. `seconds` is processor time of the
estimate, per query, median over designs. Two folds serve what does not depend on them; ten the statistic "coefficient"
and "bh-approximate".

The games are those of `fdr_calibration`, with effects of mixed signs besides, at sizes at which the default has neither
all of the power nor none. Foreign designs have `p` uniform on (.2, .8), or subsets of 30, 60, 90 or 120 sources.
"several queries": five queries with six sources each; what affects any. "difference": two queries share 20 sources and
have five of their own each; which matter to their difference. "stand-ins": of 50 groups of three, ten matter, each by
whether any of its members is in; a group counts as found by single sources if one of them is.

Result (`results/selection_options.cpu-2-cores.json`, 404 s on two cores): what is exchangeable by construction keeps to
its rate within three standard errors. Without `p` it does not: at `q = .1` the additive game has a rate of .18
(standard error .03), at `q = .2` of .29 (.02). In a row whose number of sources is known, a source without effect
stands in for the mean of the others, so that it seems to lower what they raise, and its copies do not. "greater" does
not select it: rates of .03 to .06 at `q = .1` and .03 to .16 at `q = .2`, with most of the power that a known `p` gives
(.76 of .77 on the additive game). At `q = .1`, additive and saturating game of 30: "greater" gains .15 (.03) and .16
(.03) in power, pairs lose .29 and .15, five draws .20 (.06) and .17 (.05) at a rate of .01 and .05. One copy loses .38
(.13) on the majority game; seven gain nothing over four beyond the error. "coefficient" gains .04 (.02) on the additive
game, at ten times the processor time. Groups find .68 of the stand-ins, single sources .52. Differences of two
selections are wrong in .62, contrasts in .08, which find .25.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import matplotlib.pyplot as plt
import numpy as np

from experiments import records
from jaxame import estimate_ame, games
from jaxame.attribution import Attribution
from jaxame.design import Design, Grid, sample_design
from jaxame.foreign import foreign_design

NUM_SOURCES, SEED, NUM_QUERIES, PER_GROUP = 150, 60, 5, 3
LAW, LEVELS = Grid((0.2, 0.4, 0.6, 0.8)), (0.1, 0.2)
CELLS = (("additive", 30), ("mixed signs", 30), ("saturating", 10), ("saturating", 30), ("majority", 10))
GROUPS = np.arange(NUM_SOURCES) // PER_GROUP


class Option(NamedTuple):
    """One way to select."""

    estimate: dict[str, Any]
    """Options of `estimate_ame`."""
    select: dict[str, Any]
    """Options of `Attribution.select`."""
    rows: str = "independent"
    """Kind of design."""
    keys: int = 2
    """Of copies or redraws, to compare what they select."""


OPTIONS = {
    "default": Option({}, {}),
    "knockoff": Option({}, {"method": "knockoff"}),
    "greater": Option({}, {"alternative": "greater"}),
    "1 copy": Option({"copies": 1}, {}),
    "7 copies": Option({"copies": 7}, {}),
    "coefficient": Option({"statistic": "coefficient", "folds": 10}, {}, keys=1),
    "5 draws": Option({"draws": 5}, {}),
    "bh": Option({"copies": 0, "redraws": 2000}, {"method": "bh"}, keys=1),
    "bh-approximate": Option({"copies": 0, "folds": 10}, {"method": "bh-approximate"}, keys=1),
    "paired": Option({}, {}, "paired", keys=1),
    "foreign, p given": Option({}, {}, "foreign, p given", keys=1),
    "foreign, p estimated": Option({}, {}, "foreign, p estimated", keys=1),
    "foreign, p estimated, greater": Option({}, {"alternative": "greater"}, "foreign, p estimated", keys=1),
    "foreign, fixed sizes": Option({}, {}, "foreign, fixed sizes", keys=1),
}
REFERENCES = {"several queries": "each at q / 5", "difference": "one but not the other", "stand-ins": "single sources"}
"""By game; for the others "default", or for a foreign design whose p is estimated the one whose p is given."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    designs: int = 10
    """Each with one replicate of every game, five of "stand-ins" and two of "difference"."""
    submodels: int = 600
    """Rows of a design."""
    options: tuple[str, ...] = tuple(OPTIONS)
    """Of the planted games."""
    smoke: bool = False
    """Two designs and the options that need no estimate of their own; ends with an error if the claim is not met."""
    json: Path | None = None
    """File for the records."""
    figure: Path | None = None
    """File for the figure."""


class Planted(NamedTuple):
    """Utilities `[M, Q]`, and for each query the planted sources and those that raise it."""

    utilities: np.ndarray
    members: list[np.ndarray]
    raising: list[np.ndarray]


def draw_design(kind: str, key: jax.Array, num_rows: int, rng: np.random.Generator) -> Design:
    """Draw a design of one of the kinds."""
    if not kind.startswith("foreign"):
        return sample_design(key, LAW, num_submodels=num_rows, num_sources=NUM_SOURCES, paired=kind == "paired")
    if kind == "foreign, fixed sizes":
        size = NUM_SOURCES * rng.choice(LAW.points, num_rows)[:, None]
        return foreign_design(rng.random((num_rows, NUM_SOURCES)).argsort(axis=1).argsort(axis=1) < np.round(size))
    p = rng.uniform(0.2, 0.8, num_rows)
    masks = rng.random((num_rows, NUM_SOURCES)) < p[:, None]
    return foreign_design(masks, p if kind == "foreign, p given" else None)


def plant(masks: np.ndarray, rng: np.random.Generator) -> Planted:
    """Plant the sources of every cell."""
    exact, members, raising = [], [], []
    for name, k in CELLS:
        own = rng.choice(NUM_SOURCES, k + (name == "majority"), replace=False)
        sign = rng.choice([-1, 1], own.size) if name == "mixed signs" else np.ones(own.size)
        exact.append(np.asarray(_game(name, own, sign)(None, masks), np.float64)[:, 0])
        members.append(own)
        raising.append(own[sign > 0])
    return Planted(with_noise(np.stack(exact, axis=1), rng), members, raising)


def _game(name: str, members: np.ndarray, sign: np.ndarray) -> Any:
    if name == "majority":
        return games.Majority(NUM_SOURCES, members.tolist())
    if name == "saturating":
        return games.Saturating(NUM_SOURCES, members.tolist(), slope=10 / members.size, centre=members.size / 2)
    weights = np.zeros(NUM_SOURCES)
    weights[members] = sign
    return games.Additive(weights)


def with_noise(exact: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Add noise of half the standard deviation to utilities `[M, Q]`."""
    return exact + rng.normal(size=exact.shape) * exact.std(axis=0) / 2


def timed(design: Design, utilities: np.ndarray, key: jax.Array, **options: Any) -> tuple[Attribution, float]:
    """Return the result, and processor time per query."""
    begin = time.process_time()
    result = estimate_ame(design, utilities, knockoff_key=key, **{"folds": 2, **options})
    return result, (time.process_time() - begin) / result.num_queries


def outcome(chosen: np.ndarray, wanted: np.ndarray, other: np.ndarray | None = None) -> dict[str, float]:
    """Return the false discovery proportion and the power of a selection, and its overlap with another one."""
    right = np.intersect1d(chosen, wanted).size
    either = chosen.size if other is None else np.union1d(chosen, other).size
    overlap = np.nan if other is None or not either else np.intersect1d(chosen, other).size / either
    return {"fdp": 1 - right / chosen.size if chosen.size else 0.0, "power": right / wanted.size, "jaccard": overlap}


def of_options(settings: Settings, number: int) -> Iterator[dict[str, Any]]:
    """Yield what every option finds on the planted games."""
    key = jax.random.fold_in(jax.random.key(SEED), number)
    results: dict[str, list[tuple[Attribution, float]]] = {}
    data: dict[str, tuple[Design, Planted]] = {}
    for name in settings.options:
        option = OPTIONS[name]
        if option.rows not in data:
            rng = np.random.default_rng([SEED, number, len(option.rows)])
            design = draw_design(option.rows, key, settings.submodels, rng)
            data[option.rows] = design, plant(np.asarray(design.masks()), rng)
        design, planted = data[option.rows]
        made = repr((option.estimate, option.rows))
        if made not in results:
            keys = [jax.random.fold_in(key, 2**31 + each) for each in range(option.keys)]
            results[made] = [timed(design, planted.utilities, own, **option.estimate) for own in keys]
        for query, (game, k) in enumerate(CELLS):
            one_sided = "alternative" in option.select
            wanted = (planted.raising if one_sided else planted.members)[query]
            for fdr in LEVELS:
                found = [result.select(fdr, query, **option.select).indices for result, _ in results[made]]
                cell = {"game": game, "k": k, "q": fdr, "option": name, "seconds": results[made][0][1]}
                yield cell | outcome(found[0], wanted, *found[1:])


def several_queries(design: Design, key: jax.Array, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yield what affects any of five queries, by three ways to select."""
    members = rng.permutation(NUM_SOURCES)[: 6 * NUM_QUERIES].reshape(NUM_QUERIES, 6)
    masks = np.asarray(design.masks())
    exact = np.stack([masks[:, own].sum(axis=1) for own in members], axis=1)
    result, seconds = timed(design, with_noise(exact, rng), key)
    for fdr in LEVELS:

        def each(level: float) -> np.ndarray:
            return np.unique(np.concatenate([result.select(level, query).indices for query in range(NUM_QUERIES)]))

        ways = {"all": result.select(fdr, "all").indices, "each at q / 5": each(fdr / NUM_QUERIES), "each": each(fdr)}
        for option, chosen in ways.items():
            cell = {"game": "several queries", "k": members.size, "q": fdr, "option": option, "seconds": seconds}
            yield cell | outcome(chosen, members.ravel())


def difference(design: Design, key: jax.Array, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yield what matters to the difference of two queries, by a contrast and by two selections."""
    shared, *own = np.split(rng.permutation(NUM_SOURCES)[:35], [20, 25, 30])
    masks = np.asarray(design.masks())
    exact = np.stack([masks[:, [*shared, *part]].sum(axis=1) for part in own], axis=1)
    result, seconds = timed(design, with_noise(exact, rng), key, contrasts=[[-1, 1, 0], [-1, 0, 1]])
    for fdr in LEVELS:
        for second in (1, 2):
            one, other = (result.select(fdr, query).indices for query in (0, second))
            ways = {
                "contrasts": result.select(fdr, 2 + second).indices,
                "one but not the other": np.setxor1d(one, other),
            }
            for option, chosen in ways.items():
                cell = {"game": "difference", "k": 10, "q": fdr, "option": option, "seconds": seconds}
                yield cell | outcome(chosen, np.concatenate([own[0], own[second]]))


def stand_ins(design: Design, key: jax.Array, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Yield which groups matter, by a selection of groups and by one of sources."""
    masks = np.asarray(design.masks())
    any_in = np.logical_or.reduce(masks.reshape(len(masks), -1, PER_GROUP), axis=2)
    matter = [rng.choice(any_in.shape[1], 10, replace=False) for _ in range(NUM_QUERIES)]
    exact = np.stack([any_in[:, own].sum(axis=1) for own in matter], axis=1)
    result, seconds = timed(design, with_noise(exact, rng), key)
    for fdr in LEVELS:
        for query, own in enumerate(matter):
            ways = {
                "groups": result.select(fdr, query, groups=GROUPS).indices,
                "single sources": np.unique(GROUPS[result.select(fdr, query).indices]),
            }
            for option, chosen in ways.items():
                cell = {"game": "stand-ins", "k": 10, "q": fdr, "option": option, "seconds": seconds}
                yield cell | outcome(chosen, own)


SCENARIOS: tuple[Callable[..., Iterator[dict[str, Any]]], ...] = (several_queries, difference, stand_ins)


def replicates(settings: Settings, number: int) -> Iterator[dict[str, Any]]:
    """Yield everything that is found on design `number`."""
    yield from of_options(settings, number)
    key = jax.random.fold_in(jax.random.key(SEED), number)
    design = sample_design(key, LAW, num_submodels=settings.submodels, num_sources=NUM_SOURCES)
    for stream, scenario in enumerate(SCENARIOS):
        yield from scenario(design, key, np.random.default_rng([SEED, number, 1000 + stream]))


def summarise(found: list[dict[str, Any]], num_rows: int) -> list[dict[str, Any]]:
    """Return a record per game, level and option."""
    names = ("game", "k", "q", "option")
    cells: dict[tuple, list[dict[str, Any]]] = {}
    for one in found:
        cells.setdefault(tuple(one[name] for name in names), []).append(one)
    made = []
    for cell, own in cells.items():
        game, k, fdr, option = cell
        reference = _by_design(cells[game, k, fdr, reference_of(game, option)], "power")
        made.append(dict(zip(names, cell, strict=True)) | {"M": num_rows} | _of_cell(own, reference))
    return made


def reference_of(game: str, option: str) -> str:
    """Return the option that a game's option is compared with."""
    own = "foreign, p given" if option.startswith("foreign, p estimated") else "default"
    return REFERENCES.get(game, own)


def _of_cell(found: list[dict[str, Any]], reference: np.ndarray) -> dict[str, float | None]:
    false, power = (_by_design(found, name) for name in ("fdp", "power"))
    jaccard = np.array([one["jaccard"] for one in found])
    return {
        "fdr": float(false.mean()),
        "fdr_se": _error(false),
        "power": float(power.mean()),
        "power_se": _error(power),
        "gain": float((power - reference).mean()),
        "gain_se": _error(power - reference),
        "jaccard": float(np.nanmean(jaccard)) if np.isfinite(jaccard).any() else None,
        "seconds": float(np.median([one["seconds"] for one in found])),
        "replicates": len(found),
    }


def _by_design(found: list[dict[str, Any]], name: str) -> np.ndarray:
    numbers = np.array([one["number"] for one in found])
    values = np.array([one[name] for one in found])
    return np.array([values[numbers == number].mean() for number in np.unique(numbers)])


def _error(by_design: np.ndarray) -> float:
    return float(by_design.std(ddof=1) / np.sqrt(by_design.size))


def main(settings: Settings) -> dict[str, Any]:
    """Run everything and return the records."""
    if settings.smoke:
        settings = dataclasses.replace(settings, designs=2, options=("default", "knockoff", "greater"))
    found, begin = [], time.perf_counter()
    for number in range(settings.designs):
        found += [one | {"number": number} for one in replicates(settings, number)]
        print(f"design {number}: {time.perf_counter() - begin:.0f} s", flush=True)
    cells = summarise(found, settings.submodels)
    if settings.smoke:
        check(cells)
    return {"records": cells}


def check(cells: list[dict[str, Any]]) -> None:
    """End with an error if the rate of what controls it is far too high, or if little is found."""
    too_many = [
        cell for cell in cells if cell["option"] in ("default", "all", "groups") and cell["fdr"] > 2 * cell["q"]
    ]
    power = [c["power"] for c in cells if (c["game"], c["k"], c["option"]) == ("saturating", 10, "default")]
    if too_many or not power or max(power) < 0.5:
        raise SystemExit(f"the claim is not met: {too_many or f'power {power} on the saturating game'}")


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the false discovery rate and the power of every option, a column of panels per game."""
    cells = results["records"]
    plain = [cell for cell in cells if cell["game"] not in REFERENCES]
    options = list(dict.fromkeys(cell["option"] for cell in plain))
    extra = [
        (game, option) for game, option in dict.fromkeys((c["game"], c["option"]) for c in cells if c not in plain)
    ]
    figure, axes = plt.subplots(2, len(CELLS) + 1, figsize=(19, 10), sharex="row", layout="constrained")
    for column, (game, k) in zip(axes.T, CELLS, strict=False):
        own = [cell for cell in plain if (cell["game"], cell["k"]) == (game, k)]
        _panels(column, own, [options.index(cell["option"]) for cell in own], options)
        column[0].set_title(f"{game}, k = {k}")
    own = [cell for cell in cells if cell not in plain]
    labels = [f"{game}:\n{option}" for game, option in extra]
    _panels(axes[:, -1], own, [extra.index((cell["game"], cell["option"])) for cell in own], labels)
    axes[0, -1].set_title("other games")
    for column in axes.T[1:-1]:
        for axis in column:
            axis.tick_params(labelleft=False)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _panels(axes: np.ndarray, cells: list[dict[str, Any]], at: list[int], labels: list[str]) -> None:
    """Draw the rate and the power of options, at their places."""
    for fdr in LEVELS:
        own = [(cell, place + (fdr - 0.15) * 3) for cell, place in zip(cells, at, strict=True) if cell["q"] == fdr]
        for axis, name, bars in zip(axes, ("fdr", "power"), (3, 1), strict=True):
            values, error = ([cell[each] for cell, _ in own] for each in (name, f"{name}_se"))
            error = [bars * each for each in error]
            style = {"color": _COLOURS[fdr], "fmt": "o", "ms": 4, "label": f"q = {fdr:g}"}
            axis.errorbar(values, [place for _, place in own], xerr=error, **style)
        axes[0].axvline(fdr, color=_COLOURS[fdr], linestyle=":", linewidth=1)
    axes[0].set_xlim(-0.02, 0.7)
    axes[1].set_xlim(-0.03, 1.03)
    for axis, name in zip(axes, ("false discovery rate (3 s.e.)", "power (1 s.e.)"), strict=True):
        axis.set_yticks(range(len(labels)), labels)
        axis.set_ylim(len(labels) - 0.5, -0.5)
        axis.set_xlabel(name)
        axis.grid(axis="y", linewidth=0.3)


_COLOURS = {0.1: "#d55e00", 0.2: "#009e73"}

if __name__ == "__main__":
    records.run(Settings, main, __doc__, draw)
