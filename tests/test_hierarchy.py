"""Sources of sources: scale and false discoveries at both levels, and what is refused."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_same

import jaxame
from jaxame import hierarchy, reweight
from jaxame.curves import effect_curve
from jaxame.design import Beta, Grid, PointMass, nest, redraw_masks, sample_design
from jaxame.estimators import estimate_ame
from jaxame.evaluation import evaluate
from jaxame.features import code, exact_columns, exact_operator, mask_columns, pair_products
from jaxame.games import TwoLevel
from jaxame.hierarchy import NestedDesign, Tree, estimate_nested, nested, sample_nested_design, two_stage
from jaxame.lasso import shard_columns
from jaxame.planning import planted_power
from jaxame.randomisation import randomisation_p_values

LAW, WITHIN = Grid((0.3, 0.5, 0.7)), Grid((0.4, 0.8))
TREE = Tree(np.repeat(np.arange(12), 4))
GAME = TwoLevel(
    TREE.user,
    responsible=(0, 1, 4, 8, 9, 10, 44),
    coalitions=((0,), (0, 1), (2,), (1, 2), (11,)),
    weights=np.array([1.0, 0.8, -0.6, 0.5, 0.4]),
    saturation=0.6,
)
USERS, POSTS = (0, 1, 2, 11), (0, 1, 4, 8, 9, 10, 44)
OPTIONS = {"folds": 4, "copies": 4}
KEY = jax.random.key(0)


def draw(num_submodels, tree=TREE, law=LAW, within=WITHIN, key=KEY, paired=False):
    return sample_nested_design(key, law, within, num_submodels=num_submodels, tree=tree, paired=paired)


def dense(design, packed=None):
    """The columns of posts, from their definition."""
    users = np.asarray(design.users.masks())[:, np.asarray(design.posts.parent.index)]
    packed = design.posts.packed if packed is None else packed
    bits = np.unpackbits(np.asarray(packed), axis=1, count=design.posts.num_sources, bitorder="little")
    return users * (bits - np.asarray(design.posts.p, np.float64)[:, None])


# --- The tree ---


def test_trees():
    tree = Tree.from_parents([-1, 0, -1, 2, 0, 2, 2])
    np.testing.assert_array_equal(tree.user, [0, 1, 0, 1, 1])
    np.testing.assert_array_equal(tree.sizes, [2, 3])
    assert (tree.num_posts, tree.num_users) == (5, 2)
    np.testing.assert_array_equal(Tree.from_labels(["b", "a", "b"]).user, [1, 0, 1])
    np.testing.assert_array_equal(Tree.from_labels([7, 7, -3]).user, [1, 1, 0])


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ([-1, 0, 3, 2], "a cycle, 2 -> 3 -> 2"),
        ([-1, 0, 2], "a cycle, 2 -> 2"),
        ([-1, 0, 2, 4, 5, 3], "a cycle, 2 -> 2"),
        ([-1, 0, 7], "nodes [2] with parents [7]"),
        ([-1, 0, -2], "nodes [2] with parents [-2]"),
        ([-1, 0, 1], "two levels, users and posts; got nodes [2]"),
        ([-1, 0, -1], "a post of every user; got none of nodes [2]"),
        ([-1], "a post of every user"),
        ([], "the parent of every node"),
        ([[-1, 0]], "the parent of every node"),
        ([-1.0, 0.0], "the parent of every node"),
    ],
)
def test_bad_trees_are_refused(parents, message):
    with pytest.raises(ValueError, match="needs") as raised:
        Tree.from_parents(parents)
    assert message in str(raised.value)


def test_other_bad_trees_are_refused():
    for user in ([0, 2], [1, 1], [0.0, 1.0], [], [[0]], [-1, 0]):
        with pytest.raises(ValueError, match="needs"):
            Tree(np.array(user))
    for labels in ([], [0.5], [None], [["a"]]):
        with pytest.raises(ValueError, match="needs the label of every post"):
            Tree.from_labels(labels)


# --- The design and its columns ---


@pytest.mark.parametrize("paired", [False, True])
def test_design_is_gated_and_starts_with_the_shorter_one(paired):
    design, longer = draw(200, paired=paired), draw(1500, paired=paired)
    users, posts = np.asarray(design.users.masks()), np.asarray(design.posts.masks())
    assert not posts[~users[:, TREE.user]].any()
    for name in ("users", "posts"):
        one, other = getattr(design, name), getattr(longer, name)
        np.testing.assert_array_equal(one.packed, other.packed[:200])
        np.testing.assert_array_equal(one.p, other.p[:200])
    r = np.asarray(longer.posts.p, np.float64)
    np.testing.assert_allclose(longer.posts.inclusion, r * np.asarray(longer.users.p, np.float64))
    if paired:  # a post drawn in one row of a pair with r = 1/2 is out in the other
        half = draw(200, law=PointMass(0.5), within=PointMass(0.5), paired=True)
        masks = np.asarray(half.posts.masks()).reshape(100, 2, -1)
        assert not masks.all(axis=1).any()


@pytest.mark.parametrize("paired", [False, True])
def test_redraws_keep_the_users(paired):
    design = draw(4000, paired=paired)
    gate = np.asarray(design.users.masks())[:, TREE.user]
    copies = redraw_masks(design.posts, jax.random.key(5), 2)
    bits = np.unpackbits(np.asarray(copies), axis=2, count=TREE.num_posts, bitorder="little").astype(bool)
    assert not bits[:, ~gate].any()
    r = np.broadcast_to(np.asarray(design.posts.p)[:, None], gate.shape)
    for copy in bits:
        for level in (0.4, 0.8):
            inside = gate & (r == np.float32(level))
            assert abs(copy[inside].mean() - level) < 4 * np.sqrt(level * (1 - level) / inside.sum())
    own = np.asarray(design.posts.masks())
    correlation = np.corrcoef(bits[0][gate] - r[gate], own[gate] - r[gate])[0, 1]
    assert abs(correlation) < 4 / np.sqrt(gate.sum())


@pytest.mark.parametrize(("law", "within"), [(LAW, WITHIN), (Beta(4, 4), Beta(5, 3)), (LAW, Beta(5, 3))])
def test_code_has_the_moments_its_scale_rests_on(law, within):
    design = draw(200, law=law, within=within)
    coding = code(design.posts)
    p, r = (np.asarray(each.p, np.float64) for each in (design.users, design.posts))
    np.testing.assert_allclose(r * coding.high + (1 - r) * coding.low, 0.0, atol=1e-12)
    second = p * (r * coding.high**2 + (1 - r) * coding.low**2)
    np.testing.assert_allclose(second, coding.second_moment, rtol=1e-12)
    np.testing.assert_allclose(coding.weight * second, 1.0, rtol=1e-12)
    assert coding.scale == 1.0
    for wanted in (np.ones(200), p, r, p * r):
        np.testing.assert_allclose(coding.z @ np.linalg.lstsq(coding.z, wanted)[0], wanted, atol=1e-6)


def test_columns_equal_the_dense_matrix():
    tree = Tree(np.random.default_rng(0).permutation(np.arange(1100) % 130))  # more posts than one block holds
    design = draw(64, tree, paired=True)
    copies = redraw_masks(design.posts, jax.random.key(2), 2)
    coding, x = code(design.posts), dense(design)
    both = np.concatenate([x, *(dense(design, copy) for copy in copies)], axis=1)
    columns = mask_columns(design.posts, coding, copies)
    rows, rng = np.random.default_rng(1).normal(size=(64, 3)), np.random.default_rng(2)
    index = jnp.array([0, 7, 1099, 1100, 2205, 3299, 3300])
    for own in (columns, shard_columns(columns, jax.devices()[:3])):
        assert own.num_columns == 3300
        found = np.asarray(own.gather(index))
        np.testing.assert_allclose(found[:-1], both[:, np.asarray(index[:-1])].T, atol=1e-6)
        np.testing.assert_array_equal(found[-1], 0.0)
        np.testing.assert_allclose(own.product(jnp.asarray(rows.T, jnp.float32)).T, both.T @ rows, atol=1e-4)
        np.testing.assert_allclose(own.squares(jnp.ones(64)), (both**2).sum(axis=0), rtol=1e-5)
    coef = rng.normal(size=1100) * (rng.random(1100) < 0.05)
    operator = exact_operator(design.posts, coding)
    np.testing.assert_allclose(operator @ coef, x @ coef, atol=1e-12)
    np.testing.assert_allclose(operator.T @ rows, x.T @ rows, atol=1e-12)
    np.testing.assert_array_equal(exact_columns(design.posts, coding, np.array([3, 900])), x[:, [3, 900]])
    np.testing.assert_allclose(pair_products(design.posts, coding) @ coef, (x[0::2] * x[1::2]) @ coef, atol=1e-12)


# --- Scale ---


def enumerated(game, p, r):
    """Effects of users and posts at one `p` and `r`, from their definitions: all subsets of users and of posts."""
    users, posts = (
        np.array(list(itertools.product((False, True), repeat=n))) for n in (game.num_users, len(game.user))
    )
    of_users = np.where(users, p, 1 - p).prod(axis=1)
    of_posts = np.where(posts, r, 1 - r).prod(axis=1)
    effective = users[:, None, game.user] & posts
    utilities = np.asarray(game(None, effective.reshape(-1, len(game.user))), np.float64).reshape(len(users), -1)
    of_subset = utilities @ of_posts
    by_user = [of_users @ np.where(users[:, v], of_subset / p, -of_subset / (1 - p)) for v in range(game.num_users)]
    by_post = [
        (of_users * users[:, v] / p) @ utilities @ (of_posts * np.where(posts[:, i], 1 / r, -1 / (1 - r)))
        for i, v in enumerate(game.user)
    ]
    return np.array(by_user), np.array(by_post)


def test_closed_form_is_what_enumeration_gives():
    game = TwoLevel(
        np.array([0, 0, 0, 1, 1, 2]), (0, 2, 3, 4), ((), (0,), (0, 1), (0, 1, 2)), np.array([3.0, 1.0, -2.0, 5.0]), 0.7
    )
    law, within = Grid((0.3, 0.6), (0.25, 0.75)), Grid((0.4, 0.8))
    share = {(p, r): a * 0.5 for (p, a), r in itertools.product(((0.3, 0.25), (0.6, 0.75)), (0.4, 0.8))}
    users, posts = (sum(w * enumerated(game, *at)[level] for at, w in share.items()) for level in (0, 1))
    np.testing.assert_allclose(game.user_ame(law, within), users, atol=1e-6)
    np.testing.assert_allclose(game.post_ame(law, within), posts, atol=1e-6)
    assert users[2] == pytest.approx(0.0, abs=1e-6)  # user 2 has no responsible post


@pytest.mark.parametrize(
    ("law", "within", "paired"),
    [(LAW, WITHIN, False), (LAW, WITHIN, True), (Beta(4, 4), Beta(5, 3), False), (Grid((0.3, 0.5)), Beta(5, 3), True)],
)
def test_least_squares_on_the_codes_finds_the_closed_form(law, within, paired):
    """An outside truth: numpy's least squares, with sandwich errors by pairs."""
    design = draw(4000, law=law, within=within, paired=paired)
    y = evaluate(GAME, design.posts)[:, 0].astype(np.float64)
    truths = GAME.user_ame(law, within), GAME.post_ame(law, within)
    for level, truth in zip((design.users, design.posts), truths, strict=True):
        coding = code(level)
        root = np.sqrt(coding.weight)[:, None]
        x = root * np.concatenate([exact_columns(level, coding, np.arange(level.num_sources)), coding.z], axis=1)
        coef = np.linalg.lstsq(x, root[:, 0] * y)[0]
        terms = np.linalg.pinv(x).T * (root[:, 0] * y - x @ coef)[:, None]
        terms = terms.reshape(-1, 2, terms.shape[1]).sum(axis=1) if paired else terms
        error = np.sqrt((terms**2).sum(axis=0))[: truth.size]
        assert np.abs((coef[: truth.size] - truth) / error).max() < 4
        assert np.abs(truth).max() > 10 * error.max()


