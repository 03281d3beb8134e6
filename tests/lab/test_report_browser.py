"""Clicks through a report in a real browser."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from samples import study

from thalweg.lab.judging.verdict import judge
from thalweg.lab.showing import results
from thalweg.lab.showing.report import render
from thalweg.lab.showing.result import Result

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

SGD = [90.0, 90.5, 91.0, 90.2, 90.7, 90.4, 90.1, 90.9]
TESTS = {"sgd": SGD, "adamw": [value + 1 for value in SGD], "adam": [*SGD[:-1], None]}
PROVENANCE = results.Provenance(datetime(2026, 1, 2, tzinfo=UTC), 60, 2, {"torch": "2.11"}, task="scores")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def made():
    return study(TESTS)


@pytest.fixture(scope="module")
def file(made, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(made, judge(made), PROVENANCE), encoding="utf-8")
    return path


@pytest.fixture
def visit(browser, file) -> Iterator:
    """Opens the report and waits until it has drawn; complaints of the page fail the test."""
    contexts, complaints = [], []

    def visit(path: Path = file, *, drawn: bool = True, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("request", lambda r: complaints.append(r.url) if not r.url.startswith(LOCAL) else None)
        page.goto(path.as_uri())
        if drawn:
            page.wait_for_selector("html[data-drawn]", timeout=300_000)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


LOCAL = ("file:", "data:", "blob:")


def column(page, number: int) -> list[str]:
    cells = page.locator(f"#trials tbody tr:not([hidden]) > :nth-child({number})")
    return cells.all_inner_texts()


def test_all_pictures_are_drawn(visit):
    page = visit()
    for picture in page.locator(".view:not([hidden]) .picture").all():
        assert picture.locator("svg.main-svg").count() >= 1
        assert picture.locator(".scatterlayer .trace, .barlayer .trace").count() >= 1
        assert picture.bounding_box()["height"] > 150
    assert page.locator("figure").count() == 8
    assert page.locator(".fallback").count() == 0


def test_curves_switch_between_steps_and_seconds(visit):
    curves = visit().locator("#curves")
    steps, seconds = curves.get_by_role("button", name="steps"), curves.get_by_role("button", name="seconds")
    assert steps.get_attribute("aria-pressed") == "true"
    seconds.click()
    assert (steps.get_attribute("aria-pressed"), seconds.get_attribute("aria-pressed")) == ("false", "true")
    assert curves.locator(".xtitle:visible").all_text_contents() == ["seconds of training"]
    steps.click()
    assert curves.locator(".xtitle:visible").all_text_contents() == ["optimizer steps"]


def test_trials_are_sorted_by_keyboard_and_say_so(visit, made):
    page = visit()
    head = page.locator("#trials thead th").nth(6)
    button = head.get_by_role("button")
    button.focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    values = column(page, 7)
    numbers = [float(value) for value in values if value]
    assert numbers == sorted(numbers)
    assert values[-1] == "", "a failed run comes last"
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    values = column(page, 7)
    numbers = [float(value) for value in values if value]
    assert numbers == sorted(numbers, reverse=True)
    assert values[-1] == ""
    page.locator("#trials thead th").nth(0).get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "none"
    assert column(page, 1) == [str(number) for number in range(len(made.records))]


def test_trials_are_filtered(visit, made):
    page = visit()
    page.locator("select[name=optimizer]").select_option("AdamW")
    page.locator("select[name=stage]").select_option("final")
    assert page.get_by_role("status").inner_text() == f"8 of {len(made.records)} runs"
    assert set(column(page, 3)) == {"AdamW"}
    assert set(column(page, 2)) == {"final"}
    page.locator("select[name=optimizer]").select_option("all")
    page.locator("select[name=stage]").select_option("all")
    assert page.get_by_role("status").inner_text() == f"{len(made.records)} runs"


def test_the_line_is_copied(visit, made):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.locator(".paste").first.get_by_role("button", name="Copy").click()
    page.locator(".paste").first.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == judge(made).code[0]


def test_a_phone_scrolls_down_only(visit):
    page = visit(viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for figure in page.locator("figure").all():
        box = figure.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]


def fill(page, mark: str) -> str:
    return page.evaluate("mark => getComputedStyle(document.querySelector(mark)).fill", mark)


def test_dark_and_light_follow_the_system(visit):
    page = visit(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    dark = fill(page, "#memory .barlayer path")
    page.emulate_media(color_scheme="light")
    page.wait_for_function(
        f"getComputedStyle(document.querySelector('#memory .barlayer path')).fill != '{dark}'"
    )
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_paper_is_light_and_shows_both_views(visit):
    page = visit(color_scheme="dark")
    light = {"#0072b2": "rgb(0, 114, 178)", "#e69f00": "rgb(230, 159, 0)", "#009e73": "rgb(0, 158, 115)"}
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function("document.querySelector('#memory svg.main-svg').clientWidth <= 690")
    assert fill(page, "#memory .barlayer path") in light.values()
    assert page.locator("#curves .view:visible").count() == 2
    assert page.locator("details:not([open])").count() == 0
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def test_without_scripts_all_tables_can_be_read(visit, made):
    page = visit(java_script_enabled=False, drawn=False)
    assert page.locator("#trials tbody tr").count() == len(made.records)
    assert page.locator("#ranking tbody tr").count() == 3
    assert page.locator(".fallback").first.is_visible()
    assert page.locator("button").count() == 0


def test_an_old_browser_gets_the_tables_and_a_sentence(browser, file):
    page = browser.new_page()
    page.add_init_script("delete globalThis.DecompressionStream")
    page.goto(file.as_uri())
    page.wait_for_selector("html:not(.scripted)")
    assert page.locator(".fallback").first.is_visible()
    page.locator("select[name=stage]").select_option("final")
    page.close()


def test_a_notebook_shows_it_in_a_frame(visit, made, tmp_path):
    path = tmp_path / "notebook.html"
    html = Result(made, judge(made), PROVENANCE)._repr_html_()
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{html}", encoding="utf-8")
    page = visit(path, drawn=False)
    frame = page.frame_locator("iframe")
    frame.locator("html[data-drawn]").wait_for(timeout=300_000, state="attached")
    assert frame.locator("h1").inner_text() == judge(made).headline
    assert frame.locator("#curves svg.main-svg").count() >= 1
