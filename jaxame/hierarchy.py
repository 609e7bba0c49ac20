r"""Sources of sources: users and their posts, writers and their pages, sites and their images.

Two designs find first the users and then the posts that matter.

- `nested`: a user is in with probability `p` and, if so, each post with probability `r`, drawn independently of `p`.
  The same submodels serve both levels.
- `two_stage`: users are selected as sources of all their posts; fresh submodels then take the posts of the selected
  users, and every other user as a whole.

Both control the false discovery rate at each level by itself. For the levels together nothing is promised beyond that.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Unpack

import jax
import numpy as np
from jax.typing import ArrayLike

from jaxame import checks, knockoffs
from jaxame.attribution import METHODS, Attribution
from jaxame.design import Design, Law, nest, sample_design
from jaxame.estimators import Options, ame, check_options, estimate_ame
from jaxame.evaluation import Game, evaluate
from jaxame.features import code, exact_operator
from jaxame.knockoffs import Selection
from jaxame.types import Progress, silent

__all__ = [
    "NestedAttribution",
    "NestedDesign",
    "Tree",
    "TwoStageAttribution",
    "estimate_nested",
    "nested",
    "sample_nested_design",
    "two_stage",
]

# Streams of a key besides the rows of the users' design, which are numbered from 0.
_POST_STREAM, _SECOND_STREAM = 2**32 - 10, 2**32 - 11


@dataclasses.dataclass(frozen=True, eq=False)
class Tree:
    """Which user each post belongs to.

    Attributes:
      user: int `[n]`, the user of every post, 0 to V-1, each with at least one post.

    Raises:
      ValueError: for anything else.
    """

    user: np.ndarray

    def __post_init__(self) -> None:
        user = np.asarray(self.user)
        is_list = user.ndim == 1 and user.size > 0 and np.issubdtype(user.dtype, np.integer)
        checks.require(is_list, "the user of every post, integers [n]", checks.describe(self.user))
        present = np.unique(user)
        dense = present[0] == 0 and present[-1] == present.size - 1
        checks.require(
            bool(dense), "users 0 to V-1, each with a post", f"{present.size} from {user.min()} to {user.max()}"
        )
        object.__setattr__(self, "user", user.astype(np.int32))

    @classmethod
    def from_labels(cls, labels: ArrayLike) -> "Tree":
        """Build a tree from a label per post, such as its author's name; users are in the order of the labels.

        Args:
          labels: `[n]` integers or strings.

        Raises:
          ValueError: for anything else.
        """
        names = np.asarray(labels)
        is_list = names.ndim == 1 and names.size > 0 and names.dtype.kind in "iuU"
        checks.require(is_list, "the label of every post, integers or strings [n]", checks.describe(labels))
        return cls(np.unique(names, return_inverse=True)[1])

    @classmethod
    def from_parents(cls, parents: ArrayLike) -> "Tree":
        """Build a tree from every node's parent; users and posts are in the order of the nodes.

        Args:
          parents: int `[V + n]` the number of each node's parent; -1 for a user, who has none.

        Raises:
          ValueError: for a parent that is not there, a cycle, a third level, a user without a post, or anything else.
        """
        parent = np.asarray(parents)
        is_list = parent.ndim == 1 and parent.size > 0 and np.issubdtype(parent.dtype, np.integer)
        checks.require(is_list, "the parent of every node, integers [V + n]", checks.describe(parents))
        known = (parent >= -1) & (parent < parent.size)
        orphans = np.flatnonzero(~known).tolist()
        needs = f"parents from 0 to {parent.size - 1}, or -1 for a user"
        checks.require(not orphans, needs, f"nodes {orphans[:5]} with parents {parent[orphans[:5]].tolist()}")
        cycle = _cycle(parent)
        checks.require(not cycle, "a tree", f"a cycle, {' -> '.join(map(str, cycle))}")
        is_user = parent == -1
        deep = np.flatnonzero(~is_user & ~is_user[parent]).tolist()
        checks.require(not deep, "two levels, users and posts", f"nodes {deep[:5]} on a third one")
        number = np.cumsum(is_user) - 1
        alone = np.setdiff1d(np.flatnonzero(is_user), parent).tolist()
        checks.require(not alone, "a post of every user", f"none of nodes {alone[:5]}")
        return cls(number[parent[~is_user]])

    @property
    def num_posts(self) -> int:
        """`n`."""
        return self.user.size

    @property
    def num_users(self) -> int:
        """`V`."""
        return int(self.user.max()) + 1

    @property
    def sizes(self) -> np.ndarray:
        """Number of posts of every user, int `[V]`."""
        return np.bincount(self.user)


@dataclasses.dataclass(frozen=True, eq=False)
class NestedDesign:
    """Subsets of users and, within them, of posts.

    Attributes:
      posts: `M` rows over `n` posts; its `parent` holds the users. `evaluate(game, design.posts)` evaluates a game of
        posts on them.

    Raises:
      ValueError: for a design without parents.
    """

    posts: Design

    def __post_init__(self) -> None:
        is_nested = isinstance(self.posts, Design) and self.posts.parent is not None
        checks.require(is_nested, "a design of posts with parents", checks.describe(self.posts))

    @property
    def users(self) -> Design:
        """`M` rows over `V` users."""
        assert self.posts.parent is not None
        return self.posts.parent.design


@dataclasses.dataclass(frozen=True, eq=False)
class NestedAttribution:
    """Effects at both levels, from the same submodels.

    Attributes:
      users: over `V` users: adding a user, with each post in with probability `r`, to a random subset.
      posts: over `n` posts: adding a post to a random subset that its user is in.
    """

    users: Attribution
    posts: Attribution


@dataclasses.dataclass(frozen=True, eq=False)
class TwoStageAttribution:
    """Effects of all users and, from fresh submodels, of the posts of those selected.

    Attributes:
      users: over `V` users, each with all posts.
      selection: of the users.
      posts: over the `S` posts of the selected users: adding a post to a random subset, in which each of these posts
        and every other user is in independently; None if no user was selected.
      post: int `[S]`, the number of each of these posts among all.
      reason: why there is no second stage; empty if there is one.
    """

    users: Attribution
    selection: Selection
    posts: Attribution | None
    post: np.ndarray
    reason: str


def sample_nested_design(
    key: jax.Array, law: Law, within: Law, *, num_submodels: int, tree: Tree, paired: bool = False
) -> NestedDesign:
    """Draw `M` random subsets of users and of their posts.

    Row `i` depends on `fold_in(key, i)` only, as in `jaxame.design.sample_design`. In a pair both the users and the
    posts are decided by `u` and `1 - u`.

    Args:
      key: one typed threefry key.
      law: of the probability `p` that a user is in.
      within: of the probability `r` that a post of such a user is in. A post's standard error grows with the mean of
        `1 / (r(1-r))`, which is smallest for `PointMass(0.5)`.
      num_submodels: `M`, at least 2, and at least 3 if paired.
      tree: `n` posts of `V` users.
      paired: draw rows `2j` and `2j + 1` as an antithetic pair.

    Raises:
      ValueError: for any other argument.
    """
    checks.require(isinstance(tree, Tree), "a jaxame.hierarchy.Tree", checks.describe(tree))
    checks.typed_key(key)
    rows: dict[str, Any] = {"num_submodels": num_submodels, "coding": "weighted", "paired": paired}
    users = sample_design(key, law, num_sources=tree.num_users, **rows)
    posts = sample_design(jax.random.fold_in(key, _POST_STREAM), within, num_sources=tree.num_posts, **rows)
    return NestedDesign(nest(posts, users, tree.user))


def estimate_nested(
    design: NestedDesign,
    utilities: ArrayLike,
    *,
    about: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    **options: Unpack[Options],
) -> NestedAttribution:
    r"""Estimate the effects of users and of posts from utilities that were measured on a nested design.

    Users are fitted in their own code. What varies with `r` is taken off the utilities before; it depends on utilities,
    `p` and `r` only.

    Posts are fitted to what the users' values leave of the utilities. With `U` the utilities and `X` the users'
    membership, that remainder is a function of `(U, X, p, r)`. A redraw of the posts given `(X, p, r)` is exchangeable
    with a post without effect whatever these are, so selection and the exact test hold as they do for `U` itself.

    Args:
      design: `M` rows over `n` posts of `V` users.
      utilities: `[M, Q]`, any unit; non-finite entries leave their row out for that query.
      about: what to add to the results' `about`, such as a game's.
      progress: called as each stage moves on.
      **options: of both estimates, see `jaxame.estimate_ame`; without `prior` and `contrasts`.

    Returns:
      A `NestedAttribution`. A user's value is the AME of the user, each post being in with probability `r`, averaged
      over the law of `p` and of `r`. A post's value is its effect given that its user is in, averaged likewise.

    Raises:
      ValueError: for a bad argument.

    References:
      Candès et al., JRSS B 80(3), 2018, section 3 (knockoffs given other variables).
    """
    checks.require(isinstance(design, NestedDesign), "a jaxame.hierarchy.NestedDesign", checks.describe(design))
    _check(options, design.posts)
    targets = np.asarray(utilities, np.float64)
    num_rows = design.posts.num_submodels
    fits = targets.ndim == 2 and targets.shape[0] == num_rows and targets.shape[1] > 0
    checks.require(fits, f"utilities [M={num_rows}, Q]", list(targets.shape))
    more: dict[str, Any] = {"about": about, "progress": progress, **options}
    users = estimate_ame(design.users, _without_levels(design.posts, targets), **more)
    fitted = exact_operator(design.users, code(design.users)) @ users.values.T
    posts = estimate_ame(design.posts, targets - fitted, **more)
    spread = np.array([y[np.isfinite(y)].var(ddof=1) for y in targets.T])
    within = {"design": "nested", "law": repr(design.users.law), "within": repr(design.posts.law)}
    mean_user = "adding the user, each post being in with probability r, to a random subset"
    mean_post = "adding the post to a random subset that its user is in"
    return NestedAttribution(
        _described(dataclasses.replace(users, utility_variance=spread), level="user", value=mean_user, **within),
        _described(dataclasses.replace(posts, utility_variance=spread), level="post", value=mean_post, **within),
    )


def nested(
    game: Game,
    *,
    key: jax.Array,
    num_submodels: int,
    tree: Tree,
    law: Law,
    within: Law,
    paired: bool = False,
    progress: Progress = silent,
    **options: Unpack[Options],
) -> NestedAttribution:
    """Estimate the effects of users and of posts from the same submodels.

    Args:
      game: maps masks of posts to utilities.
      key: one typed key; decides everything.
      num_submodels: `M`.
      tree: the posts, in the order of the game's sources.
      law: of the probability `p` that a user is in.
      within: of the probability `r` that a post of such a user is in.
      paired: antithetic pairs of subsets.
      progress: called as each stage moves on.
      **options: of both estimates, see `jaxame.estimate_ame`; without `prior` and `contrasts`.

    Returns:
      A `NestedAttribution`; `select` of either part controls the false discovery rate among its sources.

    Raises:
      ValueError: for any bad argument, before the game is called.
    """
    _check_game(game, tree)
    design = sample_nested_design(key, law, within, num_submodels=num_submodels, tree=tree, paired=paired)
    _check(options, design.posts)
    utilities = evaluate(game, design.posts, progress=progress)
    return estimate_nested(design, utilities, about=getattr(game, "about", None), progress=progress, **options)


def two_stage(
    game: Game,
    *,
    key: jax.Array,
    num_submodels: tuple[int, int],
    tree: Tree,
    law: Law,
    fdr: float = 0.1,
    query: int | str = 0,
    alternative: str = "two-sided",
    method: str = "knockoff+",
    paired: bool = False,
    progress: Progress = silent,
    **options: Unpack[Options],
) -> TwoStageAttribution:
    """Select users, then estimate the effects of their posts from fresh submodels.

    In the first stage every user is a source of all posts. In the second, each post of a selected user is a source, and
    so is every other user; all are in independently with the same `p`. Its submodels are drawn and trained anew, so
    given the first stage it is an ordinary experiment on sources that are fixed beforehand, and a selection among
    these posts keeps to its rate. A user selected by mistake brings along posts without effect, which that rate counts.

    Args:
      game: maps masks of posts to utilities.
      key: one typed key; decides everything.
      num_submodels: `(M1, M2)` of the two stages.
      tree: the posts, in the order of the game's sources.
      law: inclusion law, of both stages.
      fdr: of the selection of users, strictly between 0 and 1.
      query: what users are selected for: a query's number, or "all".
      alternative: of that selection, as in `Attribution.select`.
      method: likewise.
      paired: antithetic pairs of subsets.
      progress: called as each stage moves on.
      **options: of both estimates, see `jaxame.estimate_ame`; without `prior` and `contrasts`.

    Returns:
      A `TwoStageAttribution`. Where no user is selected there is no second stage, and `reason` says why.

    Raises:
      ValueError: for any bad argument, before the game is called, but for a query that the game has not.
    """
    _check_game(game, tree)
    _check_selection(fdr, query, alternative, method)
    pair = isinstance(num_submodels, tuple) and len(num_submodels) == 2
    checks.require(pair, "num_submodels (M1, M2), of both stages", checks.describe(num_submodels))
    rows: dict[str, Any] = {"law": law, "paired": paired}
    for number in num_submodels:
        _check(options, sample_design(key, num_submodels=number, num_sources=tree.num_users, **rows))
    common: dict[str, Any] = {**rows, "progress": progress, **options}
    users = ame(_Grouped(game, tree.user), key=key, num_submodels=num_submodels[0], **common)
    value = "adding all posts of the user to a random subset of users"
    users = _described(users, design="two-stage", level="user", value=value)
    selection = users.select(fdr, query, alternative=alternative, method=method)
    post, group = _second_sources(tree, selection.indices)
    if not post.size:
        reason = f"no user was selected, so there was no second stage: {selection.reason}"
        return TwoStageAttribution(users, selection, None, post, reason)
    second_key = jax.random.fold_in(key, _SECOND_STREAM)
    everything = ame(_Grouped(game, group), key=second_key, num_submodels=num_submodels[1], **common)
    value = "adding the post to a random subset of the selected users' posts and of the other users"
    posts = _described(
        _first_sources(everything, post.size), design="two-stage", level="post", value=value, posts=post.tolist()
    )
    return TwoStageAttribution(users, selection, posts, post, "")


class _Grouped:
    """A game whose sources are groups of those of another."""

    def __init__(self, game: Game, group: np.ndarray):
        self._game, self._group = game, group
        self.num_sources = int(group.max()) + 1
        for name in ("chunk_size", "about"):
            if hasattr(game, name):
                setattr(self, name, getattr(game, name))

    def __call__(self, keys: jax.Array, masks: jax.Array) -> ArrayLike:
        return self._game(keys, masks[:, self._group])


def _second_sources(tree: Tree, selected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the selected users' posts `[S]`, and every post's source `[n]`: they first, then the other users."""
    chosen = np.isin(tree.user, selected)
    post, others = np.flatnonzero(chosen), np.unique(tree.user[~chosen])
    group = post.size + np.searchsorted(others, tree.user)
    group[post] = np.arange(post.size)
    return post, group


