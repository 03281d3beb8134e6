"""Imports run one way, and what is below knows nothing of what is above."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import thalweg as tw

ROOT = Path(tw.__file__).parent

LAYERS = [
    {"cli"},
    {"lab", "bench"},
    {"footprint"},
    {"algorithms"},
    {"optimizer"},
    {"checkpoint", "stepper"},
    {"pool"},
    {"plan"},
    {"batches"},
    {"engines"},
    {"member", "settings", "state", "rows", "stall"},
    {"lowering"},
    {"chunks", "storage"},
    {"codecs"},
    {"rule", "files", "scaling", "layout"},
]
"""From the top down. A module imports from layers below its own, and a package from itself."""

LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return the names directly under `thalweg` that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            if node.module != "thalweg":
                modules = [node.module]
        found |= {m.split(".")[1] for m in modules if m.startswith("thalweg.")}
    return found


FILES = [path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT or path.stem[0] != "_"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_down(path):
    own = name_of(path)
    assert own in LEVEL, f"{own} has no place in the order of layers"
    package = (ROOT / own).is_dir()
    for other in imported(path):
        if other.startswith("_version") or (other == own and package):
            continue
        if own in ("cli", "lab", "bench") and other in tw.__all__:
            continue  # they use the public names
        assert LEVEL[own] < LEVEL[other], f"{own} imports {other}"


def test_algorithms_see_the_optimizer_and_the_vocabulary_only():
    for path in (ROOT / "algorithms").glob("*.py"):
        assert imported(path) <= {"optimizer", "rule", "algorithms"}, path.name


def test_algorithms_know_no_storage():
    for path in (ROOT / "algorithms").glob("*.py"):
        text = ast.unparse(without_docstrings(ast.parse(path.read_text())))
        assert not re.search(r"\b(float32|bfloat16|data_ptr|stride|numpy|llvm)\b", text), path.name


def test_what_is_below_knows_no_algorithm_by_name():
    names = {name.lower() for name in tw.__all__ if name[0].isupper()} - {"optimizer"}
    for layer in LAYERS[LEVEL["optimizer"] :]:
        for path in FILES:
            if name_of(path) in layer and name_of(path) != "rule":
                code = ast.unparse(without_docstrings(ast.parse(path.read_text())))
                words = set(re.findall(r"[a-z]+", code.lower()))
                assert not words & names, f"{path.name} names {words & names}"


def without_docstrings(tree: ast.AST) -> ast.AST:
    """Drop prose; comments are not in the tree to begin with."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [
                x for x in body if not (isinstance(x, ast.Expr) and isinstance(x.value, ast.Constant))
            ] or [ast.Pass()]
    return tree
