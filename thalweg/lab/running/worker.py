"""A worker: the process that has a run, or the several that share one."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import torch.distributed as dist

from thalweg.lab.running import endings, ranks, serving
from thalweg.lab.running.processes import ending, hashes_fixed, own_modules_last, start_tracker
from thalweg.lab.running.serving import Raised, Returned, Said, Work
from thalweg.lab.study.record import Record, Trial

RAISED_PATIENCE = 1.0
"""Seconds that an exception waits for what it may have come from: a process that died, or raised first."""

FAILED_PATIENCE = 10.0
"""Seconds that the others have to fail too, where one has failed: all mostly do so in the same step."""

_NEVER_STARTED = 1


@dataclass(frozen=True)
class Died:
    """That a process has ended, and whether it had never been ready for work."""

    text: str
    never_started: bool


Answer = Record | Returned | Raised | Died


class Process:
    """One training process.

    Attributes:
        index: its place among all, by which its device is chosen.
    """

    def __init__(self, index: int, folder: Path) -> None:
        self.index = index
        self._ready = False
        context = multiprocessing.get_context("spawn")
        start_tracker()
        self.connection, theirs = context.Pipe()
        with endings.blocked(), _main_module_hidden(), own_modules_last(), hashes_fixed():
            arguments = (theirs, index, folder)
            # Not daemonic: a task's DataLoader may start processes of its own.
            self.process = context.Process(target=serving.serve, args=arguments, daemon=False)
            self.process.start()
        theirs.close()

    def send(self, work: Work) -> None:
        """Gives it work."""
        # One that has died meanwhile is noticed, like any that dies, by who waits for it.
        with suppress(BrokenPipeError):
            self.connection.send(work)

    def receive(self) -> Answer | Said | None:
        """What it says; None if only that it is ready for work."""
        try:
            said = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode
            return Died(ending(code), not self._ready and code == _NEVER_STARTED)
        self._ready = True
        answer: Answer | Said | None = said
        return answer

    def end(self) -> None:
        """Ends it, with what the task has started, such as the processes of its DataLoader."""
        if hasattr(os, "killpg") and self.process.pid is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.connection.close()


class Worker:
    """The processes that run one trial at a time together.

    Args:
        processes: one, or as many as a run has, by their ranks.

    Attributes:
        trial: the one under way.
        busy: whether it has work, a trial or a function to call.
        deadline: when the work is ended.
        limit: after how many seconds that is.
    """

    def __init__(self, processes: list[Process]) -> None:
        self.processes = processes
        self.trial: Trial | None = None
        self.busy = False
        self.deadline = self.limit = float("inf")
        self._answers: dict[int, Answer] = {}
        self._wanted_by = float("inf")
        self._store: dist.TCPStore | None = None
        self._runs = 0

    @property
    def is_group(self) -> bool:
        """Whether its runs have several processes."""
        return len(self.processes) > 1

    @property
    def connections(self) -> dict[Connection, int]:
        """The ranks of those that may say something."""
        return {process.connection: rank for rank, process in enumerate(self.processes)}

    @property
    def due(self) -> float:
        """When it must be looked at, if nobody says anything."""
        return min(self.deadline, self._wanted_by)

    def start(self, work: Work, limit: float) -> None:
        """Gives all processes the work; past `limit` seconds it is to be ended."""
        self.trial, self.busy = work.trial, True
        self.limit, self.deadline = limit, time.monotonic() + limit
        self._runs += 1
        for rank, process in enumerate(self.processes):
            process.send(work._replace(seat=self._seat(rank)))

    def _seat(self, rank: int) -> ranks.Seat | None:
        if not self.is_group:
            return None
        if self._store is None:
            # The system chooses a free port, and nobody else can take it meanwhile.
            self._store = dist.TCPStore(ranks.HOST, 0, is_master=True, wait_for_workers=False)
        return ranks.Seat(self._store.port, self._runs, rank, len(self.processes))

    def hear(self, rank: int, say: Callable[[str], Any]) -> None:
        """Takes in what a process says."""
        said = self.processes[rank].receive()
        if isinstance(said, Said):
            say(said.text)
        elif said is not None:
            self._answers[rank] = said
            patience = _patience(said)
            self._wanted_by = min(self._wanted_by, time.monotonic() + patience)

    def is_answered(self) -> bool:
        """Whether it is known what the work has come to: all have answered, or one has failed for all."""
        return len(self._answers) == len(self.processes) or self._wanted_by <= time.monotonic()

    def answer(self) -> tuple[int, Answer, bool]:
        """What the work has come to: whose answer counts, the answer, and whether all may have work again.

        Of several that failed, it is one that died, as the others have lost it; else the first that raised
        an exception; else the first process, or whichever has failed.
        """
        found, self._answers = dict(sorted(self._answers.items())), {}
        whole = len(found) == len(self.processes)
        self.trial, self.busy = None, False
        self.deadline = self._wanted_by = float("inf")
        for rank, answer in found.items():
            if isinstance(answer, Died):
                return rank, answer, False
        raised = [(answer.at, rank, answer) for rank, answer in found.items() if isinstance(answer, Raised)]
        if raised:
            _, rank, first = min(raised, key=lambda one: one[0])
            return rank, first, whole
        failed = [rank for rank, answer in found.items() if _patience(answer) < float("inf")]
        rank = failed[0] if failed else 0
        return rank, found[rank], whole

    def renew(self, processes: list[Process]) -> None:
        """Takes others in place of its processes, which were ended, with whatever they were at."""
        self.processes, self._store, self._answers = processes, None, {}
        self.trial, self.busy = None, False
        self.deadline = self._wanted_by = float("inf")


def _patience(answer: Answer) -> float:
    """How long the answers of the other processes are waited for."""
    if isinstance(answer, Died):
        return 0.0
    if isinstance(answer, Raised):
        return RAISED_PATIENCE
    has_failed = isinstance(answer, Record) and answer.failure is not None
    return FAILED_PATIENCE if has_failed else float("inf")


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
