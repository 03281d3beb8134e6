"""The test metric of each seed, and how far the best mean is ahead on each of them."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from thalweg.lab.judging import findings
from thalweg.lab.judging.statistics import Comparison, Interval, Row, final_metrics
from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.judging.wording import Numbers
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.look import (
    NEUTRAL,
    label,
    look,
    metric_axis,
    name,
    padded,
    rows,
    short,
    tint,
    unit_of,
)
from thalweg.lab.spaces import Space
from thalweg.lab.study.protocol import evidence
from thalweg.lab.study.study import Study

BELOW = 0.24
"""How far below its seeds a mean is drawn, in rows."""


def seeds(study: Study, verdict: Verdict) -> Figure | None:
    """Test of each seed, pairs joined; None before the first final run has ended."""
    shown = [row for row in verdict.ranking if final_metrics(study, row.space)]
    if not shown:
        return None
    spaces = [row.space for row in shown]
    figure = rows(study, spaces, row=46)
    _join(figure, study, spaces)
    for place, row in enumerate(shown):
        _add_seeds(figure, study, row.space, place, Numbers(study, verdict.margin))
        if row.test is not None:
            _add_mean(figure, study, row, row.test, place, Numbers(study, verdict.margin))
    figure.update_xaxes(title_text=metric_axis(study, "test"))
    return Figure(
        "seeds",
        findings.ahead(study, verdict),
        f"Test {study.workload.metric} of each seed (small), and under it the mean{_interval(study)} "
        f"(large). A thin line joins runs with the same initial weights and order of data.{_failed(shown)}",
        {"": figure},
    )


def lead(study: Study, verdict: Verdict) -> Figure | None:
    """The paired differences behind the verdict; None where there are no two optimizers to compare."""
    against = verdict.against
    if not against:
        return None
    figure = rows(study, [c.second for c in against], row=46)
    numbers = Numbers(study, verdict.margin)
    if verdict.margin:
        figure.add_vrect(
            x0=-verdict.margin, x1=verdict.margin, fillcolor=tint(NEUTRAL, 0.22), line_width=0, layer="below"
        )
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1})
    values = [0.0, verdict.margin, -verdict.margin]
    for place, comparison in enumerate(against):
        values += _add_differences(figure, study, comparison, place, numbers)
    unit = f" ({escape(study.workload.difference_unit)})" if study.workload.difference_unit else ""
    first = against[0].first
    together = " with the interval that holds for all pairs together with 95 %"
    together = together if study.settings.seeds > 1 else ""
    title = f"lead of {label(study, first).strip()}{unit}"
    figure.update_xaxes(title_text=title, range=padded(min(values), max(values)))
    return Figure(
        "lead",
        findings.lead(verdict),
        f"By how much {first.title} is better on test, seed by seed (small), and under it the "
        f"mean{together} "
        f"(large). The grey zone is the margin of {numbers.margin}: a difference "
        "that small is not worth having.",
        {"": figure},
    )


def _interval(study: Study) -> str:
    return " with its 95 % interval" if study.settings.seeds > 1 else ""


def _join(figure: go.Figure, study: Study, spaces: Sequence[Space]) -> None:
    """One thin line for each seed, broken where a run failed."""
    metrics = [final_metrics(study, space) for space in spaces]
    x: list[float | None] = []
    y: list[float | None] = []
    for seed in sorted({seed for finished in metrics for seed in finished}):
        x += [finished.get(seed) for finished in metrics] + [None]
        y += [*map(float, range(len(spaces))), None]
    figure.add_scatter(
        x=[None if value is None else short([value])[0] for value in x],
        y=y,
        mode="lines",
        line={"color": NEUTRAL, "width": 0.8},
        opacity=0.45,
        hoverinfo="skip",
        showlegend=False,
    )


def _add_seeds(figure: go.Figure, study: Study, space: Space, place: int, numbers: Numbers) -> None:
    metrics, drawn = final_metrics(study, space), look(study, space)
    figure.add_scatter(
        x=short(metrics.values()),
        y=[place] * len(metrics),
        mode="markers",
        marker={"symbol": drawn.marker, "size": 7, "color": drawn.colour, "opacity": 0.65},
        customdata=list(metrics),
        showlegend=False,
        hovertemplate=f"{name(space)}, seed %{{customdata}}: %{{x:{numbers.format}}} {unit_of(study)}"
        "<extra></extra>",
    )


def _add_mean(
    figure: go.Figure, study: Study, row: Row, mean: Interval, place: int, numbers: Numbers
) -> None:
    drawn = look(study, row.space)
    figure.add_scatter(
        x=short([mean.mean]),
        y=[place + BELOW],
        error_x=bar(mean),
        mode="markers",
        marker={"symbol": drawn.marker, "size": 11, "color": drawn.colour},
        showlegend=False,
        hovertemplate=f"{name(row.space)}, mean {numbers.plain(mean.mean)} {unit_of(study)}, "
        f"95 % interval {numbers.interval(mean)}<extra></extra>",
    )


def _add_differences(
    figure: go.Figure, study: Study, comparison: Comparison, place: int, numbers: Numbers
) -> list[float]:
    """Draws one comparison and returns the differences it shows."""
    found = evidence(study)
    ours, others = found.scores(comparison.first), found.scores(comparison.second)
    differences = {seed: ours[seed] - others[seed] for seed in ours if seed in others}
    drawn, unit = look(study, comparison.second), escape(study.workload.difference_unit)
    figure.add_scatter(
        x=short(differences.values()),
        y=[place] * len(differences),
        mode="markers",
        marker={"symbol": drawn.marker, "size": 7, "color": drawn.colour, "opacity": 0.65},
        customdata=list(differences),
        showlegend=False,
        hovertemplate=f"seed %{{customdata}}: %{{x:{numbers.format}}} {unit}<extra></extra>",
    )
    figure.add_scatter(
        x=short([comparison.difference.mean]),
        y=[place + BELOW],
        error_x=bar(comparison.difference),
        mode="markers",
        marker={"symbol": drawn.marker, "size": 11, "color": drawn.colour},
        showlegend=False,
        hovertemplate=f"mean {escape(numbers.difference(comparison.difference.mean))}, 95 % for all pairs "
        f"{numbers.interval(comparison.difference)}<extra></extra>",
    )
    # The interval is drawn whole, unless it is far wider than all that was seen.
    shown, difference = list(differences.values()), comparison.difference
    room = max(shown) - min(shown) or abs(max(shown))
    ends = [end for end in (difference.low, difference.high) if end is not None]
    return [*shown, *(min(max(end, min(shown) - room), max(shown) + room) for end in ends)]


def bar(interval: Interval) -> dict[str, object]:
    """The interval as Plotly's error bar."""
    if interval.low is None or interval.high is None:
        return {"visible": False}
    return {
        "type": "data",
        "symmetric": False,
        "array": short([interval.high - interval.mean]),
        "arrayminus": short([interval.mean - interval.low]),
        "thickness": 2.5,
        "width": 5,
    }


def _failed(shown: Sequence[Row]) -> str:
    failed = [f"{row.space.title} on {row.failures} of {row.measured}" for row in shown if row.failures]
    if not failed:
        return ""
    return f" Failed, and counted as the worst outcome, which is not drawn: {', '.join(failed)}."
