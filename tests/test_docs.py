"""The documentation: examples run as they stand there, and every page is in the site's menu."""

from __future__ import annotations

import re
from pkgutil import resolve_name

import pytest
from pages import ROOT, examples, hook, run

JOINED = ("docs/adding-an-optimizer.md", "docs/adding-an-addition.md", "docs/adding-a-claim.md")
"""Pages whose examples are pieces of one."""

FRAGMENTS = (
    "docs/architecture.md",
    "docs/gpu.md",
    "docs/lightning.md",
    "docs/storage.md",
    "docs/train-function.md",
    "docs/training.md",
    "docs/transformers.md",
    "docs/your-own-task.md",
)
"""Pages that show pieces of what stands whole elsewhere, in `examples` or a template, or needs a GPU."""

ELSEWHERE = (
    "docs/coming-from-bitsandbytes.md",
    "docs/coming-from-schedule-free.md",
    "docs/coming-from-timm.md",
    "docs/compatibility.md",
)
"""Pages that need other packages: `tests/integrations/test_pages.py`."""

PAGES = [path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]]
BLOCKS = [
    (page, place, block)
    for page in PAGES
    if page not in {*JOINED, *FRAGMENTS, *ELSEWHERE}
    for place, block in enumerate(examples(page))
]


@pytest.mark.parametrize(("page", "place", "block"), BLOCKS, ids=[f"{page}-{i}" for page, i, _ in BLOCKS])
def test_an_example_runs(page, place, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(block, f"{page}, example {place}")


@pytest.mark.parametrize("page", JOINED)
def test_examples_that_are_put_together_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run("".join(examples(page)), page)


def test_pages_that_are_left_out_are_there():
    assert set(PAGES) >= {*JOINED, *FRAGMENTS, *ELSEWHERE}


def test_every_page_is_in_the_menu_of_the_site():
    menu = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    named = set(re.findall(r"[\w/-]+\.md", menu))
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    assert pages - named == set(), "a page that is in no menu is found by nobody: see nav in mkdocs.yml"
    assert {name for name in named - pages if not name.startswith("repository/")} == set()


def test_every_public_name_is_in_the_reference():
    reference = hook("reference")
    shown = reference.named(ROOT / "docs")
    for door in reference.DOORS:
        names = {name for name in resolve_name(door).__all__ if not name.startswith("_")}
        assert door in shown or {f"{door}.{name}" for name in names} <= shown
