"""Steps on a GPU beside torch's and other packages': each case verified, measured and judged."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from thalweg.bench.cases import COPIED, Case, grouped, held_bytes, make_params, moved_bytes
from thalweg.bench.goals import goals, judged_flat
from thalweg.bench.measure import Work, compare, turns
from thalweg.bench.meters import Meter, Times
from thalweg.bench.rivals import ours, rivals
from thalweg.bench.table import Row
from thalweg.bench.verifying import verify

LEAST_TURNS = 3

LARGE = 10_000_000
"""From so many elements on, a share of the copy's bandwidth is worth printing."""

Measured = Callable[[Case, Meter, float], list[Row]]
"""What measures a case for some seconds."""


def measure(
    chosen: Sequence[Case],
    meter: Meter,
    seconds: float,
    clock: Callable[[], float],
    one: Measured | None = None,
) -> Iterator[Row]:
    """Measure the cases one after the other; each gets its share of the time that is left.

    Args:
        chosen: the cases.
        meter: measures.
        seconds: for all of them.
        clock: the time in seconds.
        one: measures one of them; by default the steps, beside every rival.
    """
    end = clock() + seconds
    flat: float | None = None
    for i, case in enumerate(chosen):
        left = end - clock()
        if left <= 0:
            yield _row(case, "-", failure="not measured: no time left")
            continue
        rows = _guarded(one or _measure, case, meter, left / (len(chosen) - i))
        if case.set.startswith("161 x 64"):
            flat = flat or next((row.host.ours for row in rows if row.host), None)
            rows = [judged_flat(row, flat) for row in rows]
        yield from rows


def _guarded(one: Measured, case: Case, meter: Meter, seconds: float) -> list[Row]:
    try:
        return one(case, meter, seconds)
    except Exception as error:  # out of memory, a kernel that does not compile: the others are still measured
        return [_row(case, "-", failure=_said(error))]
    finally:
        gc.collect()
        if meter.device.type == "cuda":
            torch.cuda.empty_cache()


def _row(case: Case, rival: str, **figures: Any) -> Row:
    return Row(case.algorithm.name, case.storage.name, case.set, rival, **figures)


def _said(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:120]


def _measure(case: Case, meter: Meter, seconds: float) -> list[Row]:
    verify(case, meter.device)
    params = make_params(case, meter.device)
    own = ours(case.algorithm, case.storage)(grouped(params, case.groups))
    ready, failed = _ready(case, params)
    own.step()
    held = held_bytes(params, own)
    peak = meter.peak(own.step) / held
    peaks = {name: meter.peak(other.step) / held_bytes(params, other) for name, other in ready.items()}
    works: list[Work] = [own.step, *(other.step for other in ready.values())]
    copied = 0
    if case.elements >= LARGE:
        copy, copied = copying(meter.device)
        works.append(copy)
    taken = turns(works, meter.times, seconds, LEAST_TURNS)
    share = share_of(taken, moved_bytes(params, own), copied) if copied else None
    rows = []
    for place, name in enumerate(ready, start=1):
        row = beside(case, name, taken, place, share=share, peak=peak, rival_peak=peaks[name])
        rows.append(replace(row, goals=goals(case, row)))
    return rows + failed


def copying(device: torch.device) -> tuple[Work, int]:
    """Return the copy that bandwidth is measured by, and the bytes that it reads and writes."""
    source = torch.randn(COPIED if device.type == "cuda" else 1000, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * source.nbytes


def share_of(taken: Sequence[tuple[Times, ...]], moved: int, copied: int, place: int = 0) -> float:
    """Return what a work moves a second beside what the copy does, the last one of each turn.

    Args:
        taken: the turns.
        moved: the bytes that the work reads and writes.
        copied: the copy's.
        place: of the work in each turn.
    """
    return compare([t[-1].device * moved / copied for t in taken], _device(taken, place)).ratio


def beside(case: Case, rival: str, taken: Sequence[tuple[Times, ...]], place: int, **figures: Any) -> Row:
    """Return the row that compares ours, the first of each turn, with what is at `place`."""
    return _row(
        case,
        rival,
        loop=compare([t[place].loop for t in taken], [t[0].loop for t in taken]),
        device=compare(_device(taken, place), _device(taken, 0)),
        host=compare([t[place].host for t in taken], [t[0].host for t in taken]),
        **figures,
    )


def _device(taken: Sequence[tuple[Times, ...]], place: int) -> list[float]:
    return [t[place].device for t in taken]


def _ready(case: Case, params: list[Tensor]) -> tuple[dict[str, torch.optim.Optimizer], list[Row]]:
    """Return the rivals that could be made and stepped, and a row for each that could not."""
    ready, rows = {}, []
    for name, make in rivals(case.algorithm, case.storage, case.shapes).items():
        try:
            other = make(grouped(params, case.groups))
            other.step()
            ready[name] = other
        except Exception as error:  # whatever another package does is that package's row
            rows.append(_row(case, name, failure=_said(error)))
    return ready, rows
