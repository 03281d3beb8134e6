"""Docstrings are written for `help()`, with Sphinx's marks for formulas and code, which become Markdown's."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

ROLE = re.compile(r":math:`([^`]*)`")
BLOCK = re.compile(
    r"^(?P<indent> *)\.\. (?P<kind>math|code-block)::[ ]*(?P<first>[^\n]*)\n"
    r"(?P<body>(?:(?P=indent) +[^\n]*\n|[ ]*\n)+)",
    re.M,
)


class Markdown(griffe.Extension):
    """Rewrites each docstring as it is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(docstring: str) -> str:
    """Return a docstring with Markdown's marks.

    >>> markdown(":math:`x`")
    '$x$'
    """
    text = BLOCK.sub(_block, docstring if docstring.endswith("\n") else f"{docstring}\n")
    return ROLE.sub(lambda match: f"${match[1]}$", text).rstrip("\n")


def _block(match: re.Match[str]) -> str:
    body = textwrap.dedent(match["body"]).strip("\n")
    if match["kind"] == "code-block":
        block = f"```{match['first']}\n{body}\n```"
    else:
        formula = f"{match['first']}\n{body}".strip()
        lines = f"\\begin{{align*}}\n{formula}\n\\end{{align*}}" if "&" in formula else formula
        block = f"$$\n{lines}\n$$"
    return f"\n{textwrap.indent(block, match['indent'])}\n\n"
