"""Why optimizers end where they end: what was measured beside the final runs."""

from html import escape

from thalweg.lab.judging import explanation, levels
from thalweg.lab.judging.levels import QUANTITIES, Quantity
from thalweg.lab.judging.missing import missing
from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.showing.figures import updates
from thalweg.lab.showing.report.document import definitions, pictures, prose
from thalweg.lab.showing.report.table import NONE, Cell, Line, named, table
from thalweg.lab.spaces import Space
from thalweg.lab.study.study import Study


def why(study: Study, verdict: Verdict) -> list[str]:
    """Conditions, the table, meanings with findings, the picture and what is missing; nothing without any."""
    if not explanation.is_measured(study):
        return []
    shown = [q for q in QUANTITIES if any(levels.level(study, space, q) for space in study.spaces)]
    figure = updates(study, verdict)
    return [
        f'<p class="aside">{prose(explanation.conditions(study))}</p>',
        _table(study, verdict, shown) if shown else "",
        definitions({q.title: f"{q.meaning} {explanation.finding(study, q)}" for q in shown})
        if shown
        else "",
        _missing(study),
        pictures([figure]) if figure is not None else "",
    ]


def _table(study: Study, verdict: Verdict, shown: list[Quantity]) -> str:
    head = [Cell("Optimizer", kind="text"), *map(_head, shown)]
    lines = [
        Line([Cell(named(study, row.space), kind="text"), *(_cell(study, row.space, q) for q in shown)])
        for row in verdict.ranking
    ]
    return table("why", "Why they end where they end", head, lines)


def _head(quantity: Quantity) -> Cell:
    unit = f'<span class="range">{escape(quantity.unit)}</span>' if quantity.unit else ""
    return Cell(escape(quantity.title) + unit)


def _cell(study: Study, space: Space, quantity: Quantity) -> Cell:
    found = levels.level(study, space, quantity)
    if found is None:
        return Cell(NONE)
    text = escape(levels.bracketed(found))
    return Cell(f'{escape(levels.valued(found))}<span class="range">{text}</span>', found.value)


def _missing(study: Study) -> str:
    items = "".join(f"<li>{prose(line)}</li>" for line in missing(study))
    return f'<ul class="notes">{items}</ul>' if items else ""
