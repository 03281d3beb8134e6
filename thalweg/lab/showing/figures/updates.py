"""The size of steps beside that of the weights, parameter by parameter."""

import math
from html import escape

import plotly.graph_objects as go

from thalweg.lab.judging import explanation, levels
from thalweg.lab.judging.levels import STEP, level_of, whys_of
from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.look import LONGEST, look, name, plot, short
from thalweg.lab.spaces import Space
from thalweg.lab.study.study import Study

MOST_ROWS = 24
"""Parameters that are shown; of more, so many evenly spread over the model."""

MOST_POWERS = 3
"""Powers of ten between which an axis also has their doubles and halves."""

ROW = 30
"""Pixels of a row."""


def updates(study: Study, verdict: Verdict) -> Figure | None:
    """By parameter, how far a step moves weights; None before it was measured."""
    spaces = [row.space for row in verdict.ranking if levels.level(study, row.space, STEP)]
    names = _names(study, spaces)
    if not names:
        return None
    shown = [names[place] for place in spread(len(names))]
    figure = plot(96 + ROW * len(shown), len(spaces))
    for order, space in enumerate(spaces):
        sizes = {
            one: [100 * w.updates[one] for w in whys_of(study, space).values() if one in w.updates]
            for one in shown
        }
        found = {one: level_of(values) for one, values in sizes.items() if values}
        found = {one: level for one, level in found.items() if level.value > 0}
        # Optimizers stand a little above each other in a row, so that none covers another.
        away = (order - (len(spaces) - 1) / 2) * min(0.22, 0.7 / len(spaces))
        middle = [level.value for level in found.values()]
        drawn = look(study, space)
        figure.add_scatter(
            x=short(middle),
            y=[shown.index(one) + away for one in found],
            error_x={
                "type": "data",
                "symmetric": False,
                "array": short(min((x.high or x.value) - x.value, 9 * x.value) for x in found.values()),
                "arrayminus": short(x.value - max(x.low or x.value, x.value / 10) for x in found.values()),
                "thickness": 1.2,
                "width": 0,
            },
            mode="markers",
            name=name(space),
            marker={"color": drawn.colour, "symbol": drawn.marker, "size": 8},
            legendgroup=space.name,
            customdata=list(map(escape, found)),
            hovertemplate=f"{name(space)}, %{{customdata}}: %{{x:.3g}} %<extra></extra>",
        )
    figure.update_yaxes(
        tickvals=list(range(len(shown))),
        ticktext=[_short_name(one) for one in shown],
        range=[len(shown) - 0.5, -0.5],
    )
    ends = [end for trace in figure.data for end in _ends(trace)]
    figure.update_xaxes(title_text="step, % of the weights", type="log", tickvals=ticks(min(ends), max(ends)))
    few = (
        f" {len(shown)} of {len(names)} parameters, spread over the model." if len(shown) < len(names) else ""
    )
    return Figure(
        "updates",
        explanation.size_of_steps(study),
        f"{STEP.meaning.split(':')[0]}, from the first parameter to the last: geometric mean over seeds with "
        f"its 95 % interval, cut at ten times the mean.{few}",
        {"": figure},
        wide=True,
    )


def spread(count: int) -> list[int]:
    """At most `MOST_ROWS` places out of `count`, the first and the last among them."""
    if count <= MOST_ROWS:
        return list(range(count))
    return [round(i * (count - 1) / (MOST_ROWS - 1)) for i in range(MOST_ROWS)]


def ticks(low: float, high: float) -> list[float]:
    """Round values on a logarithmic axis, so many that they do not crowd."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if len(powers) <= MOST_POWERS else (1,)
    return [float(f"{factor}e{power}") for power in powers for factor in factors]


def _ends(trace: go.Scatter) -> list[float]:
    """From where to where the markers of an optimizer and their intervals reach."""
    both = zip(trace.x, trace.error_x.arrayminus, trace.error_x.array, strict=True)
    return [end for x, minus, plus in both for end in (x - minus, x + plus)]


def _names(study: Study, spaces: list[Space]) -> list[str]:
    """The parameters in the order of the model; recipes may train others."""
    found: dict[str, None] = {}
    for space in spaces:
        for why in whys_of(study, space).values():
            found |= dict.fromkeys(why.updates)
    return list(found)


def _short_name(text: str) -> str:
    brief = text if len(text) <= LONGEST else "\u2026" + text[1 - LONGEST :]
    return escape(brief, quote=False) + " "
