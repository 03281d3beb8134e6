"""Examples of the documentation that need other packages run where these are installed."""

from __future__ import annotations

import pytest
from pages import examples, run

PAGES = {
    "docs/coming-from-bitsandbytes.md": "bitsandbytes",
    "docs/coming-from-schedule-free.md": "schedulefree",
    "docs/coming-from-timm.md": "timm",
    "docs/compatibility.md": "timm",
}
BLOCKS = [(page, place, block) for page in PAGES for place, block in enumerate(examples(page))]


@pytest.mark.parametrize(("page", "place", "block"), BLOCKS, ids=[f"{page}-{i}" for page, i, _ in BLOCKS])
def test_an_example_runs(page, place, block):
    if PAGES[page] in block:
        pytest.importorskip(PAGES[page], exc_type=ImportError)
    run(block, f"{page}, example {place}")
