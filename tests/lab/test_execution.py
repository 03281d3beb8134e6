import math
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from children import PATIENCE_SECONDS
from samples import Line, Scores, record, study

from thalweg.lab import spaces
from thalweg.lab.running import execution
from thalweg.lab.running import trial as trials
from thalweg.lab.running.checkpoints import Place
from thalweg.lab.running.connecting import IN_MEMORY
from thalweg.lab.running.execution import execute, gather
from thalweg.lab.running.store import Store
from thalweg.lab.spaces import Space
from thalweg.lab.study import protocol
from thalweg.lab.study.extension import trial_of
from thalweg.lab.study.record import Failure, Record, Trial, failed
from thalweg.lab.study.study import Margin, Settings, Study
from thalweg.lab.workload.errors import StoreError

SPACES = [spaces.find(name) for name in ("sgd", "rmsprop", "adamw")]


class Quick(Line):
    steps = 8
    evaluate_every = 4


class Here:
    """Stands in for a pool: it trains in this process, a trial at a time, as soon as it is waited for."""

    def __init__(self, workers: int | None = 1) -> None:
        self.workers = workers or 1
        self.running: list[Trial] = []
        self.limits: list[float] = []
        self.made: list[Trial] = []

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def load(self, workload: Line, file: object = None, spaces: Sequence[Space] = ()) -> None:
        self._workload, self._spaces = workload, {space.name: space for space in spaces}

    @property
    def idle(self) -> int:
        return self.workers - len(self.running)

    def start(self, trial: Trial, limit: float) -> None:
        self.running.append(trial)
        self.limits.append(limit)

    def keep_in(self, folder: Path | None, study: str) -> Place:
        return Place(folder or Path("nowhere"), study)

    def forget(self, trial: Trial) -> None:
        pass

    def forget_all(self) -> None:
        pass

    def wait(self, timeout: float) -> list[Record]:
        if not self.running:
            time.sleep(min(timeout, 0.02))
            return []
        self.made.append(self.running.pop(0))
        return [trials.run(self.made[-1], self._workload, space=self._spaces.get(self.made[-1].name))]


def begin(workload=None, trials=4, seeds=3) -> Study:
    return Study(workload or Quick(), Settings(trials, seeds, Margin(0.01), seed=5), SPACES)


def memory() -> Store:
    return Store(IN_MEMORY, "study", higher_is_better=False)


def run(begun: Study, store: Store | None = None, **more) -> tuple[Study, Here]:
    """Runs a study to its end with a pool of this process; gives the study and the pool."""
    pool = Here()
    pool.load(begun.workload)
    return execute(begun, store or memory(), pool, **more), pool


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole():
    return run(begin())[0]


def test_a_study_is_run_to_its_end(whole):
    assert protocol.is_complete(whole)
    for space in SPACES:
        stages = Counter(r.trial.stage for r in whole.of(space, "tune", "confirm", "final"))
        assert stages == {"tune": 4, "confirm": 6, "final": 3}
    assert all(r.test is not None for r in whole.records if r.trial.stage == "final")
    assert [r.trial.key for r in whole.records] == [t.key for t in protocol.due(whole)]


def test_runs_are_paired(whole):
    # Before training nothing but the initial weights decides, so equal metrics are equal weights.
    finals = [whole.final_of(space) for space in SPACES]
    for runs in zip(*finals, strict=True):
        assert len({r.trial.seed for r in runs}) == len({r.curve[0].metric for r in runs}) == 1
    assert len({r.curve[0].metric for r in finals[0]}) == 3


def test_final_runs_use_the_configuration_that_was_best_on_validation(whole):
    for space in SPACES:
        confirmed = {}
        for r in whole.of(space, "confirm"):
            confirmed.setdefault(r.trial.settings["lr"], []).append(r.validation.metric)
        best = min(confirmed, key=lambda lr: sum(confirmed[lr]))
        assert {r.trial.settings["lr"] for r in whole.final_of(space)} == {best}


