"""The CPU lowering: a traced rule becomes one LLVM function that steps any number of tensors.

A launch takes a table of addresses (one row for `p`, `g`, each slot, each side tensor and each counter, one
column for each tensor), a table of chunks, the scalars in rows, and for each tensor its row and its key. Rows
are made first, then threads claim tasks, runs of chunks, until none is left, and then autograd is told. A
tensor whose gradient lies nowhere is left out of all of it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch

from thalweg.lowering import machine
from thalweg.lowering.chunks import SIZE, Chunks
from thalweg.lowering.cpu import scalars, threads
from thalweg.lowering.cpu.assembly import assembly
from thalweg.lowering.cpu.gather import Gather
from thalweg.lowering.cpu.instructions import words
from thalweg.lowering.look import ahead, fields
from thalweg.lowering.look.look import Look, Row
from thalweg.lowering.spec import Spec
from thalweg.rule import Recipe
from thalweg.storage.codecs import BlockCodec, Codec

__all__ = ["Launch", "Run", "assembly", "chunk", "kernel", "rows_kernel", "supports", "tell"]

SMALL = 32_768
"""Below this many elements a second thread costs more than it brings."""

LONG, LONG_TENSOR = 1 << 20, 500
"""Above so many elements, and so many of each tensor, Python's lock is given up and tensors are kept alive:
the lock takes other threads their time, and to keep a tensor takes some for each."""

LARGEST = 262_144
"""Most elements of a chunk. What a processor fetches ahead of one is in vain at its end."""

SHARES = 32
"""Chunks for each thread, at least, before they grow: the last ones end at about the same time."""


MEASURED = 65_536
"""Elements of a chunk of a measure, for any number of threads: sums are made over the same stretches."""


def chunk(elements: int) -> int:
    """Return the most elements of a chunk where a step takes `elements` of them."""
    share = elements // (SHARES * threads.count()) // 64 * 64
    return min(max(share, SIZE), LARGEST)


def supports(codec: Codec | None) -> bool:
    """Say whether this processor's kernels read and write `codec`."""
    if codec is None:
        return False
    features = machine.host()[1]
    reads_float16 = codec.name == "float16" or isinstance(codec, BlockCodec)
    return not reads_float16 or "+f16c" in features or "+fullfp16" in features


@cache
def kernel(spec: Spec) -> int:
    """Return the address of the kernel of `spec`, compiled, or loaded from the cache."""
    return machine.compile_to_address(assembly(spec), ("step",))[0]


@cache
def _rows_kernel(recipe: Recipe, choices: tuple[tuple[str, bool], ...], kind: scalars.Kind) -> int:
    return machine.compile_to_address(scalars.assembly(recipe, dict(choices), kind), ("rows",))[0]


def rows_kernel(recipe: Recipe, choices: Mapping[str, bool], kind: scalars.Kind) -> int:
    """Return the address of the function that makes the rows, see `scalars`."""
    return _rows_kernel(recipe, tuple(choices.items()), kind)


