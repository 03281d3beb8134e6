"""Runs of several processes, over gloo; and whose answer counts where they differ."""

import math
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from children import PATIENCE_SECONDS, all_gone, wait_until
from samples import Line
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from thalweg.lab.comparing import group
from thalweg.lab.running import pool as pools
from thalweg.lab.running import trial as trials
from thalweg.lab.running import worker as workers
from thalweg.lab.running.pool import Pool
from thalweg.lab.running.rehearsal import rehearse
from thalweg.lab.running.serving import Raised, Work
from thalweg.lab.running.worker import Died, Worker
from thalweg.lab.spaces import Axis, Space
from thalweg.lab.study.record import Failure, Record, Trial, failed
from thalweg.lab.workload import Evaluation, tasks
from thalweg.lab.workload.adapters import FunctionTask
from thalweg.lab.workload.errors import TrialError
from thalweg.lab.workload.looking import model_of
from thalweg.lab.workload.tasks import TaskError

SIGKILL, RAISE, DIVERGE = range(100, 103)
"""Seeds at which something befalls the second process of a run of `Shared`."""


class Shared(Line):
    """Each process trains on its share of a batch."""

    processes = 2
    until_loss = 1e-9

    def __init__(self, way="fsdp", scale=1.0):
        super().__init__(scale)
        self.way = way

    def model(self, seed):
        model = super().model(seed)
        return fully_shard(model) if self.way == "fsdp" else DistributedDataParallel(model)

    def batches(self, seed):
        rank, size = dist.get_rank(), dist.get_world_size()
        for step, (inputs, targets) in enumerate(super().batches(seed), 1):
            if rank == 1 and step == 5:
                self.befall(seed)
                targets = targets * math.inf if seed == DIVERGE else targets
            yield inputs[rank::size], targets[rank::size]

    def befall(self, seed):
        if seed == SIGKILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == RAISE:
            raise LookupError("the data are gone")

    def evaluate(self, model, split):
        found = super().evaluate(model, split)
        # What the others find must not count: by this, the second would have reached `until_loss` alone.
        return found if dist.get_rank() == 0 else Evaluation(-1.0, -1.0)


def trial(seed: int, stage="final") -> Trial:
    return Trial(stage, "adamw", "thalweg.AdamW", {"lr": 0.05}, {"lr": 0.05}, seed)


def run(pool: Pool, seed: int) -> Record:
    pool.start(trial(seed), PATIENCE_SECONDS)
    while not (found := pool.wait(30)):
        pass
    return found[0]


@pytest.fixture(scope="module")
def pool():
    before = set(multiprocessing.active_children())
    with Pool(1) as pool:
        pool.load(Shared())
        yield pool
    assert set(multiprocessing.active_children()) <= before, "no process is left"


def pids(pool: Pool) -> list[int]:
    return [process.process.pid for process in pool._processes]


@pytest.mark.parametrize("way", ["fsdp", "ddp"])
def test_a_shared_run_is_that_of_one_process(pool, one_thread, way):
    alone = trials.run(trial(0), Line())
    pool.load(Shared(way))
    first, second = run(pool, 0), run(pool, 0)
    assert first == second, "bit for bit"
    assert [point.step for point in first.curve] == [point.step for point in alone.curve]
    for ours, theirs in zip(first.curve, alone.curve, strict=True):
        assert ours.metric == pytest.approx(theirs.metric, rel=1e-4)
        assert ours.loss == theirs.loss or ours.loss == pytest.approx(theirs.loss, rel=1e-4)
    assert first.test.metric == pytest.approx(alone.test.metric, rel=1e-4)
    assert first.doubts == ()


def test_processes_are_told_what_torchrun_tells(pool):
    pool.load(Shared())
    told = pool.call(environment)
    assert told["RANK"] == told["LOCAL_RANK"] == "0"
    assert (told["WORLD_SIZE"], told["MASTER_ADDR"]) == ("2", "127.0.0.1")
    assert int(told["MASTER_PORT"]) > 0
    assert told["ranks"] == [0, 1]


def environment(workload, spaces, file):
    ranks = [None, None]
    dist.all_gather_object(ranks, dist.get_rank())
    return {**os.environ, "ranks": ranks}


def test_a_task_is_tried_in_all_processes(pool):
    pool.load(Shared(), spaces=[])
    assert pool.call(group.try_out, 4, 0) == ()
    pool.load(Shared(scale=math.inf))
    with pytest.raises(
        TaskError,
        match=r"rank \d of 2: .*loss is (inf|nan) before training|the loss before training is (inf|nan)",
    ):
        pool.call(group.try_out, 4, 0)


def train(config):
    model = DistributedDataParallel(torch.nn.Linear(1, 1))
    optimizer = config.optimizer(model.parameters())
    for _ in range(config["steps"]):
        optimizer.zero_grad()
        loss = model(torch.full((4, 1), float(dist.get_rank()))).square().mean()
        loss.backward()
        optimizer.step()
    if dist.get_rank() == 0:
        config.report(step=config["steps"], metric=loss, test=loss)


def test_of_a_function_the_first_process_reports(pool):
    pool.load(FunctionTask(train, steps=3, batch_size=8, processes=2))
    record = run(pool, 0)
    assert record.failure is None
    assert record.test is not None


