"""Figures, with matplotlib: every function draws on the Axes it is given, or on new ones, and returns them.

What colours tell, shape or place tells too.
"""

from jaxame.plot.comparisons import error_by_budget, precision_recall, removal_curves
from jaxame.plot.images import save, thumbnails
from jaxame.plot.results import (
    cv_curve,
    effect_curves,
    knockoffs,
    path,
    stability,
    utility_by_size,
    values,
    waterfall,
)
from jaxame.plot.style import BLUE, GREEN, GREY, ORANGE

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "cv_curve",
    "effect_curves",
    "error_by_budget",
    "knockoffs",
    "path",
    "precision_recall",
    "removal_curves",
    "save",
    "stability",
    "thumbnails",
    "utility_by_size",
    "values",
    "waterfall",
]
