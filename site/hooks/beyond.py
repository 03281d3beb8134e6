"""Links that leave the pages: what they lead to in the repository becomes a part of the site.

Pages link to each other, and to files of the repository, by relative paths, as a repository shows them. A
file that is no page is published below `repository/`: Markdown as a page, code as a page that shows it, all
else as it is.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

IN_MENU = ("CONTRIBUTING.md", "CHANGELOG.md")
"""Files of the repository that `nav` names, and so are published whether a page links to them or not."""

SHOWN = {".py": "python", ".toml": "toml", ".yml": "yaml", ".sh": "bash", "": "make"}
"""Code, which is shown as a page, by suffix."""

LINK = re.compile(r"(\]\()([^)\s]+)(\))")
FENCE = re.compile(r"^(```|~~~).*?^\1[ \t]*$", re.M | re.S)
ELSEWHERE = re.compile(r"^([a-z]+:|//|#)")

_uris: dict[Path, str] = {}
"""Where each file that a link may lead to lies in the site."""


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Publish what pages link to, and what that links to in turn."""
    root = Path(config.config_file_path).parent.resolve()
    _uris.clear()
    for file in files:
        if file.abs_src_path is not None and file.inclusion.is_included():
            _uris[Path(file.abs_src_path).resolve()] = file.src_uri
    waiting = [path for path in _uris if path.suffix == ".md"]
    waiting += [_publish(root / name, root, files, config, InclusionLevel.INCLUDED) for name in IN_MENU]
    while waiting:
        origin = waiting.pop()
        for target in map(_path, _links(origin.read_text(encoding="utf-8"))):
            path = (origin.parent / target).resolve()
            if path not in _uris and path.is_file() and path.is_relative_to(root):
                _publish(path, root, files, config, InclusionLevel.NOT_IN_NAV)
                if path.suffix == ".md":
                    waiting.append(path)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links lead to where things lie in the site; what is nowhere is left, and MkDocs tells it."""
    if page.file.abs_src_path is None:
        return markdown
    folder = Path(page.file.abs_src_path).resolve().parent
    here = posixpath.dirname(page.file.src_uri)

    def led(match: re.Match[str]) -> str:
        link = match[2]
        uri = None if ELSEWHERE.match(link) else _uris.get((folder / _path(link)).resolve())
        if uri is None:
            return match[0]
        _, mark, anchor = link.partition("#")
        return f"{match[1]}{posixpath.relpath(uri, here or '.')}{mark}{anchor}{match[3]}"

    return _outside_code(markdown, lambda text: LINK.sub(led, text))


def _publish(path: Path, root: Path, files: Files, config: MkDocsConfig, inclusion: InclusionLevel) -> Path:
    uri = f"repository/{path.relative_to(root).as_posix()}"
    if path.suffix in SHOWN:
        uri = f"{uri}.md"
        shown = f"# {path.name}\n\n``` {SHOWN[path.suffix]}\n{path.read_text(encoding='utf-8')}```\n"
        files.append(File.generated(config, uri, content=shown, inclusion=inclusion))
    else:
        files.append(File.generated(config, uri, abs_src_path=str(path), inclusion=inclusion))
    _uris[path] = uri
    return path


def _links(markdown: str) -> Iterator[str]:
    for match in LINK.finditer(FENCE.sub("", markdown)):
        if not ELSEWHERE.match(match[2]):
            yield match[2]


def _path(link: str) -> str:
    return unquote(link.partition("#")[0])


def _outside_code(markdown: str, change) -> str:  # type: ignore[no-untyped-def]
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])
