"""A run that is cut off goes on from its checkpoint: bit for bit as if it had not been, or begins anew."""

import multiprocessing
import os
import random
import signal
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from children import PATIENCE_SECONDS
from samples import Line
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from thalweg.lab import Axis, Space, compare, spaces
from thalweg.lab.running import attributes, drawing
from thalweg.lab.running import checkpoints as checkpoints_
from thalweg.lab.running.checkpoints import Keeper, Place
from thalweg.lab.running.hopeless import is_finished_anyway
from thalweg.lab.running.pool import Pool
from thalweg.lab.running.trial import CPU, run_on
from thalweg.lab.study import protocol
from thalweg.lab.study.record import Record, Trial

AT = 21
"""The step during which runs are cut off."""


class Killed(BaseException):
    pass


class Cut:
    """Ends the process, as it were, when a loss is asked for at step `AT` the first time."""

    def __init__(self) -> None:
        self.left = AT

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


def make_trial(space: Space, lr: float = 0.05) -> Trial:
    point = {space.axes[0].name: lr}
    return Trial("final", space.name, space.optimizer, space.settings(point), point, 7)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "checkpoints", "line-0123", every=0.0)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(checkpoints_.os, "fsync", lambda _: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Told(list[str]):
    def on(self, place: Place, trial: Trial) -> Keeper:
        return Keeper(place, trial, CPU, self.append)


def cut_and_resumed(
    make: Callable[[], Any], place: Place, space: Space | str = "adamw"
) -> tuple[Record, Record, Told]:
    """A run of its own, one that was cut off and went on, and what was said."""
    space = spaces.find(space) if isinstance(space, str) else space
    trial, told = make_trial(space), Told()
    whole = run_on(trial, lambda: (make(), space))

    def cut() -> tuple[Any, Space]:
        task, end = make(), Cut()
        loss = type(task).loss
        task.loss = lambda model, batch: end() or loss(task, model, batch)
        return task, space

    with pytest.raises(Killed):
        run_on(trial, cut, CPU, told.on(place, trial))
    return whole, run_on(trial, lambda: (make(), space), CPU, told.on(place, trial)), told


def is_the_same(whole: Record, resumed: Record) -> bool:
    return whole == resumed and repr(whole.curve) == repr(resumed.curve) and whole.failure is None


def own(name: str, maker: Any, **fixed: Any) -> Space:
    return Space(name, maker, (Axis("lr", 1e-4, 1.0),), fixed=fixed)


SPACES: list[Space | str] = [
    "adamw",
    own("momentum", thalweg.SGD, momentum=0.9, average=0.9, lookahead=4),
    own("int8", thalweg.AdamW, state="int8"),
    own("bfloat16", thalweg.AdamW, state="bfloat16"),
    own("free", thalweg.SGD, schedule_free=0.9),
    own("torch", torch.optim.NAdam),
    own("lbfgs", torch.optim.LBFGS, max_iter=3),
    own("prodigy", thalweg.Prodigy),
]


@pytest.mark.parametrize("space", SPACES, ids=lambda space: getattr(space, "name", space))
def test_every_optimizer_goes_on_where_it_was(space, place):
    class Free(Line):
        pass

    if getattr(space, "name", "") == "lbfgs":
        Free.steps = 60
        Free.evaluate_every = 20
    whole, resumed, told = cut_and_resumed(Free, place, space)
    assert is_the_same(whole, resumed), told
    assert any("goes on from step" in line for line in told), told


class Dropping(Line):
    """Draws in the model, in batches and in the loss, from all generators there are."""

    def model(self, seed):
        return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))

    def batches(self, seed):
        for inputs, targets in super().batches(seed):
            yield inputs + 0.1 * torch.randn(8, 2), targets + np.random.normal() + random.random()

    def loss(self, model, batch):
        return super().loss(model, batch) * (1 + 0.1 * np.random.rand() + 0.1 * random.random())


