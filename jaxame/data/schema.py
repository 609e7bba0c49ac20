"""What a set must look like, what a reader hands over, and the check of the one against the other."""

import dataclasses
from typing import NamedTuple

import numpy as np

from jaxame import checks
from jaxame.data.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class Schema:
    """What every file of a set must hold.

    Attributes:
      name: what the set is called, and how its loader is.
      class_names: in the order of the labels.
      shape: of one image, `(height, width)` for grey and `(height, width, 3)` for colour; None for text.
      group_column: the parquet column that says which group an example belongs to; None where there are no groups.
    """

    name: str
    class_names: tuple[str, ...]
    shape: tuple[int, ...] | None
    group_column: str | None = None


class Raw(NamedTuple):
    """What a reader found, not yet checked.

    Attributes:
      x: uint8 `[n, ...]` pixels, or an object array `[n]` of texts.
      labels: integers `[n]`.
      ids: `[n]` integers or strings, the group of each example; None without groups.
      encoding: how the examples were encoded, such as `"JPEG"`: what decides which checksum to expect.
    """

    x: np.ndarray
    labels: np.ndarray
    ids: np.ndarray | None
    encoding: str


def assemble(raw: Raw, schema: Schema, where: str) -> Dataset:
    """Return `raw` as a `Dataset`, with groups numbered in the order of their sorted ids.

    Args:
      raw: what a reader found.
      schema: what it should have found.
      where: the file or files it came from, for error messages.

    Raises:
      ValueError: naming `where`, if shapes, lengths or labels are not those of the schema.
    """
    checks.require(len(raw.x) > 0, f"examples in {where}", "none")
    found = list(raw.x.shape[1:])
    checks.require(found == list(schema.shape or ()), f"images {list(schema.shape or ())} in {where}", found)
    checks.require(len(raw.labels) == len(raw.x), f"{len(raw.x)} labels in {where}, one per example", len(raw.labels))
    top = len(schema.class_names) - 1
    wrong = np.flatnonzero((raw.labels < 0) | (raw.labels > top))
    if len(wrong):
        raise ValueError(f"needs labels from 0 to {top} in {where}; got {raw.labels[wrong[0]]} in row {wrong[0]}")
    groups, names = None, None
    if raw.ids is not None:
        ids, inverse = np.unique(raw.ids, return_inverse=True)
        groups, names = inverse.astype(np.int32), [str(name) for name in ids.tolist()]
    x = raw.x if schema.shape is None else np.divide(raw.x, np.float32(255), dtype=np.float32)
    labels, classes = raw.labels.astype(np.int32), list(schema.class_names)
    return Dataset(x, labels, schema.name, len(classes), classes, groups, names)
