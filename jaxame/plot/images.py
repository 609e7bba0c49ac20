"""Images of sources and queries in a grid, and figures as files."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from jaxame import checks
from jaxame.plot.style import axes


def thumbnails(
    images: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    colours: Sequence[str | None] | None = None,
    columns: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """Show images in a grid, each with a caption above it.

    Args:
      images: each `[H, W]` grey, from 0 (white) to its largest value (black), or `[H, W, 3]` colour from 0 to 1.
      captions: for each image one or two short lines.
      colours: for each image that of its frame and caption, or None for black.
      columns: images in a row.
      ax: where to draw; a new figure by default.

    Raises:
      ValueError: if `columns` is not a positive integer, or there are more or fewer captions or colours than images.
    """
    columns = min(checks.count(columns, "columns"), max(len(images), 1))
    rows = -(-len(images) // columns)
    ax = axes(ax, (1.15 * columns, 1.6 * max(rows, 1)))
    ax.set_axis_off()
    frames: Sequence[str | None] = [None] * len(images) if colours is None else colours
    for number, (image, caption, colour) in enumerate(zip(images, captions, frames, strict=True)):
        row, column = divmod(number, columns)
        place = (column / columns, 1 - (row + 1) / rows, 0.9 / columns, 0.7 / rows)
        _thumbnail(image, caption, colour, ax.inset_axes(place))
    return ax


def _thumbnail(image: np.ndarray, caption: str, colour: str | None, ax: Axes) -> None:
    ax.imshow(image, cmap="gray_r", interpolation="nearest")
    ax.set_title(caption, fontsize=8, color=colour or "black", parse_math=False)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_edgecolor(colour or "black")
        spine.set_linewidth(2.0 if colour else 0.8)


def save(figure: Any, path: Any) -> None:
    """Write a Matplotlib `figure` as PNG to `path` and close it."""
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
