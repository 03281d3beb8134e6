"""Sensitivity: what is asked, which runs are due, how far the metric ranges, and the whole of it."""

import json
import math
import re
import zlib
from dataclasses import replace

import numpy as np
import pytest
from samples import Line, Scores, record
from scipy import stats

from thalweg.cli import main
from thalweg.lab import sensitivity, spaces
from thalweg.lab.judging.ranges import over_grid, over_rates
from thalweg.lab.spaces import Axis, Space
from thalweg.lab.study import grid, protocol
from thalweg.lab.study.grid import Factor
from thalweg.lab.study.study import Margin, Settings, Study
from thalweg.lab.sweeping.sensitivity import question
from thalweg.lab.sweeping.sensitivity.answer import Answer
from thalweg.lab.sweeping.sensitivity.picture import draw

ADAMW, RMSPROP, SGD = (spaces.find(name) for name in ("adamw", "rmsprop", "sgd"))
BETA2 = Factor("beta2", (0.9, 0.99, 0.999, 0.9999))
EPS = Factor("eps", (1e-6, 1e-3))


# What is asked


def test_values_are_spread_over_the_range_that_compare_searches():
    assert question.ask(ADAMW, ["beta2"], {}, 4, {}) == (BETA2,)
    assert question.spread(Axis("eps", 1e-8, 1e-2), 4) == (1e-8, 1e-6, 1e-4, 1e-2)
    assert question.spread(Axis("k", 1, 8, integer=True), 3) == (1, 3, 8)
    assert question.spread(Axis("p", 0, 1, scale="linear"), 3) == (0.0, 0.5, 1.0)
    assert question.spread(Axis("d", 0.1, 1, zero=True), 2) == (0, 0.1, 1.0)
    assert question.spread(Axis("n", choices=(True, False)), 9) == (True, False)


def test_values_as_they_are_typed():
    assert question.parse(["0.9,0.99"], ["beta2"]) == {"beta2": [0.9, 0.99]}
    assert question.parse(["eps=1e-8,1", "nesterov=true,none,x"], ["eps", "nesterov"]) == {
        "eps": [1e-8, 1],
        "nesterov": [True, None, "x"],
    }


def test_a_point_holds_its_values_and_searches_the_rate_alone():
    arms = grid.arms(ADAMW, [BETA2, EPS])
    assert len(arms) == 1 + 8
    for space in arms:
        assert [axis.name for axis in space.searched(10_000)] == ["lr"]
    assert arms[0].settings({"lr": 0.1}) == {"lr": 0.1, "betas": (0.9, 0.999)}
    last = grid.at(arms, ADAMW, [BETA2, EPS], (0.9999, 1e-3))
    assert last.settings({"lr": 0.1}) == {"lr": 0.1, "betas": (0.9, 0.9999), "eps": 1e-3}
    assert last.name == "adamw beta2=0.9999, eps=0.001"


def test_the_point_at_the_defaults_is_run_once():
    arms = grid.arms(ADAMW, [BETA2])
    assert len(arms) == 4
    assert grid.at(arms, ADAMW, [BETA2], (0.999,)) is arms[0]
    assert [grid.default_of(ADAMW, name) for name in ("beta1", "eps", "amsgrad")] == [0.9, 1e-8, False]
    assert grid.default_of(RMSPROP, "alpha") == 0.99


def test_the_effective_rate_of_sgd_keeps_its_meaning():
    space = grid.held(SGD, {"momentum": 0.99})
    assert space.settings({"lr / (1 - momentum)": 1.0}) == {"lr": 0.01, "momentum": 0.99}


def test_an_argument_without_a_range_is_fixed():
    [plain, other] = grid.arms(ADAMW, [Factor("amsgrad", (False, True))])
    assert (plain.fixed, other.fixed) == ({}, {"amsgrad": True})


