"""A task on its way to the processes that train: packed once, unpacked anew for each run.

Nothing that a run leaves on the task, or in the globals of its file, reaches the next one. Big arrays and
tensors are shared by the runs of a process and looked at after each: if one was changed, all are read again.
"""

import functools
import io
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from thalweg.lab.running.marks import marks
from thalweg.lab.spaces import Space
from thalweg.lab.workload import Workload, chance, switches, tasks
from thalweg.lab.workload.contract import option
from thalweg.lab.workload.tasks import modules

SHARED_BYTES = 1 << 20
"""Data of at least so many bytes are shared by the runs of a process."""

FIRST_SEED = 67_280_421_310_721
"""What torch begins with in a new process; NumPy and Python begin anywhere."""


def pack(
    workload: Workload,
    file: Path | None,
    path: Path,
    spaces: Sequence[Space] = (),
    environment: Mapping[str, str] | None = None,
) -> None:
    """Writes a task, and beside it its big data.

    Args:
        workload: the task.
        file: the user's own that it comes from, if one.
        path: where to.
        spaces: what is compared, with classes and changes that trials cannot hold.
        environment: variables that were set since the processes that train were started.
    """
    # For what a script or a notebook defines; a file was found with it.
    tasks.caches.make_sendable()
    packed = io.BytesIO()
    packer = _Packer(packed)
    packer.dump((workload, {space.name: space for space in spaces}))
    changing = frozenset(space.name for space in spaces if space.changes)
    around = Around(
        switches.now(),
        dict(environment or {}),
        tasks.folder_of(file),
        modules.folders(),
        tasks.neighbours(file),
    )
    path.write_bytes(pickle.dumps((packed.getvalue(), file, changing, around)))
    _data_of(path).write_bytes(pickle.dumps(packer.big, protocol=5))


class Around(NamedTuple):
    """What the process that packed a task had set around it, perhaps by importing its file."""

    switches: Mapping[str, Any]
    environment: Mapping[str, str]
    folder: str
    modules: Sequence[str]
    neighbours: Mapping[Path, str]


class Parcel:
    """What `pack` has written, in a process that trains.

    Attributes:
        file: the user's own that the task comes from, if one.
    """

    def __init__(self, path: Path) -> None:
        self._packed, self.file, self._changing, self._around = pickle.loads(path.read_bytes())
        self._data = _data_of(path)
        if self.file is not None:
            tasks.make_importable(self.file)
        self._kept: dict[tuple[str, str], Any] = {}
        self._marks: dict[tuple[str, str], Any] = {}
        self._never: set[tuple[str, str]] = set()
        self._read()
        self._open: dict[str, tuple[Workload, dict[str, Space]]] = {}
        self._last = ""

    def settle_in(self) -> None:
        """Makes this process what the one was that packed the task; call it before the first run.

        Raises:
            thalweg.lab.workload.tasks.TaskError: it would import another program than that one has.
        """
        known = self._around.neighbours.items()
        if changed := [path for path, program in known if tasks.program_of(path) != program]:
            raise tasks.TaskError(
                f"{tasks.shown(changed[0])} changed after the command had begun, and a process that "
                "starts only now would import it as it is now; the same command begins another study"
            )
        switches.restore(self._around.switches)
        os.environ.update(self._around.environment)
        sys.path += [folder for folder in self._around.modules if folder not in sys.path]
        # Modules beside the task's file are imported anew here, and may draw, or read the command line.
        chance.seed_all(FIRST_SEED)
        if self.file is not None:
            sys.argv = tasks.command_line(self.file)
            tasks.put_own_first(self.file)

    def enter(self) -> None:
        """Goes to the folder in which every run begins, wherever the one before has gone."""
        with suppress(OSError):  # it is there no more
            os.chdir(self._around.folder)

    def unpack(self, name: str = "") -> tuple[Workload, Space | None]:
        """The task as it was when it was packed, and the space of that name, if there is one.

        What a recipe changes has been changed: nothing is left to be done of it.
        """
        # What a task computes may depend on what a recipe changes, so that each has its own.
        self._last = name if name in self._changing else ""
        found = self._open.get(self._last)
        if found is None or not _is_ours(found[0]):
            found = self._open[self._last] = self._unpacked(self._last)
        workload, spaces = found
        return workload, spaces.get(name)

    def whole(self) -> tuple[Workload, list[Space], Path | None]:
        """The task, all its spaces with what recipes change still to be changed, and its file."""
        workload, spaces = self._unpacked("")
        return workload, list(spaces.values()), self.file

    def _unpacked(self, recipe: str) -> tuple[Workload, dict[str, Space]]:
        workload, spaces = _Unpacker(io.BytesIO(self._packed), self._big).load()
        if self.file is not None:
            makers = [space.maker for space in spaces.values()]
            modules.stand_in(self.file, [*getattr(workload, "__dict__", {}).values(), *makers])
        if recipe:
            workload = spaces[recipe].applied(workload)
            spaces[recipe] = replace(spaces[recipe], changes={})
        _watch_properties(type(workload))
        # What is computed when it is first asked for is often a data set that takes long to read.
        if kept := {name: value for (of, name), value in self._kept.items() if of == recipe}:
            vars(workload).update(kept)
        return workload, spaces

    def settle(self) -> None:
        """Call it after a run: reads the big data again if it has changed them."""
        if marks(self._big) != self._big_marks:
            self._read()
            self._kept.clear()
        workload = self._open[self._last][0] if self._last in self._open else None
        for name, value in getattr(workload, "__dict__", {}).items():
            kind = getattr(type(workload), name, None)
            if isinstance(kind, cached_property) and not getattr(kind, _HAS_DRAWN, False):
                self._keep((self._last, name), value)

    def _keep(self, name: tuple[str, str], value: Any) -> None:
        mark = marks(tree_flatten(value)[0])
        if name in self._marks and self._marks[name] != mark:
            self._never.add(name)
        if name in self._never or None in mark:
            self._kept.pop(name, None)
        else:
            self._kept[name], self._marks[name] = value, mark

    def _read(self) -> None:
        self._big = pickle.loads(self._data.read_bytes())
        self._big_marks = marks(self._big)


_HAS_DRAWN = "_thalweg_has_drawn"


def _watch_properties(kind: type) -> None:
    """Has the cached properties of a class say whether they have drawn from the global generators.

    What is computed from the seed of the run that asks first must not be kept for the next.
    """
    for cls in kind.__mro__:
        for value in vars(cls).values():
            if isinstance(value, cached_property) and not hasattr(value, _HAS_DRAWN):
                vars(value)[_HAS_DRAWN] = False
                value.func = _watched(value, value.func)


def _watched(value: Any, compute: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(compute)
    def computed(task: Any) -> Any:
        before = chance.states()
        found = compute(task)
        if chance.states() != before:
            vars(value)[_HAS_DRAWN] = True
        return found

    return computed


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
    """Whether it ships with the lab: these keep nothing from run to run but the data that they have read.

    A function that trains by itself is the user's.
    """
    return type(workload).__module__.startswith("thalweg.") and option(workload, "whole_run") is None


def _is_big(value: Any) -> bool:
    if type(value) is np.ndarray:
        return value.nbytes >= SHARED_BYTES and value.dtype.kind in "biufc" and value.flags.c_contiguous
    if type(value) is not Tensor or value.layout != torch.strided or value.device.type != "cpu":
        return False
    plain = not (value.requires_grad or value.is_quantized or value.is_conj() or value.is_neg())
    return plain and value.nbytes >= SHARED_BYTES and value.is_contiguous()
