"""Runs trials side by side, in processes of one torch thread each.

Each trial depends on its own fields only and each process computes on one thread, so the records
are the same, bit for bit, for every number of workers. A process that dies or hangs costs the trial it
was at: that is recorded as a failure, and another process takes its place.
"""

import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

import torch

import thalweg
from thalweg.lab.errors import TrialError, WorkerDiedError
from thalweg.lab.running import endings
from thalweg.lab.running import trial as trials
from thalweg.lab.running.checkpoints import EVERY_SECONDS, Keeper, Place
from thalweg.lab.running.explaining import Leave
from thalweg.lab.running.logs import log_name, printing_to
from thalweg.lab.running.parcel import Parcel, pack
from thalweg.lab.running.processes import (
    ending,
    hashes_fixed,
    new_folder,
    own_modules_last,
    take_off_safe_path,
)
from thalweg.lab.spaces import Space
from thalweg.lab.study.record import Failure, Record, Trial, failed
from thalweg.lab.workload import Workload, tasks

MOST_BY_DEFAULT = 16
"""More processes than this are started only on request: each takes a few hundred megabytes."""


def available_cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Work(NamedTuple):
    """What a worker is sent."""

    path: Path
    trial: Trial
    logs: Path | None
    checkpoints: Place | None
    leave: Leave | None
    early_stop: bool


@dataclass(frozen=True)
class _Said:
    """A line for the user that a worker sends while it trains."""

    text: str


@dataclass(frozen=True)
class _Raised:
    """What a worker sends in place of a record when the workload raised an exception."""

    text: str


class _Worker:
    """One process, and the trial it is at."""

    def __init__(self, index: int, folder: Path) -> None:
        self.index = index
        self.trial: Trial | None = None
        self.ready = False
        self.deadline = float("inf")
        self.limit = float("inf")
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        with endings.blocked(), _main_module_hidden(), own_modules_last(), hashes_fixed():
            arguments = (theirs, index, folder)
            # Not daemonic: a task's DataLoader may start processes of its own.
            self.process = context.Process(target=_serve, args=arguments, daemon=False)
            self.process.start()
        theirs.close()

    def start(self, work: _Work, limit: float) -> None:
        self.trial, self.limit, self.deadline = work.trial, limit, time.monotonic() + limit
        # A process that has died meanwhile is noticed, like any that dies, by who waits for it.
        with suppress(BrokenPipeError):
            self.connection.send(work)

    def end(self) -> None:
        # With what the task has started, such as the processes of its DataLoader.
        if hasattr(os, "killpg") and self.process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.connection.close()


