"""What each option of the estimator gains at equal numbers of submodels, on closed-form games and on the digits.

Claim: the default (weighted form, least squares on the `lambda_1se` support, one step, empirical Bayes) has at most
half the L2 error of the paper's estimator (ame code, one intercept, LASSO at `lambda_1se`) on saturating games with at
least as many submodels as sources.

`l2_error` is the root mean square over replicates of the L2 distance between estimated and true AME, `ratio` that of
the paper's estimator on the same number of rows (under "shapley", of the default), `ratio_se` its jackknife error over
replicates. Every replicate plants sources anew among 500; normal noise has half the standard deviation of the utility.
Cross-validation has five folds.

Options change one thing. "intercepts", "weighted", "relaxed" and "default": from the paper's estimator to the default,
one after the other. "centered", "paired", "interactions" and "prior": the default with this change. A prior is made by
a simulated user: "good" scores are the true effects times log-normal noise plus half-normal noise of a fifth of the
largest, "useless" ones are those in a random order.

On the digits the AME is not known: two halves of independent submodels give two unbiased estimates `a`, `b` by least
squares on all sources, and `(v - a) (v - b)` summed is an unbiased squared error of `v`. Its prior is the similarity of
a training image to the query if it has the attacker's label.

Result (`results/estimator_ablation.cpu-2-cores.json`; 3 replicates, 2 on the digits; 257 s on two cores): with as many
rows as sources and four times as many, the default has .36 and .17 of the paper's error on the saturating game
(standard errors .05 and .03), .27 and .24 on the one that saturates early, between .21 and .70 on the other closed
forms, .82 and .58 on the digits. The relaxed fit alone has .43 and .22, .44 and .31. Interactions help where few
sources interact strongly, with .18 and .20 on early saturation, .20 and .13 on the threshold and .20 on the majority
with four times as many rows, where the default has .29; elsewhere they change little (the largest loss is .02). A good
prior takes up to an eighth off, a useless one costs nothing; pairs gain or lose by little but lose with as many rows as
sources on saturation, threshold and majority. Efficiency moves the error of Shapley values by -.14 to +.06 of it.

Settings were chosen on seed 900, where also measured and left out: subtracting a multiple of the prior's linear
prediction (worse than penalty factors on sparse games), factors of the square root of the prior, least squares at
`lambda_min`, further steps after the first (they diverge where most sources matter), a step from the LASSO itself
(where there is no noise, its bias stays), and spreading what efficiency misses over the support (up to 2.5 times the
error).
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np

from experiments import records
from jaxame import demo, estimate_ame, evaluate, games
from jaxame.attribution import Attribution
from jaxame.design import Design, Grid, TruncatedUniform, sample_design
from jaxame.features import code, mask_columns
from jaxame.lasso import assign_folds, cross_validate, make_problem
from jaxame.values import estimate_values

NUM_SOURCES, SEED, NOISE, FOLDS = 500, 40, 0.5, 5
LAW, UNIFORM, SHAPLEY = Grid((0.2, 0.4, 0.6, 0.8)), TruncatedUniform(0.01), TruncatedUniform(1e-6)
DIGITS = demo.Settings(num_train=200, num_poisoned=5, num_queries=8, num_steps=50, batch_size=64)
Measure = Callable[[Design, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    replicates: int = 3
    """Of every closed-form game and number of submodels."""
    rows: tuple[float, ...] = (1.0, 4.0)
    """Numbers of submodels, in multiples of the number of sources."""
    digits: int = 2
    """Replicates on the digits; 0 leaves them out."""
    digits_truth: int = 4000
    """Submodels behind the digits' reference."""
    smoke: bool = False
    """Two replicates of 500 submodels of the saturating games, from the paper's estimator to the default; ends with an
    error if the claim is plainly not met."""
    json: Path | None = None
    """File for the records."""
    figure: Path | None = None
    """File for the figure."""


