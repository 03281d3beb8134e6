"""What makes a comparison doubtful is seen in its records."""

from dataclasses import replace

from samples import Line, Scores, study

from thalweg.lab.judging.doubts import doubts
from thalweg.lab.study.record import Failure, Point, failed
from thalweg.lab.workload.errors import Doubt

GOOD = {"sgd": [91.0, 92.0, 93.0], "adamw": [90.0, 91.0, 92.0]}


def kinds(made, **more) -> list[str]:
    return [doubt.kind for doubt in doubts(made, **more)]


def made(**more):
    """A study whose runs start alike where the seed is the same and have a test part, as real ones do."""
    found = study(GOOD, **more)
    return found.holding([judged(started(record, record.trial.seed / 1e9)) for record in found.records])


def judged(record):
    return replace(record, test=record.test and record.test._replace(loss=record.test.loss + 0.25))


def started(record, metric):
    first = record.curve[0]
    return replace(record, curve=(Point(first.step, first.loss, metric), *record.curve[1:]))


def test_a_sound_comparison_has_none():
    assert doubts(made()) == []


def test_what_runs_have_seen_is_told_once():
    found = made()
    doubt = Doubt("repeat", "It differs.")
    seen = [replace(record, doubts=(doubt,)) for record in found.records]
    assert doubts(found.holding(seen)) == [doubt]


def test_accidents_are_told_with_their_reasons():
    found = made()
    lost = failed(found.records[0].trial, Failure("killed", "killed by signal 9"))
    [doubt] = doubts(found.holding([lost, *found.records[1:]]))
    assert doubt.kind == "accident"
    assert doubt.text.startswith("SGD lost 1 run to accidents, each tried several times: killed by signal 9.")


class Odd(Scores):
    higher_is_better = False


class Loss(Line):
    metric = "validation loss"
    higher_is_better = True


def test_an_unusual_direction_is_told():
    assert "direction" in kinds(replace(made(), workload=Odd()))
    assert "direction" in kinds(replace(made(), workload=Loss()))
    assert "direction" not in kinds(replace(made(), workload=Line()))


class Unknown(Scores):
    metric = "quality"


def test_a_metric_that_is_better_the_worse_the_loss_is_told():
    """A name that says nothing of the direction: the losses do."""
    found = made(workload=Unknown(), tuning={name: [50.0, 90.0, 60.0, 70.0, 80.0, 85.0] for name in GOOD})

    def losing(of):
        return found.holding(
            [
                replace(r, validation=r.validation._replace(loss=of(r.validation.metric)))
                for r in found.records
            ]
        )

    [doubt] = [doubt for doubt in doubts(losing(lambda metric: metric)) if doubt.kind == "direction"]
    assert "is higher_is_better = False what is meant?" in doubt.text
    assert "direction" not in kinds(losing(lambda metric: -metric))
    assert "direction" not in kinds(losing(lambda metric: 1.0))
    assert "direction" not in kinds(replace(losing(lambda metric: metric), workload=Scores()))


def test_equal_seeds_must_start_alike():
    found = made()
    turned = [started(found.records[0], 3.0), *found.records[1:]]
    assert kinds(found.holding(turned)) == ["start"]


def test_different_seeds_must_give_different_runs():
    found = study({"sgd": [91.0, 91.0, 91.0], "adamw": [90.0, 91.0, 92.0]})
    assert "seeds" in kinds(found)


def test_a_metric_must_move():
    found = study(dict.fromkeys(GOOD, [5.0] * 3), tuning=dict.fromkeys(GOOD, (5.0, 5.0, 5.0)))
    still = [replace(r, curve=tuple(Point(p.step, p.loss, 5.0) for p in r.curve)) for r in found.records]
    assert {"metric", "nothing learned"} <= set(kinds(found.holding(still)))


def test_training_must_beat_its_beginning():
    found = made()
    late = [started(record, 99.0) if record.trial.name == "sgd" else record for record in found.records]
    told = [doubt.text for doubt in doubts(found.holding(late)) if doubt.kind == "nothing learned"]
    assert len(told) == 1
    assert told[0].startswith("With SGD training ended no better than it began")


def test_optimizers_that_are_one_are_told():
    alike = study({name: [91.0, 92.0, 93.0] for name in GOOD})
    [text] = [doubt.text for doubt in doubts(alike) if doubt.kind == "same"]
    assert text.startswith("SGD and AdamW gave exactly the same runs on all fresh seeds")


def test_a_rate_that_does_nothing_is_told():
    found = made()
    first = next(record for record in found.records if record.trial.name == "sgd")
    still = [
        replace(r, curve=first.curve) if r.trial.name == "sgd" and r.trial.stage == "tune" else r
        for r in found.records
    ]
    [text] = [doubt.text for doubt in doubts(found.holding(still)) if doubt.kind == "rate"]
    assert text.startswith("SGD trained exactly alike at all 3 values of lr")


def test_a_test_part_that_is_the_validation_part_is_told():
    found = made()
    assert not any(record.test == record.validation for record in found.records)
    same = [replace(r, test=r.test and r.validation) for r in found.records]
    [text] = [doubt.text for doubt in doubts(found.holding(same)) if doubt.kind == "splits"]
    assert text.startswith("Validation and test gave the same accuracy in all 6 final runs")


def test_runs_that_take_longer_than_planned_are_told():
    assert kinds(made(), planned_seconds=1.0) == []
    assert kinds(made(), planned_seconds=0.5) == ["budget"]
