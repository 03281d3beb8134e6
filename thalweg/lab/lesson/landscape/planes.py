"""The picture of planes: the loss over them, and the paths of the runs.

A plane is square, with equal units on both sides, so that angles are true.
"""

import math
from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go

from thalweg.lab.lesson.landscape.file import Course, Landscape, View
from thalweg.lab.lesson.landscape.names import NAMES, SIZE, brief, place, round_losses
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.look import COLOURS, DASHES, MARKERS, NEUTRAL, plot, short, tint

ABOVE, BELOW = 52, 96
"""Pixels for the legend, and for the axis and the slider."""

SCALE = (
    (0.0, "#f7f4ea"),
    (0.25, "#d5dfdd"),
    (0.5, "#a3bccb"),
    (0.75, "#6c8db0"),
    (1.0, "#41597f"),
)
"""From low ground to high."""

MOST = 2.2
"""Decades above the lowest loss that differ in colour at least, and all below the start."""

LEVELS = 14
"""Contours."""


def planes(landscape: Landscape) -> Figure:
    """A view for each plane."""
    views = {" and ".join(map(brief, view.ends)): _plane(landscape, view) for view in landscape.views}
    return Figure(f"planes-{landscape.workload}", _finding(landscape), _caption(landscape), views)


def _finding(landscape: Landscape) -> str:
    ends = {course.name: course.losses[-1] for course in landscape.courses}
    best = min(ends, key=lambda name: ends[name])
    told = ", ".join(f"{brief(name)} {loss:.3g}" for name, loss in ends.items())
    title = f"On {landscape.workload}, from one start to three places: training loss {told}"
    return title if len({*ends.values()}) == 1 else f"{title}; {brief(best)} is lowest"


def _caption(landscape: Landscape) -> str:
    rates = ", ".join(f"{brief(c.name)} {c.rate:.2g} ({c.origin})" for c in landscape.courses)
    return (
        f"Measured: the mean training loss over {landscape.batches} batches of {landscape.batch_size} at "
        f"each of {_points(landscape)} points of the plane through the common start and the ends of two "
        "runs, with the paths of all three from the cross. It is not the landscape: a plane has 2 of "
        f"{landscape.parameters:,} dimensions, and between its points nothing was measured. "
        f"{_off(landscape)} Units are those of the weights, and angles are true. Learning rates: {rates}."
    )


def _points(landscape: Landscape) -> str:
    view = landscape.views[0]
    return f"{len(view.xs)} x {len(view.ys)}"


def _off(landscape: Landscape) -> str:
    """How far paths are from the planes."""
    within = max(_farthest(view, name) for view in landscape.views for name in view.ends)
    thirds = [
        f"{brief(name)} ends {_percent(view.shares[name][-1])} off the plane of the two others"
        for view in landscape.views
        for name in view.shares
        if name not in view.ends
    ]
    return (
        "Projection error, as a share of the way from the start to the end: the two runs of a plane leave "
        f"it by up to {_percent(within)} in between; {', '.join(thirds)}. Dotted paths are such shadows: the "
        "ground below one is not where it ran."
    )


def _farthest(view: View, name: str) -> float:
    """How far a run whose end lies on the plane is from it at most, as a share of its whole way."""
    return max(view.distances[name]) / math.hypot(*view.paths[name][-1])


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _plane(landscape: Landscape, view: View) -> go.Figure:
    figure = plot(SIZE + ABOVE + BELOW)
    low, high = _heights(landscape)
    _ground(figure, view, low, high)
    for course in landscape.courses:
        _path(figure, view, course, is_shadow=course.name not in view.ends)
    start = view.paths[view.ends[0]][0]
    figure.add_scatter(
        x=short([start[0]]),
        y=short([start[1]]),
        mode="markers",
        marker={"symbol": "x", "size": 10, "color": "#1c2024", "line": {"width": 1.5, "color": "#ffffff"}},
        showlegend=False,
        hovertemplate=f"start: loss {landscape.courses[0].losses[0]:.3g}<extra></extra>",
    )
    places = _walkers(figure, landscape, view)
    # The legend has a place of its own: beside axes of equal units, Plotly does not make room for it.
    legend = {"yref": "container", "y": 1, "yanchor": "top"}
    figure.update_layout(
        sliders=[_slider(landscape, view, places)], margin={"t": ABOVE, "b": BELOW}, legend=legend
    )
    figure.update_xaxes(range=short([view.xs[0], view.xs[-1]]), showgrid=False, constrain="domain", nticks=6)
    figure.update_yaxes(
        range=short([view.ys[0], view.ys[-1]]),
        showgrid=False,
        scaleanchor="x",
        scaleratio=1,
        constrain="domain",
        nticks=6,
    )
    return figure


