"""Update clipping: the root mean square of a tensor's step, before the learning rate, is bounded."""

from __future__ import annotations

from typing import Any

from thalweg.rule import Addition, Hyper, Measure, sqrt, where


def scalars(h: Any, t: Any, m: Any) -> dict[str, Any]:
    """Return what the step is multiplied by: 1 / max(1, RMS(u) / d), u being the step without lr."""
    bound = h.max_step_rms * h.lr
    rms = sqrt(m.step_sq / where(m.step_size > 0, m.step_size, 1.0))
    return {"step_factor": where(rms > bound, bound / where(rms > bound, rms, 1.0), 1.0)}


MAX_STEP_RMS = Addition(
    name="max_step_rms",
    hypers=(Hyper("max_step_rms", extra=True, default=None, open_low=True),),
    measures=(
        Measure("step_sq", lambda x: x.step, squared=True, at="step"),
        Measure("step_size", lambda x: 1.0, at="step"),
    ),
    scalars=scalars,
    step=lambda x: x.step * x.s.step_factor,
)
"""Shazeer and Stern 2018, arXiv 1804.04235, section 6, with d = `max_step_rms`; for Adam in StableAdamW
(Wortsman et al. 2023, arXiv 2304.13013)."""
