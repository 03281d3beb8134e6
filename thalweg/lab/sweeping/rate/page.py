"""The page of `thalweg rate`: the picture, a line for each seed, and how it was done."""

from html import escape

from thalweg.lab.showing.report.document import definitions, document, pictures, section
from thalweg.lab.showing.report.table import Cell, Line, table
from thalweg.lab.sweeping.rate.found import Found
from thalweg.lab.sweeping.rate.picture import course


def render(found: Found) -> str:
    """The page as text; names of tasks and optimizers are escaped."""
    sections = [
        section("pictures", "In a picture", pictures([course(found)])),
        section("sweeps", "In numbers", _table(found)),
        section("method", "How it was measured", definitions(found.facts)) if found.facts else "",
    ]
    return document(
        found.command or "thalweg.lab.find_rate",
        found.headline,
        found.sentence,
        found.conditions,
        sections,
        title=f"{found.headline} ({found.task})",
    )


def _table(found: Found) -> str:
    head, *lines = ([Cell(escape(text)) for text in line] for line in found.cells())
    return table("rates", f"Rates by {found.counted}", head, map(Line, lines))
