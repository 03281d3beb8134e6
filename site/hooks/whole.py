"""What was built is whole: links, pictures, scripts and styles lead somewhere, none to another server.

MkDocs checks the links of Markdown. This looks at the pages as a browser gets them: menus, docstrings, HTML
and theme too.
"""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority, get_plugin_logger
from mkdocs.structure.files import Files

LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "srcset")}
"""What a browser fetches by itself."""

NEVER_FETCHED = {"canonical", "next", "prev", "alternate"}
"""Relations of a `link` that only say something."""

log = get_plugin_logger(__name__)
_pages: list[str] = []


def on_env(env: object, *, config: MkDocsConfig, files: Files) -> None:
    """Remember which pages are ours: a report that is shown as it is stands for itself."""
    _pages[:] = [file.dest_uri for file in files.documentation_pages()]


@event_priority(-100)
def on_post_build(*, config: MkDocsConfig) -> None:
    """Warn of each reference that leads nowhere, which ends a strict build."""
    site = Path(config.site_dir)
    read = {site / name: _Page(site / name) for name in _pages}
    for path, page in read.items():
        for tag, attribute, value in page.references:
            if said := _wrong(site, path, tag, attribute, value, read):
                log.warning(f"{path.relative_to(site)}: <{tag} {attribute}={value!r}> {said}")


class _Page(HTMLParser):
    """Names and references of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.references: list[tuple[str, str, str]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Note one element."""
        found = dict(attributes)
        self.names.update(value for key in ("id", "name") if (value := found.get(key)))
        if tag == "link" and found.get("rel") in NEVER_FETCHED:
            return
        for key in ("href", "src", "srcset"):
            if value := found.get(key):
                self.references.append((tag, key, value))


def _wrong(site: Path, path: Path, tag: str, attribute: str, value: str, read: dict[Path, _Page]) -> str:
    """Say what is wrong with a reference, or nothing."""
    parts = urlsplit(value)
    if parts.scheme or parts.netloc:
        is_fetched = (tag, attribute) in LOADED and parts.scheme != "data"
        return "comes from another server" if is_fetched else ""
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.is_file() or not target.is_relative_to(site):
        return "leads nowhere"
    anchor = unquote(parts.fragment)
    if anchor and target in read and anchor not in read[target].names:
        return f"has no such anchor in {target.relative_to(site)}"
    return ""
