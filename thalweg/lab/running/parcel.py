"""A task on its way to the processes that train: packed once, unpacked anew for each run.

Nothing that a run leaves on the task, or in the globals of its file, reaches the next one. Big arrays and
tensors are shared by the runs of a process and looked at after each: if one was changed, all are read again.
"""

import io
import pickle
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from thalweg.lab.workload import Workload, tasks

SHARED_BYTES = 1 << 20
"""Data of at least so many bytes are shared by the runs of a process."""

BLOCK, BLOCKS = 1 << 16, 64
"""How much of them is looked at after each run: all, or so many blocks of so many bytes."""


def pack(workload: Workload, file: Path | None, path: Path) -> None:
    """Writes a task, and beside it its big data; `file` is the user's own that it comes from, if one."""
    packed = io.BytesIO()
    packer = _Packer(packed)
    packer.dump(workload)
    path.write_bytes(pickle.dumps((packed.getvalue(), file)))
    _data_of(path).write_bytes(pickle.dumps(packer.big, protocol=5))


class Parcel:
    """What `pack` has written, in a process that trains."""

    def __init__(self, path: Path) -> None:
        self._packed, self.file = pickle.loads(path.read_bytes())
        self._data = _data_of(path)
        if self.file is not None:
            tasks.make_importable(self.file)
        self._kept: dict[str, Any] = {}
        self._marks: dict[str, Any] = {}
        self._never: set[str] = set()
        self._read()
        self._open: Workload | None = None

    def unpack(self) -> Workload:
        """The task as it was when it was packed."""
        if self._open is not None and _is_ours(self._open):
            return self._open
        workload: Workload = _Unpacker(io.BytesIO(self._packed), self._big).load()
        # What is computed when it is first asked for is often a data set that takes long to read.
        if self._kept:
            vars(workload).update(self._kept)
        self._open = workload
        return workload

    def settle(self) -> None:
        """Call it after a run: reads the big data again if it has changed them."""
        if _marks(self._big) != self._big_marks:
            self._read()
            self._kept.clear()
        for name, value in getattr(self._open, "__dict__", {}).items():
            if isinstance(getattr(type(self._open), name, None), cached_property):
                self._keep(name, value)

    def _keep(self, name: str, value: Any) -> None:
        mark = _marks(tree_flatten(value)[0])
        if name in self._marks and self._marks[name] != mark:
            self._never.add(name)
        if name in self._never or None in mark:
            self._kept.pop(name, None)
        else:
            self._kept[name], self._marks[name] = value, mark

    def _read(self) -> None:
        self._big = pickle.loads(self._data.read_bytes())
        self._big_marks = _marks(self._big)


class _Packer(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.big: list[Any] = []
        self._places: dict[int, int] = {}

    def persistent_id(self, value: Any) -> int | None:
        """The place of what is big among the shared."""
        if not _is_big(value):
            return None
        if id(value) not in self._places:
            self._places[id(value)] = len(self.big)
            self.big.append(value)
        return self._places[id(value)]


class _Unpacker(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, big: list[Any]) -> None:
        super().__init__(file)
        self._big = big

    def persistent_load(self, place: Any) -> Any:
        """What lies at that place."""
        return self._big[place]


def _data_of(path: Path) -> Path:
    return path.with_suffix(".data")


def _is_ours(workload: Workload) -> bool:
    """Whether it ships with the lab: these keep nothing from run to run but the data that they have read."""
    return type(workload).__module__.startswith("thalweg.")


def _is_big(value: Any) -> bool:
    if type(value) is np.ndarray:
        return value.nbytes >= SHARED_BYTES and value.dtype.kind in "biufc" and value.flags.c_contiguous
    if type(value) is not Tensor or value.layout != torch.strided or value.device.type != "cpu":
        return False
    plain = not (value.requires_grad or value.is_quantized or value.is_conj() or value.is_neg())
    return plain and value.nbytes >= SHARED_BYTES and value.is_contiguous()


def _marks(values: list[Any]) -> list[Any]:
    """By which a change is noticed; None for what is no data."""
    return [_mark(value) for value in values]


def _mark(value: Any) -> Any:
    if value is None or isinstance(value, int | float | str | bytes):
        return repr(value)
    if isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu":
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        return value._version, _sum(flat)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return _sum(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    return None


def _sum(data: Any) -> int:
    if data.size <= BLOCK * BLOCKS:
        return zlib.crc32(data)
    found = 0
    for start in np.linspace(0, data.size - BLOCK, BLOCKS).astype(int):
        found = zlib.crc32(data[start : start + BLOCK], found)
    return found
