import json
import string
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.lab.running.logs import log_name
from thalweg.lab.study.record import Failure, Point, Record, Timing, Trial, failed, from_json, to_json
from thalweg.lab.workload import Evaluation

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text(string.ascii_letters + " -/_()1", min_size=1, max_size=12)
SETTINGS = st.dictionaries(
    NAMES, FLOATS | st.integers() | st.booleans() | st.none() | st.text() | st.tuples(FLOATS, FLOATS)
)
EVALUATIONS = st.builds(Evaluation, FLOATS, FLOATS)
RECORDS = st.builds(
    Record,
    trial=st.builds(
        Trial,
        stage=st.sampled_from(["tune", "extend", "confirm", "final"]),
        name=st.text(),
        optimizer=st.text(),
        settings=SETTINGS,
        point=st.dictionaries(NAMES, FLOATS),
        seed=st.integers(0, 2**32 - 1),
    ),
    curve=st.lists(st.builds(Point, st.integers(0), st.none() | FLOATS, FLOATS), max_size=4).map(tuple),
    validation=st.none() | EVALUATIONS,
    test=st.none() | EVALUATIONS,
    failure=st.none()
    | st.builds(Failure, st.sampled_from(["diverged", "killed"]), st.text(), st.none() | st.integers(0)),
    state_bytes=st.integers(0),
    timing=st.none()
    | st.builds(Timing, FLOATS, FLOATS, FLOATS, st.lists(FLOATS, max_size=4).map(tuple), st.text()),
    met=st.none() | st.integers(1),
    further=st.dictionaries(st.sampled_from(["validation", "test"]), st.dictionaries(NAMES, FLOATS)),
)


@settings(max_examples=60)
@given(RECORDS)
def test_a_record_comes_back_from_json_bit_for_bit(record):
    back = from_json(json.loads(json.dumps(to_json(record))))
    assert back == record
    # Equality leaves out the timing and calls 0.0 and -0.0, 1 and 1.0 and True equal.
    assert repr(back) == repr(record)
    assert back.trial.key == record.trial.key


def test_keys_tell_trials_apart():
    trial = Trial("tune", "adamw", "thalweg.AdamW", {"lr": 0.1, "betas": (0.9, 0.99)}, {"lr": 0.1}, 3)
    others = [
        Trial("final", "adamw", "thalweg.AdamW", trial.settings, trial.point, 3),
        Trial("tune", "mine", "thalweg.AdamW", trial.settings, trial.point, 3),
        Trial("tune", "adamw", "torch.optim.AdamW", trial.settings, trial.point, 3),
        Trial("tune", "adamw", "thalweg.AdamW", {"lr": 0.2, "betas": (0.9, 0.99)}, trial.point, 3),
        Trial("tune", "adamw", "thalweg.AdamW", trial.settings, trial.point, 4),
    ]
    assert len({t.key for t in [trial, *others]}) == 6
    turned = Trial("tune", "adamw", "thalweg.AdamW", {"betas": (0.9, 0.99), "lr": 0.1}, {"lr": 0.1}, 3)
    assert turned.key == trial.key


def test_records_are_equal_when_all_but_their_timing_is():
    trial = Trial("tune", "adamw", "thalweg.AdamW", {"lr": 0.1}, {"lr": 0.1}, 3)
    record = Record(trial, (), Evaluation(1.0, 2.0), None, None, 8, None)
    timed = Record(trial, (), Evaluation(1.0, 2.0), None, None, 8, Timing(1.0, 2.0, 3.0, (), "here"))
    assert record == timed
    assert record != Record(trial, (), Evaluation(1.0, 3.0), None, None, 8, None)


def test_a_run_that_never_came_back_has_a_record():
    trial = Trial("final", "adamw", "thalweg.AdamW", {"lr": 0.1}, {"lr": 0.1}, 3)
    record = failed(trial, Failure("killed", "the process was killed"))
    assert (record.validation, record.test, record.timing) == (None, None, None)
    assert record.failure == ("killed", "the process was killed", None)


def test_a_file_of_a_run_has_a_name_that_a_disk_takes():
    trial = Trial("tune", "\u6f22" * 300, "thalweg.SGD", {"lr": 0.1}, {"lr": 0.1}, 0)
    other = replace(trial, name="\u6f22" * 301)
    assert len(log_name(trial).encode()) < 200
    assert log_name(trial) != log_name(other)
