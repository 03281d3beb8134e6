"""What all pictures share: one colour for each optimizer, axes, and a plot without chart junk.

Text and grid lines take their colours from the report's style sheet, so that they follow light and
dark; only the data are coloured here.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from thalweg.lab.spaces import Space
from thalweg.lab.study.study import Study

# The first six are Okabe and Ito's, which the colour-blind can tell apart, without black and without the
# yellow that is lost on white. Not everyone can tell twelve colours apart: marker and dash differ too.
COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#999933",
    "#A0307A",
    "#6F5BC8",
    "#888888",
    "#8B5A2B",
    "#1F2F6B",
)
DARK = (
    "#3A96DD",
    "#F5B83D",
    "#2CC795",
    "#F5813D",
    "#E29AC3",
    "#A5D8F7",
    "#C2C25A",
    "#D966B5",
    "#A193F0",
    "#A8A8A8",
    "#D2A36C",
    "#8FA3FF",
)
"""The same colours for a dark page, in the same order; the report's script puts them in their place."""

MARKERS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "star",
    "pentagon",
    "triangle-left",
    "hexagram",
    "bowtie",
    "triangle-right",
    "cross",
    "hourglass",
)
DASHES = ("solid", "dash", "dot", "dashdot")
NEUTRAL = "#888888"
GRID = "#DDE2E7"

LONGEST = 18
"""Characters of a name beside an axis or in a legend; of a longer one the end is shown."""

LEGEND_ROW = 20
"""Pixels of a row of a legend."""

MOST_POINTS = 150
"""Points of a curve that are drawn."""


@dataclass(frozen=True)
class Look:
    """How an optimizer is drawn."""

    colour: str
    marker: str
    dash: str

    def tint(self, opacity: float) -> str:
        """The colour, translucent."""
        return tint(self.colour, opacity)


def look(study: Study, space: Space) -> Look:
    """The look of an optimizer, the same in every picture and table of a report."""
    index = [other.name for other in study.spaces].index(space.name)
    return Look(
        COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)], DASHES[index // 3 % len(DASHES)]
    )


def tint(colour: str, opacity: float) -> str:
    """A colour like ``#0072B2``, translucent."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"


def name(space: Space) -> str:
    """The optimizer's name as text of a plot, which reads entities and a few tags."""
    return escape(space.title, quote=False)


def brief(space: Space) -> str:
    """The name, or the end of one that is too long, as text of a plot."""
    title = space.title if len(space.title) <= LONGEST else "…" + space.title[1 - LONGEST :]
    return escape(title, quote=False)


def label(study: Study, space: Space) -> str:
    """The name beside an axis, with a dot in the optimizer's colour."""
    return f'<span style="color:{look(study, space).colour}">●</span> {brief(space)} '


def unit_of(study: Study) -> str:
    """The metric's unit as text of a plot."""
    return escape(study.workload.unit, quote=False)


def metric_axis(study: Study, split: str) -> str:
    """The title of an axis that shows the metric."""
    unit = f" ({study.workload.unit})" if study.workload.unit else ""
    return escape(f"{split} {study.workload.metric}{unit}", quote=False)


def short(values: Iterable[float]) -> list[float]:
    """The values with six significant digits: more cannot be seen, and would only make the file larger."""
    return [float(f"{value:.6g}") for value in values]


def thinned(count: int) -> list[int]:
    """At most `MOST_POINTS` places out of `count`, evenly spread, the first and the last among them."""
    step = max(1, math.ceil((count - 1) / (MOST_POINTS - 1)))
    return sorted({*range(0, count, step), count - 1}) if count else []


def padded(low: float, high: float, share: float = 0.06) -> list[float]:
    """A range of an axis with some air around the values."""
    air = share * (high - low) or abs(share * high) or 1.0
    return short([low - air, high + air])


def plot(height: int = 350, entries: int = 0) -> go.Figure:
    """An empty plot that takes the width it is given; `entries` in its legend make it higher."""
    return go.Figure(layout=layout(height + LEGEND_ROW * (entries // 2)))


def layout(height: int) -> dict[str, object]:
    """The layout of every plot."""
    return {
        "template": "none",
        "autosize": True,
        "height": height,
        "margin": {"l": 10, "r": 14, "t": 10, "b": 10},
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "maxheight": 0.9},
        "hovermode": "closest",
        "dragmode": False,
        "xaxis": axis(),
        "yaxis": axis(),
    }


def axis() -> dict[str, object]:
    """What every axis has in common."""
    return {
        "zeroline": False,
        "automargin": True,
        "fixedrange": True,
        "gridcolor": GRID,
        "title_standoff": 8,
    }


def rows(study: Study, spaces: Sequence[Space], *, row: int = 34, notes: Sequence[str] = ()) -> go.Figure:
    """A plot with a row for each optimizer, the first on top; row i lies at y = i.

    Args:
        study: gives the colours.
        spaces: the optimizers.
        row: the height of a row in pixels.
        notes: what is to stand under the names.
    """
    labels = [label(study, space) for space in spaces]
    if any(notes):
        labels = [f"{text}<br><sup>{note}</sup> " for text, note in zip(labels, notes, strict=True)]
    figure = plot(84 + row * max(3, len(spaces)))
    figure.update_yaxes(
        tickvals=list(range(len(spaces))),
        ticktext=labels,
        range=[len(spaces) - 0.5, -0.5],
        showgrid=False,
    )
    return figure
