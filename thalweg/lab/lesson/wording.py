"""What is known of the claims, in words; every number comes from the records."""

import math
import textwrap
from collections.abc import Iterator, Sequence

from thalweg.lab.lesson.judging import Closed, Verdict
from thalweg.lab.lesson.known import Known
from thalweg.lab.lesson.scale import Scale

WIDTH = 110


def listed(known: Sequence[Known]) -> Iterator[str]:
    """The claims line by line, for a terminal."""
    for one in known:
        yield f"{one.claim.name:4} {one.verdict.kind.upper():12} {one.claim.says}"
        for line in textwrap.wrap(finding(one), WIDTH - 18):
            yield f"{'':18}{line}"
        for remedy in one.claim.remedies:
            for line in textwrap.wrap(f"remedy, {remedy.name}: {closing(one.closed(remedy))}", WIDTH - 18):
                yield f"{'':18}{line}"
    count = {
        kind: sum(one.verdict.kind == kind for one in known)
        for kind in ("supported", "refuted", "inconclusive")
    }
    yield (
        f"{len(known)} claims: "
        + ", ".join(f"{n} {kind}" for kind, n in count.items())
        + f", {_left(known)} not run"
    )


def _left(known: Sequence[Known]) -> int:
    return sum(one.verdict.kind == "not run" for one in known)


def finding(known: Known) -> str:
    """What was found, in a sentence; or what is missing."""
    if known.counted is not None:
        return known.counted.text
    verdict, scale = known.verdict, known.claim.scale
    if verdict.kind == "not run" or scale is None:
        return f"not run yet: {', '.join(e.name for e in known.open)}" if known.open else "not run yet"
    return f"{scale.text(verdict.mean)} {known.claim.reads}{interval(verdict, scale)}.{_needed(verdict)}"


def interval(verdict: Verdict, scale: Scale) -> str:
    """The interval and the margin in parentheses."""
    if math.isnan(verdict.low):
        return f" ({verdict.seeds} seeds, too few for an interval)"
    ends = " to ".join(map(scale.number, scale.ordered(verdict.low, verdict.high)))
    return f" (95 %: {ends}; margin {scale.number(scale.margin)}; p {p_text(verdict.p_holm)})"


def p_text(p: float) -> str:
    """A p value with two digits that count."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def _needed(verdict: Verdict) -> str:
    if verdict.kind != "inconclusive" or verdict.needed is None:
        return ""
    if verdict.needed > 9999:
        return " More seeds than can be run would tell."
    return f" About {verdict.needed:.0f} seeds would tell."


def closing(closed: Closed | None) -> str:
    """How much of the gap a remedy closes."""
    return "not run yet" if closed is None else closed.text()
