"""Reports in a real browser: Chromium without a screen. With JAXAME_REQUIRE_BROWSER=1 its absence is a failure."""

import base64
import os
import re
import shutil

import numpy as np
import pytest
from report_helpers import HOSTILE, example

from experiments.screenshots import open_chromium, view

N, M = 30, 400
WIDTHS = (1280, 820, 390)


@pytest.fixture(scope="module")
def browser():
    if not os.environ.get("JAXAME_REQUIRE_BROWSER"):
        pytest.importorskip("selenium")
        if not (shutil.which("chromium") and shutil.which("chromedriver")):
            pytest.skip("no chromium and chromedriver")
    chromium = open_chromium()
    yield chromium
    chromium.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    run = example(N, M)
    path = run.result.report(
        tmp_path_factory.mktemp("browser") / "report.html",
        alternative="greater",
        design=run.design,
        utilities=run.utilities,
        growth=run.growth,
        sources=run.sources,
        queries=run.queries,
        title=HOSTILE,
        facts={HOSTILE: HOSTILE},
        command=HOSTILE,
    )
    return path.as_uri()


@pytest.fixture
def page(browser, address):
    view(browser, 1280)
    browser.get(address)
    return browser


def find(page, selector):
    return page.find_elements("css selector", selector)


def column(page, number):
    """The values of a column of the first query's table, in the order shown."""
    script = (
        "return [...document.querySelectorAll('#table-0 tbody tr')].map(row => row.cells[arguments[0]].dataset.value)"
    )
    return np.array(page.execute_script(script, number), float)


def brightness(page, selector, kind):
    """Sum of the red, green and blue of a colour, each up to 255."""
    colour = page.execute_script(f"return getComputedStyle(document.querySelector('{selector}')).{kind}")
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def test_it_opens_without_errors(page):
    assert page.get_log("browser") == []
    assert len(find(page, "section.query")) == 2
    assert [each.get_attribute("open") for each in find(page, "section.query > details")] == ["true", None]
    drawn = page.execute_script("return [...document.querySelectorAll('#query-0 svg')].map(x => x.getBBox().width)")
    assert len(drawn) == 6
    assert min(drawn) > 100


def test_scripts_in_texts_are_texts(page):
    """No dialog is open, nothing was added to the page, and what the texts hold is what is seen."""
    assert len(find(page, "script")) == 1
    assert find(page, "img[src=x]") == []
    assert find(page, "h1")[0].text == page.title == HOSTILE
    assert HOSTILE in find(page, "#query-0 td.what")[list(column(page, 0)).index(0)].text
    assert HOSTILE in find(page, "pre")[0].text
    add = "const made = document.createElement('script'); made.text = 'window.ran = 1'; document.body.append(made)"
    page.execute_script(add)
    assert page.execute_script("return window.ran") is None, "the page's policy lets no script run but its own"


def test_tables_sort(page):
    source, selected, ame = 0, 2, 3
    buttons = find(page, "#table-0 th button")
    assert [button.text for button in buttons] == ["source", "selected", "AME", "statistic W"]
    start = column(page, ame)
    buttons[2].click()
    np.testing.assert_array_equal(column(page, ame), np.sort(start)[::-1])
    assert find(page, "#table-0 th[aria-sort]")[0].get_attribute("aria-sort") == "descending"
    buttons[2].click()
    np.testing.assert_array_equal(column(page, ame), np.sort(start))
    buttons[0].click()
    np.testing.assert_array_equal(column(page, source), np.sort(column(page, source))[::-1])
    assert len(find(page, "#table-0 th[aria-sort]")) == 1
    buttons[1].click()
    assert (np.diff(column(page, selected)) >= 0).all()


def test_tables_are_searched(page):
    search, rows = find(page, "#query-0 input")[0], find(page, "#table-0 tbody tr")
    search.send_keys("LABEL  1 post")
    shown = [row for row in rows if row.is_displayed()]
    assert 0 < len(shown) < len(rows)
    assert all("label 1" in row.text for row in shown)
    assert len(shown) == sum("label 1" in row.get_attribute("textContent") for row in rows)
    assert find(page, "#query-0 .count")[0].text == f"{len(shown)} of {len(rows)} sources"
    search.clear()
    search.send_keys("nothing like it")
    assert not any(row.is_displayed() for row in rows)
    search.clear()
    search.send_keys(" ")
    assert all(row.is_displayed() for row in rows)


def test_links_open_their_query(page):
    find(page, "a[href='#query-1']")[0].click()
    assert find(page, "#query-1 > details")[0].get_attribute("open") == "true"


def test_keys_reach_everything(page):
    """By Tab alone, in the order of the page; Enter opens and sorts."""
    from selenium.webdriver.common.keys import Keys

    reached = []
    for _ in range(60):
        page.switch_to.active_element.send_keys(Keys.TAB)
        now = page.switch_to.active_element
        if now.tag_name == "body":
            break
        reached.append(f"{now.tag_name} {now.get_attribute('class')}".strip())
        if now.tag_name == "button" and now.text == "AME":
            now.send_keys(Keys.ENTER)
            assert find(page, "#table-0 th[aria-sort]")[0].text.startswith("AME")
    assert reached[0] == "a skip"
    assert {"a", "button", "summary", "input", "div scroll", "pre"} <= set(reached)
    assert reached.count("summary") >= 2


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_every_width(page, address, width, dark):
    """Nothing sticks out but what scrolls by itself."""
    view(page, width, dark=dark)
    page.get(address)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    parts = "[...document.querySelectorAll('figure, .answer, h1, section')]"
    assert page.execute_script(f"return {parts}.every(part => part.getBoundingClientRect().right <= innerWidth)")
    ink, paper = (brightness(page, *what) for what in (("svg text", "fill"), ("body", "backgroundColor")))
    assert (ink - paper > 400) if dark else (paper - ink > 400)


def test_it_prints_with_every_query_open(page):
    printed = page.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")
    assert all(each.get_attribute("open") for each in find(page, "section.query > details"))
