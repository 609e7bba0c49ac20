"""What sources and queries look like: their images, texts and captions, as a page can show them."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.image import imsave

from jaxame import checks
from jaxame.types import Items

_EXCERPT = 220  # characters of a text that are shown at once
_WHOLE = 20_000  # characters of a text that a page holds


def items_of_sources(game: Any) -> Items:
    """Return what a game's sources look like: its `source_items`, or else images and labels of its `data`.

    A source of several examples is shown by the first of them.
    """
    own = getattr(game, "source_items", None)
    data = getattr(game, "data", None)
    if own is not None or data is None:
        return own or Items()
    _, first, counts = np.unique(np.asarray(data.source), return_index=True, return_counts=True)
    labels: list[Any] = np.asarray(data.y)[first].tolist()
    captions = [f"label {label}" if isinstance(label, int) else "" for label in labels]
    captions = [text + (f", {many} examples" if many > 1 else "") for text, many in zip(captions, counts, strict=True)]
    return Items(captions=captions, images=_images(np.asarray(data.x), first))


def items_of_queries(game: Any, number: int) -> Items:
    """Return what `number` queries look like: a game's `query_items`, or else names and points of its `query`.

    Contrasts, which come after a game's own queries, are called so.
    """
    own = getattr(game, "query_items", None)
    query = getattr(game, "query", None)
    if own is not None or query is None:
        return own or Items()
    entries: Sequence[Any] = getattr(query, "entries", ())
    points: Sequence[Any] = getattr(query, "points", ())
    if not entries or not all(isinstance(entry, str) for entry in entries):
        return Items()
    captions = [*entries, *(f"contrast {extra}" for extra in range(number - len(entries)))]
    one_each = len(points) == 1 and len(points[0]) == number
    return Items(captions=captions, images=_images(points[0], np.arange(number)) if one_each else None)


def checked(items: Items, number: int, name: str) -> Items:
    """Return the items, if there are as many of each kind as there should be.

    Raises:
      ValueError: if not, or for images that are none.
    """
    checks.require(isinstance(items, Items), f"{name} to be jaxame.types.Items", checks.describe(items))
    for kind in ("captions", "images", "texts"):
        given = getattr(items, kind)
        if given is not None:
            checks.require(len(given) == number, f"{number} {kind} of {name}", len(given))
    if items.images is not None:
        fits = is_image(np.asarray(items.images))
        checks.require(fits, f"images of {name} [n, H, W] or [n, H, W, 3]", checks.describe(items.images))
    return items


def is_image(x: np.ndarray) -> bool:
    """Say whether `x` can be images `[n, H, W]`, or `[n, H, W, C]` of 1 or 3 channels."""
    return x.ndim == 3 or (x.ndim == 4 and x.shape[3] in (1, 3))


def picture(items: Items, number: int) -> str:
    """Return an image as a `data:` address, or "" if there is none."""
    if items.images is None:
        return ""
    image = np.asarray(items.images[number], np.float64)
    image = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    low, high = min(image.min(), 0.0), max(image.max(), 1.0 if image.ndim == 3 else 0.0)
    scaled = (image - low) / (high - low or 1.0)
    pixels = colormaps["gray_r"](scaled)[..., :3] if image.ndim == 2 else scaled
    file = io.BytesIO()
    imsave(file, np.ascontiguousarray(pixels), format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def caption(items: Items, number: int) -> str:
    """Return a caption, or ""."""
    return "" if items.captions is None else str(items.captions[number])


def text(items: Items, number: int) -> tuple[str, str]:
    """Return the beginning of a text and, if there is more, all of it, else ""."""
    if items.texts is None:
        return "", ""
    whole = str(items.texts[number])
    start = " ".join(whole[: 4 * _EXCERPT].split())
    if len(whole) <= _EXCERPT:
        return whole, ""
    return start[:_EXCERPT].rstrip() + " ...", whole[:_WHOLE] + (" ..." if len(whole) > _WHOLE else "")


def _images(x: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
    """Return some rows if they are images; token ids and plain vectors are none."""
    return x[rows] if is_image(x) and np.issubdtype(x.dtype, np.floating) else None