def test_another_plan_than_a_comparisons():
    def plan(study):
        points = [{axis.name: axis.middle() for axis in space.searched(1)} for space in study.spaces]
        tried = list(zip(study.spaces, points, strict=True))
        rates = [trial_of("final", space, point, seed) for space, point in tried for seed in (1, 2)]
        return rates if study.records else rates[:1]

    found, pool = run(begin(), plan=plan)
    assert [r.trial for r in found.records] == plan(found)
    assert len(pool.made) == 2 * len(SPACES)
    assert all(r.test is not None for r in found.records)


class Unlucky(Here):
    """The first run of each of these optimizers is killed so many times."""

    def __init__(self, names: dict[str, int]) -> None:
        super().__init__()
        self._left, self._victims = dict(names), {}

    def wait(self, timeout):
        first = self.running[0] if self.running else None
        if first and self._left.get(first.name, 0) and self._victims.setdefault(first.name, first) == first:
            trial = self.running.pop(0)
            self._left[trial.name] -= 1
            return [failed(trial, Failure("killed", "killed by signal 9"))]
        return super().wait(timeout)


def test_what_is_killed_is_tried_again_and_changes_nothing(whole):
    pool = Unlucky({"sgd": execution.ATTEMPTS - 1, "adamw": 1})
    pool.load(Quick())
    assert execute(begin(), memory(), pool).records == whole.records


def test_what_is_killed_each_time_is_missing_and_the_same_command_heals_it(whole):
    store, pool = memory(), Unlucky({"sgd": execution.ATTEMPTS})
    pool.load(Quick())
    found = execute(begin(), store, pool)
    assert [record.trial.name for record in found.lost] == ["sgd"]
    assert not protocol.is_complete(found), "the same command tries it again"
    assert len(found.tuning_of(SPACES[0])) == len(whole.tuning_of(SPACES[0])) - 1
    # As whoever opens it again.
    store._forgiven = frozenset(n for n, record in store._records.items() if record.lost)
    healed, _ = run(begin(), store)
    assert healed.records == whole.records


def test_divergence_does_not_end_the_study():
    found, _ = run(begin(Line(scale=1e6)))
    sgd, rmsprop, _ = SPACES
    assert protocol.is_complete(found)
    assert {r.failure.kind for r in found.of(sgd, "tune")} == {"diverged"}
    assert protocol.chosen(found, sgd).trial.lr < 1e-5, "it is found below its range"
    assert len(found.final_of(sgd)) == len(found.final_of(rmsprop)) == 3


def test_what_has_been_run_is_not_run_again():
    store = memory()
    first, _ = run(begin(), store)
    again, idle = run(begin(), store)
    assert (again.records, idle.made) == (first.records, [])
    more, further = run(replace(begin(), settings=replace(begin().settings, seeds=5)), store)
    assert [trial.stage for trial in further.made] == ["final"] * 2 * 3
    assert len(more.records) == len(first.records) + 6


def test_records_come_in_the_order_of_the_protocol_whoever_made_them():
    made = study({"sgd": [1.0, 2.0], "adamw": [2.0, 3.0]})
    store = Store(IN_MEMORY, "study", higher_is_better=True)
    for r in reversed(made.records):
        assert store.take([r.trial]) is not None
        store.finish(r)
    ordered, todo = gather(made.holding([]), store)
    assert ordered.records == list(made.records)
    assert todo == []


def test_records_of_other_questions_are_left_out():
    made = study({"sgd": [1.0, 2.0], "adamw": [2.0, 3.0]})
    store = Store(IN_MEMORY, "study", higher_is_better=True)
    other = replace(made.records[0].trial, seed=1)
    store.take([other])
    store.finish(record(other, 99.0))
    ordered, todo = gather(made.holding([]), store)
    assert ordered.records == []
    assert {trial.stage for trial in todo} == {"tune"}


