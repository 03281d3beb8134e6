"""The GPU lowering: Triton kernels, tables that stay on the device, and launches that wait for nothing.

Nothing here is particular to NVIDIA: it serves whatever device torch calls `cuda` (ROCm too) or `xpu`, if
Triton is installed.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thalweg.lowering.chunks import Chunks
from thalweg.lowering.gpu import elements, measuring, shapes, tiles
from thalweg.lowering.gpu import rows as rowing
from thalweg.lowering.gpu.rows import Kind
from thalweg.lowering.gpu.shapes import Shape
from thalweg.lowering.spec import Spec
from thalweg.rule import Recipe
from thalweg.storage.codecs.plain import dtype_name

SERVED = {"cuda", "xpu"}
"""The types of devices whose tensors are stepped here."""

ALIGNMENT = 16
"""Bytes that a thread reads at once, where memory is aligned to them."""

WIDTH, MEASURED = rowing.WIDTH, measuring.MEASURED


def serves(device: torch.device) -> bool:
    """Say whether tensors on `device` are stepped here."""
    return device.type in SERVED and obstacle(device) is None


def chunk(spec: Spec) -> int:
    """Return the most elements of a chunk, one program's work, however many a step takes.

    Of what goes row by row that is a row, however long.
    """
    return 1 if spec.by_row else shapes.shape_of(spec).chunk


@cache
def obstacle(device: torch.device) -> str | None:
    """Return what keeps kernels from running on `device`, if anything does; it is tried once."""
    if find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    try:
        _try(device)
    except Exception as error:  # whatever it is: no compiler, no driver, a GPU too old
        said = str(error).partition("\n")[0]
        return f"Triton cannot run a kernel on {device} ({type(error).__name__}: {said})"
    return None


def _try(device: torch.device) -> None:
    if is_capturing(device):
        return  # what is compiled while a graph is captured may fail for that alone
    with on(device):
        _function("probe", _PROBE)[(1,)](torch.zeros(1, device=device))


_PROBE = """\
@triton.jit
def probe(at):
    tl.store(at, tl.load(at) + 1)
"""


@cache
def step_kernel(spec: Spec, aligned: bool) -> Kernel:
    """Return the kernel of `tiles.step`."""
    return Kernel(_function("step", tiles.step(spec, aligned)), shapes.shape_of(spec))


@cache
def measure_kernel(spec: Spec, aligned: bool) -> Kernel:
    """Return the kernel of `measuring.measure`."""
    return Kernel(_function("measure", measuring.measure(spec, aligned)), shapes.shape_of(spec))


@cache
def totals_kernel(columns: int) -> Kernel:
    """Return the kernel of `measuring.totals`."""
    return Kernel(_function("totals", measuring.totals(columns)))


@cache
def _rows_kernel(recipe: Recipe, choices: tuple[tuple[str, bool], ...], kind: Kind) -> Kernel:
    return Kernel(_function("rows", rowing.rows(recipe, dict(choices), kind)))


def rows_kernel(recipe: Recipe, choices: Mapping[str, bool], kind: Kind) -> Kernel:
    """Return the kernel of `rows.rows`."""
    return _rows_kernel(recipe, tuple(choices.items()), kind)


class Kernel:
    """A kernel of Triton's.

    Triton asks at every launch what its arguments are and which code is for such ones, which takes longer
    than a launch. Here that is so once for each device: pointers that may not be aligned to 16 bytes are
    said not to be, and all others always are.

    Args:
        function: Triton's function.
        shape: of its work.
    """

    def __init__(self, function: Any, shape: Shape = shapes.PLAIN) -> None:
        self.function = function
        self.shape = shape
        self._compiled: dict[int | None, Any] = {}

    def __call__(self, programs: tuple[int, int, int], arguments: Sequence[Tensor | int]) -> None:
        """Launch a grid of programs on the current stream of the current device, the arguments'."""
        device = arguments[0].device  # type: ignore[union-attr]
        compiled = self._compiled.get(device.index)
        if compiled is None:
            options = self.shape.options(_backend(device))
            self._compiled[device.index] = self.function[programs](*arguments, **options)
            return
        addresses = [x if isinstance(x, int) else x.data_ptr() for x in arguments]
        compiled[programs](*addresses)


