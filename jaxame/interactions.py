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

import numpy as np

from jaxame.design import Design
from jaxame.features import Coding, exact_columns

MAX_ORDER = 3
ROWS_PER_TERM = 4
"""Products are taken in as long as there are so many rows for every coefficient of the fit."""


def refit_with_products(
    design: Design, coding: Coding, target: np.ndarray, coef: np.ndarray, max_order: int = MAX_ORDER
) -> tuple[np.ndarray, int]:
    """Fit (1) for `d = 1` up to `max_order` and take the order with the least generalised cross-validation error.

    Where the rows do not support the products of all sources, only those of the largest `coef` are multiplied; where
    they support none, the order is 1, plain least squares.

    Args:
      design: `M` rows over `N` sources.
      coding: its code.
      target: `[M]`, any unit; non-finite rows are left out.
      coef: `[N]` coefficients of a first fit; the sources `S` are those that are not zero.
      max_order: largest `d` that is tried.

    Returns:
      AME `[N]` in the unit of the target, zero outside of `S`, and the order that was taken.
    """
    kept = np.isfinite(target)
    support = np.flatnonzero(coef)
    support = support[np.argsort(-np.abs(coef[support]), kind="stable")]
    values = np.zeros(coef.size)
    root = np.sqrt(coding.weight[kept])[:, None]
    x, y = exact_columns(design, coding, support)[kept], root[:, 0] * target[kept]
    member = x > 0
    linear = np.concatenate([coding.z[kept], x], axis=1)
    budget = int(kept.sum()) // ROWS_PER_TERM - linear.shape[1]
    best, order = np.inf, 1
    for d in range(1, max_order + 1):
        # The ame code does not span memberships, which the products need beside them.
        sizes = range(1 if design.coding == "ame" else 2, d + 1) if d > 1 else range(0)
        terms = _products(support.size, sizes, budget)
        if d > 1 and max(map(len, terms), default=1) < d:
            break
        products = [member[:, list(term)].all(axis=1) for term in terms]
        fit, error = _least_squares(root * np.column_stack([linear, *products]), y)
        if error < best:
            best, order = error, d
            values[support] = _effects(design, coding, fit[coding.z.shape[1] :], support.size, terms)
    return values, order


def _products(size: int, sizes: range, budget: int) -> list[tuple[int, ...]]:
    """Return the sets of these `sizes` of the first sources, of as many of them as the budget of terms allows."""
    used = max((s for s in range(size + 1) if sum(math.comb(s, d) for d in sizes) <= budget), default=0)
    return [term for d in sizes for term in itertools.combinations(range(used), d)]


def _least_squares(columns: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the coefficients, and the generalised cross-validation error."""
    fit, _, rank, _ = np.linalg.lstsq(columns, y)
    return fit, float(((y - columns @ fit) ** 2).mean() / max(1 - rank / y.size, 1 / y.size) ** 2)


def _effects(design: Design, coding: Coding, fit: np.ndarray, size: int, terms: list[tuple[int, ...]]) -> np.ndarray:
    """Return the AME `[S]` of a function of codes, whose coefficients come first in `fit`, and products."""
    moments = design.law.expectation(lambda p: p[:, None] ** np.arange(MAX_ORDER + 1))
    values = coding.scale * fit[:size]
    for mu, term in zip(fit[size:], terms, strict=True):
        values[list(term)] += mu * moments[len(term) - 1]
    return values
