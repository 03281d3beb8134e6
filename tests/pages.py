"""The examples of the documentation's pages, and the checks of its site."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent

HOOKS = ROOT / "site/hooks"

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


def hook(name: str) -> ModuleType:
    """Return a hook of the site as a module."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", HOOKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
