"""The page as a whole."""

from collections.abc import Iterable, Sequence
from html import escape

from thalweg.lab.judging.statistics import Row
from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.showing.figures import draw
from thalweg.lab.showing.report import method, ranking, runs, why
from thalweg.lab.showing.report.document import definitions, document, pictures, prose, section
from thalweg.lab.showing.report.table import key_colours, named
from thalweg.lab.showing.results import Provenance
from thalweg.lab.study.study import Study
from thalweg.lab.workload.errors import Doubt

MOST_NOTES = 4
"""Notes that are read without opening the others."""

MOST_CODE = 4
"""Leaders whose code is shown on top; that of all is under the ranking."""


def render(study: Study, verdict: Verdict, provenance: Provenance) -> str:
    """The whole report as text; everything that comes from a workload is escaped."""
    sections = [
        section("ranking", "Ranking", ranking.ranking(study, verdict), ranking.settings(verdict)),
        section("pictures", "In pictures", pictures(draw(study, verdict))),
        section("why", "Why they end where they end", *why.why(study, verdict)),
        section("pairs", "Every pair of optimizers", ranking.pairs(study, verdict)),
        section("trials", "All trials", _trials_note(study, provenance), runs.trials(study, verdict)),
        section("method", "How it was measured", *_method(study, verdict, provenance)),
    ]
    return _page(study, verdict, sections, provenance.warnings)


def summary(study: Study, verdict: Verdict, warnings: Sequence[Doubt] = ()) -> str:
    """The part that fits in a notebook: verdict, code, ranking and pictures."""
    sections = [
        section("ranking", "Ranking", ranking.ranking(study, verdict), ranking.settings(verdict)),
        section("pictures", "In pictures", pictures(draw(study, verdict))),
    ]
    return _page(study, verdict, sections, warnings)


def _page(study: Study, verdict: Verdict, sections: Iterable[str], warnings: Sequence[Doubt]) -> str:
    workload = study.workload.name
    return document(
        f"thalweg compare {workload}",
        verdict.headline,
        verdict.sentence,
        verdict.conditions,
        sections,
        title=f"{verdict.headline} ({workload})",
        style=key_colours(study),
        code=_code(study, verdict),
        notes=_warnings(warnings) + _notes(verdict.notes),
    )


def _code(study: Study, verdict: Verdict) -> str:
    """The lines to paste, each under the name of its optimizer where there are several."""
    leaders = [row for row in verdict.leaders if row.chosen is not None]
    blocks = [
        _line(study, row, line, several=len(leaders) > 1)
        for row, line in zip(leaders[:MOST_CODE], verdict.code, strict=False)
    ]
    if not blocks:
        return ""
    more = " Those of the others are under the ranking." if len(leaders) > MOST_CODE else ""
    note = f'<p class="aside">Measured with this training: {prose(method.training(study))}.{more}</p>'
    return "\n".join([*blocks, note])


def _line(study: Study, row: Row, line: str, *, several: bool) -> str:
    name = f'<p class="of">{named(study, row.space)}</p>' if several else ""
    return f'{name}<pre class="paste"><code>{escape(line)}</code></pre>'


def _warnings(warnings: Sequence[Doubt]) -> str:
    """What makes the verdict doubtful, beside it and never folded away."""
    items = "".join(f"<li>{prose(doubt.text)}</li>" for doubt in warnings)
    return f'<ul class="notes warnings">{items}</ul>' if items else ""


def _notes(notes: Sequence[str]) -> str:
    """The notes; where they are many, all but the first ones are to be opened."""
    first, others = notes[:MOST_NOTES], notes[MOST_NOTES:]
    if len(others) < 2:
        return _items(notes)
    more = f"<details><summary>{len(others)} more notes</summary>{_items(others)}</details>"
    return _items(first) + more


def _items(notes: Sequence[str]) -> str:
    items = "".join(f"<li>{prose(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _trials_note(study: Study, provenance: Provenance) -> str:
    """How to repeat a run; an object that was passed from Python cannot be found again."""
    if not study.records or not provenance.task:
        return ""
    return (
        '<p class="aside"><code>thalweg trial FOLDER --id N</code> repeats the run with that id; FOLDER is '
        "where this report was written.</p>"
    )


def _method(study: Study, verdict: Verdict, provenance: Provenance) -> list[str]:
    return [
        "<h3>The task</h3>",
        definitions(method.task(study)),
        "<h3>The protocol</h3>",
        definitions(method.protocol(study)),
        "<h3>The search spaces</h3>",
        runs.spaces(study),
        "<h3>The statistics</h3>",
        definitions(method.analysis(study, verdict)),
        "<h3>The run</h3>",
        definitions(method.run(study, provenance)),
    ]
