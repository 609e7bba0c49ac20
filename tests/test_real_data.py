"""Tests of the loaders on the real sets, where they are found; checksums are verified on the way."""

import numpy as np
import pytest

from jaxame import data


def real(name, split):
    """Load a real set, its checksum verified, or skip the test where it is not there."""
    try:
        return getattr(data, name)(split)
    except FileNotFoundError:
        pytest.skip(f"{name} is not there")
    except ImportError as error:
        pytest.skip(str(error))


def test_real_mnist_has_its_published_mean_and_class_counts():
    train, test = real("mnist", "train"), real("mnist", "test")
    assert (train.x.shape, test.x.shape) == ((60000, 28, 28), (10000, 28, 28))
    np.testing.assert_allclose([train.x.mean(dtype=float), train.x.std(dtype=float)], [0.1307, 0.3081], atol=5e-5)
    assert np.bincount(test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.mark.parametrize(("name", "shape"), [("fashion_mnist", (28, 28)), ("cifar10", (32, 32, 3))])
def test_real_test_images_are_balanced(name, shape):
    dataset = real(name, "test")
    assert dataset.x.shape == (10000, *shape)
    assert np.bincount(dataset.y).tolist() == [1000] * 10


def test_real_writers_wrote_mnist():
    test, mnist = real("mnist_writers", "test"), real("mnist", "test")
    np.testing.assert_array_equal(test.x, mnist.x)
    np.testing.assert_array_equal(test.y, mnist.y)
    assert (len(test.group_names), np.bincount(test.groups).max()) == (297, 130)


def test_real_newsgroups_have_their_authors():
    train, test = real("newsgroups20", "train"), real("newsgroups20", "test")
    assert (len(train), len(test)) == (11314, 7532)
    assert (len(train.group_names), len(test.group_names)) == (5755, 4205)
    assert len(set(train.group_names) | set(test.group_names)) == 8480
    assert np.count_nonzero(np.bincount(train.groups) >= 10) == 121
    assert data.tokenize(train.x[:9], data.vocabulary(train.x[:500], 100), 64).shape == (9, 64)
