"""Links that are called by a file's name are called by the title of its page, as the menu has it."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

NAMED = re.compile(r"\[`?[\w./-]+\.md`?\]\(([^)#\s]+)(#[^)\s]*)?\)")
HEADING = re.compile(r"^# (.+)$", re.M)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Replace the names; where they lead is left as it is."""
    titles = dict(_titles(config.nav))
    folder = posixpath.dirname(page.file.src_uri)

    def titled(match: re.Match[str]) -> str:
        uri = posixpath.normpath(posixpath.join(folder, match[1]))
        target = files.get_file_from_path(uri)
        if target is None:
            return match[0]
        heading = HEADING.search(target.content_string)
        title = titles.get(uri) or (heading[1] if heading else uri)
        return f"[{title}]({match[1]}{match[2] or ''})"

    return NAMED.sub(titled, markdown)


def _titles(entry: Any) -> Iterator[tuple[str, str]]:
    """Yield pages of a menu that have a title there."""
    if isinstance(entry, list):
        for part in entry:
            yield from _titles(part)
    if isinstance(entry, dict):
        for title, part in entry.items():
            if isinstance(part, str):
                yield part, title
            else:
                yield from _titles(part)
