"""The sets: one loader each."""

import logging
import os
from typing import Any

import numpy as np

from jaxame import checks
from jaxame.data import catalogue, files
from jaxame.data.batches import ENCODING as PYTHON_BATCHES
from jaxame.data.dataset import Dataset, checksum
from jaxame.data.parquet import decode, require_extra
from jaxame.data.schema import assemble

log = logging.getLogger(__name__)

_SPLITS = ("train", "test")


def digits(*, verify: bool = True) -> Dataset:
    """Return scikit-learn's handwritten digits: 1,797 images `[8, 8]` in 10 classes. They come with scikit-learn.

    Args:
      verify: raise where the checksum is not the known one.

    Raises:
      ValueError: if the checksum is not the known one.

    References:
      Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI Machine Learning Repository, 1998 (the test
      part).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = (bunch.images / 16.0).astype(np.float32)
    dataset = Dataset(pixels, bunch.target.astype(np.int32), "digits", 10, list(catalogue.DIGITS))
    if verify:
        _verify(dataset, "digits", catalogue.ANY, "scikit-learn")
    return dataset


def mnist(
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    verify: bool = True,
) -> Dataset:
    """Return MNIST: handwritten digits, grey images `[28, 28]` in 10 classes, in the original order.

    Read from idx files, gzipped or not, or from parquet.

    Args:
      split: `"train"`, 60,000 images, or `"test"`, 10,000.
      data_dir: a folder that holds the files, or holds them in a folder `mnist`. By default `$JAXAME_DATA` or, if that
        is not set, `../shared/data`, seen from the current folder.
      download: where there are no files, fetch the set from the Hugging Face hub (extra `download`); the `datasets`
        package keeps it in its own cache. Nothing is downloaded otherwise.
      verify: raise where the checksum is not the known one.

    Raises:
      FileNotFoundError: if the set is not there; it names the folders looked in and the ways to get the set.
      ImportError: if a package is needed that is not installed; it names the extra.
      ValueError: if a file is not what it should be, or the checksum is not the known one.

    References:
      LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 86(11),
      1998.
    """
    return _load(catalogue.MNIST, split, data_dir, download, verify)


def fashion_mnist(
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    verify: bool = True,
) -> Dataset:
    """Return Fashion-MNIST: clothing, grey images `[28, 28]` in 10 classes, in the original order.

    Read from idx files, gzipped or not, or from parquet. Without `data_dir`, those of the Debian package
    `dataset-fashion-mnist` are found too.

    Args:
      split: `"train"`, 60,000 images, or `"test"`, 10,000.
      data_dir: as for `mnist`, the folder being `fashion_mnist`.
      download: as for `mnist`.
      verify: as for `mnist`.

    Raises:
      FileNotFoundError, ImportError, ValueError: as for `mnist`.

    References:
      Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms",
      arXiv:1708.07747, 2017.
    """
    return _load(catalogue.FASHION_MNIST, split, data_dir, download, verify)


def cifar10(
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    verify: bool = True,
) -> Dataset:
    """Return CIFAR-10: photographs, RGB images `[32, 32, 3]` in 10 classes.

    Read from parquet in the layout of the Hugging Face hub, or from the original python batches. The order of the
    examples, and with JPEG the pixels, depend on which: record `checksum` with results.

    Args:
      split: `"train"`, 50,000 images, or `"test"`, 10,000.
      data_dir: as for `mnist`, the folder being `cifar10` or `cifar-10-batches-py`.
      download: as for `mnist`.
      verify: raise where the checksum is not the known one: that of the decoded images for JPEG, that of each file for
        the python batches. None is known for PNG, the hub's encoding, which gets a logged warning instead.

    Raises:
      FileNotFoundError, ImportError, ValueError: as for `mnist`.

    References:
      Krizhevsky, "Learning multiple layers of features from tiny images", 2009.
    """
    return _load(catalogue.CIFAR10, split, data_dir, download, verify)


def mnist_writers(
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    verify: bool = True,
) -> Dataset:
    """Return MNIST with the writer of every digit in `groups`; the examples and their order are those of `mnist`.

    The name of a group is the writer's number at NIST; groups are in the order of these numbers.

    Args:
      split: `"train"`, 60,000 images by 539 writers, or `"test"`, 10,000 by 297 others.
      data_dir: as for `mnist`, the folder being `mnist_writers`; parquet only.
      download: no hub has this set; where there are no files, the error says how to make them.
      verify: as for `mnist`.

    Raises:
      FileNotFoundError, ImportError, ValueError: as for `mnist`.

    References:
      Yadav and Bottou, "Cold case: the lost MNIST digits", NeurIPS 2019 (who wrote what).
    """
    return _load(catalogue.MNIST_WRITERS, split, data_dir, download, verify)


def newsgroups20(
    split: str = "train",
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    verify: bool = True,
) -> Dataset:
    """Return 20 Newsgroups with the author of every post in `groups`: texts in 20 classes, split by date.

    `x` is an object array of texts: subject line, empty line, body. `tokenize` makes numbers of them. A group is the
    posts of one e-mail address; its name is an opaque id, the same in both parts.

    Args:
      split: `"train"`, 11,314 posts by 5,755 authors, or `"test"`, 7,532 later ones by 4,205.
      data_dir: as for `mnist`, the folder being `newsgroups20`; parquet only.
      download: no hub has this set with authors; where there are no files, the error says how to make them.
      verify: as for `mnist`.

    Raises:
      FileNotFoundError, ImportError, ValueError: as for `mnist`.

    References:
      Lang, "NewsWeeder: learning to filter netnews", ICML 1995.
    """
    return _load(catalogue.NEWSGROUPS20, split, data_dir, download, verify)


def _load(
    wanted: catalogue.Entry, split: str, data_dir: str | os.PathLike[str] | None, download: bool, verify: bool
) -> Dataset:
    checks.require(split in _SPLITS, f"split to be one of {_SPLITS}", repr(split))
    schema, part = wanted.schema, f"{wanted.schema.name}/{split}"
    folders = files.candidates(wanted.places, data_dir)
    found = files.find(wanted.places, split, folders)
    if found is not None:
        form, paths = found
        raw, where = form.read(paths, schema, verify), files.describe(paths)
    elif download and wanted.hub is not None:
        where = f"{wanted.hub}, split {split}, of the Hugging Face hub"
        raw = decode(_fetch(wanted.hub, split), schema, where)
    else:
        raise FileNotFoundError(files.missing(schema.name, split, wanted.places, folders, wanted.elsewhere))
    dataset = assemble(raw, schema, where)
    if verify:
        _verify(dataset, part, raw.encoding, where)
    return dataset


def _fetch(hub: str, split: str) -> Any:
    """Download a set from the Hugging Face hub; returns it as a `pyarrow.Table` with images as stored."""
    log.info("downloading %s, split %s", hub, split)
    return require_extra("datasets", "download").load_dataset(hub, split=split).with_format("arrow")[:]


def _verify(dataset: Dataset, part: str, encoding: str, where: str) -> None:
    """Compare the checksum with the one known for this part of this set in this encoding.

    Raises:
      ValueError: if they differ.
    """
    if encoding == PYTHON_BATCHES:
        return  # whose files have been checked
    found, known = checksum(dataset), catalogue.CHECKSUMS[part]
    expected = known.get(encoding, known.get(catalogue.ANY))
    if expected is None:
        log.warning("%s: no checksum is known for %s in %s; it is %s", where, part, encoding, found)
        return
    needs = f"{part} in {where} to have the checksum {expected} (verify=False loads it all the same)"
    checks.require(found == expected, needs, f"{found}, of {len(dataset)} examples")
