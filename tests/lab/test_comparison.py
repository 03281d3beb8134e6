import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
from children import PATIENCE_SECONDS, all_gone, descendants, start, wait_for, wait_until
from conftest import TASK
from samples import Line
from test_execution import Here

from thalweg.cli import main
from thalweg.lab import spaces
from thalweg.lab.comparing import api, budget, choosing, comparison, spending, trying
from thalweg.lab.comparing.beginning import fingerprint
from thalweg.lab.comparing.choosing import Task, choose
from thalweg.lab.comparing.comparison import Interrupted
from thalweg.lab.comparing.spending import Options, check, parse_margin
from thalweg.lab.running.connecting import address
from thalweg.lab.showing import results
from thalweg.lab.spaces import Axis, Recipe, Space
from thalweg.lab.study.record import Record, from_json
from thalweg.lab.study.study import Margin
from thalweg.lab.workload.errors import TrialError
from thalweg.lab.workload.tasks import TaskError

TWO = [spaces.find(name) for name in ("sgd", "adamw")]
SMALL = Options(trials=2, seeds=2)


def silent(*_) -> None:
    pass


class Quick(Line):
    steps = 8
    evaluate_every = 4


def run(options: Options = SMALL, workload=None, chosen=TWO, *, say=silent, watch=silent):
    """A comparison by a pool of this process; the result and the pool."""
    pool = Here()
    task = Task(workload or Quick())
    return comparison.compare(task, chosen, options, pool, say=say, watch=watch), pool


@pytest.mark.parametrize("why", [True, False])
def test_a_pool_is_given_credit_for_measuring_unless_that_is_switched_off(why):
    _, pool = run(replace(SMALL, why=why))
    assert (set(pool.credits) if why else pool.credits) == ({"sgd", "adamw"} if why else None)


# Options


@pytest.mark.parametrize(
    ("text", "margin"),
    [
        (None, None),
        ("0.5", Margin(0.5)),
        (0.5, Margin(0.5)),
        (2, Margin(2.0)),
        ("0", Margin(0.0)),
        ("2%", Margin(0.02, relative=True)),
        (" 2.5 % ", Margin(0.025, relative=True)),
        ("1e-3", Margin(0.001)),
    ],
)
def test_margins(text, margin):
    assert parse_margin("margin", text) == margin