class Interrupt:
    """Presses Ctrl-C when there are so many records."""

    def __init__(self, at: int) -> None:
        self.at, self.study = at, None

    def __call__(self, study, running):
        self.study = study
        if len(study.records) == self.at and running:
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [0, 20])
def test_a_study_that_was_interrupted_goes_on(whole, at):
    store = memory()
    with pytest.raises(KeyboardInterrupt):
        run(begin(), store, watch=Interrupt(at))
    assert len(store.records()) == at
    assert not store._ours, "what was under way is released"
    finished, pool = run(begin(), store)
    assert finished.records == whole.records
    assert len(pool.made) == len(whole.records) - at


def test_watch_sees_every_record_and_what_is_under_way():
    seen = []
    found, _ = run(begin(), watch=lambda study, running: seen.append((len(study.records), len(running))))
    assert [records for records, _ in seen] == list(range(len(found.records) + 1))
    assert {running for _, running in seen[:-1]} == {1}
    assert seen[-1] == (len(found.records), 0)


def test_two_machines_share_a_study(whole, tmp_path):
    stores = [Store(str(tmp_path / "study.db"), "study", higher_is_better=False) for _ in range(2)]
    found = [None, None]

    both_at_one = threading.Barrier(2, timeout=PATIENCE_SECONDS)

    def work(place):
        met = []

        def watch(study, running):
            if running and not met:
                met.append(both_at_one.wait())

        found[place] = run(begin(), stores[place], watch=watch)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    (first, one), (second, other) = found
    assert first.records == second.records
    assert {r.trial.key for r in first.records} == {r.trial.key for r in whole.records}
    made = Counter(trial.key for trial in [*one.made, *other.made])
    assert set(made) == {r.trial.key for r in whole.records}
    assert set(made.values()) == {1}, "each by one of them"
    assert one.made
    assert other.made


def test_the_end_waits_for_what_another_machine_is_at(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "POLL_SECONDS", 0.05)
    ours, theirs = (Store(str(tmp_path / "study.db"), "study", higher_is_better=False) for _ in range(2))
    first = protocol.due(begin())[0]
    assert theirs.take([first]) == first
    looks = []

    def watch(study, running):
        looks.append(len(study.records))
        if len(looks) > 20 and looks[-1] == 11 and theirs._ours:
            assert not running
            theirs.finish(record(first, 0.5, falls=True))

    found, pool = run(begin(), ours, watch=watch)
    assert protocol.is_complete(found)
    assert first.key not in {trial.key for trial in pool.made}
    assert next(r for r in found.records if r.trial.key == first.key).validation.metric == 0.5


def test_it_says_that_it_is_alive_and_looks_for_the_dead(monkeypatch):
    monkeypatch.setattr(execution, "HEARTBEAT_SECONDS", 0.0)
    calls = Counter()
    store = memory()
    for name in ("beat", "release_dead"):
        method = getattr(store, name)
        monkeypatch.setattr(store, name, lambda name=name, method=method: (calls.update([name]), method()))
    found, _ = run(begin(), store)
    assert min(calls["beat"], calls["release_dead"]) >= len(found.records)


def test_a_storage_that_fails_ends_it(monkeypatch):
    store = memory()

    def broken(record):
        raise StoreError("storage 'x': disk full")

    monkeypatch.setattr(store, "finish", broken)
    with pytest.raises(StoreError, match="disk full"):
        run(begin(), store)


# Limits


def test_a_limit_that_was_asked_for_holds_for_all():
    _, pool = run(begin(), limit=7.0)
    assert set(pool.limits) == {7.0}


def test_without_one_the_slowest_so_far_decides():
    made = study({"sgd": [1.0], "adamw": [1.0]}, workload=Scores())
    assert execution._limit(made.holding([])) == math.inf, "nothing says how long a run takes"
    assert execution._limit(made) == 120, "a run of 1.2 seconds is not hung before two minutes"
    slow = [
        replace(r, timing=replace(r.timing, total=50.0 + place)) for place, r in enumerate(made.records[:3])
    ]
    assert execution._limit(made.holding(slow)) == 520
