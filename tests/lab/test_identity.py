"""What the records of a comparison depend on, seen and told by name."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from samples import Line

from thalweg.lab import spaces
from thalweg.lab.comparing import choosing, comparison, former
from thalweg.lab.comparing.choosing import Task
from thalweg.lab.comparing.digests import Digests
from thalweg.lab.comparing.identity import changed, identify
from thalweg.lab.comparing.sources import gather, program
from thalweg.lab.comparing.spending import Options
from thalweg.lab.running.checkpoints import Place
from thalweg.lab.running.store import Store
from thalweg.lab.spaces import Axis, Space
from thalweg.lab.study.record import Trial
from thalweg.lab.workload import switches

TWO = [spaces.find(name) for name in ("sgd", "adamw")]


@pytest.fixture
def neighbours(tmp_path, monkeypatch, task_file):
    """A task that imports a package beside it, which imports another module."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = set(sys.modules)
    (tmp_path / "nets_here").mkdir()
    (tmp_path / "nets_here" / "__init__.py").write_text("from .wide import WIDTH\n")
    (tmp_path / "nets_here" / "wide.py").write_text("import far_away\nWIDTH = 4\n")
    (tmp_path / "far_away.py").write_text("DEPTH = 1\n")
    (tmp_path / "late_one.py").write_text("LATE = 1\n")
    (tmp_path / "unrelated.py").write_text("X = 1\n")
    file = task_file(
        more="\n\nimport nets_here\n\n\ndef late():\n    import late_one\n\n    return late_one\n"
    )
    yield tmp_path, file
    for name in set(sys.modules) - before:
        if "here" in name or name in ("far_away", "late_one"):
            del sys.modules[name]


def parts(file, of=TWO):
    task = choosing.find(str(file))
    return identify(task.workload, task.file, of, [2, 2, None, 0]).parts


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [
        ("nets_here/wide.py", "import far_away\nWIDTH = 64\n", "nets_here.wide"),
        ("nets_here/wide.py", '"""Words."""\nimport far_away\n\nWIDTH = 4  # a comment\n', ""),
        ("far_away.py", "DEPTH = 2\n", "far_away"),
        ("late_one.py", "LATE = 2\n", "late_one"),
        ("unrelated.py", "X = 2\n", ""),
    ],
)
def test_a_module_beside_the_task_belongs_to_it_however_far_away(neighbours, name, content, seen):
    folder, file = neighbours
    before = parts(file)
    (folder / name).write_text(content)
    after = parts(file)
    assert changed(before, after) == (f"{seen} changed" if seen else "")
    assert (after == before) == (not seen)


def test_the_module_of_the_users_own_optimizer_belongs_to_it(neighbours):
    folder, file = neighbours
    (folder / "rule_here.py").write_text("from torch.optim import SGD\n\n\nclass Mine(SGD):\n    pass\n")
    mine = [TWO[0], Space("mine", "rule_here.Mine", [Axis("lr", 1e-3, 1.0)])]
    before = parts(file, mine)
    assert any("rule_here" in name for name in before)
    (folder / "rule_here.py").write_text("from torch.optim import SGD\n\n\nclass Mine(SGD):\n    x = 1\n")
    assert changed(before, parts(file, mine)) == "rule_here changed"


def test_environment_variables_that_are_read_belong_to_it(neighbours, monkeypatch):
    folder, file = neighbours
    monkeypatch.delenv("HOW_FAR", raising=False)
    (folder / "far_away.py").write_text("import os\nDEPTH = os.environ.get('HOW_FAR', '1')\n")
    before = parts(file)
    monkeypatch.setenv("UNRELATED_HERE", "1")
    assert parts(file) == before
    monkeypatch.setenv("HOW_FAR", "2")
    assert changed(before, parts(file)) == "environment variable HOW_FAR is new"


def test_what_is_set_globally_belongs_to_it():
    before = identify(Line(), None, TWO, []).parts
    with switches.kept():
        torch.set_default_dtype(torch.float64)
        assert changed(before, identify(Line(), None, TWO, []).parts) == (
            "what is set globally (default dtype) is new"
        )


def test_a_name_imported_from_a_users_module_is_no_package_of_unknown_version(neighbours):
    (neighbours[0] / "nets_here" / "__init__.py").write_text("from nets_here.wide import WIDTH\n")
    task = choosing.find(str(neighbours[1]))
    assert identify(task.workload, task.file, TWO, []).unknown == []


def test_versions_of_what_is_imported_belong_to_it(neighbours, monkeypatch):
    _, file = neighbours
    before = parts(file)
    assert before["version of torch"] == torch.__version__
    version = np.__version__
    monkeypatch.setattr(np, "__version__", "0.1")
    assert changed(before, parts(file)) == f"numpy was {version} and is 0.1"


