"""Inclusion laws: the distribution a submodel draws its inclusion probability from.

A *law* `P` is a distribution on (0, 1). Every submodel draws its own inclusion probability `p` from it and then holds
every source independently with probability `p`. The law is always the *target* law, the one in the estimand
`AME_i(P) = E_P[m_i(p)]`. Rows are drawn from it, or (coding "centered") from its *tilted* form: the density of `P`
divided by `p(1-p)`, normalised.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy

from jaxame import checks

_SMALLEST_P = 2.0**-24  # p is stored in float32, whose largest value below 1 is 1 - 2^-24
_SMALLEST_EPS = 1e-12  # below it float64 no longer resolves 1 - p
_SUGGESTED_EPS = 0.01
_GAUSS_NODES = 256
_PANEL_NODES = 24
_TABLE_CELLS = 4096


class Law(abc.ABC):
    """An inclusion law on (0, 1), immutable and hashable.

    To use a law of your own, derive a frozen dataclass from this one. `quadrature` is enough; `sample` then draws `p`
    among the quadrature points, which has the same AME wherever the quadrature is exact. Override `sample` to draw
    from the whole of (0, 1).

    Attributes:
      preferred_coding: what `sample_design(coding="auto")` resolves to for this law.
    """

    preferred_coding: ClassVar[str] = "weighted"

    @abc.abstractmethod
    def quadrature(self) -> tuple[np.ndarray, np.ndarray]:
        """Return points `[J]` strictly inside (0, 1) and weights `[J]` that sum to 1, both float64.

        `weights @ f(points)` is `E_P[f(p)]` for polynomials `f` and for `f(p) = 1/(p(1-p))`.
        """

    @property
    def levels(self) -> tuple[float, ...] | None:
        """The values of `p` if there are finitely many, else None."""
        return None

    def density(self, p: np.ndarray) -> np.ndarray:
        """Return the density at `p [J]`, float64 `[J]`: 0 outside the support.

        Raises:
          ValueError: for a law that has none, such as one with finitely many values.
        """
        del p
        raise ValueError(f"needs a law with a density, such as Beta(2, 3); got {self}")

    @property
    def symmetric(self) -> bool:
        """Whether `1 - p` follows the law too."""
        points, weights = self.quadrature()
        order = np.argsort(points)
        mirror = order[::-1]
        return np.allclose(points[order], 1 - points[mirror], rtol=0, atol=1e-9) and np.allclose(
            weights[order], weights[mirror], rtol=0, atol=1e-9
        )

    def expectation(self, f: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return `E_P[f(p)]`.

        Args:
          f: maps points `[J]` (float64, inside (0, 1)) to values `[J, ...]`, in any unit.

        Returns:
          Float64 array `[...]`, in the unit of `f`.
        """
        points, weights = self.quadrature()
        return np.tensordot(weights, f(points), axes=1)

    @property
    def variance_scale(self) -> float:
        """`v = E_P[1/(p(1-p))]`, the variance of the ame code `x = 1/p | -1/(1-p)` (DESIGN.md section 4)."""
        return float(self.expectation(lambda p: 1.0 / (p * (1.0 - p))))

    @property
    def fourth_moment(self) -> float:
        """`E[x^4] = E_P[1/p^3 + 1/(1-p)^3]` of the ame code; infinite for some laws."""
        return float(self.expectation(lambda p: p**-3.0 + (1.0 - p) ** -3.0))

    def sample(self, key: jax.Array, tilted: bool = False) -> jax.Array:
        """Draw one `p`; batch with `jax.vmap`.

        Args:
          key: one typed key.
          tilted: draw from the law with density `f(p) / (p(1-p))`, normalised, instead of `f`. Static.

        Returns:
          Float32 scalar strictly inside (0, 1).
        """
        points, weights = self.quadrature()
        if tilted:
            weights = weights / (points * (1.0 - points))
        chosen = jax.random.choice(
            key, jnp.asarray(points, jnp.float32), p=jnp.asarray(weights / weights.sum(), jnp.float32)
        )
        return _clip(chosen, 0.0)


