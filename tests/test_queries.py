"""Tests of the queries against NumPy, on a model whose outputs are its inputs."""

import jax
import jax.numpy as jnp
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
    queries.loss: -np.log(SOFTMAX[ROWS, LABELS]),
    queries.accuracy: [np.mean(OUTPUTS.argmax(1) == LABELS)],
    queries.mean_loss: [-np.mean(np.log(SOFTMAX[ROWS, LABELS]))],
}
by_name = pytest.mark.parametrize("make", EXPECTED, ids=lambda make: make.__name__)


RNG = np.random.default_rng(1)
OTHER = RNG.normal(size=(3, 4)).astype(np.float32)


def scale(params, x):
    return params * x


def total(apply, params):
    """Query, as a user would write it, the sum of a model's outputs on `OTHER` and its parameter."""
    return jnp.stack([apply(params, OTHER).sum(), params])


class Counted:
    """A model that notes the inputs of every forward pass while it is traced."""

    def __init__(self):
        self.passes = []

    def __call__(self, params, x):
        self.passes.append(x.shape)
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
        (
            OUTPUTS[:0],
            LABELS[:0],
            r"query x to be a finite float array \[n, ...\] or .* with n >= 1; got float32\[0, 4\]",
        ),
        (OUTPUTS[0], LABELS[0], "query x"),
        (OUTPUTS * np.nan, LABELS, "finite float"),
        (np.float64(1e300) * OUTPUTS.astype(float), LABELS, "finite float"),
        (LABELS[:, None, None], LABELS, r"or an int32 array \[n, L\] with n >= 1; got int64\[6, 1, 1\]"),
        (LABELS[:, None] + 2**31, LABELS, "int32 array"),
        (LABELS[:, None] > 0, LABELS, "got bool"),
    ],
)
def test_bad_points_are_refused(make, x, labels, message):
    with pytest.raises(ValueError, match=message):
        make(x, labels)


@by_name
def test_a_label_that_is_no_class_is_refused(make):
    with pytest.raises(ValueError, match="query labels from 0 to 3; got label 4"):
        make(OUTPUTS, LABELS + 1)(scale, 1.0)


@by_name
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_token_ids_stay_integers(make, dtype):
    tokens, seen = RNG.integers(0, 200, (6, 5)).astype(dtype), []

    def embed(params, x):
        seen.append(x)
        return params[x].sum(axis=1)

    table = RNG.normal(size=(200, 4)).astype(np.float32)
    values = make(tokens, LABELS)(embed, jnp.asarray(table))
    assert seen[0].dtype == jnp.int32
    np.testing.assert_allclose(values, make(table[tokens].sum(axis=1), LABELS)(scale, 1.0), rtol=1e-5)


@by_name
def test_low_precision_outputs_are_measured_in_float32(make):
    def rounded(params, x):
        return (params * x).astype(jnp.bfloat16)

    values = make(OUTPUTS, LABELS)(rounded, 1.0)
    exact = make(np.asarray(jnp.asarray(OUTPUTS, jnp.bfloat16).astype(jnp.float32)), LABELS)(scale, 1.0)
    np.testing.assert_array_equal(values, exact)
    assert values.dtype == jnp.float32


def test_a_join_gives_every_query_its_values_in_one_forward_pass():
    parts = [make(OUTPUTS.copy(), LABELS) for make in EXPECTED]
    parts += [queries.accuracy(OTHER, [0, 1, 2]), queries.join(parts[1], queries.loss(OTHER[:2], [3, 3]))]
    joined, model = queries.join(*parts), Counted()
    values = jax.jit(lambda params: joined(model, params))(0.5)
    assert model.passes == [(6 + 3 + 2, 4)]
    np.testing.assert_allclose(values, np.concatenate([part(scale, 0.5) for part in parts]), rtol=1e-6)
    assert joined.names == [name for part in parts for name in part.names]
    assert values.shape == (joined.num_queries,)


