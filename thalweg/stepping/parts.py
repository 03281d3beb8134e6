"""What the parts of one step have in common, where parameters are stepped one part after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from thalweg.stepping.scaling import as_tensor


class Parts:
    """What is remembered from part to part of a step.

    Args:
        before: what was summed over all parameters in the step before, by measure.

    Attributes:
        drawn: the indices of the groups in which something was rounded by random words, which is counted
            once, at the end of the step: all parts draw as one step does.
        taken: how many parts there were so far.
        sums: what was summed over all parts so far, by measure; tensors, where to know them would be to wait.
    """

    def __init__(self, before: Mapping[str, Any]) -> None:
        self._before = before
        self.drawn: set[int] = set()
        self.taken = 0
        self.sums: dict[str, Tensor | float] = {}

    def again(self) -> Parts:
        """Return what a step begins with that follows one that was broken off."""
        return Parts(self._before)

    def next(self) -> Parts:
        """Return what the step after this one begins with.

        Sums go to the memory of those before, as a captured graph goes on reading and writing it.
        """
        return Parts({name: _kept(self._before.get(name), found) for name, found in self.sums.items()})

    def over_all(self, name: str, found: Tensor | float) -> Tensor | float:
        """Return what a part takes for the sum of a measure over all parameters, of which it knows its own.

        That is the sum of the step before or, where it is larger already, of the parts so far.

        Args:
            name: of the measure.
            found: the sum over this part.
        """
        so_far = self.sums[name] = found + self.sums.get(name, 0.0)
        before = self._before.get(name)
        if before is None:
            return so_far
        if isinstance(so_far, Tensor) or isinstance(before, Tensor):
            known = as_tensor(so_far)
            return torch.maximum(known, as_tensor(before).to(known.device, known.dtype))
        return before if before > so_far else so_far  # NaN, if that is what came


def _kept(before: Any, found: Tensor | float) -> Tensor | float:
    """Return what was found, in the memory of what was found before, where that can be."""
    if not (isinstance(before, Tensor) and isinstance(found, Tensor)):
        return found
    is_alike = (before.device, before.dtype, before.shape) == (found.device, found.dtype, found.shape)
    return before.copy_(found) if is_alike else found
