"""The examples of the documentation's pages."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent

EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.M | re.S)


def examples(page: str) -> list[str]:
    """Return the Python code of a page, block by block.

    Args:
        page: its path in the repository.
    """
    return EXAMPLE.findall((ROOT / page).read_text(encoding="utf-8"))


def run(code: str, name: str) -> None:
    """Run an example as a script of its own."""
    exec(compile(code, name, "exec"), {"__name__": "example"})
