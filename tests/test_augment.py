"""Tests of the augmentations against NumPy's own padding, and of the law of the shifts and flips."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxame.submodels.augment import compose, random_crop_flip

KEY = jax.random.key(3)
RNG = np.random.default_rng(0)
SHAPES = [(5, 8, 8), (5, 8, 8, 1), (5, 9, 7, 3), (1, 32, 32, 3)]
MANY = 20_000


def window(image, padding, down, right, is_mirrored):
    """Return one image after a given move, cut from what `np.pad` makes of it."""
    around = ((padding, padding), (padding, padding), *[(0, 0)] * (image.ndim - 2))
    padded = np.pad(image, around, mode="reflect")
    cut = padded[padding - down :, padding - right :][: image.shape[0], : image.shape[1]]
    return cut[:, ::-1] if is_mirrored else cut


def drawn(num_examples, padding, flip=True):
    """Return (down, right, mirrored) of each example, `[B, 3]`, read off an image that holds its own coordinates."""
    size = 4 * padding + 3
    image = np.stack(np.meshgrid(np.arange(size), np.arange(size), indexing="ij"), -1)
    x = np.broadcast_to(image, (num_examples, *image.shape))
    after = np.asarray(jax.jit(random_crop_flip(padding, flip))(KEY, jnp.asarray(x)))
    middle = 2 * padding + 1
    is_mirrored = after[:, middle, middle + 1, 1] < after[:, middle, middle, 1]
    return np.column_stack([middle - after[:, middle, middle], is_mirrored])


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_value_agrees_with_numpy(shape, flip, dtype):
    x, padding = RNG.integers(0, 255, shape).astype(dtype), min(shape[1:3]) - 1
    after = jax.jit(random_crop_flip(padding, flip))(KEY, jnp.asarray(x))
    expected = [window(image, padding, *move) for image, move in zip(x, drawn(len(x), padding, flip), strict=True)]
    np.testing.assert_array_equal(after, np.stack(expected))
    assert after.dtype == dtype


def test_channels_move_together():
    x = jnp.asarray(RNG.normal(size=(6, 8, 8)))
    both = random_crop_flip(3)(KEY, jnp.stack([x, -x], axis=-1))
    np.testing.assert_array_equal(both, jnp.stack([both[..., 0], -both[..., 0]], axis=-1))
    np.testing.assert_array_equal(both[..., 0], random_crop_flip(3)(KEY, x))


def test_no_padding_and_no_flip_is_the_identity():
    x = jnp.asarray(RNG.normal(size=(6, 8, 8, 3)))
    np.testing.assert_array_equal(random_crop_flip(0, flip=False)(KEY, x), x)


def test_flip_changes_no_shift():
    np.testing.assert_array_equal(drawn(50, 3)[:, :1], drawn(50, 3, flip=False)[:, :1])


@pytest.mark.parametrize("padding", [1, 4])
def test_shifts_are_uniform_and_half_are_mirrored(padding):
    found = drawn(MANY, padding)
    shifts = np.arange(-padding, padding + 1)
    cells = [(found[:, :2] == cell).all(axis=1) for cell in np.stack(np.meshgrid(shifts, shifts), -1).reshape(-1, 2)]
    assert_frequency(np.array(cells), 1 / shifts.size**2)
    assert_frequency(found[None, :, 2] == 1, 0.5)
    assert_frequency((found[:, 2] == 1) & (found[:, :2] >= 0).T, 0.5 * (padding + 1) / shifts.size)


def assert_frequency(events, probability):
    """Require every row of `events [E, n]` to happen as often as it should, within 4.5 binomial standard errors."""
    error = np.sqrt(probability * (1 - probability) / events.shape[1])
    assert np.abs(events.mean(axis=1) - probability).max() < 4.5 * error


def test_the_result_depends_on_key_and_place_only():
    augment, x = random_crop_flip(2), jnp.asarray(RNG.normal(size=(8, 8, 8)))
    after = augment(KEY, x)
    np.testing.assert_array_equal(augment(KEY, x), after)
    np.testing.assert_array_equal(augment(KEY, x[:3]), after[:3])
    np.testing.assert_array_equal(augment(KEY, x.at[3:].set(0.0))[:3], after[:3])
    same = augment(KEY, jnp.broadcast_to(x[0], x.shape))
    assert len(np.unique(same, axis=0)) > 4
    assert not np.array_equal(augment(jax.random.key(4), x), after)


def test_jit_and_vmap_over_keys_and_batches_agree_with_one_at_a_time():
    augment = random_crop_flip(2)
    keys, x = jax.random.split(KEY, 3), jnp.asarray(RNG.normal(size=(3, 4, 8, 8, 3)))
    one_by_one = jnp.stack([augment(*pair) for pair in zip(keys, x, strict=True)])
    np.testing.assert_array_equal(jax.jit(jax.vmap(augment))(keys, x), one_by_one)
    shared = jnp.stack([augment(key, x[0]) for key in keys])
    np.testing.assert_array_equal(jax.jit(jax.vmap(augment, (0, None)))(keys, x[0]), shared)


def test_compose_applies_first_to_last_with_a_key_for_each():
    x = jnp.asarray(RNG.normal(size=(8, 8, 8)))
    crop, flip = random_crop_flip(2, flip=False), random_crop_flip(0)
    by_hand = flip(jax.random.fold_in(KEY, 1), crop(jax.random.fold_in(KEY, 0), x))
    np.testing.assert_array_equal(jax.jit(compose(crop, flip))(KEY, x), by_hand)
    np.testing.assert_array_equal(compose()(KEY, x), x)
    np.testing.assert_array_equal(compose(lambda _, x: x + 1, lambda _, x: 2 * x)(KEY, x), 2 * (x + 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: random_crop_flip(-1), "needs padding to be an integer >= 0; got int -1"),
        (lambda: random_crop_flip(1.0), "needs padding to be an integer >= 0; got float 1.0"),
        (lambda: random_crop_flip(2, flip=0.5), "needs flip to be True or False; got float 0.5"),
        (lambda: random_crop_flip(4)(KEY, jnp.zeros((2, 4, 9))), "below the images' 4 rows and 9 columns; got 4"),
        (lambda: random_crop_flip(5)(KEY, jnp.zeros((2, 9, 4, 3))), "below the images' 9 rows and 4 columns; got 5"),
        (lambda: random_crop_flip(1)(KEY, jnp.zeros((4, 9))), r"images \[B, H, W\] .*; got float32\[4, 9\]"),
        (lambda: random_crop_flip(1)(0, jnp.zeros((2, 4, 4))), "needs key to be one typed key"),
        (lambda: compose(random_crop_flip(1), 3), "needs each augmentation to be callable .*; got int 3"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
