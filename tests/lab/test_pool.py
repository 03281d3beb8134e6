import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from children import PATIENCE_SECONDS, all_gone, wait_until
from samples import Line

from thalweg.lab.running import pool as pools
from thalweg.lab.running import trial as trials
from thalweg.lab.running import worker as workers
from thalweg.lab.running.pool import Pool
from thalweg.lab.spaces import Axis, Space
from thalweg.lab.study.record import Record, Trial
from thalweg.lab.workload import tasks
from thalweg.lab.workload.errors import TrialError, WorkerDiedError

SIGKILL, STATUS_1, STATUS_3, HANG, RAISE, ENDINGS, FORK, GREEDY, TALK, EXIT, INTERRUPT, MUTE = range(100, 112)
"""Seeds at which a run of `Odd` comes to a bad end."""


class MuteError(Exception):
    def __str__(self):
        raise LookupError("not this")


class Odd(Line):
    def batches(self, seed):
        if seed == SIGKILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if seed == STATUS_1:
            os._exit(1)
        if seed == STATUS_3:
            os._exit(3)
        if seed == HANG:
            time.sleep(600)
        if seed == RAISE:
            raise LookupError("the data are gone")
        if seed == EXIT:
            sys.exit("usage: ...")
        if seed == INTERRUPT:
            raise KeyboardInterrupt
        if seed == MUTE:
            raise MuteError
        if seed == ENDINGS:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            ended = subprocess.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 15)"])
            assert ended.returncode == -signal.SIGTERM, "what a task starts can be ended"
        if seed == FORK and os.fork() == 0:
            os.environ["OF_A_CHILD"] = "1"
        if seed == GREEDY:
            raise MemoryError("no more")
        if seed == TALK:
            print("said by the task")
            os.system("echo said by a program")
        return super().batches(seed)


def trial(seed: int, lr: float = 0.05) -> Trial:
    return Trial("final", "adamw", "thalweg.AdamW", {"lr": lr}, {"lr": lr}, seed)


def until_it_raises(pool: Pool) -> None:
    while pool.running:
        pool.wait(30)


def collect(pool: Pool, due: list[Trial], limit: float = PATIENCE_SECONDS) -> dict[int, Record]:
    """Runs trials on a pool, as many at a time as it has processes; their records by seed."""
    due, records = list(due), {}
    while due or pool.running:
        while due and pool.idle:
            pool.start(due.pop(0), limit)
        for record in pool.wait(30):
            assert record.trial.seed not in records
            records[record.trial.seed] = record
    return records


@pytest.fixture(scope="module")
def pool():
    before = set(multiprocessing.active_children())
    with Pool(2) as pool:
        pool.load(Odd())
        yield pool
    assert set(multiprocessing.active_children()) <= before, "no process is left"


