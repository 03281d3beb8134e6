"""The ranking, the chosen hyperparameters and the comparisons of every pair."""

import math
from html import escape

from thalweg.lab.judging import measures
from thalweg.lab.judging.quantities import amount, size
from thalweg.lab.judging.statistics import Comparison, Row
from thalweg.lab.judging.verdict import Verdict, seeds_in_words
from thalweg.lab.judging.wording import Numbers
from thalweg.lab.showing.report.table import NONE, Cell, Line, named, table
from thalweg.lab.spaces import Space
from thalweg.lab.study.study import Study


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
    without = ""
    if row.failures and row.finished is not None:
        without = f'<span class="range">{numbers.plain(row.finished)} without the failed</span>'
    return Cell(
        f'<strong>{numbers.plain(row.test.mean)}</strong><span class="range">{interval}</span>{without}'
    )


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
    """For every optimizer the line of Python that builds it as it was measured, to be opened."""
    shown = [row for row in verdict.ranking if row.chosen is not None]
    lines = [escape(row.space.line(row.chosen.trial.settings)) for row in shown if row.chosen]
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
        Cell(f'Difference{unit}<span class="range">95 % for all pairs</span>'),
        Cell('Wins<span class="range">losses</span>'),
        Cell('p<span class="range">sign flips</span>'),
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
        return f"{first} is ahead, surely beyond {numbers.beyond}"
    if comparison.relation == "behind":
        return f"{second} is ahead, surely beyond {numbers.beyond}"
    if comparison.relation == "equivalent":
        return f"equivalent within the margin of {numbers.margin}"
    if comparison.difference.low is None:
        return "one seed tells nothing"
    if comparison.better:
        leader = first if comparison.difference.mean > 0 else second
        taken = seeds_in_words(comparison)
        return f"{leader} is ahead, but not surely by {numbers.more}: that would take {taken}"
    return f"not told apart: that would take {seeds_in_words(comparison)}"