class Loaded(Line):
    """A DataLoader that shuffles by torch's generator, anew in each epoch, while the model draws too."""

    workers = 0

    def model(self, seed):
        return nn.Sequential(nn.Dropout(0.2), nn.Linear(2, 1))

    def batches(self, seed):
        data = [torch.randn(72, 2, generator=torch.Generator().manual_seed(3))]
        loader = DataLoader(TensorDataset(*data), batch_size=8, shuffle=True, num_workers=self.workers)
        while True:
            for (inputs,) in loader:
                yield inputs, inputs.sum(dim=1, keepdim=True)


class AllAtOnce(Line):
    """All batches are drawn when they are asked for, after an evaluation that draws."""

    def batches(self, seed):
        given = Line.batches(self, seed)
        return iter([(inputs + torch.rand(2), targets) for inputs, targets in given])

    def evaluate(self, model, split):
        torch.rand(5)
        return super().evaluate(model, split)


class Halves(Line):
    autocast = "float16"


class Accumulating(Line):
    accumulate = 2
    clip_norm = 0.5
    schedule = "cosine"

    def batches(self, seed):
        for _ in range(2):
            yield from super().batches(seed)


class Scheduled(Line):
    def schedule(self, optimizer):
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5)
        rest = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
        return torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, rest], milestones=[5])


class Plateau(Line):
    def schedule(self, optimizer):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=0.5)


class Counting(nn.Linear):
    """A module with state of its own that no state_dict has."""

    def __init__(self):
        super().__init__(2, 1)
        self.seen = 0
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, inputs):
        self.seen += self.training
        self.scale += 0.01 * self.training
        return super().forward(inputs) * self.scale * (1 + 0.001 * self.seen)


class WithCounter(Line):
    def model(self, seed):
        return Counting()


class Remembering(Line):
    """Keeps on the task what later steps and metrics depend on."""

    def __init__(self):
        super().__init__()
        self.best, self.last, self.seen = float("inf"), deque(maxlen=3), Counter()
        self.chance, self.noise = np.random.default_rng(1), torch.Generator().manual_seed(2)

    def loss(self, model, batch):
        loss = super().loss(model, batch)
        self.last.append(loss.item())
        self.seen["steps"] += 1
        drawn = self.chance.random() + torch.rand((), generator=self.noise)
        return loss * (1 + 0.1 * sum(self.last) + drawn) / (1 + 0.01 * self.seen["steps"])

    def evaluate(self, model, split):
        found = super().evaluate(model, split)
        self.best = min(self.best, found.metric)
        return found._replace(metric=self.best + self.seen["steps"])


TASKS = [
    Dropping,
    Loaded,
    AllAtOnce,
    Halves,
    Accumulating,
    Scheduled,
    Plateau,
    WithCounter,
    Remembering,
]


@pytest.mark.parametrize("task", TASKS)
def test_every_kind_of_task_goes_on_where_it_was(task, place):
    whole, resumed, told = cut_and_resumed(task, place)
    assert is_the_same(whole, resumed), told
    step = (AT - 1) // getattr(task, "accumulate", 1)
    assert told == [f"adamw (final, seed 7) goes on from step {step}"]


class InClass(Line):
    kept: list[float] = []  # noqa: RUF012
    total = 0.0

    def loss(self, model, batch):
        loss = super().loss(model, batch)
        type(self).total += loss.item()
        self.kept.append(loss.item())
        SEEN.append(loss.item())
        return loss * (1 + 0.01 * len(self.kept) + 0.01 * len(SEEN) + 0.001 * self.total)


SEEN: list[float] = []


def test_classes_and_globals_of_a_file_are_put_back(place):
    def fresh():
        InClass.kept.clear()
        InClass.total = 0.0
        SEEN.clear()
        return InClass()

    whole, resumed, told = cut_and_resumed(fresh, place)
    assert is_the_same(whole, resumed), told
    assert len(told) == 1


