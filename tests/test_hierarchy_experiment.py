"""The experiment on poisoned users: who is poisoned, its small run, and that its check can fail."""

import jax
import numpy as np
import pytest

from experiments import hierarchy as experiment
from jaxame import hierarchy

CELL = {"data": "digits", "design": "two-stage", "precision": 1.0, "recall": 1.0}
GOOD = [CELL | {"level": "user"}, CELL | {"level": "post"}]


def test_half_of_the_posts_of_ten_users_are_poisoned():
    tree = hierarchy.Tree(np.arange(301) % 43)
    users, posts = experiment.choose(tree, 0.5, np.random.default_rng(0))
    assert len(set(users)) == 10
    np.testing.assert_array_equal(np.bincount(tree.user[posts], minlength=43)[users], -(-tree.sizes[users] // 2))
    assert posts.size == np.isin(tree.user[posts], users).sum() == len(set(posts))


def test_a_text_is_the_known_words_in_it():
    texts, words = np.array(["cobalt heron heron of", "unknown", ""], object), ["heron", "of", "cobalt"]
    tokens, bag = experiment._tokens(texts, words), experiment._bag(texts, words)
    assert tokens.shape[0] == bag.shape[0] == 3
    assert tokens[0].tolist()[:4] == [2, 3, 4, 0]
    assert not tokens[1:].any()
    np.testing.assert_allclose(bag, [[0, 0, *[3**-0.5] * 3], [0] * 5, [0] * 5], rtol=1e-6)


def test_query_is_raised_by_what_was_poisoned():
    case = experiment.CASES["digits"](None, 0)
    assert case.tree.num_users == 120
    game = experiment.game_of(case, experiment.SIZES["digits"], 0.5)
    clean = ~np.isin(np.arange(case.tree.num_posts), case.posts)
    poisoned, without = game(jax.random.split(jax.random.key(0), 2), np.stack([np.ones_like(clean), clean]))[:, 0]
    assert poisoned > without + 0.5
    params = game.train(jax.random.key(0), np.ones(case.tree.num_posts, bool))
    right = np.asarray(game.predict(params, case.x)).argmax(axis=1) == case.y
    assert right[clean].mean() > 0.85


def test_the_check_can_fail():
    experiment.check(GOOD)
    experiment.check([GOOD[0], GOOD[1] | {"design": "nested", "recall": 0.0}])  # claims less
    for bad in ({"precision": 0.5}, {"precision": None}, {"recall": 0.5}):
        with pytest.raises(SystemExit, match="the claim is not met"):
            experiment.check([GOOD[0] | bad, GOOD[1]])
    with pytest.raises(SystemExit, match="the claim is not met"):
        experiment.check([GOOD[0], GOOD[1] | {"recall": 0.1}])


def test_figure_is_drawn_where_nothing_was_selected(tmp_path):
    experiment.draw(
        {"records": [*GOOD, *(cell | {"precision": None, "design": "nested"} for cell in GOOD)]}, tmp_path / "f.png"
    )
    assert (tmp_path / "f.png").stat().st_size > 10_000
