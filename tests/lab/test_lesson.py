import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from lessons import ACCURACY, made, write

from thalweg.lab.lesson import keeping, known, wording
from thalweg.lab.lesson.claim import shared
from thalweg.lab.lesson.claims import catalogue, chosen
from thalweg.lab.lesson.experiment import SEEDS, STEPS_TO_LOSS
from thalweg.lab.lesson.found import expected_best, swept, width
from thalweg.lab.lesson.making import missing
from thalweg.lab.lesson.page.markdown import tables
from thalweg.lab.lesson.page.marks import number
from thalweg.lab.lesson.page.verdicts import from_margin, picture
from thalweg.lab.lesson.plans import FACTORS, RATES, ends_of, factorial_cells, sweep
from thalweg.lab.study import protocol

CLAIMS = catalogue()
MEASURED = [name for name, claim in CLAIMS.items() if claim.exact is None]


def sgd_is_slower(trial):
    """Steps: best in the middle of the range; SGD without momentum three times as many."""
    low = 1e-3 if trial.name == "sgd" else 1e-4
    away = abs(math.log10(trial.lr / low) - 2)
    return (30.0 + trial.seed % 7) * (3.0 if trial.name == "sgd" else 1.0) * (1 + away)


def read_as_steps(record):
    """A record whose metric is the step at which it met its loss."""
    value = record.test or record.validation
    return replace(record, met=round(value.metric)) if value else record


def with_further(record):
    """A record whose task has told the loss on rare ids beside its metric."""
    return replace(record, further={"test": {"rarest": 2 * record.test.metric}}) if record.test else record


def test_every_claim_is_there_once():
    assert len({claim.says for claim in CLAIMS.values()}) == len(CLAIMS)
    for name, claim in CLAIMS.items():
        assert claim.name == name
        assert (claim.exact is None) == (claim.scale is not None)
        assert claim.exact or claim.experiments
    assert shared(list(CLAIMS.values()))


def test_claims_are_found_by_name():
    assert [claim.name for claim in chosen(["r-2", "S+3"])] == ["S+3", "R-2"]
    assert len(chosen([])) == len(CLAIMS)
    with pytest.raises(ValueError, match=r"unknown claim 'X'; there are: S\+1"):
        chosen(["X"])


@pytest.mark.parametrize("name", MEASURED)
def test_a_claim_has_its_endpoint_on_every_seed(name, tmp_path):
    claim = CLAIMS[name]

    def result(trial):
        seen = sum(map(ord, trial.name)) % 11
        return 50.0 + seen + trial.seed % 5 - abs(math.log10(trial.lr))

    for experiment in claim.needed.values():
        change = read_as_steps if experiment.reading else with_further
        write(tmp_path, experiment, result, change=change)
    (found,) = known.look(tmp_path, [claim])
    assert len(found.values) == SEEDS
    assert all(map(math.isfinite, found.values.values()))
    assert found.verdict.kind != "not run"
    assert not found.open
    assert claim.scale.unit in wording.finding(found)
    assert all(line.text for line in claim.secondary(found.found))
    for remedy in claim.remedies:
        closed = found.closed(remedy)
        assert closed is not None
        assert closed.seeds == (SEEDS if claim.exact is None else 1)


@pytest.mark.parametrize(("times", "kind"), [(3.0, "supported"), (1.0, "refuted"), (1.45, "inconclusive")])
def test_momentum_is_what_the_records_say(times, kind, tmp_path):
    claim = CLAIMS["S+3"]

    def result(trial):
        luck = 1 + 0.3 * math.sin(trial.seed % 97) * (trial.name == "sgd")
        return (300.0 + trial.seed % 9) * (times * luck if trial.name == "sgd" else 1.0)

    for experiment in claim.needed.values():
        write(tmp_path, experiment, result, change=read_as_steps)
    (found,) = known.look(tmp_path, [claim])
    assert found.verdict.kind == kind
    mean = math.exp(sum(found.values.values()) / SEEDS)
    assert f"{mean:.2f} times the steps" in wording.finding(found)


def test_a_claim_with_half_its_runs_is_not_run(tmp_path):
    claim = CLAIMS["S+3"]
    experiment = claim.experiments[0]
    whole = made(experiment, sgd_is_slower, read_as_steps)
    keeping.write(tmp_path, experiment, replace(whole, records=whole.records[:-1]))
    (found,) = known.look(tmp_path, [claim])
    assert found.verdict.kind == "not run"
    assert experiment in found.open
    assert "not run yet" in wording.finding(found)