def plant(rng: np.random.Generator) -> dict[str, Any]:
    """Return games with sources drawn at random."""

    def members(count: int) -> list[int]:
        return rng.choice(NUM_SOURCES, count, replace=False).tolist()

    weights = np.zeros(NUM_SOURCES)
    weights[members(10)] = rng.uniform(0.5, 1.5, 10) * rng.choice([-1, 1], 10)
    coalitions = [members(size) for size in (1, 1, 1, 2, 2, 2, 3, 3)]
    return {
        "additive": games.Additive(weights),
        "saturating": games.Saturating(NUM_SOURCES, members(10), slope=1.0, centre=5.0),
        "saturating early": games.Saturating(NUM_SOURCES, members(8), slope=1.5, centre=2.0),
        "threshold": games.Threshold(NUM_SOURCES, members(5), 3),
        "majority": games.Majority(NUM_SOURCES, members(11)),
        "unanimity sum": games.UnanimitySum(NUM_SOURCES, coalitions, rng.uniform(0.5, 1.5, len(coalitions))),
    }


def priors(truth: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return what a user who knows something or nothing might say; none reaches an estimator unasked."""
    share = np.abs(truth) / np.abs(truth).max(axis=1, keepdims=True)
    good = share * np.exp(0.5 * rng.normal(size=share.shape)) + 0.2 * np.abs(rng.normal(size=share.shape))
    return {"good": good, "useless": rng.permuted(good, axis=1)}


def estimates(
    measure: Measure, key: jax.Array, num_rows: int, num_sources: int, prior: dict[str, np.ndarray], steps_only: bool
) -> dict[str, np.ndarray]:
    """Return the values `[Q, N]` of every option, or of those from the paper's estimator to the default only.

    `measure(design, number)` gives utilities `[M, Q]`.
    """

    def draw(**options: Any) -> Design:
        return sample_design(key, LAW, num_submodels=num_rows, num_sources=num_sources, **options)

    design = draw()
    utilities = measure(design, 0)
    as_paper = dataclasses.replace(design, coding="ame")  # the same rows and law, coded otherwise
    default = fit(design, utilities)
    intercepts, weighted = fit(as_paper, utilities).lasso_1se, default.lasso_1se
    assert intercepts is not None
    assert weighted is not None

    def from_lasso(interactions: bool = False, shrunken: bool = True) -> np.ndarray:
        """Return what these options of `estimate_ame` would, from the LASSO of the default."""
        return estimate_values(
            design, code(design), utilities, weighted, interactions=interactions, shrunken=shrunken
        ).mean

    steps = {
        "paper": paper(as_paper, utilities),
        "intercepts": intercepts,
        "weighted": weighted,
        "relaxed": from_lasso(shrunken=False),
        "default": default.values,
    }
    if steps_only:
        return steps
    paired, centered = draw(paired=True), draw(coding="centered")
    return steps | {
        "centered": fit(centered, measure(centered, 1)).values,
        "paired": fit(paired, measure(paired, 2)).values,
        "interactions": from_lasso(interactions=True),
        **{f"prior, {name}": fit(design, utilities, prior=scores).values for name, scores in prior.items()},
    }


def fit(design: Design, utilities: np.ndarray, **options: Any) -> Attribution:
    """Estimate without selection, on all cores."""
    return estimate_ame(design, utilities, copies=0, folds=FOLDS, devices=jax.local_devices(), **options)


def paper(design: Design, utilities: np.ndarray) -> np.ndarray:
    """Return the AME `[Q, N]` as the paper estimates it, scaled as DESIGN's section 4 says."""
    coding, rows = code(design), design.num_submodels
    fold = np.asarray(assign_folds(jax.random.fold_in(jax.random.key(SEED), rows), rows, FOLDS))
    problem = make_problem(mask_columns(design, coding), utilities, coding.weight, np.ones((rows, 1)), fold)
    return coding.scale * cross_validate(problem, devices=jax.local_devices()).coef_1se


def shapley(planted: list[Any], measure: Measure, key: jax.Array, num_rows: int) -> dict[str, np.ndarray]:
    """Return the values `[Q, N]` of the options that concern Shapley values."""
    design = sample_design(key, UNIFORM, num_submodels=num_rows, num_sources=NUM_SOURCES)
    result = fit(design, measure(design, 3))
    ends = exact(planted, np.array([[False] * NUM_SOURCES, [True] * NUM_SOURCES]))
    return {"shapley, default": result.values, "shapley, efficient": result.efficient(ends[1] - ends[0])}


def exact(planted: list[Any], masks: np.ndarray) -> np.ndarray:
    """Return the utilities `[m, Q]` of games side by side."""
    return np.concatenate([np.asarray(game(None, masks), np.float64) for game in planted], axis=1)


def closed_form(num_rows: int, number: int, steps_only: bool) -> dict[tuple[str, str], float]:
    """Return the squared error of every game and option in one replicate."""
    seed = [SEED, num_rows, number]
    rng = np.random.default_rng(seed)
    named = plant(rng)
    if steps_only:  # of what the claim is about
        named = {name: game for name, game in named.items() if name.startswith("saturating")}
    planted = list(named.values())
    keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(SEED), num_rows), number))
    reference = sample_design(keys[1], LAW, num_submodels=2000, num_sources=NUM_SOURCES)
    spread = NOISE * exact(planted, np.asarray(reference.masks())).std(axis=0)

    def measure(design: Design, stream: int) -> np.ndarray:
        clean = exact(planted, np.asarray(design.masks()))
        return clean + np.random.default_rng([*seed, stream]).normal(size=clean.shape) * spread

    truth, values = (np.stack([game.ame(law) for game in planted]) for law in (LAW, SHAPLEY))
    found = estimates(measure, keys[0], num_rows, NUM_SOURCES, priors(truth, rng), steps_only)
    if not steps_only:
        found |= shapley(planted, measure, keys[0], num_rows)
    return {
        (game, option): float(((one[q] - (values if "shapley" in option else truth)[q]) ** 2).sum())
        for option, one in found.items()
        for q, game in enumerate(named)
    }


