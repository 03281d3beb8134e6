"""One row of the picture of learning rates: the tuning trials of one optimizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from thalweg.lab.judging.measures import basin
from thalweg.lab.judging.quantities import hyperparameters
from thalweg.lab.judging.wording import Numbers
from thalweg.lab.showing.figures.look import NEUTRAL, Look, brief, look, name, short, tint
from thalweg.lab.spaces import Space
from thalweg.lab.study.protocol import chosen, rate_range
from thalweg.lab.study.record import Record
from thalweg.lab.study.study import Study

KINDS = {
    "good": ("within the margin of its best", "circle", 9),
    "worse": ("worse than that", "circle-open", 8),
    "outside": ("worse than the picture shows", "triangle-down-open", 8),
    "extended": ("tried in a later round", "diamond-open", 9),
    "failed": ("failed", "x-thin-open", 9),
    "chosen": ("chosen", "circle-open", 17),
}
"""What a marker means, its symbol and its size."""


@dataclass(frozen=True)
class Scale:
    """What all rows share.

    Attributes:
        study: all records.
        numbers: writes its metric.
        margin: the smallest difference worth having.
        worst: the worst value of the metric that is shown.
        best: the best.
    """

    study: Study
    numbers: Numbers
    margin: float
    worst: float
    best: float

    def height(self, record: Record) -> float:
        """The metric, or the edge of the picture where it is worse or the trial failed."""
        if record.validation is None:
            return self.worst
        better = self.study.better
        return better(max(better(record.validation.metric), better(self.worst)))


def best_of(study: Study, space: Space) -> float | None:
    """The best validation metric of an optimizer in tuning; None if every trial failed."""
    metrics = [r.validation.metric for r in study.tuning_of(space) if r.validation is not None]
    return max(metrics, key=study.better, default=None)


def add_row(figure: go.Figure, scale: Scale, space: Space, place: int) -> set[str]:
    """Draws an optimizer's trials in row `place` and returns the kinds of markers there are among them."""
    study, drawn = scale.study, look(scale.study, space)
    records, taken = study.tuning_of(space), chosen(study, space)
    kinds = [_kind(scale, record, best_of(study, space)) for record in records]
    _add_heading(figure, scale, space, place)
    _add_strip(figure, scale, space, place)
    _add_extension(figure, study, space, place)
    if len(study.searched(space)) == 1:
        _add_line(figure, scale, space, place, records)
    _add_markers(figure, scale, space, place, records, kinds)
    if taken is not None:
        _add_ring(figure, scale, space, taken, drawn, place)
    extended = any(record.trial.stage == "extend" for record in records)
    return {*kinds, *(["extended"] if extended else []), *(["chosen"] if taken else [])}


def _add_heading(figure: go.Figure, scale: Scale, space: Space, place: int) -> None:
    found = basin(scale.study, space, scale.margin)
    width = "every trial failed" if found is None else f"{found.decades:.1f} of {found.searched:.1f} decades"
    figure.add_annotation(
        text=f'<span style="color:{look(scale.study, space).colour}">●</span> <b>{brief(space)}</b>: {width}',
        xref="paper",
        yref=f"y{place if place > 1 else ''} domain",
        x=0,
        y=1,
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
    )


def _add_strip(figure: go.Figure, scale: Scale, space: Space, place: int) -> None:
    """The strip of values that are as good as the best."""
    study, best = scale.study, best_of(scale.study, space)
    if best is None or not scale.margin:
        return
    figure.add_hrect(
        y0=best,
        y1=study.better(study.better(best) - scale.margin),
        fillcolor=look(study, space).tint(0.22),
        line_width=0,
        layer="below",
        row=place,
        col=1,
        exclude_empty_subplots=False,
    )


def _add_extension(figure: go.Figure, study: Study, space: Space, place: int) -> None:
    """Shades what was searched beyond the first range."""
    first, wide = space.axes[0], rate_range(study, space)
    for low, high in ((wide.low, first.low), (first.high, wide.high)):
        if low < high:
            figure.add_vrect(
                x0=low,
                x1=high,
                fillcolor=tint(NEUTRAL, 0.16),
                line_width=0,
                layer="below",
                row=place,
                col=1,
                exclude_empty_subplots=False,
            )


def _add_line(figure: go.Figure, scale: Scale, space: Space, place: int, records: Sequence[Record]) -> None:
    figure.add_scatter(
        x=short(_rate(space, record) for record in records),
        y=[None if r.validation is None else short([scale.height(r)])[0] for r in records],
        mode="lines",
        line={"color": look(scale.study, space).colour, "width": 1.2},
        opacity=0.6,
        hoverinfo="skip",
        showlegend=False,
        row=place,
        col=1,
    )


def _add_markers(
    figure: go.Figure,
    scale: Scale,
    space: Space,
    place: int,
    records: Sequence[Record],
    kinds: Sequence[str],
) -> None:
    drawn = look(scale.study, space)
    ids = {id(record): index for index, record in enumerate(scale.study.records)}
    figure.add_scatter(
        x=short(_rate(space, record) for record in records),
        y=short(scale.height(record) for record in records),
        mode="markers",
        marker={
            "symbol": [_symbol(kind, record) for kind, record in zip(kinds, records, strict=True)],
            "size": [KINDS[kind][2] for kind in kinds],
            "color": drawn.colour,
            "line": {"width": 1.6, "color": drawn.colour},
        },
        customdata=[[ids[id(record)], *_said(record, scale.numbers)] for record in records],
        hovertemplate=f"{name(space)}, trial %{{customdata[0]}}: %{{customdata[1]}}"
        "<br>%{customdata[2]}<extra></extra>",
        showlegend=False,
        row=place,
        col=1,
    )


def _add_ring(figure: go.Figure, scale: Scale, space: Space, record: Record, drawn: Look, place: int) -> None:
    _, symbol, size = KINDS["chosen"]
    figure.add_scatter(
        x=short([_rate(space, record)]),
        y=short([scale.height(record)]),
        mode="markers",
        marker={"symbol": symbol, "size": size, "color": drawn.colour, "line_width": 2.2},
        hoverinfo="skip",
        showlegend=False,
        row=place,
        col=1,
    )


def _rate(space: Space, record: Record) -> float:
    return record.trial.point[space.axes[0].name]


def _kind(scale: Scale, record: Record, best: float | None) -> str:
    if record.validation is None or best is None:
        return "failed"
    better = scale.study.better
    score = better(record.validation.metric)
    if score >= better(best) - scale.margin:
        return "good"
    return "worse" if score >= better(scale.worst) else "outside"


def _symbol(kind: str, record: Record) -> str:
    if record.trial.stage != "extend" or kind not in ("good", "worse"):
        return KINDS[kind][1]
    return "diamond" if kind == "good" else "diamond-open"


def _said(record: Record, numbers: Numbers) -> list[str]:
    """The result of a trial and its hyperparameters, as text of a plot."""
    result = record.failure.text if record.failure else ""
    if record.validation is not None:
        result = numbers.value(record.validation.metric)
    return [escape(text, quote=False) for text in (result, hyperparameters(record.trial.settings))]