def test_exact_claims_are_counted():
    for name in ("S+1", "A-2"):
        (found,) = known.look(Path("nowhere"), [CLAIMS[name]])
        assert found.verdict.kind == "supported"
    assert "Adam keeps 8.00 bytes a parameter, 2.00 times" in found.counted.text


def test_files_come_back_bit_for_bit(tmp_path):
    experiment = CLAIMS["R-2"].experiments[0]
    whole = made(experiment, sgd_is_slower, read_as_steps)
    path = keeping.write(tmp_path, experiment, whole)
    first = path.read_bytes()
    assert keeping.read(tmp_path, experiment).records == whole.records
    keeping.write(tmp_path, experiment, keeping.read(tmp_path, experiment))
    assert path.read_bytes() == first
    assert missing(experiment, keeping.read(tmp_path, experiment)) == []
    assert keeping.read(tmp_path, replace(experiment, name="other")) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", gzip.compress(b"[1]"), gzip.compress(json.dumps({"schema": 9}).encode())],
    ids=["empty", "not packed", "no object", "another schema"],
)
def test_a_damaged_file_is_named(tmp_path, content):
    experiment = CLAIMS["R-2"].experiments[0]
    path = keeping.path_of(tmp_path, experiment)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"deep-512\.json\.gz"):
        keeping.read(tmp_path, experiment)


def test_what_is_read_of_a_run_steers_the_search():
    experiment = CLAIMS["R-2"].experiments[0]
    assert experiment.reading is STEPS_TO_LOSS
    kept = made(experiment, sgd_is_slower, read_as_steps)
    study = keeping.study_of(experiment, kept)
    assert not study.workload.higher_is_better
    chosen_runs = {space.name: protocol.chosen(study, space) for space in study.spaces}
    for record in chosen_runs.values():
        tried = [
            r.validation.metric
            for r in study.tuning_of(next(s for s in study.spaces if s.name == record.trial.name))
        ]
        assert record.validation.metric == min(tried)


def test_a_run_that_never_met_its_loss_counts_as_twice_its_steps():
    experiment = CLAIMS["R-2"].experiments[0]
    kept = made(experiment, lambda trial: 50.0)
    study = keeping.study_of(experiment, kept)
    assert {r.test.metric for r in study.records if r.test} == {2.0 * ACCURACY["steps"] + 1.0}


def test_a_sweep_takes_every_rate_on_every_seed():
    experiment = CLAIMS["S-1"].experiments[0]
    study = keeping.study_of(experiment, made(experiment, lambda trial: 80.0))
    for space in study.spaces:
        runs = swept(study, space.name)
        assert len(runs) == SEEDS
        for records in runs.values():
            rates = [r.trial.lr for r in records]
            assert rates == sweep(space.axes[0], RATES)
            assert rates[0] == pytest.approx(space.axes[0].low)
            assert rates[-1] == pytest.approx(space.axes[0].high)


def test_width_is_that_of_a_known_curve():
    experiment = CLAIMS["S-1"].experiments[1]

    def roof(trial):
        low = {"sgd-momentum": 1e-4}.get(trial.name, 1e-5)
        away = abs(math.log10(trial.lr / low) - 2)
        return (
            None
            if trial.name == "adam" and away > 0.5
            else 90.0 - away * (2.0 if trial.name == "adamw" else 1.0)
        )

    study = keeping.study_of(experiment, made(experiment, roof))
    # The margin is half a point: a roof of slope 1 is within it for a decade, of slope 2 for half of one.
    assert list(width(study, "sgd-momentum").values()) == [pytest.approx(1.0, abs=0.01)] * SEEDS
    assert list(width(study, "adamw").values()) == [pytest.approx(0.5, abs=0.01)] * SEEDS
    # Where it fails is outside, so the range ends at the last rate that works.
    assert list(width(study, "adam").values()) == [pytest.approx(2 / 3, abs=0.01)] * SEEDS


