"""The page of `thalweg memory`: the stacked bars and the table."""

from html import escape

from thalweg.lab.figures.shares import shares
from thalweg.lab.memory import Memory
from thalweg.lab.report.document import document, pictures, section
from thalweg.lab.report.table import Cell, Line, table


def render(memory: Memory) -> str:
    """The page as text; names of models and optimizers are escaped."""
    sections = [
        section("pictures", "In a picture", pictures([shares(memory)])),
        section("bytes", "In numbers", _table(memory)),
    ]
    return document(
        f"thalweg memory {memory.name}".rstrip(), memory.headline, memory.model, memory.conditions, sections
    )


def _table(memory: Memory) -> str:
    head, *lines = memory.cells()
    return table(
        "bytes",
        f"Sizes in {memory.unit}",
        [_cell(text, place) for place, text in enumerate(_with_unit(head, memory.unit))],
        [Line([_cell(text, place) for place, text in enumerate(line)]) for line in lines],
    )


def _with_unit(head: list[str], unit: str) -> list[str]:
    return [*head[:2], *(f"{name}, {unit}" for name in head[2:-1]), head[-1]]


def _cell(text: str, place: int) -> Cell:
    name, _, unit = text.partition(", ")
    html = f'{escape(name)}<span class="range">{escape(unit)}</span>' if unit and place > 1 else escape(text)
    return Cell(html, kind="text" if place < 2 else "")
