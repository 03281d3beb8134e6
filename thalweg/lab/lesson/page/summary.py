"""The answer on top: the headline, the counts, and all claims in one table."""

from collections import Counter
from collections.abc import Sequence

from thalweg.lab.judging.wording import listed
from thalweg.lab.lesson.known import Known
from thalweg.lab.lesson.page.marks import badge, found, link
from thalweg.lab.showing.report.document import prose
from thalweg.lab.showing.report.table import Cell, Line, table


def headline(known: Sequence[Known], *, quick: bool) -> str:
    """How many claims hold."""
    if quick:
        return "A rehearsal of the lesson: a few steps and two seeds, for no verdict"
    held = _counted(known)["supported"]
    return f"Of {len(known)} things said of SGD, Adam and RMSprop, {held or 'none'} {_holds(held)}"


def _holds(count: int) -> str:
    return "holds" if count == 1 else "hold"


def lead(known: Sequence[Known]) -> str:
    """All counts, in a sentence."""
    count = _counted(known)
    parts = [f"{count[kind]} {word}" for kind, word in _WORDS.items() if count[kind]]
    return f"{_sentence(listed(parts))}." if parts else "There are no claims."


_WORDS = {
    "supported": "supported",
    "refuted": "refuted",
    "inconclusive": "inconclusive",
    "not run": "not run yet",
}


def _sentence(text: str) -> str:
    return f"Each was given an endpoint, a margin and its seeds before a result was seen: {text}"


def _counted(known: Sequence[Known]) -> Counter[str]:
    return Counter(one.verdict.kind for one in known)


RULES = (
    "Supported: the whole 95 % interval lies beyond the margin on the side of the claim, and p, adjusted for "
    "all claims (Holm), is at most 0.05. Refuted: the whole interval lies on the other side of the margin; a "
    "difference too small to matter refutes a claim of one that does. Inconclusive: neither. What is counted "
    "needs no seeds. Small models on small data: nothing here was tested at scale."
)
"""How verdicts come about, under the headline."""


def claims(known: Sequence[Known]) -> str:
    """The table of all claims."""
    head = [Cell(text, kind="text") for text in ("", "The lesson says", "Verdict", "Found")]
    return table("claims", "All claims", head, [_line(one) for one in known], kind="stacked")


def _line(one: Known) -> Line:
    cells = [
        Cell(link(one.claim.name), kind="text"),
        Cell(prose(one.claim.says), kind="text wrap"),
        Cell(badge(one.verdict), kind="text"),
        Cell(found(one), kind="text found"),
    ]
    return Line(cells, one.verdict.kind.replace(" ", "-"))