def digits(settings: Settings) -> dict[tuple[str, int, str], list[float]]:
    """Return the squared errors on the digits, means over queries, of every number of rows and option."""
    data_key, shared_key, truth_key, key = jax.random.split(jax.random.key(SEED), 4)
    attacked = demo.attack(DIGITS, data_key)
    game = demo.make_game(DIGITS, attacked, shared_key)
    design = sample_design(truth_key, LAW, num_submodels=settings.digits_truth, num_sources=DIGITS.num_train)
    halves = reference_halves(design, evaluate(game, design))
    flat, asked = (x.reshape(len(x), -1) for x in (attacked.train.x, attacked.query_x))
    similarity = (asked @ flat.T) / np.linalg.norm(asked, axis=1)[:, None] / np.linalg.norm(flat, axis=1)
    prior = {"similarity": np.where(attacked.train.y == attacked.target, np.maximum(similarity, 0.0), 0.0)}
    errors: dict[tuple[str, int, str], list[float]] = {}
    for share in settings.rows:
        num_rows = round(share * DIGITS.num_train)
        for number in range(settings.digits):
            own = jax.random.fold_in(jax.random.fold_in(key, num_rows), number)
            found = estimates(lambda design, _: evaluate(game, design), own, num_rows, DIGITS.num_train, prior, False)
            for option, values in found.items():
                error = ((values - halves[0]) * (values - halves[1])).sum(axis=1).mean()
                errors.setdefault(("digits", num_rows, option), []).append(float(error))
    return errors


def reference_halves(design: Design, utilities: np.ndarray) -> list[np.ndarray]:
    """Return weighted least squares on all sources `[Q, N]` from each half of the rows: independent and unbiased."""
    coding, masks = code(design), np.asarray(design.masks())
    root = np.sqrt(coding.weight)[:, None]
    columns = root * np.column_stack([np.where(masks, coding.high[:, None], coding.low[:, None]), coding.z])
    halves = np.array_split(np.arange(len(masks)), 2)
    return [np.linalg.lstsq(columns[h], (root * utilities)[h])[0][: masks.shape[1]].T for h in halves]


