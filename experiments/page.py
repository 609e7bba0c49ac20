"""The rows of `experiments/README.md`: of every experiment its question, its measured result and what it cost.

All numbers come from the stored records, see `experiments.tables`. A result is one sentence; the header of the
experiment has the rest.
"""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import all as every

Run = dict[str, Any]
RESULTS = Path(__file__).parent / "results"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _num_seeds(run: Run) -> int:
    return len({one["seed"] for one in run["records"]})


def mean_of(records: list[Run], name: str) -> float:
    """Mean over those that have it: an empty selection may have no precision."""
    return _mean([one[name] for one in records if one[name] is not None])


def _where(run: Run, **given: Any) -> list[Run]:
    return [one for one in run["records"] if all(one.get(name) == value for name, value in given.items())]


def _poisoned_digits(run: Run) -> str:
    found = run["records"]
    precision, recall = (_mean([one[name] for one in found]) for name in ("precision", "recall"))
    return f"{len(found)} seeds: precision {precision:.3f}, recall {recall:.3f} at a false discovery rate of .05."


def _poisoned_cifar10(run: Run) -> str:
    own = [one for one in run["summary"] if one["q"] == 0.1]
    size = f"Size {run['size']}, {own[0]['seeds']} seeds, N = {run['num_train']:,}, k = {run['k']}, q = .1"
    submodels = ", ".join(f"{one['num_submodels']:,}" for one in own)
    precision, recall = (", ".join(f"{one[name]:.2f}" for one in own) for name in ("precision", "recall"))
    return (
        f"{size}: from {submodels} submodels precision {precision} and recall {recall}; larger sizes: no submodels yet."
    )


def _gradient_baselines(run: Run) -> str:
    ours, *others = run["summary"]
    others = [one for one in others if not one["estimator"].startswith("jaxame")]
    best = max(others, key=lambda one: one["average_precision"])
    predicts = max(others, key=lambda one: one["lds"])
    return (
        f"{ours['seeds']} seeds. Average precision {ours['average_precision']:.2f}, of others at most "
        f"{best['average_precision']:.2f} ({best['estimator']}); LDS {ours['lds']:.2f}, of others at most "
        f"{predicts['lds']:.2f} ({predicts['estimator']})."
    )


def _robustness(run: Run) -> str:
    base, *others = run["summary"]
    precise = min(others, key=lambda one: one["precision"])
    found = min(others, key=lambda one: one["recall"])
    return (
        f"{base['seeds']} seeds. As it is: precision {base['precision']:.2f}, recall {base['recall']:.2f}; lowest "
        f"precision {precise['precision']:.2f} ({precise['condition']}; {precise['empty']:.1f} of 20 selections empty, "
        f"which count as 1), lowest recall {found['recall']:.2f} ({found['condition']})."
    )


def _other_attacks(run: Run) -> str:
    parts = []
    for attack in dict.fromkeys(one["attack"] for one in run["records"]):
        own = _where(run, attack=attack)
        scores = " and ".join(f"{_mean([one[name] for one in own]):.2f}" for name in ("precision", "recall"))
        parts.append(f"{attack} {scores}")
    return f"{_num_seeds(run)} seeds, precision and recall. {'; '.join(parts)}."


def _wrong_predictions(run: Run) -> str:
    ways = "; ".join(f"{one['way']}, {one['margin']:.2f} and {one['right']:.0%}" for one in run["summary"])
    first = run["summary"][0]
    return (
        f"{first['queries']} of {first['asked']} wrong predictions have a selection. By how much the wrong class's "
        f"margin falls without it or as many others, and how often retraining is then right: {ways}; with nothing "
        f"taken out {first['right_before']:.0%}."
    )


def _hierarchy(run: Run) -> str:
    parts = []
    for data, design, level in dict.fromkeys((one["data"], one["design"], one["level"]) for one in run["records"]):
        own = _where(run, data=data, design=design, level=level)
        if design == "two-stage":
            precision, recall = (mean_of(own, name) for name in ("precision", "recall"))
            parts.append(f"{data} {level}s {precision:.2f} and {recall:.2f}")
    return f"{_num_seeds(run)} seeds, two-stage selection, precision and recall. {'; '.join(parts)}."


def _fdr_calibration(run: Run) -> str:
    own = _where(run, method="knockoff+")
    held = [one["fdr"] <= one["q"] + 2 * one["fdr_se"] for one in own]
    worst = max(own, key=lambda one: (one["fdr"] - one["q"]) / max(one["fdr_se"], 1e-9))
    return (
        f"The rate is at most q, within two standard errors, in {sum(held)} of {len(held)} cells of knockoff+; "
        f"farthest above: {worst['fdr']:.3f} ({worst['fdr_se']:.3f}) for {worst['q']:g}."
    )


def _selection_options(run: Run) -> str:
    power = {
        option: _where(run, option=option, game="additive", k=30, q=0.1)[0]["power"] for option in ("default", "1 copy")
    }
    return f"Additive game, k = 30: power {power['default']:.2f}, with one copy {power['1 copy']:.2f}."


def _interval_coverage(run: Run) -> str:
    covered = [one["coverage"] for one in run["records"]]
    return f"Coverage from {min(covered):.3f} to {max(covered):.3f} in {len(covered)} cells."


def _estimator_ablation(run: Run) -> str:
    ratio = {one["M"]: one["ratio"] for one in _where(run, option="default", game="saturating")}
    texts = ", ".join(f"{value:.2f} from {rows:,} submodels" for rows, value in ratio.items())
    return f"Saturating game: error relative to the paper's estimator {texts}."


