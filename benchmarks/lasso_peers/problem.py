"""The problem of the benchmark: subsets, utilities and folds, as `jaxame` holds them and as plain arrays."""

import dataclasses

import jax
import numpy as np
from scipy.special import expit

from benchmarks.lasso_peers.task import Task, eliminate
from jaxame.design import Design, Grid, redraw_masks, sample_design
from jaxame.features import Coding, code
from jaxame.lasso import assign_folds

LAW = Grid((0.2, 0.4, 0.6, 0.8))
MIN_RATIO = 0.01
_NUM_ACTIVE, _NOISE = 20, 0.1
_ROWS = 256


@dataclasses.dataclass(frozen=True)
class Size:
    """What decides a problem.

    Attributes:
      submodels: `M`.
      sources: `N`, at least 20.
      queries: `Q`.
      folds: `F`.
      penalties: `L`, from the smallest that gives zero to its hundredth.
      seed: of everything.
      knockoffs: whether there is a redrawn copy of the columns.
      full_path: whether early ending is off.
    """

    submodels: int
    sources: int
    queries: int
    folds: int
    penalties: int
    seed: int
    knockoffs: bool
    full_path: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """A problem drawn.

    Attributes:
      design: `M` rows over `N` sources.
      copies: uint8 `[1, M, ceil(N/8)]`, the knockoffs, or None.
      coding: of the design.
      active: `[Q, 20]` sources that each query depends on.
      targets: `[M, Q]`.
      fold: `[M]`.
    """

    design: Design
    copies: jax.Array | None
    coding: Coding
    active: np.ndarray
    targets: np.ndarray
    fold: np.ndarray


def draw(size: Size) -> Drawn:
    """Draw a problem: `U = sigmoid(count - 6)` of 20 active sources, plus noise."""
    key = jax.random.key(size.seed)
    design = sample_design(key, LAW, num_submodels=size.submodels, num_sources=size.sources)
    rng = np.random.default_rng(size.seed)
    active = np.stack([rng.choice(size.sources, _NUM_ACTIVE, replace=False) for _ in range(size.queries)])
    starts = range(0, size.submodels, _ROWS)
    masks = (np.asarray(design.masks(start, min(start + _ROWS, size.submodels))) for start in starts)
    count = np.concatenate([part[:, active].sum(axis=2) for part in masks])
    return Drawn(
        design=design,
        copies=redraw_masks(design, key, 1) if size.knockoffs else None,
        coding=code(design),
        active=active,
        targets=expit(count - 6.0) + _NOISE * rng.normal(size=count.shape),
        fold=np.asarray(assign_folds(jax.random.fold_in(key, 1), size.submodels, size.folds)),
    )


def as_task(drawn: Drawn, size: Size) -> Task:
    """Return the problem as plain arrays, with its penalties."""
    packed = np.asarray(drawn.design.packed)[None]
    coding = drawn.coding
    task = Task(
        packed=packed if drawn.copies is None else np.concatenate([packed, np.asarray(drawn.copies)]),
        num_sources=size.sources,
        low=coding.low,
        step=coding.high - coding.low,
        weight=coding.weight,
        z=coding.z,
        targets=drawn.targets,
        fold=drawn.fold,
        penalties=np.empty((0, 0)),
        full_path=size.full_path,
    )
    largest = _largest_penalties(task)
    return dataclasses.replace(task, penalties=largest[:, None] * np.geomspace(1.0, MIN_RATIO, size.penalties))


def _largest_penalties(task: Task) -> np.ndarray:
    """Return the smallest penalty of each query that gives zero, `[Q]`."""
    without = eliminate(task, task.num_folds)
    target = without.root[:, None] * without.residual(without.root[:, None] * task.targets)
    return np.max([np.abs(task.columns(block).T @ target).max(axis=0) for block in task.blocks()], axis=0)
