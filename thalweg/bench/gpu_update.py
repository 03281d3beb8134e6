"""The whole update on a GPU, as in `update.py`, by the same meter and in the same table as `gpu.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from thalweg.bench import gpu
from thalweg.bench.cases import Case, make_params
from thalweg.bench.gpu import LARGE, LEAST_TURNS
from thalweg.bench.measure import Work, turns
from thalweg.bench.meters import Meter
from thalweg.bench.rivals import ADAMW, SGD
from thalweg.bench.shapes import GPU_SETS, Shapes
from thalweg.bench.sides import STORAGES, after, both, bytes_of
from thalweg.bench.table import Row
from thalweg.bench.verifying_updates import verify

CHOSEN = ("one 1e8 tensor", "GPT-2 small", "ResNet-50", "400 x 1,000")

RIVAL = "clip, fused, lerp"


def cases(sets: dict[str, Shapes] = GPU_SETS) -> list[Case]:
    """Return all cases, those with the most to say first, should time run out."""
    return [
        Case(algorithm, storage, name, sets[name])
        for algorithm in (ADAMW, SGD)
        for storage in STORAGES
        for name in CHOSEN
    ]


def measure(
    chosen: Sequence[Case], meter: Meter, seconds: float, clock: Callable[[], float]
) -> Iterator[Row]:
    """Measure the cases one after the other, as `gpu.measure`."""
    return gpu.measure(chosen, meter, seconds, clock, _measure)


def _measure(case: Case, meter: Meter, seconds: float) -> list[Row]:
    verify(case.algorithm, case.storage, meter.device)
    sides = both(case, make_params(case, meter.device), shared=False)
    works: list[Work] = [sides.ours.step, sides.theirs.step]
    copied = 0
    if case.elements >= LARGE:
        copy, copied = gpu.copying(meter.device)
        works.append(copy)
    # A meter runs a work several times: the three calls clip the gradients in the first of them, and multiply
    # them by 1 in the others. Ours leaves them as they are, and clips in all.
    taken = turns(works, after(sides.refill, meter.times), seconds, LEAST_TURNS)
    share = gpu.share_of(taken, bytes_of(sides)[0], copied) if copied else None
    return [gpu.beside(case, RIVAL, taken, 1, share=share)]
