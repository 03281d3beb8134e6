"""Learning without a schedule: gradients are taken between a fast sequence of weights and its average."""

from __future__ import annotations

from typing import Any

from thalweg.rule import Addition, Counter, Hyper, Slot, lerp, maximum, where


def advance(h: Any, t: Any, m: Any) -> None:
    """Remember the largest learning rate, and add its square to the weights of all steps."""
    t.schedule_free_lr = maximum(t.schedule_free_lr, h.lr)
    t.schedule_free_sum = t.schedule_free_sum + t.schedule_free_lr * t.schedule_free_lr


def scalars(h: Any, t: Any, m: Any) -> dict[str, Any]:
    """Return the weight c of this step in the average, and what a step moves the weights by."""
    own = t.schedule_free_lr * t.schedule_free_lr
    c = where(t.schedule_free_sum > 0, own / where(t.schedule_free_sum > 0, t.schedule_free_sum, 1.0), 0.0)
    return {"schedule_free_c": c, "schedule_free_gain": h.schedule_free * (1 - c) - 1}


def weights(x: Any) -> tuple[Any, dict[str, Any]]:
    """Return the weights that gradients are taken at, and the fast ones."""
    step = x.step + (x.p - x.kept) if x.on.decoupled else x.step
    at = lerp(x.p, x.slots.z, x.s.schedule_free_c) + x.s.schedule_free_gain * step
    return at, {"z": x.slots.z - step}


def conflict(h: Any) -> str | None:
    """Say which hyperparameters do not go together."""
    momentum = getattr(h, "momentum", 0) or getattr(h, "betas", (0,))[0]
    if momentum:
        return f"schedule_free={h.schedule_free} takes the place of momentum, which must be 0, not {momentum}"
    for name in ("average", "lookahead"):
        if hasattr(h, name):
            said = f"{name} must be None, not {getattr(h, name)}"
            return f"schedule_free={h.schedule_free} averages by itself: {said}"
    return None


SCHEDULE_FREE = Addition(
    name="schedule_free",
    hypers=(
        Hyper("schedule_free", extra=True, default=None, high=1.0, open_high=True, open_low=True),
        Hyper("schedule_free_state", words=("float32", "bfloat16", "int8"), extra=True, default="float32"),
    ),
    scalars=scalars,
    weights=weights,
    slots=(Slot("z", stored_by="schedule_free_state", begins=False, copies=True),),
    counters=(Counter("schedule_free_lr"), Counter("schedule_free_sum")),
    advance=advance,
    conflict=conflict,
)
"""Defazio et al. 2024, arXiv 2405.15682, equations 3 to 5, with beta = `schedule_free`, steps weighted by the
square of the largest learning rate so far. y is the parameter, z a slot; the average, which is evaluated, is
x = y + (1 - 1/beta) (z - y)."""
