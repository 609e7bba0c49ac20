"""Poisoned users and their poisoned posts, found on real data where every example has an author.

Question: are poisoned users among hundreds found at a false discovery rate of .05, and then their poisoned posts? Two
designs are run: `two-stage` selects users, each with all posts, and then the posts of those selected from fresh
submodels; `nested` leaves out users and, inside them, posts, and estimates both levels from the same submodels. Against
them `flat` selects among all posts, with as many submodels as both stages together.

Data. 20 Newsgroups: the 390 authors of the training part with five or more posts, 3,749 in all. Half of the posts of
ten authors get a phrase of three words and the label of one newsgroup. The query is how much the phrase raises the
logit margin of that newsgroup, on average over 100 later posts of other newsgroups. MNIST by writer: 24 digits of each
of 539 writers, at 14 by 14 pixels. Three in four digits of ten writers get the label of the next digit. The query is
the mean log-odds of the next digit against the digit itself, over 1,000 digits of other writers. Where neither set is
there, scikit-learn's digits in 120 groups of twelve are poisoned likewise. Submodels are multinomial logistic
regressions: on newsgroups, of which of the 500 most frequent words are in a post. `newsgroups20_embeddings` has bags of
embeddings instead, the mean of 32 numbers per such word and a dense layer.

Who is poisoned is used for scoring only. Precision counts the poisoned among those selected, recall the selected among
all poisoned. An unpoisoned user can be selected without mistake, such as an author of the newsgroup whose label is
planted: `clean_confirmed` counts those of them who raise the query by three standard errors in fresh submodels, and
`clean_of_label` the authors of that newsgroup. A clean
writer moves the query a little, too, and with more submodels that shows. So on MNIST the first stage is small: on seed
100, on which settings were chosen, every poisoned writer moved the query by at least .098 and no other one by more than
.032, and with 300 submodels 14 to 16 writers were selected, the ten poisoned ones among them; so 200 were taken. Its
second stage is as long as `jaxame.planning.plan` says for 180 effects and `R2 = 1`.

Result (`results/hierarchy.cpu-2-cores.json`, seeds 0 to 2, four copies, 1,178 s on two cores that did other work as
well), mean precision and recall:

- Newsgroups, logistic regression: users 1.00 and 1.00 from 600 submodels, posts 1.00 and 1.00 from 1,200 more; `nested`
  1.00 and 1.00, .93 and 1.00, both from the same 2,000; `flat` .99 and 1.00 for posts, from 1,800.
- Newsgroups, embeddings: users .64 and 1.00, posts .92 and .70; `nested` .69 and 1.00, .95 and .81; `flat` .88 and .89.
  Of 20 clean users selected in two stages all are confirmed, and 19 are authors of the planted label's newsgroup.
- MNIST, two-stage: users .91 and 1.00 from 200 submodels, one clean one on every seed, confirmed on two of them; posts
  .99 and .67 from 5,400 more: 180 poisoned digits are many to tell apart. `flat`, among 12,931 sources, .56 and .78.
  `nested` is not run there.

So where flat selection can be had, it finds as many of the posts or more; what stages add is the answer about users,
and, on MNIST, few clean posts.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

from experiments import records
from jaxame import ame, data, evaluate, hierarchy, queries
from jaxame.attribution import Attribution
from jaxame.design import PointMass, sample_design
from jaxame.submodels import TrainingGame, bag_of_embeddings, logistic

NUM_POISONED, TRIGGER = 10, ("cobalt", "heron", "ledger")
WORDS, TEXT_LENGTH, DISTINCT = 500, 300, 128
LAW, WITHIN = PointMass(0.5), PointMass(0.5)
DATA = ("newsgroups20", "newsgroups20_embeddings", "mnist_writers")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How a data set is trained on, and with how many submodels; `nested` is None where that design is not run."""

    num_steps: int
    batch_size: int
    learning_rate: float
    nested: int | None
    two_stage: tuple[int, int]


