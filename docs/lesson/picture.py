"""Draws landscape.png from the landscapes that are kept beside it: python docs/lesson/picture.py.

Needs playwright and a Chromium.
"""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from thalweg.lab.lesson.landscape import WORKLOADS, read
from thalweg.lab.lesson.landscape.planes import planes
from thalweg.lab.showing.report.document import document, pictures, section

HERE = Path(__file__).parent

STYLE = """
.slider-container, figcaption, header, .switch, h2 { display: none }
figure h3 { min-height: 4.1em }
"""
"""What a still picture has no use for, and pictures that stand side by side."""

SLIDER = 72
"""Pixels below a picture that are empty without it."""


def draw(path: Path) -> None:
    """Writes the picture: a plane of each workload, side by side."""
    kept = [landscape for name in WORKLOADS if (landscape := read(HERE, name)) is not None]
    body = section("planes", "Planes", pictures([planes(landscape) for landscape in kept]))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page_file = Path(folder) / "page.html"
        page_file.write_text(document("", "", "", "", [body], style=STYLE), encoding="utf-8")
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1080, "height": 800}, device_scale_factor=1.5)
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-drawn]", timeout=120_000, state="attached")
        box = page.locator(".figures").bounding_box()
        assert box is not None
        page.screenshot(path=path, full_page=True, clip={**box, "height": box["height"] - SLIDER})
        browser.close()


if __name__ == "__main__":
    draw(HERE / "landscape.png")
