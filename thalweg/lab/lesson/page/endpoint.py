"""The picture that every measured claim has: its endpoint on each seed, against its margin."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from thalweg.lab.lesson.known import Known
from thalweg.lab.lesson.page.marks import COLOUR, anchor, details, number
from thalweg.lab.lesson.scale import Scale
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.look import COLOURS, NEUTRAL, padded, plot, short, tint

HEIGHT = 190

SEEDS, MEAN = 0.0, -1.0
"""Where the seeds and their mean lie."""

SPREAD = 0.28
"""How far seeds lie above and below one another, so that equal ones are told apart."""

MOST_TICKS = 6

FACTORS = (1, 1.5, 2, 3, 5)
"""Factors at which an axis of ratios may be labelled, and their multiples of powers of ten."""


def endpoint(known: Known) -> Figure | None:
    """The picture; None where nothing was measured.

    What favours the claim lies on the right. Values are drawn as they are said: where less is in favour,
    the axis runs from right to left.
    """
    scale, values = known.claim.scale, list(known.values.values())
    if scale is None or not values or not all(map(math.isfinite, values)):
        return None
    figure = plot(HEIGHT)
    left, right = _range(known, scale, values)
    _zones(figure, scale, left, right)
    _seeds(figure, known, scale)
    _mean(figure, known, scale)
    ends = _said(scale, [left, right])
    figure.update_xaxes(range=ends, title_text=scale.unit, **_ticks(scale, min(ends), max(ends)))
    figure.update_yaxes(
        range=[-1.75, 1.0],
        tickvals=[SEEDS, MEAN],
        ticktext=["seeds ", "mean "],
        showgrid=False,
    )
    return Figure(f"endpoint-{anchor(known.claim.name)}", title(known), _caption(known, scale), {"": figure})


def _said(scale: Scale, values: Sequence[float]) -> list[float]:
    """Values where they are drawn: with the sign with which they are said."""
    return short(-value if scale.turned else value for value in values)


def title(known: Known) -> str:
    """What was found."""
    text = f"{number(known)} {known.claim.reads}".strip()
    return text[0].upper() + text[1:]


def _caption(known: Known, scale: Scale) -> str:
    mean = "its mean" if math.isnan(known.verdict.low) else "the mean with its 95 % interval"
    margin = scale.number(scale.margin)
    if scale.margin > 0:
        zone = f"The grey zone is the margin of {margin}: so little is not worth having."
    else:
        zone = f"The line is the margin of {margin}."
    return f"Each dot is a seed, below them {mean}. {zone} What lies to the right of it speaks for the claim."


def _range(known: Known, scale: Scale, values: Sequence[float]) -> tuple[float, float]:
    """All that is drawn, no difference, the margin, and what lies beyond it."""
    verdict, margin = known.verdict, scale.margin
    spread = max(values) - min(values) or abs(margin)
    ends = [end for end in (verdict.low, verdict.high) if math.isfinite(end)]
    # An interval far wider than what was seen is cut, so that the seeds can still be told apart.
    ends = [min(max(end, min(values) - 2 * spread), max(values) + 2 * spread) for end in ends]
    shown = [*values, *ends, 0.0, margin - 0.25 * abs(margin), margin + 0.25 * abs(margin)]
    left, right = padded(min(shown), max(shown), 0.08)
    return left, right


def _zones(figure: go.Figure, scale: Scale, left: float, right: float) -> None:
    margin = scale.margin
    zones = [(margin, right, tint(COLOURS[0], 0.08))]
    if margin > 0:
        zones.insert(0, (max(-margin, left), margin, tint(NEUTRAL, 0.22)))
    for first, last, colour in zones:
        x0, x1 = _said(scale, [first, last])
        figure.add_vrect(x0=x0, x1=x1, fillcolor=colour, line_width=0, layer="below")
    (place,) = _said(scale, [min(margin, 0.0)])
    figure.add_vline(x=place, line={"color": NEUTRAL, "width": 1})
    room = (right - margin) / (right - left)
    figure.add_annotation(
        text="as claimed →" if room > 0.2 else "→",
        x=1,
        xref="paper",
        y=1,
        yref="paper",
        xanchor="right",
        yanchor="top",
        showarrow=False,
        font_size=12,
    )


def _seeds(figure: go.Figure, known: Known, scale: Scale) -> None:
    names, values = list(known.values), list(known.values.values())
    figure.add_scatter(
        x=_said(scale, values),
        y=_heights(values),
        mode="markers",
        marker={"size": 9, "color": COLOURS[4], "opacity": 0.75, "line": {"width": 1, "color": NEUTRAL}},
        customdata=[[seed, scale.text(value)] for seed, value in zip(names, values, strict=True)],
        hovertemplate="seed %{customdata[0]}: %{customdata[1]}<extra></extra>",
        showlegend=False,
    )


def _heights(values: Sequence[float]) -> list[float]:
    """Neighbours in value lie at different heights."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    lanes = (0.0, 1.0, -1.0)
    heights = [0.0] * len(values)
    for rank, place in enumerate(order):
        heights[place] = SEEDS + SPREAD * lanes[rank % len(lanes)]
    return heights


def _mean(figure: go.Figure, known: Known, scale: Scale) -> None:
    verdict = known.verdict
    bar: dict[str, object] = {"visible": False}
    if math.isfinite(verdict.low) and math.isfinite(verdict.high):
        up, down = verdict.high - verdict.mean, verdict.mean - verdict.low
        up, down = (down, up) if scale.turned else (up, down)
        bar = {
            "type": "data",
            "symmetric": False,
            "array": short([up]),
            "arrayminus": short([down]),
            "thickness": 2.5,
            "width": 6,
        }
    figure.add_scatter(
        x=_said(scale, [verdict.mean]),
        y=[MEAN],
        error_x=bar,
        mode="markers",
        marker={"symbol": "diamond", "size": 13, "color": COLOUR[verdict.kind]},
        hovertemplate=f"{scale.text(verdict.mean)}<br>{'<br>'.join(details(verdict, scale))}<extra></extra>",
        showlegend=False,
    )


def _ticks(scale: Scale, left: float, right: float) -> dict[str, object]:
    """Marks at round factors, where the axis is one of logarithms; else Plotly's own."""
    if not scale.logarithmic:
        return {"nticks": MOST_TICKS}
    factors = [f for f in _round_factors(left, right) if left <= math.log(f) <= right]
    while len(factors) > MOST_TICKS:
        factors = factors[::2] if 1.0 in factors[::2] or 1.0 not in factors else factors[1::2]
    return {"tickvals": short(math.log(f) for f in factors), "ticktext": [f"{f:g}" for f in factors]}


def _round_factors(left: float, right: float) -> list[float]:
    """Round factors in a range of natural logarithms, or evenly spaced ones around 1 in a narrow one."""
    low, high = math.exp(left), math.exp(right)
    if high / low < 3:
        width = 10 ** math.floor(math.log10((high - low) / 2))
        step = next(s for s in (width, 2 * width, 5 * width, 10 * width) if (high - low) / s <= MOST_TICKS)
        return [float(f"{1 + k * step:.6g}") for k in range(-50, 51) if 1 + k * step > 0]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return sorted(float(f"{f * 10.0**p:.6g}") for p in powers for f in FACTORS)
