"""Colours, told apart by colour-blind readers (Okabe and Ito's), markers, and axes to draw on."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

GREY, BLUE, ORANGE, GREEN = "#8a8a8a", "#0072b2", "#d55e00", "#009e73"
COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#e69f00", "#56b4e9", "#555555")
MARKERS = "os^Dv<>PX*dph"


def axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the axes, or those of a new figure of a size in inches."""
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax
