"""Write the tables of README.md, and experiments/README.md, from the raw results: `python -m experiments.tables`."""

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.shapley import KINDS, NO_ERROR
from experiments.page import mean_of, page
from experiments.shapley_threshold import mean_errors

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks" / "results"
RESULTS = ROOT / "experiments" / "results"
COLUMNS = {
    "seed": "d",
    "precision": ".3f",
    "recall": ".3f",
    "num_empty": "d",
    "attack_success": ".3f",
    "clean_accuracy": ".3f",
    "seconds_total": ".0f",
    "peak_rss_mb": ".0f",
}


def demo_table() -> str:
    """One row per stored run of `experiments.poisoned_digits`, and the settings they share."""
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("poisoned_digits.*.json"))]
    rows = [[format(run[name], spec) for name, spec in COLUMNS.items()] for run in runs]
    lines = [list(COLUMNS), ["---:"] * len(COLUMNS), *rows]
    first = runs[0]
    shared = f"{first['num_submodels']} submodels, {first['copies']} knockoff copies, FDR {first['fdr']:g}"
    setting = f"{shared}; {len(first['devices'])} CPU cores, jax {first['versions']['jax']}."
    return "\n".join([setting, "", *("| " + " | ".join(line) + " |" for line in lines)])


def submodels_table() -> str:
    """One row per solver of every stored run of `benchmarks.submodels`."""
    lines = [
        ["case", "solver", "submodels/s", "peak", "objective", "best setting"],
        [":--", ":--", *["---:"] * 3, ":--"],
    ]
    for path in sorted(BENCHMARKS.glob("submodels.*.json")):
        run = json.loads(path.read_text())
        for record in (record for record in run["records"] if "objective" in record):
            peak = f"{record['fraction_of_peak']:.0%}" if "fraction_of_peak" in record else ""
            setting = ", ".join(f"{name} {value}" for name, value in record["setting"].items())
            rate, objective = f"{record['submodels_per_second']:.4g}", f"{record['objective']:.4g}"
            lines.append([run["model"], record["solver"], rate, peak, objective, setting])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def lasso_table() -> str:
    """One row per solver of every stored run of `benchmarks.lasso`."""
    lines = [["rows", "columns", "queries", "folds", "path", "solver", "s a query", "largest gap", "MB"]]
    lines.append([*["---:"] * 4, ":--", ":--", *["---:"] * 3])
    for path in sorted(BENCHMARKS.glob("lasso.*.json")):
        run = json.loads(path.read_text())
        given = run["settings"]
        columns = given["sources"] * (2 if given["knockoffs"] else 1)
        for record in run["records"]:
            problem = [given["submodels"], columns, record["queries_run"], given["folds"]]
            cells = [*(f"{number:,}" for number in problem), "whole" if given["full_path"] else "ends early"]
            gap, memory = f"{record['max_relative_gap']:.1e}", f"{record['peak_rss_mb']:,.0f}"
            lines.append([*cells, record["solver"], f"{record['seconds_per_query']:.3g}", gap, memory])
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", growth()])


def growth() -> str:
    """A sentence on the stored run of `benchmarks.lasso --growth`."""
    run = json.loads((BENCHMARKS / "lasso_growth.cpu-2-cores.json").read_text())
    first, last = run["records"][0], run["records"][-1]
    powers = {name: f"{power:.2f}" for name, power in run["exponents"].items()}
    seconds, memory = (f"{first[name]:,.0f} to {last[name]:,.0f}" for name in ("seconds", "peak_rss_mb"))
    return (
        f"From {first['sources']:,} to {last['sources']:,} sources, one query, with compilation: {seconds} s, "
        f"{memory} MB; the exponents are {powers['seconds']} and {powers['peak_rss_mb']}."
    )


