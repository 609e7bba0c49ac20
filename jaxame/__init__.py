"""jaxame: measure the effect of training data on predictions by randomised experiments.

The chain is `design -> submodels -> utilities -> regression -> selection`; `ame` and `shapley` run all of it.
"""

from jaxame.attribution import Attribution, AttributionError, load
from jaxame.curves import EffectCurve, effect_curve
from jaxame.estimators import ame, estimate_ame
from jaxame.evaluation import evaluate
from jaxame.foreign import foreign_design
from jaxame.knockoffs import Selection
from jaxame.shapley_values import shapley
from jaxame.types import Status

__all__ = [
    "Attribution",
    "AttributionError",
    "EffectCurve",
    "Selection",
    "Status",
    "ame",
    "effect_curve",
    "estimate_ame",
    "evaluate",
    "foreign_design",
    "load",
    "shapley",
]