def _sample_complexity(run: Run) -> str:
    fit = run["fits"]["k ln N / R2"]
    span = f"{fit['least_ratio']:.1f} to {fit['largest_ratio']:.1f}"
    return f"{span} times `k ln N / R2` submodels in {len(run['records'])} cells; R-squared {fit['r_squared']:.2f}."


def _planning(run: Run) -> str:
    planned = [one["measured"] for one in _where(run, what="plan") if one["predicted"]]
    return f"As many submodels as planned find {min(planned):.2f} or more of the sources, for a promised .9."


def _errors(run: Run, budget: int) -> str:
    errors: dict[str, list[float]] = {}
    for one in _where(run, budget=budget):
        errors.setdefault(one["estimator"], []).append(one["l2_error"])
    means = {name: _mean(some) for name, some in errors.items()}
    name = min((name for name in means if not name.startswith("jaxame")), key=means.__getitem__)
    return f"{means['jaxame']:.2g}, of the nearest other {means[name]:.2g} ({name})"


def _shapley_threshold(run: Run) -> str:
    return f"L2 error at 2^10 evaluations {_errors(run, 2**10)}; at 2^14 {_errors(run, 2**14)}; of a norm of .577."


def _shapley_mnist(run: Run) -> str:
    norm = f"{run['norm']:.3f}"
    return f"L2 error at 2^10 trainings {_errors(run, 2**10)}; at 2^14 {_errors(run, 2**14)}; of a norm of {norm}."


def _valuation(run: Run) -> str:
    found = {(one["estimator"], one["data"]): one for one in run["summary"]}
    parts = [
        f"{data} {found['jaxame', data]['mislabel_auc']:.2f} and {found['jaxame', data]['lds']:.2f}, with all "
        f"submodels at inclusion 1/2 {found['jaxame, Banzhaf', data]['mislabel_auc']:.2f} and "
        f"{found['jaxame, Banzhaf', data]['lds']:.2f}"
        for data in dict.fromkeys(key[1] for key in found)
    ]
    seeds = next(iter(found.values()))["seeds"]
    return f"{seeds} seeds, wrong labels found (AUC) and LDS. {'; '.join(parts)}."


def _common_random_numbers(run: Run) -> str:
    neither, *_, both = run["records"]
    saved = 1 - both["variance"] / neither["variance"]
    return f"Sharing order and start saves {saved:.0%} of the variance and ties {both['tied']:.2f} of the signal."


def _warm_start(run: Run) -> str:
    last = run["records"][-1]
    agrees = f"{last['rank_correlation']:.2f}, where training from scratch twice has {last['ceiling']:.2f}"
    return f"Correlation with training from scratch after {last['steps']} steps: {agrees}."


ROWS: dict[str, Callable[[Run], str]] = {
    "poisoned_digits": _poisoned_digits,
    "poisoned_cifar10": _poisoned_cifar10,
    "gradient_baselines": _gradient_baselines,
    "robustness": _robustness,
    "other_attacks": _other_attacks,
    "wrong_predictions": _wrong_predictions,
    "hierarchy": _hierarchy,
    "fdr_calibration": _fdr_calibration,
    "selection_options": _selection_options,
    "interval_coverage": _interval_coverage,
    "estimator_ablation": _estimator_ablation,
    "sample_complexity": _sample_complexity,
    "planning": _planning,
    "shapley_threshold": _shapley_threshold,
    "shapley_mnist": _shapley_mnist,
    "valuation": _valuation,
    "common_random_numbers": _common_random_numbers,
    "warm_start": _warm_start,
}
"""What to say of the stored run of every experiment."""

_HEAD = """# Experiments

One file per claim. Each says in its header what is measured and how, takes `--json FILE` and `--figure FILE` (the
first, like `jaxame demo`, writes a folder with both instead), and with `--smoke` runs in small and ends with an error
if its claim is not met at a loose bound; `--debug` shows where an error came from.
`python -m experiments.all --smoke` runs all of them so, `python -m experiments.all` all as below. The raw
numbers are in `results/`, by kind of machine; this page is made from them by `python -m experiments.tables`.

`N` sources, `k` of them responsible; `q`, the false discovery rate asked for; `c k log2(N)` submodels; LDS, the linear
datamodeling score: the rank correlation of sums of values with utilities of held-out subsets.

| experiment | what | result | cost |
| :-- | :-- | :-- | --: |
"""


def page() -> str:
    """Return `experiments/README.md`."""
    return _HEAD + "".join(_row(name, say) for name, say in ROWS.items())


def _row(name: str, say: Callable[[Run], str]) -> str:
    run = _stored(name)
    what = (importlib.import_module(f"experiments.{name}").__doc__ or "").split("\n\n")[0].replace("\n", " ")
    machine = f"{len(run['devices'])} {run['devices'][0].lower()}"
    cost = f"{run['seconds']:,.0f} s, {machine}, jax {run['versions']['jax']}"
    return f"| {_command(name)} | {what} | {say(run)} | {cost} |\n"


def _command(name: str) -> str:
    (_, first), *others = every.runs(name)
    command = f"`{' '.join(('python -m experiments.' + name, *first))}`"
    return f"{command} to `{' '.join(others[-1][1])}`" if others else command


def _stored(name: str) -> Run:
    """Return the stored run on two cores; of several, one per seed, all as records of one."""
    whole = RESULTS / f"{name}.cpu-2-cores.json"
    if whole.exists():
        return json.loads(whole.read_text())
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{name}.cpu-2-cores.*.json"))]
    return runs[0] | {"records": runs, "seconds": sum(one["seconds_total"] for one in runs)}