def test_what_diverges_in_one_process_diverges(pool):
    pool.load(Shared())
    before = pids(pool)
    record = run(pool, DIVERGE)
    assert record.failure == ("diverged", "the training loss is inf at step 5", 5)
    assert pids(pool) == before, "all ended at the same step"


def test_an_exception_in_one_process_names_it_and_ends_all(pool):
    pool.load(Shared())
    before = pids(pool)
    with pytest.raises(TrialError, match=r"^rank 1 of 2: (?s:.*)LookupError: the data are gone"):
        run(pool, RAISE)
    wait_until(lambda: all_gone(before), "a process is left")
    assert run(pool, 0).failure is None


def test_a_process_that_is_killed_takes_the_run_with_it(pool):
    before = pids(pool)
    record = run(pool, SIGKILL)
    text = "rank 1 of 2: killed by signal 9, as Linux does when memory is short"
    assert record.failure == ("killed", text, None)
    wait_until(lambda: all_gone(before), "a process is left")


def test_by_default_there_are_no_more_processes_than_cores(monkeypatch):
    monkeypatch.setattr(pools, "available_cores", lambda: 8)
    pool = Pool()
    assert pool.workers == 8
    for each, side_by_side in ((2, 4), (3, 2), (8, 1), (9, 1)):
        pool._each = each
        pool.workers = pool._side_by_side()
        assert pool.workers == side_by_side
    assert "9 processes train side by side, and there are 8 cores" in pool.limits()
    asked = Pool(3)
    asked._each = 4
    assert asked._side_by_side() == 3


def test_a_report_can_say_what_the_model_is():
    kinds = [type(module).__name__ for module in model_of(Shared("ddp")).modules()]
    assert kinds == ["DistributedDataParallel", "Linear"]
    assert sum(parameter.numel() for parameter in model_of(Shared()).parameters()) == 3
    assert not dist.is_initialized()


def test_a_recipe_cannot_change_how_many_processes_there_are():
    space = Space("adamw", "thalweg.AdamW", (Axis("lr", 1e-3, 1.0),), changes={"processes": 4})
    with pytest.raises(TaskError, match="a recipe cannot change processes"):
        rehearse(Line(), [space])


# Whose answer counts


class Said:
    """A process that has an answer ready."""

    def __init__(self, answer=None):
        self.answer, self.connection, self.sent = answer, object(), []

    def send(self, work):
        self.sent.append(work)

    def receive(self):
        return self.answer


def heard(*answers) -> Worker:
    """A worker whose processes have so answered; those that are given None have not."""
    worker = Worker([Said(answer) for answer in answers])
    worker.start(Work("nowhere", trial(0), None), 60)
    for rank, answer in enumerate(answers):
        if answer is not None:
            worker.hear(rank, print)
    return worker


GOOD = failed(trial(0), Failure("killed", ""))
GOOD = replace(GOOD, failure=None)
DIVERGED = failed(trial(0), Failure("diverged", "the loss is nan", 3))
DEAD = Died("killed by signal 9", False)


def raised(at: float) -> Raised:
    return Raised(f"raised at {at}", at, False)


@pytest.mark.parametrize(
    ("answers", "rank", "can_go_on"),
    [
        ((GOOD, GOOD), 0, True),
        ((DIVERGED, DIVERGED), 0, True),
        ((GOOD, DIVERGED), 1, True),
        ((raised(2.0), raised(1.0)), 1, True),
        ((raised(1.0), DEAD), 1, False),
        ((DEAD, None), 0, False),
        ((DIVERGED, raised(1.0)), 1, True),
    ],
)
def test_whose_answer_counts(answers, rank, can_go_on):
    worker = heard(*answers)
    assert worker.is_answered()
    assert worker.answer() == (rank, answers[rank], can_go_on)
    assert (worker.trial, worker.busy) == (None, False)


@pytest.mark.parametrize("answer", [raised(1.0), DIVERGED])
def test_the_others_are_waited_for_a_moment(answer, monkeypatch):
    worker = heard(None, answer)
    assert not worker.is_answered()
    assert worker.due < time.monotonic() + 60
    for name in ("RAISED_PATIENCE", "FAILED_PATIENCE"):
        monkeypatch.setattr(workers, name, -1.0)
    worker.hear(1, print)
    assert worker.is_answered()
    assert worker.answer() == (1, answer, False)


def test_one_that_has_come_to_its_end_waits_for_the_others():
    worker = heard(GOOD, None)
    assert not worker.is_answered()
    assert worker.due > time.monotonic() + 50, "the limit of the run"


def test_all_are_told_their_place():
    worker = heard(None, None, None)
    seats = [process.sent[0].seat for process in worker.processes]
    assert [(seat.rank, seat.size, seat.run) for seat in seats] == [(0, 3, 1), (1, 3, 1), (2, 3, 1)]
    assert len({seat.port for seat in seats}) == 1


@pytest.mark.parametrize("value", [0, 1.5, True, "2"])
def test_how_many_is_a_whole_number(value):
    workload = Line()
    workload.processes = value
    with pytest.raises(TaskError, match="processes must be a whole number"):
        tasks.check(workload)
