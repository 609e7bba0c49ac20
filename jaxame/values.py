"""From the LASSO to values: least squares on its support, one step from there, and empirical Bayes."""

from typing import NamedTuple

import numpy as np

from jaxame.design import Design, Law
from jaxame.features import Coding, exact_columns
from jaxame.inference import step_design
from jaxame.interactions import refit_with_interactions
from jaxame.lasso import refit, step_from
from jaxame.shrinkage import shrink


class Values(NamedTuple):
    """Estimated AME of every source.

    Attributes:
      mean: `[Q, N]` in the unit of the target.
      sd: `[Q, N]` its posterior standard deviation, or None if the values are not shrunken.
      noise: `[Q]` variance of the targets that interactions do not explain, or None without interactions.
    """

    mean: np.ndarray
    sd: np.ndarray | None
    noise: np.ndarray | None


def estimate_values(
    design: Design,
    coding: Coding,
    targets: np.ndarray,
    coef: np.ndarray,
    *,
    interactions: bool,
    shrunken: bool,
    product_law: Law | None = None,
) -> Values:
    r"""Estimate the AME from the LASSO's support.

    Least squares on the support gives a function `f` with a known AME, which is 0 for all that the LASSO left out. One
    step from there, `AME_i(f) + E[w x_i (U - f)]`, whose expectation is the AME for any fixed `f`, estimates
    that of every source with a standard error; `jaxame.shrinkage` then says what all of them together make of each.

    Args:
      design: `M` rows over `N` sources; its law is the target law.
      coding: its code.
      targets: `[M, Q]`; non-finite entries leave their row out for that query.
      coef: `[Q, N]` the LASSO's coefficients.
      interactions: let `f` be what `jaxame.interactions` fits.
      shrunken: take the two further steps; else the values are the AME of `f`, zero outside of the support.
      product_law: over which the effects of such an `f` are averaged; by default the design's.

    References:
      Meinshausen, Comput. Stat. Data Anal. 52(1), 2007 (the relaxed LASSO); Donoho, Maleki and Montanari, PNAS 106(45),
      2009 (a step and a shrinkage in turn; here one of each).
    """
    values, fitted, terms = np.zeros(coef.shape), np.zeros(targets.shape), np.zeros(len(coef))
    noise = np.zeros(len(coef)) if interactions else None
    for q, (y, own) in enumerate(zip(targets.T, coef, strict=True)):
        support = np.flatnonzero(own)
        if noise is not None:
            fit = refit_with_interactions(design, coding, y, own, law=product_law)
            values[q], fitted[:, q], terms[q], noise[q] = fit.values, fit.fitted, fit.num_terms, fit.noise
            continue
        x = exact_columns(design, coding, support)
        relaxed = refit(x, y, coding.weight, coding.z)
        values[q, support], fitted[:, q], terms[q] = coding.scale * relaxed, x @ relaxed, support.size
    if not shrunken:
        return Values(values, None, noise)
    step = step_from(step_design(design, coding), targets, values / coding.scale, fitted, terms, coding.weight)
    posteriors = [shrink(*own) for own in zip(step.coef, step.stderr, strict=True)]
    mean, sd = (coding.scale * np.stack(part) for part in zip(*posteriors, strict=True))
    return Values(mean, sd, noise)