@pytest.mark.parametrize("text", ["", "%", "big", "-1", "-1%", "nan", "inf", "inf%", "2%%", float("nan")])
def test_what_is_no_margin_is_an_error_that_names_it(text):
    with pytest.raises(ValueError, match="--margin must be a finite number of at least 0, perhaps with %"):
        parse_margin("--margin", text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(trials=0), "--trials must be a whole number of at least 1, not 0"),
        (Options(seeds=-1), "--seeds must be a whole number of at least 1, not -1"),
        (Options(trials=3, budget=60), "--trials cannot be given with --budget"),
        (Options(seeds=3, budget=60), "--seeds cannot be given with --budget"),
        (Options(seed=-1), "--seed must be a whole number from 0 to 4294967295, not -1"),
        (Options(seed=2**32), "--seed must be a whole number from 0 to 4294967295, not 4294967296"),
        (Options(budget=0.0), "--budget must be a number of seconds above 0, not 0.0"),
        (Options(budget=float("inf")), "--budget must be a number of seconds above 0, not inf"),
        (Options(limit=-2.0), "--limit must be a number of seconds above 0, not -2.0"),
        (Options(limit=float("nan")), "--limit must be a number of seconds above 0, not nan"),
    ],
)
def test_options_that_cannot_be_met_are_named(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check(options, "--")


def test_options_that_can_be_met():
    check(Options())
    check(Options(trials=1, seeds=1, seed=2**32 - 1, limit=0.5))
    check(Options(budget=1.0))


def test_optimizers_are_chosen_once_each_and_in_order():
    own = Space("mine", "torch.optim.ASGD", [Axis("lr", 1e-3, 1.0)])

    workload = valued(spaces=(own,))
    chosen = choose(["adamw", " sgd ", "torch.optim.Adam", "mine", "AdamW"], workload)
    assert [space.name for space in chosen] == ["adamw", "sgd", "torch.optim.Adam", "mine"]
    assert choose([own, "sgd"], Line()) == [own, spaces.find("sgd")]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["sgd"], "--optimizers: a comparison takes at least two, not 'sgd'"),
        (["sgd", "SGD"], "--optimizers: a comparison takes at least two, not 'sgd,sgd'"),
        ([], "--optimizers: a comparison takes at least two, not ''"),
        (["sgd", "x"], "--optimizers: unknown optimizer 'x'"),
        (["sgd", "a.B"], "--optimizers: no search space for 'a.B'"),
    ],
)
def test_optimizers_that_cannot_be_compared_are_named(names, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        choose(names, Line(), "--optimizers")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"trials": 2.5}, "trials must be a whole number of at least 1, not 2.5"),
        ({"seeds": "3"}, "seeds must be a whole number of at least 1, not '3'"),
        ({"workers": True}, "workers must be a whole number of at least 1, not True"),
        ({"seed": 0.5}, "seed must be a whole number from 0"),
        ({"limit": "1m"}, "limit must be a number of seconds above 0, not '1m'"),
        ({"optimizers": "sgd,x"}, "optimizers: unknown optimizer 'x'"),
        ({"optimizers": "sgd"}, "optimizers: a comparison takes at least two, not 'sgd'"),
    ],
)
def test_arguments_from_python_are_looked_at_as_those_of_the_command(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        api.compare(Line(), progress=False, **arguments)


def test_a_task_is_found_by_its_name_or_in_a_file(task_file):
    file = task_file(more="\n\nother = Small()\nother.name = 'other'\n")
    assert choosing.find("digits").workload.name == "digits"
    found = choosing.find(f"{file}:Small")
    assert (found.workload.name, found.file, found.reference) == ("small", file, f"{file}:Small")
    assert choosing.find(f"{file}:other").workload.name == "other"
    with pytest.raises(ValueError, match="--data is for the built-in workloads"):
        choosing.find(str(file), file)
    with pytest.raises(ValueError, match="unknown workload 'mnist'"):
        choosing.find("mnist")


# What makes two comparisons the same


def mark(workload=None, options=SMALL, chosen=TWO, file=None) -> str:
    return fingerprint(Task(workload or Line(), file=file), chosen, options)


class Lazy(Line):
    @cached_property
    def data(self):
        return torch.ones(3)


def test_what_does_not_change_a_record_is_the_same_comparison():
    same = mark()
    for more in (
        {"margin": Margin(9.0)},
        {"fresh": True},
        {"limit": 3.0},
        {"command": "x"},
        {"storage": "x"},
    ):
        assert mark(options=replace(SMALL, **more)) == same
    workload = Lazy()
    before = mark(workload)
    assert workload.data.sum() == 3
    assert mark(workload) == before == mark(Lazy())


def valued(**attributes) -> Line:
    workload = Line()
    vars(workload).update(attributes)
    return workload


class Other(Line):
    pass


@pytest.mark.parametrize(
    "other",
    [
        {"workload": Line(scale=2.0)},
        {"workload": Other()},
        {"workload": valued(steps=41)},
        {"workload": valued(clip_norm=1.0)},
        {"workload": valued(data=torch.ones(2))},
        {"workload": valued(data=np.ones(2))},
        {"options": replace(SMALL, trials=3)},
        {"options": replace(SMALL, seeds=3)},
        {"options": replace(SMALL, seed=1)},
        {"options": Options(budget=60.0)},
        {"chosen": TWO[::-1]},
        {"chosen": [*TWO, spaces.find("lion")]},
        {"chosen": [TWO[0], replace(TWO[1], fixed={"amsgrad": True})]},
    ],
)
def test_what_changes_a_record_is_another_comparison(other):
    assert mark(**other) != mark()


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"a": torch.zeros(3)}, {"a": torch.tensor([0.0, 0.0, 1.0])}),
        ({"a": np.zeros(3)}, {"a": np.zeros(3, np.float32)}),
        ({"a": [1, {"b": (2, 3)}]}, {"a": [1, {"b": (2, 4)}]}),
        ({"a": Path("x")}, {"a": Path("y")}),
        ({"a": {"x", "y"}}, {"a": {"x", "z"}}),
        ({"a": torch.zeros(3, dtype=torch.bfloat16)}, {"a": torch.ones(3, dtype=torch.bfloat16)}),
    ],
)
def test_objects_of_one_class_are_told_apart_by_their_attributes(one, two):
    assert mark(valued(**one)) == mark(valued(**one))
    assert mark(valued(**one)) != mark(valued(**two))


