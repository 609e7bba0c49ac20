"""Submodels: the game whose utilities come from training, many models in one compiled batch."""

from jaxame.submodels.adapter import Model, as_model
from jaxame.submodels.conv import conv_general_dilated
from jaxame.submodels.game import TrainingGame
from jaxame.submodels.models import bag_of_embeddings, cnn, logistic, mlp, resnet9
from jaxame.submodels.preview import Preview
from jaxame.submodels.warm import Agreement, compare

__all__ = [
    "Agreement",
    "Model",
    "Preview",
    "TrainingGame",
    "as_model",
    "bag_of_embeddings",
    "cnn",
    "compare",
    "conv_general_dilated",
    "logistic",
    "mlp",
    "resnet9",
]
