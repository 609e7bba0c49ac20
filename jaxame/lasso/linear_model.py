r"""The LASSO as scikit-learn estimators, over the solver of this package, for dense input.

Both minimise, with row weights `w_i` that sum to 1, over coefficients `b` in `R^P` and an intercept `g`,

    sum_i w_i (y_i - g - x_i b)^2 / 2  +  alpha ||b||_1,                                                         (1)

the objective of scikit-learn's own. `M` rows, `P` columns, `Q` targets, `L` penalties, `F` splits. All is in float64.
"""

import warnings
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import check_cv
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted, validate_data

from jaxame.checks import count, describe, require
from jaxame.lasso.path import PathStep, Tolerance, walk_path
from jaxame.lasso.problem import DenseColumns, Problem, make_problem

_FEWEST_ROWS = 512
_FEWEST_COLUMNS = 128
_COARSE_UP_TO = 1024
_RESOLUTION = np.finfo(np.float64).resolution
_ROUNDING = 1e-14  # share of the mean square of y that rounding may add to a gap


class _Data(NamedTuple):
    """What is fitted.

    Attributes:
      x: `[M, P]` less `x_mean`.
      y: `[M, Q]` less `y_mean`.
      weight: `[M]`, summing to 1.
      x_mean: `[P]` weighted means; 0 without an intercept.
      y_mean: `[Q]` the same.
    """

    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    x_mean: np.ndarray
    y_mean: np.ndarray


class _Options(NamedTuple):
    """The parameters that both estimators have, checked."""

    fit_intercept: bool
    positive: bool
    max_iter: int
    tol: float


class _Path(NamedTuple):
    """What the solver found at `L` falling penalties.

    Attributes:
      coef: `[Q, P]` at the last penalty, in the unit of `y` per unit of `x`.
      errors: `[L, Q, F]` mean squared held-out errors, in the squared unit of `y`.
      passes: `[Q]` passes over the columns, all penalties together.
      given_up: problems that did not meet the tolerance, counted once per penalty and target.
    """

    coef: np.ndarray
    errors: np.ndarray
    passes: np.ndarray
    given_up: int


