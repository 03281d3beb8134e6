"""One picture of all that was measured: how far each claim lies from its margin, as an SVG."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from html import escape

from thalweg.lab.lesson.known import Known
from thalweg.lab.lesson.page.marks import COLOUR, SIGNS, number
from thalweg.lab.lesson.scale import Scale

WIDTH, ROW, TOP, FOOT = 960, 34, 40, 56
"""Pixels: of the picture, of a claim, above the first and below the last of them."""

LEFT, RIGHT = 430, 740
"""Between which pixels the axis lies; claims stand to the left of it, what was found to the right."""

TICKS = (-20, -5, -1, 0, 1, 5, 20)
"""Margins from the margin."""

REACH = 30
"""The last of them that has a place of its own."""

LETTERS = 54
"""Of a claim in a line."""

STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.small { font-size: 12px } .pale { fill: #6e7781 } .id { font-weight: 600 }
.grid { stroke: #d0d7de } .line { stroke: #6e7781; stroke-width: 1.5 }
.zone { fill: #0072b2; opacity: .08 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .pale { fill: #9198a1 } .grid { stroke: #3d444d }
}
"""


def picture(known: Sequence[Known]) -> str:
    """The picture: a row for each claim that was measured on seeds, what speaks for it on the right."""
    rows = [one for one in known if one.claim.scale is not None and math.isfinite(one.verdict.low)]
    bottom = TOP + ROW * len(rows)
    body = "\n".join([*_axis(bottom), *(line for i, one in enumerate(rows) for line in _row(one, i))])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + FOOT}" role="img">\n'
        f"<title>Each claim's effect with its 95 % interval, from its margin</title>\n"
        f"<style>{STYLE}</style>\n{body}\n</svg>\n"
    )


def from_margin(value: float, scale: Scale) -> float:
    """How many margins a value lies beyond the margin, on the side of the claim."""
    return (value - scale.margin) / abs(scale.margin)


def _place(margins: float) -> float:
    """Where that is drawn: evenly around 0, by logarithms far from it; what is beyond stands at the end."""
    share = (math.asinh(1.5 * margins) / math.asinh(1.5 * REACH) + 1) / 2
    return LEFT + (RIGHT - LEFT) * min(max(share, 0.0), 1.0)


def _axis(bottom: int) -> Iterator[str]:
    middle = _place(0)
    size = f'width="{RIGHT - middle:.1f}" height="{bottom - TOP}"'
    yield f'<rect class="zone" x="{middle:.1f}" y="{TOP}" {size}/>'
    for tick in TICKS:
        kind, x = "grid" if tick else "line", _place(tick)
        yield f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>'
        label = f"{tick:+d}".replace("-", "\N{MINUS SIGN}") if tick else "margin"
        yield _text(x, bottom + 18, label, "small pale", "middle")
    yield _text(middle - 8, TOP - 10, "\N{LEFTWARDS ARROW} against the claim", "small pale", "end")
    yield _text(middle + 8, TOP - 10, "as claimed \N{RIGHTWARDS ARROW}", "small pale")
    words = "margins beyond the smallest difference worth having, with 95 % intervals"
    yield _text((LEFT + RIGHT) / 2, bottom + 40, words, "small pale", "middle")


def _row(known: Known, place: int) -> Iterator[str]:
    verdict, scale = known.verdict, known.claim.scale
    if scale is None:
        return
    y = TOP + ROW * (place + 0.5)
    low, mean, high = (_place(from_margin(v, scale)) for v in (verdict.low, verdict.mean, verdict.high))
    colour = COLOUR[verdict.kind]
    yield _text(12, y + 4, known.claim.name, "id")
    lines = textwrap.wrap(known.claim.says, LETTERS)
    for i, line in enumerate(lines):
        yield _text(56, y + 4 + 15 * (i - (len(lines) - 1) / 2), line)
    yield f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/>'
    yield f'<circle cx="{mean:.1f}" cy="{y}" r="5.5" fill="{colour}"/>'
    yield _text(RIGHT + 16, y - 3, f"{SIGNS[verdict.kind]} {verdict.kind}", "small id", fill=colour)
    yield _text(RIGHT + 16, y + 12, number(known), "small pale")


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start", fill: str = "") -> str:
    own = f' style="fill: {fill}"' if fill else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}"{own}>{escape(words)}</text>'