@pytest.fixture(scope="module")
def both_levels():
    return nested(GAME, key=KEY, num_submodels=1500, tree=TREE, law=LAW, within=WITHIN, **OPTIONS)


@pytest.mark.slow
def test_both_levels_are_estimated_in_their_unit(both_levels):
    truths = GAME.user_ame(LAW, WITHIN), GAME.post_ame(LAW, WITHIN)
    for result, truth, true in zip((both_levels.users, both_levels.posts), truths, (USERS, POSTS), strict=True):
        result.check()
        assert np.abs((result.debiased[0] - truth) / result.stderr[0]).max() < 4
        assert np.corrcoef(result.values[0], truth)[0, 1] > 0.95
        chosen = result.select(fdr=0.25).indices
        assert np.isin(chosen, true).mean() >= 0.5
        assert len(set(chosen) & set(true)) >= len(true) - 2


@pytest.mark.slow
def test_the_exact_test_holds_for_posts():
    design = draw(1500)
    found = randomisation_p_values(design.posts, evaluate(GAME, design.posts).astype(np.float64), KEY, 99)
    exact, truth = np.minimum(1.0, 2 * found[0].min(axis=0)), GAME.post_ame(LAW, WITHIN)
    assert exact[truth == 0].mean() > 0.35
    assert np.median(exact[list(POSTS)]) <= 0.02