def _heights(landscape: Landscape) -> tuple[float, float]:
    """Logarithms between which colours run, the same for all planes of a workload, from the start's down."""
    seen = [z for view in landscape.views for row in view.losses for z in row if z is not None and z > 0]
    low = math.log10(min(seen))
    start = math.log10(landscape.courses[0].losses[0])
    return low, min(math.log10(max(seen)), max(low + MOST, start))


def _ground(figure: go.Figure, view: View, low: float, high: float) -> None:
    logs = [[None if z is None or z <= 0 else round(math.log10(z), 3) for z in row] for row in view.losses]
    step = (high - low) / LEVELS or 1.0
    ticks = round_losses(low, high)
    figure.add_contour(
        x=short(view.xs),
        y=short(view.ys),
        z=logs,
        customdata=[
            [[z, error] for z, error in zip(row, errors, strict=True)]
            for row, errors in zip(view.losses, view.errors, strict=True)
        ],
        zmin=low,
        zmax=high,
        colorscale=SCALE,
        contours={"start": low, "end": high, "size": step},
        line={"width": 0.6, "color": "rgba(28, 32, 36, 0.35)"},
        colorbar={
            "title": {"text": "loss", "side": "top"},
            "thickness": 10,
            "tickvals": short(map(math.log10, ticks)),
            "ticktext": [f"{tick:g}" for tick in ticks],
            "outlinewidth": 0,
            "x": 1.01,
            "xpad": 4,
        },
        hovertemplate="loss %{customdata[0]:.3g} ± %{customdata[1]:.1g}<extra></extra>",
    )


def _path(figure: go.Figure, view: View, course: Course, *, is_shadow: bool) -> None:
    which = place(course.name)
    xs, ys = (short(point[axis] for point in view.paths[course.name]) for axis in (0, 1))
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="lines",
        line={"width": 5, "color": "rgba(255, 255, 255, 0.85)"},
        hoverinfo="skip",
        showlegend=False,
    )
    figure.add_scatter(
        x=xs,
        y=ys,
        mode="lines+markers",
        line={"width": 2.2, "color": COLOURS[which], "dash": DASHES[2] if is_shadow else DASHES[0]},
        marker={"size": 4.5, "color": COLOURS[which], "symbol": MARKERS[which]},
        opacity=0.6 if is_shadow else 1.0,
        name=f"{brief(course.name)}{' (shadow)' if is_shadow else ''}",
        customdata=list(
            zip(course.steps, course.losses, course.errors, short(view.shares[course.name]), strict=True)
        ),
        hovertemplate=f"{escape(NAMES[course.name])}, step %{{customdata[0]}}: loss %{{customdata[1]:.3g}} ± "
        "%{customdata[2]:.1g}, %{customdata[3]:.0%} off the plane<extra></extra>",
    )


def _walkers(figure: go.Figure, landscape: Landscape, view: View) -> list[int]:
    """A large mark for each run, which the slider moves; gives their places among the traces."""
    for course in landscape.courses:
        which = place(course.name)
        x, y = view.paths[course.name][-1]
        figure.add_scatter(
            x=short([x]),
            y=short([y]),
            mode="markers",
            marker={
                "size": 15,
                "color": COLOURS[which],
                "symbol": MARKERS[which],
                "line": {"width": 2, "color": "#ffffff"},
            },
            hoverinfo="skip",
            showlegend=False,
        )
    count = len(figure.data)
    return list(range(count - len(landscape.courses), count))


def _slider(landscape: Landscape, view: View, places: Sequence[int]) -> dict[str, object]:
    """Moves the marks to where the runs were at a step."""
    steps = landscape.courses[0].steps
    return {
        "active": len(steps) - 1,
        "steps": [
            {
                "label": str(step),
                "method": "restyle",
                "args": [
                    {
                        axis: [short([view.paths[course.name][k][i]]) for course in landscape.courses]
                        for i, axis in enumerate("xy")
                    },
                    list(places),
                ],
            }
            for k, step in enumerate(steps)
        ],
        "currentvalue": {"prefix": "step ", "font": {"size": 13, "color": NEUTRAL}, "offset": 6},
        "pad": {"t": 34, "b": 0},
        "ticklen": 0,
        "minorticklen": 0,
        "font": {"size": 1, "color": "rgba(0, 0, 0, 0)"},
        "bgcolor": tint(NEUTRAL, 0.3),
        "activebgcolor": NEUTRAL,
        "bordercolor": tint(NEUTRAL, 0.5),
    }
