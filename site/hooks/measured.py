"""What the lesson has measured, where a page names a claim: computed from the records when the site is built.

In `PAGES` a link such as `[S-3](lesson/README.md)` becomes, in a row of a table, what follows from the
verdict on that claim, and in an item of a list verdict and numbers too; `<!-- figure -->` becomes a picture
of all intervals. A repository shows the links as they are, to the table of all claims.
"""

from __future__ import annotations

import html
import math
import re
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from thalweg.lab.lesson import wording
from thalweg.lab.lesson.known import Known, look
from thalweg.lab.lesson.page.advice import RULES, follows

PAGES = ("how-to-choose.md",)

CLAIM = re.compile(r"\[([SAREG][+-]?\d)\]\((lesson/README\.md)\)")
REMEDIES = re.compile(r"^- remedies of " + CLAIM.pattern + "$", re.M)

FIGURE = "<!-- figure -->"

OPEN = {"not run": "not measured yet", "inconclusive": "open"}

TICKS = (-30, -10, -3, -1, 0, 1, 3, 10, 30)
"""In margins. The axis is an inverse hyperbolic sine: even around zero, and logarithmic far from it."""


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in what is known.

    Raises:
        PluginError: the page names a claim that there is not.
    """
    if page.file.src_uri not in PAGES:
        return markdown
    known = _known(Path(config.docs_dir) / "lesson")
    if strange := {match[1] for match in CLAIM.finditer(markdown)} - known.keys():
        raise PluginError(f"{page.file.src_uri} names the claims {sorted(strange)}, which there are not")
    markdown = markdown.replace(FIGURE, _figure(list(known.values())))
    markdown = REMEDIES.sub(lambda match: _remedies(known[match[1]]), markdown)
    return "\n".join(
        CLAIM.sub(lambda match, line=line: _said(known[match[1]], match, line), line)
        for line in markdown.split("\n")
    )


@cache
def _known(folder: Path) -> dict[str, Known]:
    return {one.claim.name: one for one in look(folder)}


def _said(one: Known, match: re.Match[str], line: str) -> str:
    follow = _follows(one)
    if line.startswith("|"):
        return f"{follow or OPEN.get(one.verdict.kind, '')} ({match[0]})"
    if not line.startswith("- "):
        return match[0]
    said = f"{match[0]} *{one.verdict.kind}*: “{one.claim.says}”"
    if one.verdict.kind == "not run":
        return said
    return f"{said} {wording.finding(one)}{f' **{follow}**' if follow else ''}"


def _follows(one: Known) -> str:
    return next((follows(rule, one) for rule in RULES if rule.claim == one.claim.name), "")


def _remedies(one: Known) -> str:
    """Items for the remedies of a complaint, with what each closes of the gap."""
    return "\n".join(
        f"- {remedy.name} ({remedy.what}): *{wording.closing(one.closed(remedy))}*"
        for remedy in one.claim.remedies
    )


def _figure(known: list[Known]) -> str:
    """Return a picture of the intervals of all claims that were measured, in margins."""
    rows = [row for one in known if (row := _row(one))]
    ticks = "".join(f'<i style="left:{_at(tick):.2f}%">{tick}</i>' for tick in TICKS)
    return f'<div class="intervals">{"".join(rows)}<div class="axis"><span>{ticks}</span></div></div>'


def _row(one: Known) -> str:
    scale, verdict = one.claim.scale, one.verdict
    if scale is None or not math.isfinite(verdict.low + verdict.high):
        return ""
    low, mean, high = (_at(value / abs(scale.margin)) for value in (verdict.low, verdict.mean, verdict.high))
    said = html.escape(f"{one.claim.name}: {one.claim.says}")
    return (
        f'<div class="{verdict.kind}"><p>{said}</p><span><u style="left:{_at(0):.2f}%"></u>'
        f'<u class="margin" style="left:{_at(1):.2f}%"></u>'
        f'<b style="left:{low:.2f}%;width:{high - low:.2f}%"></b>'
        f'<s style="left:{mean:.2f}%"></s></span></div>'
    )


def _at(margins: float) -> float:
    """Return where a number of margins lies on the axis, in percent."""
    return 50 + 50 * max(-1.0, min(1.0, math.asinh(margins) / math.asinh(TICKS[-1] * 1.3)))