class Launch:
    """A kernel and the tables of one batch, ready to run again and again.

    Args:
        spec: the kernel's.
        choices: the hyperparameters that are flags.
        addresses: int64 (streams, tensors), where the first elements of `p`, `g`, the slots, the side
            tensors and the counters lie. Read at every run.
        groups: int64 (tensors,), their groups.
        positions: int64 (tensors,), their places in `firsts`.
        firsts: int32, whether the state of a parameter is new. Cleared where it is stepped.
        counter: the dtype of counters.
        measures: float64 (tensors, measures of the recipe). Read at every run.
    """

    def __init__(
        self,
        spec: Spec,
        choices: Mapping[str, bool],
        addresses: np.ndarray,
        groups: np.ndarray,
        positions: np.ndarray,
        firsts: np.ndarray,
        counter: torch.dtype,
        measures: np.ndarray,
    ) -> None:
        count = addresses.shape[1]
        real = np.float64 if spec.compute == torch.float64 else np.float32
        self.keys = np.zeros(count, np.int32)
        """The keys of the draws, for a kernel that draws. Read at every run."""
        rows = np.zeros((count, max(len(spec.columns), 1)), real)
        row_of = np.zeros(count, np.int64)
        kind = scalars.Kind(spec.compute, counter, spec.unscale)
        self._rows = np.zeros(len(scalars.WORDS), np.int64)
        streams = len(spec.streams)
        keeps = int(bool(spec.stage))
        values = (count, addresses, streams, groups, 0, firsts, positions, rows, row_of, 0, measures, keeps)
        self._rows[:] = [_number(value) for value in values]
        self._steps = np.array(
            [0, 0, 0, 0, *map(_number, (addresses, count, rows, row_of, self.keys)), 0], np.int64
        )
        self.table = np.zeros(len(_WORDS), np.int64)
        """What `run` takes."""
        self._set("rows", rows_kernel(spec.recipe, choices, kind))
        self._set("rows_table", self._rows)
        self._spec = spec
        self.ask_for_kernel()
        self._set("kernel_table", self._steps)
        self._set("tensors", count)
        self._set("grads", addresses[1:2])
        measured = [i for i, one in enumerate(spec.recipe.measures) if one.at == spec.stage]
        self.gather = Gather(measured, measures, addresses[1])
        """Has tensors read what the launch of a stage has measured."""
        self._kept = (addresses, groups, positions, rows, row_of, measures)  # what the tables point to
        self._firsts = firsts
        self._chunks: Chunks | None = None
        self.is_long = True
        """Whether it takes so long that other threads should not wait for Python's lock meanwhile."""

    def _set(self, name: str, value: np.ndarray | int) -> None:
        self.table[_WORDS.index(name)] = _number(value)

    def read(self, hypers: np.ndarray, unscale: float | None) -> None:
        """Read the hyperparameters from now on from `hypers`, float64 (groups, columns of the rule).

        Args:
            hypers: kept.
            unscale: what gradients are multiplied by, if the kernel does.
        """
        self._hypers = hypers
        self._rows[scalars.WORDS.index("hypers")] = hypers.ctypes.data
        place = scalars.WORDS.index("unscale")
        self._rows[place : place + 1].view(np.float64)[:] = 0.0 if unscale is None else unscale

    def ask_for_kernel(self) -> None:
        """Take the kernel of the spec, as it is now."""
        self._set("kernel", kernel(self._spec))

    def count_in(self, firsts: np.ndarray) -> None:
        """Read and clear `firsts` from now on."""
        self._firsts = firsts
        self._rows[scalars.WORDS.index("firsts")] = _number(firsts)

    def tell(self, impls: np.ndarray) -> None:
        """Tell autograd what was stepped: `impls`, int64 (tensors,), is where libtorch's tensors stand."""
        self._impls = impls
        self._set("impls", impls)

    def divide(self, chunks: Chunks) -> None:
        """Take `chunks` for the work, from now on."""
        if chunks is self._chunks:
            return
        self._steps[1:4] = [len(chunks.tasks) - 1, _number(chunks.tasks), _number(chunks.table)]
        self._sums = np.zeros((len(chunks.table), len(self._spec.measures)))
        self._steps[9] = _number(self._sums)
        if self._spec.stage:
            self.gather.read(chunks, self._sums)
        self._set("tasks", len(chunks.tasks) - 1)
        self._set("small", int(chunks.elements <= SMALL))
        self.is_long = chunks.elements > max(LONG, LONG_TENSOR * int(self.table[_WORDS.index("tensors")]))
        self._chunks = chunks  # last: what is interrupted before is done again


def _number(value: np.ndarray | int) -> int:
    return value if isinstance(value, int) else value.__array_interface__["data"][0]