def test_the_best_of_two_is_the_mean_over_all_pairs():
    experiment = CLAIMS["A+1"].experiments[0]
    rates = sweep(next(a for a in experiment.arms if a.name == "adam").axes[0], RATES)

    def result(trial):
        return (
            10.0 + sweep(experiment.arms[0].axes[0], RATES).index(trial.lr)
            if trial.name == "sgd-momentum"
            else float(rates.index(trial.lr))
            if trial.lr in rates
            else 0.0
        )

    study = keeping.study_of(experiment, made(experiment, result))
    pairs = [max(i, j) for i in range(RATES) for j in range(i)]
    (expected,) = set(expected_best(study, "adam", 2).values())
    assert expected == pytest.approx(sum(pairs) / len(pairs))
    (one,) = set(expected_best(study, "adam", 1).values())
    assert one == pytest.approx(sum(range(RATES)) / RATES)


def test_the_ends_of_a_grid_are_named_in_tuning_and_measured_on_fresh_seeds():
    experiment = CLAIMS["R-1"].experiments[0]

    def result(trial):
        alpha = float(trial.name.partition("=")[2])
        return 90.0 + alpha - abs(math.log10(trial.lr) + 3)

    study = keeping.study_of(experiment, made(experiment, result))
    assert ends_of(study) == ("rmsprop alpha=0.9999", "rmsprop alpha=0.5")
    finals = {r.trial.name for r in study.records if r.trial.stage == "final"}
    assert finals == {"rmsprop alpha=0.99", "rmsprop alpha=0.9999", "rmsprop alpha=0.5"}
    assert len({r.trial.seed for r in study.records if r.trial.stage == "tune"}) == 1


def test_shares_of_a_factorial_are_those_of_its_construction():
    from thalweg.lab.lesson.claims.g1 import FACTORIALS, shares

    experiment = FACTORIALS[0]
    places = {"thalweg.SGD": 0.0, "thalweg.RMSprop": 1.0, "thalweg.Adam": 2.0}

    def result(trial):
        if trial.stage != "final":
            return 100.0 * (1 + abs(math.log10(trial.lr) + 3))
        return math.exp(5 + places[trial.optimizer])

    kept = made(experiment, result, read_as_steps)
    study = keeping.study_of(experiment, kept)
    cells = factorial_cells(study)
    assert len(cells) == SEEDS
    assert all(len(of_seed) == 3 * 3 * len(FACTORS) for of_seed in cells.values())
    for optimizer, rate, schedule in shares(study).values():
        assert optimizer == pytest.approx(1.0, abs=1e-3)
        assert rate == pytest.approx(0.0, abs=1e-6)
        assert schedule == pytest.approx(0.0, abs=1e-6)


def test_the_tables_and_their_picture_are_those_of_the_records():
    folder = Path(__file__).parents[2] / "docs/lesson"
    told = known.look(folder)
    written = (folder / "README.md").read_text(encoding="utf-8")
    assert written == tables(told), "thalweg lesson report writes them anew"
    assert all(wording.finding(one) in written for one in told if one.verdict.kind != "not run")
    _, _, remedies = written.partition("## Remedies")
    assert remedies.strip() in (folder.parent / "remedies.md").read_text(encoding="utf-8"), "the same table"
    drawn = (folder / "verdicts.svg").read_text(encoding="utf-8")
    assert drawn == picture(told), "thalweg lesson report draws it anew"
    measured = [one for one in told if one.claim.scale is not None and math.isfinite(one.verdict.low)]
    assert drawn.count("<circle ") == len(measured) > 10
    for one in measured:
        assert f">{number(one)}</text>" in drawn
        low, high = (from_margin(end, one.claim.scale) for end in (one.verdict.low, one.verdict.high))
        assert low > 0 or one.verdict.kind != "supported"
        assert (high < 0) == (one.verdict.kind == "refuted")


@pytest.mark.parametrize(("times", "kind"), [(3.0, "supported"), (1.0, "refuted")])
def test_the_tables_change_with_the_records(times, kind, tmp_path):
    for experiment in CLAIMS["R-2"].needed.values():
        write(
            tmp_path,
            experiment,
            lambda trial: (300.0 + trial.seed % 9) * (times if trial.name == "rmsprop" else 1),
            change=read_as_steps,
        )
    lines = tables(known.look(tmp_path)).splitlines()
    assert kind in next(line for line in lines if line.startswith("| R-2 | RMSprop lacks"))
