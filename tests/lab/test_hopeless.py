"""Trials that training only makes worse are ended early, by one rule for all, and what that costs is told."""

from dataclasses import replace
from itertools import count

import pytest
from samples import Line, Scores, study

from thalweg.lab import spaces
from thalweg.lab.comparing.beginning import fingerprint
from thalweg.lab.comparing.choosing import Task
from thalweg.lab.comparing.spending import Options
from thalweg.lab.judging.measures import early
from thalweg.lab.judging.verdict import judge
from thalweg.lab.running.hopeless import Hope, is_finished_anyway
from thalweg.lab.running.trial import run
from thalweg.lab.study import protocol
from thalweg.lab.study.extension import has_only_diverged
from thalweg.lab.study.record import Failure, Trial, from_json, to_json
from thalweg.lab.workload import Evaluation

SPACE = spaces.find("adamw")


def trial(seed: int, stage="tune") -> Trial:
    return Trial(stage, "adamw", "thalweg.AdamW", {"lr": 0.05}, {"lr": 0.05}, seed)


ENDED = next(seed for seed in count() if not is_finished_anyway(trial(seed)))
FINISHED = next(seed for seed in count() if is_finished_anyway(trial(seed)))


class Backwards(Line):
    """Training makes it worse, and stays finite."""

    evaluate_every = 4

    def loss(self, model, batch):
        return -super().loss(model, batch)


# The rule


@pytest.mark.parametrize("higher", [True, False])
def test_a_run_is_lost_when_half_of_it_was_worse_than_before(higher):
    sign = 1 if higher else -1
    hope = Hope(higher)
    hope.look(0, Evaluation(sign * 5.0, 1.0))
    assert not hope.is_lost(0, 100)
    for step in range(10, 50, 10):
        hope.look(step, Evaluation(sign * 4.0, 1.1))
        assert not hope.is_lost(step, 100)
    hope.look(50, Evaluation(sign * 4.9, 1.01))
    assert hope.is_lost(50, 100)
    assert not hope.is_lost(50, 101)
    assert not hope.is_lost(50, 50), "the last step is made anyway"


@pytest.mark.parametrize("saving", [Evaluation(6.0, 2.0), Evaluation(5.0, 2.0), Evaluation(4.0, 1.0)])
@pytest.mark.parametrize("when", [10, 30, 50])
def test_one_evaluation_that_is_no_worse_in_one_number_saves_it_for_good(saving, when):
    hope = Hope(higher_is_better=True)
    hope.look(0, Evaluation(5.0, 1.0))
    for step in range(10, 100, 10):
        hope.look(step, saving if step == when else Evaluation(4.0, 2.0))
    assert not hope.is_lost(90, 100)


def test_a_few_evaluations_are_not_enough():
    hope = Hope(higher_is_better=False)
    hope.look(0, Evaluation(1.0, 1.0))
    for step in (25, 50, 75):
        hope.look(step, Evaluation(2.0, 2.0))
        assert not hope.is_lost(step, 101)
    hope.look(100, Evaluation(2.0, 2.0))
    assert hope.is_lost(100, 101)


def test_a_tenth_of_the_trials_is_drawn_and_always_the_same():
    drawn = [seed for seed in range(2000) if is_finished_anyway(trial(seed))]
    assert 140 < len(drawn) < 260
    assert drawn == [seed for seed in range(2000) if is_finished_anyway(trial(seed))]


# Runs


def test_a_hopeless_trial_is_ended_and_says_why():
    ended = run(trial(ENDED), Backwards(), early_stop=True)
    assert ended.failure == Failure(
        "ended early",
        "validation error and loss were worse than before training at all 5 evaluations up to step 20 of 40",
        20,
    )
    assert (ended.validation, ended.test, ended.hopeless) == (None, None, None)
    assert ended.curve == run(trial(ENDED), Backwards()).curve[:6]
    assert from_json(to_json(ended)) == ended


def test_one_of_a_tenth_is_finished_and_marked():
    finished = run(trial(FINISHED), Backwards(), early_stop=True)
    assert finished.hopeless == 20
    assert replace(finished, hopeless=None) == run(trial(FINISHED), Backwards())
    assert finished.validation is not None
    assert from_json(to_json(finished)) == finished


@pytest.mark.parametrize("stage", ["confirm", "final"])
def test_runs_that_confirm_or_measure_are_not_ended(stage):
    assert run(trial(ENDED, stage), Backwards(), early_stop=True) == run(trial(ENDED, stage), Backwards())


def test_a_run_that_learns_is_not_ended():
    assert run(trial(ENDED), Line(), early_stop=True) == run(trial(ENDED), Line())


# The protocol and the report


def ended_early(one):
    return replace(
        one, validation=None, failure=Failure("ended early", "worse than before training", 20), test=None
    )


def test_an_optimizer_whose_trials_were_all_ended_is_searched_lower():
    whole = study({"sgd": [1.0] * 6, "adamw": [1.0] * 6}, workload=Scores())
    tuning = [r for r in whole.records if r.trial.stage == "tune"]
    spoilt = [ended_early(r) if r.trial.name == "adamw" else r for r in tuning]
    sgd, adamw = whole.spaces
    begun = whole.holding(spoilt)
    assert has_only_diverged(begun, adamw)
    assert not has_only_diverged(begun, sgd)
    lowest = min(r.trial.lr for r in spoilt if r.trial.name == "adamw")
    due = [t for t in protocol.due(begun) if t.stage == "extend"]
    assert due
    assert all(t.name == "adamw" and t.lr < lowest for t in due)
    # One that was finished all the same says nothing else.
    marked = [replace(r, hopeless=20) if r.trial.name == "adamw" else r for r in tuning]
    assert has_only_diverged(whole.holding(marked), adamw)
    worked = [r if i == 3 else s for i, (r, s) in enumerate(zip(tuning, spoilt, strict=True))]
    assert not has_only_diverged(whole.holding(worked), adamw)


def test_what_became_of_those_that_were_finished_is_told():
    whole = study({"sgd": [1.0] * 6, "adamw": [1.0] * 6})
    assert (early(whole).ended, early(whole).finished) == (0, 0)
    assert not any("ended early" in note for note in judge(whole).notes)
    chosen = protocol.chosen(whole, whole.spaces[0])
    worst = min(whole.tuning_of(whole.spaces[1]), key=lambda r: r.validation.metric)
    other = next(r for r in whole.tuning_of(whole.spaces[1]) if r is not worst)
    some = {id(chosen): replace(chosen, hopeless=20), id(worst): replace(worst, hopeless=20)}
    spoilt = whole.holding([some.get(id(r), r) for r in whole.records])
    assert (early(spoilt).finished, early(spoilt).good, early(spoilt).chosen) == (2, 1, 1)
    some[id(other)] = ended_early(other)
    notes = judge(whole.holding([some.get(id(r), r) for r in whole.records])).notes
    [note] = [note for note in notes if "only made worse" in note]
    assert note == (
        "1 trial ended early, which training only made worse. Of 2 such trials that the draw had finished "
        "all the same, 1 came to beat the median trial of its optimizer and 1 was chosen."
    )


def test_whether_trials_end_early_is_part_of_a_comparison():
    two = [spaces.find(name) for name in ("sgd", "adamw")]
    with_rule, without = (fingerprint(Task(Line()), two, Options(early_stop=on)) for on in (True, False))
    assert with_rule != without