_WORDS = (
    *("rows", "rows_table", "kernel", "kernel_table"),
    *("tasks", "small", "tensors", "grads", "impls"),
)

_RUN = """\
define void @run(ptr %launches, i64 %count, i64 %threads, ptr %parallel, ptr %bump) {{
entry:
  br label %launch

launch:
  %l = phi i64 [ 0, %entry ], [ %l.next, %told ]
  %more = icmp slt i64 %l, %count
  br i1 %more, label %open, label %done

open:
  %table.at = getelementptr ptr, ptr %launches, i64 %l
  %table = load ptr, ptr %table.at
{words}
  call void %rows(ptr %rows_table)
  %none = icmp eq i64 %tasks, 0
  br i1 %none, label %stepped, label %step

step:
  store i64 0, ptr %kernel_table
  %few = icmp slt i64 %tasks, %threads
  %fewer = select i1 %few, i64 %tasks, i64 %threads
  %is.small = icmp ne i64 %small, 0
  %workers = select i1 %is.small, i64 1, i64 %fewer
  %many = icmp sgt i64 %workers, 1
  br i1 %many, label %together, label %alone

together:
  %workers.32 = trunc i64 %workers to i32
  call void %parallel(ptr %kernel, ptr %kernel_table, i32 %workers.32, i32 0)
  br label %stepped

alone:
  call void %kernel(ptr %kernel_table)
  br label %stepped

stepped:
  %nobody = icmp eq ptr %impls, null
  br i1 %nobody, label %told, label %tell

tell:
  call void @tell(ptr %impls, ptr %grads, i64 %tensors, ptr %bump)
  br label %told

told:
  %l.next = add nuw nsw i64 %l, 1
  br label %launch

done:
  ret void
}}

{declared}declare i64 @llvm.smin.i64(i64, i64)

define void @tell(ptr %impls, ptr %grads, i64 %tensors, ptr %bump) {{
entry:
  %last = sub i64 %tensors, 1
  br label %tensor

tensor:
  %t = phi i64 [ 0, %entry ], [ %t.next, %tensor.next ]
  %left = icmp slt i64 %t, %tensors
  br i1 %left, label %ask, label %done

ask:
  %grad.at = getelementptr i64, ptr %grads, i64 %t
  %grad = load i64, ptr %grad.at
  %absent = icmp eq i64 %grad, 0
  br i1 %absent, label %tensor.next, label %tell

tell:
  %later = add i64 %t, {stepped}
  %later.there = call i64 @llvm.smin.i64(i64 %later, i64 %last)
  %next.at = getelementptr ptr, ptr %impls, i64 %later.there
  %next = load ptr, ptr %next.at
{fetched}
  %impl.at = getelementptr ptr, ptr %impls, i64 %t
  %impl = load ptr, ptr %impl.at
  call void %bump(ptr %impl)
  ; Of a tensor that processes share, the part of this one has been stepped too.
  %part.at = getelementptr i64, ptr %impl, i64 {part}
  %part = load ptr, ptr %part.at
  %is.whole = icmp eq ptr %part, null
  br i1 %is.whole, label %tensor.next, label %tell.part

tell.part:
  call void %bump(ptr %part.at)
  br label %tensor.next

tensor.next:
  %t.next = add nuw nsw i64 %t, 1
  br label %tensor

done:
  ret void
}}

; Look, and run if everything is as it was. A function that gives up Python's lock has it given up meanwhile.
define i32 @step(ptr %head, ptr %groups, ptr %state, ptr %look, ptr %launches, i64 %count, i64 %threads,
    ptr %parallel, ptr %bump, ptr %save, ptr %restore) {{
entry:
  %seen = call i32 %look(ptr %head, ptr %groups, ptr %state, i32 0)
  %same = icmp eq i32 %seen, 0
  br i1 %same, label %go, label %out

go:
  %keeps = icmp eq ptr %save, null
  br i1 %keeps, label %locked, label %unlocked

locked:
  call void @run(ptr %launches, i64 %count, i64 %threads, ptr %parallel, ptr %bump)
  ret i32 0

unlocked:
  %thread = call ptr %save()
  call void @run(ptr %launches, i64 %count, i64 %threads, ptr %parallel, ptr %bump)
  call void %restore(ptr %thread)
  ret i32 0

out:
  ret i32 %seen
}}
"""


