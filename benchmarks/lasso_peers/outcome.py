"""What a solver's process hands back."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from benchmarks.lasso_peers.task import Fits

_SPARSE = ("data", "indices", "indptr", "shape")


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """One timed run over some fits of `K` queries.

    Attributes:
      seconds: of the solver, without imports, preparation of its input and warm-up.
      fits: on all rows, if they were among the fits asked for.
      fold_fits: on the training rows of each of the `F` folds, where the solver hands them over.
      held_out: `[K, L]` sum over the held-out rows of weight times squared error; NaN where no fit was made.
      peak_rss_mb: largest resident memory, in MiB, summed over processes.
      about: versions, device and whatever else belongs into the record.
    """

    seconds: float
    fits: Fits | None
    held_out: np.ndarray
    peak_rss_mb: float
    about: dict[str, str]
    fold_fits: tuple[Fits, ...] = ()


def peak_rss_mb() -> float:
    """Return the largest resident memory of this process, in MiB.

    The figure of `getrusage` would count the process that started this one, too.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10


def collect(coefs: list[sparse.csr_matrix], penalties: np.ndarray) -> Fits:
    """Return the fits of `K` queries from coefficients `[L', P]` of each at the first of its penalties `[K, L]`."""
    penalty = penalties.copy()
    for row, coef in zip(penalty, coefs, strict=True):
        row[coef.shape[0] :] = np.nan
        coef.resize((row.size, coef.shape[1]))
    return Fits(sparse.vstack(coefs, format="csr"), penalty)


def save(path: Path, outcome: Outcome) -> None:
    """Write an outcome to a file that `load` reads."""
    every = (*([] if outcome.fits is None else [outcome.fits]), *outcome.fold_fits)
    fields: dict[str, Any] = {
        "num_fits": len(every),
        "seconds": outcome.seconds,
        "held_out": outcome.held_out,
        "peak_rss_mb": outcome.peak_rss_mb,
        "about": np.array(list(outcome.about.items())).reshape(-1, 2),
    }
    for k, fits in enumerate(every):
        for name in _SPARSE:
            fields[f"{name}{k}"] = getattr(fits.coef, name)
        fields[f"penalty{k}"] = fits.penalty
    np.savez(path, **fields)


def load(path: Path) -> Outcome:
    """Read what `save` wrote."""
    with np.load(path) as a:
        every = []
        for k in range(int(a["num_fits"])):
            data, indices, indptr, shape = (a[f"{name}{k}"] for name in _SPARSE)
            every.append(Fits(sparse.csr_matrix((data, indices, indptr), shape=tuple(shape)), a[f"penalty{k}"]))
        times = float(a["seconds"]), every[0] if every else None, a["held_out"], float(a["peak_rss_mb"])
        return Outcome(*times, dict(a["about"].tolist()), tuple(every[1:]))
