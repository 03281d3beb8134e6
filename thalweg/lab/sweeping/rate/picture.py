"""The loss against the climbing rate, with the suggestion and the place where training breaks."""

import math

import plotly.graph_objects as go

from thalweg.lab.judging.statistics import Interval
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.look import COLOURS, NEUTRAL, padded, plot, short, thinned, tint
from thalweg.lab.sweeping.rate.curve import WIDTH, Sweep
from thalweg.lab.sweeping.rate.found import Found, rate

SUGGESTED, UNDONE = COLOURS[2], COLOURS[3]


def course(found: Found) -> Figure:
    """A thin line for each seed, the losses of the batches as dots."""
    figure = plot(380, 2)
    for sweep in found.sweeps:
        _add(figure, sweep, first=sweep is found.sweeps[0], counted=found.counted)
    _mark(figure, found.suggested, SUGGESTED, "suggested")
    _mark(figure, found.undone, UNDONE, "undone")
    figure.update_xaxes(
        type="log",
        title_text="learning rate",
        range=padded(math.log10(found.low), math.log10(found.high), 0.01),
        dtick=1,
        exponentformat="power",
    )
    figure.update_yaxes(title_text="training loss", range=_focus(found))
    return Figure("course", _title(found), _caption(found), {"": figure}, wide=True)


def _title(found: Found) -> str:
    if found.suggested is None:
        return "The loss against the rate suggests none"
    text = f"The loss suggests {rate(found.suggested.mean)}"
    return text if found.undone is None else f"{text}; training is undone at {rate(found.undone.mean)}"


def _caption(found: Found) -> str:
    shaded = any(end is not None and end.low is not None for end in (found.suggested, found.undone))
    return (
        f"Each line is one {found.counted}: the loss after the step with each rate, smoothed over "
        f"{WIDTH:g} decades; the dots are batches."
        + (" Shaded: the 95 % intervals of the two rates." if shaded else "")
        + " What lies above the picture is training that is undone."
    )


def _add(figure: go.Figure, sweep: Sweep, *, first: bool, counted: str) -> None:
    places = thinned(len(sweep.rates))
    figure.add_scatter(
        x=short(sweep.rates[place] for place in places),
        y=short(sweep.losses[place] for place in places),
        name="one batch",
        mode="markers",
        marker={"size": 4, "color": tint(NEUTRAL, 0.35)},
        hoverinfo="skip",
        legendgroup="batch",
        showlegend=first,
    )
    figure.add_scatter(
        x=short(sweep.rates[place] for place in places),
        y=short(float(sweep.smoothed[place]) for place in places),
        name=f"one {counted}, smoothed",
        mode="lines",
        line={"color": COLOURS[0], "width": 1.8},
        opacity=0.75,
        hovertemplate="rate %{x:.3g}, loss %{y:.4g}<extra></extra>",
        legendgroup="line",
        showlegend=first,
    )


def _mark(figure: go.Figure, found: Interval | None, colour: str, word: str) -> None:
    if found is None:
        return
    if found.low is not None:
        figure.add_vrect(
            x0=short([found.low])[0],
            x1=short([found.high or found.mean])[0],
            fillcolor=tint(colour, 0.2),
            line_width=0,
            layer="below",
        )
    figure.add_vline(x=short([found.mean])[0], line={"color": colour, "width": 2})
    figure.add_annotation(
        x=math.log10(found.mean),
        y=1,
        yref="paper",
        yanchor="top",
        xanchor="right",
        yshift=0 if word == "suggested" else -20,  # below it: on a phone there is no room beside it
        text=f" {word}: {rate(found.mean)} ",
        showarrow=False,
    )


def _focus(found: Found) -> list[float]:
    """From the lowest loss to somewhat above the start; single batches may lie outside."""
    lowest = [float(sweep.smoothed.min()) for sweep in found.sweeps if sweep.rates]
    starts = [sweep.start for sweep in found.sweeps if math.isfinite(sweep.start)]
    if not lowest or not starts:
        return [0.0, 1.0]
    low, high = min(lowest), max(starts)
    return padded(low, high + 0.25 * (high - low))
