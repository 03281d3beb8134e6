"""The page as a whole."""

from collections.abc import Sequence
from importlib.resources import files

from thalweg.lab.lesson.known import Known
from thalweg.lab.lesson.page import advice, provenance, remedies, summary
from thalweg.lab.lesson.page.claims import articles
from thalweg.lab.lesson.page.optimizers import OPTIMIZERS, optimizer
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.report.document import document, pictures, section

TITLE = "SGD, Adam and RMSprop: what a lesson says, tested"

COMMAND = "thalweg lesson report"


def render(known: Sequence[Known], figures: Sequence[Figure] = (), *, quick: bool = False) -> str:
    """The page as text; every number comes from the records.

    Args:
        known: what is known of each claim, in the lesson's order.
        figures: pictures that stand before all others.
        quick: whether the runs were short ones, which allow no verdict.
    """
    sections = [
        section("all", "All claims", summary.claims(known)),
        section("advice", "What to use, then", advice.advice(known)),
        section("landscape", "The lay of the land", pictures(figures)),
        *(optimizer(name, known) for name in OPTIMIZERS),
        section("examples", "Examples", articles(known, "Examples")),
        section("general", "In general", articles(known, "In general")),
        section("remedy", "Remedies", _aside(remedies.NOTE, remedies.remedies(known))),
        section("runs-section", "Where the numbers come from", *_provenance(known)),
    ]
    return document(
        COMMAND,
        summary.headline(known, quick=quick),
        summary.lead(known),
        summary.RULES,
        sections,
        title=TITLE,
        style=_style(),
    )


def _style() -> str:
    return files("thalweg.lab.lesson.page").joinpath("lesson.css").read_text(encoding="utf-8")


def _aside(note: str, body: str) -> str:
    return f'<p class="aside">{note}</p>{body}' if body else ""


def _provenance(known: Sequence[Known]) -> list[str]:
    return [
        provenance.runs(known),
        provenance.sittings(known),
        "<h3>Changed with results in sight</h3>",
        provenance.changes(known),
    ]
