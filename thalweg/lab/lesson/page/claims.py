"""What the page says of one claim: the sentence, the verdict, what was measured and a picture."""

from collections.abc import Sequence
from html import escape

from thalweg.lab.lesson import wording
from thalweg.lab.lesson.claim import Counted
from thalweg.lab.lesson.known import Known
from thalweg.lab.lesson.page.endpoint import endpoint
from thalweg.lab.lesson.page.marks import anchor, badge
from thalweg.lab.lesson.page.sweeps import sweep
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.report.document import pictures, prose
from thalweg.lab.showing.report.table import Cell, Line, table


def articles(known: Sequence[Known], subject: str) -> str:
    """The claims of a subject one below the other."""
    return "\n".join(article(one) for one in known if one.claim.subject == subject)


def article(known: Known) -> str:
    """One claim: text on the left, its picture on the right where the page is wide."""
    claim = known.claim
    head = (
        f'<h3><span class="id">{escape(claim.name)}</span> {prose(claim.says)}</h3>'
        f"<p>{badge(known.verdict)}</p>"
    )
    text = f'{head}<p class="finding">{prose(_sentence(known))}</p>{_facts(known)}'
    shown = pictures(figures(known)) or _counted(known.counted)
    kind = "claim" if shown else "claim alone"
    return f'<article class="{kind}" id="{anchor(claim.name)}"><div>{text}</div>\n{shown}</article>'


def figures(known: Known) -> list[Figure]:
    """The picture of a claim's endpoint, and that of its sweeps."""
    if known.verdict.kind == "not run":
        return []
    return [figure for figure in (endpoint(known), sweep(known)) if figure is not None]


def is_whole(known: Known) -> bool:
    """Whether all runs of the claim itself are there; those of its remedies may be missing."""
    return not any(experiment in known.open for experiment in known.claim.experiments)


def _sentence(known: Known) -> str:
    text = wording.finding(known)
    return text[:1].upper() + text[1:] if known.counted is None else text


def _facts(known: Known) -> str:
    claim = known.claim
    facts = [("Measured", claim.endpoint), ("Conditions", claim.conditions)]
    items = [(term, prose(text)) for term, text in facts if text]
    beside = [(line.name, line.text) for line in claim.secondary(known.found)] if is_whole(known) else []
    if beside:
        lines = "".join(f"<li>{prose(name)}: {prose(text)}</li>" for name, text in beside)
        items.append(("Beside it", f"<ul>{lines}</ul>"))
    for remedy in claim.remedies:
        closing = wording.closing(known.closed(remedy))
        items.append(("Remedy", f'<a href="#remedies">{prose(remedy.name)}</a>: {prose(closing)}'))
    if claim.changed:
        items.append(("Changed", prose(claim.changed)))
    return f"<dl>{''.join(f'<dt>{term}</dt><dd>{html}</dd>' for term, html in items)}</dl>"


def _counted(counted: Counted | None) -> str:
    """The table of what was counted."""
    if counted is None or not counted.rows:
        return ""
    head = [_cell(text, place) for place, text in enumerate(counted.head)]
    lines = [Line([_cell(text, place) for place, text in enumerate(row)]) for row in counted.rows]
    return table("", "What was counted", head, lines, kind="counted")


def _cell(text: str, place: int) -> Cell:
    return Cell(prose(text), kind="" if place else "text")
