"""Submodels: the game whose utilities come from training, many models in one compiled batch."""

from jaxame.submodels.game import TrainingGame
from jaxame.submodels.models import MLP, Model, as_model, mlp

__all__ = ["MLP", "Model", "TrainingGame", "as_model", "mlp"]
