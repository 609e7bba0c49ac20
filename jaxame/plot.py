"""Figures, with matplotlib; every function draws on the Axes it is given and returns it."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by colour-blind readers.
_GREY, _BLUE, _ORANGE, _GREEN = "#9a9a9a", "#0072b2", "#d55e00", "#009e73"


def values(
    ame: np.ndarray,
    *,
    selected: np.ndarray,
    truth: np.ndarray | None = None,
    unit: str = "utility",
    ax: Axes | None = None,
) -> Axes:
    """Plot the AME of every source on one query, with the selected and, if known, the truly responsible marked.

    Args:
      ame: `[N]` values, in `unit`.
      selected: indices of the selected sources.
      truth: indices of the sources known to be responsible, or None.
      unit: what the values count.
      ax: where to draw; a new figure by default.
    """
    ax = plt.subplots(figsize=(8, 3))[1] if ax is None else ax
    source = np.arange(ame.size)
    ax.axhline(0, color="black", linewidth=0.6)
    ax.scatter(source, ame, s=9, color=_GREY, linewidths=0, label=f"all {ame.size} sources")
    ax.scatter(selected, ame[selected], s=34, color=_BLUE, linewidths=0, label=f"{len(selected)} selected")
    if truth is not None:
        label = f"{len(truth)} truly responsible"
        ax.scatter(truth, ame[truth], s=95, facecolors="none", edgecolors=_ORANGE, linewidths=1.5, label=label)
    ax.set_xlabel("source")
    ax.set_ylabel(f"AME\n({unit})")
    ax.margins(x=0.01)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return ax


def thumbnail(image: np.ndarray, *, title: str, colour: str | None = None, ax: Axes | None = None) -> Axes:
    """Show one image with a title.

    Args:
      image: `[H, W]` grey from 0 to its largest value, or `[H, W, 3]` colour.
      title: one or two short lines.
      colour: colour of the frame and title; black by default.
      ax: where to draw; a new figure by default.
    """
    ax = plt.subplots(figsize=(1.2, 1.2))[1] if ax is None else ax
    ax.imshow(image, cmap="gray_r")
    ax.set_title(title, fontsize=8, color=colour or "black")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_edgecolor(colour or "black")
        spine.set_linewidth(2.0 if colour else 0.8)
    return ax


def culprits(
    query_image: np.ndarray,
    source_images: Sequence[np.ndarray],
    captions: Sequence[str],
    marks: Sequence[tuple[bool, bool]],
    axes: Sequence[Axes],
) -> Sequence[Axes]:
    """Show a query beside its top sources.

    Args:
      query_image: image of the query.
      source_images: images of its top sources, most important first.
      captions: a caption for each source.
      marks: for each source, whether it was selected and whether it is truly responsible. Selected ones have a blue
        frame, or a green one if truly responsible; responsible ones that were missed an orange one.
      axes: one more than there are sources.
    """
    thumbnail(query_image, title="the query", ax=axes[0])
    colours = {(True, True): _GREEN, (True, False): _BLUE, (False, True): _ORANGE, (False, False): None}
    for image, caption, mark, ax in zip(source_images, captions, marks, axes[1:], strict=True):
        thumbnail(image, title=caption, colour=colours[mark], ax=ax)
    return axes


def save(figure: Any, path: Any) -> None:
    """Write a figure as PNG and close it."""
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
