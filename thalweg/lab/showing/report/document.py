"""What every page has in common: one HTML file with its style, its script and Plotly's, and pictures."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template

from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.look import COLOURS, DARK
from thalweg.lab.showing.report.library import plotly

FALLBACK = "The picture needs scripts, and a browser of 2023 or later; what it shows is in the tables."


def document(
    command: str,
    headline: str,
    lead: str,
    conditions: str,
    sections: Iterable[str],
    *,
    title: str = "",
    style: str = "",
    code: str = "",
    notes: str = "",
) -> str:
    """A whole page as text.

    Args:
        command: what gave it, to stand above the headline.
        headline: the answer.
        lead: the answer in a sentence.
        conditions: under which it holds.
        sections: what follows, ready HTML.
        title: of the window; by default the headline.
        style: more rules for the style sheet.
        code: ready HTML after the conditions.
        notes: likewise, after the code.
    """
    library = plotly()
    return Template(_resource("page.html")).substitute(
        title=escape(title or headline),
        command=escape(command),
        headline=escape(headline),
        sentence=prose(lead),
        conditions=prose(conditions),
        style=_resource("page.css") + style,
        script=_resource("page.js"),
        dark=json.dumps(dict(zip(COLOURS, DARK, strict=True))),
        library=library.text,
        library_bytes=library.compressed,
        code=code,
        notes=notes,
        sections="\n".join(filter(None, sections)),
    )


def _resource(name: str) -> str:
    return files("thalweg.lab.showing.report").joinpath(name).read_text(encoding="utf-8")


def section(name: str, title: str, *parts: str) -> str:
    """A section of the page; nothing where there is nothing to show."""
    body = "\n".join(filter(None, parts))
    if not body:
        return ""
    heading = f'<h2 id="{name}-title">{escape(title)}</h2>'
    return f'<section aria-labelledby="{name}-title">{heading}\n{body}\n</section>'


def prose(text: str) -> str:
    """Text as HTML, in which a number and its percent sign stay on one line."""
    return escape(text).replace(" %", "&nbsp;%")


def definitions(facts: Mapping[str, str]) -> str:
    """Terms, each with what is to be said of it."""
    items = (f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>\n" for term, text in facts.items())
    return f"<dl>{''.join(items)}</dl>"


def pictures(figures: Sequence[Figure]) -> str:
    """The pictures, two beside each other where the page is wide; nothing where there are none."""
    return f'<div class="figures">{"".join(map(_figure, figures))}</div>' if figures else ""


def _figure(figure: Figure) -> str:
    views = "\n".join(_view(figure, name) for name in figure.views)
    kind = ' class="wide"' if figure.wide else ""
    return (
        f'<figure id="{figure.name}"{kind}><h3>{prose(figure.title)}</h3>\n{views}\n'
        f"<figcaption>{prose(figure.caption)}</figcaption></figure>\n"
    )


def _view(figure: Figure, name: str) -> str:
    plot = figure.views[name]
    label = f"{figure.title} ({name})" if name else figure.title
    # "<" is escaped, so that no text inside can end the element.
    data = plot.to_json().replace("<", "\\u003c")
    return (
        f'<div class="view" data-view="{name}"><div class="picture" role="img" '
        f'style="min-height:{plot.layout.height}px" aria-label="{escape(label)}">'
        f'<p class="fallback">{FALLBACK}</p></div>'
        f'<script type="application/json">{data}</script></div>'
    )
