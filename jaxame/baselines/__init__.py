"""Estimators that people use instead, with one signature: `f(game, key=key, budget=B, ...) -> Attribution`.

`budget` is the number of utility evaluations that a method may make, each on one subset; what it made of them is
`about["evaluations"]` of the result. All take games of several queries, call them on chunks of subsets, and have
standard errors where the method has them. A utility that is not finite makes the values it goes into NaN and shows in
`status`. Those that look into trained models (`jaxame.baselines.gradients`, `jaxame.baselines.representers`) count
these.
"""

from jaxame.baselines.counting import banzhaf, exact, leave_one_out, owen, random, subsample_influence, svarm
from jaxame.baselines.data_based import data_oob, knn_shapley
from jaxame.baselines.gradients import gradient_cosine, gradient_dot, influence, tracin, trak
from jaxame.baselines.kernel import group_testing, kernel_shap, unbiased_kernel_shap
from jaxame.baselines.permutations import (
    beta_shapley,
    compressive_sensing,
    permutation,
    truncated_permutation,
)
from jaxame.baselines.regression import datamodels, regression_adjusted
from jaxame.baselines.representers import feature_similarity, representer_points

__all__ = [
    "banzhaf",
    "beta_shapley",
    "compressive_sensing",
    "data_oob",
    "datamodels",
    "exact",
    "feature_similarity",
    "gradient_cosine",
    "gradient_dot",
    "group_testing",
    "influence",
    "kernel_shap",
    "knn_shapley",
    "leave_one_out",
    "owen",
    "permutation",
    "random",
    "regression_adjusted",
    "representer_points",
    "subsample_influence",
    "svarm",
    "tracin",
    "trak",
    "truncated_permutation",
    "unbiased_kernel_shap",
]
