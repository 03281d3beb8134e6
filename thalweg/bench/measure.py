"""Timing two ways of the same work in turns, so that what disturbs one disturbs the other."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Work = Callable[[], object]


@dataclass(frozen=True)
class Comparison:
    """What `in_turns` has measured.

    Attributes:
        baseline: median seconds of the first way.
        ours: median seconds of the second way.
        ratio: median over the turns of baseline / ours; above 1 means that ours is faster.
        low: lower quartile of that ratio.
        high: upper quartile of that ratio.
        turns: how often each was run.
    """

    baseline: float
    ours: float
    ratio: float
    low: float
    high: float
    turns: int


def in_turns(baseline: Work, ours: Work, seconds: float, least: int = 9) -> Comparison:
    """Run both in turns, the order changing, for about `seconds` and at least `least` turns each."""
    for work in (baseline, ours, baseline, ours):
        work()
    times: list[tuple[float, float]] = []
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        while len(times) < least or time.perf_counter() < end:
            if len(times) % 2:
                b, a = _timed(baseline), _timed(ours)
            else:
                a, b = _timed(ours), _timed(baseline)
            times.append((b, a))
    finally:
        gc.enable()
    ratios = sorted(b / a for b, a in times)
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Comparison(
        baseline=statistics.median(b for b, _ in times),
        ours=statistics.median(a for _, a in times),
        ratio=middle,
        low=low,
        high=high,
        turns=len(times),
    )


def _timed(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
