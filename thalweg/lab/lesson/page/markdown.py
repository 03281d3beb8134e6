"""The two tables as text, which a repository shows beside the records: claims, and remedies."""

from collections.abc import Iterator, Sequence

from thalweg.lab.lesson.judging import percent
from thalweg.lab.lesson.known import Known
from thalweg.lab.lesson.page.remedies import levels, named
from thalweg.lab.lesson.wording import finding

NOTE = (
    "Computed from the records by `thalweg lesson report`, which also writes "
    "[a page](index.html) with all pictures; [how it is measured](../lesson.md)."
)


def tables(known: Sequence[Known]) -> str:
    """A page of Markdown."""
    return "\n".join(
        ["# The lesson: what is known", "", NOTE, "", *_claims(known), "", *_remedies(known), ""]
    )


def _claims(known: Sequence[Known]) -> Iterator[str]:
    yield "| | the lesson says | verdict | found |"
    yield "|---|---|---|---|"
    for one in known:
        found = finding(one).replace("|", "\\|") if one.verdict.kind != "not run" else ""
        yield f"| {one.claim.name} | {one.claim.says} | {one.verdict.kind} | {found} |"


def _remedies(known: Sequence[Known]) -> Iterator[str]:
    yield "## Remedies"
    yield ""
    yield "| complaint | remedy | without | with | best rival | of the gap closed (95 %) |"
    yield "|---|---|---|---|---|---|"
    for one, remedy in named(known):
        closed = one.closed(remedy)
        if closed is None:
            share = "not run"
        elif closed.share is None:
            share = closed.no_gap
        elif closed.seeds == 1:
            share = percent(closed.share)
        else:
            share = f"{percent(closed.share)} ({percent(closed.low)} to {percent(closed.high)})"
        without, remedied, rival = levels(closed, one.claim.scale)
        what = f"{remedy.name}: {remedy.what}"
        yield f"| {one.claim.name} | {what} | {without} | {remedied} | {rival}, {remedy.rival} | {share} |"
