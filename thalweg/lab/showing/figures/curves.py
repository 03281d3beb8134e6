"""Learning curves with bands, against steps and against seconds."""

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from scipy import stats

from thalweg.lab.judging import findings
from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.judging.wording import Numbers
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.look import (
    brief,
    look,
    metric_axis,
    name,
    padded,
    plot,
    short,
    thinned,
    unit_of,
)
from thalweg.lab.spaces import Space
from thalweg.lab.study.looks import ERROR
from thalweg.lab.study.record import Record
from thalweg.lab.study.study import Study

MOST_ALIKE, MOST_BOLD = 6, 3
"""Curves that are drawn alike; of more, so many at most stand out."""

LATE = 0.2
"""The share of the steps after which a curve must be inside the picture."""


@dataclass(frozen=True)
class Curve:
    """The learning curves of an optimizer's final runs taken together.

    Attributes:
        space: the optimizer.
        runs: how many runs that is.
        steps: where the metric was measured, as all below of shape (n,).
        seconds: median seconds of training gone by then.
        seeds: the validation metric there by seed.
        mean: its mean.
        low: lower end of the mean's 95 % interval.
        high: upper end.
    """

    space: Space
    runs: int
    steps: np.ndarray
    seconds: np.ndarray
    seeds: Mapping[int, np.ndarray]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curves(study: Study, verdict: Verdict) -> Figure | None:
    """Validation while training; None before the first final run has ended."""
    found = [curve for row in verdict.ranking if (curve := _curve(study, row.space)) is not None]
    if not found:
        return None
    numbers = Numbers(study, verdict.margin)
    runs = max(curve.runs for curve in found)
    bold = _bold(verdict, found)
    few = [f"{curve.space.title}: {curve.runs}" for curve in found if curve.runs < runs]
    return Figure(
        "curves",
        findings.leaders_while_training(
            study, verdict, {curve.space.title: (curve.steps, curve.seeds) for curve in found}
        ),
        f"Validation {study.workload.metric} while training, "
        + (
            f"the mean of {runs} seeds with a band that is its 95 % interval at each point (Student's t)."
            if runs > 1
            else "on one seed."
        )
        + (
            " Those that may be the best are bold, and only they have a band."
            if len(bold) < len(found)
            else ""
        )
        + (f" Runs that came to their end: {', '.join(few)}." if few else "")
        + " Seconds are those of forward, backward and optimizer step; evaluation is not counted."
        + " What lies outside the picture is the beginning, where all are poor.",
        {
            "steps": _view(study, found, numbers, bold, seconds=False),
            "seconds": _view(study, found, numbers, bold, seconds=True),
        },
        wide=True,
    )


def _curve(study: Study, space: Space) -> Curve | None:
    runs = [
        record for record in study.final_of(space) if record.test is not None and record.timing is not None
    ]
    if not runs:
        return None
    longest = max(runs, key=lambda run: len(run.curve))
    places = thinned(len(longest.curve))
    metrics = np.array([[run.curve[_held(run, place)].metric for place in places] for run in runs])
    half = 0.0
    if len(runs) > 1:
        half = stats.t.ppf(1 - ERROR / 2, len(runs) - 1) * metrics.std(axis=0, ddof=1) / len(runs) ** 0.5
    mean = metrics.mean(axis=0)
    return Curve(
        space,
        len(runs),
        np.array([longest.curve[place].step for place in places]),
        np.array([_seconds(runs, place) for place in places]),
        {run.trial.seed: row for run, row in zip(runs, metrics, strict=True)},
        mean,
        mean - half,
        mean + half,
    )


def _seconds(runs: Sequence[Record], place: int) -> float:
    return statistics.median(run.timing.at[_held(run, place)] for run in runs if run.timing is not None)


def _held(run: Record, place: int) -> int:
    """A place of a curve; one that ended sooner, at a training loss, stays where it ended."""
    return min(place, len(run.curve) - 1)


def _bold(verdict: Verdict, found: Sequence[Curve]) -> set[str]:
    """Whose curves stand out: all where they are few, else the first of those that may be the best."""
    if len(found) <= MOST_ALIKE:
        return {curve.space.name for curve in found}
    return {row.space.name for row in verdict.leaders[:MOST_BOLD]}


def _view(
    study: Study, found: Sequence[Curve], numbers: Numbers, bold: Collection[str], *, seconds: bool
) -> go.Figure:
    figure = plot(380, len(found))
    for curve in found:
        if curve.runs > 1 and curve.space.name in bold:
            _add_band(figure, study, curve, curve.seconds if seconds else curve.steps)
    for curve in found:
        _add_mean(figure, study, curve, numbers, bold=curve.space.name in bold, seconds=seconds)
    unit = "seconds of training" if seconds else "optimizer steps"
    end = max(float(curve.seconds[-1]) for curve in found) if seconds else study.workload.steps
    figure.update_xaxes(title_text=unit, range=[0, end])
    figure.update_yaxes(title_text=metric_axis(study, "validation"), range=_focus(study, found))
    return figure


def _add_band(figure: go.Figure, study: Study, curve: Curve, at: np.ndarray) -> None:
    figure.add_scatter(
        x=short([*at, *at[::-1]]),
        y=short([*curve.low, *curve.high[::-1]]),
        fill="toself",
        fillcolor=look(study, curve.space).tint(0.16),
        line_width=0,
        mode="lines",
        hoverinfo="skip",
        legendgroup=curve.space.name,
        showlegend=False,
    )


def _add_mean(
    figure: go.Figure, study: Study, curve: Curve, numbers: Numbers, *, bold: bool, seconds: bool
) -> None:
    drawn, title = look(study, curve.space), name(curve.space)
    single = len(curve.steps) == 1
    figure.add_scatter(
        x=short(curve.seconds if seconds else curve.steps),
        y=short(curve.mean),
        name=brief(curve.space),
        mode="markers" if single else "lines",
        line={"color": drawn.colour, "dash": drawn.dash, "width": 2.5 if bold else 1.2},
        opacity=1.0 if bold else 0.7,
        marker={"color": drawn.colour, "symbol": drawn.marker},
        legendgroup=curve.space.name,
        hovertemplate=f"{title}, %{{x:.4g}} {'s' if seconds else 'steps'}: "
        f"%{{y:{numbers.format}}} {unit_of(study)}<extra></extra>",
    )


def _focus(study: Study, found: Sequence[Curve]) -> list[float]:
    """A vertical range that shows all but the first fifth of every curve, and the best of any."""
    late = [curve.mean[curve.steps >= LATE * study.workload.steps] for curve in found]
    best = np.max if study.workload.higher_is_better else np.min
    ends = [best([run[-1] for run in curve.seeds.values()]) for curve in found]
    values = np.concatenate([*late, ends])
    return padded(float(values.min()), float(values.max()))