@pytest.mark.slow
def test_results_say_what_they_are_and_can_be_kept(both_levels, tmp_path):
    design = draw(1500)
    variance = evaluate(GAME, design.posts).astype(np.float64).var(axis=0, ddof=1)
    for level in ("user", "post"):
        result = getattr(both_levels, f"{level}s")
        assert result.about["hierarchy"]["level"] == level
        assert "post being in" in result.about["hierarchy"]["value"] or "its user is in" in str(result.about)
        np.testing.assert_allclose(result.utility_variance, variance)
        result.save(tmp_path / level)
        assert_same(jaxame.load(tmp_path / level), result)


# --- False discoveries ---

MANY = Tree(np.repeat(np.arange(50), 4))


def replicate(rng):
    """A game with 6 responsible users, two posts each, and whether each user and post is responsible."""
    users = rng.choice(MANY.num_users, 6, replace=False)
    posts = np.concatenate([4 * user + rng.choice(4, 2, replace=False) for user in users])
    coalitions = [(user,) for user in users] + list(itertools.pairwise(users.tolist()))
    game = TwoLevel(MANY.user, posts.tolist(), coalitions, np.repeat([1.0, 0.5], [6, 5]), 0.8)
    return game, np.isin(np.arange(50), users), np.isin(np.arange(200), posts)


