"""How soon the target is reached, in steps and in seconds."""

from collections.abc import Sequence

import plotly.graph_objects as go

from thalweg.lab.judging import findings, measures
from thalweg.lab.judging.quantities import amount
from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.judging.wording import Numbers
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.look import look, name, rows, short
from thalweg.lab.spaces import Space
from thalweg.lab.study.record import Record
from thalweg.lab.study.study import Study

BELOW = 0.24


def target(study: Study, verdict: Verdict) -> Figure | None:
    """Time to target of each final run; None where there is no target or no final run."""
    level = measures.target(study)
    spaces = [row.space for row in verdict.ranking if study.final_of(row.space)]
    if level is None or not spaces:
        return None
    numbers = Numbers(study, verdict.margin)
    return Figure(
        "target",
        findings.soonest(study, verdict, level),
        f"When each final run first has a validation {study.workload.metric} of {numbers.value(level)} "
        f"(small), and the median (large). {_why(study)}{_never(study, spaces, level)}",
        {
            "steps": _view(study, spaces, level, seconds=False),
            "seconds": _view(study, spaces, level, seconds=True),
        },
    )


def _view(study: Study, spaces: Sequence[Space], level: float, *, seconds: bool) -> go.Figure:
    found = [measures.reached(study, space, level) for space in spaces]
    late = [f"{r.of - r.runs} of {r.of} never" if r.runs < r.of else "" for r in found]
    figure = rows(study, spaces, row=46, notes=late)
    for place, (space, reached) in enumerate(zip(spaces, found, strict=True)):
        middle = reached.seconds if seconds else reached.steps
        _add_runs(figure, study, space, level, place, seconds=seconds)
        if middle is not None:
            _add_median(figure, study, space, middle, place)
    figure.update_xaxes(
        title_text="seconds of training" if seconds else "optimizer steps",
        range=_room(study, spaces, level, seconds=seconds),
        nticks=6,
    )
    return figure


def _room(study: Study, spaces: Sequence[Space], level: float, *, seconds: bool) -> list[float]:
    """From zero to beyond the last run, so that the number beside a median has its place."""
    times = [
        time
        for space in spaces
        for record in study.final_of(space)
        if (time := _time(study, record, level, seconds=seconds)) is not None
    ]
    return short([0, 1.25 * max(times, default=0.0) or 1.0])


def _add_runs(
    figure: go.Figure, study: Study, space: Space, level: float, place: int, *, seconds: bool
) -> None:
    drawn = look(study, space)
    found = [
        (time, record.trial.seed)
        for record in study.final_of(space)
        if (time := _time(study, record, level, seconds=seconds)) is not None
    ]
    figure.add_scatter(
        x=short(time for time, _ in found),
        y=[place] * len(found),
        mode="markers",
        marker={"symbol": drawn.marker, "size": 7, "color": drawn.colour, "opacity": 0.6},
        customdata=[seed for _, seed in found],
        showlegend=False,
        hovertemplate=f"{name(space)}, seed %{{customdata}}: %{{x:.4g}} {'s' if seconds else 'steps'}"
        "<extra></extra>",
    )


def _add_median(figure: go.Figure, study: Study, space: Space, middle: float, place: int) -> None:
    drawn = look(study, space)
    figure.add_scatter(
        x=short([middle]),
        y=[place + BELOW],
        mode="markers+text",
        text=[f" {amount(middle)}"],
        textposition="middle right",
        marker={"symbol": drawn.marker, "size": 11, "color": drawn.colour},
        cliponaxis=False,
        showlegend=False,
        hoverinfo="skip",
    )


def _time(study: Study, record: Record, level: float, *, seconds: bool) -> float | None:
    for place, point in enumerate(record.curve):
        if study.better(point.metric) >= study.better(level):
            if not seconds:
                return float(point.step)
            return record.timing.at[place] if record.timing is not None else None
    return None


def _why(study: Study) -> str:
    if study.workload.target is not None:
        return "That is the target that the task states."
    return (
        "The task states no target; this is where the worst of those that never failed ends on average, "
        "less the margin."
    )


def _never(study: Study, spaces: Sequence[Space], level: float) -> str:
    found = {space.title: measures.reached(study, space, level) for space in spaces}
    late = [f"{title} {r.of - r.runs} of {r.of}" for title, r in found.items() if r.runs < r.of]
    return f" Runs that never reach it: {', '.join(late)}." if late else ""