@pytest.fixture(scope="module")
def alone():
    """What the same runs give here, without any pool."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {seed: trials.run(trial(seed), Odd()) for seed in range(6)}
    torch.set_num_threads(threads)


def test_records_do_not_depend_on_the_number_of_workers(pool, alone):
    assert collect(pool, [trial(seed) for seed in range(6)]) == alone
    # One after the other, and in another order.
    assert {seed: collect(pool, [trial(seed)])[seed] for seed in range(5, -1, -1)} == alone


def test_final_runs_are_measured_where_there_is_credit_and_are_the_same(pool, alone):
    pool.credits = {"adamw": 1e6}
    try:
        found = collect(pool, [trial(1), trial(2)])
    finally:
        pool.credits = None
    assert found == {seed: alone[seed] for seed in (1, 2)}
    assert {seed: record.why and record.why.missing for seed, record in found.items()} == {1: {}, 2: {}}
    assert all(record.why is None for record in alone.values())


def test_a_pool_says_who_is_idle_and_what_is_running(pool):
    assert (pool.workers, pool.idle, pool.running) == (2, 2, [])
    pool.start(trial(0))
    assert (pool.idle, pool.running) == (1, [trial(0)])
    while pool.running:
        pool.wait(30)
    assert pool.idle == 2
    assert pool.wait(0.01) == [], "nothing to wait for"


def test_a_process_that_ends_costs_the_trial_it_was_at(pool, alone):
    ends = {
        SIGKILL: "killed by signal 9, as Linux does when memory is short",
        STATUS_1: "its process ended with status 1",
        STATUS_3: "its process ended with status 3",
    }
    due = [trial(seed) for seed in (0, SIGKILL, STATUS_1, 1, STATUS_3, 2)]
    records = collect(pool, due)
    for seed, text in ends.items():
        ended = records.pop(seed)
        assert ended.failure == ("killed", text, None)
        assert (ended.trial, ended.validation, ended.timing) == (trial(seed), None, None)
    assert records == {seed: alone[seed] for seed in (0, 1, 2)}
    assert pool.idle == 2


def test_a_child_that_comes_back_into_the_lab_answers_nothing(pool, alone):
    records = collect(pool, [trial(FORK), trial(0), trial(1)])
    assert set(records) == {FORK, 0, 1}
    assert records[0] == alone[0]


def test_a_process_whose_memory_ran_out_is_replaced(pool, alone):
    before = {process.process.pid for process in pool._processes}
    records = collect(pool, [trial(GREEDY)])
    assert records[GREEDY].failure.kind == "out of memory"
    assert len(before - {process.process.pid for process in pool._processes}) == 1
    assert collect(pool, [trial(0)]) == {0: alone[0]}


def test_what_a_run_prints_is_in_a_file_of_its_own(pool, tmp_path, capfd):
    pool.logs = tmp_path / "logs"
    collect(pool, [trial(TALK), trial(0)])
    pool.logs = None
    [log] = (tmp_path / "logs").iterdir()
    assert log.name.startswith("final-adamw-")
    assert log.read_text() == "said by the task\nsaid by a program\n"
    assert "said" not in capfd.readouterr().out


def test_a_process_leaves_ctrl_c_and_sigterm_to_its_parent(pool):
    assert collect(pool, [trial(ENDINGS)])[ENDINGS].failure is None


def test_a_process_may_be_killed_from_outside(pool, alone):
    pool.start(trial(HANG))
    pool.start(trial(0))
    time.sleep(0.2)
    victim = next(worker for worker in pool._workers if worker.trial.seed == HANG)
    os.kill(victim.processes[0].process.pid, signal.SIGKILL)
    records = {}
    while pool.running:
        records |= {record.trial.seed: record for record in pool.wait(30)}
    assert records[HANG].failure.kind == "killed"
    assert records[0] == alone[0]


def test_a_run_past_its_limit_is_ended(pool, alone):
    # The limit counts from the moment at which a process gets the trial: both must have started.
    collect(pool, [trial(0), trial(1)])
    pool.start(trial(HANG), limit=0.5)
    records = collect(pool, [trial(seed) for seed in range(3)])
    ended = records.pop(HANG)
    assert ended.failure.kind == "time limit"
    assert records == {seed: alone[seed] for seed in range(3)}


def test_a_process_that_dies_when_its_limit_is_over_fails_once(pool, alone):
    pool.start(trial(HANG), limit=0.1)
    victim = next(worker for worker in pool._workers if worker.trial is not None)
    os.kill(victim.processes[0].process.pid, signal.SIGKILL)
    victim.processes[0].process.join()
    time.sleep(0.2)
    assert [record.trial.seed for record in pool.wait(30)] == [HANG]
    assert collect(pool, [trial(0)]) == {0: alone[0]}


def test_an_error_of_the_workload_is_raised_with_its_traceback(pool, alone):
    pool.start(trial(RAISE))
    with pytest.raises(TrialError) as caught:
        until_it_raises(pool)
    text = str(caught.value)
    assert "LookupError: the data are gone" in text
    assert f'{Path(__file__).name}", line' in text
    assert "in batches" in text


@pytest.mark.parametrize(
    ("seed", "text"),
    [(EXIT, "SystemExit: usage: ..."), (INTERRUPT, "KeyboardInterrupt"), (MUTE, "MuteError: <exception str")],
)
def test_an_exit_and_an_error_without_words_are_the_tasks_own(pool, alone, seed, text):
    pool.start(trial(seed))
    with pytest.raises(TrialError, match=text):
        until_it_raises(pool)
    assert collect(pool, [trial(0)]) == {0: alone[0]}


def test_an_error_in_a_users_file_is_one_line_with_its_place(pool, task_file):
    file = task_file()
    line = "    def loss(self, model, batch):"
    number = file.read_text().splitlines().index(line) + 2
    file.write_text(file.read_text().replace(line, line + "\n        return 1 / 0"))
    pool.load(tasks.load(str(file)), file)
    pool.start(trial(0))
    with pytest.raises(TrialError, match=f"small.py:{number}, in loss: ZeroDivisionError: division by zero"):
        until_it_raises(pool)
    pool.load(Odd())


def test_a_workload_can_be_replaced(pool, alone):
    pool.load(Line(scale=2.0))
    changed = collect(pool, [trial(0)])
    pool.load(Odd())
    assert collect(pool, [trial(0)])[0] == alone[0] != changed[0]


class Loading(Line):
    """A plain DataLoader with processes of its own."""

    workers = 2

    def batches(self, seed):
        inputs = torch.randn(320, 2, generator=torch.Generator().manual_seed(0))
        data = torch.utils.data.TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))
        yield from torch.utils.data.DataLoader(data, batch_size=8, shuffle=True, num_workers=self.workers)


class LoadingHere(Loading):
    workers = 0


def test_a_task_may_load_with_processes_of_its_own(pool, alone):
    pool.load(Loading())
    assert collect(pool, [trial(0)]) == {0: trials.run(trial(0), LoadingHere())}
    pool.load(Odd())


class Forking(Line):
    """Starts a process and hangs, as a DataLoader that is killed while it starts leaves its workers."""

    def __init__(self, note):
        super().__init__()
        self.note = note

    def batches(self, seed):
        child = subprocess.Popen(["sleep", "600"])
        Path(self.note).write_text(str(child.pid))
        time.sleep(600)


def test_what_a_task_has_started_ends_with_its_process(pool, tmp_path):
    pool.load(Forking(str(tmp_path / "pid")))
    pool.start(trial(0), limit=PATIENCE_SECONDS)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "it began")
    pool._workers[0].deadline = pool._workers[1].deadline = time.monotonic()
    until_it_raises(pool)
    child = Path("/proc") / (tmp_path / "pid").read_text()
    wait_until(lambda: not child.exists() or "Z" in (child / "stat").read_text().split()[2], "it is left")
    pool.load(Odd())


def test_what_is_compared_travels_with_the_task(pool):
    def make(parameters, lr):
        return torch.optim.SGD(parameters, lr=lr)

    space = Space("adamw", make, (Axis("lr", 1e-3, 1.0),), changes={"evaluate_every": 20})
    pool.load(Line(), spaces=[space])
    [record] = collect(pool, [trial(0)]).values()
    assert [point.step for point in record.curve] == [0, 20, 40]
    assert record.state_bytes == 0, "SGD's"
    pool.load(Odd())


def test_processes_end_in_an_error_too():
    before = set(multiprocessing.active_children())
    folders = []

    def interrupted():
        with Pool(2) as pool:
            pool.load(Odd())
            pool.start(trial(HANG))
            folders.append(pool._folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert set(multiprocessing.active_children()) <= before
    assert not folders[0].exists()


def test_processes_end_too_if_another_cannot_be_started(monkeypatch):
    before = set(multiprocessing.active_children())

    class Scarce(pools.Process):
        def __init__(self, index, folder):
            if index == 1:
                raise BlockingIOError("Resource temporarily unavailable")
            super().__init__(index, folder)

    monkeypatch.setattr(pools, "Process", Scarce)
    with pytest.raises(BlockingIOError), Pool(2):
        pass
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_while_a_process_starts_is_not_lost(monkeypatch):
    before = set(multiprocessing.active_children())
    main_module_hidden = workers._main_module_hidden

    @contextmanager
    def pressed():
        with main_module_hidden():
            signal.raise_signal(signal.SIGINT)
            yield

    monkeypatch.setattr(workers, "_main_module_hidden", pressed)
    with pytest.raises(KeyboardInterrupt), Pool(1):
        pass
    assert set(multiprocessing.active_children()) <= before


def test_a_process_that_cannot_start_is_an_error(monkeypatch):
    # It reads this module again, to find what it is to do, and fails.
    monkeypatch.setattr("thalweg.lab.running.serving.serve", _cannot_start)
    with Pool(1) as pool:
        pool.load(Odd())
        pool.start(trial(0))
        with pytest.raises(WorkerDiedError, match="could not start"):
            until_it_raises(pool)


def _cannot_start(*_):
    raise ImportError("a broken installation")


SCRIPT = """
import os
from pathlib import Path
import torch
from torch import nn
from thalweg.lab import Evaluation, Workload, compare

