import os
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from thalweg.cli import main
from thalweg.lab.memory import memory
from thalweg.lab.memory.command import bars
from thalweg.lab.workload import models, shipped

MODELS = """
import torch
from torch import nn

def small():
    return nn.Linear(10, 10)

class Task:
    steps = batch_size = evaluate_every = 1
    def model(self, seed): return nn.Linear(20, 20)
    def batches(self, seed): yield
    def loss(self, model, batch): pass
    def evaluate(self, model, split): pass

made = nn.Linear(30, 30)
number = 3

def needy(size):
    return nn.Linear(size, size)

def broken():
    raise RuntimeError("no luck")
"""


PARTS = ["weights", "gradients", "state"]


def run(capsys, *arguments) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["memory", *arguments])
    return exit_.value.code, *capsys.readouterr()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("footprint_models", "footprint_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "footprint_models.py").write_text(MODELS)
    (tmp_path / "footprint_broken.py").write_text("import torch\n\n1 / 0\n")
    return tmp_path


@pytest.mark.parametrize("name", shipped.WORKLOADS)
def test_a_built_in_task_needs_no_data(monkeypatch, name):
    monkeypatch.setattr(shipped.kind(name), "__init__", lambda self: pytest.fail("it loaded its data"))
    assert any(p.requires_grad for p in models.find(name).parameters())


@pytest.mark.parametrize(
    ("reference", "parameters"),
    [
        ("digits", 6090),
        ("footprint_models.py:small", 110),
        ("footprint_models.py:made", 930),
        ("footprint_models.py:Task", 420),
        ("footprint_models.py", 420),
        ("footprint_models.small", 110),
        ("footprint_models.made", 930),
        ("torch.nn.Identity", 0),
    ],
)
def test_what_a_user_may_name(folder, reference, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in models.find(reference).parameters()) == parameters


def test_table_bars_and_page(capsys, folder):
    arguments = ["footprint_models.py:made", "--optimizers", "adamw,torch.optim.AdamW", "--state", "int8"]
    code, out, err = run(capsys, *arguments, "--out", "new/memory.html")
    assert (code, err) == (0, "")
    table = out.splitlines()
    assert table[0].split() == ["optimizer", "stored", "as", *PARTS, "total", "bytes/param."]
    assert [line.split()[0] for line in table[1:3]] == ["AdamW", "torch.optim.AdamW"]
    assert re.search(r"AdamW int8 +█+▒+░+ 14\.9", out)
    assert out.endswith("wrote new/memory.html\n")
    assert "thalweg memory footprint_models.py:made" in (folder / "new" / "memory.html").read_text()
    assert [path.name for path in (folder / "new").iterdir()] == ["memory.html"]


def test_bars_are_in_proportion():
    lines = [bar.plain for bar in bars(memory(nn.Linear(300, 300), ["adamw"]), 100, plain=True)]
    counts = [[line.count(sign) for sign in "#=-"] for line in lines[:3]]
    lengths = [sum(count) for count in counts]
    assert lengths[0] == max(lengths) <= 100
    assert counts[0][2] == pytest.approx(2 * counts[0][0], abs=2)
    assert lengths[2] / lengths[0] == pytest.approx(10.03 / 16, abs=0.03)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], ["MODEL_OR_TASK"]),
        (["mnist"], ["MODEL_OR_TASK", "'mnist'", "digits", "my_model.py:name"]),
        (["missing.py:made"], ["missing.py"]),
        (["footprint_models.py:nothing"], ["footprint_models.py", "'nothing'"]),
        (["footprint_models.py:number"], ["MODEL_OR_TASK", "3 (int)", "torch.nn.Module"]),
        (["footprint_models.py:needy"], ["MODEL_OR_TASK", "needs arguments"]),
        (["footprint_models.py:broken"], ["footprint_models.py:22, in broken", "RuntimeError: no luck"]),
        (["footprint_models.broken"], ["footprint_models.py:22, in broken", "RuntimeError: no luck"]),
        (["footprint_broken.py:x"], ["footprint_broken.py:3", "ZeroDivisionError"]),
        (["footprint_broken.x"], ["footprint_broken.py:3", "ZeroDivisionError"]),
        (["footprint_models.nothing"], ["MODEL_OR_TASK", "'footprint_models.nothing'"]),
        (["no_such_package.x"], ["MODEL_OR_TASK", "no_such_package"]),
        (["digits", "--optimizers", "adamx"], ["--optimizers", "'adamx'", "adamw"]),
        (["digits", "--state", "int4"], ["--state", "'int4'", "int8"]),
        (["digits", "--state", ""], ["--state", "''", "int8"]),
        (["digits", "--dtype", "int8"], ["--dtype", "'int8'", "bfloat16"]),
        (["digits", "--weight-bits", "8"], ["--weight-bits", "8", "24"]),
        (["digits", "--weight-bits", "many"], ["--weight-bits", "'many'", "whole number"]),
        (["digits", "--out", "memory.png"], ["--out", "'memory.png'", ".html"]),
        (["digits", "--out", "/dev/null/x.html"], ["--out", "/dev/null/x.html"]),
    ],
)
def test_bad_arguments_get_one_line_and_status_2(capsys, folder, arguments, named):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"thalweg: [^\n]+\n", err)
    assert all(name in err for name in named), err


def test_options_are_checked_before_the_model_is_made(capsys, folder):
    _, _, err = run(capsys, "footprint_models.py:broken", "--state", "int4")
    assert "--state" in err


def test_as_a_program(folder):
    program = [sys.executable, "-c", "from thalweg.cli import main; main()", "memory", "cifar10"]
    letters = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(program, capture_output=True, text=True, env=letters)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert re.search(r"AdamW int8 +#+=+-+ 796 kB", done.stdout)


def test_gradients_that_steps_in_backward_hold(folder, capsys):
    options = ("footprint_models.py:big", "--optimizers", "sgd,torch.optim.SGD", "--state", "int8")
    (folder / "footprint_models.py").write_text(
        "from torch import nn\nbig = nn.Sequential(*(nn.Linear(1000, 1000) for _ in range(4)))\n"
    )
    code, plain, _ = run(capsys, *options)
    assert code == 0
    code, out, _ = run(capsys, *options, "--in-backward")
    assert code == 0
    assert "the most that steps in backward hold" in " ".join(out.split())
    assert "the most" not in plain
    ours, theirs = (line.split() for line in out.splitlines()[1:3])
    assert (ours[3], theirs[4]) == ("8.19", "16.02"), "4 MiB and a layer of 4 MB; torch's own are all held"
