"""The vocabulary in which update rules, and additions to them, are written.

An update rule is an ordinary function of scalars. The same function is run on torch tensors (the
reference), traced into machine code (the kernels) and run on Python floats (the scalars of a step), so
its arithmetic uses operators and the few functions of `maths`, which mean the same on all three.
"""

from thalweg.rule import roots
from thalweg.rule.addition import Addition
from thalweg.rule.hyper import (
    BETAS,
    CAPTURABLE,
    COMMON,
    DIFFERENTIABLE,
    EPS,
    LR,
    MAXIMIZE,
    WEIGHT_DECAY,
    Hyper,
)
from thalweg.rule.maths import Scalar, lerp, maximum, minimum, sign, sqrt, square, times, two_parts, where
from thalweg.rule.measure import Measure
from thalweg.rule.recipe import Recipe
from thalweg.rule.rest import DEGREES, Rest, Series, no_decay_of_gradients, positive_eps
from thalweg.rule.resting import Resting
from thalweg.rule.rule import STEP, Counter, Rule, Slot, count

__all__ = [
    "BETAS",
    "CAPTURABLE",
    "COMMON",
    "DEGREES",
    "DIFFERENTIABLE",
    "EPS",
    "LR",
    "MAXIMIZE",
    "STEP",
    "WEIGHT_DECAY",
    "Addition",
    "Counter",
    "Hyper",
    "Measure",
    "Recipe",
    "Rest",
    "Resting",
    "Rule",
    "Scalar",
    "Series",
    "Slot",
    "count",
    "lerp",
    "maximum",
    "minimum",
    "no_decay_of_gradients",
    "positive_eps",
    "roots",
    "sign",
    "sqrt",
    "square",
    "times",
    "two_parts",
    "where",
]
