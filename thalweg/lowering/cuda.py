"""The GPU lowering: Triton kernels, tables that stay on the device, and launches that wait for nothing.

Nothing here is particular to NVIDIA: it serves whatever device torch calls `cuda` (ROCm too) or `xpu`, if
Triton is installed.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from thalweg.chunks import Chunks
from thalweg.lowering import tiles
from thalweg.lowering.spec import Spec, dtype_name
from thalweg.lowering.tiles import Kind
from thalweg.rule import Rule

CHUNK = tiles.TILE
"""Most elements of a chunk, one program's work."""

SERVED = {"cuda", "xpu"}
"""The types of devices whose tensors are stepped here."""

ALIGNMENT = 16
"""Bytes that a thread reads at once, where memory is aligned to them."""

WARPS = 4
WIDTH = tiles.WIDTH


def serves(device: torch.device) -> bool:
    """Say whether tensors on `device` are stepped here."""
    return device.type in SERVED and is_installed()


@cache
def is_installed() -> bool:
    """Say whether Triton is there."""
    return find_spec("triton") is not None


@cache
def step_kernel(spec: Spec, aligned: bool) -> Any:
    """Return Triton's function for `tiles.step`."""
    return _function("step", tiles.step(spec, aligned))


@cache
def _rows_kernel(rule: Rule, choices: tuple[tuple[str, bool], ...], kind: Kind) -> Any:
    return _function("rows", tiles.rows(rule, dict(choices), kind))


def rows_kernel(rule: Rule, choices: Mapping[str, bool], kind: Kind) -> Any:
    """Return Triton's function for `tiles.rows`."""
    return _rows_kernel(rule, tuple(choices.items()), kind)


def _function(name: str, text: str) -> Any:
    """Return the function `name` that the source `text` defines, such that Triton can read the source."""
    import triton  # type: ignore[import-untyped]
    import triton.language as tl  # type: ignore[import-untyped]

    place = f"<thalweg {name} {len(_SOURCES)}>"
    _SOURCES.append(place)
    linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)
    names = {"__name__": "thalweg.lowering.generated", "triton": triton, "tl": tl}
    exec(compile(text, place, "exec"), names)
    return names[name]


_SOURCES: list[str] = []


class Table:
    """An array of the host's on a device, sent when it has changed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._known: np.ndarray | None = None
        self.tensor = torch.empty(0, device=device)

    def send(self, array: np.ndarray) -> Tensor:
        """Return the array on the device."""
        if self._known is None or not np.array_equal(array, self._known):
            self._known = array.copy()
            self.tensor = to_device(self._known, self._device)
        return self.tensor


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return a copy of `array` on the device, without waiting for anything there.

    While a graph is being captured the copy is not part of it: it is made at once, beside it.
    """
    host = torch.from_numpy(array.copy())
    if device.type == "cpu":
        return host
    if not is_capturing(device):
        # Memory that torch has pinned stays reserved until the copy is done.
        return host.pin_memory().to(device, non_blocking=True)
    module = torch.get_device_module(device)
    with module.stream(_beside(device)):
        return host.pin_memory().to(device, non_blocking=True)


@cache
def _beside(device: torch.device) -> Any:
    return torch.get_device_module(device).Stream(device)


def is_capturing(device: torch.device) -> bool:
    """Say whether what is launched on `device` goes into a graph."""
    if device.type not in SERVED or device.type == "cpu":
        return False
    asks = getattr(torch.get_device_module(device), "is_current_stream_capturing", None)
    return asks is not None and asks()


def keep(tensors: Iterable[Tensor]) -> None:
    """Keep tensors that a captured graph reads, for as long as it may be replayed: until the end."""
    _KEPT.extend(tensors)


_KEPT: list[Tensor] = []


class Work(NamedTuple):
    """The chunks of a launch on the device; those of aligned tensors apart."""

    aligned: Tensor
    others: Tensor


def divide(chunks: Chunks, addresses: np.ndarray, device: torch.device) -> Work:
    """Return the chunks on the device.

    Args:
        chunks: the work.
        addresses: int64 (streams, tensors), where memory begins.
        device: where to.
    """
    tensor, offset, offset_g, _ = chunks.table.T
    is_aligned = (addresses % ALIGNMENT == 0).all(axis=0)[tensor]
    is_aligned &= (offset % ALIGNMENT == 0) & (offset_g % ALIGNMENT == 0)
    return Work(*(to_device(chunks.table[mask], device) for mask in (is_aligned, ~is_aligned)))


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which `device` is the current one of its type."""
    if device.type == "cpu":
        return nullcontext()
    return torch.get_device_module(device).device(device)


def run(kernel: Any, programs: int, *arguments: Any) -> None:
    """Launch a kernel on the current stream of its tensors' device."""
    if programs:
        kernel[(programs,)](*arguments, num_warps=WARPS)


def kind_of(spec: Spec, counter: torch.dtype) -> Kind:
    """Return what the rows of a kernel depend on."""
    return Kind(dtype_name(spec.compute), dtype_name(counter), spec.unscale, spec.draws)