@pytest.mark.parametrize(
    ("names", "values", "count", "named"),
    [
        ([], {}, 4, "of must name one or two"),
        (["beta1", "beta2", "eps"], {}, 4, "of must name one or two"),
        (["beta2", "beta2"], {}, 4, "different"),
        (["lr"], {}, 4, "tuned anew"),
        (["beta3"], {}, 4, "no range for 'beta3', only for beta1, beta2, eps and weight_decay"),
        (["beta2"], {}, 1, "points"),
        (["beta2"], {"beta2": [0.9, 0.9]}, 4, "two different values"),
        (["beta2"], {"eps": [0.9, 0.99]}, 4, "'eps' is not among"),
    ],
)
def test_what_cannot_be_asked_is_named(names, values, count, named):
    with pytest.raises(ValueError, match=re.escape(named)):
        question.ask(ADAMW, names, values, count, {})


# Which runs are due

SETTINGS = Settings(trials=6, seeds=5, margin=Margin(0.5))


def begin(factors=(BETA2,), settings=SETTINGS, workload=None, space=ADAMW) -> Study:
    return Study(workload or Scores(), settings, grid.arms(space, factors))


def complete(study: Study, metric) -> Study:
    while True:
        done = {r.trial.key for r in study.records}
        due = [trial for trial in grid.due(study) if trial.key not in done]
        if not due:
            return study
        study = study.holding([*study.records, *(record(trial, metric(trial)) for trial in due)])


def hill(trial, *, best=0.002, by=None) -> float:
    """Best at the rate `best`, and lower by `by` of the value of beta2."""
    cost = (by or {}).get(round(1 - trial.settings["betas"][1], 12), 0.0)
    return 90.0 - abs(math.log10(trial.settings["lr"] / best)) - cost


def test_every_point_gets_as_many_trials_and_seeds_and_test_is_left_alone():
    made = complete(begin(), hill)
    for space in made.spaces:
        assert len(made.of(space, "tune")) == 6
        assert len(grid.repeats(made, space)) == 5
    assert {r.trial.stage for r in made.records} == {"tune", "repeat"}
    assert len({r.trial.seed for r in made.records if r.trial.stage == "tune"}) == 1
    assert len(made.records) == sum(grid.left(begin())[1])
    assert grid.left(made) == ([0] * 4, [0] * 4)
    assert list(grid.rates(made)) == sorted(r.trial.lr for r in made.of(made.spaces[0], "tune"))
    assert all(len(runs) == 5 for runs in grid.rates(made).values())


def test_a_best_rate_on_the_border_extends_the_range_for_all_alike():
    made = complete(begin(), lambda trial: hill(trial, best=0.3))
    assert len({len(made.of(space, "tune", "extend")) for space in made.spaces}) == 1
    assert len(made.of(made.spaces[0], "extend")) > 0


def test_due_depends_on_the_records_alone_and_not_on_their_order():
    made = complete(begin(), hill)
    assert grid.due(made) == grid.due(made.holding(made.records[::-1]))
    half = made.holding(made.records[:20])
    assert {t.key for t in grid.due(half)} <= {t.key for t in grid.due(made)}


def test_a_point_that_never_finished_is_left_out():
    def metric(trial):
        return None if trial.settings["betas"][1] == 0.9 else hill(trial)

    made = complete(begin(), metric)
    arm = grid.at(made.spaces, ADAMW, [BETA2], (0.9,))
    assert grid.repeats(made, arm) == []
    answer = answered(made)
    assert answer.points[0].metric is None
    assert answer.range.size.mean == pytest.approx(0.0)
    assert "At 1 point no run came to its end" in answer.conditions
    assert draw(answer).plots()


def test_a_comparison_is_as_it_was():
    study = Study(Scores(), Settings(trials=4, seeds=2), [ADAMW, SGD])
    assert [t.stage for t in protocol.due(study)] == ["tune"] * 8


# How far it ranges


def noisy(by, spread=1.0, salt=0):
    """Costs by value of beta2, with noise that depends on the run."""

    def metric(trial):
        noise = np.random.default_rng([salt, zlib.crc32(trial.key.encode())]).normal()
        return hill(trial, by=by) + (spread * noise if trial.stage == "repeat" else 0.0)

    return metric