class Stepping(Line):
    """A step of its own, which goes on adding to gradients."""

    def training_step(self, run, batch):
        inputs, targets = batch
        loss = (run.model(inputs) - targets).square().mean()
        loss.backward()
        if run.step % 3 == 0:
            run.optimizer.step()
            run.optimizer.zero_grad()
        self.loss(run.model, batch)
        return loss.item()


def test_gradients_of_a_step_of_ones_own_go_on(place):
    whole, resumed, told = cut_and_resumed(Stepping, place)
    assert is_the_same(whole, resumed), told
    assert any("goes on from step 20" in line for line in told)


class Looping(Line):
    def __init__(self):
        super().__init__()
        self.memory: list[float] = []

    def training_loop(self, run):
        generator = torch.Generator().manual_seed(run.seed)
        inputs = torch.randn(50, 8, 2, generator=generator)
        while True:
            batch = inputs[run.step], inputs[run.step].sum(dim=1, keepdim=True)
            loss = self.loss(run.model, batch) * (1 + 0.1 * sum(self.memory[-2:]))
            self.memory.append(loss.item())
            yield run.update(loss)


class LoopingOn(Looping):
    def state_dict(self):
        return {"memory": list(self.memory)}

    def load_state_dict(self, state):
        self.memory = state["memory"]


def test_a_loop_of_ones_own_goes_on_by_its_hooks(place):
    whole, resumed, told = cut_and_resumed(LoopingOn, place)
    assert is_the_same(whole, resumed), told
    assert told == ["adamw (final, seed 7) goes on from step 20"]


def test_a_loop_of_ones_own_without_hooks_begins_anew(place):
    whole, resumed, told = cut_and_resumed(Looping, place)
    assert is_the_same(whole, resumed)
    assert told[0].endswith(
        "has no checkpoint: a training_loop needs the task's state_dict and load_state_dict"
    )
    assert list(place.folder.iterdir()) == []


class Hooked:
    """A loader that knows where it is; to draw again would be an error."""

    def __init__(self, task, seed):
        self.batches, self.at = list(Line.batches(task, seed)), 0
        self.drawn: list[int] = task.drawn

    def __iter__(self) -> Iterator[Any]:
        while self.at < len(self.batches):
            self.at += 1
            self.drawn.append(self.at)
            yield self.batches[self.at - 1]

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def test_a_loader_that_knows_where_it_is_is_asked(place):
    drawn = []

    class Resumable(Line):
        def __init__(self):
            super().__init__()
            self.drawn = []
            drawn.append(self.drawn)

        def batches(self, seed):
            return Hooked(self, seed)

    whole, resumed, told = cut_and_resumed(Resumable, place)
    assert is_the_same(whole, resumed), told
    # What was kept of the list on the task comes first.
    assert drawn[-1] == list(range(1, 41))
    assert any("goes on from step 20" in line for line in told)


# What cannot be gone on from


class Casting(torch.optim.SGD):
    """Loses precision when it is loaded."""

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        for state in self.state.values():
            state["momentum_buffer"] = state["momentum_buffer"].bfloat16().float()


def test_what_does_not_come_back_as_saved_is_not_gone_on_from(place):
    whole, resumed, told = cut_and_resumed(Line, place, own("casting", Casting, momentum=0.9))
    assert is_the_same(whole, resumed)
    assert "begins anew, its checkpoint is passed over: optimizers did not come back as saved" in told[-1]


class Shared(Line):
    """Batches and losses draw from one generator of the task's."""

    def __init__(self):
        super().__init__()
        self.chance = np.random.default_rng(1)

    def batches(self, seed):
        for inputs, targets in super().batches(seed):
            yield inputs * self.chance.random(), targets

    def loss(self, model, batch):
        return super().loss(model, batch) * self.chance.random()


