"""How many submodels the LASSO needs to find exactly the responsible sources: in proportion to `k log N / R2`.

Question: the paper's theory promises recovery from `O(k log N)` submodels. Does that hold in numbers, from 100 to
30,000 sources, where `k` of them act additively, saturate together, or vote by majority? And what does it leave out?

`M90` is the smallest number of rows at which the LASSO's path has, in 90 % of 40 runs, exactly the responsible sources
at some penalty; no cross-validation. It is looked for on a grid of ratio `2^(1/8)`, from where a quarter of the runs
fail to where almost none does, and interpolated; its standard error is a bootstrap over runs, which keep their rows
from one `M` to the next. Ten runs share each of four designs, with members and noise planted anew. Whether the support
is exact at some penalty is decided by the primal-dual witness: exactly, but for products in float32, and without the
path of all columns.

Noise is normal, half as large as the spread of the utility given `p`, so that `R2`, the share of the variance given `p`
(noise included) that is linear in the sources, is .8 for the additive game and lower for those with interactions.
Without noise the additive game would be one of compressed sensing, of which nothing is learned about data. The majority
game has an odd number of members: 3, 11 and 31.

Result (`results/sample_complexity.cpu-2-cores.json`, 54 cells, 413 s on two cores that also did other work): `M90` lies
between 2.6 and 6.0 times `k ln N / R2` in every cell. One slope for all games leaves R-squared at .98 (4.7; in
logarithms 3.5, also .98), where `k ln N` alone has .39 (12.9; in logarithms .73). Within the additive game `k ln N`
does: slope 3.5, R-squared .99. `R2` is not all of it: beyond it the slope is 2.8 for the additive game, 3.4 for the
saturating one and 4.9 for the majority, and the factor falls as `N` grows. At `M90`, among 100, 1,000 and 10,000
sources, knockoff selection (rate .1, four copies, ten runs a cell, up to 2,000 rows) finds all sources of `k` = 10 and
30, but for .98 in one cell, and .67 to .97 of `k` = 3, where it selects three at least or none. The false discovery
proportion is .10 on average over the 24 cells, and between .04 and .27.
"""

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats
from sklearn.linear_model import lars_path_gram
from threadpoolctl import threadpool_limits

from experiments import records
from jaxame import games, knockoffs
from jaxame.design import Design, Grid, redraw_masks, sample_design
from jaxame.features import code, exact_columns, mask_columns
from jaxame.lasso import entry_path, make_problem

SEED, LAW = 30, Grid((0.2, 0.4, 0.6, 0.8))
GAMES: dict[str, Callable[[int], games.Additive | games.CountGame]] = {  # of the members alone
    "linear": lambda k: games.Additive(np.ones(k)),
    "saturating": lambda k: games.Saturating(k, range(k), slope=10 / k, centre=k / 2),
    "majority": lambda k: games.Majority(k + 1 - k % 2),
}
SHARE, FIRST, RATIO = 0.9, 8, 2 ** (1 / 8)  # of runs; the grid of M: FIRST RATIO^i
FDR, COPIES, MAX_SUPPORT = 0.1, 4, 64
_BLOCK_BYTES = 8


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    effects: tuple[int, ...] = (3, 10, 30)
    """Numbers of responsible sources; the majority game takes the next odd one."""
    sources: tuple[int, ...] = (100, 300, 1000, 3000, 10_000, 30_000)
    """Numbers of sources, rising."""
    designs: int = 4
    """Designs per number of sources."""
    runs: int = 10
    """Runs per design, each with members and noise of its own."""
    knockoff_sources: tuple[int, ...] = (100, 1000, 10_000)
    """Of `sources`, those at which knockoff selection is run."""
    knockoff_rows: int = 2000
    """Cells that need more rows are left out of it."""
    knockoff_runs: int = 10
    """Runs of the first design that it is run on, at most `runs`."""
    smoke: bool = False
    """Few and small cells; ends with an error unless M90 goes with `k log N / R2`."""
    json: Path | None = None
    """File for the records."""
    figure: Path | None = None
    """File for the figure."""


class Utility(NamedTuple):
    """A game by its number of members: utility `[k+1]`, standard deviation of the noise, and `R2`."""

    levels: np.ndarray
    noise: float
    r2: float


class Planted(NamedTuple):
    """Runs on one design: members `[R, k]` and utilities `[M, R]`."""

    members: np.ndarray
    utilities: np.ndarray


