"""Plots: each returns the axes it was given, draws what it was given, and says in which unit."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from jaxame import plot
from jaxame.curves import EffectCurve
from jaxame.knockoffs import select
from jaxame.plot import comparisons

RNG = np.random.default_rng(0)
AME = np.array([0.1, 3.0, -2.0, 0.0, 1.5, -0.2])
COLUMNS = np.abs(np.concatenate([[np.r_[5, 4, 3, np.zeros(17)]], np.zeros((4, 20))]) + 0.1 * RNG.random((5, 20)))
SELECTION = select(COLUMNS, 0.2)
PENALTY = np.array([8.0, 4.0, 2.0, 1.0, np.nan])
ERROR, SE = np.array([9.0, 4.0, 3.0, 3.5, np.nan]), np.array([1.0, 1.5, 1.2, 1.0, np.nan])
CURVE = EffectCurve(np.array([0.2, 0.8]), np.array([4, 1]), RNG.random((2, 2, 2)), np.full((2, 2, 2), 0.1))
IMAGES = RNG.random((5, 3, 4))

CALLS = {
    "values": lambda ax: plot.values(AME, selected=np.array([1, 4]), truth=np.array([1]), unit="nats", ax=ax),
    "waterfall": lambda ax: plot.waterfall(
        AME, selected=np.array([1]), interval=(AME - 1, AME + 1), unit="nats", ax=ax
    ),
    "knockoffs": lambda ax: plot.knockoffs(SELECTION, ax=ax),
    "cv_curve": lambda ax: plot.cv_curve(PENALTY, ERROR, SE, unit="nats", ax=ax),
    "path": lambda ax: plot.path(PENALTY[:4], RNG.random((4, 6)), selected=[1], unit="nats", ax=ax),
    "effect_curves": lambda ax: plot.effect_curves(CURVE, query=1, unit="nats", ax=ax),
    "utility_by_size": lambda ax: plot.utility_by_size(RNG.random(50), RNG.random(50), unit="nats", ax=ax),
    "stability": lambda ax: plot.stability([10, 20], [np.array([3]), np.array([1, 3])], ax=ax),
    "precision_recall": lambda ax: plot.precision_recall([1, 2], [0.5, 1], [0, 0.5], ax=ax),
    "error_by_budget": lambda ax: plot.error_by_budget({"a": ([1, 2], [3, 1])}, se={"a": [0.1, np.nan]}, ax=ax),
    "removal_curves": lambda ax: plot.removal_curves({"a": ([0, 0.5], [0.9, 0.2])}, unit="nats", ax=ax),
    "thumbnails": lambda ax: plot.thumbnails(list(IMAGES), ["$a", *"bcde"], ax=ax),
}


@pytest.fixture(autouse=True)
def _figures_are_closed():
    yield
    plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


def test_a_unit_is_no_formula(ax):
    plot.utility_by_size(RNG.random(50), RNG.random(50), unit="cost_$ per item_$", ax=ax)
    plot.values(AME, selected=np.array([1]), unit="cost_$ per item_$")
    for figure in map(plt.figure, plt.get_fignums()):
        figure.canvas.draw()
    assert ax.get_ylabel() == "cost_$ per item_$"


def test_every_function_is_called_here():
    functions = {name for name in plot.__all__ if callable(getattr(plot, name))}
    assert functions == CALLS.keys() | {"save"}


@pytest.mark.parametrize("name", CALLS)
def test_it_draws_on_the_axes_it_is_given_or_on_new_ones(name, ax, tmp_path):
    assert CALLS[name](ax) is ax
    mine = CALLS[name](None)
    assert mine is not ax
    assert mine.figure is not ax.figure
    if name != "thumbnails":
        assert ax.get_xlabel()
        assert ax.get_ylabel() or name == "precision_recall"
    plot.save(ax.figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert not plt.fignum_exists(ax.figure.number)


@pytest.mark.parametrize("name", ["values", "waterfall", "cv_curve", "path", "effect_curves", "removal_curves"])
def test_the_unit_is_on_the_axis(name, ax):
    assert "nats" in CALLS[name](ax).get_ylabel()


def test_waterfall_keeps_the_largest_and_counts_the_others(ax):
    plot.waterfall(AME, selected=np.array([1]), most=3, ax=ax)
    bars = {to_hex(bar.get_facecolor()): [] for bar in ax.patches}
    for bar in ax.patches:
        bars[to_hex(bar.get_facecolor())].append(bar.get_height())
    assert bars == {plot.BLUE: [3.0], plot.GREY: [1.5, -2.0]}
    (text,) = ax.texts
    assert text.get_text() == "3 others:\n-0.2 to 0.1"


def test_waterfall_of_few_has_no_gap(ax):
    plot.waterfall(AME, selected=np.array([], int), ax=ax)
    assert [bar.get_height() for bar in ax.patches] == sorted(AME, reverse=True)
    assert len(ax.texts) == 0


def test_knockoffs_show_who_won_and_the_threshold(ax):
    plot.knockoffs(SELECTION, ax=ax)
    lines = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    w = SELECTION.statistic
    assert SELECTION.indices.size == 3
    np.testing.assert_allclose(np.sort(lines["selected"]), np.sort(w[SELECTION.indices]))
    np.testing.assert_allclose(np.sort(lines["a copy won"]), np.sort(w[w < 0]))
    assert lines[f"threshold {SELECTION.threshold:.3g}"][0] == SELECTION.threshold
    won = np.setdiff1d(np.flatnonzero(w > 0), SELECTION.indices)
    assert len(lines.get("the source won", [])) == won.size


def test_nothing_to_show_is_said(ax):
    nothing = select(np.zeros((5, 20)), 0.2)
    assert [text.get_text() for text in plot.knockoffs(nothing).texts] == ["nothing was important"]
    none = [np.array([], int)] * 2
    assert [text.get_text() for text in plot.stability([10, 20], none, ax=ax).texts] == ["nothing was selected"]


def test_cv_curve_marks_both_penalties(ax):
    """By hand: the least error is 3 at penalty 2; within 1.2 of it is first 4, at penalty 4."""
    plot.cv_curve(PENALTY, ERROR, SE, ax=ax)
    upright = {line.get_xdata()[0] for line in ax.get_lines() if len(set(line.get_xdata())) == 1}
    assert upright == {2.0, 4.0}


def test_path_draws_the_selected_apart(ax):
    coef = np.array([[0, 0, 0.0], [1, 0, 0], [2, -1, 0]])
    plot.path(np.array([3.0, 2, 1]), coef, selected=[0], ax=ax)
    drawn = {to_hex(line.get_color()): line.get_ydata() for line in ax.get_lines()}
    np.testing.assert_array_equal(drawn[plot.BLUE], coef[:, 0])
    np.testing.assert_array_equal(drawn[plot.GREY], coef[:, 1])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["1 not selected", "1 selected"]


def test_effect_curves_are_those_of_the_query(ax):
    plot.effect_curves(CURVE, query=1, ax=ax)
    drawn = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    np.testing.assert_array_equal(drawn["source 4"], CURVE.values[1, 0])
    np.testing.assert_array_equal(drawn["source 1"], CURVE.values[1, 1])


def test_utility_by_size_leaves_out_what_is_not_finite(ax):
    share = np.repeat([0.2, 0.8], 40)
    utility = np.where(share > 0.5, 5.0, 1.0)
    utility[::7] = np.nan
    plot.utility_by_size(share, utility, ax=ax)
    medians = next(line for line in ax.get_lines() if line.get_label() == "median")
    assert set(medians.get_ydata()) <= {1.0, 5.0} | {3.0}
    assert medians.get_ydata()[0] == 1.0
    assert medians.get_ydata()[-1] == 5.0


def test_stability_has_a_dot_for_each_that_is_selected(ax):
    plot.stability([10, 20], [np.array([3, 7]), np.array([1, 3])], ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "3", "7"]
    dots = {(line.get_xdata()[0], *line.get_ydata()) for line in ax.get_lines() if line.get_marker() == "o"}
    assert dots == {(0, 1, 2), (1, 0, 1)}


def test_lines_carry_their_names_and_two_standard_errors(ax):
    plot.error_by_budget({"a": ([1, 2], [3.0, 1.0]), "b": ([1, 2], [2.0, 2.0])}, se={"a": [0.25, np.nan]}, ax=ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    (bars,) = ax.containers[0].lines[2]
    np.testing.assert_allclose([part[:, 1] for part in bars.get_segments()], [[2.5, 3.5], [1.0, 1.0]])


def test_more_lines_than_colours_are_told_apart_by_markers(ax):
    lines = {str(number): ([1], [1]) for number in range(9)}
    comparisons.removal_curves(lines, ax=ax)
    looks = {(line.get_color(), line.get_marker()) for line in ax.get_lines()}
    assert len(looks) == 9


def test_thumbnails_show_every_image_once(ax):
    plot.thumbnails(list(IMAGES), ["$a", *"bcde"], colours=[None, plot.GREEN, *[None] * 3], columns=3, ax=ax)
    assert len(ax.child_axes) == 5
    for image, own in zip(IMAGES, ax.child_axes, strict=True):
        np.testing.assert_array_equal(own.images[0].get_array(), image)
    assert ax.child_axes[0].get_title() == "$a"
    assert to_hex(ax.child_axes[1].spines["left"].get_edgecolor()) == plot.GREEN
    rows = {round(own.get_position().y0, 3) for own in ax.child_axes}
    assert len(rows) == 2
