r"""Refit on the selected sources with their interactions: an AME with less noise.

With `Z` the intercepts, and `s_i` 1 if the selected source `i` is in and -1 if it is not, the utility of a row is

    U = Z g + sum_i b_i s_i + h(s) + noise,    h ~ N(0, sd^2 K),                                                     (1)
    K(s, t) = prod_i (1 + r_i s_i t_i) - 1 - sum_i r_i s_i t_i,

so that `h` holds what products of two or more memberships explain: that of the sources in `T` has the prior variance
`sd^2 prod_{i in T} r_i`. Strong sources are thought to act together sooner, `r_i = r sqrt(|b_i| / max |b|)`. `r` and
the share of the noise are those that are likeliest given the rows, so that an additive game stays additive, and one
without noise is interpolated. The posterior mean has a known AME under every law, also where no row was drawn. Where
there are few sources, all are in (1), and those that were not selected have `r_i = 0` if that is likelier.

References:
  Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, sections 2.7 (with regressors of unknown
  weight) and 5.4 (their likelihood); Chipman, Can. J. Stat. 24(1), 1996 (products of strong factors).
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxame.design import Design, Law
from jaxame.features import Coding, exact_columns

MAX_CELLS = 1024
"""Combinations of memberships that `h` tells apart at most; the sources with the largest effects make them."""
MAX_SOURCES = 24
"""Sources in `h` at most, so that the quadrature of a law is exact and products stay within the range of numbers."""
FEW_SOURCES, ROWS_PER_SOURCE = 16, 4
"""So many sources in all are few if there are that many rows for each."""

_RATES = (0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 1.0)
_NOISE = np.geomspace(1e-10, 1e3, 27)  # variance of the noise, in units of that of h
_ROUNDING = 1e-14


class ProcessFit(NamedTuple):
    """A fit of (1).

    Attributes:
      values: `[N]` AME of the fitted function, in the unit of the target; zero outside of `S`.
      fitted: `[M]` the function itself, intercepts included; zero for rows that do not count.
      num_terms: how many coefficients it is worth, beside the intercepts.
      rates: `[s]` the `r_i` of the sources in `h`, those with the largest effects first; zeros where there is no `h`.
      noise: variance of the noise, in the squared unit of the target.
    """

    values: np.ndarray
    fitted: np.ndarray
    num_terms: float
    rates: np.ndarray
    noise: float


def refit_with_interactions(
    design: Design, coding: Coding, target: np.ndarray, coef: np.ndarray, law: Law | None = None
) -> ProcessFit:
    """Fit (1).

    Args:
      design: `M` rows over `N` sources.
      coding: its code.
      target: `[M]`, any unit; non-finite rows are left out.
      coef: `[N]` coefficients of a first fit; the sources `S` are those that are not zero, or all if they are few.
      law: of the fitted function's AME; by default the design's.
    """
    kept = np.isfinite(target) & (coding.weight > 0)
    few = coef.size <= min(FEW_SOURCES, kept.sum() / ROWS_PER_SOURCE)
    support = np.arange(coef.size) if few else np.flatnonzero(coef)
    signs = np.sign(exact_columns(design, coding, support)[kept])
    fixed = np.concatenate([coding.z[kept], signs], axis=1)
    plain = np.linalg.lstsq(fixed, target[kept])[0][coding.z.shape[1] :]
    order = np.argsort(-np.abs(plain), kind="stable")
    cell, of_cells = _cells(signs[:, order])
    used = order[: of_cells.shape[1]]
    strength = np.sqrt(np.abs(plain[used]) / max(np.abs(plain).max(initial=0.0), np.finfo(float).tiny))
    selected = coef[support[used]] != 0
    strengths = (strength,) if selected.all() else (strength, strength * selected)
    fit = _likeliest(fixed, target[kept], cell, of_cells, strengths)
    effects = 2 * fit.coef[coding.z.shape[1] :]
    effects[used] += _effects(law or design.law, fit.weights, of_cells, fit.rates)
    values, fitted = np.zeros(coef.size), np.zeros(target.size)
    values[support], fitted[kept] = effects, fixed @ fit.coef + fit.h[cell]
    return ProcessFit(values, fitted, support.size + fit.freedom, fit.rates, fit.noise)


def _cells(signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell rows apart by as many of the first sources as `MAX_CELLS` and `MAX_SOURCES` allow.

    Args:
      signs: `[m, S]`.

    Returns:
      `[m]` the cell of every row, and the signs `[C, s]` of the cells.
    """
    cell, used = np.zeros(len(signs), int), 0
    for column in signs[:, :MAX_SOURCES].T:
        finer = np.unique(2 * cell + (column > 0), return_inverse=True)[1]
        if finer.max() >= MAX_CELLS:
            break
        cell, used = finer, used + 1
    return cell, signs[np.unique(cell, return_index=True)[1], :used]