def utility(game: str, k: int) -> Utility:
    """Tabulate a game; noise is half as large as the utility's spread given `p`, both in the regression's weights."""
    own = GAMES[game](k)
    size = own.num_sources
    masks = jnp.tri(size + 1, size, -1, dtype=bool)
    levels = np.asarray(own(jax.random.split(jax.random.key(0), size + 1), masks), np.float64)[:, 0]
    p, share = LAW.quadrature()
    pmf = stats.binom.pmf(np.arange(size + 1), size, p[:, None])
    weight = share / (p * (1 - p))
    variance = weight @ (pmf @ levels**2 - (pmf @ levels) ** 2)
    return Utility(levels, math.sqrt(variance / weight.sum()) / 2, size * own.ame(LAW)[0] ** 2 / (1.25 * variance))


def draw_design(num_sources: int, number: int, num_rows: int) -> Design:
    """Draw one of the designs; a longer one starts with the shorter one."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(SEED), num_sources), number)
    return sample_design(key, LAW, num_submodels=num_rows, num_sources=num_sources)


def first_rows(design: Design, num_rows: int) -> Design:
    """Return the design's first rows, as numpy arrays: there is nothing to compile for every number of rows."""
    arrays: dict[str, Any] = {name: np.asarray(getattr(design, name))[:num_rows] for name in ("p", "packed")}
    return dataclasses.replace(design, **arrays)


def plant(design: Design, of: Utility, number: int, runs: int) -> Planted:
    """Plant members and noise anew in every run; more rows leave the first ones as they are."""
    size = of.levels.size - 1
    coding = code(design)
    members, utilities = [], []
    for run in range(runs):
        rng = np.random.default_rng([SEED, design.num_sources, size, number, run])
        own = rng.choice(design.num_sources, size, replace=False)
        count = (exact_columns(design, coding, own) > 0).sum(axis=1)
        members.append(own)
        utilities.append(of.levels[count] + of.noise * rng.normal(size=count.size))
    return Planted(np.array(members), np.stack(utilities, axis=1))


def segments(gram: np.ndarray, pull: np.ndarray) -> list[tuple[float, float, np.ndarray]]:
    """Where all columns are in the LASSO's path: lower and upper penalty, and the signs, of every such piece of it."""
    penalty, _, coef = lars_path_gram(pull, gram, n_samples=1, method="lasso")
    middle = (coef[:, 1:] + coef[:, :-1]) / 2
    everything = (np.abs(middle) > 1e-12 * np.abs(coef).max()).all(axis=0)
    return [(penalty[i + 1], penalty[i], np.sign(middle[:, i])) for i in np.flatnonzero(everything)]


