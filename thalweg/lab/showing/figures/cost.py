"""What an optimizer costs: milliseconds of a step, bytes of state."""

import statistics

from thalweg.lab.judging import findings
from thalweg.lab.judging.quantities import amount, byte_unit, size
from thalweg.lab.judging.statistics import Row
from thalweg.lab.judging.verdict import Verdict
from thalweg.lab.showing.figures.figure import Figure
from thalweg.lab.showing.figures.look import NEUTRAL, look, name, rows, short, tint
from thalweg.lab.spaces import Space
from thalweg.lab.study.study import Study
from thalweg.lab.workload.looking import model_of

ROOM = 1.45
"""How far an axis goes on beyond the longest bar, for the number at its end."""


def speed(study: Study, verdict: Verdict) -> Figure | None:
    """Time of one training step, the optimizer's part of it in colour; None before it was measured."""
    shown = [row for row in verdict.ranking if row.step_ms is not None]
    if not shown:
        return None
    spaces = [row.space for row in shown]
    own = [row.step_ms or 0.0 for row in shown]
    rest = [max(0.0, _whole(study, space) - part) for space, part in zip(spaces, own, strict=True)]
    figure = rows(study, spaces)
    figure.add_bar(
        y=list(range(len(spaces))),
        x=short(own),
        orientation="h",
        marker={"color": [look(study, space).colour for space in spaces], "line_width": 0},
        customdata=[name(space) for space in spaces],
        hovertemplate="%{customdata}, optimizer step: %{x:.3g} ms<extra></extra>",
        showlegend=False,
    )
    figure.add_bar(
        y=list(range(len(spaces))),
        x=short(rest),
        orientation="h",
        marker={"color": tint(NEUTRAL, 0.3), "line_width": 0},
        text=[f"{amount(part)} ms" for part in own],
        textposition="inside",
        insidetextanchor="start",
        hovertemplate="forward and backward: %{x:.3g} ms<extra></extra>",
        showlegend=False,
    )
    figure.update_layout(barmode="stack", bargap=0.35)
    figure.update_xaxes(title_text="ms a training step", rangemode="tozero", nticks=6)
    return Figure(
        "speed",
        findings.fastest_step(shown),
        "Median over the final runs. In colour and in numbers the optimizer's step, in grey forward and "
        "backward pass.",
        {"": figure},
    )


def memory(study: Study, verdict: Verdict) -> Figure | None:
    """Bytes of optimizer state; None before it was measured."""
    shown: list[Row] = [row for row in verdict.ranking if row.state_bytes is not None]
    if not shown:
        return None
    sizes, parameters = [row.state_bytes or 0 for row in shown], parameter_bytes(study)
    unit, factor = byte_unit(max([*sizes, parameters]))
    figure = rows(study, [row.space for row in shown])
    figure.add_bar(
        y=list(range(len(shown))),
        x=short(held / factor for held in sizes),
        orientation="h",
        marker={"color": [look(study, row.space).colour for row in shown], "line_width": 0},
        text=[f" {size(held)} " for held in sizes],
        textposition="outside",
        customdata=[name(row.space) for row in shown],
        hovertemplate=f"%{{customdata}}: %{{x:.4g}} {unit}<extra></extra>",
        cliponaxis=False,
        showlegend=False,
    )
    figure.add_vline(x=short([parameters / factor])[0], line={"color": NEUTRAL, "width": 1.5, "dash": "dot"})
    figure.update_layout(bargap=0.35)
    figure.update_xaxes(
        title_text=f"optimizer state ({unit})",
        range=short([0, ROOM * max([*sizes, parameters]) / factor]),
        nticks=6,
    )
    return Figure(
        "memory",
        findings.smallest_state(shown, parameters),
        f"State beside the parameters after the last step. The dotted line is the size of the parameters "
        f"themselves, {size(parameters)}.",
        {"": figure},
    )


def parameter_bytes(study: Study) -> int:
    """The size of the model's parameters."""
    return sum(p.numel() * p.element_size() for p in model_of(study.workload).parameters())


def _whole(study: Study, space: Space) -> float:
    """Median milliseconds of a training step over the final runs that came to their end."""
    timings = [r.timing for r in study.final_of(space) if r.test is not None and r.timing is not None]
    return statistics.median(1000 * t.seconds / study.workload.steps for t in timings) if timings else 0.0
