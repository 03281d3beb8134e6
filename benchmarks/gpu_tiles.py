"""How large should a GPU kernel's tile be, how many warps share it, how many tiles does a program step?

AdamW on one float32 tensor.

Every variant has to end at the very weights of the first one, bit for bit, before all of them are timed in
turns.

Run: python benchmarks/gpu_tiles.py [--seconds S] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import thalweg
from thalweg.bench.cases import moved_bytes
from thalweg.bench.gpu import LEAST_TURNS, copying, share_of
from thalweg.bench.measure import Comparison, compare, turns
from thalweg.bench.meters import CudaMeter, Meter
from thalweg.bench.rivals import ADAMW, BLOCK8, FLOAT32, INT8, Storage, ours
from thalweg.lowering.files import prepare_folder, write_atomically
from thalweg.lowering.gpu import shapes, tables
from thalweg.lowering.gpu.shapes import Shape

SECONDS = 60.0
"""For the turns of each storage; first steps, which compile, come on top."""

ELEMENTS = 100_000_000


IN_BLOCKS = [
    *(Shape(repeats, 512, 4) for repeats in (1, 2, 4, 8)),
    *(Shape(repeats, 256, 2) for repeats in (4, 8, 16)),
    Shape(16, 128, 1),
    *(Shape(8, 256, 2, registers, True) for registers in (0, 80, 72, 64)),
    *(Shape(16, 128, 1, registers, True) for registers in (0, 80)),
]
CHOSEN = {
    INT8.name: IN_BLOCKS,
    BLOCK8.name: IN_BLOCKS,
    FLOAT32.name: [
        Shape(1, 1024, 4),
        Shape(2, 1024, 4),
        Shape(4, 1024, 4),
        Shape(4, 512, 4),
        Shape(1, 2048, 8),
    ],
}
DEFAULT = {FLOAT32.name: shapes.PLAIN, **dict.fromkeys((INT8.name, BLOCK8.name), shapes.IN_BLOCKS)}
STEPS = 3
"""After which weights have to be the same."""

HEADER = (
    f"{'storage':12}{'tiles':>6}{'tile':>6}{'warps':>7}{'most':>6}{'ahead':>7}{'device ms':>11}{'copy':>7}"
    f"{'beside the default':>21}{'registers':>11}{'spills':>8}"
)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        storage, repeats, tile, warps, most, ahead: the variant; `most` registers, 0 for any number.
        failure: why there are no figures; empty if there are.
        device: the default's device time beside this one's; above 1 means that this one is faster.
        share: what the step moves a second beside what a copy does.
        registers, spills: a thread's, as Triton says of the compiled kernel.
    """

    storage: str
    repeats: int
    tile: int
    warps: int
    most: int
    ahead: bool
    failure: str = ""
    device: Comparison | None = None
    share: float | None = None
    registers: int | None = None
    spills: int | None = None


class Variant(NamedTuple):
    """An optimizer with kernels of its own, and its parameter."""

    shape: Shape
    optimizer: torch.optim.Optimizer
    param: Tensor
    kernels: list[tables.Kernel]


@contextmanager
def kernels_of(shape: Shape) -> Iterator[list[tables.Kernel]]:
    """Have the step kernels of plans that are made here be of such tiles, and list them."""
    made: list[tables.Kernel] = []
    before = shapes.shape_of, tables.step_kernel

    def step_kernel(*arguments: Any) -> tables.Kernel:
        made.append(before[1].__wrapped__(*arguments))  # none that is remembered
        return made[-1]

    shapes.shape_of = lambda spec: shape
    tables.step_kernel = step_kernel
    try:
        yield made
    finally:
        shapes.shape_of, tables.step_kernel = before


def variant(storage: Storage, shape: Shape, start: Tensor, gradient: Tensor) -> Variant:
    """Return a variant after its first steps."""
    param = torch.nn.Parameter(start.clone())
    param.grad = gradient
    optimizer = ours(ADAMW, storage)([param])
    with kernels_of(shape) as made:
        for _ in range(STEPS):
            optimizer.step()
    return Variant(shape, optimizer, param, made)


