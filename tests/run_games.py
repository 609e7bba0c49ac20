"""Games that the command line makes in tests, by name."""

import time

import numpy as np

from jaxame.games import Threshold


def threshold(num_sources: int = 12, seconds: float = 0.0):
    """Two of three sources decide; a call takes some seconds."""
    game = Threshold(num_sources, [1, 2, 3], 2)

    def slow(keys, masks):
        time.sleep(seconds)
        return np.asarray(game(keys, masks))

    slow.num_sources, slow.chunk_size = num_sources, 16
    slow.fingerprint = {"num_sources": num_sources}
    return slow


NOTHING = 3
