"""How long a comparison still takes, and what a screen says of it."""

import io
from dataclasses import replace

import pytest
from rich.console import Console
from samples import Scores, record

from thalweg.lab import spaces
from thalweg.lab.showing import ahead as ahead_
from thalweg.lab.showing import console
from thalweg.lab.showing.ahead import Ahead, clock, in_words
from thalweg.lab.study import protocol
from thalweg.lab.study.study import Margin, Settings, Study

SPACES = [spaces.find(name) for name in ("sgd", "adamw")]
SECONDS = {"sgd": 10.0, "adamw": 30.0}
LEAST = 4 + 6 + 6
"""Runs of each where the first look tells,"""

MOST = 4 + 6 + 24
"""and where none but the last does."""


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch):
    made = Clock()
    monkeypatch.setattr(ahead_, "time", made)
    monkeypatch.setattr(console, "time", made)
    return made


def begun() -> Study:
    return Study(Scores(), Settings(4, 24, Margin(0.5), looks=(6, 10, 16, 24)), SPACES)


def timed(trial):
    """Of four rates the second is the best, so that no range grows."""
    rates = sorted(t.lr for t in protocol.due(begun()) if t.name == trial.name)
    metric = 50.0 + (trial.lr == rates[1])
    made = record(trial, metric, metric if trial.stage == "final" else None)
    return replace(made, timing=replace(made.timing, total=SECONDS[trial.name]))


def with_runs(study, number):
    """The study after so many more runs, one after the other."""
    for _ in range(number):
        done = {r.trial.key for r in study.records}
        trial = next(t for t in protocol.due(study) if t.key not in done)
        study = study.holding([*study.records, timed(trial)])
    return study


def test_nothing_is_said_while_nothing_is_known(time):
    ahead = Ahead()
    ahead.look(begun(), [])
    assert ahead.seconds(begun(), []) is None
    assert in_words(None) == ""


def test_each_optimizer_counts_with_its_own_speed(time):
    ahead, study = Ahead(), begun()
    ahead.look(study, [])
    study = with_runs(study, 5)  # four of SGD's, one of AdamW's
    time.now += 70.0
    ahead.look(study, [])
    least, most = ahead.seconds(study, [])
    assert least == pytest.approx(10.0 * (LEAST - 4) + 30.0 * (LEAST - 1))
    assert most == pytest.approx(10.0 * (MOST - 4) + 30.0 * (MOST - 1))


def test_an_optimizer_without_a_run_counts_as_the_others_do(time):
    ahead, study = Ahead(), with_runs(begun(), 2)
    ahead.look(study, [])
    assert ahead.seconds(study, [])[0] == pytest.approx(10.0 * (LEAST - 2) + 10.0 * LEAST)


def test_runs_under_way_are_side_by_side_and_partly_made(time):
    ahead, study = Ahead(), with_runs(begun(), 5)
    done = {r.trial.key for r in study.records}
    running = [t for t in protocol.due(study) if t.key not in done][:2]
    ahead.look(study, running)
    before = ahead.seconds(study, running)[0]
    assert before == pytest.approx((10.0 * (LEAST - 4) + 30.0 * (LEAST - 1)) / 2)
    time.now += 20.0
    ahead.look(study, running)
    assert ahead.seconds(study, running)[0] == pytest.approx(before - 20.0)
    time.now += 500.0
    assert ahead.seconds(study, running)[0] == pytest.approx(before - 30.0), "they take longer than usual"


def test_other_machines_count(time):
    ahead, study = Ahead(), begun()
    ahead.look(study, [])
    study = with_runs(study, 8)
    time.now += 40.0  # 160 seconds of runs in 40
    ahead.look(study, [])
    assert ahead.seconds(study, [])[0] == pytest.approx((10.0 * (LEAST - 4) + 30.0 * (LEAST - 4)) / 4)


def test_while_it_is_measured_the_looks_that_are_due_count(time):
    study = with_runs(begun(), 8 + 12 + 4)  # two fresh seeds
    ahead = Ahead()
    ahead.look(study, [])
    least, most = ahead.seconds(study, [])
    assert least == pytest.approx(4 * 40.0)
    assert most == pytest.approx(22 * 40.0)
    ended = study.holding([timed(t) for t in protocol.due(study)])
    while not protocol.is_complete(ended):
        ended = ended.holding([timed(t) for t in protocol.due(ended)])
    assert ahead.seconds(ended, [])[0] == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3725, "1:02:05"), (90061, "25:01:01")],
)
def test_durations(seconds, text):
    assert clock(seconds) == text


def test_words():
    assert in_words((200.0, 590.0)) == ", 3:20 to 9:50 left"
    assert in_words((200.0, 220.0)) == ", about 3:40 left"


def test_a_screen_without_a_terminal_speaks_at_every_tenth_and_every_ten_minutes(time):
    out = io.StringIO()
    screen = console.Screen(Console(file=out, width=200), None)
    study = begun()
    running = protocol.due(study)[:1]
    screen.watch(study, running)
    time.now += 10
    screen.watch(with_runs(study, 1), running)
    assert out.getvalue() == "32 runs to go\n"
    time.now += 595
    screen.watch(with_runs(study, 1), running)
    assert out.getvalue().splitlines()[1:] == ["1/32 runs, 10:05 gone, 5:00 to 11:00 left"]
    time.now += 10
    screen.watch(with_runs(study, 4), running)
    assert out.getvalue().splitlines()[-1].startswith("4/32 runs, 10:15 gone, ")
