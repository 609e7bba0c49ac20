r"""Refit on the selected sources with their interactions: an AME with less noise, and no bias from the order chosen.

With `x_i` the membership codes of the sources `S`, `Z` the intercepts and `1_T` the product of the memberships in `T`,

    U = Z g + sum_{i in S} b_i x_i + sum_{T in S, 2 <= |T| <= d} mu_T 1_T + residual                                 (1)

is fitted by weighted least squares. The residual of the population's fit is orthogonal to every `x_i`, and a function's
AME is its weighted covariance with `x_i`. So the AME of the fitted function, `b_i scale + sum_{T contains i} mu_T
E_P[p^(|T|-1)]`, is that of `U` in the limit of many rows, whether or not (1) holds: the products
can only take variance away.

References:
  Grabisch and Roubens, Int. J. Game Theory 28, 1999 (Moebius form); Lin, Ann. Appl. Stat. 7(1), 2013 (adjusting an
  experiment's estimate by a regression that need not hold).
"""

import itertools
import math
from typing import NamedTuple

import numpy as np

from jaxame.design import Design, Law
from jaxame.features import Coding, exact_columns

MAX_ORDER = 3
ROWS_PER_TERM = 4
"""Products are taken in as long as there are so many rows for every coefficient of the fit."""


class ProductFit(NamedTuple):
    """A fit of (1).

    Attributes:
      values: `[N]` AME of the fitted function, in the unit of the target; zero outside of `S`.
      order: `d`.
      fitted: `[M]` the function itself, intercepts included.
      num_terms: how many coefficients it has beside the intercepts.
    """

    values: np.ndarray
    order: int
    fitted: np.ndarray
    num_terms: int


def refit_with_products(
    design: Design,
    coding: Coding,
    target: np.ndarray,
    coef: np.ndarray,
    max_order: int = MAX_ORDER,
    law: Law | None = None,
) -> ProductFit:
    """Fit (1) for `d = 1` up to `max_order` and take the order with the least generalised cross-validation error.

    Where the rows do not support the products of all sources, only those of the largest `coef` are multiplied; where
    they support none, the order is 1, plain least squares.

    Args:
      design: `M` rows over `N` sources.
      coding: its code.
      target: `[M]`, any unit; non-finite rows are left out.
      coef: `[N]` coefficients of a first fit; the sources `S` are those that are not zero.
      max_order: largest `d` that is tried.
      law: over which products are averaged; by default the design's.

    Returns:
      The fit.
    """
    kept = np.isfinite(target)
    support = np.flatnonzero(coef)
    support = support[np.argsort(-np.abs(coef[support]), kind="stable")]
    root = np.sqrt(np.where(kept, coding.weight, 0.0))[:, None]
    x, y = exact_columns(design, coding, support), root[:, 0] * np.where(kept, target, 0.0)
    member = x > 0
    linear = np.concatenate([coding.z, x], axis=1)
    num_rows, num_intercepts = int(kept.sum()), coding.z.shape[1]
    budget = num_rows // ROWS_PER_TERM - linear.shape[1]
    best, chosen = np.inf, None
    for d in range(1, max_order + 1):
        # The ame code does not span memberships, which the products need beside them.
        sizes = range(1 if design.coding == "ame" else 2, d + 1) if d > 1 else range(0)
        terms = _products(support.size, sizes, budget)
        if d > 1 and max(map(len, terms), default=1) < d:
            break
        columns = np.column_stack([linear, *(member[:, list(term)].all(axis=1) for term in terms)])
        fit, error = _least_squares(root * columns, y, num_rows)
        if error < best:
            best, values = error, np.zeros(coef.size)
            values[support] = _effects(law or design.law, coding.scale, fit[num_intercepts:], support.size, terms)
            chosen = ProductFit(values, d, columns @ fit, fit.size - num_intercepts)
    assert chosen is not None
    return chosen


def _products(size: int, sizes: range, budget: int) -> list[tuple[int, ...]]:
    """Return the sets of these `sizes` of the first sources, of as many of them as the budget of terms allows."""
    used = max((s for s in range(size + 1) if sum(math.comb(s, d) for d in sizes) <= budget), default=0)
    return [term for d in sizes for term in itertools.combinations(range(used), d)]


def _least_squares(columns: np.ndarray, y: np.ndarray, num_rows: int) -> tuple[np.ndarray, float]:
    """Return the coefficients, and the generalised cross-validation error; rows that do not count are zero."""
    fit, _, rank, _ = np.linalg.lstsq(columns, y)
    return fit, float(((y - columns @ fit) ** 2).sum() / max(1 - rank / num_rows, 1 / num_rows) ** 2)


def _effects(law: Law, scale: float, fit: np.ndarray, size: int, terms: list[tuple[int, ...]]) -> np.ndarray:
    """Return the AME `[S]` of a function of codes, whose coefficients come first in `fit`, and products."""
    moments = law.expectation(lambda p: p[:, None] ** np.arange(MAX_ORDER + 1))
    values = scale * fit[:size]
    for mu, term in zip(fit[size:], terms, strict=True):
        values[list(term)] += mu * moments[len(term) - 1]
    return values
