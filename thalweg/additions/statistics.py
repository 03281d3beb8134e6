"""Statistics of a step, by group: what people print beside the loss."""

from __future__ import annotations

from thalweg.additions.guard import nonfinite
from thalweg.rule import Addition, Hyper, Measure

STATISTICS = Addition(
    name="statistics",
    hypers=(Hyper("statistics", flag=True, extra=True),),
    measures=(
        Measure("statistics_grad_sq", lambda x: x.g, squared=True),
        Measure("statistics_nonfinite", nonfinite),
        Measure("statistics_update_sq", lambda x: x.p - x.after, squared=True, at="weights"),
        Measure("statistics_weights_sq", lambda x: x.p, squared=True, at="weights"),
        Measure("statistics_size", lambda x: 1.0, at="weights"),
    ),
    rests=True,
)
"""The update is measured before it is rounded to the weights' dtype, and the weights before the step."""
