"""What measures a step on a device.

Two times of a step, which overlap in training and are therefore measured apart:

- *device*: between two events around steps that were queued behind a kernel that only waits, so that the
  device never waits for the host. Events around steps of an idle device would measure the host's launches.
- *host*: until `step()` returns, on an empty queue, without waiting for the device.

A loop of steps takes the larger of the two for each, which is what ratios and goals are about.
"""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

import torch

from thalweg.bench.measure import Work


class Times(NamedTuple):
    """Seconds of a step."""

    host: float
    device: float

    @property
    def loop(self) -> float:
        """What a step in a loop of them takes."""
        return max(self)


class Meter(Protocol):
    """Measures work on a device."""

    device: torch.device

    def times(self, work: Work) -> Times:
        """Run `work` a few times and return what one run took."""
        ...

    def peak(self, work: Work) -> int:
        """Run `work` once and return the bytes that it allocated at most beyond what there was."""
        ...


class CudaMeter:
    """The meter for CUDA devices."""

    steps = 3
    """Steps between two events: the events themselves take a microsecond or two."""

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cycles = 10_000_000
        waits = [self._device_seconds(lambda: torch.cuda._sleep(cycles)) for _ in range(2)]
        self._clock = cycles / waits[1]  # a second; the first wait loads the kernel too

    def times(self, work: Work) -> Times:  # noqa: D102
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        host = time.perf_counter() - start
        torch.cuda.synchronize()
        # Twice as long as the launches take. The queue holds about a thousand; who launches more has to
        # wait for the device here, as in training.
        torch.cuda._sleep(int(self._clock * min(2 * self.steps * host + 1e-4, 0.2)))
        device = self._device_seconds(lambda: [work() for _ in range(self.steps)]) / self.steps
        return Times(host, device)

    def _device_seconds(self, work: Work) -> float:
        self._start.record()
        work()
        self._end.record()
        torch.cuda.synchronize()
        return self._start.elapsed_time(self._end) / 1e3

    def peak(self, work: Work) -> int:  # noqa: D102
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
