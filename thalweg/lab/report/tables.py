"""The report's tables, as HTML that can be read without any script."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from thalweg.lab import measures
from thalweg.lab.figures.look import COLOURS, DARK, look
from thalweg.lab.protocol import rate_range
from thalweg.lab.quantities import amount, hyperparameters, size
from thalweg.lab.record import Record
from thalweg.lab.spaces import Axis, Space, code
from thalweg.lab.statistics import Comparison, Row
from thalweg.lab.study import Study
from thalweg.lab.verdict import Verdict
from thalweg.lab.wording import Numbers

NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Cell:
    """A cell of a table: ready HTML, and the value it is sorted by where that is not its text."""

    html: str
    value: float | str | None = None
    kind: str = ""

    def render(self, tag: str = "td") -> str:
        """The cell as HTML."""
        scope = ' scope="row"' if tag == "th" else ""
        kind = f' class="{self.kind}"' if self.kind else ""
        value = "" if self.value is None else f' data-value="{escape(str(self.value))}"'
        return f"<{tag}{scope}{kind}{value}>{self.html}</{tag}>"


@dataclass(frozen=True)
class Line:
    """A row of a table; its first cell is its heading."""

    cells: Sequence[Cell]
    kind: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)

    def render(self) -> str:
        """The row as HTML."""
        first, *others = self.cells
        attributes = "".join(f' {name}="{escape(value)}"' for name, value in self.attributes.items())
        kind = f' class="{self.kind}"' if self.kind else ""
        return f"<tr{kind}{attributes}>{first.render('th')}{''.join(map(Cell.render, others))}</tr>"


def table(name: str, caption: str, head: Sequence[Cell], lines: Iterable[Line], *, kind: str = "") -> str:
    """A table in a box that it may scroll in."""
    header = "".join(cell.render("th").replace('scope="row"', 'scope="col"') for cell in head)
    body = "\n".join(line.render() for line in lines)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table id="{name}" class="{kind}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{header}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def named(study: Study, space: Space) -> str:
    """An optimizer's name with the key to its colour."""
    key = [other.name for other in study.spaces].index(space.name)
    return f'<span class="name"><i class="key k{key}"></i><span>{escape(space.title)}</span></span>'


def key_colours(study: Study) -> str:
    """The style sheet of the keys, on a light page, on paper and on a dark page."""
    light = [look(study, space).colour for space in study.spaces]
    dark = [DARK[COLOURS.index(colour)] for colour in light]
    return f"{_keys(light)}\n@media screen and (prefers-color-scheme: dark) {{\n{_keys(dark)}\n}}"


def _keys(colours: Sequence[str]) -> str:
    return "\n".join(f".k{place} {{ background: {colour}; }}" for place, colour in enumerate(colours))


def ranking(study: Study, verdict: Verdict) -> str:
    """All optimizers, best first."""
    unit = f", {study.workload.unit}" if study.workload.unit else ""
    metric, level = escape(study.workload.metric + unit), measures.target(study)
    numbers = Numbers(study, verdict.margin)
    to_target = "To target" if level is None else f"To {escape(numbers.value(level))}"
    head = [
        Cell("Optimizer", kind="text"),
        Cell(f'Test {metric}<span class="range">95 % interval</span>'),
        Cell('Validation<span class="range">mean</span>'),
        Cell('Failures<span class="range">tuning, final</span>'),
        Cell(f'{to_target}<span class="range">steps, seconds</span>'),
        Cell('Step<span class="range">ms</span>'),
        Cell("State"),
        Cell('Basin<span class="range">decades</span>'),
    ]
    leaders = {row.space.name for row in verdict.leaders} if verdict.kind != "none" else set()
    lines = [
        Line(_ranked(study, verdict, row, level), "leader" if row.space.name in leaders else "")
        for row in verdict.ranking
    ]
    return table("ranking", "Ranking", head, lines)