with open("begun", "a") as begun:
    begun.write("x")
SCALE = 2.0

class Mine(Workload):
    name, steps, evaluate_every, batch_size, metric = "mine", 8, 4, 4, "error"
    def model(self, seed):
        return Net()
    def batches(self, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self.steps):
            yield torch.randn(4, 2, generator=generator)
    def loss(self, model, batch):
        return SCALE * (model(batch) - batch.sum(dim=1, keepdim=True)).square().mean()
    def evaluate(self, model, split):
        return Evaluation(helper(model), 0.5)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1)
    def forward(self, inputs):
        return self.linear(inputs)

def helper(model):
    return sum(p.abs().sum().item() for p in model.parameters())

result = compare(Mine(), ["sgd", "adamw"], trials=1, seeds=1, workers=1, progress=False)
assert all(r.failure is None for r in result.study.records), result.study.records
print(len(result.study.records), "runs;", result.verdict.headline)
"""


def test_a_script_without_a_main_guard_works(tmp_path):
    (tmp_path / "mine.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "mine.py"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "4 runs; No verdict: 6 seeds are the fewest that can tell, not 1\n"
    assert (tmp_path / "begun").read_text() == "x", "no process runs the script again"


ABANDONED = """
import time
from thalweg.lab.running.pool import Pool
with Pool(2) as pool:
    print(pool._folder, *[process.process.pid for process in pool._processes], flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see processes")
def test_processes_end_with_a_parent_that_was_killed():
    parent = subprocess.Popen([sys.executable, "-c", ABANDONED], stdout=subprocess.PIPE, text=True)
    folder, *numbers = parent.stdout.readline().split()
    processes = [int(number) for number in numbers]
    assert len(processes) == 2
    time.sleep(0.5)
    parent.kill()
    parent.communicate()
    wait_until(lambda: all_gone(processes), "a process is left")
    wait_until(lambda: not Path(folder).exists(), "the folder with the task is left")