def _run_assembly() -> str:
    told = (Row.IMPL, Row.PART, Row.VERSION, Row.PART_VERSION)
    return _RUN.format(
        words=words(_WORDS, numbers="tasks small tensors"),
        part=Row.PART - Row.IMPL,
        declared=ahead.DECLARED,
        stepped=ahead.STEPPED,
        fetched=ahead.fetched("%next", [(word - Row.IMPL, 0) for word in told]),
    )


class _Functions(NamedTuple):
    address: int
    run: Callable[..., None]
    tell: Callable[..., None]
    step: Callable[..., int]


@cache
def _run() -> _Functions:
    run, tell, step = machine.compile_to_address(_run_assembly(), ("run", "tell", "step"))
    pointer, number, thing = ctypes.c_void_p, ctypes.c_int64, ctypes.py_object
    return _Functions(
        run,
        # These release the GIL, and the last keeps it, or releases it itself.
        ctypes.CFUNCTYPE(None, pointer, number, number, pointer, pointer)(run),
        ctypes.CFUNCTYPE(None, pointer, pointer, number, pointer)(tell),
        ctypes.PYFUNCTYPE(
            ctypes.c_int32, pointer, thing, thing, pointer, pointer, number, number, *[pointer] * 4
        )(step),
    )


def tell(impls: np.ndarray, grads: np.ndarray) -> None:
    """Tell autograd what was stepped.

    Args:
        impls: int64 (tensors,), where libtorch's tensors stand.
        grads: int64 (tensors,), where gradients lie; what is at 0 was not stepped.
    """
    known = fields.known()
    assert known is not None, "who knows where tensors stand knows libtorch"
    _run().tell(_number(impls), _number(grads), len(impls), known.bump_version)


class Run:
    """Launches one after the other, in one call that nothing interrupts.

    Args:
        launches: the launches.
    """

    def __init__(self, launches: Sequence[Launch]) -> None:
        self._launches = list(launches)
        self._tables = np.array([launch.table.ctypes.data for launch in launches], np.int64)
        known = fields.known()
        self._functions = (threads.parallel(), None if known is None else known.bump_version)
        self._arguments = (self._tables.ctypes.data, len(launches))
        self._compiled = _run()
        lock = (ctypes.pythonapi.PyEval_SaveThread, ctypes.pythonapi.PyEval_RestoreThread)
        self._lock = tuple(int(address) for address in machine.addresses_of(lock))
        self.is_long = not threads.is_native() or any(launch.is_long for launch in launches)
        """Whether it takes so long that other threads should not wait for Python's lock meanwhile."""

    def __call__(self) -> None:
        """Make rows, step all tensors and tell autograd."""
        self._compiled.run(*self._arguments, threads.count(), *self._functions)

    def after(self, look: Look, groups: list[dict[str, Any]], state: dict[Any, Any]) -> int:
        """Look, and if nothing has changed do the same, in one call: return the bits of what has changed.

        Nobody can take away in between what was looked at. If it `is_long`, the caller keeps it alive.
        """
        walk, head = look.walk
        return self._compiled.step(head, groups, state, walk, *self.arguments(self.is_long))

    def arguments(self, gives_up_lock: bool) -> tuple[Any, ...]:
        """Return what a compiled function takes that looks and runs: launches, threads, functions."""
        lock = self._lock if gives_up_lock else (None, None)
        return *self._arguments, threads.count(), *self._functions, *lock

    @property
    def address(self) -> int:
        """Where the compiled function lies that runs launches."""
        return self._compiled.address
