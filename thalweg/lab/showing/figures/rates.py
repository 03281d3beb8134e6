"""The metric against the learning rate, an optimizer a row, with the part that is as good as its best."""

import math
from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from thalweg.lab.judging import findings
from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.judging.wording import Numbers, listed
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.look import NEUTRAL, axis, layout, metric_axis, padded
from thalweg.lab.showing.figures.rate_row import KINDS, Scale, add_row, best_of
from thalweg.lab.spaces import Space
from thalweg.lab.study.protocol import rate_range
from thalweg.lab.study.study import Study

ROW, GAP, REST = 92, 34, 134
"""Heights in pixels: of a row, between two rows, and of legend and axis."""

LEFT = 66
"""Pixels left of the rows, for the numbers and the title of the vertical axis."""

DEPTH = 8
"""How many margins below the worst optimizer's best the picture ends."""


def rates(study: Study, verdict: Verdict) -> Figure | None:
    """All tuning trials; None before the first."""
    spaces = [row.space for row in verdict.ranking if study.tuning_of(row.space)]
    if not spaces:
        return None
    scale = _scale(study, verdict, spaces)
    figure, kinds = _grid(study, spaces, scale), set[str]()
    for place, space in enumerate(spaces, start=1):
        kinds |= add_row(figure, scale, space, place)
    _add_legend(figure, [kind for kind in KINDS if kind in kinds])
    return Figure(
        "rates",
        findings.most_forgiving(study, verdict),
        f"Validation {study.workload.metric} at the end of every tuning trial. The strip of colour is what "
        f"lies within the margin of {scale.numbers.margin} of the optimizer's own best: the more trials "
        f"in it, the wider the basin.{_stand_ins(spaces)}{_extended(study, spaces)}{_also(study, spaces)}",
        {"": figure},
        wide=True,
    )


def _grid(study: Study, spaces: Sequence[Space], scale: Scale) -> go.Figure:
    n = len(spaces)
    inner = n * ROW + (n - 1) * GAP
    figure = make_subplots(n, 1, shared_xaxes=True, vertical_spacing=GAP / inner if n > 1 else 0)
    figure.update_layout(layout(inner + REST), legend={"y": 1 + 26 / inner}, margin_l=LEFT)
    figure.update_xaxes(axis() | {"type": "log", "range": _rate_limits(study, spaces), "tickfont_size": 11})
    figure.update_xaxes(dtick=1, exponentformat="power")
    figure.update_yaxes(axis() | {"range": _limits(scale), "nticks": 4, "automargin": False})
    if all(best_of(study, space) is None for space in spaces):
        figure.update_yaxes(showticklabels=False)
    plain = all(space.axes[0].name == "lr" for space in spaces)
    title = "learning rate" if plain else "learning rate, or what stands for it"
    figure.update_xaxes(title_text=title, row=n, col=1)
    # One title for all rows: that of an axis would be too long for a single row.
    figure.add_annotation(
        text=metric_axis(study, "validation"),
        textangle=-90,
        xref="paper",
        yref="paper",
        x=0,
        y=0.5,
        xshift=12 - LEFT,
        showarrow=False,
    )
    return figure


def _add_legend(figure: go.Figure, kinds: Sequence[str]) -> None:
    for kind in kinds:
        text, symbol, size = KINDS[kind]
        line = {"width": 1.6, "color": NEUTRAL}
        figure.add_scatter(
            x=[None],
            y=[None],
            name=text,
            mode="markers",
            marker={"symbol": symbol, "size": min(size, 13), "color": NEUTRAL, "line": line},
            hoverinfo="skip",
            row=1,
            col=1,
        )
    figure.update_layout(legend={"itemclick": False, "itemdoubleclick": False})


def _scale(study: Study, verdict: Verdict, spaces: Sequence[Space]) -> Scale:
    """From the worst value worth showing to the best."""
    numbers, margin = Numbers(study, verdict.margin), verdict.margin
    bests = [study.better(best) for space in spaces if (best := best_of(study, space)) is not None]
    if not bests:
        return Scale(study, numbers, margin, 0.0, 1.0)
    worst = min(
        study.better(record.validation.metric)
        for space in spaces
        for record in study.tuning_of(space)
        if record.validation is not None
    )
    low = max(worst, min(bests) - DEPTH * margin) if margin else worst
    # A picture of values that are all equal still needs some height.
    low = min(low, max(bests) - (2 * margin or abs(max(bests)) / 100 or 1.0))
    return Scale(study, numbers, margin, study.better(low), study.better(max(bests)))


def _limits(scale: Scale) -> list[float]:
    return padded(min(scale.worst, scale.best), max(scale.worst, scale.best), 0.14)


def _rate_limits(study: Study, spaces: Sequence[Space]) -> list[float]:
    ranges = [rate_range(study, space) for space in spaces]
    low, high = min(wide.low for wide in ranges), max(wide.high for wide in ranges)
    return padded(math.log10(low), math.log10(high), 0.02)


def _stand_ins(spaces: Sequence[Space]) -> str:
    """Says for whom the horizontal axis shows something else than the learning rate."""
    found: dict[str, list[str]] = {}
    for space in spaces:
        if space.axes[0].name != "lr":
            found.setdefault(space.axes[0].name, []).append(space.title)
    others = [f"for {listed(titles)} {axis}" for axis, titles in found.items()]
    return f" The horizontal axis is the learning rate, {listed(others)}." if others else ""


def _extended(study: Study, spaces: Sequence[Space]) -> str:
    if all(rate_range(study, space) == space.axes[0] for space in spaces):
        return ""
    return " The grey part was added to the range because the best rate was on its border."


def _also(study: Study, spaces: Sequence[Space]) -> str:
    if all(len(study.searched(space)) == 1 for space in spaces):
        return ""
    return " Other hyperparameters were searched as well: trials side by side differ in more than the rate."