def _backend(device: torch.device) -> str:
    """Return Triton's name of what compiles for a device."""
    return "hip" if torch.version.hip is not None and device.type == "cuda" else device.type


def _function(name: str, text: str) -> Any:
    """Return the function `name` that the source `text` defines, such that Triton can read the source."""
    import triton
    import triton.language as tl

    place = f"<thalweg {name} {len(_SOURCES)}>"
    _SOURCES.append(place)
    linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
    names = {"__name__": "thalweg.lowering.generated", "triton": triton, "tl": tl}
    exec(compile(text, place, "exec"), names)
    return names[name]


_SOURCES: list[str] = []


class Table:
    """An array of the host's on a device, sent when it has changed, to memory that nobody reads yet.

    A captured graph goes on reading what it was captured with. What is sent while one is captured is sent
    again by each replay, from memory that was set aside for it before: none can be had then. It serves the
    whole step that is captured, of which each stage asks for it.

    Args:
        device: where to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known: bytes | None = None
        self._spares: list[tuple[Tensor, Tensor]] = []
        self._captured: tuple[bytes, Tensor] | None = None
        self.replayed: list[Tensor] = []
        self.tensor = torch.empty(0, device=device)

    def begin(self) -> None:
        """Begin another step: what was sent while one before was captured need not be there for it."""
        self._captured = None

    def send(self, array: np.ndarray, capturing: bool = False, spares: int = 1) -> Tensor:
        """Return the array, always of the same shape, on the device.

        Args:
            array: what is sent.
            capturing: whether a graph is being captured.
            spares: for how many sendings in one capture memory is to be set aside, if none is captured now.

        Raises:
            RuntimeError: if a graph is being captured and nothing was set aside.
        """
        content = array.tobytes()
        if capturing:
            return self.tensor if content == self._known else self._send_spare(array, content)
        if content != self._known:
            self._known = content
            self.tensor = to_device(array, self._device)
        while len(self._spares) < spares:
            self._spares.append((_on_host(array, self._device), torch.empty_like(self.tensor)))
        return self.tensor

    def _send_spare(self, array: np.ndarray, content: bytes) -> Tensor:
        if self._captured is not None and self._captured[0] == content:
            return self._captured[1]
        if not self._spares:
            raise RuntimeError("take a step outside of the capture first: a graph cannot allocate its tables")
        host, tensor = self._spares.pop()
        host.numpy()[...] = array
        self.replayed += [host, tensor]
        self._captured = content, tensor
        return tensor.copy_(host, non_blocking=True)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return a copy of `array` on the device, without waiting for anything there."""
    # Memory that torch has pinned stays reserved until the copy is done.
    return _on_host(array, device).to(device, non_blocking=True)


def _on_host(array: np.ndarray, device: torch.device) -> Tensor:
    """Return a copy of `array` in memory that the device reads by itself."""
    host = torch.from_numpy(array.copy())
    return host if device.type == "cpu" or not array.size else host.pin_memory()


class _Arrived:
    """The event of a copy that is there at once."""

    @staticmethod
    def query() -> bool:
        return True


def fetch(tensor: Tensor) -> tuple[Tensor, Any]:
    """Begin to copy a tensor of a device to the host, without waiting for it.

    Returns:
        The copy, and an event whose `query()` says whether it has arrived.
    """
    if tensor.device.type == "cpu":
        return tensor.clone(), _Arrived()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    with on(tensor.device):
        host.copy_(tensor, non_blocking=True)
        event = torch.get_device_module(tensor.device).Event()
        event.record()
    return host, event


def is_capturing(device: torch.device) -> bool:
    """Say whether what is launched on `device` goes into a graph."""
    if device.type not in SERVED or device.type == "cpu":
        return False
    asks = getattr(torch.get_device_module(device), "is_current_stream_capturing", None)
    return asks is not None and asks()


