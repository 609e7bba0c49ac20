"""One process of several that train together: `python one_of_several.py ADDRESS COUNT RANK FILE`; see the test."""

import sys

import jax


def main(address, count, rank, path):
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(address, int(count), int(rank))

    import numpy as np
    from jax.sharding import Mesh
    from training_helpers import draw_rows, make_game

    game = make_game(mesh=Mesh(np.array(jax.devices()), ("submodels",)))
    keys, masks = draw_rows(19)
    kept = game.train(keys[1], masks[1])
    np.savez(path, utilities=game(keys, masks), margins=game.query(game.predict, kept), devices=jax.device_count())


if __name__ == "__main__":
    main(*sys.argv[1:])
