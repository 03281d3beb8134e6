"""Caution: what the gradient, or the step, does not agree with is left out."""

from __future__ import annotations

from thalweg.rule import Addition, Hyper, Measure, where

CAUTIOUS = Addition(
    name="cautious",
    hypers=(Hyper("cautious", flag=True, extra=True),),
    measures=(
        Measure("cautious_agreeing", lambda x: where(x.step * x.g > 0, 1.0, 0.0), at="step"),
        Measure("cautious_size", lambda x: 1.0, at="step"),
    ),
    scalars=lambda h, t, m: {"cautious_gain": m.cautious_size / (m.cautious_agreeing + 1)},
    step=lambda x: where(x.step * x.g > 0, x.step * x.s.cautious_gain, 0.0),
)
"""Liang et al. 2024, arXiv 2411.16085, with xi = 1: elements whose step and gradient disagree rest, and the
others of the tensor take up what they leave."""

CAUTIOUS_DECAY = Addition(
    name="cautious_decay",
    hypers=(Hyper("cautious_decay", flag=True, extra=True),),
    decay=lambda x: where(x.p * x.step < 0, x.p, x.kept),
    conflict=lambda h: (
        None if h.is_decoupled else "cautious_decay=True requires decoupled weight decay, not L2"
    ),
)
"""Chen et al. 2025, arXiv 2510.12402: decoupled decay only of what the step does not move away from zero."""
