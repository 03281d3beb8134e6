"""Formulas as MathML, which browsers set by themselves: without a script, a font or a network."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.S)
DISPLAYED = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.S)


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Set what `pymdownx.arithmatex` has marked.

    Raises:
        PluginError: something that the converter does not know, which it would print.
    """

    def inline(match: re.Match[str]) -> str:
        return _set(match[1], "inline", page)

    def displayed(match: re.Match[str]) -> str:
        return f'<div class="formula">{_set(match[1], "block", page)}</div>'

    return DISPLAYED.sub(displayed, INLINE.sub(inline, content))


def _set(formula: str, display: str, page: Page) -> str:
    formula = html.unescape(formula).strip()
    mathml = convert(formula, display=display)
    if unknown := re.search(r"\\[a-zA-Z]+|<mi>&</mi>", mathml):
        raise PluginError(f"{page.file.src_uri}: {unknown[0]} is unknown in the formula {formula!r}")
    return mathml
