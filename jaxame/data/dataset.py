"""`Dataset`: the one form of every set, its checksum, and cutting it in two."""

import dataclasses
import hashlib
from collections.abc import Iterator

import jax
import numpy as np

from jaxame import checks

_ROWS_PER_BLOCK = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled examples, each of which may belong to a group such as its writer.

    Attributes:
      x: inputs `[n, ...]`, one of: float32 images with pixels from 0 to 1; an object array `[n]` of texts; int32 token
        ids `[n, length]`, which is what a model takes in place of texts
        (`dataclasses.replace(train, x=tokenize(train.x, words, length))`).
      y: int32 `[n]` labels, 0 to `num_classes - 1`.
      name: what the set is called.
      num_classes: the number of classes.
      class_names: `[num_classes]` names in the order of the labels, or None.
      groups: int32 `[n]`, the group of each example, 0 to G-1, each with at least one example; or None.
      group_names: `[G]` names of the groups, or None.

    Raises:
      ValueError: if `x`, `y` and `groups` differ in length, a label or a group is out of range, a group has no example,
        or the names do not fit the numbers of classes and groups.
    """

    x: np.ndarray
    y: np.ndarray
    name: str
    num_classes: int
    class_names: list[str] | None = None
    groups: np.ndarray | None = None
    group_names: list[str] | None = None

    def __post_init__(self) -> None:
        checks.require(self.y.shape == (len(self.x),), f"y [{len(self.x)}], one per row of x", checks.describe(self.y))
        in_range = bool(np.all((self.y >= 0) & (self.y < self.num_classes)))
        checks.require(in_range, f"labels from 0 to {self.num_classes - 1}", f"{sorted(set(self.y.tolist()))}")
        if self.class_names is not None:
            named = len(self.class_names)
            checks.require(named == self.num_classes, f"{self.num_classes} class_names, one per class", named)
        self._check_groups()

    def _check_groups(self) -> None:
        if self.groups is None:
            checks.require(self.group_names is None, "groups where there are group_names", "None")
            return
        is_group = self.groups.shape == self.y.shape and np.issubdtype(self.groups.dtype, np.integer)
        checks.require(is_group, f"groups int [{len(self.y)}], one per row of x", checks.describe(self.groups))
        present = np.unique(self.groups)
        dense = np.array_equal(present, np.arange(len(present)))
        checks.require(dense, "groups 0 to G-1, each with an example", f"{present[:3]} ... {present[-3:]}")
        if self.group_names is not None:
            named = len(self.group_names)
            checks.require(named == len(present), f"{len(present)} group_names, one per group", named)

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: np.ndarray) -> "Dataset":
        """Return the examples `rows`, indices `[m]` or a mask `[n]`, under the same name.

        Groups are numbered anew, in their old order, without those that have lost all their examples.
        """
        part = dataclasses.replace(self, x=self.x[rows], y=self.y[rows], groups=None, group_names=None)
        if self.groups is None:
            return part
        kept, groups = np.unique(self.groups[rows], return_inverse=True)
        names = None if self.group_names is None else [self.group_names[group] for group in kept]
        return dataclasses.replace(part, groups=groups.astype(np.int32), group_names=names)


def checksum(dataset: Dataset) -> str:
    """Return the SHA-256 of what a set holds, whichever file format it came from, as 64 hexadecimal digits.

    Hashed are, in this order and each after its shape: `x`, `y` and, where there are any, `groups`. Images go in as one
    byte per pixel, `round(255 x)`; texts as UTF-8 after their length; `y` and `groups` as little-endian int32. The
    order of the examples counts; names do not.

    Args:
      dataset: images with pixels from 0 to 1, or texts.

    Raises:
      ValueError: if `x` is neither.
    """
    digest = hashlib.sha256()
    digest.update(f"x{list(dataset.x.shape)}".encode())
    for block in _x_bytes(dataset.x):
        digest.update(block)
    for name, array in (("y", dataset.y), ("groups", dataset.groups)):
        if array is not None:
            digest.update(f"{name}{list(array.shape)}".encode())
            digest.update(array.astype("<i4").tobytes())
    return digest.hexdigest()


def _x_bytes(x: np.ndarray) -> Iterator[bytes]:
    if x.dtype == object:
        for text in x:
            encoded = text.encode()
            yield len(encoded).to_bytes(8, "little") + encoded
        return
    checks.require(np.issubdtype(x.dtype, np.floating), "x to be images (float) or texts (object)", checks.describe(x))
    for start in range(0, len(x), _ROWS_PER_BLOCK):
        pixels = np.rint(x[start : start + _ROWS_PER_BLOCK] * 255.0)
        is_image = bool(np.all((pixels >= 0) & (pixels <= 255)))
        checks.require(is_image, "pixels from 0 to 1", f"{pixels.min() / 255} to {pixels.max() / 255}")
        yield pixels.astype(np.uint8).tobytes()


def split(dataset: Dataset, key: jax.Array, num_train: int) -> tuple[Dataset, Dataset]:
    """Shuffle `dataset` and cut it into a training set and a test set.

    Args:
      dataset: `n` examples.
      key: one typed key.
      num_train: size of the training set, less than `n`; the other examples are the test set.

    Raises:
      ValueError: if `num_train` is not from 1 to `n - 1`.
    """
    num_train = checks.count(num_train, "num_train")
    checks.require(num_train < len(dataset), f"num_train less than the {len(dataset)} examples", num_train)
    rows = np.asarray(jax.random.permutation(checks.typed_key(key), len(dataset)))
    return dataset.take(rows[:num_train]), dataset.take(rows[num_train:])
