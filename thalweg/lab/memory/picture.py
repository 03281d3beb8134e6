"""What training takes: a stacked bar for each optimizer and storage."""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from thalweg.lab.judging.quantities import byte_unit, size
from thalweg.lab.memory.counted import ITS_OWN, Counted, Share
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.look import COLOURS, LONGEST, plot, short, tint

ROOM = 1.22
"""How far the axis goes on beyond the longest bar, for the number at its end."""

ROW = 26
"""Pixels of a bar, and of the name above those of one optimizer."""

FILLS = {
    "weights": COLOURS[0],
    "corrections": tint(COLOURS[0], 0.5),
    "gradients": COLOURS[1],
    "state": COLOURS[2],
}
"""The colour of each share; corrections belong to the weights."""


def shares(counted: Counted) -> Figure:
    """The bars, those of one optimizer under its name."""
    places, names = _places(counted)
    unit, factor = byte_unit(max(row.total for row in counted.rows))
    figure = plot(110 + ROW * (len(places) + len(names)))
    for share in counted.shares():
        _add(figure, counted, share, places, factor, unit)
    figure.add_scatter(
        x=short(row.total / factor for row in counted.rows),
        y=places,
        mode="text",
        text=[f" {size(row.total)}" for row in counted.rows],
        textposition="middle right",
        cliponaxis=False,
        hoverinfo="skip",
        showlegend=False,
    )
    for place, name in names:
        figure.add_annotation(
            x=0,
            y=place,
            text=f"<b>{escape(name, quote=False)}</b>",
            showarrow=False,
            xanchor="left",
            yshift=-3,
        )
    figure.update_layout(barmode="stack", bargap=0.2, legend={"traceorder": "normal"})
    figure.update_yaxes(
        tickvals=places,
        ticktext=[f"{_label(row.storage)} " for row in counted.rows],
        range=[max(places) + 0.6, -0.6],
        showgrid=False,
    )
    longest = max(row.total for row in counted.rows) / factor
    figure.update_xaxes(title_text=unit, range=short([0, ROOM * longest or 1]), nticks=6)
    caption = (
        "State is what the optimizer keeps; buffers are with the weights. At the end of each bar its total."
    )
    return Figure("shares", _finding(counted), caption, {"": figure}, wide=True)


def _finding(counted: Counted) -> str:
    least, most = (size(pick(row.state for row in counted.rows)) for pick in (min, max))
    return f"Optimizer state takes {most}" if least == most else f"Optimizer state takes {least} to {most}"


def _places(counted: Counted) -> tuple[list[int], list[tuple[int, str]]]:
    """Where the bars lie, and where the names above the first bar of each optimizer."""
    places: list[int] = []
    names: list[tuple[int, str]] = []
    for row in counted.rows:
        if not names or names[-1][1] != row.optimizer:
            names.append((len(places) + len(names), row.optimizer))
        places.append(len(places) + len(names))
    return places, names


def _add(
    figure: go.Figure, counted: Counted, share: Share, places: Sequence[int], factor: float, unit: str
) -> None:
    held = [share.of(row) for row in counted.rows]
    figure.add_bar(
        name=share.name,
        y=places,
        x=short(part / factor for part in held),
        orientation="h",
        marker={"color": FILLS[share.name], "line_width": 0},
        customdata=[
            [escape(f"{row.optimizer}, {row.storage or ITS_OWN}"), size(part)]
            for row, part in zip(counted.rows, held, strict=True)
        ],
        hovertemplate=f"%{{customdata[0]}}<br>{share.name}: %{{customdata[1]}}<extra></extra>",
    )


def _label(storage: str | None) -> str:
    text = storage or ITS_OWN
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
