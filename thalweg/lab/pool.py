"""Runs trials side by side, in processes with one torch thread each.

Each trial depends on its own fields only and each process computes on one thread, so the records
are the same, bit for bit, for every number of workers.
"""

import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import TracebackType

import torch

import thalweg
from thalweg.lab import trial as trials
from thalweg.lab.trial import Record, Trial
from thalweg.lab.workload import Workload

MOST_BY_DEFAULT = 16
"""More processes than this are started only on request: each takes a few hundred megabytes."""


class WorkerDiedError(RuntimeError):
    """A process that was training ended before its time."""


def available_cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Pool:
    """Processes that run trials; use it as a context, which starts them and ends them.

    A single worker is the calling process itself. If the context is left by an exception (Ctrl-C
    among them), the processes are ended at once.

    Args:
        workers: how many processes, at least 1.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def __enter__(self) -> "Pool":
        self._others = set(multiprocessing.active_children())
        self._folder = tempfile.TemporaryDirectory(prefix="thalweg-")
        self._executor: ProcessPoolExecutor | None = None
        if self.workers > 1:
            self._executor = ProcessPoolExecutor(
                self.workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_worker,
            )
            # An executor starts a process when work arrives. These empty tasks start all of them
            # now, so that they import torch while the caller prepares its first trials.
            with _ctrl_c_ignored():
                for _ in range(self.workers):
                    self._executor.submit(int)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._executor is not None:
            if error is not None:
                for process in set(multiprocessing.active_children()) - self._others:
                    process.terminate()
            self._executor.shutdown(cancel_futures=True)
        self._folder.cleanup()

    def run(self, workload: Workload, todo: Sequence[Trial], done: Callable[[Record], None]) -> list[Record]:
        """Runs trials of a workload.

        Args:
            workload: what they train.
            todo: the trials.
            done: called in this process as each trial ends, in whatever order they do.

        Returns:
            The records in the order of the trials.

        Raises:
            WorkerDiedError: a process was killed.
        """
        if self._executor is None:
            return _run_here(workload, todo, done)
        # By way of a file, the workload is pickled once and travels once to each process.
        path = Path(self._folder.name) / "workload.pickle"
        path.write_bytes(pickle.dumps(workload))
        try:
            futures = [self._executor.submit(_run_there, path, trial) for trial in todo]
            for future in as_completed(futures):
                done(future.result())
            return [future.result() for future in futures]
        except BrokenProcessPool:
            raise WorkerDiedError(
                "a training process was killed; if memory ran out, fewer workers need less"
            ) from None


def _run_here(workload: Workload, todo: Sequence[Trial], done: Callable[[Record], None]) -> list[Record]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        records = []
        for trial in todo:
            records.append(trials.run(trial, workload))
            done(records[-1])
        return records
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C, which a terminal sends to all: the parent answers it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _start_worker() -> None:
    torch.set_num_threads(1)
    # The first optimizer of a process makes torch import its compiler, which takes seconds.
    thalweg.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


@lru_cache(maxsize=1)
def _load(path: Path) -> Workload:
    workload: Workload = pickle.loads(path.read_bytes())
    return workload


def _run_there(path: Path, trial: Trial) -> Record:
    return trials.run(trial, _load(path))
