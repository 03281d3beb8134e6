"""The picture of the lines between the ends of runs: barriers, and how sharp the ends are."""

import math
from collections.abc import Mapping

import plotly.graph_objects as go

from thalweg.lab.lesson.landscape.file import Between, Landscape
from thalweg.lab.lesson.landscape.names import SIZE, brief, round_losses
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.look import COLOURS, DASHES, MARKERS, plot, short, tint


def lines(landscape: Landscape) -> Figure:
    """The loss along the lines between the ends, and how sharp each end is."""
    figure = plot(SIZE)
    for place, between in enumerate(landscape.lines):
        _line(figure, place, between)
    figure.update_xaxes(title_text="place between the ends", tickvals=[0, 0.5, 1])
    seen = [loss for between in landscape.lines for loss in between.losses if loss > 0]
    ticks = round_losses(math.log10(min(seen)), math.log10(max(seen)))
    figure.update_yaxes(
        title_text="training loss", type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks]
    )
    return Figure(f"lines-{landscape.workload}", _barriers(landscape), _sharpness(landscape), {"": figure})


def _line(figure: go.Figure, place: int, between: Between) -> None:
    colour, xs = COLOURS[3 + place], short(between.positions)
    low = [max(loss - error, loss / 100) for loss, error in zip(between.losses, between.errors, strict=True)]
    high = [loss + error for loss, error in zip(between.losses, between.errors, strict=True)]
    figure.add_scatter(
        x=[*xs, *reversed(xs)],
        y=short([*low, *reversed(high)]),
        fill="toself",
        fillcolor=tint(colour, 0.18),
        line_width=0,
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )
    first, second = map(brief, between.ends)
    figure.add_scatter(
        x=xs,
        y=short(between.losses),
        mode="lines+markers",
        name=f"{first} to {second}",
        line={"color": colour, "width": 2.2, "dash": DASHES[place]},
        marker={"size": 5, "color": colour, "symbol": MARKERS[3 + place]},
        hovertemplate=f"{first} to {second}, %{{x:.2f}}: loss %{{y:.3g}}<extra></extra>",
    )


def _barriers(landscape: Landscape) -> str:
    told = ", ".join(
        f"{brief(b.ends[0])} to {brief(b.ends[1])} {b.height:.2g} ± {b.height_error:.1g}"
        for b in landscape.lines
    )
    return f"On {landscape.workload}, barriers between the ends: {told}"


def _sharpness(landscape: Landscape) -> str:
    ends: Mapping[str, float] = {course.name: course.sharpness for course in landscape.courses}
    told = ", ".join(f"{brief(name)} {value:.3g}" for name, value in ends.items())
    metrics = ", ".join(
        f"{brief(c.name)} {c.metric:.3g}{' ' if landscape.unit else ''}{landscape.unit}"
        for c in landscape.courses
    )
    return (
        "The training loss on the straight lines between the ends of the runs, with its standard error over "
        "batches. A barrier is how far it rises above the straight line between the losses of the ends. "
        f"Sharpness, the largest eigenvalue of the Hessian: start {landscape.start:.3g}, {told}. Validation "
        f"{landscape.metric}: {metrics}. One seed: what separates these runs may be luck."
    )
