"""What was done about the complaints: how much of the gap each remedy closes."""

import math
from collections.abc import Iterator, Sequence

from thalweg.lab.lesson.claim import Remedy
from thalweg.lab.lesson.judging import Closed, percent
from thalweg.lab.lesson.known import Known
from thalweg.lab.lesson.page.marks import link
from thalweg.lab.lesson.scale import Scale
from thalweg.lab.showing.report.document import prose
from thalweg.lab.showing.report.table import NONE, Cell, Line, table

NOTE = (
    "Each remedy is measured on the endpoint of its complaint, on the same seeds. Gap closed is what the "
    "remedy gains over what the best rival is ahead, with Fieller's 95 % interval: 0 % is no help, 100 % all "
    "of the gap. Where the gap itself is not told from zero, there is none to close. Levels are means, of "
    "steps and losses geometric ones."
)


def remedies(known: Sequence[Known]) -> str:
    """The table; nothing where no claim names a remedy."""
    lines = [_line(one, remedy) for one, remedy in named(known)]
    head = [
        *(Cell(text, kind="text") for text in ("Complaint", "Remedy")),
        *map(Cell, ("Without", "With", "Best rival", "Gap closed")),
    ]
    return table("remedies", "Remedies", head, lines) if lines else ""


def named(known: Sequence[Known]) -> Iterator[tuple[Known, Remedy]]:
    """Every remedy with the claim that complains."""
    yield from ((one, remedy) for one in known for remedy in one.claim.remedies)


def _line(one: Known, remedy: Remedy) -> Line:
    closed = one.closed(remedy)
    says = f'{link(one.claim.name)}<span class="range">{prose(one.claim.says)}</span>'
    what = f'{prose(remedy.name)}<span class="range">{prose(remedy.what)}.</span>'
    rival = f'<span class="range">{prose(remedy.rival)}</span>'
    without, remedied, best = levels(closed, one.claim.scale)
    return Line(
        [
            Cell(says, kind="text wrap"),
            Cell(what, kind="text wrap"),
            Cell(without),
            Cell(remedied),
            Cell(f"{best}{rival}", kind="wrap"),
            Cell(share(closed)),
        ]
    )


def levels(closed: Closed | None, scale: Scale | None) -> tuple[str, str, str]:
    """The endpoint without the remedy, with it, and of the rival, as it is said.

    Values are larger the better they are. On a scale of ratios they are negative logarithms of what is less
    the better it is, and are said as that; others that are all negative are said without their sign.
    """
    if closed is None:
        return NONE, NONE, NONE
    values = (closed.without, closed.remedied, closed.rival)
    if scale is not None and scale.logarithmic:
        first, second, third = (
            f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in map(_cost, values)
        )
        return first, second, third
    # What is a cost is turned so that more is better; it is said as the cost that it is.
    sign = -1 if closed.without < 0 and closed.rival < 0 else 1
    first, second, third = (f"{sign * value:,.{scale.digits if scale else 2}f}" for value in values)
    return first, second, third


def _cost(value: float) -> float:
    return math.exp(-value)


def share(closed: Closed | None) -> str:
    """The share that is closed and its interval, as HTML."""
    if closed is None:
        return '<span class="range">not run yet</span>'
    if closed.share is None:
        return f'no gap<span class="range">{closed.no_gap.removeprefix("no gap").lstrip(": ")}</span>'
    told = f"<strong>{prose(percent(closed.share))}</strong>"
    if closed.seeds == 1:
        return f'{told}<span class="range">counted</span>'
    lines = (f"{percent(closed.low)} to {percent(closed.high)}", f"{closed.seeds} seeds")
    return told + "".join(f'<span class="range">{prose(text)}</span>' for text in lines)
