"""The benchmark command: that it measures what it says; never how fast."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from thalweg.bench import command, measure, shapes, sides, startup, steps, training, update, verifying_updates
from thalweg.bench.cases import Case, make_params
from thalweg.bench.rivals import ADAMW, ALGORITHMS


def test_resnet50_has_its_parameters():
    # 161 tensors and 25,557,032 elements, as in torchvision's model.
    assert len(shapes.resnet50()) == 161
    assert sum(steps.torch.Size(shape).numel() for shape in shapes.resnet50()) == 25_557_032


def test_both_sides_are_run_as_often_and_in_turns():
    calls = []
    result = measure.in_turns(lambda: calls.append("a"), lambda: calls.append("b"), seconds=0, least=10)
    assert result.turns == 10
    assert calls.count("a") == calls.count("b") == 12
    # Each turn has both; which of them comes first changes.
    turns = [tuple(calls[i : i + 2]) for i in range(4, len(calls), 2)]
    assert set(turns) == {("a", "b"), ("b", "a")}


def test_the_limit_moves_the_memory_of_the_step():
    params = steps._params([(1000,)])
    ours = steps.CONTESTS[2].ours(params)
    ours.step()
    before = {name: value.clone() for name, value in ours.state[params[0]].items()}
    share, bandwidth = steps._memory_limit(steps.CONTESTS[2], ours, params, seconds=0)
    assert share > 0
    assert bandwidth > 0
    changed = [name for name, value in ours.state[params[0]].items() if not value.equal(before[name])]
    assert {"square_avg", "grad_avg", "momentum_buffer"} <= set(changed)


def small_mlp():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)), torch.randn(4, 8)


@pytest.mark.parametrize("make", training.NETWORKS.values(), ids=training.NETWORKS)
def test_every_network_is_trained(make):
    params = []
    training.training_step(make, lambda own: params.extend(own) or torch.optim.SGD(own, lr=0.1))()
    assert params
    assert all(p.grad.abs().sum() > 0 for p in params)


def test_the_command_prints_and_writes_every_figure(tmp_path, monkeypatch):
    small = {name: [(8,), (3, 3)] for name in shapes.SETS}
    monkeypatch.setattr(steps, "SETS", {**small, "one 50M tensor": [(64,)]})
    monkeypatch.setattr(update, "SETS", steps.SETS)
    monkeypatch.setattr(steps, "CONTESTS", steps.CONTESTS[2:4])
    monkeypatch.setattr(update, "ALGORITHMS", (ADAMW,))
    monkeypatch.setattr(training, "NETWORKS", {"MLP": small_mlp})
    monkeypatch.setattr(update, "NETWORKS", training.NETWORKS)
    monkeypatch.setattr(startup, "measure", lambda: [startup.StartupResult("import", 0.02, 0.05)])
    lines, out = [], tmp_path / "below" / "figures.json"
    command.run(command.check(command.PARTS, 0.01, out), lines.append)
    figures = json.loads(out.read_text())
    assert len(figures["steps"]) == 2 * 4
    assert [row["limit"] is not None for row in figures["steps"]].count(True) == 1
    assert [one["optimizer"] for one in figures["training"]] == [*training.PAIRS, training.IN_BACKWARD]
    assert len(figures["update"]) == 5 + 1
    assert [row["limit"] is not None for row in figures["update"]].count(True) == 2
    assert all(row["norm"] > sides.MAX_NORM for row in figures["update"]), "clipped"
    assert figures["startup"] == [{"what": "import", "seconds": 0.02, "goal": 0.05}]
    asked = sum(len(rows) for rows in figures.values() if isinstance(rows, list))
    assert sum("goal" in line for line in lines) == asked


@pytest.mark.parametrize("contest", steps.CONTESTS, ids=lambda contest: contest.name)
def test_every_contest_steps_both_sides(contest):
    assert len(steps.GOALS[contest.name]) == len(shapes.SETS)
    params = steps._params([(64,), (3, 3)])
    before = [p.detach().clone() for p in params]
    theirs = contest.torch(params)
    theirs.step()
    steps.sharing(contest.ours(params), theirs).step()
    assert not any(map(torch.equal, before, params))


@pytest.mark.parametrize("storage", sides.STORAGES, ids=lambda s: s.name)
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: a.name)
def test_a_wrong_update_is_found_before_anything_is_measured(algorithm, storage):
    verifying_updates.verify(algorithm, storage, torch.device("cpu"))
    for part, option in (("weights", {"max_norm": None}), ("averages", {"average_every": 2})):
        wrong = replace(storage, options={**storage.options, **option})
        with pytest.raises(ArithmeticError, match=f"wrong {part}"):
            verifying_updates.verify(algorithm, wrong, torch.device("cpu"))


@pytest.mark.parametrize("storage", sides.STORAGES, ids=lambda s: s.name)
def test_both_updates_are_of_the_same_weights_and_gradients(storage):
    case = Case(ADAMW, storage, "some", [(6400,)])
    (param,) = params = make_params(case, torch.device("cpu"))
    fresh = param.grad.clone()
    pair = sides.both(case, params)
    pair.theirs.step()
    assert pair.theirs.norm > sides.MAX_NORM
    assert not param.grad.equal(fresh)
    pair.refill()
    assert param.grad.equal(fresh)
    before = param.detach().clone()
    pair.ours.step()
    assert not param.equal(before)
    assert param.grad.equal(fresh)
    # Two slots with two bytes for each block of 64, read and written.
    moved = 40 if storage is sides.FLOAT32 else 24 + 2 * 2 * 2 / 64
    assert sides.bytes_of(pair) == (moved * 6400, 52 * 6400)


@pytest.mark.parametrize(
    ("parts", "seconds", "out", "message"),
    [
        (["stesp"], 1.0, None, "unknown part 'stesp'; choose from: steps, training, update, startup"),
        (["steps"], 0.0, None, "--seconds must be a finite number above 0, not 0"),
        (["steps"], float("nan"), None, "--seconds"),
        (["steps"], 1.0, "/dev/null/x/figures.json", "--out: cannot write"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_measured(parts, seconds, out, message):
    with pytest.raises(ValueError, match=message):
        command.check(parts, seconds, Path(out) if out else None)