def _first_sources(result: Attribution, number: int) -> Attribution:
    """Return a result without what it says of any but its first sources."""
    by_source = ("values", "values_sd", "stderr", "lasso_min", "lasso_1se", "debiased", "importance", "randomisation_p")
    arrays = {name: getattr(result, name) for name in by_source}
    kept: dict[str, Any] = {name: None if a is None else a[..., :number] for name, a in arrays.items()}
    return dataclasses.replace(result, **kept)


def _described(result: Attribution, **hierarchy: Any) -> Attribution:
    """Return a result that says what its sources and values are."""
    return dataclasses.replace(result, about={**result.about, "hierarchy": hierarchy})


def _without_levels(design: Design, targets: np.ndarray) -> np.ndarray:
    """Take off the best fit by the intercepts per `r`, the posts' inclusion probability; `[M, Q]`."""
    z = code(dataclasses.replace(design, parent=None)).z
    left = targets.copy()
    for y in left.T:
        kept = np.isfinite(y)
        y[kept] -= z[kept] @ np.linalg.lstsq(z[kept], y[kept])[0]
    return left


def _cycle(parent: np.ndarray) -> list[int]:
    """Return the nodes of a cycle, the first one twice, or nothing."""
    done: set[int] = set()
    for start in range(parent.size):
        path: dict[int, None] = {}
        node = start
        while node != -1 and node not in done and node not in path:
            path[node] = None
            node = int(parent[node])
        if node in path:
            nodes = list(path)
            return [*nodes[nodes.index(node) :], node]
        done.update(path)
    return []


def _check(options: Options, design: Design) -> None:
    """Refuse options that cannot be those of both levels, and bad ones."""
    for name in ("prior", "contrasts"):
        needs = f"no {name}, which this estimate cannot use at both levels"
        checks.require(options.get(name) is None, needs, checks.describe(options.get(name)))
    check_options(design, **options)


def _check_game(game: Game, tree: Tree) -> None:
    checks.require(isinstance(tree, Tree), "a jaxame.hierarchy.Tree", checks.describe(tree))
    is_game = callable(game) and hasattr(game, "num_sources")
    checks.require(is_game, "a callable game with num_sources", type(game))
    checks.require(game.num_sources == tree.num_posts, f"a game of the tree's {tree.num_posts} posts", game.num_sources)


def _check_selection(fdr: float, query: int | str, alternative: str, method: str) -> None:
    checks.probability(fdr, "fdr")
    is_query = query == "all" if isinstance(query, str) else checks.count(query, "query", 0) >= 0
    checks.require(is_query, 'query to be a number or "all"', checks.describe(query))
    knockoffs.require_alternative(alternative)
    checks.require(method in METHODS, f"method to be one of {METHODS}", checks.describe(method))