def test_a_file_is_told_by_its_text_and_the_object_in_it(task_file):
    more = """

def wide():
    made = Small()
    made.width = 8
    return made


def narrow():
    made = Small()
    made.width = 4
    return made
"""

    def marked(name, file):
        return fingerprint(choosing.find(f"{file}:{name}"), TWO, SMALL)

    file = task_file(more=more)
    before = {name: marked(name, file) for name in ("wide", "narrow")}
    assert before["wide"] == marked("wide", file)
    assert len(set(before.values())) == 2
    task_file(more="\n# a comment" + more)
    assert marked("wide", file) == before["wide"], "the program is the same"
    task_file(more=more + "CHANGED = 1\n")
    assert marked("wide", file) != before["wide"]


PRINT_MARK = """
import sys
from thalweg.lab.comparing import beginning, choosing, spending
from thalweg.lab import spaces
task = choosing.find(sys.argv[1])
chosen = [spaces.find("sgd"), spaces.find("adamw")]
print(beginning.fingerprint(task, chosen, spending.Options(trials=2, seeds=2)))
"""


def test_the_same_comparison_is_the_same_in_another_process(task_file):
    file = task_file(
        more="\n\nmade = Small()\nmade.kinds = {'a', 'b', 'c'}\nmade.table = {'x': torch.ones(2)}\n"
    )
    expected = fingerprint(choosing.find(f"{file}:made"), TWO, SMALL)
    done = subprocess.run(
        [sys.executable, "-c", PRINT_MARK, f"{file}:made"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "123"},
    )
    assert done.stdout.strip() == expected


# A comparison from Python


def test_a_comparison_says_how_it_was_made():
    result, pool = run(replace(SMALL, command="typed"))
    provenance = result.provenance
    assert (provenance.workers, provenance.command, provenance.found, provenance.bought) == (
        1,
        "typed",
        0,
        "",
    )
    assert provenance.task == ""
    assert len(result.study.records) == len(pool.made) >= 2 * (2 + 6 + 2)
    assert result.study.settings.margin == Margin(Line.margin)


@pytest.mark.parametrize("at", [0, 9])
def test_ctrl_c_leaves_a_result_and_the_same_call_goes_on(tmp_path, at):
    options = replace(SMALL, storage=str(tmp_path / "study.db"))

    def interrupt(study, running):
        if len(study.records) == at:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        run(options, watch=interrupt)
    part = caught.value.result
    assert len(part.study.records) == at
    assert part.verdict.kind == "none"
    part.save(tmp_path)
    assert results.load(tmp_path)["complete"] is False
    finished, pool = run(options)
    whole, _ = run()
    assert finished.study.records == whole.study.records
    assert len(pool.made) == len(whole.study.records) - at


def test_a_notebook_gets_the_result_so_far(monkeypatch):
    class Pressed(Here):
        def wait(self, timeout):
            if len(self.made) == 3:
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(api, "Pool", Pressed)
    assert len(api.compare(Line(), ["sgd", "adamw"], trials=2, seeds=2, progress=False).study.records) == 3


def test_a_notebook_call_takes_what_the_command_takes(monkeypatch, capfd):
    monkeypatch.setattr(api, "Pool", Here)
    own = Space("mine", "torch.optim.ASGD", [Axis("lr", 1e-3, 1.0)])
    result = api.compare(Line(), ["torch.optim.Adam", own], trials=1, seeds=1, margin="2%", progress=False)
    assert {r.trial.optimizer for r in result.study.records} == {"torch.optim.Adam", "torch.optim.ASGD"}
    assert result.study.settings.margin == Margin(0.02, relative=True)
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ValueError, match="workers must be a whole number of at least 1, not 0"):
        api.compare(Line(), workers=0)
    with pytest.raises(ValueError, match="budget: a duration looks like"):
        api.compare(Line(), budget="soon")
    with pytest.raises(ValueError, match="trials cannot be given with budget"):
        api.compare(Line(), budget=60, trials=2)


class Cooking(Quick):
    recipes = (
        Recipe("plain", "sgd"),
        Recipe("careful", "adamw", fixed={"average": 0.9}, schedule="cosine", evaluate_every=2),
    )