def summarise(errors: dict[tuple[str, int, str], list[float]]) -> list[dict[str, Any]]:
    """Return a record per game, number of rows and option."""
    found = []
    for (game, num_rows, option), own in errors.items():
        base = errors[game, num_rows, "shapley, default" if "shapley" in option else "paper"]
        ratio, ratio_se = _ratio(np.array(own), np.array(base))
        cell = {
            "game": game,
            "M": num_rows,
            "option": option,
            "l2_error": float(np.sqrt(max(float(np.mean(own)), 0.0))),
        }
        found.append(cell | {"ratio": ratio, "ratio_se": ratio_se, "replicates": len(own)})
    return found


def _ratio(own: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    """Ratio of root mean squares, and its jackknife standard error."""
    left = np.sqrt(np.maximum((own.sum() - own) / (base.sum() - base), 0.0))
    error = np.sqrt((own.size - 1) / own.size * ((left - left.mean()) ** 2).sum())
    return float(np.sqrt(max(float(own.sum() / base.sum()), 0.0))), float(error)


def main(settings: Settings) -> dict[str, Any]:
    """Run all cells and return the records."""
    if settings.smoke:
        settings = dataclasses.replace(settings, replicates=2, rows=(1.0,), digits=0)
    begin = time.perf_counter()
    errors: dict[tuple[str, int, str], list[float]] = {}
    for share in settings.rows:
        num_rows = round(share * NUM_SOURCES)
        for number in range(settings.replicates):
            for (game, option), error in closed_form(num_rows, number, settings.smoke).items():
                errors.setdefault((game, num_rows, option), []).append(error)
            print(f"M = {num_rows}, {number}: {time.perf_counter() - begin:.0f} s", flush=True)
    if settings.digits:
        errors |= digits(settings)
    cells = summarise(errors)
    if settings.smoke:
        check(cells)
    return {"records": cells}


def check(cells: list[dict[str, Any]]) -> None:
    """End with an error if the claim is plainly not met."""
    mine = [cell for cell in cells if cell["option"] == "default" and cell["M"] >= NUM_SOURCES]
    bad = [cell for cell in mine if cell["game"].startswith("saturating") and cell["ratio"] > 0.65]
    if bad or not mine:
        raise SystemExit(f"the claim is not met: {bad}")


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the ratio of every option, a panel per game."""
    cells = results["records"]
    names = list(dict.fromkeys(cell["game"] for cell in cells))
    options = list(dict.fromkeys(cell["option"] for cell in cells if cell["option"] != "paper"))
    figure, axes = plt.subplots(
        2, -(-len(names) // 2), figsize=(15, 9), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes.flat, names, strict=False):
        for shift, num_rows in enumerate(sorted({cell["M"] for cell in cells if cell["game"] == name})):
            own = [c for c in cells if (c["game"], c["M"]) == (name, num_rows) and c["option"] != "paper"]
            at = [options.index(cell["option"]) + 0.22 * (shift - 0.5) for cell in own]
            error = [2 * cell["ratio_se"] for cell in own]
            label = f"M = {num_rows / (DIGITS.num_train if name == 'digits' else NUM_SOURCES):g} N"
            axis.errorbar([cell["ratio"] for cell in own], at, xerr=error, fmt="o", ms=4, label=label)
        axis.axvline(1.0, color="grey", linewidth=1)
        axis.axvline(0.5, color="grey", linewidth=1, linestyle=":")
        axis.set_title(name)
        axis.set_yticks(range(len(options)), options)
    axes[0, 0].invert_yaxis()
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    for axis in axes[-1]:
        axis.set_xlabel("error, relative to the paper's")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    records.run(Settings, main, __doc__, draw)
