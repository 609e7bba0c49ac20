"""Tests of the data sets."""

import jax
import numpy as np
import pytest

from jaxame import data


@pytest.fixture(scope="module")
def digits():
    return data.digits()


def test_digits_are_images_from_0_to_1(digits):
    assert digits.x.shape == (1797, 8, 8)
    assert (digits.x.dtype, digits.y.dtype) == (np.float32, np.int32)
    assert (digits.x.min(), digits.x.max()) == (0.0, 1.0)
    assert np.bincount(digits.y).min() > 170
    assert (digits.name, digits.num_classes) == ("digits", 10)


def test_split_is_a_partition_addressed_by_key(digits):
    train, test = data.split(digits, jax.random.key(0), 1000)
    assert (len(train), len(test)) == (1000, 797)
    both = np.concatenate([train.x, test.x]).reshape(1797, 64)
    np.testing.assert_array_equal(np.unique(both, axis=0), np.unique(digits.x.reshape(1797, 64), axis=0))
    again, _ = data.split(digits, jax.random.key(0), 1000)
    np.testing.assert_array_equal(again.x, train.x)
    other, _ = data.split(digits, jax.random.key(1), 1000)
    assert (other.y != train.y).any()


@pytest.mark.parametrize("num_train", [0, 1797, 10.0])
def test_bad_sizes_are_refused(digits, num_train):
    with pytest.raises(ValueError, match="needs num_train"):
        data.split(digits, jax.random.key(0), num_train)


@pytest.mark.parametrize(
    ("y", "message"), [(np.zeros(3, int), r"y \[2\]"), (np.array([0, 5]), r"from 0 to 4; got \[0, 5\]")]
)
def test_bad_labels_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        data.Dataset(np.zeros((2, 3), np.float32), y, "toy", 5)
