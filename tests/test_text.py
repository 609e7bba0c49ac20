"""Tests of texts as numbers: vocabulary and tokens."""

import numpy as np
import pytest

from jaxame import data

TEXTS = ["The cat, the CAT!", "", "A dog", "cat's dog 42"]


def test_vocabulary_is_by_count_then_by_alphabet():
    assert data.vocabulary(TEXTS, 3) == ["cat", "dog", "the"]
    assert data.vocabulary(TEXTS, 99) == ["cat", "dog", "the", "42", "a", "s"]
    assert data.vocabulary(["snake_case Ünï __ don't"], 9) == ["case", "don", "snake", "t", "ünï"]


def test_tokens_are_padded_cut_and_unknown():
    ids = data.tokenize(np.array(TEXTS, object), ["cat", "the"], 3)
    assert (ids.dtype, ids.tolist()) == (np.int32, [[3, 2, 3], [0, 0, 0], [1, 1, 0], [2, 1, 1]])
    assert data.tokenize([], ["cat"], 5).shape == (0, 5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.vocabulary(TEXTS, 0), "size to be an integer >= 1"),
        (lambda: data.vocabulary("one text", 3), "a list of texts"),
        (lambda: data.tokenize([3], ["a"], 2), "every text to be a string; got int"),
        (lambda: data.tokenize(TEXTS, ["a", "a"], 2), "without repeats; got 1"),
        (lambda: data.tokenize(TEXTS, ["a"], 2.0), "length to be an integer"),
    ],
)
def test_bad_texts_and_sizes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
