"""A landscape is what the loss is at the weights that it names."""

import gzip
import json
import math
import re
from dataclasses import replace

import pytest
import torch
from lessons import write
from samples import Line
from typer.testing import CliRunner

from thalweg.cli.app import made
from thalweg.lab.lesson import arms, experiments, keeping, landscape
from thalweg.lab.lesson.claims import r_minus_1
from thalweg.lab.lesson.experiment import SEED
from thalweg.lab.lesson.landscape import file, measuring
from thalweg.lab.lesson.landscape.lines import lines
from thalweg.lab.lesson.landscape.names import round_losses
from thalweg.lab.lesson.landscape.planes import planes
from thalweg.lab.lesson.landscape.rates import DEFAULTS, rate_of
from thalweg.lab.running.training import Training
from thalweg.lab.running.trial import run
from thalweg.lab.study.extension import trial_of


class Points(Line):
    """A line through noisy points under a name that a landscape may have."""

    name = "digits"
    title = "made-up results"


SMALL = measuring.Size(grid=5, line=5, batches=3, kept=4)
RATES = {"sgd-momentum": 0.02, "adam": 0.05, "rmsprop": 0.03}


@pytest.fixture(scope="module")
def small():
    rates = {name: (rate, "a default, not tuned") for name, rate in RATES.items()}
    return measuring._measured(Points(), SMALL, rates, lambda text: None)


def loss_at(weights) -> list[float]:
    """The losses of the batches that a landscape is measured on, by hand."""
    workload = Points()
    model = workload.model(SEED)
    torch.nn.utils.vector_to_parameters(torch.as_tensor(weights, dtype=torch.float32), model.parameters())
    batches = list(workload.batches(measuring.LOSS_SEED))[: SMALL.batches]
    return [workload.loss(model, batch).item() for batch in batches]


def trained(space, steps: int) -> torch.Tensor:
    """The weights after some steps of the lab's training."""
    workload = Points()
    torch.manual_seed(SEED)
    model = workload.model(SEED)
    training = Training(workload, model, space, space.settings({"lr": RATES[space.name]}), SEED)
    for _, _ in zip(range(steps), training.steps(), strict=False):
        pass
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach().double()


def test_runs_share_their_start_and_end_where_runs_of_the_lab_end(small):
    assert len({course.losses[0] for course in small.courses}) == 1
    assert small.courses[0].losses[0] == pytest.approx(sum(loss_at(trained(arms.ADAM, 0))) / 3, rel=1e-5)
    for space, course in zip(measuring.ARMS, small.courses, strict=True):
        record = run(trial_of("tune", space, {"lr": RATES[space.name]}, SEED), Points(), space=space)
        assert course.metric == pytest.approx(record.validation.metric, rel=1e-6)
        assert course.losses[-1] == pytest.approx(sum(loss_at(trained(space, 40))) / 3, rel=1e-5)
        assert (course.steps[0], course.steps[-1]) == (0, Line.steps)


def test_a_plane_holds_the_start_both_ends_and_the_loss_between(small):
    start, first, second = (
        trained(s, n) for s, n in ((arms.ADAM, 0), (arms.SGD_MOMENTUM, 40), (arms.ADAM, 40))
    )
    view = small.views[0]
    assert view.ends == ["sgd-momentum", "adam"]
    (x, y), (u, v) = (view.paths[name][-1] for name in view.ends)
    assert x == pytest.approx(float((first - start).norm()), rel=1e-4)
    assert y == pytest.approx(0, abs=1e-6)
    assert math.hypot(u, v) == pytest.approx(float((second - start).norm()), rel=1e-4)
    # Any point of the plane is a sum of the two ways.
    for column, row in ((0, 0), (4, 1), (2, 3)):
        px, py = view.xs[column], view.ys[row]
        b = py / v
        a = (px - b * u) / x
        losses = loss_at(start + a * (first - start) + b * (second - start))
        assert view.losses[row][column] == pytest.approx(sum(losses) / 3, rel=1e-3)


def test_the_third_run_is_as_far_off_as_it_says(small):
    for view in small.views:
        (third,) = set(view.paths) - set(view.ends)
        assert view.distances[view.ends[0]][-1] == pytest.approx(0, abs=1e-5)
        shown, off = view.paths[third][-1], view.distances[third][-1]
        assert view.shares[third][-1] == pytest.approx(off / math.hypot(*shown, off), rel=1e-4)


def test_sharpness_is_that_of_a_quadratic(small):
    """The loss is a square of a line, so its Hessian is that of the inputs alone, at any weights."""
    inputs = torch.cat([x for x, _ in list(Points().batches(measuring.LOSS_SEED))[: SMALL.batches]]).double()
    one = torch.cat([inputs, torch.ones(len(inputs), 1)], dim=1)
    top = float(torch.linalg.eigvalsh(2 * one.T @ one / len(one))[-1])
    for value in (small.start, *(course.sharpness for course in small.courses)):
        assert value == pytest.approx(top, rel=0.02)
    for between in small.lines:
        assert between.height == 0, "a convex loss has no barrier"


