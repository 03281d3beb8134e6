"""What trials buy: the expected best of k."""

import math

import plotly.graph_objects as go

from thalweg.lab.judging import findings
from thalweg.lab.judging.measures import best_of_k
from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.judging.wording import Numbers
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.look import brief, look, metric_axis, name, padded, plot, short, unit_of
from thalweg.lab.spaces import Space
from thalweg.lab.study.study import Study

EARLY = 5
"""The picture must show the values from a fifth of the trials on."""


def tuning(study: Study, verdict: Verdict) -> Figure | None:
    """The best-of-k curves; None before the first trial has ended well."""
    found = [(row.space, curve) for row in verdict.ranking if (curve := best_of_k(study, row.space))]
    if not found:
        return None
    figure, numbers = plot(entries=len(found)), Numbers(study, verdict.margin)
    for space, curve in found:
        _add(figure, study, space, curve, numbers)
    shown = [value for _, curve in found for value in curve[len(curve) // EARLY :]]
    most = max(len(curve) for _, curve in found)
    figure.update_xaxes(
        title_text="trials for each optimizer",
        range=[0.5, most + 0.5],
        tickvals=list(range(1, most + 1, math.ceil(most / 9))),
    )
    figure.update_yaxes(
        title_text=metric_axis(study, "best validation"), range=padded(min(shown), max(shown))
    )
    return Figure(
        "best_of_k",
        findings.what_tuning_buys(study, verdict, {space.title: curve for space, curve in found}),
        f"The best validation {study.workload.metric} that k random trials can be expected to find, "
        "computed from all trials of the first range. The steeper a curve, the more an optimizer needs "
        "tuning.",
        {"": figure},
    )


def _add(figure: go.Figure, study: Study, space: Space, curve: list[float], numbers: Numbers) -> None:
    drawn, title = look(study, space), name(space)
    figure.add_scatter(
        x=list(range(1, len(curve) + 1)),
        y=short(curve),
        name=brief(space),
        mode="lines+markers" if len(curve) <= 20 else "lines",
        line={"color": drawn.colour, "dash": drawn.dash, "width": 2.2},
        marker={"symbol": drawn.marker, "size": 6, "color": drawn.colour},
        legendgroup=space.name,
        hovertemplate=f"{title}, best of %{{x}}: %{{y:{numbers.format}}} {unit_of(study)}<extra></extra>",
    )
