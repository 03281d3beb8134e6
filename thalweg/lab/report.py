"""One HTML file that needs no network: verdict, ranking, pictures, trials and method."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template

import plotly.io
from plotly.offline import get_plotlyjs

from thalweg.lab.figures import Figure, colour, draw
from thalweg.lab.results import Provenance
from thalweg.lab.spaces import Space
from thalweg.lab.statistics import RESAMPLES, Row
from thalweg.lab.study import Study
from thalweg.lab.trial import WARM_UP, Record
from thalweg.lab.verdict import Verdict
from thalweg.lab.wording import Numbers


def render(study: Study, verdict: Verdict, provenance: Provenance) -> str:
    """The whole report as text; everything that comes from a workload is escaped."""
    return Template(_resource("report.html")).substitute(
        headline=escape(verdict.headline),
        sentence=escape(verdict.sentence),
        conditions=escape(verdict.conditions),
        workload=escape(study.workload.name),
        style=_resource("report.css"),
        plotly=get_plotlyjs(),
        code=_code(verdict),
        notes=_list(verdict.notes),
        ranking=_ranking(study, verdict),
        figures="\n".join(map(_figure, draw(study, verdict), range(3))),
        trials=_trials(study, verdict),
        method=_definitions(_method(study, provenance)),
    )


def _resource(name: str) -> str:
    return files("thalweg.lab").joinpath(name).read_text(encoding="utf-8")


def _code(verdict: Verdict) -> str:
    if not verdict.code:
        return ""
    return f"<pre><code>{escape(chr(10).join(verdict.code))}</code></pre>"


def _list(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _table(head: Iterable[str], rows: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table of ready HTML cells; each row comes with its class."""
    header = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
        for kind, cells in rows
    )
    return f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'


def _ranking(study: Study, verdict: Verdict) -> str:
    unit = f", {study.workload.unit}" if study.workload.unit else ""
    head = (
        "Optimizer",
        "Learning rate",
        f"Test {escape(study.workload.metric + unit)}",
        "Validation",
        "Run, s",
        "Step, ms",
        "State, bytes",
    )
    rows = [
        ("leader" if row in verdict.leaders else "", _ranking_cells(study, row)) for row in verdict.ranking
    ]
    return _table(head, rows) + (
        '<p class="aside">Test: mean over the fresh seeds with its 95 % interval. Validation: of '
        "the trial that was chosen. Times: medians of the final runs, on one thread; a step is "
        "one optimizer.step().</p>"
    )


def _ranking_cells(study: Study, row: Row) -> list[str]:
    numbers = Numbers(study)
    test = f"failed on {row.failures} of {study.settings.seeds}"
    if row.test is not None:
        test = f'{numbers.plain(row.test.mean)}<span class="range">{numbers.interval(row.test)}</span>'
    chosen = row.chosen
    return [
        _named(study, row.space),
        f"{chosen.trial.lr:g}" if chosen else "none",
        test,
        _metric(study, chosen),
        "" if row.seconds is None else f"{row.seconds:.2f}",
        "" if row.step_ms is None else f"{row.step_ms:.3f}",
        "" if row.state_bytes is None else f"{row.state_bytes:,}",
    ]


def _named(study: Study, space: Space) -> str:
    dot = f'<span class="key" style="background:{colour(study, space)}"></span>'
    return dot + escape(space.optimizer)


def _metric(study: Study, record: Record | None) -> str:
    if record is None or record.validation is None:
        return "diverged" if record else "none"
    return Numbers(study).plain(record.validation.metric)


def _figure(figure: Figure, index: int) -> str:
    plot = plotly.io.to_html(
        figure.plot,
        config={"displayModeBar": False, "responsive": True},
        include_plotlyjs=False,
        full_html=False,
        div_id=f"picture-{index}",
    )
    return (
        f'<figure><h2>{escape(figure.title)}</h2><div class="picture" role="img" '
        f'aria-label="{escape(figure.title)}">{plot}</div>'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _trials(study: Study, verdict: Verdict) -> str:
    head = ("Optimizer", "Learning rate", "Validation", "Loss", "")
    rows = [
        (
            "",
            [
                _named(study, row.space),
                f"{record.trial.lr:g}",
                _metric(study, record),
                f"{record.validation.loss:.4g}" if record.validation else "",
                "chosen" if record is row.chosen else _end(record),
            ],
        )
        for row in verdict.ranking
        for record in study.tuning_of(row.space)
    ]
    return (
        f"<details><summary>{len(rows)} tuning trials, by learning rate</summary>"
        f"{_table(head, rows)}</details>"
    )


def _end(record: Record) -> str:
    return "" if record.diverged_at is None else f"at step {record.diverged_at}"


def _method(study: Study, provenance: Provenance) -> Mapping[str, str]:
    settings = study.settings
    spaces = "; ".join(
        f"{space.optimizer} {space.low:g} to {space.high:g} ({space.source})" for space in study.spaces
    )
    fixed = "; ".join(
        f"{space.optimizer}: {', '.join(f'{k}={v:g}' for k, v in space.fixed.items())}"
        for space in study.spaces
        if space.fixed
    )
    return {
        **study.workload.facts(),
        "Schedule": f"the same for all: linear warm-up over {WARM_UP:.0%} of the steps, then "
        "linear decay to zero",
        "Tuning": f"{settings.trials} learning rates for each optimizer, log-uniform, from one "
        "scrambled Sobol sequence, all with the same tuning seed; the best on validation after "
        "the last step is taken, of equal ones the middle rate",
        "Ranges": spaces,
        "Fixed": f"{fixed or 'nothing'}; every other setting at its default, without tuning",
        "Measuring": f"{settings.seeds} fresh seeds, none of them used in tuning; a seed gives "
        "every optimizer the same initial weights and the same order of data; test is evaluated "
        "once, after the last step, and nothing is chosen on it",
        "Intervals": f"paired bootstrap over the seeds, {RESAMPLES:,} resamples, expanded "
        "percentiles (Hesterberg 2015), 95 %. They cover the luck of the seed, not the choice of "
        "the data split nor the luck of the tuning trials",
        "Verdict": "one optimizer wins if the whole interval of its lead over each other one lies "
        f"beyond the margin of {Numbers(study).margin(settings.margin)}; otherwise those that "
        "are not surely behind tie",
        "Seed": f"{settings.seed}, from which tuning seed, fresh seeds and learning rates follow",
        "Run": f"{provenance.started:%Y-%m-%d %H:%M %z}, {provenance.seconds:.0f} s, "
        f"{provenance.workers} processes with one thread each",
        "Machine": "; ".join(f"{key} {value}" for key, value in provenance.environment.items()),
    }


def _definitions(facts: Mapping[str, str]) -> str:
    items = (f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>\n" for term, text in facts.items())
    return f"<dl>{''.join(items)}</dl>"
