"""What ADMM needs of the rows of its problems: their matrices and products, inverses, and held-out errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

from jaxame.lasso.problem import Problem

_LEAF = 256  # rows of the blocks that are inverted by Cholesky factors


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ByColumns:
    """Products of the problems, `G = X'WX` of every fold held: `2 P^2` operations a problem.

    Attributes:
      gram: `[F+1, P, P]` after elimination of `Z`.
      moment: `[F+1, Q, P]` `X'Wy`.
    """

    gram: Array
    moment: Array

    def invert(self, rho: Array) -> Float[Array, "F1 P P"]:
        """`(G + rho I)^-1`."""
        return jax.lax.map(lambda gram: inverse(_raise(gram, rho)), self.gram)

    def smooth(self, inverse: Float[Array, "F1 P P"], rho: Array, near: Float[Array, "F1 Q P"]) -> Array:
        """Minimise the loss plus `rho ||b - near||^2 / 2`, `[F+1, Q, P]`."""
        return by_fold(self.moment + rho * near, inverse)

    def gradient(self, coef: Float[Array, "F1 Q P"]) -> Array:
        """`X'W` times the residuals, `[F+1, Q, P]`."""
        return self.moment - by_fold(coef, self.gram)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ByRows:
    """Products of the problems from the columns, which all folds share: `4 P M + 2 M^2` operations a problem.

    Attributes:
      x: `[P, M]`, columns that `Z` explains set to zero.
      y: `[Q, M]`.
      weight: `[F+1, M]`.
      z: `[M, D]`.
      z_inverse: `[F+1, D, D]`.
    """

    x: Array
    y: Array
    weight: Array
    z: Array
    z_inverse: Array

    def invert(self, rho: Array) -> Float[Array, "F1 M M"]:
        """`W^1/2 E (E W^1/2 X X' W^1/2 E + rho I)^-1 E W^1/2`, `E` being the elimination of `Z`."""
        kernel = self.x.T @ self.x

        def of_problem(parts: tuple[Array, Array]) -> Array:
            weight, z_inverse = parts
            root = jnp.sqrt(weight)
            z = root[:, None] * self.z

            def without_z(rows: Array) -> Array:
                return rows - (rows @ z) @ z_inverse @ z.T

            inner = without_z(without_z(root[:, None] * kernel * root).T)
            return root[:, None] * without_z(without_z(inverse(_raise((inner + inner.T) / 2, rho))).T) * root

        return jax.lax.map(of_problem, (self.weight, self.z_inverse))

    def _left(self, coef: Float[Array, "F1 Q P"]) -> Array:
        fitted = coef.reshape(-1, coef.shape[2]) @ self.x
        return self.y - fitted.reshape(*coef.shape[:2], -1)

    def _to_columns(self, rows: Float[Array, "F1 Q M"]) -> Array:
        return (rows.reshape(-1, rows.shape[2]) @ self.x.T).reshape(*rows.shape[:2], -1)

    def smooth(self, inverse: Float[Array, "F1 M M"], _: Array, near: Float[Array, "F1 Q P"]) -> Array:
        """Minimise the loss plus `rho ||b - near||^2 / 2`, `[F+1, Q, P]`."""
        return near + self._to_columns(by_fold(self._left(near), inverse))

    def gradient(self, coef: Float[Array, "F1 Q P"]) -> Array:
        """`X'W` times the residuals, `[F+1, Q, P]`."""
        weighted = self.weight[:, None] * self._left(coef)
        part = by_fold(weighted @ self.z, self.z_inverse) @ self.z.T
        return self._to_columns(weighted - self.weight[:, None] * part)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """What the problems need of the rows; `Z` is eliminated. `P` columns, at most `m` rows held out by a fold.

    Attributes:
      products: how to multiply.
      moment: `[F+1, Q, P]` `X'Wy`.
      square: `[F+1, Q]` `y'Wy`.
      diagonal: `[P]` of `X'WX`, on all rows.
      held_x: `[F, P, m]` held-out rows, less what `Z` predicts of them.
      held_y: `[F, Q, m]` likewise.
      held_weight: `[F, m]` summing to 1 over the rows.
    """

    products: ByColumns | ByRows
    moment: Array
    square: Array
    diagonal: Array
    held_x: Array
    held_y: Array
    held_weight: Array


def rows_are_few(num_rows: int, num_columns: int) -> bool:
    """Whether products by rows are faster (on two cores: equal at .6 rows a column)."""
    return num_rows < 0.6 * num_columns


def held_rows(problem: Problem) -> Array:
    """Rows that each fold holds out, `[F, m]`, padded with `M`."""
    fold = np.asarray(problem.fold)
    rows = [np.flatnonzero(fold == f) for f in range(problem.num_folds)]
    longest = max(part.size for part in rows)
    return jnp.asarray([np.pad(part, (0, longest - part.size), constant_values=fold.size) for part in rows])


@jax.jit
def assemble(problem: Problem, weight: Float[Array, "F1 M"], held: Int[Array, "F m"], leader: Array) -> System:
    """Form the system of the problems whose rows have the training weights `weight`; `held` is padded with `M`."""
    x = problem.columns.gather(jnp.arange(problem.columns.num_columns))
    z_inverse, folds = problem.z_inverse[leader], problem.num_folds

    def by_z(weight: Array, z_inverse: Array, columns: Array) -> tuple[Array, Array]:
        moment = (columns * weight) @ problem.z
        return moment, moment @ z_inverse

    # A column that Z explains leaves only rounding behind.
    own = x**2 @ weight[-1]
    x_moment, x_part = by_z(weight[-1], z_inverse[-1], x)
    diagonal = own - (x_moment * x_part).sum(axis=1)
    left = diagonal > 100 * jnp.finfo(x.dtype).eps * own
    x = jnp.where(left[:, None], x, 0.0)

    def of_problem(parts: tuple[Array, Array]) -> tuple[Array, Array]:
        weight, z_inverse = parts
        y_moment, y_part = by_z(weight, z_inverse, problem.y)
        moment = (weight * (problem.y - y_part @ problem.z.T)) @ x.T
        return moment, (weight * problem.y**2).sum(axis=1) - (y_part * y_moment).sum(axis=1)

    def gram(parts: tuple[Array, Array]) -> Array:
        weight, z_inverse = parts
        x_moment, x_part = by_z(weight, z_inverse, x)
        return (x * weight) @ x.T - x_part @ x_moment.T

    def of_fold(parts: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        weight, z_inverse, rows = parts
        z = jnp.take(problem.z, rows, axis=0, mode="fill", fill_value=0.0)

        def without_z(columns: Array) -> Array:
            taken = jnp.take(columns, rows, axis=1, mode="fill", fill_value=0.0)
            return taken - by_z(weight, z_inverse, columns)[1] @ z.T

        return without_z(x), without_z(problem.y)

    moment, square = jax.lax.map(of_problem, (weight, z_inverse))
    products: ByColumns | ByRows = ByRows(x, problem.y, weight, problem.z, z_inverse)
    if not rows_are_few(x.shape[1], x.shape[0]):
        products = ByColumns(jax.lax.map(gram, (weight, z_inverse)), moment)
    held_weight = jnp.take(problem.weight[leader], held, mode="fill", fill_value=0.0)
    held_x, held_y = jax.lax.map(of_fold, (weight[:folds], z_inverse[:folds], held))
    return System(
        products=products,
        moment=moment,
        square=square,
        diagonal=jnp.where(left, diagonal, 0.0),
        held_x=held_x,
        held_y=held_y,
        held_weight=held_weight / held_weight.sum(axis=1, keepdims=True),
    )


def _raise(matrix: Float[Array, "n n"], rho: Array) -> Float[Array, "n n"]:
    return matrix + rho * jnp.eye(matrix.shape[0], dtype=matrix.dtype)


def inverse(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Inverse of a positive definite matrix by halves, so that nearly all of it is matrix products."""
    size = matrix.shape[0]
    if size <= _LEAF:
        return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), jnp.eye(size, dtype=matrix.dtype))
    half = size // 2
    first, cross = inverse(matrix[:half, :half]), matrix[:half, half:]
    across = first @ cross
    second = inverse(matrix[half:, half:] - cross.T @ across)
    off = across @ second
    return jnp.block([[first + off @ across.T, -off], [-off.T, second]])


@jax.jit
def invert(system: System, rho: Array) -> Array:
    """Return the inverses that `smooth` of the system's products takes at `rho`."""
    return system.products.invert(rho)


@jax.jit
def held_out_errors(system: System, coef: Float[Array, "F1 Q P"]) -> Float[Array, "F Q"]:
    """Return the mean squared error of every fold's fits `coef` on the rows that it holds out."""
    residual = system.held_y - by_fold(coef[:-1], system.held_x)
    return (system.held_weight[:, None] * residual**2).sum(axis=2)


def by_fold(rows: Float[Array, "F Q n"], matrices: Float[Array, "F n m"]) -> Float[Array, "F Q m"]:
    """Multiply each fold's rows by its matrix, one fold at a time."""
    return jax.lax.map(lambda pair: pair[0] @ pair[1], (rows, matrices))
