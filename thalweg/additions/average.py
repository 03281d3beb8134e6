"""An average of the weights, for evaluation."""

from __future__ import annotations

from typing import Any

from thalweg.rule import Addition, Counter, Hyper, Slot, lerp, maximum, where

POWER = -2 / 3


def scalars(h: Any, t: Any, m: Any) -> dict[str, Any]:
    """Return the weight of this step's weights: all of the first ones', and none between two updates."""
    done = t.average_step - 1
    updates = (done - done % h.average_every) / h.average_every
    weight = 1 - h.average
    if h.average_warmup:
        weight = maximum((1 + updates) ** POWER, weight)
    weight = where(updates > 0, weight, 1.0)
    return {"average_weight": where(done % h.average_every > 0, 0.0, weight)}


def advance(h: Any, t: Any, m: Any) -> None:
    """Count the step."""
    t.average_step = t.average_step + 1


def weights(x: Any) -> tuple[Any, dict[str, Any]]:
    """Return the weights as they are, and their new average."""
    new = lerp(x.slots.average, x.after, x.s.average_weight)
    return x.after, {"average": where(x.s.average_weight > 0, new, x.slots.average)}


AVERAGE = Addition(
    name="average",
    hypers=(
        Hyper("average", extra=True, default=None, high=1.0, open_high=True),
        Hyper("average_every", extra=True, default=1, low=1, whole=True),
        Hyper("average_warmup", flag=True, extra=True),
        Hyper("average_state", words=("float32", "bfloat16", "int8"), extra=True, default="float32"),
    ),
    scalars=scalars,
    weights=weights,
    slots=(Slot("average", stored_by="average_state", begins=False, copies=True),),
    counters=(Counter("average_step"),),
    advance=advance,
)
"""An exponential moving average with decay `average`, as torch's `AveragedModel` with `get_ema_multi_avg_fn`:
the first weights are copied. With warm-up the decay is min(decay, 1 - (1 + updates)^(-2/3)), as in timm's
`ModelEmaV3`."""