def test_the_range_is_between_best_and_worst_mean():
    made = complete(begin(), lambda trial: hill(trial, by={0.1: 3.0, 0.01: 1.0}))
    found = over_grid(made, made.spaces).range()
    assert found.size.mean == pytest.approx(3.0)
    assert (found.size.low, found.size.high) == (pytest.approx(3.0), pytest.approx(3.0))
    assert found.worst == "adamw beta2=0.9"


def test_its_ends_are_those_of_the_named_pair_and_of_the_widest():
    made = complete(begin(), noisy({0.1: 2.0}))
    arms = over_grid(made, made.spaces)
    scores = {
        space.name: [
            r.validation.metric for r in sorted(grid.repeats(made, space), key=lambda r: r.trial.seed)
        ]
        for space in made.spaces
    }
    assert arms.named()[1] == "adamw beta2=0.9"
    first, second = (np.array(scores[name]) for name in arms.named())
    assert arms.difference(*arms.named()).mean == pytest.approx(np.mean(first - second))
    t = stats.t.ppf(0.975, 4)
    d = first - second
    assert arms.range().size.low <= max(0.0, d.mean() - t * d.std(ddof=1) / math.sqrt(5)) + 1e-9
    assert (
        arms.range().size.high
        >= max(
            (np.array(a) - b).mean() + t * (np.array(a) - b).std(ddof=1) / math.sqrt(5)
            for a in scores.values()
            for b in scores.values()
            if a is not b
        )
        - 1e-9
    )


def test_the_interval_holds_the_true_range():
    """All equal, and one worse: 40 made-up studies each, of which 5 % may miss."""
    for by, truth in (({}, 0.0), ({0.1: 2.0}, 2.0)):
        held = 0
        for salt in range(40):
            made = complete(begin(settings=replace(SETTINGS, trials=2, seeds=6)), noisy(by, 1.0, salt))
            size = over_grid(made, made.spaces).range().size
            held += size.low <= truth <= size.high
        assert held >= 36


def test_over_rates_is_at_the_defaults():
    made = complete(begin(), hill)
    rates = list(grid.rates(made))
    tried = [90 - abs(math.log10(rate / 0.002)) for rate in rates]
    assert over_rates(made).range().size.mean == pytest.approx(max(tried) - min(tried))


def answered(made: Study, factors=(BETA2,), space=ADAMW, **more) -> Answer:
    from test_report_browser import PROVENANCE

    return Answer(made, space, factors, PROVENANCE, **more)


@pytest.mark.parametrize(
    ("cost", "said"),
    [(3.0, "beta2 matters to AdamW"), (0.2, "beta2 hardly matters"), (0.0, "beta2 hardly matters")],
)
def test_the_headline_follows_the_interval(cost, said):
    answer = answered(complete(begin(), lambda trial: hill(trial, by={0.1: cost})))
    assert said in answer.headline
    assert f"{cost:.2f} points" in answer.sentence
    assert "the margin is 0.5 points" in answer.sentence


def test_without_seeds_to_tell_it_says_so():
    answer = answered(complete(begin(), noisy({0.1: 0.5}, 3.0)))
    assert "cannot be told" in answer.headline
    begun = answered(begin(), finished=False)
    assert "not known yet" in begun.headline
    assert begun.range is None
    assert "Not all runs were made" in begun.conditions
    assert begun.table()
    assert begun.html()


def test_a_gain_over_the_defaults_is_measured_on_fresh_seeds():
    answer = answered(complete(begin(), lambda trial: hill(trial, by={0.1: -2.0})))
    assert "Best in tuning was beta2=0.9: 2.00 points better than the defaults" in answer.sentence


