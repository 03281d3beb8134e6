"""The metric over the values: a line with the best rates beneath it, or a heat map."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from thalweg.lab.judging.quantities import hyperparameter
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.look import COLOURS, axis, layout, metric_axis, padded, plot, short, tint
from thalweg.lab.sweeping.sensitivity.answer import Answer, Point

LINE, RATES, GAP, REST = 230, 110, 24, 80
"""Heights in pixels: of the metric, of the rates beneath it, between the two, and of what is around them."""

CELL = 58
"""Pixels of a row of the heat map."""

PALEST, DARKEST = 0.06, 0.62
"""Opacities of the worst and the best cell: text stays readable on both."""


def draw(answer: Answer) -> Figure:
    """The picture that fits the number of hyperparameters."""
    drawn, caption = (
        (_line(answer), LINE_CAPTION) if len(answer.factors) == 1 else (_map(answer), MAP_CAPTION)
    )
    return Figure("sensitivity", _title(answer), caption, {"": drawn}, wide=True)


LINE_CAPTION = (
    "Validation at each value with the learning rate that was best there, mean of the fresh seeds with its "
    "95 % interval; the strip is the margin below the best mean. Beneath it that learning rate."
)
MAP_CAPTION = (
    "Validation at each point with the learning rate that was best there, mean of the fresh seeds, and under "
    "it that learning rate. Stronger colour is better; the defaults are marked where they are on the grid."
)


def _title(answer: Answer) -> str:
    if answer.range is None:
        return f"{answer.names}: too few runs to say anything"
    size, numbers = answer.range.size, answer.numbers
    return f"Over {answer.names}: {numbers.difference(size.mean)}{numbers.in_brackets(size)}"


def _line(answer: Answer) -> go.Figure:
    inner = LINE + GAP + RATES
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=GAP / inner, row_heights=[LINE, RATES])
    figure.update_layout(layout(inner + REST), showlegend=False)
    figure.update_xaxes(axis())
    figure.update_yaxes(axis())
    shown = _ordered(answer)
    labels = [_label(point, 0) for point in shown]
    measured = [(place, p) for place, p in enumerate(shown) if p.metric is not None]
    _add_margin(figure, answer, [p for _, p in measured])
    _add_metrics(figure, answer, measured)
    rates = [(place, p.rate) for place, p in enumerate(shown) if p.rate is not None]
    figure.add_scatter(
        x=[place for place, _ in rates],
        y=short(rate for _, rate in rates),
        mode="lines+markers",
        line={"color": COLOURS[2], "width": 1.5},
        hovertemplate="best lr %{y:.3g}<extra></extra>",
        row=2,
        col=1,
    )
    name = escape(answer.factors[0].name, quote=False)
    figure.update_xaxes(tickvals=list(range(len(shown))), ticktext=labels, range=[-0.4, len(shown) - 0.6])
    figure.update_xaxes(title_text=name, row=2, col=1)
    figure.update_yaxes(title_text=metric_axis(answer.study, "validation"), row=1, col=1)
    figure.update_yaxes(title_text="best lr", type="log", nticks=3, exponentformat="power", row=2, col=1)
    return figure


def _add_margin(figure: go.Figure, answer: Answer, measured: Sequence[Point]) -> None:
    better, means = answer.study.better, [p.metric.mean for p in measured if p.metric is not None]
    if not means or not answer.margin:
        return
    best = max(map(better, means))
    figure.add_hrect(
        y0=better(best),
        y1=better(best - answer.margin),
        fillcolor=tint(COLOURS[0], 0.15),
        line_width=0,
        layer="below",
        row=1,
        col=1,
        exclude_empty_subplots=False,
    )


def _add_metrics(figure: go.Figure, answer: Answer, measured: Sequence[tuple[int, Point]]) -> None:
    found = [(place, p, p.metric) for place, p in measured if p.metric is not None]
    means = [m.mean for _, _, m in found]
    ends = (
        [m.mean if m.high is None else m.high for _, _, m in found],
        [m.mean if m.low is None else m.low for _, _, m in found],
    )
    figure.add_scatter(
        x=[place for place, _, _ in found],
        y=short(means),
        error_y={
            "type": "data",
            "symmetric": False,
            "array": short(high - mean for high, mean in zip(ends[0], means, strict=True)),
            "arrayminus": short(mean - low for low, mean in zip(ends[1], means, strict=True)),
            "color": COLOURS[0],
        },
        mode="lines+markers",
        line={"color": COLOURS[0], "width": 2},
        marker={
            "size": 10,
            "color": COLOURS[0],
            "symbol": ["diamond" if p.is_default else "circle" for _, p, _ in found],
        },
        hovertemplate=f"%{{y:{answer.numbers.format}}}<extra></extra>",
        row=1,
        col=1,
    )
    if means:
        figure.update_yaxes(range=padded(min(*ends[1], *means), max(*ends[0], *means), 0.1), row=1, col=1)


def _ordered(answer: Answer) -> list[Point]:
    """The points, with the defaults in their place among numbers, else last."""
    numbers = all(type(point.values[0]) in (int, float) for point in answer.points)
    return sorted(answer.points, key=lambda point: point.values[0]) if numbers else list(answer.points)


def _label(point: Point, which: int) -> str:
    value = point.values[which]
    text = "default" if value is None and point.is_default else escape(hyperparameter(value), quote=False)
    return f"{text}<br><i>default</i>" if point.is_default and text != "default" else text


def _map(answer: Answer) -> go.Figure:
    across, down = answer.factors
    cells = {point.values: point for point in answer.points if point.on_grid}
    rows = [[cells[a, d] for d in down.values] for a in across.values]
    better = answer.study.better
    heat = [[None if p.metric is None else short([better(p.metric.mean)])[0] for p in row] for row in rows]
    figure = plot(90 + CELL * len(across.values))
    figure.add_heatmap(
        z=heat,
        x=list(range(len(down.values))),
        y=list(range(len(across.values))),
        text=[[_cell(answer, p) for p in row] for row in rows],
        texttemplate="%{text}",
        hoverinfo="skip",
        showscale=False,
        xgap=2,
        ygap=2,
        colorscale=[[0, tint(COLOURS[0], PALEST)], [1, tint(COLOURS[0], DARKEST)]],
    )
    for place, row in enumerate(rows):
        for column, point in enumerate(row):
            if point.metric is None:
                figure.add_annotation(x=column, y=place, text="no run ended", showarrow=False)
    figure.update_xaxes(
        title_text=escape(down.name, quote=False),
        tickvals=list(range(len(down.values))),
        ticktext=_ticks(down.values),
        showgrid=False,
    )
    figure.update_yaxes(
        title_text=escape(across.name, quote=False),
        tickvals=list(range(len(across.values))),
        ticktext=_ticks(across.values),
        showgrid=False,
    )
    return figure


def _ticks(values: Sequence[object]) -> list[str]:
    return [escape(hyperparameter(value), quote=False) for value in values]


def _cell(answer: Answer, point: Point) -> str:
    if point.metric is None:
        return ""
    mark = "<br><i>default</i>" if point.is_default else ""
    return f"<b>{answer.numbers.plain(point.metric.mean)}</b><br>{point.rate:.2g}{mark}"
