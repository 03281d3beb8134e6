"""A GPU or its stand-in: the host's own kernels beside the device's, what must not happen, and graphs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.lowering.gpu import tables as cuda
from thalweg.stepping import planning
from thalweg.stepping.pool import POOL


@contextmanager
def host_kernels() -> Iterator[torch.device]:
    """Step tensors on the CPU by the CPU's kernels, also where the interpreter has taken them over."""
    served = set(cuda.SERVED)
    cuda.SERVED.discard("cpu")
    POOL._plans.clear()
    try:
        yield torch.device("cpu")
    finally:
        POOL._plans.clear()  # the interpreter is not to be handed plans of the host's kernels
        cuda.SERVED.update(served)


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Fail if the host waits for the device."""
    if device.type != "cuda":
        with _unseen(_NothingIsRead()):
            yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def _unseen(mode: TorchDispatchMode) -> Iterator[None]:
    """Enter a mode that stands in for a device: steps are not to take the reference's way for its sake."""
    asks = planning._is_dispatching
    planning._is_dispatching = lambda: False
    try:
        with mode:
            yield
    finally:
        planning._is_dispatching = asks


class _NothingIsRead(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            raise RuntimeError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def launches() -> Iterator[list[int]]:
    """List the programs of each launch of a kernel."""
    found: list[int] = []
    run = cuda.run

    def counted(kernel, programs, *arguments, **more):
        if programs:
            found.append(programs)
        run(kernel, programs, *arguments, **more)

    cuda.run = counted
    try:
        yield found
    finally:
        cuda.run = run


def aside(device: torch.device, work: Callable[[], object]) -> None:
    """Do something on another stream, as torch asks for before autograd is captured."""
    if device.type != "cuda":
        work()
        return
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)


def capture(device: torch.device, work: Callable[[], object]) -> Graph | torch.cuda.CUDAGraph:
    """Return a graph of `work`, which has been run before."""
    if device.type != "cuda":
        return Graph(work)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


class Graph:
    """What a CUDA graph does, without one: launches and copies are noted, not done, and done by `replay`.

    Memory that was given back after the capture would be anybody's when a real graph is replayed, and
    a table that is sent while capturing is there after the first replay only. Both are found here.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self._noted: list[Callable[[], object]] = []
        self._read: list[weakref.ref] = []
        self._sent: list[Tensor] = []
        self._is_replayed = False
        run, send, asks = cuda.run, cuda.to_device, cuda.is_capturing

        def note(kernel, programs, *arguments, **more):
            if not programs:
                return
            for x in arguments:
                self._look(x)
            held = [_memory(x) for x in arguments]
            self._noted.append(lambda: run(kernel, programs, *held, **more))

        def sent(array, to):
            self._sent.append(send(array, to))
            return self._sent[-1]

        cuda.run, cuda.to_device, cuda.is_capturing = note, sent, lambda device: True
        try:
            with _unseen(_Noting(self._noted, self._look, self._sent)):
                work()
        finally:
            cuda.run, cuda.to_device, cuda.is_capturing = run, send, asks

    def _look(self, value: object) -> None:
        """Remember a tensor that a replay needs, unless it is the graph's own, as memory of a capture is."""
        if not isinstance(value, Tensor):
            return
        whole = value if value._base is None else value._base
        if not any(whole is own for own in self._sent):
            self._read.append(weakref.ref(whole))

    def replay(self) -> None:
        gc.collect()
        assert all(ref() is not None for ref in self._read), "a captured launch reads memory given back since"
        self._is_replayed = True
        for noted in self._noted:
            noted()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Check that steps beside the graph read nothing that it is yet to write."""
        run = cuda.run

        def checked(kernel, programs, *arguments, **more):
            yet = not self._is_replayed and any(x is own for x in arguments for own in self._sent)
            assert not yet, "a step reads a table that was sent while capturing, and is not there yet"
            run(kernel, programs, *arguments, **more)

        cuda.run = checked
        try:
            yield
        finally:
            cuda.run = run


def _memory(value: object) -> object:
    """Return the memory of a tensor as another one, which keeps neither it nor what it is a view of."""
    if isinstance(value, list):
        return [_memory(one) for one in value]
    if not isinstance(value, Tensor):
        return value
    place = value.untyped_storage(), value.storage_offset(), value.shape, value.stride()
    return torch.empty(0, dtype=value.dtype, device=value.device).set_(*place)


class _Noting(TorchDispatchMode):
    """Notes what is done; what makes new tensors is done too, and again by replays, to the same memory."""

    def __init__(
        self, noted: list[Callable[[], object]], look: Callable[[object], None], made: list[Tensor]
    ) -> None:
        super().__init__()
        self._noted = noted
        self._look = look
        self._made = made

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.set_.source_Storage_storage_offset:
            return func(*args, **(kwargs or {}))
        if not func._schema.name.endswith("_"):
            return self._make(func, args, kwargs or {})
        for written in args[0] if isinstance(args[0], list) else [args[0]]:
            self._look(written)
        held = [_memory(x) for x in args]
        self._noted.append(lambda: func(*held, **(kwargs or {})))
        return args[0] if func._schema.returns else None

    def _make(self, func, args, kwargs):
        """Make a tensor now, and its values again whenever the graph is replayed."""
        made = func(*args, **kwargs)
        if isinstance(made, Tensor) and not any(one.alias_info for one in func._schema.returns):
            self._made.append(made)
            held, kept = [_memory(x) for x in args], _memory(made)
            self._noted.append(lambda: kept.copy_(func(*held, **kwargs)))
        return made


@contextmanager
def beside(graph: Graph | torch.cuda.CUDAGraph) -> Iterator[None]:
    """Take eager steps beside a graph."""
    if isinstance(graph, Graph):
        with graph.beside():
            yield
    else:
        yield
