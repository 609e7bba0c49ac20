"""Figures that compare estimators, or one at several budgets: a line each."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from jaxame.plot.style import COLOURS, MARKERS, axes

Lines: TypeAlias = Mapping[str, tuple[ArrayLike, ArrayLike]]
"""By name of the line: where, `[K]`, and how much, `[K]`."""


def precision_recall(
    num_submodels: ArrayLike, precision: ArrayLike, recall: ArrayLike, *, ax: Axes | None = None
) -> Axes:
    """Plot precision and recall of selections against the number of submodels that they rest on.

    Args:
      num_submodels: `[K]`.
      precision: `[K]`, from 0 to 1.
      recall: `[K]`, from 0 to 1.
      ax: where to draw; a new figure by default.
    """
    lines = {"precision": (num_submodels, precision), "recall": (num_submodels, recall)}
    ax = _draw_lines(lines, axes(ax, (6, 3)))
    ax.set_xlabel("submodels")
    ax.set_ylim(-0.03, 1.03)
    return ax


def error_by_budget(
    errors: Lines, *, error: str = "L2 error", se: Mapping[str, ArrayLike] | None = None, ax: Axes | None = None
) -> Axes:
    """Plot the error of estimators against evaluations of the game, both in logarithms.

    Args:
      errors: by estimator, the budgets `[K]` and the errors `[K]`.
      error: what the error is, with its unit.
      se: by estimator, standard errors `[K]`; two of them are drawn either way.
      ax: where to draw; a new figure by default.
    """
    ax = axes(ax, (6, 4))
    _draw_lines(errors, ax, se)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xlabel("evaluations of the game")
    ax.set_ylabel(error)
    return ax


def removal_curves(curves: Lines, *, unit: str = "utility", added: bool = False, ax: Axes | None = None) -> Axes:
    """Plot the utility as sources are removed (or added) in the order of their values, a line per estimator.

    Args:
      curves: by estimator, the shares of the sources `[K]`, from 0 to 1, and the utilities `[K]`; see
        `jaxame.metrics.removal_curve` and `addition_curve`.
      unit: what the utility counts.
      added: whether the sources are added.
      ax: where to draw; a new figure by default.
    """
    percent = {name: (100 * np.asarray(share), utility) for name, (share, utility) in curves.items()}
    ax = _draw_lines(percent, axes(ax, (6, 4)))
    ax.set_xlabel(f"sources {'added' if added else 'removed'} (%)")
    ax.set_ylabel(unit, parse_math=False)
    return ax


def _draw_lines(lines: Lines, ax: Axes, se: Mapping[str, ArrayLike] | None = None) -> Axes:
    for number, (name, (at, height)) in enumerate(lines.items()):
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        bars = None if se is None or name not in se else 2 * np.nan_to_num(np.asarray(se[name], float))
        ax.errorbar(np.asarray(at), np.asarray(height), bars, **style, markersize=4, linewidth=1.2, label=name)
    ax.grid(linewidth=0.3)
    ax.legend(frameon=False)
    return ax
