"""Steps on a GPU beside torch's and other packages': cases, verification, measuring, the table.

Two times of a step, which overlap in training and are therefore measured apart:

- *device*: between two events around steps that were queued behind a kernel that only waits, so that the
  device never waits for the host. Events around steps of an idle device would measure the host's launches.
- *host*: until `step()` returns, on an empty queue, without waiting for the device.

A loop of steps takes the larger of the two for each, which is what ratios and goals are about.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from thalweg.bench.measure import Comparison, Work, compare, turns
from thalweg.bench.rivals import (
    ADAMW,
    ALGORITHMS,
    BFLOAT16,
    BITS24,
    FLOAT32,
    INT8,
    RMSPROP,
    STORAGES,
    Algorithm,
    Make,
    Storage,
    oracle,
    ours,
    rivals,
)
from thalweg.bench.shapes import GPU_SETS, Shapes

LEAST_TURNS = 3
COPIED = 100_000_000
"""Elements of the float32 copy that bandwidth is measured by."""

LARGE = 10_000_000
"""From so many elements on, a share of the copy's bandwidth is worth printing."""

VERIFIED_STEPS = 3
MOST_HOST = 100e-6
MOST_PEAK = 0.01
LEAST_SHARE = 0.92
FLAT = 1.25
"""Host time with a group for each parameter, as a multiple of that with one group, which still is flat."""

TOLERANCES = {FLOAT32.name: 1e-3, BITS24.name: 0.02, INT8.name: 0.2}
"""How far our update may be off, ||ours - torch's|| / ||torch's||, after `VERIFIED_STEPS` steps."""

HALF_TOLERANCE = 2.0**-8
"""The same of bfloat16 weights rounded to nearest, but of the weights: their updates are mostly rounding."""


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


@dataclass(frozen=True)
class Case:
    """What is measured together.

    Args:
        algorithm: the algorithm.
        storage: how it is stored.
        set: the name of the tensors.
        shapes: the shapes of the tensors.
        groups: over how many groups they are spread.
    """

    algorithm: Algorithm
    storage: Storage
    set: str
    shapes: Shapes
    groups: int = 1

    @property
    def elements(self) -> int:
        """The number of elements of all tensors."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)


@dataclass(frozen=True)
class Row:
    """A line of the table: our step beside another.

    Attributes:
        algorithm, storage, set: of the case.
        rival: what ours is measured beside.
        failure: why there are no figures; empty if there are.
        loop, device, host: the comparisons, baseline the rival.
        share: what our step moves a second beside what a copy does, where it was measured.
        peak: bytes that our step allocates at most, as a share of parameters, gradients and state.
        rival_peak: the rival's.
        goals: what was to be reached, with whether it was.
    """

    algorithm: str
    storage: str
    set: str
    rival: str
    failure: str = ""
    loop: Comparison | None = None
    device: Comparison | None = None
    host: Comparison | None = None
    share: float | None = None
    peak: float | None = None
    rival_peak: float | None = None
    goals: list[tuple[str, bool]] = field(default_factory=list)


def cases(sets: dict[str, Shapes] = GPU_SETS, quick: bool = False) -> list[Case]:
    """Return all cases, the most telling ones first, should time run out.

    Args:
        sets: the sets of tensors.
        quick: whether for a smoke run: one storage, and nothing of more than 1e8 elements.
    """
    storages = STORAGES[:1] if quick else STORAGES
    found = [
        Case(algorithm, storage, name, shapes)
        for storage in storages
        for algorithm in ALGORITHMS
        for name, shapes in sets.items()
    ]
    if quick:
        found = [case for case in found if case.elements <= COPIED]
    small: Shapes = [(64,)] * 161
    return [Case(ADAMW, FLOAT32, f"161 x 64, {n} groups", small, n) for n in (1, 10, 161)] + found


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
            rows = [_judged_flat(row, flat) for row in rows]
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


def make_params(case: Case, device: torch.device) -> list[Tensor]:
    """Return random parameters, as small as weights are, with random gradients."""
    generator = torch.Generator(device).manual_seed(0)
    found: list[Tensor] = []
    for shape in case.shapes:
        numbers = [torch.randn(shape, generator=generator, device=device) for _ in range(2)]
        param = torch.nn.Parameter((0.02 * numbers[0]).to(case.storage.dtype))
        param.grad = numbers[1].to(case.storage.dtype)
        found.append(param)
    return found


def grouped(params: Sequence[Tensor], count: int) -> list[dict[str, Any]]:
    """Return the parameters in `count` groups of like sizes."""
    return [{"params": list(params[i::count])} for i in range(count)]


def held_bytes(params: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of parameters, gradients and state."""
    return sum(p.nbytes + grad_of(p).nbytes for p in params) + state_bytes(optimizer)


