"""The scalars of a step, worked out in Python, as the reference needs them."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor

from thalweg.rule import Recipe


def advance(
    recipe: Recipe, h: Any, counters: Mapping[str, Any], first: bool, m: Any = None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the scalars of the coming step by name, and the counters after it.

    All is worked out in float64, unless a counter or a hyperparameter is a tensor, and counters are then
    rounded to their own dtype. `m` has the measures.
    """
    t = SimpleNamespace(first=first, **{name: _exact(value) for name, value in counters.items()})
    if counters:
        recipe.advance(h, t, m)
    after = {name: _alike(getattr(t, name), before) for name, before in counters.items()}
    exact = {name: _exact(value) for name, value in after.items()}
    return recipe.scalars(h, SimpleNamespace(first=first, **exact), m), after


def _exact(value: Any) -> Any:
    return value if isinstance(value, Tensor) else float(value)


def _alike(value: Any, before: Any) -> Any:
    plain = isinstance(before, np.generic) and not isinstance(value, Tensor)
    return type(before)(value) if plain else value