@dataclasses.dataclass(frozen=True)
class Grid(Law):
    """Finitely many inclusion probabilities.

    Args:
      points: `[J]` distinct probabilities.
      weights: `[J]` their probabilities, positive, normalised here to sum to 1; None for equal ones.

    Raises:
      ValueError: for points outside (0, 1) or equal in float32, or weights that do not fit them.
    """

    points: Sequence[float]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        """Validate, and store both fields as tuples of floats."""
        points = tuple(_storable_probability(p, "every point") for p in np.asarray(self.points).ravel().tolist())
        checks.require(len(points) > 0, "at least one point", "none")
        checks.require(len({np.float32(p) for p in points}) == len(points), "points distinct in float32", points)
        weights = np.ones(len(points)) if self.weights is None else np.asarray(self.weights, np.float64)
        checks.require(
            weights.shape == (len(points),) and bool(np.all(np.isfinite(weights) & (weights > 0))),
            f"weights to be {len(points)} finite positive numbers, one for each point",
            self.weights,
        )
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "weights", tuple((weights / weights.sum()).tolist()))

    def quadrature(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the points `[J]` and weights `[J]` themselves: exact for every function."""
        return np.array(self.points, np.float64), np.array(self.weights, np.float64)

    @property
    def levels(self) -> tuple[float, ...]:
        """The points, in the order given."""
        return tuple(self.points)


@dataclasses.dataclass(frozen=True)
class PointMass(Law):
    """One inclusion probability for all submodels; `PointMass(0.5)` gives Banzhaf values.

    Args:
      p: the probability.

    Raises:
      ValueError: for `p` outside (0, 1).
    """

    p: float

    def __post_init__(self) -> None:
        """Validate, and store `p` as a float."""
        object.__setattr__(self, "p", _storable_probability(self.p, "p"))

    def quadrature(self) -> tuple[np.ndarray, np.ndarray]:
        """Return `p` `[1]` and weight 1 `[1]`: exact for every function."""
        return np.array([self.p]), np.ones(1)

    @property
    def levels(self) -> tuple[float, ...]:
        """The one value."""
        return (self.p,)


@dataclasses.dataclass(frozen=True)
class TruncatedUniform(Law):
    """`U(eps, 1-eps)`: its AME is the Shapley value up to a bias of at most `2 eps range(m_i)`.

    Tilted, it is exactly `logit p ~ U(logit eps, logit(1-eps))`.

    Args:
      eps: probability cut off on either side, in [1e-12, 1/2).

    Raises:
      ValueError: for other `eps`; `eps = 0` has infinite `v` and the error names the law to use instead.
    """

    preferred_coding: ClassVar[str] = "centered"
    eps: float

    def __post_init__(self) -> None:
        """Validate, and store `eps` as a float."""
        checks.require(
            self.eps != 0,
            f"a law with finite v = E[1/(p(1-p))]: use TruncatedUniform({_SUGGESTED_EPS}), for which "
            f"|bias_i| <= 2 eps range(m_i) = {2 * _SUGGESTED_EPS} range(m_i)",
            f"{self}, with infinite v",
        )
        object.__setattr__(self, "eps", _truncation(self.eps))

    def quadrature(self) -> tuple[np.ndarray, np.ndarray]:
        """Return points `[J]` and weights `[J]`: composite Gauss-Legendre in `logit p`."""
        return _logit_quadrature(1.0, 1.0, self.eps)

    def density(self, p: np.ndarray) -> np.ndarray:
        """Return the density at `p [J]`, float64 `[J]`: 0 outside `[eps, 1-eps]`."""
        p = np.asarray(p, np.float64)
        return np.where((p >= self.eps) & (p <= 1.0 - self.eps), 1.0 / (1.0 - 2.0 * self.eps), 0.0)

    def sample(self, key: jax.Array, tilted: bool = False) -> jax.Array:
        """Draw one `p` from `U(eps, 1-eps)`, or `logit p` from a uniform law if `tilted`; float32 scalar."""
        u = _open_uniform(key)
        edge = -float(scipy.special.logit(self.eps))
        p = jax.nn.sigmoid(edge * (2.0 * u - 1.0)) if tilted else self.eps + (1.0 - 2.0 * self.eps) * u
        return _clip(p, self.eps)


@dataclasses.dataclass(frozen=True)
class Beta(Law):
    """`Beta(a, b)`, restricted to `[eps, 1-eps]` where `eps > 0`.

    The literature's Beta(alpha, beta)-Shapley value is the AME under `Beta(a=beta, b=alpha)`.

    Args:
      a: first parameter, positive; density `p^(a-1) (1-p)^(b-1)`.
      b: second parameter, positive.
      eps: probability cut off on either side: 0, or in [1e-12, 1/2).

    Raises:
      ValueError: for other parameters. `a <= 1` or `b <= 1` with `eps = 0` has infinite `v`; the error names the
        truncated law and its bias bound: cutting off the mass `q` of the law changes `E_P[m_i(p)]` by at most
        `q range(m_i)`, which is `2 eps range(m_i)` for `a = b = 1`.
    """

    a: float
    b: float
    eps: float = 0.0

    def __post_init__(self) -> None:
        """Validate, and store the fields as floats."""
        for name in ("a", "b"):
            value = getattr(self, name)
            is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            checks.require(is_number and 0 < value < np.inf, f"{name} finite and positive", checks.describe(value))
            object.__setattr__(self, name, float(value))
        if self.eps == 0:
            object.__setattr__(self, "eps", 0.0)
            self._require_finite_variance()
        else:
            object.__setattr__(self, "eps", _truncation(self.eps))

    def _require_finite_variance(self) -> None:
        """Refuse an untruncated law with infinite `v`, naming the truncated one and its bias bound."""
        a, b = (self.a, self.b), (self.b, self.a)
        mass = scipy.special.betainc(a, b, _SUGGESTED_EPS).sum()
        checks.require(
            self.a > 1 and self.b > 1,
            f"a law with finite v = E[1/(p(1-p))], that is a > 1 and b > 1: use Beta({self.a}, {self.b}, "
            f"eps={_SUGGESTED_EPS}), for which |bias_i| <= P(p outside [eps, 1-eps]) range(m_i) = "
            f"{mass:.3g} range(m_i)",
            f"{self}, with infinite v",
        )

    def quadrature(self) -> tuple[np.ndarray, np.ndarray]:
        """Return points `[J]` and weights `[J]`: Gauss-Jacobi, or in `logit p` for a truncated law."""
        if self.eps == 0:
            return _jacobi_quadrature(self.a, self.b)
        return _logit_quadrature(self.a, self.b, self.eps)

    def density(self, p: np.ndarray) -> np.ndarray:
        """Return the density at `p [J]`, float64 `[J]`: 0 outside `[eps, 1-eps]`."""
        p = np.asarray(p, np.float64)
        low, high = scipy.special.betainc(self.a, self.b, (self.eps, 1.0 - self.eps))
        inside = (p > 0) & (p < 1) & (p >= self.eps) & (p <= 1.0 - self.eps)
        p = np.where(inside, p, 0.5)
        log_density = scipy.special.xlogy(self.a - 1.0, p) + scipy.special.xlog1py(self.b - 1.0, -p)
        return np.where(inside, np.exp(log_density - scipy.special.betaln(self.a, self.b)) / (high - low), 0.0)

    @property
    def fourth_moment(self) -> float:
        """`E_P[1/p^3 + 1/(1-p)^3]`; in closed form, and infinite unless `a, b > 3`, for `eps = 0`."""
        if self.eps > 0:
            return super().fourth_moment
        if min(self.a, self.b) <= 3:
            return np.inf
        rising = np.prod(self.a + self.b - np.arange(1.0, 4.0))
        return float(sum(rising / np.prod(c - np.arange(1.0, 4.0)) for c in (self.a, self.b)))

    def sample(self, key: jax.Array, tilted: bool = False) -> jax.Array:
        """Draw one `p` from the law, or from `Beta(a-1, b-1)` on the same interval if `tilted`; float32 scalar.

        A truncated law is drawn by inverting its distribution function, tabulated in `logit p`.
        """
        a, b = self.a - tilted, self.b - tilted
        if self.eps == 0:
            return _clip(jax.random.beta(key, a, b, dtype=jnp.float32), 0.0)
        cdf, logit = _logit_table(a, b, self.eps)
        p = jax.nn.sigmoid(jnp.interp(_open_uniform(key), cdf, logit))
        return _clip(p, self.eps)


def _open_uniform(key: jax.Array) -> jax.Array:
    """Draw from U(0, 1): the midpoints of the `2^23` cells that `jax.random.uniform` gives in float32."""
    return jax.random.uniform(key, dtype=jnp.float32) + np.float32(2.0**-24)


def _clip(p: jax.Array, eps: float) -> jax.Array:
    """Round `p` into the float32 values strictly inside (0, 1) and inside `[eps, 1-eps]`."""
    low, high = np.float32(max(eps, _SMALLEST_P)), np.float32(1.0 - max(eps, _SMALLEST_P))
    low = low if low >= eps else np.nextafter(low, np.float32(1.0))
    high = high if high <= 1.0 - eps else np.nextafter(high, np.float32(0.0))
    return jnp.clip(p.astype(jnp.float32), low, high)


def _storable_probability(value: Any, name: str) -> float:
    """Return `value` if it is a probability that float32 keeps away from 0 and 1."""
    p = checks.probability(value, name)
    inside = _SMALLEST_P <= p <= 1.0 - _SMALLEST_P
    checks.require(inside, f"{name} at least 2^-24 from 0 and 1 (p is float32)", p)
    return p


def _truncation(eps: Any) -> float:
    """Return `eps` as a float if a law can be cut off there."""
    cut = checks.probability(eps, "eps")
    checks.require(_SMALLEST_EPS <= cut < 0.5, f"eps in [{_SMALLEST_EPS:g}, 0.5)", cut)
    return cut


def _log_density_of_logit(logit: np.ndarray, a: float, b: float) -> np.ndarray:
    """Return the log density of `logit p`, up to a constant, where `p` has density `p^(a-1) (1-p)^(b-1)`."""
    log_density: np.ndarray = -a * np.logaddexp(0.0, -logit) - b * np.logaddexp(0.0, logit)
    return log_density


def _from_tilted(points: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn a quadrature of the tilted law into one of the law itself, exact also for `1/(p(1-p))`."""
    weights = weights * points * (1.0 - points)
    weights /= weights.sum()
    points.flags.writeable = weights.flags.writeable = False
    return points, weights


@functools.lru_cache(maxsize=64)
def _logit_quadrature(a: float, b: float, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Composite Gauss-Legendre in `logit p` for `Beta(a, b)` restricted to `[eps, 1-eps]`."""
    edge = -scipy.special.logit(eps)
    num_panels = int(np.ceil(4.0 * edge))
    half_width = edge / num_panels
    nodes, weights = np.polynomial.legendre.leggauss(_PANEL_NODES)
    centres = np.linspace(-edge + half_width, edge - half_width, num_panels)
    logit = (centres[:, None] + half_width * nodes).ravel()
    log_density = _log_density_of_logit(logit, a - 1.0, b - 1.0)
    tilted = np.tile(weights, num_panels) * np.exp(log_density - log_density.max())
    return _from_tilted(scipy.special.expit(logit), tilted)


@functools.lru_cache(maxsize=64)
def _jacobi_quadrature(a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Jacobi for `Beta(a, b)` by way of the nodes of the tilted law `Beta(a-1, b-1)`.

    The nodes are the eigenvalues of the Jacobi matrix, the weights the squares of the first components of its
    eigenvectors (Golub and Welsch, Math. Comp. 23, 1969). Unlike `scipy.special.roots_jacobi` this neither overflows
    for large parameters nor loses digits near `a = 1`.
    """
    alpha, beta = b - 2.0, a - 2.0
    n = np.arange(1.0, _GAUSS_NODES)
    total = 2.0 * n + alpha + beta
    first = (beta - alpha) / (alpha + beta + 2.0)
    diagonal = np.append(first, (beta - alpha) * (beta + alpha) / (total * (total + 2.0)))
    # At n = 1 the factors n + alpha + beta and total - 1 are equal and cancel, also where both are zero.
    ratio = np.append(1.0, (n + alpha + beta)[1:] / (total - 1.0)[1:])
    squared = 4.0 * n * (n + alpha) * (n + beta) * ratio / (total**2 * (total + 1.0))
    nodes, vectors = scipy.linalg.eigh_tridiagonal(diagonal, np.sqrt(squared))
    return _from_tilted((1.0 + nodes) / 2.0, vectors[0] ** 2)


@functools.lru_cache(maxsize=64)
def _logit_table(a: float, b: float, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Tabulate the distribution function of `logit p` for density `p^(a-1) (1-p)^(b-1)` on `[eps, 1-eps]`.

    Returns:
      The distribution function and `logit p`, float32 `[_TABLE_CELLS + 1]` each.
    """
    edge = -scipy.special.logit(eps)
    logit = np.linspace(-edge, edge, _TABLE_CELLS + 1)
    log_density = _log_density_of_logit(logit, a, b)
    density = np.exp(log_density - log_density.max())
    cdf = np.append(0.0, np.cumsum(density[1:] + density[:-1]))
    return (cdf / cdf[-1]).astype(np.float32), logit.astype(np.float32)