def test_points_are_shared_by_object_and_by_content_only():
    near = OUTPUTS + np.float32(1e-6)
    same = queries.accuracy(OUTPUTS, LABELS)
    for others, num_points in [([same], 6), ([queries.loss(OUTPUTS, LABELS)], 6), ([queries.loss(near, LABELS)], 12)]:
        model = Counted()
        queries.join(same, *others)(model, 1.0)
        assert model.passes == [(num_points, 4)]


def test_a_join_takes_plain_functions_with_their_own_forward_pass():
    joined, model = queries.join(total, queries.accuracy(OUTPUTS, LABELS), total), Counted()
    values = joined(model, 2.0)
    assert model.passes == [(6, 4), (3, 4), (3, 4)]
    expected = [2 * OTHER.sum(), 2, EXPECTED[queries.accuracy][0], 2 * OTHER.sum(), 2]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    names = ["total[0]", "total[1]", "accuracy on 6 points", "total[0]", "total[1]"]
    assert queries.names_of(joined, scale, jax.ShapeDtypeStruct((), jnp.float32)) == names
    for attribute in ("names", "num_queries"):
        with pytest.raises(
            ValueError, match=r"needs named parts, or names_of\(.*; got a query with total, total among"
        ):
            getattr(joined, attribute)


def test_names_of_any_query():
    margin = queries.logit_margin(OUTPUTS, LABELS)
    assert queries.names_of(margin, scale, 1.0) == margin.names
    assert queries.names_of(total, scale, jnp.ones(())) == ["total[0]", "total[1]"]


def test_units_say_when_they_differ():
    margin, accuracy = queries.logit_margin(OUTPUTS, np.full(6, 3)), queries.accuracy(OUTPUTS, LABELS)
    assert queries.join(margin, margin).unit == "logit margin of class 3"
    mixed = queries.join(queries.join(margin, accuracy), accuracy, total)
    assert mixed.unit == "units differ: logit margin of class 3; accuracy; value of total"
    assert queries.contrast(margin, np.eye(6)).unit == "contrast of logit margin of class 3"
    both = queries.join(margin, accuracy)
    assert queries.contrast(both, np.ones(7)).unit == "contrast of logit margin of class 3 and accuracy"


def test_integer_values_join_floats():
    joined = queries.join(lambda apply, params: jnp.arange(3), queries.accuracy(OUTPUTS, LABELS))
    assert joined(scale, 1.0).dtype == jnp.float32


@pytest.mark.parametrize("shape", [(6,), (1, 6), (4, 6)], ids=str)
def test_contrasts_agree_with_numpy(shape):
    weights = RNG.normal(size=shape) * (RNG.random(shape) < 0.7) + np.eye(6)[: shape[0] if len(shape) > 1 else 1]
    weights = weights.reshape(shape)
    contrasts = queries.contrast(queries.logit_margin(OUTPUTS, LABELS), weights)
    values = contrasts(scale, 2.0)
    np.testing.assert_allclose(values, np.atleast_2d(weights) @ (2 * EXPECTED[queries.logit_margin]), rtol=1e-5)
    assert values.shape == (contrasts.num_queries,) == (len(np.atleast_2d(weights)),)