def feasible(constant: np.ndarray, slope: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Penalties between `low` and `high` at which `|constant + slope penalty| < penalty` everywhere."""
    for sign in (1, -1):
        against, room = sign * constant, 1 - sign * slope
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = against / room
        low = max(low, bound[room > 0].max(initial=0.0))
        high = min(high, bound[room < 0].min(initial=np.inf))
        if (against[room == 0] >= 0).any():
            high = 0.0
    return low, high


def products(design: Design, vectors: np.ndarray) -> np.ndarray:
    """Products `[N, C]` of the membership of all sources with `vectors [M, C]`, in float32."""
    single, packed = vectors.astype(np.float32), np.asarray(design.packed)
    blocks = range(0, packed.shape[1], _BLOCK_BYTES)
    parts = [
        np.unpackbits(packed[:, i : i + _BLOCK_BYTES], axis=1, bitorder="little").astype(np.float32).T @ single
        for i in blocks
    ]
    return np.concatenate(parts)[: design.num_sources].astype(np.float64)


def penalties(design: Design, planted: Planted) -> list[tuple[float, float]]:
    """For every run, a range of penalties at which the LASSO has exactly the members; empty if lower is above upper.

    By the primal-dual witness: the LASSO on the members alone has all of them, and no other column pulls as hard as the
    penalty. Both are linear in the penalty on every piece of the path, so no path of all columns is walked.
    """
    coding = code(design)
    weight = coding.weight / coding.weight.sum()
    owners, ends, vectors = [], [], []
    for run, own in enumerate(planted.members):
        x, y = exact_columns(design, coding, own), planted.utilities[:, run]
        gram, pull = without_intercepts(x, y, coding.z, weight)
        for low, high, signs in segments(gram, pull):
            fit = np.linalg.solve(gram, np.stack([pull, signs], axis=1))
            parts = np.stack([y - x @ fit[:, 0], x @ fit[:, 1]], axis=1)
            level = (coding.z.T @ parts) / coding.z.sum(axis=0)[:, None]
            owners.append(run)
            ends.append((low, high))
            vectors.append(weight[:, None] * (parts - coding.z @ level))
    found = [(np.inf, 0.0)] * len(planted.members)
    if not ends:
        return found
    # What is orthogonal to the intercepts per p does not see that a source's code is its membership less p.
    pulls = products(design, np.concatenate(vectors, axis=1))
    for i, (run, (low, high)) in enumerate(zip(owners, ends, strict=True)):
        outside = np.ones(design.num_sources, bool)
        outside[planted.members[run]] = False
        part = feasible(pulls[outside, 2 * i], pulls[outside, 2 * i + 1], low, high)
        if part[0] < part[1]:
            found[run] = part
    return found


def without_intercepts(
    x: np.ndarray, y: np.ndarray, z: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return `X'WX` and `X'Wy` of columns `x [M, k]` and `y [M]` less their fits by `z [M, D]`."""
    everything = np.concatenate([x, y[:, None], z], axis=1)
    moments = everything.T @ (weight[:, None] * everything)
    size = x.shape[1] + 1
    cross = moments[:size, size:]
    rest = moments[:size, :size] - cross @ np.linalg.solve(moments[size:, size:], cross.T)
    return rest[:-1, :-1], rest[:-1, -1]


class Cell:
    """One game, `k` and `N`: which runs have the true support at some penalty, by number of rows.

    Attributes:
      found: position on the grid of `M` -> bool `[designs * runs]`.
    """

    def __init__(self, of: Utility, num_sources: int, settings: Settings):
        self.of = of
        self.num_sources = num_sources
        self.settings = settings
        self.found: dict[int, np.ndarray] = {}

    def evaluate(self, position: int, pool: "Pool") -> float:
        """Share of the runs that succeed at a position of the grid."""

        def successes(number: int, design: Design) -> list[bool]:
            return [low < high for low, high in penalties(design, plant(design, self.of, number, self.settings.runs))]

        # A design per core: products this thin gain nothing from several threads each.
        with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as executor:
            found = executor.map(successes, itertools.count(), pool.first_rows(rows_at(position)))
            self.found[position] = np.concatenate(list(found))
        return float(self.found[position].mean())

    def search(self, start: int, pool: "Pool") -> None:
        """Go up the grid until nearly all runs succeed, and down until a quarter fail."""
        share = self.evaluate(start, pool)
        position = start
        while share < _NEARLY_ALL:
            position += 1
            share = self.evaluate(position, pool)
        position = start
        while self.found[position].mean() > _TOO_FEW and rows_at(position - 1) > 2 * self.of.levels.size:
            position -= 1
            self.evaluate(position, pool)

    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of rows, rising, and success of every run at each, `[L]` and `[L, runs]`."""
        positions = sorted(self.found)
        return np.array([rows_at(i) for i in positions]), np.stack([self.found[i] for i in positions])


class Pool:
    """The designs over `N` sources, drawn again where more rows are asked for than there are."""

    def __init__(self, num_sources: int, number: int):
        self.num_sources = num_sources
        self.designs: list[Design] = []
        self.number = number

    def first_rows(self, num_rows: int) -> list[Design]:
        """The first rows of every design."""
        if not self.designs or self.designs[0].num_submodels < num_rows:
            drawn = math.ceil(1.3 * num_rows)
            self.designs = [draw_design(self.num_sources, i, drawn) for i in range(self.number)]
        return [first_rows(design, num_rows) for design in self.designs]


def rows_at(position: int) -> int:
    """`M` at a position on the grid."""
    return round(FIRST * RATIO**position)


def smallest_enough(rows: np.ndarray, success: np.ndarray) -> float:
    """The first `M` at which the share of runs reaches `SHARE`, interpolated in `log M` with the one before it.

    Args:
      rows: `[L]` numbers of rows, rising.
      success: `[L, runs]`.
    """
    share = success.mean(axis=1)
    enough = np.flatnonzero(share >= SHARE)
    if not enough.size:
        return float(rows[-1])
    i = enough[0]
    if i == 0:
        return float(rows[0])
    part = (SHARE - share[i - 1]) / (share[i] - share[i - 1])
    return float(np.exp(np.log(rows[i - 1]) + part * np.log(rows[i] / rows[i - 1])))


def standard_error(rows: np.ndarray, success: np.ndarray, repeats: int = 400) -> float:
    """Standard error of `smallest_enough` over the runs, by bootstrap."""
    rng = np.random.default_rng(SEED)
    drawn = rng.integers(0, success.shape[1], (repeats, success.shape[1]))
    return float(np.std([smallest_enough(rows, success[:, own]) for own in drawn], ddof=1))


class Trial(NamedTuple):
    """A game that knockoff selection is tried on: how many rows it gets, and the false discovery rate asked for."""

    of: Utility
    rows: int
    fdr: float = FDR


def knockoff_recovery(trials: list[Trial], num_sources: int, number: int, runs: int) -> tuple[np.ndarray, np.ndarray]:
    """Power and false discovery proportion of knockoff selection in runs on one design, `[trials, runs]` each.

    All are solved as one batch, each query with its own first rows.
    """
    design = draw_design(num_sources, number, max(trial.rows for trial in trials))
    planted = [plant(design, trial.of, number, runs) for trial in trials]
    row = np.arange(design.num_submodels)[:, None]
    targets = [np.where(row < own.rows, of.utilities, np.nan) for own, of in zip(trials, planted, strict=True)]
    coding = code(design)
    columns = mask_columns(design, coding, redraw_masks(design, jax.random.key(SEED), COPIES))
    problem = make_problem(columns, np.concatenate(targets, axis=1), coding.weight, coding.z, None)
    path = entry_path(problem, num_penalties=50, max_support=MAX_SUPPORT, devices=jax.local_devices())
    entries = path.penalty.reshape(len(trials), runs, COPIES + 1, num_sources)
    found = [
        [_recovery(members, knockoffs.select(entry, trial.fdr).indices) for members, entry in zip(*own, strict=True)]
        for trial, own in zip(trials, zip((of.members for of in planted), entries, strict=True), strict=True)
    ]
    power, wrong = np.moveaxis(np.array(found), 2, 0)
    return power, wrong


def _recovery(members: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
    """Share of the members that were chosen, and of the chosen that are none."""
    right = np.isin(chosen, members).sum()
    return right / members.size, (chosen.size - right) / max(chosen.size, 1)


def through_origin(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Fit `y = slope x`; R-squared of it, and of the logarithms of `y` with a slope of one in those of `x`."""
    slope = float(x @ y / (x @ x))
    ratio = np.log(y / x)
    return {
        "slope": slope,
        "r_squared": float(1 - ((y - slope * x) ** 2).sum() / ((y - y.mean()) ** 2).sum()),
        "log_slope": float(np.exp(ratio.mean())),
        "log_r_squared": float(1 - ratio.var() / np.log(y).var()),
        "least_ratio": float((y / x).min()),
        "largest_ratio": float((y / x).max()),
    }


def fits(cells: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Fit `M90` to `k ln N` and to `k ln N / R2`, all games together."""
    scale, r2, rows = (np.array([cell[name] for cell in cells]) for name in ("k_ln_N", "R2", "M90"))
    return {"k ln N": through_origin(scale, rows), "k ln N / R2": through_origin(scale / r2, rows)}


def main(settings: Settings) -> dict[str, Any]:
    """Search every cell and return the records and the fits."""
    if settings.smoke:
        settings = dataclasses.replace(
            settings, effects=(3, 10), sources=(100, 1000), designs=2, knockoff_sources=(100,), knockoff_runs=2
        )
    cells: list[dict[str, Any]] = []
    begin = time.perf_counter()
    for num_sources in settings.sources:
        cells += of_size(num_sources, settings, cells)
        print(f"N = {num_sources}: done after {time.perf_counter() - begin:.0f} s", flush=True)
    add_knockoffs(cells, settings)
    fitted = fits(cells)
    outcome: dict[str, Any] = {"records": cells, "fits": fitted}
    for scale, fit in fitted.items():
        print(scale, fit, flush=True)
    if settings.smoke:
        check(outcome)
    return outcome


def of_size(num_sources: int, settings: Settings, before: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of all games and `k` at one `N`; the search starts near what the last `N` leads to expect."""
    pool = Pool(num_sources, settings.designs)
    found: list[dict[str, Any]] = []
    ratio = {(cell["game"], cell["k"]): cell["M90"] / cell["k_ln_N"] * cell["R2"] for cell in before}
    for k in sorted(settings.effects, reverse=True):
        for game in reversed(GAMES):  # the longest design first
            of = utility(game, k)
            size = of.levels.size - 1
            scale = size * math.log(num_sources)
            guess = ratio.get((game, size), 4.0) * scale / of.r2
            cell = Cell(of, num_sources, settings)
            cell.search(max(0, round(math.log(guess / FIRST, RATIO))), pool)
            rows, success = cell.shares()
            m90 = smallest_enough(rows, success)
            record = {"game": game, "N": num_sources, "k": size, "M90": m90, "M90_se": standard_error(rows, success)}
            shares = dict(zip(map(str, rows), success.mean(axis=1).tolist(), strict=True))
            found.append(record | {"R2": of.r2, "k_ln_N": scale, "runs": success.shape[1], "shares": shares})
    return found


def add_knockoffs(cells: list[dict[str, Any]], settings: Settings) -> None:
    """Add what knockoff selection finds at `M90` to the records, for the cells that the settings ask for."""
    for num_sources in sorted(set(settings.knockoff_sources) & set(settings.sources)):
        own = [cell for cell in cells if cell["N"] == num_sources and cell["M90"] <= settings.knockoff_rows]
        trials = [Trial(utility(cell["game"], cell["k"]), math.ceil(cell["M90"])) for cell in own]
        power, wrong = knockoff_recovery(trials, num_sources, 0, settings.knockoff_runs)
        for cell, right, other in zip(own, power, wrong, strict=True):
            cell |= {"knockoff_power": float(right.mean()), "knockoff_fdp": float(other.mean())}
            cell |= {"knockoff_runs": right.size}


def check(outcome: dict[str, Any]) -> None:
    """End with an error if the claim is plainly not met."""
    plain, scaled = outcome["fits"]["k ln N"], outcome["fits"]["k ln N / R2"]
    power = np.mean([cell["knockoff_power"] for cell in outcome["records"] if "knockoff_power" in cell])
    if scaled["r_squared"] < max(0.8, plain["r_squared"]) or power < 0.6:
        raise SystemExit(f"the claim is not met: {outcome['fits']}, knockoff power {power:.2f}")


def draw(outcome: dict[str, Any], path: Path) -> None:
    """Draw `M90` against both scales, with both fits."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 5.5), sharey=True, layout="constrained")
    cells = outcome["records"]
    for panel, (name, fit) in zip(axes, outcome["fits"].items(), strict=True):
        x = np.array([cell["k_ln_N"] / (cell["R2"] if "R2" in name else 1.0) for cell in cells])
        ends = np.array([x.min() / 1.2, x.max() * 1.2])
        panel.plot(ends, fit["slope"] * ends, color="0.6", zorder=0)
        panel.plot(ends, fit["log_slope"] * ends, color="0.6", linestyle=":", zorder=0)
        for cell, at in zip(cells, x, strict=True):
            style = {"color": _COLOURS[cell["game"]], "marker": _marker(cell["k"])}
            panel.errorbar(at, cell["M90"], 2 * cell["M90_se"], markersize=5, linewidth=1, **style)
        panel.set(xscale="log", yscale="log", xlabel=name, title=_title(name, fit))
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("M90: submodels for the exact support in 90 % of the runs\n(bars: 2 standard errors)")
    handles = [plt.Line2D([], [], color=colour, label=game) for game, colour in _COLOURS.items()]
    for k in sorted({cell["k"] for cell in cells if cell["game"] == "linear"}):
        label = f"k = {k}" if k % 2 else f"k = {k} (majority {k + 1})"
        handles.append(plt.Line2D([], [], color="k", linestyle="", marker=_marker(k), label=label))
    axes[0].legend(handles=handles, frameon=False)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _title(name: str, fit: dict[str, float]) -> str:
    solid = f"solid: M90 = {fit['slope']:.2f} {name}, R-squared {fit['r_squared']:.3f}"
    return f"{solid}\ndotted, in logarithms: {fit['log_slope']:.2f}, R-squared {fit['log_r_squared']:.3f}"


def _marker(k: int) -> str:
    return "o" if k < 10 else "s" if k < 30 else "^"


_NEARLY_ALL, _TOO_FEW = 0.975, 0.75  # shares of the runs that end the search
_COLOURS = {"linear": "#0072b2", "saturating": "#d55e00", "majority": "#009e73"}

if __name__ == "__main__":
    records.run(Settings, main, __doc__, draw)