def _ranked(study: Study, verdict: Verdict, row: Row, level: float | None) -> list[Cell]:
    numbers = Numbers(study, verdict.margin)
    found = measures.basin(study, row.space, verdict.margin)
    tuning = study.tuning_of(row.space)
    bad = sum(record.failure is not None for record in tuning)
    return [
        Cell(named(study, row.space), kind="text"),
        _test(row, numbers),
        _validation(study, row, numbers),
        Cell(f'{_share(bad, len(tuning))}<span class="range">{_share(row.failures, row.measured)}</span>'),
        _to_target(study, row.space, level),
        Cell(NONE if row.step_ms is None else amount(row.step_ms)),
        Cell(NONE if row.state_bytes is None else size(row.state_bytes)),
        Cell(
            NONE
            if found is None
            else f'{found.decades:.1f}<span class="range">of {found.searched:.1f}</span>'
        ),
    ]


def _share(count: int, of: int) -> str:
    return f"{count} of {of}" if of else NONE


def _test(row: Row, numbers: Numbers) -> Cell:
    if row.test is None:
        return Cell("failed" if row.failures else "not measured")
    interval = "" if row.test.low is None else numbers.interval(row.test)
    return Cell(f'<strong>{numbers.plain(row.test.mean)}</strong><span class="range">{interval}</span>')


def _validation(study: Study, row: Row, numbers: Numbers) -> Cell:
    final = [r.validation.metric for r in study.final_of(row.space) if r.validation is not None]
    if final:
        return Cell(numbers.plain(math.fsum(final) / len(final)))
    if row.chosen is not None and row.chosen.validation is not None:
        return Cell(f'{numbers.plain(row.chosen.validation.metric)}<span class="range">in tuning</span>')
    return Cell(NONE)


def _to_target(study: Study, space: Space, level: float | None) -> Cell:
    if level is None or not study.final_of(space):
        return Cell(NONE)
    reached = measures.reached(study, space, level)
    runs = "" if reached.runs == reached.of else f" ({reached.runs} of {reached.of} runs)"
    if reached.steps is None:
        return Cell(f'{reached.runs} of {reached.of}<span class="range">runs reach it</span>')
    seconds = NONE if reached.seconds is None else f"{amount(reached.seconds)} s"
    return Cell(f'{amount(reached.steps)}<span class="range">{seconds}{runs}</span>')


def settings(verdict: Verdict) -> str:
    """For every optimizer that is not among those shown on top, the line of Python that builds it."""
    shown = [row for row in verdict.ranking if row.chosen is not None]
    lines = [
        escape(code(row.chosen.trial.optimizer, row.chosen.trial.settings)) for row in shown if row.chosen
    ]
    if not lines:
        return ""
    blocks = "".join(f"<pre><code>{line}</code></pre>" for line in lines)
    return f"<details><summary>The chosen hyperparameters of every optimizer</summary>{blocks}</details>"


def pairs(study: Study, verdict: Verdict) -> str:
    """All pairwise comparisons; an empty text where there are none."""
    if not verdict.comparisons:
        return ""
    numbers = Numbers(study, verdict.margin)
    unit = f", {escape(study.workload.difference_unit)}" if study.workload.difference_unit else ""
    head = [
        Cell("Pair", kind="text"),
        Cell(f'Difference{unit}<span class="range">95 % interval</span>'),
        Cell('Wins<span class="range">losses</span>'),
        Cell('p<span class="range">Wilcoxon</span>'),
        Cell('p<span class="range">Holm</span>'),
        Cell("In words", kind="text"),
    ]
    lines = [Line(_pair(study, comparison, numbers)) for comparison in verdict.comparisons]
    return table("pairs", "Every pair", head, lines, kind="sortable" if len(lines) > 3 else "")


def _pair(study: Study, comparison: Comparison, numbers: Numbers) -> list[Cell]:
    both = (
        f"{named(study, comparison.first)} <span class='range'>over</span> {named(study, comparison.second)}"
    )
    mean = comparison.difference.mean
    interval = numbers.interval(comparison.difference)
    ties = comparison.pairs - comparison.wins - comparison.losses
    even = f", {ties} even" if ties else ""
    return [
        Cell(both, f"{comparison.first.title} {comparison.second.title}", "text"),
        Cell(f'{numbers.plain(mean)}<span class="range">{interval}</span>', mean),
        Cell(f'{comparison.wins}<span class="range">{comparison.losses}{even}</span>', comparison.wins),
        Cell(_p(comparison.p), comparison.p),
        Cell(_p(comparison.p_holm), comparison.p_holm),
        Cell(escape(_relation(comparison, numbers)), kind="text wrap"),
    ]


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _relation(comparison: Comparison, numbers: Numbers) -> str:
    first, second = comparison.first.title, comparison.second.title
    if comparison.relation == "ahead":
        return f"{first} is ahead by surely more than the margin of {numbers.margin}"
    if comparison.relation == "behind":
        return f"{second} is ahead by surely more than the margin of {numbers.margin}"
    if comparison.relation == "equivalent":
        return f"equal within the margin of {numbers.margin}"
    if comparison.difference.low is None:
        return "one seed tells nothing"
    return "not told apart by this many seeds"


