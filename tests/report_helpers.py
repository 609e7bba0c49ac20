"""A run small enough for tests of reports, with texts that would do harm if they were not escaped."""

import functools
from typing import NamedTuple

import jax
import numpy as np

from jaxame import growth
from jaxame.design import Grid, sample_design
from jaxame.estimators import estimate_ame
from jaxame.types import Items

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Example(NamedTuple):
    """A run and its result."""

    key: jax.Array
    design: object
    effects: np.ndarray
    utilities: np.ndarray
    result: object
    growth: list
    sources: Items
    queries: Items


@functools.cache
def example(num_sources, num_submodels, law=None):
    """Two additive queries with eight and six sources that matter, the noise a fifth of an effect."""
    key = jax.random.key(3)
    design = sample_design(key, law or Grid((0.3, 0.7)), num_submodels=num_submodels, num_sources=num_sources)
    effects = np.zeros((2, num_sources))
    effects[0, :8], effects[1, 4:10] = 1.0, 2.0
    noise = np.random.default_rng(0).normal(size=(num_submodels, 2))
    utilities = np.asarray(design.masks()) @ effects.T + 0.2 * noise
    result = estimate_ame(design, utilities)
    grown = growth.selections(design, utilities, alternative="greater", fractions=(0.5,))
    last = [result.select(0.1, q, alternative="greater") for q in range(2)]
    images = np.random.default_rng(1).random((num_sources, 5, 5))
    texts = [HOSTILE, *(f"post {number} of somebody" for number in range(1, num_sources))]
    return Example(
        key,
        design,
        effects,
        utilities,
        result,
        [*grown, (num_submodels, last)],
        Items([f"label {number % 3}" for number in range(num_sources)], images, texts),
        Items(["the first", HOSTILE], images[:2]),
    )
