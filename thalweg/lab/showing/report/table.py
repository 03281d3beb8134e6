"""A table as HTML that can be read without any script; and the key to an optimizer's colour."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from thalweg.lab.showing.figures.look import COLOURS, DARK, look
from thalweg.lab.spaces import Space
from thalweg.lab.study.study import Study

NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """A cell of a table: ready HTML, and the value it is sorted by where that is not its text."""

    html: str
    value: float | str | None = None
    kind: str = ""

    def render(self, tag: str = "td") -> str:
        """The cell as HTML."""
        scope = ' scope="row"' if tag == "th" else ""
        kind = f' class="{self.kind}"' if self.kind else ""
        value = "" if self.value is None else f' data-value="{escape(str(self.value))}"'
        return f"<{tag}{scope}{kind}{value}>{self.html}</{tag}>"


@dataclass(frozen=True)
class Line:
    """A row of a table; its first cell is its heading."""

    cells: Sequence[Cell]
    kind: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)

    def render(self) -> str:
        """The row as HTML."""
        first, *others = self.cells
        attributes = "".join(f' {name}="{escape(value)}"' for name, value in self.attributes.items())
        kind = f' class="{self.kind}"' if self.kind else ""
        return f"<tr{kind}{attributes}>{first.render('th')}{''.join(map(Cell.render, others))}</tr>"


def table(name: str, caption: str, head: Sequence[Cell], lines: Iterable[Line], *, kind: str = "") -> str:
    """A table in a box that it may scroll in."""
    header = "".join(cell.render("th").replace('scope="row"', 'scope="col"') for cell in head)
    body = "\n".join(line.render() for line in lines)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table id="{name}" class="{kind}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{header}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def named(study: Study, space: Space) -> str:
    """An optimizer's name with the key to its colour."""
    key = [other.name for other in study.spaces].index(space.name)
    # A path that is too long for a phone breaks after its dots.
    title = escape(space.title).replace(".", ".<wbr>")
    return f'<span class="name"><i class="key k{key}"></i><span>{title}</span></span>'


def key_colours(study: Study) -> str:
    """The style sheet of the keys, on a light page, on paper and on a dark page."""
    light = [look(study, space).colour for space in study.spaces]
    dark = [DARK[COLOURS.index(colour)] for colour in light]
    return f"{_keys(light)}\n@media screen and (prefers-color-scheme: dark) {{\n{_keys(dark)}\n}}"


def _keys(colours: Sequence[str]) -> str:
    return "\n".join(f".k{place} {{ background: {colour}; }}" for place, colour in enumerate(colours))