@pytest.mark.slow
def test_false_discoveries_stay_rare_at_both_levels():
    """Fifty replicates, ten on each design: the rate is the mean over designs, with its error."""
    rng, rate, level = np.random.default_rng(3), {"users": [], "posts": []}, 0.2
    power = {"users": [], "posts": []}
    for number in range(5):
        design = draw(600, MANY, key=jax.random.key(number), law=Grid((0.4, 0.6)), within=PointMass(0.5))
        games, *truths = zip(*(replicate(rng) for _ in range(10)), strict=True)
        utilities = np.concatenate([evaluate(game, design.posts) for game in games], axis=1)
        utilities = utilities + rng.normal(size=utilities.shape) * utilities.std(axis=0) / 3
        result = estimate_nested(design, utilities, copies=4, folds=3)
        for name, responsible in zip(("users", "posts"), truths, strict=True):
            chosen = [getattr(result, name).select(level, q, alternative="greater").indices for q in range(10)]
            pairs = list(zip(chosen, responsible, strict=True))
            rate[name].append(np.mean([(~true[own]).sum() / max(1, own.size) for own, true in pairs]))
            power[name].append(np.mean([true[own].sum() / true.sum() for own, true in pairs]))
    for name in ("users", "posts"):
        assert np.mean(rate[name]) < level + 3 * np.std(rate[name], ddof=1) / np.sqrt(5)
        assert np.mean(power[name]) > 0.5


def share_won(design, redrawn, rng):
    """How often posts of a user whose presence only makes the utility noisy beat one copy."""
    coding = code(design.posts)
    users = np.asarray(design.users.masks())
    noisy = rng.choice(MANY.num_users, 50, replace=False)
    pull = coding.weight[:, None] * users[:, noisy] * rng.normal(size=(len(users), 50))
    own, copy = (np.abs(exact_operator(each, coding).T @ pull) for each in (design.posts, redrawn))
    return np.mean([own[MANY.user == v, q] > copy[MANY.user == v, q] for q, v in enumerate(noisy)])


