"""What the last hidden layer of a perceptron makes of inputs: features to compare examples by, or to train on."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxame.baselines.representers import Features
from jaxame.submodels import as_model, mlp


def last_hidden(sizes: Sequence[int], sample_x: np.ndarray) -> Features:
    """Return the last hidden layer of `mlp(sizes)` as a function of its parameters and inputs like `sample_x`."""
    *below, _ = sizes
    model = as_model(mlp(below), sample_x)

    def features(params: Any, x: jax.Array) -> jax.Array:
        layers = {number: params["layers"][number] for number in range(len(below) - 1)}
        return jax.nn.relu(model.apply({"layers": layers}, x))

    return features
