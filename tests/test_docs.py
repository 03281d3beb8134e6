"""The examples of the documentation run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
PAGES = ("README.md", "docs/additions.md", "docs/in-backward.md", "docs/rate.md", "docs/sparse.md")
BLOCKS = [
    (page, i, block) for page in PAGES for i, block in enumerate(EXAMPLE.findall((ROOT / page).read_text()))
]


@pytest.mark.parametrize(("page", "place", "block"), BLOCKS, ids=[f"{page}-{i}" for page, i, _ in BLOCKS])
def test_an_example_runs(page, place, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, f"{page}, example {place}", "exec"), {"__name__": "example"})