def test_copies_compete_fairly_only_if_drawn_given_the_users():
    design = draw(600, MANY, law=Grid((0.2, 0.3)), within=PointMass(0.5))
    right = dataclasses.replace(design.posts, packed=redraw_masks(design.posts, jax.random.key(9), 1)[0])
    wrong = draw(600, MANY, law=Grid((0.2, 0.3)), within=PointMass(0.5), key=jax.random.key(9)).posts
    error = 0.5 / np.sqrt(200)
    assert abs(share_won(design, right, np.random.default_rng(0)) - 0.5) < 3 * error
    assert share_won(design, wrong, np.random.default_rng(0)) > 0.5 + 4 * error


# --- Two stages ---


class Recorded:
    """A game that keeps what it was asked."""

    num_sources = GAME.num_sources

    def __init__(self, game=GAME):
        self.game, self.calls = game, []

    def __call__(self, keys, masks):
        self.calls.append((np.asarray(jax.random.key_data(keys)), np.asarray(masks)))
        return self.game(keys, masks)


@pytest.fixture(scope="module")
def two_stages():
    game = Recorded()
    result = two_stage(
        game, key=KEY, num_submodels=(1500, 600), tree=TREE, law=LAW, fdr=0.25, alternative="greater", **OPTIONS
    )
    return game, result


@pytest.mark.slow
def test_second_stage_takes_the_posts_of_the_selected_users(two_stages, tmp_path):
    result = two_stages[1]
    chosen = result.selection.indices
    assert len(set(chosen) & {0, 1, 11}) >= 2
    np.testing.assert_array_equal(result.post, np.flatnonzero(np.isin(TREE.user, chosen)))
    assert result.posts.num_sources == result.post.size
    assert result.reason == ""
    assert result.posts.about["hierarchy"]["posts"] == result.post.tolist()
    found = result.post[result.posts.select(0.25, alternative="greater").indices]
    assert len(set(found) & {0, 1, 4, 44}) >= 2
    assert result.posts.importance.shape[-1] == result.posts.values.shape[-1] == result.post.size
    result.posts.save(tmp_path / "posts")
    assert_same(jaxame.load(tmp_path / "posts"), result.posts)


@pytest.mark.slow
def test_second_stage_is_a_fresh_experiment(two_stages):
    game, result = two_stages
    keys, masks = (np.concatenate(part) for part in zip(*game.calls, strict=True))
    assert len(np.unique(keys, axis=0)) == len(keys) == 2100
    first, second = masks[:1500], masks[1500:]
    of_user = first.reshape(1500, 12, 4)
    assert (of_user.all(axis=2) == of_user.any(axis=2)).all()
    whole = second.reshape(600, 12, 4)[:, np.setdiff1d(np.arange(12), result.selection.indices)]
    assert (whole.all(axis=2) == whole.any(axis=2)).all()
    apart = second[:, result.post]
    assert np.abs(np.corrcoef((apart - apart.mean(axis=1, keepdims=True)).T) - np.eye(apart.shape[1])).max() < 0.3


def test_sources_of_the_second_stage():
    post, group = hierarchy._second_sources(Tree(np.array([2, 0, 1, 0, 2, 3])), np.array([2, 0]))
    np.testing.assert_array_equal(post, [0, 1, 3, 4])
    np.testing.assert_array_equal(group, [0, 1, 4, 2, 3, 5])
    post, group = hierarchy._second_sources(Tree(np.array([0, 0, 1])), np.array([0, 1]))
    np.testing.assert_array_equal(group, [0, 1, 2])


@pytest.mark.slow
def test_without_a_selected_user_there_is_no_second_stage():
    game = Recorded(TwoLevel(TREE.user, (), ((),), np.zeros(1)))
    result = two_stage(game, key=KEY, num_submodels=(1500, 600), tree=TREE, law=LAW, fdr=0.25, query="all", **OPTIONS)
    assert result.posts is None
    assert result.post.size == 0
    assert result.reason.startswith("no user was selected, so there was no second stage: nothing selected")
    assert sum(len(keys) for keys, _ in game.calls) == 1500


# --- What is refused ---