def _bucket(size: int, least: int) -> int:
    """Round up so that few shapes are compiled: to a power of two, later on to an eighth of one."""
    power = 1 << (max(size, least) - 1).bit_length()
    step = power if power <= _COARSE_UP_TO else power // 8
    return -(-size // step) * step


def _pad(array: np.ndarray, *shape: int, fill: int = 0) -> np.ndarray:
    widths = [(0, to - size) for to, size in zip(shape, array.shape, strict=True)]
    return np.pad(array, widths, constant_values=fill)


def _column_scale(data: _Data) -> np.ndarray:
    """Root mean square of every column, `[P]`; that of the largest one for a column of zeros."""
    scale = np.sqrt(data.weight @ data.x**2)
    return np.where(scale > 0, scale, scale.max() or 1.0)


def _padded_problem(data: _Data, scale: np.ndarray, fold: np.ndarray | None, options: _Options) -> Problem:
    """Pose (1) with columns of unit mean square, whose scales become penalty factors, and padding that changes nothing.

    Rounding is then alike in all columns, however far apart their scales.
    """
    num_rows, num_columns = data.x.shape
    rows, columns = _bucket(num_rows, _FEWEST_ROWS), _bucket(num_columns, _FEWEST_COLUMNS)
    return make_problem(
        DenseColumns(x=jnp.asarray(_pad((data.x / scale).T, columns, rows))),
        _pad(data.y, rows, data.y.shape[1]),
        _pad(data.weight, rows),
        np.ones((rows, int(options.fit_intercept))),
        None if fold is None else _pad(fold, rows, fill=-1),
        factor=_pad(scale.max() / scale, columns, fill=1),
        positive=options.positive,
        dtype=jnp.float64,
    )


def _solve(data: _Data, alphas: np.ndarray, fold: np.ndarray | None, options: _Options) -> _Path:
    """Solve (1) at falling penalties `alphas [L]`, all targets and folds in one batch."""
    steps: list[PathStep] = []
    scale = _column_scale(data)
    with jax.enable_x64(True):
        problem = _padded_problem(data, scale, fold, options)
        unit = np.asarray(problem.unit)

        def keep(step: PathStep) -> np.ndarray:
            steps.append(step)
            return np.ones(unit.size, bool)

        walk_path(
            problem,
            keep,
            penalties=alphas[:, None] / (np.where(unit > 0, unit, 1.0) * scale.max()),
            tolerance=Tolerance(gap=2 * options.tol, violation=0.0),
            max_passes=options.max_iter,
        )
    coef = np.zeros((unit.size, problem.columns.num_columns + 1))
    np.put_along_axis(coef, steps[-1].index, steps[-1].coef, axis=1)
    errors = [step.errors * unit[:, None] ** 2 for step in steps]
    errors += errors[-1:] * (alphas.size - len(steps))  # the walk ends at once where all coefficients stay 0
    return _Path(
        coef=coef[:, : scale.size] * unit[:, None] / scale,
        errors=np.stack(errors),
        passes=np.sum([step.passes for step in steps], axis=0),
        given_up=sum(int((~step.converged).sum()) for step in steps),
    )


def _largest_penalty(gradient: np.ndarray, positive: bool) -> np.ndarray:
    """Smallest penalties that hold all coefficients at 0 against gradients `[P, Q]`, `[Q]`."""
    steepest: np.ndarray = np.maximum(gradient if positive else np.abs(gradient), 0.0).max(axis=0)
    return steepest


def _penalty_at_zero(data: _Data, positive: bool) -> float:
    """Smallest penalty at which all coefficients of all targets are 0."""
    return float(_largest_penalty(data.x.T @ (data.weight[:, None] * data.y), positive).max())


def _fit(data: _Data, alpha: float, options: _Options) -> _Path:
    """Solve (1) at `alpha`, halving the penalty until it is reached."""
    halvings = np.ceil(np.log2(max(_penalty_at_zero(data, options.positive) / alpha, 2.0)))
    return _solve(data, alpha * 2.0 ** np.arange(halvings)[::-1], None, options)


def _dual_gap(data: _Data, coef: np.ndarray, alpha: float, positive: bool) -> np.ndarray:
    """Duality gap of (1) at `coef [Q, P]`, the dual point being the best on the ray of the residuals, `[Q]`."""
    residual = data.y - data.x @ coef.T
    square, along = data.weight @ residual**2, data.weight @ (residual * data.y)
    steepest = _largest_penalty(data.x.T @ (data.weight[:, None] * residual), positive)
    scale = np.minimum(along / np.where(square > 0, square, 1.0), alpha / np.maximum(steepest, alpha * _RESOLUTION))
    gap = square / 2 + alpha * np.abs(coef).sum(axis=1) - scale * along + scale**2 * square / 2
    no_negative: np.ndarray = np.maximum(gap, 0.0)
    return no_negative


class _Split(NamedTuple):
    """Row numbers that a split trains on and holds out."""

    train: np.ndarray
    test: np.ndarray


def _read_splits(pairs: Iterable[tuple[np.ndarray, np.ndarray]], weight: np.ndarray) -> list[_Split]:
    rows = np.arange(weight.size)
    splits = [_Split(rows[train], rows[test]) for train, test in pairs]
    for number, split in enumerate(splits):
        weights = [float(weight[side].sum()) for side in split]
        require(min(weights) > 0, "every split to train on and to hold out some weight", f"{weights} in split {number}")
    return splits


def _as_folds(splits: list[_Split], num_rows: int) -> np.ndarray | None:
    """Split that holds each row out, -1 for none, `[M]`; None unless every other split trains on that row once."""
    fold = np.full(num_rows, -1)
    for number, split in enumerate(splits):
        fold[split.test] = number
    for number, split in enumerate(splits):
        described = _Split(np.flatnonzero(fold != number), np.flatnonzero(fold == number))
        if not all(np.array_equal(np.sort(rows), same) for rows, same in zip(split, described, strict=True)):
            return None
    return fold


def _take(data: _Data, split: _Split) -> tuple[_Data, np.ndarray]:
    """Rows of one split, each as often as it is named, and the fold that holds them out."""
    rows, fold = np.concatenate(split), np.repeat([-1, 0], [side.size for side in split])
    weight = data.weight[rows]
    return data._replace(x=data.x[rows], y=data.y[rows], weight=weight / weight.sum()), fold


def _cross_validate(data: _Data, alphas: np.ndarray, splits: list[_Split], options: _Options) -> tuple[np.ndarray, int]:
    """Held-out errors of every split, `[L, F]`, and how many problems were given up."""
    fold = _as_folds(splits, len(data.y))
    parts = [_take(data, split) for split in splits] if fold is None else [(data, fold)]
    paths = [_solve(some, alphas, held_out, options) for some, held_out in parts]
    return np.concatenate([path.errors[:, 0] for path in paths], axis=1), sum(path.given_up for path in paths)


def _positive(value: Any, name: str) -> float:
    """Return `value` as a positive, finite float."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    require(is_number and 0 < value < np.inf, f"{name} positive and finite", describe(value))
    return float(value)


def _read_weights(sample_weight: Any, num_rows: int) -> np.ndarray:
    """Weights that sum to 1, `[M]`; a number stands for equal ones, as in scikit-learn."""
    if sample_weight is None or isinstance(sample_weight, Real):
        return np.full(num_rows, 1 / num_rows)
    weight = check_array(sample_weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight")
    require(weight.shape == (num_rows,), f"sample_weight [{num_rows}]", describe(weight))
    require((weight >= 0).all() and weight.any(), "sample_weight >= 0, not all zero", f"a sum of {weight.sum()}")
    shares: np.ndarray = weight / weight.sum()
    return shares


class _LinearModel(RegressorMixin, BaseEstimator):
    """What the two estimators have in common.

    Constructors take anything, as scikit-learn asks; `fit` checks.
    """

    def _options(self) -> _Options:
        is_number = isinstance(self.tol, Real) and not isinstance(self.tol, bool)
        require(is_number and self.tol >= 0, "tol >= 0", describe(self.tol))
        max_iter = count(self.max_iter, "max_iter")
        return _Options(bool(self.fit_intercept), bool(self.positive), max_iter, float(self.tol))

    def _read(self, X: Any, y: Any, sample_weight: Any, multi_output: bool) -> tuple[_Data, bool]:
        """Check the input and take means off; also say whether `y` has one axis."""
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=multi_output, y_numeric=True)
        targets = np.asarray(y, np.float64).reshape(len(y), -1)
        weight = _read_weights(sample_weight, len(y))
        x_mean, y_mean = (weight @ a if self.fit_intercept else np.zeros(a.shape[1]) for a in (X, targets))
        return _Data(X - x_mean, targets - y_mean, weight, x_mean, y_mean), y.ndim == 1

    def _keep(self, data: _Data, path: _Path, alpha: float, one_axis: bool, given_up: int = 0) -> None:
        """Keep the fit at `alpha`; warn if it misses the tolerance, or other problems were `given_up`."""
        gap = _dual_gap(data, path.coef, alpha, self.positive)
        if missed := given_up + int((gap > (self.tol + _ROUNDING) * (data.weight @ data.y**2)).sum()):
            message = (
                f"{missed} problem(s) missed a duality gap of tol = {self.tol} times the mean square of y within "
                f"max_iter = {self.max_iter} passes over the columns: raise max_iter, the penalty or tol"
            )
            warnings.warn(message, ConvergenceWarning, stacklevel=3)
        fitted = path.coef, data.y_mean - path.coef @ data.x_mean, gap, path.passes
        self.coef_, self.intercept_, self.dual_gap_, self.n_iter_ = (part[0] if one_axis else part for part in fitted)

    def predict(self, X: Any) -> np.ndarray:
        """Predict the targets of rows `X [M, P]`: `[M]`, or `[M, Q]` if `y` had two axes in `fit`."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        predicted: np.ndarray = X @ self.coef_.T + self.intercept_
        return predicted


class Lasso(MultiOutputMixin, _LinearModel):
    """The LASSO at one penalty.

    Args:
      alpha: penalty in (1), above 0, in the unit of `y` times that of `X`. (For 0 there is scikit-learn's
        `LinearRegression`.)
      fit_intercept: fit `g`; otherwise it is 0.
      max_iter: passes over the columns at one penalty before giving up with a `ConvergenceWarning`. The penalty is
        halved until it is `alpha`.
      tol: stop at a duality gap of `tol` times the mean square of `y`, less its mean if there is an intercept.
      positive: no coefficient may be negative.

    Attributes:
      coef_: `[P]`, or `[Q, P]` if `y` has two axes, in the unit of `y` per unit of `X`.
      intercept_: `[]` or `[Q]`, in the unit of `y`.
      dual_gap_: `[]` or `[Q]` duality gap of (1), recomputed from `X` and `y`.
      n_iter_: `[]` or `[Q]` passes over the columns, all penalties together.
      n_features_in_: `P`.
      feature_names_in_: `[P]`, if `X` has column names.

    References:
      Tibshirani, J. R. Stat. Soc. B 58(1), 1996; scikit-learn's estimator of this name.

    Example:
      >>> import numpy as np
      >>> from jaxame.lasso import Lasso
      >>> x = np.random.default_rng(0).normal(size=(100, 20))
      >>> fit = Lasso(alpha=0.1).fit(x, 2.0 * x[:, 0] - x[:, 1])
      >>> fit.coef_[:2].round(1)
      array([ 1.9, -0.9])
      >>> np.flatnonzero(fit.coef_)
      array([0, 1])
    """

    def __init__(
        self,
        alpha: Any = 1.0,
        *,
        fit_intercept: Any = True,
        max_iter: Any = 1000,
        tol: Any = 1e-4,
        positive: Any = False,
    ):
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.positive = positive

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "Lasso":
        """Fit (1).

        Args:
          X: `[M, P]` dense design, finite.
          y: `[M]` target or `[M, Q]` targets, each fitted by itself.
          sample_weight: `[M]` row weights in any unit, none negative; default all the same.

        Returns:
          The estimator.

        Raises:
          ValueError: if a parameter, a shape or a value is not as stated.
          TypeError: if `X` is sparse.
        """
        alpha, options = _positive(self.alpha, "alpha"), self._options()
        data, one_axis = self._read(X, y, sample_weight, multi_output=True)
        self._keep(data, _fit(data, alpha, options), alpha, one_axis)
        return self


class LassoCV(_LinearModel):
    """The LASSO at the penalty of least cross-validated error.

    The error at a penalty is the mean over the splits of each split's mean squared error, as in scikit-learn.

    Args:
      eps: last over first penalty where `alphas` is a number.
      alphas: number of penalties, the first the smallest that gives zero, evenly spaced in log scale; or the penalties
        themselves, above 0.
      fit_intercept: fit `g`; otherwise it is 0.
      max_iter: passes over the columns at one penalty before giving up with a `ConvergenceWarning`.
      tol: stop at a duality gap of `tol` times the mean square of `y`, less its mean if there is an intercept.
      cv: what `sklearn.model_selection.check_cv` takes: a number of folds, a splitter, or `(train, test)` pairs. Splits
        that hold a row out at most once and train on all others are solved in one batch, other splits one by one.
      positive: no coefficient may be negative.

    Attributes:
      alpha_: `[]` the penalty chosen.
      alphas_: `[L]` the penalties, falling.
      mse_path_: `[L, F]` mean squared errors on the rows held out, in the squared unit of `y`.
      coef_: `[P]` coefficients of `Lasso(alpha_)` on all rows, in the unit of `y` per unit of `X`.
      intercept_: `[]` its intercept, in the unit of `y`.
      dual_gap_: `[]` its duality gap, recomputed from `X` and `y`.
      n_iter_: `[]` its passes over the columns.
      n_features_in_: `P`.
      feature_names_in_: `[P]`, if `X` has column names.

    References:
      Friedman, Hastie, Tibshirani, J. Stat. Softw. 33(1), 2010; scikit-learn's estimator of this name.

    Example:
      >>> import numpy as np
      >>> from jaxame.lasso import LassoCV
      >>> x = np.random.default_rng(0).normal(size=(100, 20))
      >>> fit = LassoCV(alphas=10, cv=5).fit(x, 2.0 * x[:, 0] - x[:, 1])
      >>> np.flatnonzero(fit.coef_)
      array([0, 1])
    """

    def __init__(
        self,
        *,
        eps: Any = 1e-3,
        alphas: Any = 100,
        fit_intercept: Any = True,
        max_iter: Any = 1000,
        tol: Any = 1e-4,
        cv: Any = None,
        positive: Any = False,
    ):
        self.eps = eps
        self.alphas = alphas
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.cv = cv
        self.positive = positive

    def _penalties(self, data: _Data) -> np.ndarray:
        """Falling penalties, `[L]`."""
        if not isinstance(self.alphas, Integral):
            require(len(self.alphas) > 0, "alphas to be a number or not empty", describe(self.alphas))
            return np.sort([_positive(alpha, "each of alphas") for alpha in self.alphas])[::-1]
        number, ratio = count(self.alphas, "alphas"), _positive(self.eps, "eps")
        first = _penalty_at_zero(data, self.positive)
        if first <= _RESOLUTION:
            return np.full(number, _RESOLUTION)
        return np.geomspace(first, first * ratio, number)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "LassoCV":
        """Choose the penalty and fit (1) there.

        Args:
          X: `[M, P]` dense design, finite.
          y: `[M]` target.
          sample_weight: `[M]` row weights in any unit, none negative, for fits and errors; default all the same.

        Returns:
          The estimator.

        Raises:
          ValueError: if a parameter, a shape or a value is not as stated, or a split has a side without weight.
          TypeError: if `X` is sparse.
        """
        options = self._options()
        data, _ = self._read(X, y, sample_weight, multi_output=False)
        splits = _read_splits(check_cv(self.cv).split(data.x, data.y[:, 0]), data.weight)
        self.alphas_ = self._penalties(data)
        self.mse_path_, given_up = _cross_validate(data, self.alphas_, splits, options)
        self.alpha_ = self.alphas_[self.mse_path_.mean(axis=1).argmin()]
        self._keep(data, _fit(data, self.alpha_, options), self.alpha_, one_axis=True, given_up=given_up)
        return self
