"""A task on its way to the processes: fresh for each run, its big data shared while they are unchanged."""

import os
import random
import subprocess
import sys
import tempfile
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import Line, trained

from thalweg.lab.running import processes
from thalweg.lab.running.parcel import SHARED_BYTES, Parcel, pack
from thalweg.lab.running.processes import ending, hashes_fixed, new_folder
from thalweg.lab.workload import chance, switches, tasks

BIG = SHARED_BYTES


class Holder(Line):
    def __init__(self) -> None:
        super().__init__()
        self.best = 9.0
        self.rows = [1, 2]
        self.tensor = torch.zeros(BIG // 4)
        self.array = np.zeros(BIG)
        self.same = self.array

    @cached_property
    def read(self):
        self.reads = getattr(self, "reads", 0) + 1
        return torch.ones(3), {"a": np.ones(2)}

    @cached_property
    def replay(self):
        return [object()]


class Drawing(Line):
    """Reads data that are drawn from the seed of the run that asks first."""

    @cached_property
    def drawn(self):
        return torch.randn(3)

    @cached_property
    def numbers(self):
        return np.random.rand(2), random.random()

    @cached_property
    def fixed(self):
        return torch.arange(3)


def test_what_is_computed_from_a_runs_seed_is_computed_for_each(tmp_path):
    pack(Drawing(), None, tmp_path / "workload.pickle")
    parcel, found = Parcel(tmp_path / "workload.pickle"), []
    for seed in (1, 2, 2):
        chance.seed_all(seed)
        task = parcel.unpack()[0]
        found.append((task.drawn.tolist(), task.numbers[0].tolist(), task.numbers[1], task.fixed))
        parcel.settle()
    first, second, third = found
    assert second[:3] == third[:3]
    for one, other in zip(first[:3], second[:3], strict=True):
        assert one != other
    assert first[3] is second[3], "what needs no seed is computed once"


@pytest.fixture
def parcel(tmp_path):
    pack(Holder(), None, tmp_path / "workload.pickle")
    return Parcel(tmp_path / "workload.pickle")


def test_what_a_run_leaves_on_the_task_reaches_no_other(parcel):
    first = parcel.unpack()[0]
    first.best = 0.0
    first.rows.append(3)
    parcel.settle()
    second = parcel.unpack()[0]
    assert (second.best, second.rows) == (9.0, [1, 2])


def test_big_data_are_shared_until_a_run_changes_them(parcel):
    first = parcel.unpack()[0]
    assert first.same is first.array
    parcel.settle()
    second = parcel.unpack()[0]
    assert second.array is first.array
    assert second.tensor is first.tensor
    second.array[5] = 1.0
    parcel.settle()
    third = parcel.unpack()[0]
    assert third.array.sum() == 0
    third.tensor.add_(1.0)
    parcel.settle()
    assert parcel.unpack()[0].tensor.sum() == 0


def test_what_is_read_when_it_is_first_asked_for_is_read_once(parcel):
    first = parcel.unpack()[0]
    assert first.read[0].sum() == 3
    assert first.replay
    parcel.settle()
    second = parcel.unpack()[0]
    assert second.read is first.read
    assert not hasattr(second, "reads")
    assert "replay" not in vars(second), "of an object nobody knows whether it is the same"
    second.read[0].zero_()
    parcel.settle()
    third = parcel.unpack()[0]
    assert third.read[0].sum() == 3, "what a run has changed is read again"


def test_the_globals_of_a_users_file_are_fresh_too(task_file, tmp_path):
    counted = "def counted(self):\n    COUNT[0] += 1\n    return COUNT[0]\n"
    more = f"\n\nCOUNT = [0]\n\n\n{counted}\n\nSmall.counted = counted\n"
    file = task_file(more=more)
    pack(tasks.load(str(file)), file, tmp_path / "workload.pickle")
    parcel = Parcel(tmp_path / "workload.pickle")
    assert [parcel.unpack()[0].counted() for _ in range(2)] == [1, 1]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "killed by signal 9, as Linux does when memory is short"),
        (-11, "killed by signal 11 (SIGSEGV), it reached for memory that is not its own"),
        (3, "its process ended with status 3"),
        (None, "its process ended with status 0"),
    ],
)
def test_the_end_of_a_process_is_told_in_words(code, words):
    assert ending(code).startswith(words)


def test_folders_of_programs_that_were_killed_are_removed():
    left = Path(tempfile.mkdtemp(prefix="thalweg-run-999999999-"))
    mine = new_folder()
    assert not left.exists()
    other = new_folder()
    assert mine.exists(), "that of a program that runs is left alone"
    for folder in (mine, other):
        folder.rmdir()