def test_recipes_of_a_task_are_compared_with_each_other_and_with_optimizers(monkeypatch, tmp_path):
    monkeypatch.setattr(api, "Pool", Here)
    given = {"trials": 2, "seeds": 2, "progress": False}
    result = api.compare(Cooking(), recipes=["all"], **given)
    assert [space.name for space in result.study.spaces] == ["plain", "careful"]
    points = {r.trial.name: len(r.curve) for r in result.study.records}
    assert points == {"plain": 3, "careful": 5}
    [line] = [row["code"] for row in result.ranking if row["optimizer"] == "careful"]
    assert line.endswith("# careful: schedule='cosine', evaluate_every=2")
    result.save(tmp_path)
    assert "trained with schedule=cosine" in (tmp_path / "report.html").read_text()
    with_lion = api.compare(
        Cooking(), ["lion", Recipe("own", "adam", clip_norm=1.0)], recipes=["plain"], **given
    )
    assert [space.name for space in with_lion.study.spaces] == ["plain", "lion", "own"]
    with pytest.raises(ValueError, match="recipes: unknown recipe 'no'; there are: plain, careful"):
        api.compare(Cooking(), recipes=["no"], **given)
    with pytest.raises(TaskError, match="bad: the task has no 'droput'"):
        api.compare(Cooking(), ["lion", Recipe("bad", "adam", droput=1.0)], **given)


def test_a_class_of_a_notebook_names_the_study_with_its_source():
    def spaces_(kind, **more):
        return [Space("a", kind, (Axis("lr", 1e-3, 1.0),), **more), TWO[0]]

    task = Task(Quick())
    names = {
        fingerprint(task, spaces_(torch.optim.SGD), SMALL),
        fingerprint(task, spaces_(torch.optim.Adam), SMALL),
        fingerprint(task, spaces_(torch.optim.SGD, changes={"schedule": None}), SMALL),
        fingerprint(task, spaces_(torch.optim.SGD, changes={"schedule": "cosine"}), SMALL),
    }
    assert len(names) == 4


def test_too_few_seeds_for_a_verdict_are_said_before(tmp_path):
    said = []
    run(say=said.append)
    assert "2 optimizers need 6 seeds for a verdict, not 2" in said


def test_without_being_asked_there_are_seeds_enough_for_a_verdict(monkeypatch):
    names = list(spaces.SPACES)
    chosen = [spaces.find(name) for name in names[:10]]

    def stop(study, running):
        raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        run(Options(), chosen=chosen, watch=stop)
    assert (caught.value.result.study.settings.trials, caught.value.result.study.settings.seeds) == (16, 24)


def test_what_a_budget_bought_holds_for_all_who_join(tmp_path, monkeypatch):
    options = Options(budget=60.0, storage=str(tmp_path / "study.db"))
    bought = iter([budget.Bought(2, 2, "a budget of 1 min buys little"), budget.Bought(9, 9, "much")])
    monkeypatch.setattr(budget, "buy", lambda *_: next(bought))
    said = []
    first, _ = run(options, say=said.append)
    second, pool = run(options, say=said.append)
    assert first.study.settings == second.study.settings
    assert (first.study.settings.trials, pool.made) == (2, [])
    assert second.provenance.bought == "a budget of 1 min buys little"
    assert said.count("a budget of 1 min buys little") == 2


def test_an_error_while_the_cost_is_measured_is_the_tasks():
    class Breaks(Line):
        def loss(self, model, batch):
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls > 3:
                raise LookupError("the data are gone")
            return super().loss(model, batch)

    with pytest.raises(TrialError, match="LookupError: the data are gone"):
        run(Options(budget=60.0), Breaks())