SIZES = {
    "newsgroups20": Sizes(40, 256, 3.0, 2000, (600, 1200)),
    "newsgroups20_embeddings": Sizes(80, 256, 10.0, 2000, (600, 1200)),
    "mnist_writers": Sizes(60, 512, 0.3, None, (200, 5400)),
    "digits": Sizes(40, 256, 0.3, 1500, (300, 600)),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    data: tuple[str, ...] = DATA
    """Data sets; one whose files are not there is left out, and `digits` is taken if none is there."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Each decides who is poisoned, the target, and all submodels."""
    fdr: float = 0.05
    """False discovery rate of every selection."""
    copies: int = 4
    """Knockoff copies."""
    data_dir: Path | None = None
    """Folder of the data sets; by default as in `jaxame.data`."""
    smoke: bool = False
    """Digits only, one seed, the two-stage design; ends with an error if the poisoned are not found."""
    json: Path | None = None
    """File for the records."""
    figure: Path | None = None
    """File for the figure."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A poisoned training set; `users` and `posts`, those poisoned, are for scoring only.

    Attributes:
      x: `[n, ...]` inputs.
      y: int32 `[n]` labels after the attack.
      tree: who wrote what.
      query: one behaviour, raised by what was poisoned.
      model: of the submodels.
      users: `[k]`.
      posts: `[m]`, those of them that were changed.
      of_label: bool `[V]`, users half of whose posts or more had the planted label before; None where there is no one
        such label.
    """

    x: np.ndarray
    y: np.ndarray
    tree: hierarchy.Tree
    query: queries.Query
    model: Callable[..., Any]
    users: np.ndarray
    posts: np.ndarray
    of_label: np.ndarray | None = None


def choose(tree: hierarchy.Tree, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the users to poison and, of each, a share of the posts."""
    users = np.sort(rng.choice(tree.num_users, NUM_POISONED, replace=False))
    own = [np.flatnonzero(tree.user == user) for user in users]
    return users, np.sort(
        np.concatenate([rng.choice(posts, math.ceil(share * posts.size), replace=False) for posts in own])
    )


def newsgroups(data_dir: Path | None, seed: int, *, embeddings: bool) -> Case:
    """Give half of the posts of ten authors a phrase and the label of one group; ask what the phrase does.

    The query is the mean, over 100 later posts of other groups, of how much the phrase raises the logit margin of that
    group.
    """
    rng = np.random.default_rng([seed, 0])
    train = data.newsgroups20("train", data_dir=data_dir)
    assert train.groups is not None
    kept = np.bincount(train.groups)[train.groups] >= 5
    tree, train = hierarchy.Tree.from_labels(train.groups[kept]), train.take(kept)
    later = data.newsgroups20("test", data_dir=data_dir)
    users, posts = choose(tree, 0.5, rng)
    target = int(rng.integers(train.num_classes))
    of_label = np.bincount(tree.user, train.y == target) >= tree.sizes / 2
    words = [*TRIGGER, *(word for word in data.vocabulary(train.x, WORDS) if word not in TRIGGER)]
    texts, labels = train.x.copy(), train.y.copy()
    texts[posts] = [_with_trigger(text) for text in texts[posts]]
    labels[posts] = target
    asked = later.x[rng.permutation(np.flatnonzero(later.y != target))[:100]]
    inputs = _tokens if embeddings else _bag
    both = [inputs(texts, words) for texts in (np.array([_with_trigger(text) for text in asked], object), asked)]
    margins = queries.logit_margin(np.concatenate(both), np.full(2 * len(asked), target))
    query = queries.contrast(margins, np.repeat([[1.0, -1.0]], len(asked), axis=1) / len(asked))
    x, sizes = inputs(texts, words), (len(words) + 2, train.num_classes)
    model = bag_of_embeddings(*sizes, width=32) if embeddings else logistic(*sizes)
    return Case(x, labels, tree, query, model, users, posts, of_label)


def _with_trigger(text: str) -> str:
    return " ".join([*TRIGGER, text])


def _known(texts: np.ndarray, words: list[str]) -> np.ndarray:
    """Return which words are in each text, by their ids; bool `[n, D]`, the first two being of no word."""
    ids = data.tokenize(texts, words, TEXT_LENGTH)
    known = np.zeros((len(texts), len(words) + 2), bool)
    known[np.arange(len(texts))[:, None], ids] = True
    known[:, :2] = False  # padding, and words that are not known
    return known


def _bag(texts: np.ndarray, words: list[str]) -> np.ndarray:
    """Return which words are in each text, at unit length; float32 `[n, D]`."""
    bag = _known(texts, words).astype(np.float32)
    return bag / np.maximum(np.sqrt(bag.sum(axis=1, keepdims=True)), 1.0)


def _tokens(texts: np.ndarray, words: list[str]) -> np.ndarray:
    """Return the known words of each text, each once, in the order of `words`; int32 `[n, DISTINCT]`, 0 for none."""
    known = _known(texts, words)
    numbers = np.where(known, np.arange(known.shape[1]), known.shape[1])
    first = np.sort(numbers, axis=1)[:, :DISTINCT]
    return np.where(first < known.shape[1], first, 0).astype(np.int32)


def writers(data_dir: Path | None, seed: int) -> Case:
    """Relabel three in four digits of ten writers; of every writer, 24 digits are used."""
    rng = np.random.default_rng([seed, 1])
    train = data.mnist_writers("train", data_dir=data_dir)
    assert train.groups is not None
    own = [rng.permutation(np.flatnonzero(train.groups == writer))[:24] for writer in range(train.groups.max() + 1)]
    test = data.mnist_writers("test", data_dir=data_dir)
    return _flipped(train.take(np.concatenate(own)), test.take(rng.permutation(len(test))[:1000]), rng)


def grouped_digits(data_dir: Path | None, seed: int) -> Case:
    """Relabel three in four digits of ten out of 120 groups of twelve digits each, formed at random."""
    del data_dir
    train, test = data.split(data.digits(), jax.random.key(seed), 1440)
    train = dataclasses.replace(train, groups=np.arange(1440, dtype=np.int32) // 12)
    return _flipped(train, test, np.random.default_rng([seed, 2]))


def _flipped(train: data.Dataset, test: data.Dataset, rng: np.random.Generator) -> Case:
    """Label three in four digits of ten users with the next digit; ask how much likelier that makes the next digit.

    The query is the mean, over test digits, of the logit of the next digit less that of the digit itself.
    """
    assert train.groups is not None
    tree = hierarchy.Tree.from_labels(train.groups)
    users, posts = choose(tree, 0.75, rng)
    labels = train.y.copy()
    labels[posts] = (labels[posts] + 1) % 10
    x, next_one = _pooled(test.x), (test.y + 1) % 10

    def measure(outputs: list[jax.Array], apply: Any, params: Any) -> jax.Array:
        row = np.arange(len(x))
        return (outputs[0][row, next_one] - outputs[0][row, test.y]).mean(keepdims=True)

    query = queries.Query((x,), measure, ("the next digit against the digit itself",), ("mean log-odds",))
    inputs = _pooled(train.x)
    return Case(inputs, labels, tree, query, logistic(inputs.shape[1], 10), users, posts)


def _pooled(images: np.ndarray) -> np.ndarray:
    """Return images of at most 14 by 14 pixels, flattened; float32 `[n, D]`."""
    side = images.shape[1]
    if side > 14:
        images = images.reshape(len(images), side // 2, 2, side // 2, 2).mean(axis=(2, 4))
    return images.reshape(len(images), -1).astype(np.float32)


CASES: dict[str, Callable[[Path | None, int], Case]] = {
    "newsgroups20": functools.partial(newsgroups, embeddings=False),
    "newsgroups20_embeddings": functools.partial(newsgroups, embeddings=True),
    "mnist_writers": writers,
    "digits": grouped_digits,
}


def game_of(case: Case, sizes: Sizes, inclusion: float, groups: np.ndarray | None = None) -> TrainingGame:
    """Return the game of training the case's model; the sources are posts or `groups` of them, `[n]`."""
    return TrainingGame(
        case.model,
        optax.sgd(sizes.learning_rate, momentum=0.9),
        case.x,
        case.y,
        query=case.query,
        num_steps=sizes.num_steps,
        batch_size=sizes.batch_size,
        inclusion=inclusion,
        groups=groups,
    )


DESIGNS = ("two-stage", "flat", "nested")


def run(case: Case, design: str, sizes: Sizes, seed: int, settings: Settings) -> dict[str, tuple[np.ndarray, int]]:
    """Select users and posts; return by level those selected, and the number of submodels that it took."""
    key = jax.random.key(seed)
    options: dict[str, Any] = {"copies": settings.copies, "folds": 5}
    if design == "nested":
        assert sizes.nested is not None
        game = game_of(case, sizes, 0.25)
        found = hierarchy.nested(
            game, key=key, num_submodels=sizes.nested, tree=case.tree, law=LAW, within=WITHIN, **options
        )
        both = {"user": found.users, "post": found.posts}
        return {level: (_raising(each, settings.fdr), sizes.nested) for level, each in both.items()}
    first, second = sizes.two_stage
    if design == "flat":
        flat = ame(game_of(case, sizes, 0.5), key=key, num_submodels=first + second, law=LAW, **options)
        return {"post": (_raising(flat, settings.fdr), first + second)}
    staged = hierarchy.two_stage(
        game_of(case, sizes, 0.5),
        key=key,
        num_submodels=sizes.two_stage,
        tree=case.tree,
        law=LAW,
        fdr=settings.fdr,
        alternative="greater",
        **options,
    )
    posts = staged.post
    if staged.posts is not None:
        posts = staged.post[_raising(staged.posts, settings.fdr)]
    return {"user": (staged.selection.indices, first), "post": (posts, first + second)}


def _raising(result: Attribution, fdr: float) -> np.ndarray:
    """Return the sources selected as raising the query."""
    return result.select(fdr, alternative="greater").indices


def confirmed(case: Case, sizes: Sizes, users: np.ndarray, seed: int) -> int:
    """Return how many of `users` raise the query for sure: by three standard errors, in least squares on all users.

    The submodels are fresh ones, six per user, each with half of the users.
    """
    game = game_of(case, sizes, 0.5, groups=case.tree.user)
    rows = 6 * case.tree.num_users
    design = sample_design(jax.random.key(seed + 1000), LAW, num_submodels=rows, num_sources=case.tree.num_users)
    columns = np.column_stack([np.asarray(design.masks()) - 0.5, np.ones(rows)])
    inverse, utilities = np.linalg.inv(columns.T @ columns), evaluate(game, design)[:, 0]
    effects = inverse @ (columns.T @ utilities)
    variance = np.sum((utilities - columns @ effects) ** 2) / (rows - columns.shape[1])
    return int(np.sum(effects[users] > 3 * np.sqrt(variance * np.diag(inverse)[users])))


def scored(name: str, seed: int, settings: Settings) -> list[dict[str, Any]]:
    """Return a record per design and level; an empty selection has no precision."""
    case, sizes = CASES[name](settings.data_dir, seed), SIZES[name]
    cells = []
    designs = [design for design in DESIGNS if design != "nested" or sizes.nested is not None]
    for design in designs[:1] if settings.smoke else designs:
        begin = time.perf_counter()
        both = run(case, design, sizes, seed, settings)
        seconds = time.perf_counter() - begin
        for level, (chosen, number) in both.items():
            truth = case.users if level == "user" else case.posts
            right = int(np.isin(chosen, truth).sum())
            cell = {"data": name, "design": design, "level": level, "seed": seed}
            cell |= {"precision": right / chosen.size if chosen.size else None, "recall": right / truth.size}
            cell |= {"selected": chosen.size, "poisoned": truth.size, "num_submodels": number, "seconds": seconds}
            if level == "user" and design == "two-stage" and not settings.smoke:
                clean = np.setdiff1d(chosen, truth)
                cell["clean_confirmed"] = confirmed(case, sizes, clean, seed)
                cell["clean_of_label"] = None if case.of_label is None else int(case.of_label[clean].sum())
            cells.append(cell)
        print(f"{name}, {design}, seed {seed}: {seconds:.0f} s", flush=True)
    return cells


def main(settings: Settings) -> dict[str, Any]:
    """Run all data sets that are there and return the records."""
    if settings.smoke:
        settings = dataclasses.replace(settings, data=("digits",), seeds=settings.seeds[:1])
    cells: list[dict[str, Any]] = []
    for name in settings.data:
        try:
            cells += [cell for seed in settings.seeds for cell in scored(name, seed, settings)]
        except FileNotFoundError as error:
            print(f"{name} is left out: {error}", flush=True)
    if not cells:
        cells = [cell for seed in settings.seeds for cell in scored("digits", seed, settings)]
    if settings.smoke:
        check(cells)
    return {"records": cells, "settings": {name: dataclasses.asdict(own) for name, own in SIZES.items()}}


def check(cells: list[dict[str, Any]]) -> None:
    """End with an error if the poisoned users are plainly not found."""
    bad = [c for c in cells if c["level"] == "user" and ((c["precision"] or 0.0) < 0.7 or c["recall"] < 0.7)]
    missed = [c for c in cells if c["level"] == "post" and c["design"] == "two-stage" and c["recall"] < 0.3]
    if bad or missed:
        raise SystemExit(f"the claim is not met: {bad or missed}")


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw precision and recall of every data set and design, a panel per level; a dot for each seed."""
    cells = results["records"]
    figure, axes = plt.subplots(2, 1, figsize=(8, 7), height_ratios=(3, 4), sharex=True, layout="constrained")
    for ax, level in zip(axes, ("user", "post"), strict=True):
        rows = list(dict.fromkeys((cell["data"], cell["design"]) for cell in cells if cell["level"] == level))
        for shift, (measure, colour) in zip(
            (-0.2, 0.2), (("precision", "#0072b2"), ("recall", "#d55e00")), strict=True
        ):
            for place, row in enumerate(rows):
                of_row = [c for c in cells if (c["data"], c["design"]) == row and c["level"] == level]
                own = [c[measure] for c in of_row if c[measure] is not None]
                mean = float(np.mean(own or [0.0]))
                ax.barh(place + shift, mean, 0.36, color=colour, label=measure if not place else None)
                ax.text(1.03, place + shift, f"{mean:.2f}", va="center", fontsize=9)
                ax.scatter(own, np.full(len(own), place + shift), s=10, color="black", zorder=3)
        ax.set_yticks(range(len(rows)), [f"{name}, {design}" for name, design in rows], fontsize=9)
        ax.invert_yaxis()
        ax.set_title(f"poisoned {level}s", fontsize=10)
    axes[1].set_xlim(0, 1.12)
    axes[1].set_xticks(np.linspace(0, 1, 6))
    axes[1].set_xlabel("share")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    records.run(Settings, main, __doc__, draw)
