"""The three pictures of a report, each with a title that says what it shows.

Text and grid lines take their colours from the report's style sheet, so that they follow light and
dark; only the data are coloured here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from thalweg.lab import findings
from thalweg.lab.findings import Curves
from thalweg.lab.spaces import Space
from thalweg.lab.statistics import Row
from thalweg.lab.study import Study
from thalweg.lab.trial import Record
from thalweg.lab.verdict import Verdict

# Okabe and Ito's colours, which the colour-blind can tell apart, without black and without the
# yellow that is lost on white; beyond seven optimizers, marker and dash tell them apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#888888")
MARKERS = ("circle", "square", "diamond", "triangle-up", "star", "x", "cross")
DASHES = ("solid", "dash", "dot")

BAND = (10, 90)
"""The percentiles of the seeds between which a learning curve's band lies."""


@dataclass(frozen=True)
class Figure:
    """A picture, the finding that is its title, and how to read it."""

    title: str
    caption: str
    plot: go.Figure


@dataclass(frozen=True)
class _Look:
    colour: str
    marker: str
    dash: str

    @property
    def band(self) -> str:
        red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red}, {green}, {blue}, 0.18)"


def colour(study: Study, space: Space) -> str:
    """The colour of an optimizer, the same in every picture and table of a report."""
    return _look(study, space).colour


def draw(study: Study, verdict: Verdict) -> list[Figure]:
    """The pictures that can be drawn; those of final runs are left out where there are none."""
    sound = [row for row in verdict.ranking if row.test is not None]
    final = [_learning_curves(study, sound), _seeds(study, verdict, sound)] if sound else []
    return [*final[:1], _learning_rates(study, verdict), *final[1:]]