def test_two_hyperparameters_are_a_map_with_the_defaults_beside_it():
    answer = answered(complete(begin((BETA2, EPS)), hill), (BETA2, EPS))
    assert len(answer.points) == 9
    assert [p.is_default for p in answer.points] == [False] * 8 + [True]
    [heat] = draw(answer).views[""].data
    assert np.shape(heat.z) == (4, 2)
    assert heat.text[0][0] == "<b>89.69</b><br>0.00099"
    document = json.loads(answer.to_json())
    assert document["factors"][1] == {"name": "eps", "values": [1e-6, 1e-3]}
    assert len(document["points"]) == 9


# The whole


def test_from_python_and_again_from_the_storage(tmp_path):
    said = {"trials": 2, "seeds": 3, "workers": 1, "progress": False, "storage": tmp_path / "study.db"}
    first = sensitivity(Line(), "momentum", "sgd", values={"momentum": [0.0, 0.9]}, **said)
    again = sensitivity(Line(), "momentum", "sgd", values={"momentum": [0.0, 0.9]}, **said)
    assert (first.provenance.found, again.provenance.found) == (0, len(first.study.records))
    assert first.study.records == again.study.records
    assert first.finished
    assert [point.is_default for point in first.points] == [False, True]
    assert all(r.test is None for r in first.study.records)


def run(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["sensitivity", *arguments])
    return exit_.value.code, *capsys.readouterr()


def test_the_command(capsys, task_file, tmp_path):
    out = tmp_path / "out"
    few = ["--trials", "2", "--seeds", "2", "--workers", "1", "--out", str(out)]
    code, said, _ = run(
        capsys, str(task_file()), "--of", "alpha", "--optimizer", "rmsprop", "--points", "2", *few
    )
    assert code == 0
    assert re.search(r"alpha +validation +95 % interval +best lr", said)
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "results.json", "study.db"]
    assert json.loads((out / "results.json").read_text())["complete"]


def test_where_every_run_failed_the_page_is_written_and_the_status_is_1(capsys, task_file, tmp_path):
    file, out = task_file(), tmp_path / "out"
    file.write_text(
        file.read_text().replace(
            "        return (model(inputs) - targets)",
            "        model.seen = getattr(model, 'seen', 0) + 1\n"
            "        return (1.0 if model.seen == 1 else torch.nan) * (model(inputs) - targets)",
        )
    )
    asked = ["--of", "alpha", "--optimizer", "rmsprop", "--points", "2", "--trials", "1", "--seeds", "2"]
    code, said, err = run(capsys, str(file), *asked, "--workers", "1", "--out", str(out))
    assert code == 1
    assert err.splitlines()[-1] == "thalweg: every run failed; report.html says how"
    assert "How much alpha matters to RMSprop on small is not known yet." in said
    assert json.loads((out / "results.json").read_text())["complete"]
    assert (out / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["digits"], ["--of"]),
        (["digits", "--of", "beta9"], ["--of", "'beta9'", "--values"]),
        (["digits", "--of", "lr"], ["--of", "tuned anew"]),
        (["digits", "--of", "eps", "--points", "1"], ["--points", "2"]),
        (["digits", "--of", "eps", "--of", "beta2", "--values", "1,2"], ["--values", "eps=1,2"]),
        (["digits", "--of", "eps", "--trials", "0"], ["--trials", "1"]),
        (["digits", "--of", "eps", "--optimizer", "adamx"], ["--optimizer", "'adamx'"]),
        (["mnist", "--of", "eps"], ["'mnist'"]),
    ],
)
def test_the_command_refuses_in_one_line_and_writes_nothing(capsys, tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"thalweg: [^\n]+\n", err)
    assert all(name in err for name in named), err
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_the_optimizer_refuses_is_told_before_the_first_run():
    space = Space("adamw", "thalweg.AdamW", ADAMW.axes, arguments=ADAMW.arguments)
    with pytest.raises(ValueError, match=r"beta2=2.*betas"):
        sensitivity(
            Line(), "beta2", space, values={"beta2": [0.9, 2]}, trials=2, seeds=2, workers=1, progress=False
        )