class Pool:
    """Processes that run trials; use it as a context, which starts them and ends them.

    Args:
        workers: how many processes, at least 1.

    Attributes:
        logs: the folder in which what a run prints is kept, a file each; None to leave it as it is.
        checkpoints: where runs that last are kept, so that one that is cut off goes on; None for nowhere.
        say: called with what runs have to say to the user.
        early_stop: whether hopeless trials are ended early.
        every: the least seconds between two checkpoints of a run.
        credits: seconds that the final runs of each optimizer have left to be measured in; None not to
            measure them.
    """

    every = EVERY_SECONDS

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.logs: Path | None = None
        self.checkpoints: Place | None = None
        self.early_stop = False
        self.say: Callable[[str], Any] = lambda line: None
        self.credits: Mapping[str, float] | None = None
        self._loaded = itertools.count()

    def __enter__(self) -> "Pool":
        self._folder = new_folder()
        self._processes: list[_Worker] = []
        try:
            for index in range(self.workers):
                self._begin(index)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _begin(self, index: int) -> None:
        # Whoever ends this program meanwhile must find the process in the list, or it is left.
        with endings.held_back():
            self._processes.append(_Worker(index, self._folder))

    def _end(self) -> None:
        with endings.held_back():
            for worker in self._processes:
                worker.end()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self.logs is not None:
            with suppress(OSError):  # there are some, or there is no such folder
                self.logs.rmdir()

    def load(self, workload: Workload, file: Path | None = None, spaces: Sequence[Space] = ()) -> None:
        """Makes `workload` what is trained.

        Args:
            workload: the task.
            file: the user's own that it comes from, if one.
            spaces: what is compared, with classes and changes that trials cannot hold.
        """
        # By way of a file, the workload is pickled once and travels once to each process.
        self._path = self._folder / f"workload-{next(self._loaded)}.pickle"
        pack(workload, file, self._path, spaces)

    def keep_in(self, folder: Path | None, study: str) -> Place:
        """Has runs of a study kept there while they are under way; by default as long as the pool is."""
        folder = folder or self._folder / "checkpoints"
        self.checkpoints = Place(folder.absolute(), study, self.every)
        return self.checkpoints

    def forget_all(self) -> None:
        """Removes the checkpoints of a study whose runs have all ended."""
        if self.checkpoints is not None:
            self.checkpoints.clear()

    def forget(self, trial: Trial) -> None:
        """Removes the checkpoint of a run that has ended; call it when its record is kept."""
        if self.checkpoints is not None:
            self.checkpoints.remove(trial)

    @property
    def idle(self) -> int:
        """How many processes wait for a trial."""
        return sum(worker.trial is None for worker in self._processes)

    @property
    def running(self) -> list[Trial]:
        """The trials under way."""
        return [worker.trial for worker in self._processes if worker.trial is not None]

    def start(self, trial: Trial, limit: float = float("inf")) -> None:
        """Gives a trial to an idle process; past `limit` seconds it is ended as a failure."""
        leave = None if self.credits is None else Leave(self.credits.get(trial.name, 0.0), limit)
        next(worker for worker in self._processes if worker.trial is None).start(
            _Work(self._path, trial, self.logs, self.checkpoints, leave, self.early_stop), limit
        )

    def wait(self, timeout: float) -> list[Record]:
        """The records of the trials that end within `timeout` seconds, as soon as there is one.

        Raises:
            TrialError: the workload raised an exception.
            WorkerDiedError: a process ended before it was given work.
        """
        busy = {worker.connection: worker for worker in self._processes if worker.trial is not None}
        nearest = min((worker.deadline for worker in busy.values()), default=float("inf"))
        ready = connection.wait(list(busy), max(0.0, min(timeout, nearest - time.monotonic())))
        answers = [self._receive(busy[end]) for end in ready if isinstance(end, Connection)]
        records = [answer for answer in answers if answer is not None]
        now = time.monotonic()
        return records + [
            self._replace(worker, Failure("time limit", f"stopped after its limit of {worker.limit:.0f} s"))
            for worker in busy.values()
            if worker.trial is not None and worker.deadline <= now
        ]

    def _receive(self, worker: _Worker) -> Record | None:
        """The record that a process sends; None while it only says that it is ready for work."""
        try:
            answer = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            if not worker.ready and worker.process.exitcode == _NEVER_STARTED:
                raise WorkerDiedError("a training process could not start; see its message above") from None
            return self._replace(worker, Failure("killed", ending(worker.process.exitcode)))
        if answer is None:
            worker.ready = True
            return None
        if isinstance(answer, _Said):
            self.say(answer.text)
            return None
        worker.trial, worker.deadline = None, float("inf")
        if isinstance(answer, _Raised):
            raise TrialError(answer.text)
        record: Record = answer
        if record.failure is not None and record.failure.kind == "out of memory":
            # What it holds is not given back: the next run would start with less.
            self._renew(worker)
        return record

    def _replace(self, worker: _Worker, failure: Failure) -> Record:
        assert worker.trial is not None
        record = failed(worker.trial, failure)
        worker.trial = None
        self._renew(worker)
        return record

    def _renew(self, worker: _Worker) -> None:
        worker.end()
        self._processes.remove(worker)
        self._begin(worker.index)


_NEVER_STARTED = 1


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Processes started meanwhile do not run the caller's script again.

    Nothing in them is needed: what a script or a notebook defines travels by value. So a script that
    compares needs no ``if __name__ == "__main__"``.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(end: Connection, index: int, folder: Path) -> None:
    """What a process does: it runs the trials that it is sent, one after the other."""
    endings.leave_to_parent()
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    take_off_safe_path()
    threading.Thread(target=_leave_with_parent, args=(folder,), daemon=True).start()
    torch.set_num_threads(1)
    # The first optimizer of a process makes torch import its compiler, which takes seconds.
    thalweg.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    device = device_for(index)
    process, runs = os.getpid(), _Runs(device)
    with suppress(EOFError, ConnectionError):
        # Who has said that it is ready and ends with any status was ended by a trial.
        end.send(None)
        while True:
            work: _Work = end.recv()
            answer = runs.run(work, lambda line: end.send(_Said(line)))
            if os.getpid() != process:
                # The task has forked, and its child came back here: it must not answer a second time.
                os._exit(0)
            end.send(answer)
            runs.settle()


def device_for(index: int) -> torch.device:
    """Where the process of this number trains: GPUs in turn where there are any, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", index % torch.cuda.device_count())
    return trials.CPU


def _leave_with_parent(folder: Path) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    # Nobody else is left to remove it: the parent was killed.
    shutil.rmtree(folder, ignore_errors=True)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


class _Runs:
    """The runs of one process: of one task at a time, which it keeps unpacked."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._path: Path | None = None
        self._parcel: Parcel | None = None

    def run(self, work: _Work, say: Callable[[str], Any]) -> Record | _Raised:
        """The record of a trial of the task that lies at that path."""
        path, trial, logs, place, leave, early_stop = work
        keeper = None if place is None else Keeper(place, trial, self._device, say)
        file = None
        # Whatever the run before has set.
        torch.set_num_threads(1)
        try:
            with printing_to(logs and logs.absolute() / log_name(trial)):
                new = path != self._path
                if new:
                    self._parcel, self._path = Parcel(path), path
                assert self._parcel is not None
                file = self._parcel.file
                run = trials.run_checked if new else trials.run_on
                fresh = partial(self._parcel.unpack, trial.name)
                return run(trial, fresh, self._device, keeper, leave, early_stop)
        except Exception as error:
            return _Raised(tasks.told(error, file))

    def settle(self) -> None:
        """What is to be done after a run, when its record is on its way."""
        if self._parcel is not None:
            self._parcel.settle()
