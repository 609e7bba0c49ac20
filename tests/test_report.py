"""Reports: what they say is what was found, and no text from data is anything but text. See also test_browser.py."""

import base64
import io
import re
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from report_helpers import HOSTILE, example

import jaxame
from jaxame import growth, knockoffs, queries
from jaxame.design import Grid, TruncatedUniform, sample_design
from jaxame.estimators import estimate_ame, importance
from jaxame.report import charts, items
from jaxame.types import Items

N, M = 30, 400


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    run = example(N, M)
    path = run.result.report(
        tmp_path_factory.mktemp("report") / "made" / "report.html",
        fdr=0.1,
        alternative="greater",
        design=run.design,
        utilities=run.utilities,
        growth=run.growth,
        sources=run.sources,
        queries=run.queries,
        unit="margin",
        facts={"note": HOSTILE},
        command="jaxame run x",
    )
    return run, path.read_text("utf-8"), Page(path.read_text("utf-8"))


def test_it_says_what_was_found(made):
    run, _, page = made
    for q in range(2):
        found = run.result.select(0.1, q, alternative="greater")
        assert set(run.effects[q].nonzero()[0]) <= set(found.indices)
        low, high = run.result.interval()
        for source in found.indices:
            ame = run.result.debiased[q, source]
            assert (
                f"{ame:+.3g} {low[q, source]:+.3g} to {high[q, source]:+.3g} {found.statistic[source]:.3g}" in page.text
            )
    counts = sorted(run.result.select(0.1, q, alternative="greater").indices.size for q in range(2))
    assert f"{counts[0]} to {counts[1]} of {N} sources raise the margin on 2 of 2 queries, at a false" in page.text
    assert "rate of 0.1: on average at most 10 % of those named" in page.text
    assert f"{M:,} OK, 0 SOME_NOT_FINITE, 0 DIVERGED" in page.text
    assert "Grid(points=(0.3, 0.7)" in page.text
    assert "jaxame run x" in page.text


def test_nothing_comes_from_elsewhere(made):
    _, text, page = made
    addresses = [
        a[name] for _, a in page.tags for name in ("src", "href", "xlink:href", "action", "srcset") if name in a
    ]
    assert addresses
    assert {address.split(":")[0] if ":" in address else "#" for address in addresses} <= {"data", "#"}
    assert "@import" not in text
    assert "url(http" not in text
    assert not page.all("link")


def test_hostile_texts_stay_texts(made):
    _, text, page = made
    assert len(page.all("script")) == 1
    assert HOSTILE not in text
    assert page.text.count("<script>alert(1)</script>") >= 3  # a source, a query, a fact
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]


def test_those_who_do_not_see_it_are_told(made):
    _, text, page = made
    assert all(image.get("alt") for image in page.all("img"))
    pictures = [a for a in page.all("div") if a.get("role") == "img"]
    assert len(pictures) == 2 * 6
    assert all(len(a["aria-label"]) > 40 for a in pictures)
    assert page.all("html") == [{"lang": "en"}]
    names = [a["id"] for _, a in page.tags if "id" in a]
    assert len(set(names)) == len(names)
    used = re.findall(r'(?:href="#|url\(#|for="|labelledby="|data-table=")([^")]+)', text)
    assert set(used) <= set(names)


def test_queries_that_find_nothing_say_why(tmp_path):
    run = example(N, M)
    result = estimate_ame(run.design, np.random.default_rng(0).normal(size=(M, 2)))
    page = Page(result.report(tmp_path / "none.html").read_text("utf-8"))
    assert "No source is shown to change the utility" in page.text
    for q in range(2):
        reason = result.select(0.1, q).reason
        assert reason
        assert reason[:1].upper() + reason[1:] in page.text