def sweep(
    storage: Storage,
    meter: Meter,
    seconds: float,
    elements: int = ELEMENTS,
    chosen: Sequence[Shape] | None = None,
) -> list[Row]:
    """Make all variants, see that they agree, and time them in turns.

    Args:
        storage: of the state.
        meter: measures.
        seconds: for the turns.
        elements: of the tensor.
        chosen: what is tried; by default `CHOSEN`.
    """
    generator = torch.Generator(meter.device).manual_seed(0)
    start, gradient = (torch.randn(elements, generator=generator, device=meter.device) for _ in range(2))
    start *= 0.02
    # Makes the kernel of rows, which all of them share, with the default's warps.
    default = variant(storage, DEFAULT[storage.name], start, gradient)
    found: list[Variant] = []
    failed: list[Row] = []
    for shape in CHOSEN[storage.name] if chosen is None else chosen:
        try:
            one = variant(storage, shape, start, gradient)
            check(one, found[0].param if found else default.param)
            found.append(one)
        except Exception as error:  # a kernel that does not compile: the others are still timed
            text = str(error).partition("\n")[0]
            failed.append(Row(storage.name, *shape, f"{type(error).__name__}: {text}"[:120]))
    return timed(storage, [default, *found], meter, seconds) + failed


def check(one: Variant, first: Tensor) -> None:
    """See that a variant has kernels of its own and ends at the same weights.

    Raises:
        ArithmeticError: if the weights differ.
        RuntimeError: if it was stepped by other kernels.
    """
    if not one.kernels:
        raise RuntimeError("stepped by kernels of another variant, or by none of Triton's")
    if not torch.equal(one.param, first):
        different = int((one.param != first).sum())
        raise ArithmeticError(f"wrong results: {different} weights differ from the first variant's")


def timed(storage: Storage, variants: list[Variant], meter: Meter, seconds: float) -> list[Row]:
    """Return the rows of all but the first, the default, which the others are compared with."""
    copy, copied = copying(meter.device)
    works = [one.optimizer.step for one in variants]
    taken = turns([*works, copy], meter.times, seconds, LEAST_TURNS)
    rows = []
    for place, one in enumerate(variants[1:], start=1):
        device = compare([t[0].device for t in taken], [t[place].device for t in taken])
        share = share_of(taken, moved_bytes([one.param], one.optimizer), copied, place)
        rows.append(Row(storage.name, *one.shape, "", device, share, *registers(one.kernels)))
    return rows


def registers(kernels: list[tables.Kernel]) -> tuple[int | None, int | None]:
    """Return registers and spills of the kernel that was launched, if Triton says so."""
    compiled = [one for kernel in kernels for one in kernel._compiled.values() if one is not None]
    if not compiled:
        return None, None
    return getattr(compiled[0], "n_regs", None), getattr(compiled[0], "n_spills", None)


def line(row: Row) -> str:
    """Return a row of the table."""
    begun = f"{row.storage:12}{row.repeats:6}{row.tile:6}{row.warps:7}{row.most:6}{row.ahead!s:>7}"
    if row.device is None or row.share is None:
        return f"{begun}  {row.failure}"
    d = row.device
    beside = f"{d.ratio:.3f} [{d.low:.3f}, {d.high:.3f}]"
    told = (f"{'-' if x is None else x}" for x in (row.registers, row.spills))
    return f"{begun}{d.ours * 1e3:11.3f}{row.share:7.0%}{beside:>21}" + "{:>11}{:>8}".format(*told)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each storage")
    parser.add_argument("--out", type=Path, help="a file for the figures as JSON")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu_tiles.py: no GPU that torch can use", file=sys.stderr)
        return 2
    if options.out is not None:
        prepare_folder(options.out.parent)
    card, meter = torch.cuda.get_device_name(), CudaMeter()
    print(f"{card}, torch {torch.__version__}, thalweg {thalweg.__version__}; default {DEFAULT}")
    print(HEADER)
    rows: list[Row] = []
    for storage in (INT8, BLOCK8, FLOAT32):
        found = sweep(storage, meter, options.seconds)
        print(*map(line, found), sep="\n", flush=True)
        rows += found
        torch.cuda.empty_cache()
    if options.out is not None:
        figures = {"card": card, "default": DEFAULT, "rows": [asdict(row) for row in rows]}
        write_atomically(options.out, (json.dumps(figures, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