def moved_bytes(params: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes that a step has to read and write."""
    return sum(2 * p.nbytes + grad_of(p).nbytes for p in params) + 2 * state_bytes(optimizer)


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of the state, but for counters."""
    tensors = [value for own in optimizer.state.values() for value in own.values()]
    return sum(t.nbytes for t in tensors if isinstance(t, Tensor) and t.dim())


def grad_of(param: Tensor) -> Tensor:
    """Return the gradient that `make_params` gave a parameter."""
    assert param.grad is not None, "make_params gives every parameter one"
    return param.grad


def verify(case: Case, device: torch.device) -> None:
    """Step our optimizer and torch's from the same weights, and compare where they end.

    torch's has float32 weights, whatever ours has.

    Raises:
        ArithmeticError: if they end too far apart.
    """
    error, most = error_of(case, ours(case.algorithm, case.storage), oracle(case.algorithm), device)
    if not error <= most:
        raise ArithmeticError(f"wrong results: {error:.2g} from torch's, allowed are {most:.2g}")


def error_of(case: Case, own: Make, other: Make, device: torch.device) -> tuple[float, float]:
    """Return how far two optimizers end from each other, and how far they may."""
    mine = make_params(case, device)
    theirs: list[Tensor] = [torch.nn.Parameter(p.detach().float().clone()) for p in mine]
    begun = [p.detach().clone() for p in theirs]
    for p, q in zip(mine, theirs, strict=True):
        q.grad = grad_of(p).float()
    a, b = own(grouped(mine, case.groups)), other(theirs)
    for _ in range(VERIFIED_STEPS):
        a.step()
        b.step()
    if case.storage is BITS24:
        mine = list(a.full_precision_weights().values())  # type: ignore[attr-defined]
        mine = _ungrouped(mine, case.groups)
    if case.storage is BFLOAT16:
        return distance(mine, theirs, [torch.zeros((), device=device)] * len(mine)), HALF_TOLERANCE
    return distance(mine, theirs, begun), TOLERANCES[case.storage.name]


def _ungrouped(values: Sequence[Tensor], count: int) -> list[Tensor]:
    """Return in their own order what was listed group after group."""
    order = [i for first in range(count) for i in range(first, len(values), count)]
    placed = dict(zip(order, values, strict=True))
    return [placed[i] for i in range(len(values))]


def distance(mine: Sequence[Tensor], theirs: Sequence[Tensor], begun: Sequence[Tensor]) -> float:
    """Return ||mine - theirs|| / ||theirs - begun||, over all tensors."""
    apart = walked = 0.0
    with torch.no_grad():
        for p, q, start in zip(mine, theirs, begun, strict=True):
            apart += float((p.float() - q).norm().double() ** 2)
            walked += float((q - start).norm().double() ** 2)
    return (apart / walked) ** 0.5


def goals(case: Case, row: Row) -> list[tuple[str, bool]]:
    """Return what a row has to reach, and whether it does."""
    assert row.loop is not None
    assert row.host is not None
    assert row.peak is not None
    found = []
    least = least_ratio(case, row.rival)
    if least is not None:
        found.append((f"ratio >= {least:g}", row.loop.ratio >= least))
    if case.set == "one 1e8 tensor" and (case.algorithm, case.storage) == (ADAMW, FLOAT32):
        found.append((f"copy >= {LEAST_SHARE:g}", (row.share or 0.0) >= LEAST_SHARE))
    if len(case.shapes) == 161:
        found.append((f"host <= {MOST_HOST * 1e6:.0f} us", row.host.ours <= MOST_HOST))
    return [*found, (f"peak <= {MOST_PEAK:.0%}", row.peak <= MOST_PEAK)]


def least_ratio(case: Case, rival: str) -> float | None:
    """Return by how much a case has to be faster than a rival, if anything is said about that."""
    if not rival.startswith("torch f") or case.groups > 1 or case.storage in (BFLOAT16, BITS24):
        return None
    if case.storage is INT8:
        # Of 28 bytes an element 16 are left with AdamW; the others have fewer to lose.
        return 1.7 if case.algorithm is ADAMW and rival == "torch fused" and len(case.shapes) == 1 else None
    if case.algorithm is RMSPROP:
        return 3.0
    return _FUSED.get(case.set) if rival == "torch fused" else None


_FUSED = {
    "one 1e8 tensor": 1.0,
    "ResNet-50": 1.1,
    "GPT-2 small": 1.1,
    "400 x 1,000": 3.0,
    "4,000 x 64": 3.0,
}
"""Least ratios over torch's fused step with float32 state."""


def _judged_flat(row: Row, first: float | None) -> Row:
    if row.host is None or first is None:
        return row
    return replace(
        row, goals=[*row.goals, (f"host <= {FLAT:g} x one group's", row.host.ours <= FLAT * first)]
    )


HEADER = (
    f"{'algorithm':28}{'storage':19}{'set':22}{'beside':21}{'device ms':>10}{'host us':>9}"
    f"{'ratio':>7} {'[quartiles]':15}{'device':>7}{'host':>7}{'copy':>6}{'peak':>7}{'its':>7}  goals"
)
"""The table's first line. `device ms`, `host us`, `copy` and `peak` are ours; `its` is the other's peak; the
ratios are the other's time over ours."""


def line(row: Row) -> str:
    """Return a row of the table."""
    begun = f"{row.algorithm:28}{row.storage:19}{row.set:22}{row.rival:21}"
    if row.loop is None or row.device is None or row.host is None:
        return begun + row.failure
    quartiles = f"[{row.loop.low:.2f}, {row.loop.high:.2f}]"
    said = ", ".join(f"{text}: {'met' if met else 'MISSED'}" for text, met in row.goals)
    return (
        f"{begun}{row.device.ours * 1e3:10.3f}{row.host.ours * 1e6:9.0f}{row.loop.ratio:7.2f} {quartiles:15}"
        f"{row.device.ratio:7.2f}{row.host.ratio:7.2f}{_percent(row.share, 6, 0)}{_percent(row.peak, 7, 2)}"
        f"{_percent(row.rival_peak, 7, 1)}  {said}"
    )


def _percent(value: float | None, width: int, digits: int) -> str:
    return " " * width if value is None else f"{value:{width}.{digits}%}"
