"""Every public name is in the reference, and what is in the reference has a docstring, or the build ends."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import griffe
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

DOORS = (
    "thalweg",
    "thalweg.schedules",
    "thalweg.lab",
    "thalweg.lab.landscape",
    "thalweg.lab.workload.adapters",
)
"""Modules all of whose `__all__` is public."""

NAMED = re.compile(r"^::: (\S+)$", re.M)

log = logging.getLogger("mkdocs.hooks.reference")


def on_files(files: Files, *, config: MkDocsConfig) -> None:
    """Warn of what is missing, which ends a strict build."""
    import griffe

    root = Path(config.config_file_path).parent
    package = griffe.load("thalweg", search_paths=[root], resolve_aliases=True)
    for line in missing(package, named(Path(config.docs_dir))):
        log.warning(line)


def named(docs: Path) -> set[str]:
    """Return what the pages of the reference have, by dotted paths."""
    pages = sorted(docs.glob("api/*.md"))
    return {name for page in pages for name in NAMED.findall(page.read_text(encoding="utf-8"))}


def missing(package: griffe.Module, shown: set[str]) -> Iterator[str]:
    """Yield a line for each public name that no page has, and for each without a docstring.

    Args:
        package: thalweg.
        shown: what pages have, by dotted paths; a module stands for its public names.
    """
    for door in DOORS:
        module = package if door == "thalweg" else package[door.removeprefix("thalweg.")]
        for name in _exports(module):
            if door not in shown and f"{door}.{name}" not in shown:
                yield f"{door}.{name} is in no page of docs/api"
    for path in sorted(shown):
        yield from _undocumented(package[path.removeprefix("thalweg.")] if "." in path else package, path)


def _exports(module: griffe.Object | griffe.Alias) -> list[str]:
    """Return what a module says is public; what begins with an underscore (its version) explains itself."""
    return [str(name) for name in module.exports or () if not str(name).startswith("_")]


def _undocumented(found: griffe.Object | griffe.Alias, path: str) -> Iterator[str]:
    if found.docstring is None:
        yield f"{path} has no docstring"
        return
    yield from _strange(found, path)
    if found.is_module:
        for name in _exports(found):
            yield from _undocumented(found[name], f"{path}.{name}")
    if found.is_class:
        for name, member in found.all_members.items():
            public = not name.startswith("_") and member.is_function
            if public and not member.has_docstring and not _overrides(found, name):
                yield f"{path}.{name} has no docstring"


def _strange(found: griffe.Object | griffe.Alias, path: str) -> Iterator[str]:
    """Yield a line for each argument that a docstring describes and a signature has not."""
    signature = {parameter.name.lstrip("*") for parameter in getattr(found, "parameters", ())}
    for section in found.docstring.parse("google", warnings=False) if found.docstring else ():
        if section.kind.value == "parameters":
            names = {name.lstrip("*") for item in section.value for name in item.name.split(", ")}
            for name in sorted(names - signature):
                yield f"{path} describes {name}, which it does not take"


def _overrides(found: griffe.Object | griffe.Alias, name: str) -> bool:
    """Say whether a base class documents a method of this name."""
    return any(name in base.members and base.members[name].has_docstring for base in found.mro())