def test_a_mistake_in_a_task_is_told_before_anything_is_written(tmp_path):
    class Wrong(Line):
        def loss(self, model, batch):
            return torch.ones(3)

    with pytest.raises(TaskError, match="not a scalar tensor"):
        run(replace(SMALL, storage=str(tmp_path / "study.db")), Wrong())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (
            Space("x", "torch.optim.Nope", [Axis("lr", 1e-3, 1.0)]),
            "x: ValueError: no optimizer at 'torch.opt",
        ),
        (Space("x", "torch.optim.SGD", [Axis("rate", 1e-3, 1.0)]), "unexpected keyword argument 'rate'"),
        (Space("x", "torch.optim.SGD", [Axis("lr", 1e-3, 1.0)], {"k": object()}), "keyword argument 'k'"),
    ],
)
def test_what_is_wrong_with_any_optimizer_is_told_before_the_first_run(tmp_path, space, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        run(replace(SMALL, storage=str(tmp_path / "study.db")), chosen=[TWO[0], space])
    assert list(tmp_path.iterdir()) == []


class Wrapping(torch.optim.SGD):
    def __init__(self, params, lr, base):
        assert base is torch.optim.SGD
        super().__init__(params, lr)


def test_a_class_may_be_among_the_settings(tmp_path):
    own = Space("mine", f"{__name__}.Wrapping", [Axis("lr", 1e-3, 1.0)], {"base": torch.optim.SGD})
    options = replace(SMALL, storage=str(tmp_path / "study.db"))
    result, _ = run(options, chosen=[TWO[0], own])
    assert "base=torch.optim.sgd.SGD)" in " ".join(str(row["code"]) for row in result.ranking)
    again, pool = run(options, chosen=[TWO[0], own])
    assert (again.study.records, pool.made) == (result.study.records, [])
    result.save(tmp_path)
    kept = [from_json(document) for document in results.load(tmp_path)["records"]]
    assert kept == list(result.study.records)


def test_a_hang_while_the_task_is_tried_is_under_the_limit():
    class Hangs(Quick):
        def batches(self, seed):
            time.sleep(60)

    with pytest.raises(TimeoutError, match=r"trying the task took longer than the limit of 0.2 s"):
        run(replace(SMALL, limit=0.2), Hangs())


class Miscalled(Quick):
    metric = "accuracy"


def test_warnings_are_in_the_results_beside_the_verdict(tmp_path):
    said = []
    result, _ = run(workload=Miscalled(), say=said.append)
    [doubt] = result.provenance.warnings
    assert doubt.kind == "direction"
    assert f"warning: {doubt.text}" in said
    result.save(tmp_path)
    assert results.load(tmp_path)["warnings"] == [{"kind": "direction", "text": doubt.text}]
    assert doubt.text in result.html()


# The command, in this process


@pytest.fixture
def typed(monkeypatch, capfd, task_file):
    """Types `thalweg compare small.py` with more; the status, what was printed, and the results if any."""
    threads = torch.get_num_threads()
    monkeypatch.setattr("thalweg.lab.comparing.command.Pool", Here)
    file = task_file()
    monkeypatch.chdir(file.parent)

    def typed(*more: str) -> tuple[int, str, dict | None]:
        words = ["compare", "small.py", "--optimizers", "sgd,adamw", "--trials", "1", "--seeds", "1", *more]
        monkeypatch.setattr(sys, "argv", ["thalweg", *words])
        with pytest.raises(SystemExit) as exit_:
            main(words)
        made = Path("compare-small/results.json").exists()
        return exit_.value.code, capfd.readouterr().err, results.load(Path("compare-small")) if made else None

    yield typed
    torch.set_num_threads(threads)


def test_where_every_optimizer_failed_the_report_is_written_and_the_status_is_1(typed):
    file = Path("small.py")
    line = "        return (model(inputs) - targets)"
    broken = (
        "        if hasattr(model, 'seen'):\n            raise OverflowError\n        model.seen = True\n"
    )
    file.write_text(file.read_text().replace(line, broken + line))
    status, said, document = typed()
    assert status == 1
    assert said.splitlines()[-1] == "thalweg: every optimizer failed; report.html says how"
    assert {record["failure"]["kind"] for record in document["records"]} == {"diverged"}


def test_the_same_command_goes_on_unless_it_is_told_to_start_anew(typed):
    status, _, first = typed()
    assert (status, first["found"], len(first["records"])) == (0, 0, 4)
    assert first["command"] == "thalweg compare small.py --optimizers sgd,adamw --trials 1 --seeds 1"
    _, said, again = typed("--margin", "3%", "--limit", "60", "--workers", "3")
    assert "going on from 4 runs that were made before" in said
    assert (again["found"], again["records"]) == (4, first["records"])
    assert again["settings"]["margin"] == {"value": 0.03, "relative": True, "spread": 0.0}
    _, said, anew = typed("--fresh")
    assert "going on" not in said
    assert anew["found"] == 0
    assert typed("--seed", "1")[2]["found"] == 0


def test_another_folder_has_the_study_where_the_storage_is_named(typed):
    typed("--storage", "shared.db")
    typed("--storage", "shared.db", "--out", "elsewhere")
    assert results.load(Path("elsewhere"))["found"] == 4


@pytest.mark.parametrize(
    ("storage", "words"),
    [
        ("small.py", "storage 'small.py': file is not a database"),
        ("nowhere/study.db", "storage 'nowhere/study.db': unable to open database file"),
        ("nonsense://me:secret@host/db", "storage 'nonsense://me:***@host/db': Can't load plugin"),
        ("postgresql://me:secret@host:port/db", "not an address such as"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_line_and_status_1(typed, storage, words):
    status, said, _ = typed("--storage", storage)
    last = said.splitlines()[-1]
    assert status == 1
    assert last.startswith("thalweg: storage ")
    assert words in last
    assert "secret" not in said
    assert "Traceback" not in said


def test_a_users_mistake_is_one_line_with_its_place(typed, task_file):
    task_file(more="\n\ndef wrong(self, model, batch):\n    return batch.nothing\n\n\nSmall.loss = wrong\n")
    status, said, made = typed()
    assert (status, made) == (2, None)
    assert re.fullmatch(
        r"thalweg: small.py:\d+, in wrong: AttributeError: 'tuple' object has no attribute 'nothing'\n", said
    )


# The command, in processes of its own

PYTHON = [sys.executable, "-c", "from thalweg.cli import main; main()"]
ARGUMENTS = ["--optimizers", "sgd,adamw", "--trials", "2", "--seeds", "2", "--workers", "2"]


GATE = """

import multiprocessing


def with_a_ticket(batches):
    def gated(self, seed):
        # The process that asks for the runs tries the task out itself, before the first.
        while multiprocessing.parent_process() and os.path.isdir("gate"):
            try:
                os.unlink(f"gate/{min(os.listdir('gate'))}")
                break
            except (ValueError, OSError):
                time.sleep(0.01)
        yield from batches(self, seed)

    return gated


Small.batches = with_a_ticket(Small.batches)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "small.py").write_text(TASK.format(seconds=0.1) + GATE)
    return folder


class Gate:
    """Where it stands a run waits for a ticket, so that a comparison does not end before its time."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder / "gate", count()
        self._folder.mkdir()

    def admit(self, runs: int) -> None:
        for number in islice(self._numbers, runs):
            (self._folder / f"{number:03}").touch()

    def open(self) -> None:
        shutil.rmtree(self._folder)


@pytest.fixture
def gate(folder):
    gate = Gate(folder)
    yield gate
    shutil.rmtree(folder / "gate", ignore_errors=True)


def command(folder: Path, out: str, *more: str, ignored: str = "") -> subprocess.Popen[str]:
    words = [*PYTHON, "compare", "small.py", *ARGUMENTS, "--out", out, *more]
    return start(words, cwd=folder, ignored=ignored)


def finished(child: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    out, err = child.communicate(timeout=PATIENCE_SECONDS)
    assert child.returncode == status, err
    return out, err


def kept(folder: Path, out: str) -> list[Record]:
    return [from_json(document) for document in results.load(folder / out)["records"]]


def in_storage(storage: str) -> dict[str, Record]:
    """What a storage holds, by key."""
    held = {}
    for summary in optuna.get_all_study_summaries(address(storage)):
        for entry in optuna.load_study(study_name=summary.study_name, storage=address(storage)).trials:
            if "record" in entry.user_attrs:
                held[entry.user_attrs["key"]] = from_json(json.loads(entry.user_attrs["record"]))
    return held


@pytest.fixture(scope="module")
def uninterrupted(folder):
    return finished(command(folder, "whole")), kept(folder, "whole")


def test_processes_give_what_a_single_one_gives(folder, uninterrupted):
    task = choosing.find(str(folder / "small.py"))
    alone = comparison.compare(task, TWO, SMALL, Here(), say=silent, watch=silent)
    assert list(alone.study.records) == uninterrupted[1]


def test_a_comparison_that_is_killed_and_then_interrupted_goes_on_and_loses_nothing(
    folder, uninterrupted, gate
):
    gate.admit(10)
    child = command(folder, "stopped", "--workers", "1")
    wait_for(child, "runs to go")
    # Whatever it is at.
    time.sleep(random.uniform(0.2, 0.8))
    workers = descendants(child.pid)
    child.kill()
    child.communicate()
    stopped = folder / "stopped"
    held = in_storage(str(stopped / "study.db"))
    assert not (stopped / "report.html").exists()
    assert workers
    wait_until(lambda: all_gone(workers), "a process is left")

    child = command(folder, "stopped", "--workers", "1")
    wait_for(child, "runs to go")
    # As a terminal does it: to every process.
    os.killpg(child.pid, signal.SIGINT)
    out, err = finished(child, 130)
    assert err.splitlines()[-1] == "thalweg: interrupted; the same command goes on from here"
    assert "Traceback" not in err
    assert "No verdict yet: the comparison is not finished." in out
    document = results.load(stopped)
    assert (document["complete"], document["found"]) == (False, len(held))
    assert len(held) <= len(document["records"]) < 20
    assert document["verdict"]["headline"] in (stopped / "report.html").read_text()

    gate.open()
    _, err = finished(command(folder, "stopped", "--workers", "1"))
    before = len(document["records"])
    assert before == 0 or f"going on from {before} runs that were made before" in err
    assert results.load(stopped)["found"] == before
    assert kept(folder, "stopped") == uninterrupted[1]
    by_key = {record.trial.key: record for record in kept(folder, "stopped")}
    for key, record in held.items():
        assert by_key[key].timing == record.timing, "it was not run again"


@pytest.mark.parametrize("send", [os.kill, os.killpg], ids=["to it alone", "to all its processes"])
def test_sigterm_ends_in_order_what_ignores_ctrl_c(folder, uninterrupted, gate, send):
    out = send.__name__
    child = command(folder, out, ignored="SIGINT")
    wait_for(child, "runs to go")
    os.killpg(child.pid, signal.SIGINT)
    gate.admit(6)
    wait_for(child, "runs, ")
    workers = descendants(child.pid)
    assert len(workers) >= 2
    # Two, as `timeout` does.
    for _ in range(2):
        send(child.pid, signal.SIGTERM)
    _, err = finished(child, 143)
    assert err.splitlines()[-1] == "thalweg: terminated; the same command goes on from here"
    assert "Traceback" not in err
    wait_until(lambda: all_gone(workers), "a process is left")
    document = results.load(folder / out)
    held = in_storage(str(folder / out / "study.db"))
    assert not document["complete"]
    assert {record.trial.key for record in kept(folder, out)} == set(held) != set()
    assert {record.failure for record in held.values()} == {None}, "none has died of it"

    gate.open()
    finished(command(folder, out))
    assert results.load(folder / out)["found"] == len(held)
    assert kept(folder, out) == uninterrupted[1]


def test_what_ignores_sigterm_from_the_start_goes_on(folder, uninterrupted, gate):
    child = command(folder, "undeterred", ignored="SIGINT SIGTERM SIGHUP")
    wait_for(child, "runs to go")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.killpg(child.pid, number)
    gate.open()
    finished(child)
    assert kept(folder, "undeterred") == uninterrupted[1]


@pytest.fixture
def repeat(folder, capsys):
    """Repeats a record of a results file; the status, and what was printed."""
    threads = torch.get_num_threads()

    def repeat(path: Path, number: int) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main(["trial", str(path), "--id", str(number)])
        return exit_.value.code, *capsys.readouterr()

    yield repeat
    torch.set_num_threads(threads)


def test_a_trial_of_every_stage_can_be_repeated(folder, uninterrupted, repeat):
    stages = [record.trial.stage for record in uninterrupted[1]]
    for number in map(stages.index, set(stages)):
        status, out, _ = repeat(folder / "whole" / "results.json", number)
        assert status == 0
        assert f"test        {uninterrupted[1][number].test}\n" in out
        assert out.endswith("the same as recorded, bit for bit\n")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda r: r["validation"].update(metric=r["validation"]["metric"] * (1 + 2**-52)), "validation was"),
        (lambda r: r["curve"][1].__setitem__(1, 0.5), "curve was"),
        (lambda r: r.update(state_bytes=1), "state_bytes was 1"),
        (lambda r: r.update(test=None), "test was None"),
        (lambda r: r.update(failure={"kind": "killed", "text": "no", "step": None}), "failure was"),
        (lambda r: r["settings"].update(lr=0.123), "curve was"),
    ],
)
def test_a_record_that_was_tampered_with_is_found_out(folder, uninterrupted, repeat, tmp_path, change, named):
    document = results.load(folder / "whole")
    number = len(document["records"]) - 1
    change(document["records"][number])
    (tmp_path / "results.json").write_text(json.dumps(document))
    status, out, _ = repeat(tmp_path, number)
    assert status == 1
    assert "not as recorded: " in out
    assert named in out


def test_what_cannot_be_repeated_is_told(folder, uninterrupted, repeat, tmp_path):
    status, _, err = repeat(folder / "whole", 999)
    assert (status, err) == (2, f"thalweg: --id must be from 0 to {len(uninterrupted[1]) - 1}, not 999\n")
    status, _, err = repeat(tmp_path, 0)
    assert status == 2
    assert "cannot read" in err
    document = results.load(folder / "whole")
    for task, words in (("", "passed from Python"), (str(tmp_path / "gone.py"), "no file")):
        (tmp_path / "results.json").write_text(json.dumps({**document, "task": task}))
        status, _, err = repeat(tmp_path, 0)
        assert status == 2
        assert words in err
    broken = (folder / "small.py").read_text().replace("        inputs, targets = batch", "        1 / 0")
    (tmp_path / "broken.py").write_text(broken)
    (tmp_path / "results.json").write_text(json.dumps({**document, "task": str(tmp_path / "broken.py")}))
    status, _, err = repeat(tmp_path, 0)
    assert status == 1
    assert re.fullmatch(r"thalweg: \S*broken.py:\d+, in loss: ZeroDivisionError: division by zero\n", err)


def test_several_machines_work_on_one_study_in_postgresql(folder, postgresql, uninterrupted, gate):
    names = ("here", "there")
    children = [command(folder, name, "--storage", postgresql, "--workers", "1") for name in names]
    for child in children:
        wait_for(child, "runs to go")
    gate.open()
    for child in children:
        finished(child)
    here, there = (results.load(folder / name) for name in names)
    assert here["records"] == there["records"], "both tell the same, timings too"
    assert kept(folder, "here") == uninterrupted[1]
    entries = [
        entry
        for summary in optuna.get_all_study_summaries(address(postgresql))
        for entry in optuna.load_study(study_name=summary.study_name, storage=address(postgresql)).trials
        if "record" in entry.user_attrs
    ]
    assert len(entries) == len(here["records"]), "every trial was run once"
    assert len({entry.user_attrs["owner"][1] for entry in entries}) == 2, "both took part"
    secret = "s3cret-4711"
    for name in names:
        for path in (folder / name).iterdir():
            assert secret not in path.read_text(), f"{path.name} shows the password"


def test_a_study_that_was_begun_without_looks_goes_on_without(tmp_path, monkeypatch):
    options = Options(trials=1, seeds=8, storage=str(tmp_path / "study.db"))
    with monkeypatch.context() as patch:
        patch.setattr(comparison, "spend", lambda *_: {"trials": 1, "seeds": 8, "bought": ""})
        before, _ = run(options)
    assert before.study.settings.looks == ()
    after, pool = run(options)
    assert (after.study.settings, pool.made) == (before.study.settings, [])
    assert len(after.study.records) == 2 * (1 + 8)
    new, _ = run(replace(options, storage=str(tmp_path / "new.db")))
    assert new.study.settings.looks == (6, 8)


def test_a_task_is_tried_as_it_runs_without_our_arguments(tmp_path, monkeypatch):
    class Parsing(Line):
        def loss(self, model, batch):
            argparse.ArgumentParser().parse_args()
            os.chdir("/")
            return super().loss(model, batch)

    monkeypatch.setattr(sys, "argv", ["thalweg", "compare", "task.py", "--trials", "2"])
    monkeypatch.chdir(tmp_path)
    task = Task(Parsing(), "task.py", tmp_path / "task.py")
    pool = SimpleNamespace(load=lambda *_: None)
    assert trying.tried(task, [spaces.find("sgd")], Options(), pool) == ()
    assert spending.costs(task, [spaces.find("sgd")], Options(), pool)
    assert (Path.cwd(), sys.argv[0]) == (tmp_path, "thalweg")
