"""Timing two ways of the same work in turns, so that what disturbs one disturbs the other."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Work = Callable[[], object]
T = TypeVar("T")


@dataclass(frozen=True)
class Comparison:
    """Two ways of the same work, measured in turns.

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
    times = turns([ours, baseline], seconds_of, seconds, least)
    return compare([b for _, b in times], [a for a, _ in times])


def turns(
    works: Sequence[Work], timed: Callable[[Work], T], seconds: float, least: int
) -> list[tuple[T, ...]]:
    """Run all of `works` in turns, each turn beginning with another one.

    Args:
        works: what is run; all have been run before.
        timed: runs one of them and returns what it took.
        seconds: for about how long.
        least: the least number of turns.

    Returns:
        For each turn what `timed` returned, in the order of `works`.
    """
    count = len(works)
    found: list[tuple[T, ...]] = []
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        while len(found) < least or time.perf_counter() < end:
            order = [(len(found) + i) % count for i in range(count)]
            taken = {i: timed(works[i]) for i in order}
            found.append(tuple(taken[i] for i in range(count)))
    finally:
        gc.enable()
    return found


def compare(baseline: Sequence[float], ours: Sequence[float]) -> Comparison:
    """Compare two ways by their seconds in the same turns, of which there are at least two."""
    low, middle, high = statistics.quantiles((b / a for b, a in zip(baseline, ours, strict=True)), n=4)
    return Comparison(
        baseline=statistics.median(baseline),
        ours=statistics.median(ours),
        ratio=middle,
        low=low,
        high=high,
        turns=len(ours),
    )


def seconds_of(work: Work) -> float:
    """Run `work` and return the seconds that it took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
