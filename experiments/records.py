"""How experiments end: their records printed and, where asked for, written to a file."""

import json
from pathlib import Path
from typing import Any


def finish(results: dict[str, Any], path: Path | None) -> None:
    """Print a line per record of `results["records"]`, and write all of `results` to `path`."""
    for record in results["records"]:
        cells = [(name, f"{value:.3g}" if isinstance(value, float) else value) for name, value in record.items()]
        print(", ".join(f"{name} {text}" for name, text in cells))
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=2) + "\n")