def _look(study: Study, space: Space) -> _Look:
    index = list(study.spaces).index(space)
    return _Look(
        COLOURS[index % len(COLOURS)],
        MARKERS[index % len(MARKERS)],
        DASHES[index // len(COLOURS) % len(DASHES)],
    )


def _learning_curves(study: Study, rows: Sequence[Row]) -> Figure:
    workload, plot = study.workload, _plot()
    curves: Curves = {}
    for row in rows:
        name, look = row.space.optimizer, _look(study, row.space)
        runs = [record.curve for record in study.final_of(row.space)]
        steps = np.array([point.step for point in runs[0]])
        metrics = np.array([[point.metric for point in run] for run in runs])
        low, high = np.percentile(metrics, BAND, axis=0)
        curves[name] = (steps, metrics.mean(axis=0))
        plot.add_scatter(
            x=np.concatenate([steps, steps[::-1]]),
            y=np.concatenate([low, high[::-1]]),
            fill="toself",
            fillcolor=look.band,
            line_width=0,
            mode="lines",
            hoverinfo="skip",
            legendgroup=name,
            showlegend=False,
        )
        plot.add_scatter(
            x=steps,
            y=curves[name][1],
            name=name,
            mode="lines",
            line={"color": look.colour, "dash": look.dash, "width": 2.5},
            legendgroup=name,
            hovertemplate=f"{name}, step %{{x}}: %{{y:.2f}} {workload.unit}<extra></extra>",
        )
    plot.update_xaxes(title_text="optimizer step", range=[0, workload.steps])
    plot.update_yaxes(title_text=_axis(study, "validation"), range=_focus(study, curves))
    return Figure(
        findings.fastest(study, curves),
        f"Validation {workload.metric} while training: the mean over {study.settings.seeds} seeds, "
        f"and a band that holds all but the best and the worst {BAND[0]} % of them. "
        "What lies outside the picture is the beginning, where all are poor.",
        plot,
    )


def _focus(study: Study, curves: Curves) -> list[float]:
    """A vertical range that shows the last four fifths of every curve."""
    late = [mean[steps >= study.workload.steps / 5] for steps, mean in curves.values()]
    low, high = min(map(np.min, late)), max(map(np.max, late))
    pad = 0.08 * (high - low) or 1.0
    return [float(low - pad), float(high + pad)]


def _learning_rates(study: Study, verdict: Verdict) -> Figure:
    workload, plot = study.workload, _plot()
    diverged = False
    for row in verdict.ranking:
        name, look = row.space.optimizer, _look(study, row.space)
        records = study.tuning_of(row.space)
        metrics = [r.validation.metric if r.validation else None for r in records]
        diverged |= None in metrics
        plot.add_scatter(
            x=[record.trial.lr for record in records],
            y=metrics,
            name=name,
            mode="lines+markers",
            line={"color": look.colour, "dash": look.dash, "width": 1.5},
            marker={"symbol": look.marker, "size": 7},
            legendgroup=name,
            hovertemplate=f"{name}, lr %{{x:.3g}}: %{{y:.2f}} {workload.unit}<extra></extra>",
        )
        if row.chosen is not None and row.chosen.validation is not None:
            plot.add_scatter(
                x=[row.chosen.trial.lr],
                y=[row.chosen.validation.metric],
                mode="markers",
                marker={
                    "symbol": f"{look.marker}-open",
                    "size": 15,
                    "color": look.colour,
                    "line_width": 2.5,
                },
                legendgroup=name,
                showlegend=False,
                hoverinfo="skip",
            )
    plot.update_xaxes(title_text="learning rate", type="log", dtick=1, exponentformat="none")
    plot.update_yaxes(title_text=_axis(study, "validation"))
    gaps = " Where a line is broken, training diverged." if diverged else ""
    return Figure(
        findings.most_forgiving(study, verdict),
        f"Validation {workload.metric} after training, one point for each of the "
        f"{study.settings.trials} trials of an optimizer; the ring marks the chosen rate.{gaps}",
        plot,
    )


def _seeds(study: Study, verdict: Verdict, rows: Sequence[Row]) -> Figure:
    workload, plot = study.workload, _plot()
    metrics = [_test_metrics(study.final_of(row.space)) for row in rows]
    for pair in zip(*metrics, strict=True):
        plot.add_scatter(
            x=list(range(len(rows))),
            y=pair,
            mode="lines",
            line={"color": "#888888", "width": 0.8},
            opacity=0.45,
            hoverinfo="skip",
            showlegend=False,
        )
    for place, (row, values) in enumerate(zip(rows, metrics, strict=True)):
        assert row.test is not None
        name, look = row.space.optimizer, _look(study, row.space)
        seeds = [record.trial.seed for record in study.final_of(row.space)]
        plot.add_scatter(
            x=[place] * len(values),
            y=values,
            mode="markers",
            marker={"symbol": look.marker, "size": 7, "color": look.colour, "opacity": 0.65},
            customdata=seeds,
            showlegend=False,
            hovertemplate=f"{name}, seed %{{customdata}}: %{{y:.2f}} {workload.unit}<extra></extra>",
        )
        plot.add_scatter(
            x=[place + 0.17],
            y=[row.test.mean],
            error_y=_bar(row),
            mode="markers",
            marker={"symbol": look.marker, "size": 12, "color": look.colour},
            showlegend=False,
            hovertemplate=f"{name}, mean: %{{y:.2f}} {workload.unit}<extra></extra>",
        )
    plot.update_xaxes(
        tickvals=list(range(len(rows))),
        ticktext=[row.space.optimizer for row in rows],
        range=[-0.4, len(rows) - 0.6],
        showgrid=False,
    )
    plot.update_yaxes(title_text=_axis(study, "test"))
    return Figure(
        findings.ahead(study, verdict),
        f"Test {workload.metric} of each seed (small) and the mean with its 95 % interval "
        "(large). A thin line joins runs with the same initial weights and order of data.",
        plot,
    )


def _bar(row: Row) -> dict[str, object]:
    test = row.test
    assert test is not None
    if test.low is None or test.high is None:
        return {"visible": False}
    return {
        "type": "data",
        "symmetric": False,
        "array": [test.high - test.mean],
        "arrayminus": [test.mean - test.low],
        "thickness": 2.5,
        "width": 6,
    }


def _test_metrics(records: Sequence[Record]) -> list[float]:
    return [record.test.metric for record in records if record.test is not None]


def _axis(study: Study, split: str) -> str:
    unit = f" ({study.workload.unit})" if study.workload.unit else ""
    return f"{split} {study.workload.metric}{unit}"


def _plot() -> go.Figure:
    axis = {"zeroline": False, "automargin": True, "fixedrange": True, "gridcolor": "#888888"}
    return go.Figure(
        layout={
            "template": "none",
            "autosize": True,
            "height": 350,
            "margin": {"l": 10, "r": 10, "t": 10, "b": 10},
            "paper_bgcolor": "rgba(0, 0, 0, 0)",
            "plot_bgcolor": "rgba(0, 0, 0, 0)",
            "font": {"family": "system-ui, sans-serif", "size": 13},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "hovermode": "closest",
            "dragmode": False,
            "xaxis": axis,
            "yaxis": axis,
        }
    )
