r"""Effect curves: how the effect of a source depends on how much of the other data is there.

`m_i(p) = E_{S ~ Bernoulli(p)} [U(S+i) - U(S)]` is what the AME averages over the law of `p`. Given `p`, `x = 1[in] - p`
has mean 0 and is independent between sources, so in

    U = Z(p) g + sum_i sum_k c_ik B_k(p) x_i + noise                                                            (1)

`sum_k c_ik B_k(p)` is `m_i(p)` where the basis `B` can follow it, whatever the sources left out of (1) do.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy
from jax.typing import ArrayLike

from jaxame import checks
from jaxame.design import Design
from jaxame.features import code, exact_columns

_GRID_POINTS = 33
_ROUNDING = 1e-10


@dataclasses.dataclass(frozen=True, eq=False)
class EffectCurve:
    """The effect of `S` sources on `Q` queries at `G` inclusion probabilities.

    Attributes:
      p: `[G]`.
      sources: `[S]` their indices.
      values: `[Q, S, G]` estimated `m_i(p)`, in the unit of the query.
      stderr: `[Q, S, G]` standard errors.
    """

    p: np.ndarray
    sources: np.ndarray
    values: np.ndarray
    stderr: np.ndarray

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper bounds `[Q, S, G]`; each point of each curve is covered with probability `level`.

        About so: they are normal quantiles of the standard errors.

        Raises:
          ValueError: for a level outside (0, 1).
        """
        half = scipy.stats.norm.ppf((1 + checks.probability(level, "level")) / 2) * self.stderr
        return self.values - half, self.values + half


def effect_curve(
    design: Design, utilities: ArrayLike, sources: Sequence[int], *, at: ArrayLike | None = None, degree: int = 3
) -> EffectCurve:
    """Estimate effect curves `m_i(p)` from the rows of any design.

    The curves are fitted side by side by least squares on (1). Where the law has finitely many `p`, each has a value
    of its own. Otherwise a curve is a polynomial in `p`, the one that is closest over the design's rows where no
    polynomial of this degree is right; the intervals are then about that polynomial.

    Args:
      design: `M` rows over `N` sources.
      utilities: `[M, Q]`, any unit; a non-finite entry leaves its row out for that query.
      sources: `[S]` distinct sources, for example those selected. Others only add noise; taking those that matter
        along makes all intervals shorter.
      at: `[G]` values of `p`: by default all values of a law with finitely many, else 33 between the least and the
        largest of the design.
      degree: of the polynomials.

    Returns:
      An `EffectCurve`; standard errors are of the sandwich kind with the leverage correction HC2, and keep pairs
      together.

    Raises:
      ValueError: for bad arguments, `at` outside the design's `p`, or fewer finite rows (pairs) than twice the
        coefficients of the regression.

    References:
      MacKinnon and White, J. Econometrics 29(3), 1985 (HC2); Bell and McCaffrey, Survey Methodology 28(2), 2002 (with
      clusters).

    Example:
      Two sources that act only together: each is worth as much as the other is likely to be there, `m(p) = p`.

      >>> import jax
      >>> import numpy as np
      >>> import jaxame
      >>> from jaxame.design import Grid, sample_design
      >>> design = sample_design(jax.random.key(0), Grid((0.1, 0.3, 0.5, 0.7, 0.9)), num_submodels=1000, num_sources=20)
      >>> masks = np.asarray(design.masks(0, 1000))
      >>> utilities = (masks[:, :1] & masks[:, 1:2]).astype(float)
      >>> jaxame.effect_curve(design, utilities, [0, 1]).values[0, 0].round(1)
      array([0.1, 0.3, 0.6, 0.8, 0.9])
    """
    checks.require(isinstance(design, Design), "a jaxame.design.Design", checks.describe(design))
    checks.require(design.parent is None, "a design without parents for an effect curve", "a nested design")
    index = _distinct(sources, design.num_sources)
    degree = checks.count(degree, "degree", 0)
    p = np.asarray(design.p, np.float64)
    at = _default_points(p, design) if at is None else np.asarray(at, np.float64)
    _check_points(at, p, design)
    targets = np.asarray(utilities, np.float64)
    fits = targets.ndim == 2 and targets.shape[0] == design.num_submodels and targets.shape[1] > 0
    checks.require(fits, f"utilities [M={design.num_submodels}, Q]", list(targets.shape))
    basis = _basis(p, p, design, degree)
    coding = code(design)
    x = exact_columns(design, dataclasses.replace(coding, low=-p, high=1 - p), index)
    columns = np.concatenate([coding.z, (x[:, :, None] * basis[:, None, :]).reshape(len(p), -1)], axis=1)
    shape = index.size, basis.shape[1]
    out = _basis(at, p, design, degree)
    values, variances = [], []
    for q, y in enumerate(targets.T):
        coef, covariance = _least_squares(columns, y, design.units, f"query {q}")
        start = coding.z.shape[1]
        values.append(coef[start:].reshape(shape) @ out.T)
        blocks = covariance[start:, start:].reshape(*shape, *shape)
        variances.append(np.einsum("gk,sksl,gl->sg", out, blocks, out))
    return EffectCurve(at, index, np.stack(values), np.sqrt(np.maximum(variances, 0.0)))