def test_what_was_asked_for_differently_needs_no_words():
    assert changed({"asked for": "1", "a": "1"}, {"asked for": "2", "a": "2"}) == ""
    assert changed({"asked for": "1"}, {"asked for": "1", "b": "2"}) == "b is new"


class Held:
    def __init__(self, value):
        self.value = value


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (Held(torch.ones(2)), Held(torch.zeros(2))),
        (Held([Held(1)]), Held([Held(2)])),
        (Slotted(1), Slotted(2)),
        (torch.utils.data.TensorDataset(torch.ones(2)), torch.utils.data.TensorDataset(torch.zeros(2))),
        (torch.nn.Linear(1, 1, bias=False).requires_grad_(False), torch.nn.Linear(2, 1)),
        (np.random.default_rng(1), np.random.default_rng(2)),
        (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
        (Counter("a"), Counter("b")),
        (np.array(["a", None], dtype=object), np.array(["b", None], dtype=object)),
        (lambda: 1, lambda: 2),
    ],
)
def test_data_in_any_form_are_told_apart(one, two):
    digests = Digests()
    assert digests.of(one, "it") == digests.of(one, "it") != digests.of(two, "it")
    assert digests.unknown == []


def test_what_cannot_be_known_is_told():
    digests = Digests()
    digests.of({"a": (n for n in range(3))}, "self.rows")
    assert digests.unknown == ["self.rows"]
    circle = []
    circle.append(circle)
    assert digests.of(circle, "circle")


def test_a_file_that_a_task_holds_is_told_by_what_is_in_it(tmp_path):
    (tmp_path / "data.csv").write_text("1")
    before = Digests().of(tmp_path / "data.csv", "file"), Digests().of(tmp_path, "folder")
    (tmp_path / "data.csv").write_text("22")
    after = Digests().of(tmp_path / "data.csv", "file"), Digests().of(tmp_path, "folder")
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_a_program_is_the_same_however_it_is_laid_out():
    assert program("def f( a ):\n    'Words.'\n    return (a)  # more") == program("def f(a):\n    return a")
    assert program("a = 1") != program("a = 2")


def test_files_that_cannot_be_read_as_programs_are_looked_at_as_they_are(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("def")
    assert list(gather([file]).files) == ["broken.py"]


class Quick(Line):
    steps = 8
    evaluate_every = 4


class Pool:
    """Trains nothing: the study is ended at once."""

    workers, idle, running = 1, 0, ()

    def load(self, workload, file=None, spaces=()):
        pass

    def keep_in(self, folder, study):
        return Place(Path("nowhere"), study)


def said(tmp_path, workload, **more):
    """What a comparison says when it begins, which is then interrupted."""
    lines = []

    def stop(study, running):
        raise KeyboardInterrupt

    options = Options(trials=2, seeds=2, storage=str(tmp_path / "study.db"), **more)
    with pytest.raises(comparison.Interrupted):
        comparison.compare(Task(workload), TWO, options, Pool(), say=lines.append, watch=stop)
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


def test_another_study_is_told_in_a_line_that_names_what_changed(tmp_path):
    assert said(tmp_path, Quick()) == []
    assert said(tmp_path, Quick()) == []
    assert said(tmp_path, Quick(scale=2.0)) == ["Another study than the one before, for self.scale changed."]
    assert said(tmp_path, Quick(scale=2.0), seed=1) == []


def test_a_study_of_an_earlier_version_goes_on_and_is_told(tmp_path):
    workload = Quick()
    name = f"line-{former.fingerprint(workload, None, TWO, [2, 2, None, 0])}"
    old = Store(str(tmp_path / "study.db"), name, higher_is_better=False)
    old.agree({"trials": 2, "seeds": 2, "bought": ""})
    trial = Trial("tune", "sgd", "thalweg.SGD", {"lr": 0.1}, {"lr": 0.1}, 1)
    assert old.take([trial])
    old.release()
    old.close()
    [line] = said(tmp_path, workload)
    assert "begun by an earlier version" in line
    assert "--fresh starts anew" in line


@pytest.mark.parametrize("state", ["int8", {"exp_avg": "int8"}])
def test_what_int8_is_belongs_to_runs_that_ask_for_it(state):
    plain, packed = (
        Space("adamw", "thalweg.AdamW", [Axis("lr", 1e-4, 1e-1)], fixed=fixed)
        for fixed in ({"state": "bfloat16"}, {"state": state})
    )
    assert "version of int8 state" not in identify(Line(), None, [plain], []).parts
    now = identify(Line(), None, [plain, packed], []).parts
    before = {name: value for name, value in now.items() if name != "version of int8 state"}
    assert changed(before, now) == "version of int8 state is new"
