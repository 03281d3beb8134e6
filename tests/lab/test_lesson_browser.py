"""The page of the lesson in a real browser."""

import shutil
from collections.abc import Iterator

import pytest

from thalweg.lab.lesson import landscape
from thalweg.lab.lesson.command import IN_CHECKOUT
from thalweg.lab.lesson.known import look
from thalweg.lab.lesson.page import render

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEPT = landscape.read(IN_CHECKOUT, "digits")
pytestmark = pytest.mark.skipif(CHROMIUM is None or KEPT is None, reason="needs chromium and the checkout")

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator:
    """The page with the landscapes of the checkout and without records, on a phone."""
    path = tmp_path_factory.mktemp("lesson") / "index.html"
    known = look(path.parent)
    path.write_text(render(known, landscape.figures(IN_CHECKOUT)), encoding="utf-8")
    complaints = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport=PHONE)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn]", timeout=300_000, state="attached")
        yield page
        browser.close()
    assert complaints == []


def test_a_phone_scrolls_down_only(page):
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for part in page.locator("figure, article, .maths, #claims").all():
        box = part.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]


def test_the_slider_moves_the_marks(page):
    plot = "document.querySelector('#planes-digits .js-plotly-plot')"
    before = page.evaluate(f"{plot}.data.slice(-3).map(trace => trace.x[0])")
    page.evaluate(f"Plotly.restyle({plot}, ...{plot}.layout.sliders[0].steps[0].args)")
    after = page.evaluate(f"{plot}.data.slice(-3).map(trace => trace.x[0])")
    assert before == pytest.approx([path[-1][0] for path in KEPT.views[0].paths.values()], rel=1e-4)
    assert after == pytest.approx([0, 0, 0], abs=1e-6)


def test_formulas_are_set_by_the_browser(page):
    for formula in page.locator("math[display=block]").all():
        assert formula.bounding_box()["height"] > 10
    assert page.locator("math[display=block]").count() == 9