def test_a_selection_by_p_values_is_told_as_one(made, tmp_path):
    result = made[0].result
    text = Page(result.report(tmp_path / "p.html", method="bh-approximate").read_text("utf-8")).text
    found = result.select(0.1, method="bh-approximate")
    assert f"{found.statistic[found.indices[0]]:.3g}" in text
    assert "-log10 p" in text
    assert "Benjamini and Hochberg" in text
    assert "nockoff copies" not in text


def test_the_weaker_rate_is_not_told_for_the_stricter(made, tmp_path):
    text = Page(made[0].result.report(tmp_path / "k.html", method="knockoff", charted=0).read_text("utf-8")).text
    assert "at a false discovery rate of 0.1." in text
    assert "on average at most" not in text


def test_charts_are_drawn_of_as_many_queries_as_asked_for(made, tmp_path):
    page = Page(made[0].result.report(tmp_path / "few.html", charted=1).read_text("utf-8"))
    assert page.text.count("The competition with knockoff copies") == 1
    assert "Charts are drawn of the first 1." in page.text
    assert "Charts are drawn of" not in made[2].text


def test_failures_are_told(tmp_path):
    run = example(N, M)
    fails = np.asarray(run.design.masks())[:, 1]
    result = estimate_ame(run.design, np.where(fails[:, None], np.nan, run.utilities))
    page = Page(result.report(tmp_path / "failed.html").read_text("utf-8"))
    assert "Take care:" in page.text
    assert result.problems()[0].split("(")[0].strip() in page.text
    assert f"{fails.sum()} of {M} submodels failed" in page.text
    assert f"{fails.sum()} DIVERGED" in page.text


def test_contrasts_have_no_utilities_of_their_own(made, tmp_path):
    run = made[0]
    path = run.result.report(tmp_path / "c.html", design=run.design, utilities=run.utilities[:, :1])
    text = Page(path.read_text("utf-8")).text
    assert text.count("Submodels by the size of their subset") == 1
    assert text.count("The competition with knockoff copies") == 2