class _Fit(NamedTuple):
    """Likeliest fit: coefficients `[D+S]` of what is not random, and the random part.

    `h [C]` is its values in the cells, and `weights [C]` the combination of the kernel's columns that makes it, whose
    sources have `rates [s]`; `noise` is a variance.
    """

    likelihood: float
    coef: np.ndarray
    h: np.ndarray
    weights: np.ndarray
    freedom: float
    rates: np.ndarray
    noise: float


def _likeliest(
    fixed: np.ndarray, target: np.ndarray, cell: np.ndarray, signs: np.ndarray, strengths: Sequence[np.ndarray]
) -> _Fit:
    """Fit at every rate and share of noise, and return the fit of the largest restricted likelihood."""
    columns = np.column_stack([fixed, target])
    counts = np.bincount(cell)
    sums = np.stack([np.bincount(cell, column) for column in columns.T], axis=1)
    at = functools.partial(_at_rates, columns.T @ columns, sums, counts, signs, len(target))
    fits = [fit for own, rate in itertools.product(strengths, _RATES) if (fit := at(rate * own)) is not None]
    if not fits:  # no two sources, or none that are seen together
        coef, _, rank, _ = np.linalg.lstsq(fixed, target)
        nothing, rest = np.zeros(len(counts)), ((target - fixed @ coef) ** 2).sum()
        noise = float(rest / max(len(target) - rank, 1))
        return _Fit(0.0, coef, nothing, nothing, 0.0, np.zeros(signs.shape[1]), noise)
    return max(fits, key=lambda fit: fit.likelihood)


def _at_rates(
    gram: np.ndarray, sums: np.ndarray, counts: np.ndarray, signs: np.ndarray, num_rows: int, rates: np.ndarray
) -> _Fit | None:
    """Fit at the likeliest share of noise; None if the kernel is zero.

    Args:
      gram: `[D+S+1, D+S+1]` products of the fixed columns and the target, which is last.
      sums: `[C, D+S+1]` their sums over the rows of a cell.
      counts: `[C]` rows of a cell.
      signs: `[C, s]`.
      num_rows: `m`.
      rates: `[s]`.
    """
    kernel = _kernel(signs, rates)
    unit = np.trace(kernel) / len(kernel)
    if unit <= _ROUNDING:
        return None
    root = np.sqrt(counts)
    size, vectors = np.linalg.eigh(root[:, None] * (kernel / unit) * root)
    size = np.maximum(size, 0.0)
    along = vectors.T @ (sums / root[:, None])
    best: tuple[float, np.ndarray, float, float] | None = None
    for noise in _NOISE:
        left = gram - along.T @ ((size / (size + noise))[:, None] * along)
        coef, logdet, rank = _solve(left[:-1, :-1], left[:-1, -1])
        rest = max(left[-1, -1] - left[-1, :-1] @ coef, _ROUNDING * gram[-1, -1], np.finfo(float).tiny)
        likelihood = -0.5 * ((num_rows - rank) * np.log(rest) + np.log1p(size / noise).sum() + logdet)
        if best is None or likelihood > best[0]:
            best = likelihood, coef, noise, float(rest / max(num_rows - rank, 1))
    assert best is not None
    likelihood, coef, noise, variance = best
    weights = root * (vectors @ ((along[:, -1] - along[:, :-1] @ coef) / (size + noise))) / unit
    freedom = float((size / (size + noise)).sum())
    return _Fit(likelihood, coef, kernel @ weights, weights, freedom, rates, variance)


def _kernel(signs: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """`K` between all cells, `[C, C]`."""
    product = np.ones((len(signs), len(signs)))
    for sign, rate in zip(signs.T, rates, strict=True):
        product *= 1 + rate * np.outer(sign, sign)
    kernel: np.ndarray = product - 1 - (signs * rates) @ signs.T
    return kernel


def _solve(matrix: np.ndarray, moments: np.ndarray) -> tuple[np.ndarray, float, int]:
    """Least-norm solution, and log determinant and rank of the part of the matrix that is not zero."""
    size, vectors = np.linalg.eigh(matrix)
    kept = size > 1e-11 * size.max(initial=0.0)
    solution = vectors[:, kept] @ ((vectors[:, kept].T @ moments) / size[kept])
    return solution, float(np.log(size[kept]).sum()), int(kept.sum())


def _effects(law: Law, weights: np.ndarray, signs: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """AME `[s]` of `h`: of a source in the kernel, the mean over `p` of the product over all others, less 1."""

    def at(p: np.ndarray) -> np.ndarray:
        factors = 1 + rates * signs * (2 * p[:, None, None] - 1)  # [J, C, s], positive as 0 < p < 1
        others = factors.prod(axis=2, keepdims=True) / factors - 1
        effects: np.ndarray = np.einsum("c,cs,jcs->js", weights, 2 * rates * signs, others)
        return effects

    return law.expectation(at)
