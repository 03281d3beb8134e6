"""Means over batches of different sizes."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thalweg.lab.workload.batches import leaves


class Means:
    """Adds up named numbers, each weighted by the examples that it is a mean of."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._weights: dict[str, float] = defaultdict(float)

    def add(self, name: str, value: Any, weight: float) -> None:
        """One more mean over `weight` examples."""
        number = value.detach() if isinstance(value, Tensor) else value
        self._sums[name] += float(number) * weight
        self._weights[name] += weight

    def values(self) -> Mapping[str, float]:
        """The means of all."""
        return {name: total / self._weights[name] for name, total in self._sums.items()}


def size_of(batch: Any) -> int:
    """Examples in a batch: the first dimension of its first tensor that has one."""
    return next((len(leaf) for leaf in leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()), 1)
