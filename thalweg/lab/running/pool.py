"""Runs trials side by side, in processes of one torch thread each.

Each trial depends on its own fields only and each process computes on one thread, so the records
are the same, bit for bit, for every number of workers. A process that dies or hangs costs the trial it
was at: that is recorded as a failure, and another process takes its place. Where a run has several processes,
they take part in it together and are replaced together.
"""

import itertools
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import connection
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from thalweg.lab.running import endings
from thalweg.lab.running.checkpoints import EVERY_SECONDS, Place
from thalweg.lab.running.leave import Leave
from thalweg.lab.running.parcel import pack
from thalweg.lab.running.processes import new_folder
from thalweg.lab.running.serving import Call, Raised, Returned, Work
from thalweg.lab.running.worker import Died, Process, Worker
from thalweg.lab.spaces import Space
from thalweg.lab.study.record import Failure, Record, Trial, failed
from thalweg.lab.workload import Workload
from thalweg.lab.workload.contract import option
from thalweg.lab.workload.errors import TrialError, WorkerDiedError
from thalweg.lab.workload.tasks import TaskError

MOST_BY_DEFAULT = 16
"""More processes than this are started only on request: each takes a few hundred megabytes."""


def available_cores() -> int:
    """The cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Pool:
    """Processes that run trials; use it as a context, which starts them and ends them.

    Args:
        workers: how many trials run side by side, at least 1; by default as many as there are cores for their
            processes, at most `MOST_BY_DEFAULT` processes in all.

    Attributes:
        workers: the same, for the task that was loaded.
        logs: the folder in which what a run prints is kept, a file each; None to leave it as it is.
        checkpoints: where runs that last are kept, so that one that is cut off goes on; None for nowhere.
        say: called with what runs have to say to the user.
        early_stop: whether hopeless trials are ended early.
        every: the least seconds between two checkpoints of a run.
        credits: seconds that the final runs of each optimizer have left to be measured in; None not to
            measure them.
    """

    every = EVERY_SECONDS

    def __init__(self, workers: int | None = None) -> None:
        self._asked = workers
        self._each = 1
        self.workers = self._side_by_side()
        self.logs: Path | None = None
        self.checkpoints: Place | None = None
        self.early_stop = False
        self.say: Callable[[str], Any] = lambda line: None
        self.credits: Mapping[str, float] | None = None
        self._loaded = itertools.count()

    def _side_by_side(self) -> int:
        return self._asked or max(1, min(available_cores(), MOST_BY_DEFAULT) // self._each)

    def __enter__(self) -> "Pool":
        self._folder = new_folder()
        self._environment = dict(os.environ)
        self._processes: list[Process] = []
        self._workers: list[Worker] = []
        try:
            self._arrange()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _arrange(self) -> None:
        """Starts the processes that are missing, ends those that are too many, and shares them out."""
        self.workers = self._side_by_side()
        count = self.workers * self._each
        with endings.held_back():
            for process in self._processes[count:]:
                process.end()
            del self._processes[count:]
        while len(self._processes) < count:
            self._begin(len(self._processes))
        starts = range(0, count, self._each)
        self._workers = [Worker(self._processes[start : start + self._each]) for start in starts]

    def _begin(self, index: int) -> Process:
        # Whoever ends this program meanwhile must find the process in the list, or it is left.
        with endings.held_back():
            self._processes.insert(index, process := Process(index, self._folder))
        return process

    def _end(self) -> None:
        with endings.held_back():
            for process in self._processes:
                process.end()
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
        changed = {n: v for n, v in os.environ.items() if self._environment.get(n) != v}
        pack(workload, file, self._path, spaces, changed)
        if self._each != (each := option(workload, "processes")):
            self._each = each
            self._arrange()

    def keep_in(self, folder: Path | None, study: str) -> Place:
        """Has runs of a study kept there while they are under way; by default as long as the pool is.

        Those of several processes are not: what one of them holds is not what the others do.
        """
        folder = folder or self._folder / "checkpoints"
        place = Place(folder.absolute(), study, self.every)
        self.checkpoints = place if self._each == 1 else None
        return place

    def limits(self) -> list[str]:
        """What is to be told of a task whose runs have several processes, in lines."""
        if self._each == 1:
            return []
        told = ["runs of several processes have no checkpoints: one that is cut off begins anew"]
        count, cores = self.workers * self._each, available_cores()
        if count > cores:
            told.append(f"{count} processes train side by side, and there are {cores} cores")
        return told

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
        """How many trials more can be started now."""
        return sum(not worker.busy for worker in self._workers)

    @property
    def running(self) -> list[Trial]:
        """The trials under way."""
        return [worker.trial for worker in self._workers if worker.trial is not None]

    def start(self, trial: Trial, limit: float = float("inf")) -> None:
        """Gives a trial to an idle worker; past `limit` seconds it is ended as a failure."""
        leave = None if self.credits is None else Leave(self.credits.get(trial.name, 0.0), limit)
        next(worker for worker in self._workers if not worker.busy).start(
            Work(self._path, trial, self.logs, self.checkpoints, leave, self.early_stop), limit
        )

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a function in the processes of a run, in all at once; returns what it gives in the first.

        Args:
            function: of a module; it is given the task, a list of its spaces, its file, and `arguments`.
            arguments: what can be pickled.

        Raises:
            thalweg.lab.workload.tasks.TaskError, TrialError: it raised an exception.
            WorkerDiedError: a process could not start.
        """
        self._workers[0].start(
            Work(self._path, None, self.logs, call=Call(function, arguments)), float("inf")
        )
        while not (answers := self._answers(60.0)):
            pass
        [answer] = answers
        assert isinstance(answer, Returned)
        return answer.value

    def wait(self, timeout: float) -> list[Record]:
        """The records of the trials that end within `timeout` seconds, as soon as there is one.

        Raises:
            TrialError: the workload raised an exception.
            WorkerDiedError: a process ended before it was given work.
        """
        return [answer for answer in self._answers(timeout) if isinstance(answer, Record)]

    def _answers(self, timeout: float) -> list[Record | Returned]:
        busy = [worker for worker in self._workers if worker.busy]
        ends = {end: (worker, rank) for worker in busy for end, rank in worker.connections.items()}
        nearest = min((worker.due for worker in busy), default=float("inf"))
        ready = connection.wait(list(ends), max(0.0, min(timeout, nearest - time.monotonic())))
        for end in ready:
            assert isinstance(end, Connection)
            worker, rank = ends[end]
            worker.hear(rank, self.say)
        answers = [self._settled(worker) for worker in busy if worker.is_answered()]
        now = time.monotonic()
        late = [worker for worker in busy if worker.trial is not None and worker.deadline <= now]
        return answers + [self._stopped(worker) for worker in late]

    def _settled(self, worker: Worker) -> Record | Returned:
        """What a worker's work has come to."""
        trial = worker.trial
        rank, answer, can_go_on = worker.answer()
        if not can_go_on:
            self._renew(worker)
        whose = f"rank {rank} of {self._each}: " if worker.is_group else ""
        if isinstance(answer, Raised):
            kind = TaskError if answer.is_tasks and trial is None else TrialError
            raise kind(f"{whose}{answer.text}")
        if isinstance(answer, Died):
            if answer.never_started:
                raise WorkerDiedError("a training process could not start; see its message above")
            if trial is None:
                raise TrialError(f"{whose}{answer.text}, while the task was tried")
            return failed(trial, Failure("killed", f"{whose}{answer.text}"))
        if isinstance(answer, Returned) or answer.failure is None:
            return answer
        if answer.failure.kind == "out of memory" and can_go_on:
            # What it holds is not given back: the next run would start with less.
            self._renew(worker)
        if rank:
            named = answer.failure._replace(text=f"{whose}{answer.failure.text}")
            return replace(answer, failure=named)
        return answer

    def _stopped(self, worker: Worker) -> Record:
        trial, limit = worker.trial, worker.limit
        assert trial is not None
        self._renew(worker)
        return failed(trial, Failure("time limit", f"stopped after its limit of {limit:.0f} s"))

    def _renew(self, worker: Worker) -> None:
        for process in worker.processes:
            process.end()
            self._processes.remove(process)
        worker.renew([self._begin(process.index) for process in worker.processes])
