"""Data sets: labelled examples in memory, in one form."""

import dataclasses

import jax
import numpy as np

from jaxame import checks


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled examples.

    Attributes:
      x: float32 `[n, ...]` inputs; images have pixels from 0 to 1.
      y: int32 `[n]` labels, 0 to `num_classes - 1`.
      name: what the set is called.
      num_classes: the number of classes.

    Raises:
      ValueError: if `x` and `y` differ in length or a label is out of range.
    """

    x: np.ndarray
    y: np.ndarray
    name: str
    num_classes: int

    def __post_init__(self) -> None:
        checks.require(self.y.shape == (len(self.x),), f"y [{len(self.x)}], one per row of x", checks.describe(self.y))
        in_range = bool(np.all((self.y >= 0) & (self.y < self.num_classes)))
        checks.require(in_range, f"labels from 0 to {self.num_classes - 1}", f"{sorted(set(self.y.tolist()))}")

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: np.ndarray) -> "Dataset":
        """Return the examples `rows`, indices or a mask, under the same name."""
        return dataclasses.replace(self, x=self.x[rows], y=self.y[rows])


def digits() -> Dataset:
    """Return scikit-learn's handwritten digits: 1,797 images `[8, 8]` in 10 classes.

    References:
      Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning Repository, 1998 (the test
      part).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (bunch.images / 16.0).astype(np.float32)
    return Dataset(pixels, bunch.target.astype(np.int32), "digits", 10)


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