def test_a_generator_that_batches_and_losses_share_cannot_be_put_back(place):
    whole, resumed, told = cut_and_resumed(Shared, place)
    assert is_the_same(whole, resumed)
    assert "chance of the task is changed by batches and by other methods" in told[-1]


class Late(Line):
    """Begins to draw from NumPy's generator when half is over."""

    def __init__(self):
        super().__init__()
        self.steps_taken = 0

    def loss(self, model, batch):
        self.steps_taken += 1
        return super().loss(model, batch) * (1 + (np.random.rand() if self.steps_taken > 15 else 0))


def test_who_draws_late_from_another_generator_is_kept_no_further(place):
    whole, resumed, told = cut_and_resumed(Late, place)
    assert is_the_same(whole, resumed)
    assert "numpy's global generator was first drawn from after the first step" in told[0]
    assert any("goes on from step 15" in line for line in told)


def test_states_of_generators_do_not_fill_memory(place, monkeypatch):
    monkeypatch.setattr(drawing, "MOST_BYTES", 30_000)
    whole, resumed, told = cut_and_resumed(Dropping, place)
    assert is_the_same(whole, resumed)
    assert "more often than" in told[0]


def test_large_data_that_were_changed_are_not_guessed(place, monkeypatch):
    monkeypatch.setattr(attributes, "BIG", 100)

    class Large(Line):
        def __init__(self):
            super().__init__()
            self.table, self.data = torch.zeros(100), np.zeros(200)

        def loss(self, model, batch):
            self.table += 1
            return super().loss(model, batch) * self.table.sum()

    whole, resumed, told = cut_and_resumed(Large, place)
    assert is_the_same(whole, resumed)
    assert "table of the task is large and was changed" in told[-1]


