"""The picture of a claim on learning rates: the metric over the rate, arm by arm."""

import math
import statistics
from collections.abc import Sequence

import plotly.graph_objects as go

from thalweg.lab.lesson.known import Known
from thalweg.lab.lesson.page.marks import anchor
from thalweg.lab.lesson.plans import crossed
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.look import look, metric_axis, padded, plot, short, unit_of
from thalweg.lab.showing.figures.look import name as named
from thalweg.lab.spaces import Space
from thalweg.lab.study.study import Study

HEIGHT = 360

SHOWN = 0.6
"""The share of the runs, from the best down, that the axis has room for: those that diverge would press all
others flat."""


def sweep(known: Known) -> Figure | None:
    """The picture, a view for each task; None where no experiment goes through rates or one is not whole."""
    found = [
        known.found[experiment.name]
        for experiment in known.claim.experiments
        if experiment.plan is crossed and experiment.name in known.found.studies
    ]
    if not found or any(e.plan is crossed for e in known.open if e in known.claim.experiments):
        return None
    views = {study.workload.name if len(found) > 1 else "": _plot(study) for study in found}
    return Figure(f"sweep-{anchor(known.claim.name)}", _title(found), CAPTION, views)


CAPTION = (
    "Lines are means over the seeds, bands go from the worst seed to the best. A line ends where a run at "
    "the next rate did not come to its end."
)


def _title(found: Sequence[Study]) -> str:
    runs = sum(len(study.final_of(space)) for study in found for space in study.spaces)
    return f"The metric over the learning rate, {runs:,} runs"


def _plot(study: Study) -> go.Figure:
    figure = plot(HEIGHT, entries=len(study.spaces))
    for space in study.spaces:
        _add(figure, study, space)
    axis = metric_axis(study, "test")
    figure.update_xaxes(type="log", title_text="learning rate", dtick=1, exponentformat="power")
    figure.update_yaxes(title_text=axis, range=_limits(study), nticks=6)
    figure.update_layout(legend={"itemclick": False, "itemdoubleclick": False})
    return figure


def _add(figure: go.Figure, study: Study, space: Space) -> None:
    by_rate = _by_rate(study, space)
    rates, metrics = short(by_rate), list(by_rate.values())
    drawn, unit = look(study, space), unit_of(study)
    for run in _together([place for place, seen in enumerate(metrics) if seen]):
        figure.add_scatter(
            x=[rates[i] for i in run] + [rates[i] for i in reversed(run)],
            y=short([min(metrics[i]) for i in run] + [max(metrics[i]) for i in reversed(run)]),
            fill="toself",
            fillcolor=drawn.tint(0.14),
            line_width=0,
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
        )
    figure.add_scatter(
        x=rates,
        y=[short([statistics.fmean(seen)])[0] if seen else None for seen in metrics],
        name=named(space),
        mode="lines+markers",
        line={"color": drawn.colour, "width": 2.2, "dash": drawn.dash},
        marker={"symbol": drawn.marker, "size": 7, "color": drawn.colour},
        hovertemplate=f"{named(space)}, rate %{{x:.3g}}: %{{y:.4g}} {unit}<extra></extra>",
    )


def _by_rate(study: Study, space: Space) -> dict[float, list[float]]:
    """The test metrics of the seeds at each rate; none where a run did not come to its end."""
    found: dict[float, list[float]] = {}
    failed = set()
    for record in sorted(study.final_of(space), key=lambda record: record.trial.lr):
        seen = found.setdefault(record.trial.lr, [])
        if record.test is None or not math.isfinite(record.test.metric):
            failed.add(record.trial.lr)
        else:
            seen.append(record.test.metric)
    return {rate: [] if rate in failed else seen for rate, seen in found.items()}


def _together(places: Sequence[int]) -> list[list[int]]:
    """Runs of places that follow one another."""
    found: list[list[int]] = []
    for place in places:
        if found and found[-1][-1] == place - 1:
            found[-1].append(place)
        else:
            found.append([place])
    return found


def _limits(study: Study) -> list[float] | None:
    """From the best metric to one that most runs reach, and to all of a metric in percent."""
    metrics = sorted(
        (r.test.metric for s in study.spaces for r in study.final_of(s) if r.test is not None),
        reverse=study.workload.higher_is_better,
    )
    if not metrics:
        return None
    last = (
        metrics[-1]
        if study.workload.unit == "%"
        else metrics[min(len(metrics) - 1, int(SHOWN * len(metrics)))]
    )
    return padded(min(metrics[0], last), max(metrics[0], last), 0.06)