class Untouched:
    """A game that must not be called."""

    num_sources = TREE.num_posts

    def __call__(self, keys, masks):
        raise AssertionError("called")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tree": Tree(np.arange(5))}, "a game of the tree's 5 posts"),
        ({"tree": TREE.user}, "needs a jaxame.hierarchy.Tree"),
        ({"law": 0.5}, "needs a jaxame.design.Law"),
        ({"prior": np.ones(12)}, "needs no prior"),
        ({"contrasts": np.ones((1, 1))}, "needs no contrasts"),
        ({"copies": -1}, "copies to be an integer"),
        ({"key": 0}, "key to be one typed key"),
        ({"num_submodels": 1}, "num_submodels"),
    ],
)
def test_bad_arguments_are_refused_before_any_work(change, message):
    good = {"key": KEY, "num_submodels": 200, "tree": TREE, "law": LAW}
    with pytest.raises(ValueError, match=message):
        nested(Untouched(), **{**good, "within": WITHIN, **change})
    if "num_submodels" not in change:
        with pytest.raises(ValueError, match=message):
            two_stage(Untouched(), **{**good, "num_submodels": (200, 200), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_submodels": 200}, "both stages"),
        ({"num_submodels": (200, 1)}, "num_submodels"),
        ({"fdr": 1.0}, "fdr strictly between"),
        ({"query": "some"}, "query to be a number"),
        ({"query": -1}, "query to be an integer"),
        ({"alternative": "more"}, "alternative"),
        ({"method": "best"}, "method"),
        ({"folds": 300}, "at most 200 folds"),
    ],
)
def test_bad_arguments_of_two_stages_are_refused_before_any_work(change, message):
    good = {"key": KEY, "num_submodels": (1500, 200), "tree": TREE, "law": LAW}
    with pytest.raises(ValueError, match=message):
        two_stage(Untouched(), **{**good, **change})


def test_nested_designs_are_refused_where_they_make_no_sense():
    design, u = draw(200), np.random.default_rng(0).normal(size=(200, 1))
    with pytest.raises(ValueError, match="without parents to weigh for another law"):
        estimate_ame(design.posts, u, law=Grid((0.4,)))
    with pytest.raises(ValueError, match="without parents to weigh"):
        reweight.overlap(design.posts, Grid((0.4,)))
    with pytest.raises(ValueError, match="interactions=False for a nested design"):
        estimate_ame(design.posts, u, interactions=True)
    with pytest.raises(ValueError, match="without parents for an effect curve"):
        effect_curve(design.posts, u, [0])
    with pytest.raises(ValueError, match="without parents for planning"):
        planted_power(design.posts, u, [1.0], key=KEY)
    with pytest.raises(ValueError, match="utilities"):
        estimate_nested(design, u[:, 0])
    with pytest.raises(ValueError, match=r"needs a jaxame\.hierarchy\.NestedDesign"):
        estimate_nested(design.posts, u)
    with pytest.raises(ValueError, match="needs a design of posts with parents"):
        NestedDesign(design.users)


def test_designs_that_cannot_be_nested_are_refused():
    rows = {"num_submodels": 200, "num_sources": 48, "coding": "weighted"}
    posts, users = sample_design(KEY, LAW, **rows), sample_design(KEY, LAW, **rows | {"num_sources": 12})
    index = TREE.user
    good = nest(posts, users, index)
    for one, other, own, message in (
        (posts, sample_design(KEY, LAW, **rows | {"num_submodels": 600}), index, "alike in rows"),
        (posts, sample_design(KEY, LAW, **rows, paired=True), index, "alike in rows"),
        (sample_design(KEY, LAW, **rows | {"coding": "ame"}), users, index, 'coding "weighted"'),
        (good, users, index, "without parents"),
        (posts, good, index, "without parents"),
        (posts, users, index[:5], r"index int \[48\]"),
        (posts, users, index * 1.0, r"index int \[48\]"),
        (posts, users, index + 1, "parents from 0 to 11"),
    ):
        with pytest.raises(ValueError, match=message):
            nest(one, other, own)


def test_bad_two_level_games_are_refused():
    user = np.array([0, 0, 1])
    for change in (
        {"user": np.array([0.5])},
        {"responsible": (0, 0)},
        {"responsible": (3,)},
        {"coalitions": ((2,),)},
        {"weights": np.ones(2)},
        {"saturation": 0.0},
    ):
        good = {"user": user, "responsible": (0,), "coalitions": ((0,),), "weights": np.ones(1)}
        with pytest.raises(ValueError, match="needs"):
            TwoLevel(**{**good, **change})