def test_curves_of_other_laws_are_over_the_range_of_p():
    design = sample_design(jax.random.key(1), TruncatedUniform(0.1), num_submodels=M, num_sources=N)
    masks = np.asarray(design.masks())
    curve = jaxame.effect_curve(design, masks[:, :1] * 2.0, [0, 3])
    chart = charts.curves(curve, 0, "margin")
    assert f"source 0: 2 at p = {curve.p[0]:.2g}, 2 at {curve.p[-1]:.2g}" in chart.alt
    assert chart.svg.startswith("<svg")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fdr": 1.5}, "needs fdr strictly between 0 and 1"),
        ({"charted": -1}, "needs charted to be an integer >= 0"),
        ({"alternative": "more"}, "needs alternative to be one of"),
        ({"utilities": np.zeros((M, 2))}, "needs both design and utilities, or neither"),
        ({"sources": Items(captions=["one"])}, f"needs {N} captions of sources; got 1"),
        ({"queries": Items(images=np.zeros((2, 4)))}, r"needs images of queries \[n, H, W\]"),
        ({"queries": ["one", "two"]}, "needs queries to be jaxame.types.Items"),
    ],
)
def test_bad_arguments_are_refused(made, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        made[0].result.report(tmp_path / "report.html", **options)
    assert list(tmp_path.iterdir()) == []


def test_what_a_game_tells_of_its_sources_and_queries():
    class Data:
        x = np.arange(4 * 3 * 2, dtype=np.float32).reshape(4, 3, 2)
        y = np.array([7, 7, 8, 9])
        source = np.array([1, 0, 1, 2])

    class Game:
        data = Data()

    found = items.items_of_sources(Game())
    assert list(found.captions) == ["label 7", "label 7, 2 examples", "label 9"]
    np.testing.assert_array_equal(found.images, Data.x[[1, 0, 3]])
    Game.source_items = Items(texts=["a", "b", "c"])
    assert items.items_of_sources(Game()).texts == ["a", "b", "c"]
    query = queries.logit_margin(Data.x, Data.y)
    Game.query = query
    found = items.items_of_queries(Game(), 4)
    assert list(found.captions) == query.names
    assert found.images.shape == (4, 3, 2)
    with_contrast = items.items_of_queries(Game(), 5)
    assert with_contrast.captions[4] == "contrast 0"
    assert with_contrast.images is None
    assert items.items_of_sources(object()).captions is None


@pytest.mark.parametrize(
    ("image", "wanted"),
    [
        (np.array([[0.0, 2.0]]), [[255, 255, 255], [0, 0, 0]]),
        (np.array([[-1.0, 1.0]]), [[255, 255, 255], [0, 0, 0]]),
        (np.zeros((1, 2)), [[255, 255, 255], [255, 255, 255]]),
        (np.array([[[1.0, 0.0, 0.0], [0.0, 0.5, 1.0]]]), [[255, 0, 0], [0, 128, 255]]),
        (np.array([[[0.0], [5.0]]]), [[255, 255, 255], [0, 0, 0]]),
    ],
)
def test_pictures_hold_their_pixels(image, wanted):
    address = items.picture(Items(images=image[None]), 0)
    assert address.startswith("data:image/png;base64,")
    pixels = imread(io.BytesIO(base64.b64decode(address.split(",")[1])), format="png")
    np.testing.assert_allclose(255 * pixels[0, :, :3], wanted, atol=1)


def test_long_texts_are_cut_and_kept():
    whole = "word " * 200
    start, rest = items.text(Items(texts=[whole, "short"]), 0)
    assert start == ("word " * 44).strip() + " ..."
    assert rest == whole
    assert items.text(Items(texts=[whole, "short"]), 1) == ("short", "")


def test_selections_from_fewer_submodels_are_those_of_a_shorter_design():
    run = example(N, M)
    ((number, selections),) = growth.selections(run.design, run.utilities, fdr=0.1, fractions=(0.5,))
    assert number == M // 2
    shorter = sample_design(run.key, Grid((0.3, 0.7)), num_submodels=number, num_sources=N)
    columns = np.abs(importance(shorter, run.utilities[:number]))
    for selection, own in zip(selections, columns, strict=True):
        wanted = knockoffs.select(own[0], 0.1)
        np.testing.assert_array_equal(selection.indices, wanted.indices)
        np.testing.assert_allclose(selection.statistic, wanted.statistic, atol=1e-3 * np.abs(wanted.statistic).max())


def test_what_is_selected_by_is_that_of_the_whole_estimate():
    run = example(N, M)
    np.testing.assert_allclose(importance(run.design, run.utilities), run.result.importance, atol=1e-6)


@pytest.mark.parametrize("fractions", [(0.0, 0.5), (0.5, 0.4), (0.5, 1.1), [[0.5]]])
def test_fractions_that_are_none_are_refused(fractions):
    run = example(N, M)
    with pytest.raises(ValueError, match="needs fractions of the rows, rising"):
        growth.selections(run.design, run.utilities, fractions=fractions)


def test_results_in_a_notebook(made):
    run = made[0]
    result, selection = run.result, run.result.select(0.1)
    page = Page(result._repr_html_() + selection._repr_html_())
    assert f"2 queries, {N} sources, {M} submodels (0 failed)" in page.text
    for source in selection.indices:
        assert f"{source} {selection.statistic[source]:.4g}" in page.text
    top = np.abs(result.values[0]).argmax()
    assert f"{top} ({result.values[0, top]:+.3g})" in page.text
    assert repr(selection) == f"<Selection at fdr=0.1: {selection.indices.tolist()} of {N}>"
    assert repr(result).startswith(f"<Attribution: 2 x {N} values of queries and sources, {M} submodels (0 failed)")
    nothing = result.select(1e-6)
    assert nothing.reason in Page(nothing._repr_html_()).text
    hostile = estimate_ame(run.design, run.utilities, about={"unit": HOSTILE})
    assert HOSTILE not in hostile._repr_html_()