def _distinct(sources: Sequence[int], num_sources: int) -> np.ndarray:
    index = np.asarray(sources)
    is_list = index.ndim == 1 and index.size > 0 and np.issubdtype(index.dtype, np.integer)
    needs = f"sources to be distinct numbers from 0 to {num_sources - 1}, at least one"
    checks.require(is_list, needs, checks.describe(sources))
    known = bool(((index >= 0) & (index < num_sources)).all()) and np.unique(index).size == index.size
    checks.require(known, needs, index.tolist())
    return index


def _default_points(p: np.ndarray, design: Design) -> np.ndarray:
    return np.unique(p) if design.law.levels is not None else np.linspace(p.min(), p.max(), _GRID_POINTS)


def _check_points(at: np.ndarray, p: np.ndarray, design: Design) -> None:
    checks.require(at.ndim == 1 and at.size > 0, "at [G] values of p", checks.describe(at))
    if design.law.levels is not None:
        known = np.isin(np.float32(at), np.float32(p))
        checks.require(bool(known.all()), f"at to be values of p of the design, {np.unique(p)}", at[~known])
    else:
        inside = bool(((at >= p.min()) & (at <= p.max())).all())
        checks.require(inside, f"at to be inside the design's p, {p.min():.4g} to {p.max():.4g}", at)


def _basis(at: np.ndarray, p: np.ndarray, design: Design, degree: int) -> np.ndarray:
    """Indicators of the values of `p`, or Legendre polynomials over its range, at `at [G]`; `[G, B]`."""
    levels = np.unique(p)
    if design.law.levels is not None:
        is_level = np.asarray(at, np.float32)[:, None] == np.asarray(levels, np.float32)
        return np.asarray(is_level, np.float64)
    width = max(levels[-1] - levels[0], np.finfo(float).tiny)
    return np.polynomial.legendre.legvander(2 * (at - levels[0]) / width - 1, degree)


def _least_squares(columns: np.ndarray, y: np.ndarray, units: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients and their covariance by units (HC2), of the rows where `y` is finite."""
    kept = np.isfinite(y)
    x, y, (unit, counts) = columns[kept], y[kept], np.unique(units[kept], return_counts=True)
    checks.require(
        unit.size >= 2 * x.shape[1],
        f"at least {2 * x.shape[1]} finite rows (pairs) for the {x.shape[1]} coefficients of {name}: ask for fewer "
        "sources or a smaller degree",
        unit.size,
    )
    q, r = np.linalg.qr(x)
    full = np.linalg.matrix_rank(r) == x.shape[1]
    checks.require(full, f"every source both in and out at every p, in the finite rows of {name}", "dependent columns")
    moments = q.T @ y
    residual = y - q @ moments
    # Rows of a unit are next to each other; one that is alone is filled up by rows of zeros.
    first, place = np.cumsum(counts) - counts, np.arange(counts.max())
    rows = np.where(place < counts[:, None], first[:, None] + place, len(y))
    of_units, residual = (np.concatenate([a, np.zeros_like(a[:1])])[rows] for a in (q, residual))
    spectrum, vectors = np.linalg.eigh(np.eye(place.size) - of_units @ of_units.transpose(0, 2, 1))
    root = np.where(spectrum > _ROUNDING, 1 / np.sqrt(np.maximum(spectrum, _ROUNDING)), 0.0)
    corrected = np.einsum("uij,uj,ukj,uk->ui", vectors, root, vectors, residual, optimize=True)
    scores = np.einsum("uid,ui->ud", of_units, corrected)
    inverse = np.linalg.inv(r)
    return inverse @ moments, inverse @ (scores.T @ scores) @ inverse.T
