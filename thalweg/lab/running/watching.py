"""What is measured of a final run while it is under way: the size of its steps, and their time."""

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thalweg.lab.landscape import update_sizes
from thalweg.lab.running.leave import SHARE, Leave
from thalweg.lab.running.training import Training

STEPS = 8
"""Steps whose size is measured, spread over the run."""

_KEPT = ("_sizes", "_seconds", "_spent", "_last", "_rate")


class Watching:
    """Watches the steps of one run.

    Args:
        training: the run, before its first step.
        steps: how many it has.
        leave: how much the watching may spend.
    """

    def __init__(self, training: Training, steps: int, leave: Leave) -> None:
        self._training, self._leave = training, leave
        named = [(name, p) for name, p in training.model.named_parameters() if p.requires_grad]
        self._names, self._params = [name for name, _ in named], [p for _, p in named]
        self._places = {math.ceil(steps * (i + 0.5) / STEPS) for i in range(STEPS)}
        self._before: list[Tensor] | None = None
        self._sizes: list[list[float]] = []
        self._seconds: list[float] = []
        self._spent = self._last = 0.0
        self._rate: float | None = None
        self._is_whole = True
        self._watch_next()

    def stepped(self, seconds: float) -> None:
        """Call it after each step, with the seconds that it took."""
        began = time.perf_counter()
        self._seconds.append(seconds)
        self._note_rate()
        if self._before is not None:
            self._sizes.append(update_sizes(zip(self._before, self._params, strict=True)))
            self._before = None
            self._last = time.perf_counter() - began
        self._watch_next()
        self._spent += time.perf_counter() - began

    @property
    def _trained(self) -> float:
        return sum(self._seconds)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {name: getattr(self, name) for name in _KEPT}

    def resume(self, state: Mapping[str, Any] | None) -> None:
        """Goes on from a checkpoint, once the training has; one that was begun unwatched tells nothing."""
        self._is_whole, self._before = state is not None, None
        for name, value in (state or {}).items():
            setattr(self, name, value)
        self._watch_next()

    def _watch_next(self) -> None:
        """Keeps the weights before a step that is to be measured."""
        is_due = self._training.step + 1 in self._places
        may = SHARE * self._trained + self._leave.credit
        if is_due and (not self._sizes or self._spent + 2 * self._last <= may):
            self._before = [p.detach().clone() for p in self._params]

    def _note_rate(self) -> None:
        optimizers = list(self._training.optimizers.values())
        rate = optimizers[0].param_groups[0].get("lr") if len(optimizers) == 1 else None
        if rate is not None:
            self._rate = max(float(rate), self._rate or 0.0)

    def _updates(self) -> dict[str, float]:
        columns = zip(*self._sizes, strict=True)
        found = {n: statistics.median(column) for n, column in zip(self._names, columns, strict=False)}
        return {name: size for name, size in found.items() if math.isfinite(size)}
