"""What marks a verdict: a word, a sign and a colour, of which any one is enough."""

import math
from collections.abc import Mapping
from html import escape

from thalweg.lab.lesson import wording
from thalweg.lab.lesson.judging import Kind, Verdict
from thalweg.lab.lesson.known import Known
from thalweg.lab.lesson.scale import Scale
from thalweg.lab.showing.figures.look import COLOURS, NEUTRAL
from thalweg.lab.showing.report.document import prose
from thalweg.lab.showing.report.table import NONE

SIGNS: Mapping[Kind, str] = {"supported": "✓", "refuted": "✕", "inconclusive": "?", "not run": NONE}

COLOUR: Mapping[Kind, str] = {
    "supported": COLOURS[0],
    "refuted": COLOURS[3],
    "inconclusive": NEUTRAL,
    "not run": NEUTRAL,
}
"""In pictures: blue and vermilion of Okabe and Ito, and grey."""


def badge(verdict: Verdict) -> str:
    """A verdict as HTML."""
    kind = verdict.kind
    sign = f'<span aria-hidden="true">{SIGNS[kind]}</span>'
    return f'<span class="verdict {kind.replace(" ", "-")}">{sign}{kind}</span>'


def anchor(claim: str) -> str:
    """The id of a claim on the page: ``S+1`` is ``s-plus-1``."""
    return claim.lower().replace("-", "-minus-").replace("+", "-plus-")


def link(claim: str, text: str = "") -> str:
    """A link to a claim."""
    return f'<a href="#{anchor(claim)}">{escape(text or claim)}</a>'


def number(known: Known) -> str:
    """The endpoint's mean as it is said; of what is counted or not run, nothing."""
    scale, mean = known.claim.scale, known.verdict.mean
    return "" if scale is None or math.isnan(mean) else scale.text(mean)


def details(verdict: Verdict, scale: Scale) -> list[str]:
    """Interval, margin, seeds and p, each in words."""
    if math.isnan(verdict.low):
        return [f"{verdict.seeds} seeds, too few for an interval", f"margin {scale.number(scale.margin)}"]
    return [
        " to ".join(map(scale.number, scale.ordered(verdict.low, verdict.high))),
        f"margin {scale.number(scale.margin)}",
        f"{verdict.seeds} seeds, p {wording.p_text(verdict.p_holm)}",
    ]


def found(known: Known) -> str:
    """The number with its interval, margin and seeds, as HTML in a cell."""
    if known.counted is not None:
        return f'counted<span class="range">{prose(known.counted.text)}</span>'
    if known.claim.scale is None or not number(known):
        return '<span class="range">no number yet</span>'
    beside = ", ".join(details(known.verdict, known.claim.scale))
    return f'<strong>{prose(number(known))}</strong><span class="range">{prose(beside)}</span>'


def paragraphs(*texts: str, kind: str = "") -> str:
    """Text as paragraphs; nothing of what is empty."""
    mark = f' class="{kind}"' if kind else ""
    return "".join(f"<p{mark}>{prose(text)}</p>" for text in texts if text)
