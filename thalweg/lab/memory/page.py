"""The page of `thalweg memory`: the stacked bars and the table."""

from html import escape

from thalweg.lab.memory.counted import Counted
from thalweg.lab.memory.picture import shares
from thalweg.lab.showing.report.document import document, pictures, section
from thalweg.lab.showing.report.table import Cell, Line, table


def render(counted: Counted) -> str:
    """The page as text; names of models and optimizers are escaped."""
    sections = [
        section("pictures", "In a picture", pictures([shares(counted)])),
        section("bytes", "In numbers", _table(counted)),
    ]
    return document(
        f"thalweg memory {counted.name}".rstrip(),
        counted.headline,
        counted.model,
        counted.conditions,
        sections,
    )


def _table(counted: Counted) -> str:
    head, *lines = counted.cells()
    return table(
        "bytes",
        f"Sizes in {counted.unit}",
        [_cell(text, place) for place, text in enumerate(_with_unit(head, counted.unit))],
        [Line([_cell(text, place) for place, text in enumerate(line)]) for line in lines],
    )


def _with_unit(head: list[str], unit: str) -> list[str]:
    return [*head[:2], *(f"{name}, {unit}" for name in head[2:-1]), head[-1]]


def _cell(text: str, place: int) -> Cell:
    name, _, unit = text.partition(", ")
    html = f'{escape(name)}<span class="range">{escape(unit)}</span>' if unit and place > 1 else escape(text)
    return Cell(html, kind="text" if place < 2 else "")