def test_a_file_gives_back_what_counts_and_is_refused_when_damaged(small, tmp_path):
    path = file.write(tmp_path, small)
    assert path.name == "landscape-digits.json.gz"
    kept = file.read(tmp_path, "digits")
    assert kept.courses[1].line == small.courses[1].line
    assert kept.views[2].losses[1][2] == pytest.approx(small.views[2].losses[1][2], rel=5e-3)
    assert file.write(tmp_path, kept).read_bytes() == path.read_bytes()
    assert file.read(tmp_path, "text") is None
    path.write_bytes(gzip.compress(json.dumps({"schema": 99}).encode()))
    with pytest.raises(ValueError, match="schema 1"):
        file.read(tmp_path, "digits")
    path.write_bytes(b"no")
    with pytest.raises(ValueError, match=re.escape(path.name)):
        file.read(tmp_path, "digits")


def test_what_is_not_finite_is_kept_as_missing(small, tmp_path):
    view = replace(small.views[0], losses=[[math.nan, *row[1:]] for row in small.views[0].losses])
    file.write(tmp_path, replace(small, views=[view]))
    kept = file.read(tmp_path, "digits")
    assert kept.views[0].losses[0][0] is None
    assert planes(kept).views["SGD and Adam"].data[0].z[0][0] is None


def test_the_picture_says_what_it_is_not(small):
    figure = planes(small)
    assert list(figure.views) == ["SGD and Adam", "SGD and RMSprop", "Adam and RMSprop"]
    assert "2 of 3 dimensions" in figure.caption
    off = 100 * small.views[0].shares["rmsprop"][-1]
    assert f"RMSprop ends {off:.0f} % off the plane of the two others" in figure.caption
    assert f"training loss SGD {small.courses[0].losses[-1]:.3g}" in figure.title
    assert "not tuned" in figure.caption


def test_the_slider_moves_a_mark_of_each_run_along_its_path(small):
    view, plot = small.views[0], planes(small).views["SGD and Adam"]
    (slider,) = plot.layout.sliders
    assert [step.label for step in slider.steps] == [str(step) for step in small.courses[0].steps]
    (values, marks), course = slider.steps[2].args, 1
    assert values["x"][course] == pytest.approx([view.paths["adam"][2][0]], rel=1e-5)
    assert values["y"][course] == pytest.approx([view.paths["adam"][2][1]], rel=1e-5)
    assert [plot.data[mark].x[0] for mark in marks] == [plot.data[mark].x[0] for mark in (-3, -2, -1)]


def test_lines_show_barriers_and_sharpness(small):
    figure = lines(small)
    assert "SGD to Adam 0 ± 0" in figure.title
    assert f"start {small.start:.3g}, SGD {small.courses[0].sharpness:.3g}" in figure.caption


def test_an_axis_has_round_numbers_however_narrow_it_is():
    assert round_losses(math.log10(0.06), math.log10(3.3)) == [0.1, 0.3, 1.0, 3.0]
    assert round_losses(math.log10(4.4), math.log10(23)) == [5.0, 10.0, 20.0]
    assert round_losses(math.log10(4.44), math.log10(4.85)) == [4.6, 4.8]


def test_rates_are_the_best_of_the_records(tmp_path):
    sweep = experiments.SWEEPS["digits"]
    assert rate_of(tmp_path, Points(), arms.ADAM) == (DEFAULTS["adam"], "a default, not tuned")
    write(tmp_path, sweep, lambda trial: 90 - abs(math.log10(trial.lr) + 3) - trial.seed % 2)
    kept = keeping.read(tmp_path, sweep)
    workload = Points()
    for name in ("name", "title", "metric", "steps", "batch_size", "higher_is_better"):
        setattr(workload, name, kept.workload[name])
    assert rate_of(tmp_path, workload, arms.ADAMW) == (0.001, "the best on validation of 13 tried")
    assert rate_of(tmp_path, workload, arms.RMSPROP)[0] == DEFAULTS["rmsprop"], "it has no runs"
    (grid, _) = r_minus_1.GRIDS
    write(
        tmp_path, grid, lambda trial: 90 - abs(math.log10(trial.lr) + 2) - (trial.settings["alpha"] != 0.99)
    )
    assert rate_of(tmp_path, workload, arms.RMSPROP)[0] == 0.01, "whose grid names the default of alpha"
    workload.steps += 1
    assert rate_of(tmp_path, workload, arms.SGD_MOMENTUM)[1] == "a default, not tuned"


def test_the_command_measures_and_the_report_shows_it(tmp_path):
    done = CliRunner().invoke(
        made(), ["lesson", "landscape", "--workload", "digits", "--quick", "--out", str(tmp_path)]
    )
    assert done.exit_code == 0, done.output
    path = tmp_path / "landscape-digits-quick.json.gz"
    assert done.stdout.splitlines()[-1] == f"wrote {path}"
    assert path.stat().st_size < 10_000
    done = CliRunner().invoke(made(), ["lesson", "report", "--quick", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    html = (tmp_path / "quick.html").read_text(encoding="utf-8")
    assert re.findall(r'<figure id="([\w-]+)"', html) == ["planes-digits", "lines-digits"]


def test_an_unknown_workload_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown workload 'x'; there are: digits, text"):
        landscape.measure(tmp_path, "x")
