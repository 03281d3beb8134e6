"""Measures: sums over elements that have to be known before a step can be made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from thalweg.rule.maths import Scalar

STAGES = ("gradient", "clipped", "step", "weights")
"""When measures are taken: of the gradient as it came, after all additions to it, of the step as the rule
proposes it, and of the weights as they will be. Each is a pass that only reads, made where somebody asks."""


@dataclass(frozen=True, eq=False)
class Measure:
    """A sum over elements that has to be known before a step can be made.

    Args:
        name: by which scalars find it, as `m.name`.
        value: the summand, `value(x)`, of what there is of `x` at that stage.
        squared: whether its squares are summed, which is done in float64.
        at: when, one of `STAGES`. Scalars that need measures of later stages have no meaning then.
        over: `"tensor"`, a sum for each parameter, or `"all"`, one over all parameters of the optimizer.
    """

    name: str
    value: Callable[[Any], Scalar]
    squared: bool = False
    at: str = "gradient"
    over: str = "tensor"