def trials(study: Study, verdict: Verdict) -> str:
    """Every run that was made, by the number that `thalweg trial` takes."""
    if not study.records:
        return "<p>No run has ended yet.</p>"
    numbers = Numbers(study, verdict.margin)
    unit = f", {escape(study.workload.unit)}" if study.workload.unit else ""
    head = [
        Cell("Id"),
        Cell("Stage", kind="text"),
        Cell("Optimizer", kind="text"),
        Cell("Learning rate"),
        Cell("Other hyperparameters", kind="text"),
        Cell("Seed"),
        Cell(f"Validation{unit}"),
        Cell(f"Test{unit}"),
        Cell("Seconds"),
        Cell("Failure", kind="text"),
    ]
    spaces = {space.name: space for space in study.spaces}
    lines = [
        Line(
            _trial(study, spaces[record.trial.name], index, record, numbers),
            "failed" if record.failure else "",
            {"data-optimizer": spaces[record.trial.name].title, "data-stage": record.trial.stage},
        )
        for index, record in enumerate(study.records)
    ]
    return table("trials", "All trials", head, lines, kind="sortable filterable")


def _trial(study: Study, space: Space, index: int, record: Record, numbers: Numbers) -> list[Cell]:
    trial = record.trial
    others = hyperparameters({key: value for key, value in trial.settings.items() if key != "lr"})
    seconds = record.timing.seconds if record.timing else None
    return [
        Cell(str(index)),
        Cell(trial.stage, kind="text"),
        Cell(named(study, space), kind="text"),
        Cell(f"{trial.lr:.4g}"),
        Cell(escape(others), kind="text wrap"),
        Cell(str(trial.seed)),
        _evaluated(record.validation, numbers),
        _evaluated(record.test, numbers),
        Cell("" if seconds is None else amount(seconds)),
        Cell(escape(_failure(record)), kind="text wrap"),
    ]


def _evaluated(evaluation: Any, numbers: Numbers) -> Cell:
    return Cell("") if evaluation is None else Cell(numbers.plain(evaluation.metric))


def _failure(record: Record) -> str:
    failure = record.failure
    if failure is None:
        return ""
    return failure.text if failure.text.startswith(failure.kind) else f"{failure.kind}: {failure.text}"


def spaces(study: Study) -> str:
    """What was searched for each optimizer, where, and why there."""
    head = [Cell(text, kind="text") for text in ("Optimizer", "Hyperparameter", "Range", "Here", "Why")]
    lines = [line for space in study.spaces for line in _space(study, space)]
    return table("spaces", "Search spaces", head, lines, kind="spaces")


def _space(study: Study, space: Space) -> list[Line]:
    searched = {axis.name for axis in study.searched(space)}
    lines = []
    for place, axis in enumerate(space.axes):
        cells = [
            named(study, space) if place == 0 else f'<span class="again">{escape(space.title)}</span>',
            escape(axis.name),
            f"{axis.low:g} to {axis.high:g}",
            escape(_treatment(study, space, axis, axis.name in searched)),
            escape(space.source) if place == 0 else "",
        ]
        lines.append(
            Line([Cell(cell, kind="text wrap" if i > 2 else "text") for i, cell in enumerate(cells)])
        )
    return lines


def _treatment(study: Study, space: Space, axis: Axis, searched: bool) -> str:
    if not searched:
        value = "the optimizer's default" if axis.default is None else f"{axis.default:g}"
        return f"{value}; searched from {axis.trials} trials"
    wide = rate_range(study, space)
    if axis is space.axes[0] and (wide.low, wide.high) != (axis.low, axis.high):
        return f"searched, extended to {wide.low:.3g} to {wide.high:.3g}"
    return "searched"