@pytest.mark.parametrize("where", [0, 100, -10])
def test_a_damaged_checkpoint_is_passed_over(place, where):
    trial, told = make_trial(spaces.find("adamw")), Told()
    cut_and_resumed(Line, place)
    path = place.of(trial)
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    assert told.on(place, trial).read() is None
    path.write_bytes(content[: len(content) // 2])
    assert told.on(place, trial).read() is None
    path.write_bytes(b"")
    assert told.on(place, trial).read() is None
    assert all(line.endswith("is damaged, or none") for line in told)
    assert len(told) == 3


def test_a_checkpoint_of_something_else_is_passed_over(place, monkeypatch):
    trial, told = make_trial(spaces.find("adamw")), Told()
    cut_and_resumed(Line, place)
    other = Place(place.folder, "line-4567", every=0.0)
    assert place.others() == []
    assert other.others() == [place.of(trial)]
    place.of(trial).rename(other.of(trial))
    assert told.on(other, trial).read() is None
    other.of(trial).rename(place.of(trial))
    monkeypatch.setattr(checkpoints_, "_machine", lambda device: ["another"])
    assert told.on(place, trial).read() is None
    assert [line.rpartition(" is of another ")[2] for line in told] == ["study", "machine"]


def test_a_disk_that_is_full_costs_the_checkpoint_and_not_the_run(place, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints_.os, "fsync", full)
    trial, told = make_trial(spaces.find("adamw")), Told()
    record = run_on(trial, lambda: (Line(), None), CPU, told.on(place, trial))
    assert record == run_on(trial, lambda: (Line(), None))
    assert len(told) == 1
    assert "No space left on device" in told[0]
    assert list(place.folder.iterdir()) == []


# How often


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_checkpoints_are_a_stated_share_of_the_time(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(checkpoints_, "time", clock)
    trial = make_trial(spaces.find("adamw"))
    keeper = Told().on(Place(tmp_path, "line"), trial)
    made = []

    def state():
        made.append(clock.now)
        clock.now += 3.0  # what it costs
        return {}

    while clock.now < 3600:
        clock.now += 1.0
        if keeper.due(lambda: 100):
            keeper.write(state)
    assert made[0] == 60.0
    gaps = {later - earlier for earlier, later in pairwise(made)}
    assert gaps == {3.0 / checkpoints_.SHARE + 3.0}


def test_the_first_checkpoint_of_a_large_run_waits_longer(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(checkpoints_, "time", clock)
    keeper = Told().on(Place(tmp_path, "line"), make_trial(spaces.find("adamw")))
    size = int(10 * checkpoints_.BYTES_A_SECOND)
    clock.now = 499.0
    assert not keeper.due(lambda: size)
    clock.now = 501.0
    assert keeper.due(lambda: size)


def test_what_a_study_leaves_is_removed(place):
    trial = make_trial(spaces.find("adamw"))
    cut_and_resumed(Line, place)
    path = place.of(trial)
    half = path.with_name(f".{path.name}.abcd")
    half.write_bytes(b"as a process leaves it that was killed while it wrote")
    place.remove(trial)
    assert list(place.folder.iterdir()) == []
    cut_and_resumed(Line, place)
    half.write_bytes(b"")
    place.clear()
    assert not place.folder.exists()


def test_a_hopeless_trial_stays_so(place):
    class Backwards(Line):
        evaluate_every = 4

        def loss(self, model, batch):
            return -super().loss(model, batch)

    class CutOff(Backwards):
        def loss(self, model, batch):
            if self.at() == AT:
                raise Killed
            return super().loss(model, batch)

    space, told = spaces.find("adamw"), Told()
    drawn = (replace(make_trial(space), stage="tune", seed=seed) for seed in count())
    trial = next(one for one in drawn if is_finished_anyway(one))
    counted = count(1)
    CutOff.at = lambda _: next(counted)
    with pytest.raises(Killed):
        run_on(trial, lambda: (CutOff(), space), CPU, told.on(place, trial), early_stop=True)
    resumed = run_on(trial, lambda: (Backwards(), space), CPU, told.on(place, trial), early_stop=True)
    assert resumed == run_on(trial, lambda: (Backwards(), space), early_stop=True)
    assert resumed.hopeless == 20


# Processes


class Dying(Line):
    """Kills its process, once, in the middle of a run."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.left = folder, AT

    def loss(self, model, batch):
        self.left -= 1
        if self.left == 0 and multiprocessing.parent_process() and not (self.folder / "died").exists():
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(model, batch)


def test_a_run_whose_process_is_killed_goes_on_in_another(tmp_path, place):
    task, trial, told = Dying(tmp_path), make_trial(spaces.find("adamw")), Told()
    with Pool(1) as pool:
        pool.say = told.append
        pool.checkpoints = place
        pool.load(task)
        records = []
        for _ in range(2):
            pool.start(trial, PATIENCE_SECONDS)
            while pool.running:
                records += pool.wait(30)
        assert records[0].lost
        assert list(place.folder.iterdir()) == [place.of(trial)]
        pool.forget(trial)
        assert list(place.folder.iterdir()) == []
        assert pool.keep_in(None, "study").folder.is_relative_to(tempfile.gettempdir())
    assert told == ["adamw (final, seed 7) goes on from step 20"]
    assert records[1] == run_on(trial, lambda: (Line(), None))
    assert records[1].timing.seconds > 0


def test_a_comparison_goes_on_inside_its_runs(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Pool, "every", 0.0)
    other = tmp_path / "kept" / "ffffffffffff-tune-sgd-0123.run"
    other.parent.mkdir()
    other.write_bytes(b"1" * 2_000_000)
    result = compare(
        Dying(tmp_path), ["sgd", "adamw"], trials=1, seeds=1, workers=1, checkpoints=tmp_path / "kept"
    )
    assert protocol.is_complete(result.study)
    said = capfd.readouterr().err
    assert said.count(" goes on from step 20\n") == 1
    assert "kept has 1 checkpoint of other studies (2 MB), which are passed over" in said
    assert list(other.parent.iterdir()) == [other], "all of ours have ended"
