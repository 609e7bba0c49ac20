"""Games with closed-form values: the oracle for tests, documentation and baselines.

A game maps masks to utilities. Those here have an AME that follows from `AME_i = E_P[m_i(p)]` (DESIGN.md section 4) by
integrating over the law in float64, so that an estimate can be compared with the truth, scale included.
"""

from jaxame.games.classic import Airport, Gloves, WeightedVoting
from jaxame.games.counts import CountGame, Majority, Miner, Saturating, Threshold, Unanimity
from jaxame.games.game import Game, enumerate_ame
from jaxame.games.neighbours import NearestNeighbours
from jaxame.games.sums import Additive, UnanimitySum
from jaxame.games.two_level import TwoLevel

__all__ = [
    "Additive",
    "Airport",
    "CountGame",
    "Game",
    "Gloves",
    "Majority",
    "Miner",
    "NearestNeighbours",
    "Saturating",
    "Threshold",
    "TwoLevel",
    "Unanimity",
    "UnanimitySum",
    "WeightedVoting",
    "enumerate_ame",
]
