"""Write the tables of README.md from the raw results: `python -m experiments.tables`."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
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


def updated(text: str) -> str:
    """Return the README with its generated part made anew."""
    pattern = r"(<!-- demo: made by python -m experiments\.tables -->\n).*?(\n<!-- end -->)"
    return re.sub(pattern, lambda match: match[1] + demo_table() + match[2], text, flags=re.DOTALL)


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(updated(readme.read_text()))