class Shared:
    """What the batches of an optimizer share on their devices.

    Attributes:
        sendings: how often a table may have been sent since the step began, which may be taken in parts.
    """

    def __init__(self) -> None:
        self.sendings = 1
        self._count = 0
        self._firsts: dict[torch.device, Tensor] = {}
        self._kept: dict[int, Tensor] = {}

    def firsts(self, positions: Sequence[int], device: torch.device) -> Tensor:
        """Return int32 (parameters,): whether the next step is the first of a parameter's state.

        Kernels clear what they have stepped, so an overflow that only the device knows of clears nothing.

        Args:
            positions: parameters whose state is new.
            device: where their kernels are.
        """
        if device not in self._firsts:
            self._firsts[device] = torch.zeros(self._count, dtype=torch.int32, device=device)
        found = self._firsts[device]
        if positions:
            found[to_device(np.array(positions, np.int64), device)] = 1
        return found

    def rearrange(self, origins: Sequence[int]) -> None:
        """Follow the optimizer's parameters to new positions.

        Args:
            origins: of each parameter, its position before, or -1 if it is new.
        """
        self._count = len(origins)
        index = np.array(origins, np.int64)
        for device, flags in self._firsts.items():
            self.keep([flags])
            with_new = torch.cat([flags, flags.new_zeros(1)])
            self._firsts[device] = with_new[to_device(index, device)]

    def keep(self, tensors: Iterable[Tensor]) -> None:
        """Keep tensors that a captured graph reads, for as long as the optimizer."""
        self._kept.update((tensor.data_ptr(), tensor) for tensor in tensors)


class Sums(NamedTuple):
    """What the chunks of one part of a `Work` measure.

    Args:
        work: the chunks.
        begins: int32 (tensors + 1,), where those of each tensor begin.
        sums: float64 (chunks, measures), what they measure.
    """

    work: Tensor
    begins: Tensor
    sums: Tensor


def sums_of(chunks: Chunks, is_aligned: np.ndarray, columns: int, device: torch.device) -> tuple[Sums, Sums]:
    """Return the work of measuring, that of aligned tensors and the others'.

    Args:
        chunks: of `measuring.MEASURED` elements at most.
        is_aligned: bool (tensors,).
        columns: how many measures there are.
        device: where.
    """
    work = divide(chunks, is_aligned, device)
    apart = _apart(chunks, is_aligned)
    found = []
    for part, mask in zip(work, (apart, ~apart), strict=True):
        begins = np.searchsorted(chunks.table[mask, 0], np.arange(len(is_aligned) + 1)).astype(np.int32)
        sums = torch.empty(max(len(part), 1), columns, dtype=torch.float64, device=device)
        found.append(Sums(part, to_device(begins, device), sums))
    return found[0], found[1]


class Work(NamedTuple):
    """The chunks of a launch on the device, as `elements.packed` has them; those of aligned tensors apart."""

    aligned: Tensor
    others: Tensor


def aligned(addresses: np.ndarray) -> np.ndarray:
    """Return for each tensor, bool (tensors,), whether all of its memory begins at multiples of 16 bytes."""
    return (addresses % ALIGNMENT == 0).all(axis=0)


def divide(chunks: Chunks, is_aligned: np.ndarray, device: torch.device) -> Work:
    """Return the chunks on the device, where tensors are aligned as `aligned` says."""
    apart = _apart(chunks, is_aligned)
    return Work(*(to_device(elements.packed(chunks.table[mask]), device) for mask in (apart, ~apart)))


def _apart(chunks: Chunks, is_aligned: np.ndarray) -> np.ndarray:
    tensor, offset, offset_g = chunks.table[:, :3].T
    return np.asarray(is_aligned[tensor] & (offset % ALIGNMENT == 0) & (offset_g % ALIGNMENT == 0))


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which `device` is the current one of its type."""
    if device.type == "cpu":
        return nullcontext()
    return torch.get_device_module(device).device(device)


def stream(device: torch.device) -> Any:
    """Return the stream that kernels are launched on now, if the device has any."""
    return None if device.type == "cpu" else torch.get_device_module(device).current_stream(device)


def lend(tensors: Iterable[Tensor], to: Any) -> None:
    """Have the memory of tensors outlive what the stream `to` is yet to do with it."""
    for tensor in tensors:
        if tensor.device.type != "cpu":  # what replays send lies there, and is kept anyway
            tensor.record_stream(to)


def run(kernel: Kernel, programs: int, *arguments: Tensor | int, columns: int = 1) -> None:
    """Launch a kernel, `columns` times as many programs, on the current stream of its tensors' device."""
    if programs and columns:
        kernel((programs, columns, 1), arguments)


def kind_of(spec: Spec, counter: torch.dtype) -> Kind:
    """Return what the rows of a kernel depend on."""
    return Kind(dtype_name(spec.compute), dtype_name(counter), spec.unscale, spec.draws)
