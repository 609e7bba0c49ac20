"""Tests of the queries against NumPy, on a model whose outputs are its inputs."""

import numpy as np
import pytest

from jaxame import queries

OUTPUTS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 3, 1, 1, 2, 0])
ROWS = np.arange(6)
SOFTMAX = np.exp(OUTPUTS) / np.exp(OUTPUTS).sum(1, keepdims=True)
BEST_OTHER = np.where(np.eye(4, dtype=bool)[LABELS], -np.inf, OUTPUTS).max(1)

EXPECTED = {
    queries.logit_margin: OUTPUTS[ROWS, LABELS] - BEST_OTHER,
    queries.probability: SOFTMAX[ROWS, LABELS],
    queries.correctness: (OUTPUTS.argmax(1) == LABELS).astype(np.float32),
    queries.accuracy: [np.mean(OUTPUTS.argmax(1) == LABELS)],
    queries.mean_loss: [-np.mean(np.log(SOFTMAX[ROWS, LABELS]))],
}
by_name = pytest.mark.parametrize("make", EXPECTED, ids=lambda make: make.__name__)


def scale(params, x):
    return params * x


@by_name
def test_value_agrees_with_numpy(make):
    query = make(OUTPUTS, LABELS)
    values = query(scale, 1.0)
    np.testing.assert_allclose(values, EXPECTED[make], rtol=1e-5)
    assert values.shape == (query.num_queries,) == (len(query.names),)


@by_name
def test_a_diverged_model_never_passes_for_a_value(make):
    assert np.isnan(make(OUTPUTS, LABELS)(scale, np.nan)).all()


def test_names_and_units_say_which_class():
    query = queries.logit_margin(OUTPUTS, np.full(6, 3))
    assert query.unit == "logit margin of class 3"
    assert query.names[2] == "logit margin of class 3 on point 2"
    assert queries.probability(OUTPUTS, LABELS).unit == "probability of each point's label"
    assert queries.accuracy(OUTPUTS, LABELS).names == ["accuracy on 6 points"]


@by_name
@pytest.mark.parametrize(
    ("x", "labels", "message"),
    [
        (OUTPUTS, LABELS[:5], r"query labels to be an array \[6\] of classes >= 0; got int64\[5\]"),
        (OUTPUTS, LABELS - 1, "classes >= 0"),
        (OUTPUTS, LABELS.astype(float), "classes >= 0; got float64"),
        (OUTPUTS[:0], LABELS[:0], r"query x to be a finite float array \[n, ...\] with n >= 1; got float32\[0, 4\]"),
        (OUTPUTS[0], LABELS[0], "query x"),
        (OUTPUTS * np.nan, LABELS, "finite float"),
        (LABELS[:, None], LABELS, "query x to be a finite float"),
    ],
)
def test_bad_points_are_refused(make, x, labels, message):
    with pytest.raises(ValueError, match=message):
        make(x, labels)


@by_name
def test_a_label_that_is_no_class_is_refused(make):
    with pytest.raises(ValueError, match="query labels from 0 to 3; got label 4"):
        make(OUTPUTS, LABELS + 1)(scale, 1.0)
