"""The benchmark command: that it measures what it says; never how fast."""

import json
from pathlib import Path

import pytest

from thalweg.bench import command, measure, shapes, startup, steps, training


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


def test_the_command_prints_and_writes_every_figure(tmp_path, monkeypatch):
    small = {name: [(8,), (3, 3)] for name in shapes.SETS}
    monkeypatch.setattr(steps, "SETS", {**small, "one 50M tensor": [(64,)]})
    monkeypatch.setattr(training, "NETWORKS", {"MLP": training._mlp})
    monkeypatch.setattr(startup, "measure", lambda: [startup.StartupResult("import", 0.02, 0.05)])
    lines, out = [], tmp_path / "below" / "figures.json"
    command.run(command.check(command.PARTS, 0.01, out), lines.append)
    figures = json.loads(out.read_text())
    assert len(figures["steps"]) == 24
    assert [row["limit"] is not None for row in figures["steps"]].count(True) == 3
    assert len(figures["training"]) == 2
    assert figures["startup"] == [{"what": "import", "seconds": 0.02, "goal": 0.05}]
    assert sum("goal" in line for line in lines) == 27


@pytest.mark.parametrize(
    ("parts", "seconds", "out", "message"),
    [
        (["stesp"], 1.0, None, "unknown part 'stesp'; choose from: steps, training, startup"),
        (["steps"], 0.0, None, "--seconds must be a finite number above 0, not 0"),
        (["steps"], float("nan"), None, "--seconds"),
        (["steps"], 1.0, "/dev/null/x/figures.json", "--out: cannot write"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_measured(parts, seconds, out, message):
    with pytest.raises(ValueError, match=message):
        command.check(parts, seconds, Path(out) if out else None)
