"""The ablation: what it counts, its small run, and that its check can fail."""

import jax
import numpy as np
import pytest

from experiments import estimator_ablation as ablation
from jaxame.design import sample_design

CELL = {"game": "saturating", "M": 500, "option": "default"}


def test_ratios_are_of_root_mean_squares():
    errors = {("g", 9, "paper"): [4.0, 4.0, 8.0], ("g", 9, "mine"): [1.0, 1.0, 2.0]}
    paper, mine = ablation.summarise(errors)
    assert paper["ratio"] == 1
    assert mine["ratio"] == pytest.approx(0.5)
    assert mine["ratio_se"] == pytest.approx(0)  # in step with the paper's
    assert mine["l2_error"] == pytest.approx(np.sqrt(4 / 3))
    assert ablation._ratio(np.array([1.0, 4.0, 1.0]), np.ones(3))[1] > 0.1


def test_the_digits_reference_is_unbiased_and_its_noise_cancels():
    """For a fixed answer, the mean product of both deviations is its squared error; that of one half is larger."""
    rng, weights = np.random.default_rng(0), np.random.default_rng(1).normal(size=200)
    products, squares = [], []
    for repeat in range(8):
        design = sample_design(jax.random.key(repeat), ablation.LAW, num_submodels=800, num_sources=weights.size)
        utilities = (np.asarray(design.masks()) @ weights)[:, None] + rng.normal(size=(800, 1)) * 5
        a, b = (half[0] - weights - 0.1 for half in ablation.reference_halves(design, utilities))
        products.append((a * b).sum())
        squares.append((a * a).sum())
    error = np.std(products, ddof=1) / np.sqrt(len(products))
    assert abs(np.mean(products) - 0.01 * weights.size) < 4 * error
    assert np.mean(squares) > np.mean(products) + 10 * error


def test_the_check_can_fail():
    ablation.check([CELL | {"ratio": 0.4}])
    for bad in ({"ratio": 0.9}, {"ratio": 0.4, "M": 250}):
        with pytest.raises(SystemExit, match="the claim is not met"):
            ablation.check([CELL | bad])