LEAVING = """\
import multiprocessing, os, runpy, sys
runpy.run_path(sys.argv[1])["start_tracker"]()
assert "PYTHONWARNINGS" not in os.environ
left = multiprocessing.get_context("spawn").Semaphore()
os._exit(0)
"""


def test_semaphores_of_processes_that_were_ended_are_removed_without_a_word():
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    # The tracker keeps the pipe open until it has removed them.
    done = subprocess.run(
        [sys.executable, "-c", LEAVING, processes.__file__], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_texts_have_the_same_hashes_in_all_processes(monkeypatch):
    def order():
        program = "print([*{'ab', 'cd', 'ef', 'gh', 'ij', 'kl', 'mn', 'op'}])"
        return subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout

    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with hashes_fixed():
        assert order() == order()
    assert "PYTHONHASHSEED" not in os.environ
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    with hashes_fixed():
        assert os.environ["PYTHONHASHSEED"] == "7", "the user knows better"


def test_a_process_that_trains_is_set_as_the_one_that_packed(tmp_path, monkeypatch):
    path, argv = tmp_path / "workload.pickle", list(sys.argv)
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("SET_BY_A_TASK", raising=False)
    with switches.kept():
        torch.set_default_dtype(torch.float64)
        np.seterr(over="raise")
        pack(Holder(), tmp_path / "task.py", path, environment={"SET_BY_A_TASK": "yes"})
    monkeypatch.setenv("SET_BY_A_TASK", "no")
    with chance.left_alone():
        Parcel(path).settle_in()
        first = np.random.rand()
        assert torch.get_default_dtype() == torch.float64
        assert np.geterr()["over"] == "raise"
        assert os.environ["SET_BY_A_TASK"] == "yes"
        assert sys.argv == [str(tmp_path / "task.py")]
        before = Path.cwd()
        monkeypatch.chdir(tmp_path)
        Parcel(path).enter()
        assert Path.cwd() == before
        Parcel(path).settle_in()
        assert np.random.rand() == first
    assert (torch.get_default_dtype(), np.geterr()["over"]) == (torch.float32, "warn")


class Switching(Line):
    """Sets what lasts for the whole process."""

    def loss(self, model, batch):
        loss = super().loss(model, batch)
        torch.set_float32_matmul_precision("medium")
        torch.use_deterministic_algorithms(True)
        torch.set_grad_enabled(True)
        return loss

    def evaluate(self, model, split):
        found = super().evaluate(model, split)
        torch.set_grad_enabled(False)
        return found


def test_what_a_run_sets_does_not_reach_the_next():
    before = switches.now()
    trained(Switching(), lr=0.1)
    assert switches.now() == before


PICKLING = '''
import pickle
from dataclasses import dataclass

from test_parcel import Line


@dataclass
class Config:
    width: int = 4


class Net:
    """Only an object knows of it."""


def collate(rows):
    return rows


class Task(Line):
    def __init__(self):
        super().__init__()
        self.net = Net()

    def loss(self, model, batch):
        kept = [Config(5), self.net, collate, Task]
        again = pickle.loads(pickle.dumps(kept))
        assert again[0] == kept[0] and again[2:] == kept[2:] and type(again[1]) is Net
        return super().loss(model, batch)
'''


def test_what_a_file_defines_can_be_pickled_where_it_came_by_value(tmp_path, monkeypatch):
    file, path = tmp_path / "pickling.py", tmp_path / "workload.pickle"
    file.write_text(PICKLING)
    monkeypatch.setattr(sys, "path", list(sys.path))
    pack(tasks.load(f"{file}:Task"), file, path)
    # As in another process, which has not imported the file.
    monkeypatch.delitem(sys.modules, "_thalweg_task_pickling")
    for _ in range(2):
        workload, _ = Parcel(path).unpack()
        assert trained(workload, lr=0.1).failure is None


def test_a_neighbour_that_was_edited_meanwhile_is_told(tmp_path, monkeypatch):
    file, path, beside = (tmp_path / name for name in ("task.py", "workload.pickle", "edited_beside.py"))
    beside.write_text("SIZE = 1\n")
    file.write_text("from test_parcel import Line\nimport edited_beside\n\nclass Task(Line):\n    pass\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    pack(tasks.load(f"{file}:Task"), file, path)
    monkeypatch.delitem(sys.modules, "edited_beside")
    with chance.left_alone():
        beside.write_text("SIZE = 1  # one\n")
        Parcel(path).settle_in()
        beside.write_text("SIZE = 2\n")
        with pytest.raises(tasks.TaskError, match=r"edited_beside\.py changed after the command had begun"):
            Parcel(path).settle_in()