def fdr_table() -> str:
    """False discovery rate and power of knockoff+ in the stored run of `experiments.fdr_calibration`."""
    run = json.loads((RESULTS / "fdr_calibration.cpu-2-cores.json").read_text())
    own = [record for record in run["records"] if record["method"] == "knockoff+"]
    settings = [(10, 0.2, 1), (10, 0.05, 4), (10, 0.1, 4), (30, 0.05, 4)]
    lines = [["game", "rows", "submodels", *(f"k = {k}, q = {q:g}, c = {copies}" for k, q, copies in settings)]]
    lines.append([":--", ":--", *["---:"] * (1 + len(settings))])
    found = {tuple(r[name] for name in ("game", "design", "M", "k", "q", "copies")): r for r in own}
    for start in dict.fromkeys(key[:3] for key in found):
        cells = [found[(*start, *setting)] for setting in settings]
        game, design, rows = start
        lines.append([game, design, f"{rows:,}", *map(_rate_and_power, cells)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def selection_table() -> str:
    """Every option in the stored run of `experiments.selection_options`: on planted games, then on games of its own."""
    run = json.loads((RESULTS / "selection_options.cpu-2-cores.json").read_text())
    found = {tuple(r[name] for name in ("option", "game", "k", "q")): r for r in run["records"]}
    settings = [("additive", 30, 0.1), ("saturating", 30, 0.1), ("majority", 10, 0.1)]
    lines = [["option", *(f"{game}, k = {k}" for game, k, _ in settings), "overlap", "s a query"]]
    lines.append([":--", *["---:"] * (2 + len(settings))])
    for option in dict.fromkeys(key[0] for key in found if key[1:] == settings[0]):
        cells = [found[option, *setting] for setting in settings]
        overlap = [cell["jaccard"] for cell in cells if cell["jaccard"] is not None]
        shown = f"{sum(overlap) / len(overlap):.2f}" if overlap else ""
        lines.append([option, *map(_rate_and_power, cells), shown, f"{cells[0]['seconds']:.2g}"])
    own = [["game", "selected by", "q = 0.1", "q = 0.2"], [":--", ":--", "---:", "---:"]]
    for option, game, k in dict.fromkeys(key[:3] for key in found if key[1] in _OWN_GAMES):
        own.append([game, option, *(_rate_and_power(found[option, game, k, q]) for q in (0.1, 0.2))])
    first, second = ("\n".join("| " + " | ".join(line) + " |" for line in part) for part in (lines, own))
    return f"{first}\n\n{second}"


def ablation_table() -> str:
    """Error of every option in the stored run of `experiments.estimator_ablation`, a column per game."""
    run = json.loads((RESULTS / "estimator_ablation.cpu-2-cores.json").read_text())
    found = {(r["option"], r["game"], r["M"]): r for r in run["records"]}
    names = list(dict.fromkeys(game for _, game, _ in found))
    lines = [["option", *names], [":--", *["---:"] * len(names)]]
    for option in dict.fromkeys(option for option, _, _ in found if option != "paper"):
        cells = [
            " / ".join(f"{found[key]['ratio']:.2f}" for key in sorted(found) if key[:2] == (option, game))
            for game in names
        ]
        lines.append([option, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def hierarchy_table() -> str:
    """Mean precision and recall at both levels in the stored run of `experiments.hierarchy`."""
    run = json.loads((RESULTS / "hierarchy.cpu-2-cores.json").read_text())
    lines = [["data", "design", "level", "submodels", "precision", "recall", "clean selected", "confirmed"]]
    lines.append([":--", ":--", ":--", *["---:"] * 5])
    names = ("data", "design", "level")
    for group in dict.fromkeys(tuple(r[name] for name in names) for r in run["records"]):
        own = [r for r in run["records"] if tuple(r[name] for name in names) == group]
        means = [f"{mean_of(own, name):.2f}" for name in ("precision", "recall")]
        clean = sum(r["selected"] - round(r["recall"] * r["poisoned"]) for r in own)
        confirmed = f"{sum(r['clean_confirmed'] for r in own)}" if "clean_confirmed" in own[0] else ""
        lines.append([*group, f"{own[0]['num_submodels']:,}", *means, f"{clean}", confirmed])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def valuation_table() -> str:
    """Means over seeds in the stored run of `experiments.valuation`: digits / breast cancer."""
    run = json.loads((RESULTS / "valuation.cpu-2-cores.json").read_text())
    names = {"mislabel_auc": "mislabelled, AUC", "mislabel_f1": "F1", "removal_gap": "removal gap"}
    names |= {"lds": "LDS", "loo_correlation": "leave-one-out"}
    found = {(r["estimator"], r["data"]): r for r in run["summary"]}
    lines = [["estimator", *names.values()], [":--", *["---:"] * len(names)]]
    for estimator in dict.fromkeys(key[0] for key in found):
        both = [found[estimator, of] for of in dict.fromkeys(key[1] for key in found)]
        lines.append([estimator, *(" / ".join(f"{one[name]:.2f}" for one in both) for name in names)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def opendataval_table() -> str:
    """Means over seeds, with standard errors, in the stored run of `benchmarks.opendataval`."""
    run = json.loads((BENCHMARKS / "opendataval.cpu-2-cores.json").read_text())
    names = (
        "wrong labels in lowest fifth",
        "accuracy without lowest fifth",
        "accuracy without highest fifth",
        "seconds",
    )
    lines = [["evaluator", *names], [":--", *["---:"] * len(names)]]
    for one in run["records"]:
        *errors, seconds = names
        cells = [f"{one[name]:.2f} ± {one[f'{name}, se']:.2f}" for name in errors]
        lines.append([one["evaluator"], *cells, f"{one[seconds]:.0f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def gradients_table() -> str:
    """Means over seeds in the stored run of `experiments.gradient_baselines`."""
    run = json.loads((RESULTS / "gradient_baselines.cpu-2-cores.json").read_text())
    lines = [["estimator", "told k: found", "average precision", "not told: precision / recall", "LDS", "s", "MB"]]
    lines.append([":--", *["---:"] * 6])
    for one in run["summary"]:
        chosen = "" if one["precision"] is None else f"{one['precision']:.2f} / {one['recall']:.2f}"
        scores = f"{one['found']:.2f}", f"{one['average_precision']:.2f}", chosen, f"{one['lds']:.2f}"
        lines.append([one["estimator"], *scores, f"{one['seconds']:.3g}", f"{one['peak_rss_mb']:,.0f}"])
    ceiling = f"The noise ceiling of the LDS is {run['summary'][0]['lds_ceiling']:.2f}."
    return "\n".join([*("| " + " | ".join(line) + " |" for line in lines), "", ceiling])


def robustness_table() -> str:
    """Means over seeds in the stored run of `experiments.robustness`."""
    run = json.loads((RESULTS / "robustness.cpu-2-cores.json").read_text())
    names = ("success", "accuracy", "precision", "recall")
    lines = [["changed", "to", "attack success", "clean accuracy", "precision", "recall", "empty, of 20"]]
    lines.append([":--", ":--", *["---:"] * 5])
    for one in run["summary"]:
        means = (f"{one[name]:.2f}" for name in names)
        lines.append([one["changes"], one["condition"], *means, f"{one['empty']:.1f}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shapley_table() -> str:
    """A table for every kind of game in the stored runs of `benchmarks.shapley`, and what trees do on sparse ones."""
    runs = [json.loads(path.read_text()) for path in sorted(BENCHMARKS.glob("shapley.*.json"))]
    records = [record for run in runs for record in run["records"]]
    parts = []
    for kind in KINDS:
        of_kind = [record for record in records if record["kind"] == kind]
        own = [record for record in of_kind if record["estimator"] == "jaxame"]
        best = {(record["game"], record["budget"]): record for record in of_kind if record["best"]}
        budgets = sorted({record["budget"] for record in own})
        lines = [[f"{kind} games", *(f"{budget:,}" for budget in budgets)], [":--", *[":--"] * len(budgets)]]
        for game in dict.fromkeys(record["game"] for record in own):
            of_game = {record["budget"]: record for record in own if record["game"] == game}
            lines.append([game, *(_against(of_game[budget], best[game, budget]) for budget in budgets)])
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join([*parts, _against_trees(records)])


def threshold_table() -> str:
    """Mean L2 error by estimator and budget in the stored run of `experiments.shapley_threshold`."""
    run = json.loads((RESULTS / "shapley_threshold.cpu-2-cores.json").read_text())["records"]
    return _errors({name: {at: mean for at, (mean, _) in own.items()} for name, own in mean_errors(run).items()}, 0.0)


def mnist_table() -> str:
    """L2 error by estimator and budget in the stored run of `experiments.shapley_mnist`: root of the mean square."""
    run = json.loads((RESULTS / "shapley_mnist.cpu-2-cores.json").read_text())
    squares: dict[str, dict[int, list[float]]] = {}
    for one in run["records"]:
        squares.setdefault(one["estimator"], {}).setdefault(one["budget"], []).append(one["squared_error"])
    roots = {
        name: {budget: math.sqrt(max(sum(some) / len(some), 0.0)) for budget, some in own.items()}
        for name, own in squares.items()
    }
    return _errors(roots, run["floor"])


def _errors(found: dict[str, dict[int, float]], floor: float) -> str:
    """A row per estimator and a column per budget; what is below the floor is not resolved."""
    budgets = sorted({budget for own in found.values() for budget in own})
    lines = [["estimator", *(f"{budget:,}" for budget in budgets)], [":--", *["---:"] * len(budgets)]]
    for name, own in found.items():
        texts = {at: f"{error:.2g}" if error >= floor else f"< {floor:.2g}" for at, error in own.items()}
        lines.append([name, *(texts.get(budget, "") for budget in budgets)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _against(own: dict[str, Any], best: dict[str, Any]) -> str:
    """Our error and, after a slash, that of the best of the others; a star where ours is the larger."""
    mark = {"wins": "", "tie": " =", "loses": " *"}[own["verdict"]]
    errors = ("0" if error < NO_ERROR else f"{error:.2g}" for error in (own["l2_error"], best["l2_error"]))
    return f"{' / '.join(errors)}{mark} {best['estimator']}"


def _against_trees(records: list[dict[str, Any]]) -> str:
    errors = {(r["estimator"], r["game"], r["budget"]): r["l2_error"] for r in records if r["kind"] == "sparse"}
    cells = [key[1:] for key in errors if key[0] == "jaxame"]
    ratios = [errors[("jaxame", *cell)] / errors[("regression-adjusted, trees", *cell)] for cell in cells]
    return f"Relative to trees, on the sparse games: {min(ratios):.1g} to {max(ratios):.2f}."


_OWN_GAMES = ("several queries", "difference", "stand-ins")


def _rate_and_power(cell: dict[str, Any]) -> str:
    return f"{cell['fdr']:.3f} / {cell['power']:.2f}"


TABLES = {
    "fdr": fdr_table,
    "selection": selection_table,
    "ablation": ablation_table,
    "hierarchy": hierarchy_table,
    "opendataval": opendataval_table,
    "gradients": gradients_table,
    "robustness": robustness_table,
    "shapley": shapley_table,
    "threshold": threshold_table,
    "mnist": mnist_table,
    "valuation": valuation_table,
    "demo": demo_table,
    "submodels": submodels_table,
    "lasso": lasso_table,
}


def updated(text: str) -> str:
    """Return the README with its generated parts made anew."""
    for name, table in TABLES.items():
        before, rest = text.split(f"<!-- {name}: made by python -m experiments.tables -->\n")
        _, after = rest.split("<!-- end -->", 1)
        text = f"{before}<!-- {name}: made by python -m experiments.tables -->\n{table()}\n<!-- end -->{after}"
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(updated(readme.read_text()))
    (ROOT / "experiments" / "README.md").write_text(page())