def test_contrasts_share_the_forward_pass_of_a_join():
    margin, accuracy = queries.logit_margin(OUTPUTS, LABELS), queries.accuracy(OUTPUTS, LABELS)
    difference = queries.contrast(queries.join(margin, accuracy), [1, -1, 0, 0, 0, 0, 0])
    joined, model = queries.join(difference, accuracy, queries.contrast(difference, [2])), Counted()
    expected = EXPECTED[queries.logit_margin][0] - EXPECTED[queries.logit_margin][1]
    np.testing.assert_allclose(joined(model, 1.0), [expected, *EXPECTED[queries.accuracy], 2 * expected], rtol=1e-5)
    assert model.passes == [(6, 4)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_only_contrasts_that_use_a_value_see_that_it_is_bad(bad):
    def values(apply, params):
        return jnp.array([1.0, bad, 3.0]) * params

    contrasts = queries.contrast(values, [[1, 0, 1], [0, 1, 0], [1, -1, 0], [0, 0, 2]])
    assert np.isfinite(contrasts(scale, 1.0)).tolist() == [True, False, False, True]
    np.testing.assert_array_equal(contrasts(scale, 1.0)[jnp.array([0, 3])], [4, 6])


def test_names_of_contrasts():
    margin = queries.logit_margin(OUTPUTS, np.full(6, 3))
    weights = [[1, 0, -0.5, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    first = "+1 (logit margin of class 3 on point 0) -0.5 (logit margin of class 3 on point 2)"
    assert queries.contrast(margin, weights).names == [first, "contrast 1 of 6 values"]
    assert queries.contrast(margin, weights, names=["gap", "sum"]).names == ["gap", "sum"]
    assert queries.contrast(total, [0, 3]).names == ["+3 (value 1)"]


def test_joins_and_contrasts_map_over_submodels():
    margin = queries.logit_margin(OUTPUTS, LABELS)
    query = queries.join(queries.contrast(margin, [1, -1, 0, 0, 0, 0]), margin, total)
    params = jnp.array([0.5, 1.0, 2.0])
    values = jax.jit(jax.vmap(lambda params: query(scale, params)))(params)
    np.testing.assert_allclose(values, [query(scale, one) for one in params], rtol=1e-6)


MARGIN = queries.logit_margin(OUTPUTS, LABELS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: queries.join(), "needs at least one query to join; got none"),
        (lambda: queries.join(MARGIN, 3), r"needs each query to be callable as query\(apply, params\); got int 3"),
        (
            lambda: queries.join(MARGIN, queries.loss(OUTPUTS[:, :3], LABELS)),
            r"needs joined queries to have points like float32\[6, 4\]; got float32\[6, 3\]",
        ),
        (lambda: queries.join(MARGIN, queries.loss(np.ones((6, 4), int), LABELS)), r"got int32\[6, 4\]"),
        (lambda: queries.join(MARGIN, lambda apply, params: params)(scale, 1.0), r"as a vector \[Q\]; got float32\[\]"),
        (lambda: MARGIN(lambda params, x: x[:3], 1.0), r"needs a model that maps x \[6, 4\] to outputs \[6, C\]"),
        (lambda: queries.contrast(None, [1.0]), "needs each query to be callable"),
        (lambda: queries.contrast(MARGIN, np.ones((2, 5))), r"weights \[R, 6\] or \[6\]; got float64\[2, 5\]"),
        (lambda: queries.contrast(total, [1, 2, 3])(scale, 1.0), "needs 3 values of value of total; got float32"),
        (lambda: queries.contrast(MARGIN, np.ones((1, 1, 6))), r"needs weights \[R, Q\] or \[Q\]"),
        (lambda: queries.contrast(MARGIN, np.ones((0, 6))), r"needs weights \[R, Q\] or \[Q\]"),
        (lambda: queries.contrast(MARGIN, ["a"] * 6), r"needs weights \[R, Q\] or \[Q\]"),
        (lambda: queries.contrast(MARGIN, [1, 0, 0, 0, 0, np.nan]), "needs finite weights"),
        (lambda: queries.contrast(MARGIN, [1e39, 0, 0, 0, 0, 0]), "needs finite weights"),
        (lambda: queries.contrast(MARGIN, np.zeros(6)), "not all 0 in a row"),
        (lambda: queries.contrast(MARGIN, np.ones(6), names=["a", "b"]), "needs names to be 1 strings; got list"),
        (lambda: queries.contrast(MARGIN, np.ones(6), names="a"), "needs names to be 1 strings; got str 'a'"),
        (lambda: queries.names_of(3, scale, 1.0), "needs each query to be callable"),
    ],
)
def test_bad_joins_and_contrasts_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
