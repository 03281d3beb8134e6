"""What a training process does: it runs the trials that it is sent, one after the other, on one thread."""

import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch

import thalweg
from thalweg.lab.running import endings, ranks
from thalweg.lab.running import trial as trials
from thalweg.lab.running.checkpoints import Keeper, Place
from thalweg.lab.running.leave import Leave
from thalweg.lab.running.logs import log_name, printing_to
from thalweg.lab.running.parcel import Parcel
from thalweg.lab.running.processes import take_off_safe_path
from thalweg.lab.study.record import Record, Trial
from thalweg.lab.workload import tasks
from thalweg.lab.workload.tasks import TaskError


class Call(NamedTuple):
    """A function that is called with the task, its spaces, its file and these arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Work(NamedTuple):
    """What a process is sent: a trial to run or, without one, what is to be called."""

    path: Path
    trial: Trial | None
    logs: Path | None
    checkpoints: Place | None = None
    leave: Leave | None = None
    early_stop: bool = False
    call: Call | None = None
    seat: ranks.Seat | None = None

    def log(self) -> Path | None:
        """The file for what is printed meanwhile: one for each process."""
        if self.logs is None:
            return None
        name = "trying.log" if self.trial is None else log_name(self.trial)
        rank = 0 if self.seat is None else self.seat.rank
        path = self.logs.absolute() / name
        return path.with_suffix(f".rank{rank}.log") if rank else path


@dataclass(frozen=True)
class Said:
    """A line for the user that a process sends while it trains."""

    text: str


@dataclass(frozen=True)
class Raised:
    """What a process sends in place of a record when the workload raised an exception.

    Attributes:
        text: for its author.
        at: when, by the clock that all processes of a machine share.
        is_tasks: whether the task is not what it must be.
    """

    text: str
    at: float
    is_tasks: bool


@dataclass(frozen=True)
class Returned:
    """What a function that was called has returned."""

    value: Any


def serve(end: Connection, index: int, folder: Path) -> None:
    """Runs what it is sent, until there is nobody any more who sends."""
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
            work: Work = end.recv()
            answer = runs.run(work, lambda line: end.send(Said(line)))
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

    def run(self, work: Work, say: Callable[[str], Any]) -> Record | Returned | Raised:
        """The record of a trial of the task that lies at that path."""
        file = None
        # Whatever the run before has set.
        torch.set_num_threads(1)
        try:
            with printing_to(work.log()):
                ranks.take(work.seat, self._device)
                new = work.path != self._path
                if new:
                    self._parcel, self._path = Parcel(work.path), work.path
                assert self._parcel is not None
                file = self._parcel.file
                self._parcel.enter()
                if new:
                    self._parcel.settle_in()
                if work.call is not None:
                    return Returned(work.call.function(*self._parcel.whole(), *work.call.arguments))
                return self._trained(work, self._parcel, new, say)
        # Ctrl-C is left to the parent: what is raised here is the task's, be it an exit.
        except BaseException as error:
            return Raised(tasks.told(error, file), time.monotonic(), isinstance(error, TaskError))

    def _trained(self, work: Work, parcel: Parcel, new: bool, say: Callable[[str], Any]) -> Record:
        trial, place = work.trial, work.checkpoints
        assert trial is not None
        keeper = None if place is None else Keeper(place, trial, self._device, say)
        run = trials.run_checked if new else trials.run_on
        fresh = partial(parcel.unpack, trial.name)
        return run(trial, fresh, self._device, keeper, work.leave, work.early_stop)

    def settle(self) -> None:
        """What is to be done after a run, when its record is on its way."""
        if self._parcel is not None:
            self._parcel.settle()
