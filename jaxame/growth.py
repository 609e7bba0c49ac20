"""How a selection grows with the number of submodels: whether more of them would change it."""

from collections.abc import Sequence

import jax
import numpy as np
from numpy.typing import ArrayLike

from jaxame import checks, knockoffs
from jaxame.design import Design
from jaxame.estimators import importance
from jaxame.knockoffs import Selection
from jaxame.types import Progress, silent

FRACTIONS = (0.25, 0.5, 0.75)


def selections(
    design: Design,
    utilities: ArrayLike,
    *,
    fdr: float = 0.1,
    alternative: str = "two-sided",
    copies: int = 4,
    fractions: Sequence[float] = FRACTIONS,
    knockoff_key: jax.Array | None = None,
    progress: Progress = silent,
) -> list[tuple[int, list[Selection]]]:
    """Select the sources that affect each query from the first rows of a design only, for several numbers of them.

    Args:
      design: `M` rows over `N` sources.
      utilities: `[M, Q]`, any unit; a non-finite entry leaves its row out for that query.
      fdr: false discovery rate of each selection.
      alternative: which sources to select, see `jaxame.Attribution.select`.
      copies: knockoff copies.
      fractions: shares of the rows, rising, above 0 and at most 1.
      knockoff_key: of the copies; by default the design's. Those of a row are the same at any number of rows.
      progress: called as the stage moves on.

    Returns:
      For every fraction the number of rows, and the `Q` selections from as many.

    Raises:
      ValueError: for fractions that are not as described, for a number of rows that parts a pair or has fewer than two
        finite rows of a query, and as `jaxame.estimate_ame` does.
    """
    shares = np.asarray(fractions, float)
    fits = shares.ndim == 1 and bool(((shares > 0) & (shares <= 1)).all() and (np.diff(shares) > 0).all())
    checks.require(fits, "fractions of the rows, rising, above 0 and at most 1", checks.describe(fractions))
    targets = checks.array(utilities, np.float64)
    found = []
    for share in shares:
        number = round(share * design.num_submodels)
        number -= number % 2 if design.paired else 0
        # Rows without a utility are left out, which keeps the shapes, and so what is compiled, the same.
        first = np.where(np.arange(len(targets))[:, None] < number, targets, np.nan)
        columns = importance(design, first, copies=copies, knockoff_key=knockoff_key, progress=progress)
        columns = knockoffs.importance(columns, alternative)
        found.append((number, [knockoffs.select(own[0], fdr) for own in columns]))
    return found
