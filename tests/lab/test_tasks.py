"""A user's own file: found, checked, tried, sent to another process, its mistakes told in its own lines."""

import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import cloudpickle
import pytest
import torch

from thalweg.lab.running import trial as trials
from thalweg.lab.running.faults import is_divergence
from thalweg.lab.study.record import Trial
from thalweg.lab.workload import Workload, tasks, template
from thalweg.lab.workload.tasks import TaskError, modules, trying
from thalweg.lab.workload.tasks.checking import ATTRIBUTES, COUNTS, METHODS
from thalweg.lab.workload.tasks.trying import equal

TASK = """\
from functools import cache

import torch
from torch import nn

from thalweg.lab.workload import Evaluation, Workload

SIZE = 3


@cache
def factorial(n):
    return n * factorial(n - 1) if n else 1


def inputs(generator):
    return torch.randn(8, SIZE, generator=generator)


class Task(Workload):
    steps = 5
    batch_size = 8
    evaluate_every = 2

    def model(self, seed):
        return nn.Linear(SIZE, 1)

    def batches(self, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self.steps):
            yield inputs(generator)

    def loss(self, model, batch):
        return (model(batch) - factorial(4)).square().mean()

    def evaluate(self, model, split):
        loss = self.loss(model, inputs(torch.Generator().manual_seed(len(split)))).item()
        return Evaluation(loss, loss)
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(content: str, name: str = "my_task.py") -> str:
        (tmp_path / name).write_text(content)
        return name

    return write


def changed(old: str, new: str) -> str:
    assert old in TASK
    return TASK.replace(old, new)


def line_of(text: str, content: str) -> int:
    [found] = [n for n, line in enumerate(content.splitlines(), 1) if text in line]
    return found


def in_another_process(workload: Workload, program: str, folder: Path) -> subprocess.CompletedProcess:
    """Runs a program with `workload`, sent as to a worker, in a process that knows nothing of its file."""
    path = folder / "workload.pickle"
    path.write_bytes(cloudpickle.dumps(workload))
    start = f"import pickle, pathlib\nworkload = pickle.loads(pathlib.Path({str(path)!r}).read_bytes())\n"
    return subprocess.run(
        [sys.executable, "-c", start + dedent(program)], cwd="/", capture_output=True, text=True
    )


# References


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("my_task.py", (Path("my_task.py"), None)),
        ("my_task.py:big", (Path("my_task.py"), "big")),
        ("a/b.c/my_task.py:big", (Path("a/b.c/my_task.py"), "big")),
        (r"C:\a\my_task.py", (Path(r"C:\a\my_task.py"), None)),
    ],
)
def test_a_reference_is_a_file_and_perhaps_a_name(reference, expected):
    assert tasks.is_file(reference)
    assert tasks.parse(reference) == expected


@pytest.mark.parametrize("name", ["digits", "fashion-mnist", "python", "a.pyc"])
def test_other_names_are_no_files(name):
    assert not tasks.is_file(name)


# Finding


def test_the_only_class_is_found_and_has_the_defaults(write):
    task = tasks.load(write(TASK))
    assert type(task).__name__ == "Task"
    assert (task.name, task.steps, task.metric, task.margin, task.spaces) == ("my_task", 5, "loss", None, ())
    assert task.facts() == {}


def test_a_class_that_derives_from_nothing_serves_as_well(write):
    task = tasks.load(write(changed("class Task(Workload)", "class Task")))
    assert Workload not in type(task).__mro__
    assert (task.name, task.higher_is_better, task.clip_norm, task.facts()) == ("my_task", False, None, {})
    tasks.smoke(task, Path("my_task.py"))


def test_an_object_is_preferred_to_its_class(write):
    task = tasks.load(write(TASK + "\n\ntask = Task()\ntask.steps = 9\nsame = task\n"))
    assert task.steps == 9


def test_a_derived_class_is_preferred_to_its_base(write):
    task = tasks.load(write(TASK + "\n\nclass Longer(Task):\n    steps = 50\n"))
    assert task.steps == 50


@pytest.mark.parametrize("name", ["Long", "long", "make"])
def test_a_name_chooses_a_class_an_object_or_a_function(write, name):
    more = "\n\nclass Long(Task):\n    steps = 50\n\n\nlong = Long()\n\n\ndef make():\n    return Long()\n"
    assert tasks.load(write(TASK + more) + f":{name}").steps == 50


def test_workloads_that_are_imported_do_not_count_as_defined(write):
    write(TASK, "base_task.py")
    task = tasks.load(write("from base_task import Task\n\n\nclass Mine(Task):\n    steps = 7\n"))
    assert task.steps == 7


@pytest.mark.parametrize(
    ("content", "reference", "message"),
    [
        (TASK, "other.py", "no file 'other.py'; thalweg new-task other.py writes one"),
        (TASK, "my_task.py:other", "my_task.py defines no 'other'; workloads in it: Task"),
        (TASK, "my_task.py:SIZE", "my_task.py: SIZE is 3 (int), not a workload"),
        (TASK, "my_task.py:factorial", "my_task.py: factorial needs arguments"),
        (
            TASK + "\n\nclass Other(Workload):\n    model = batches = loss = evaluate = Task.loss\n",
            "my_task.py",
            "my_task.py defines several workloads: Task, Other; name one: my_task.py:Task",
        ),
        ("x = 1\n", "my_task.py", "my_task.py defines no workload, which has the methods model, batches,"),
        (
            changed("def evaluate(", "def evaluated("),
            "my_task.py",
            "loss, evaluate: class Task lacks evaluate",
        ),
        (TASK + "\n\ndef make():\n    pass\n", "my_task.py:make", "make() returned None, not a workload"),
        (changed("    steps = 5", "    def __init__(self, steps):\n        self.steps = steps\n"),
         "my_task.py", "my_task.py: Task needs arguments; name a function"),
    ],
)  # fmt: skip
def test_what_cannot_be_found_is_told(write, content, reference, message):
    write(content)
    with pytest.raises(TaskError, match=re.escape(message)):
        tasks.load(reference)


# Errors in the user's file


def raised(reference: str) -> str:
    with pytest.raises(TaskError) as error:
        load_and_try(reference)
    assert "\n" not in str(error.value)
    return str(error.value)


def load_and_try(reference: str) -> None:
    tasks.smoke(tasks.load(reference), Path(reference))


def test_a_syntax_error_has_its_line(write):
    content = changed("steps = 5", "steps = = 5")
    assert raised(write(content)) == f"my_task.py:{line_of('= =', content)}: SyntaxError: invalid syntax"


def test_a_file_that_is_no_text_is_named(write):
    assert raised(write("x = 1\0")).startswith("my_task.py: SyntaxError: source code ")


def test_an_error_while_importing_has_its_line(write):
    content = changed("SIZE = 3", "SIZE = 1 / 0")
    expected = f"my_task.py:{line_of('1 / 0', content)}: ZeroDivisionError: division by zero"
    assert raised(write(content)) == expected


def test_a_file_that_exits_does_not_end_the_program(write):
    assert raised(write("raise SystemExit('usage: ...')\n")) == "my_task.py:1: SystemExit: usage: ..."


def test_a_file_that_reads_the_command_line_finds_none(write, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv := ["thalweg", "compare", "my_task.py", "--trials", "2"])
    parsed = """import argparse

parser = argparse.ArgumentParser()
parser.add_argument("--size", type=int, default=3)
SIZE = parser.parse_args().size
"""
    made = "    def __init__(self):\n        parser.parse_args()\n\n    steps = 5"
    content = changed("SIZE = 3", parsed).replace("    steps = 5", made)
    assert tasks.load(write(content)).model(0).in_features == 3
    assert sys.argv is argv
    with tasks.alone(Path("my_task.py")):
        assert sys.argv == ["my_task.py"]
    assert sys.argv is argv


def test_what_a_file_defines_can_be_pickled_and_found_by_processes_it_starts(write, tmp_path):
    content = TASK + "\n\n@dataclass\nclass Config:\n    width: int = 4\n"
    file = Path(write("from dataclasses import dataclass\n" + content))
    module = tasks.imported(file)
    program = "import pickle, sys; sys.path += sys.argv[2:]; print(pickle.loads(bytes.fromhex(sys.argv[1])))"
    pickled = pickle.dumps(module.Config(5)).hex()
    command = [sys.executable, "-c", program, pickled, *modules.folders()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(tasks.__file__).parents[4])
    assert (done.stdout, done.stderr) == ("Config(width=5)\n", "")


def test_a_neighbour_comes_before_a_package_of_its_name(write, tmp_path, monkeypatch):
    installed = tmp_path / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (installed / "namesake_of_both.py").write_text("SIZE = 9\n")
    (tmp_path / "namesake_of_both.py").write_text("SIZE = 3\n")
    monkeypatch.syspath_prepend(str(installed))
    file = write(changed("SIZE = 3", "from namesake_of_both import SIZE"))
    assert tasks.load(file).model(0).in_features == 3
    own = str(tmp_path)
    assert (
        sys.path.index(str(installed)) < sys.path.index(own) == len(sys.path) - 1 - sys.path[::-1].index(own)
    )
    with tasks.alone(Path(file)):
        assert sys.path.index(own) < sys.path.index(str(installed))
    monkeypatch.delitem(sys.modules, "namesake_of_both")


def test_the_folder_and_the_signals_of_a_file_are_its_own(write, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    going = "import os, signal\nos.chdir('there')\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    before = signal.getsignal(signal.SIGINT)
    file = Path(write(going + TASK))
    tasks.load(str(file))
    assert (Path.cwd(), signal.getsignal(signal.SIGINT)) == (tmp_path, before)
    assert tasks.folder_of(file) == str(there)
    with tasks.alone(file):
        assert Path.cwd() == there
        os.chdir("/")
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert (Path.cwd(), signal.getsignal(signal.SIGINT)) == (tmp_path, before)
    assert tasks.folder_of(file) == str(there)


@pytest.mark.parametrize("method", ["model", "batches", "loss", "evaluate"])
def test_an_error_in_a_method_has_its_line_and_function(write, method):
    head = next(line for line in TASK.splitlines() if f"def {method}(" in line)
    content = changed(head, f"{head}\n        raise KeyError('here')")
    expected = f"my_task.py:{line_of('KeyError', content)}, in {method}: KeyError: 'here'"
    assert raised(write(content)) == expected


@pytest.mark.parametrize("method", ["model", "evaluate"])
def test_a_method_that_exits_does_not_end_the_program(write, method):
    head = next(line for line in TASK.splitlines() if f"def {method}(" in line)
    content = changed(head, f"{head}\n        raise SystemExit(0)")
    assert (
        raised(write(content)) == f"my_task.py:{line_of('SystemExit', content)}, in {method}: SystemExit: 0"
    )


def test_an_error_that_cannot_say_what_it_is_is_not_told_as_that_of_its_words(write):
    head = "    def loss(self, model, batch):"
    mute = "class Mute(Exception):\n    def __str__(self):\n        return 1 / 0\n"
    content = changed(head, f"{head}\n        raise Mute") + f"\n\n{mute}"
    place = f"my_task.py:{line_of('raise Mute', content)}, in loss"
    assert raised(write(content)) == f"{place}: Mute: (its __str__ raises an error itself)"
    mute = type("Mute", (Exception,), {"__str__": lambda self: 1 / 0})()
    assert is_divergence(mute, [torch.tensor(float("nan"))])
    assert not is_divergence(mute, [torch.zeros(1)])


def test_an_error_inside_torch_is_placed_where_the_user_called_it(write):
    content = changed("nn.Linear(SIZE, 1)", "nn.Linear(SIZE + 1, 1)")
    message = raised(write(content))
    assert message.startswith(f"my_task.py:{line_of('model(batch)', content)}, in loss: RuntimeError: mat1")


def test_an_error_while_it_is_made_has_its_line(write):
    content = changed(
        "    steps = 5", "    def __init__(self):\n        self.data = open('nowhere')\n    steps = 5"
    )
    assert raised(write(content)).startswith(
        f"my_task.py:{line_of('nowhere', content)}, in __init__: FileNotFoundError: "
    )


def test_an_error_that_never_was_in_the_file_is_placed_where_it_arose():
    try:
        torch.zeros(2) @ torch.zeros(3)
        pytest.fail("torch multiplies anything")
    except RuntimeError as error:
        message = tasks.explain(error, Path("my_task.py"))
    assert message.startswith(f"{__file__}:")
    assert "in test_an_error_that_never_was_in_the_file" in message


def test_a_stop_iteration_is_placed_where_the_task_raised_it(write):
    content = changed("factorial(4)", "next(iter([] if model.training else [4]))")
    file = write(content)
    sgd = Trial("tune", "sgd", "thalweg.SGD", {"lr": 0.1}, {"lr": 0.1}, 0)
    with pytest.raises(RuntimeError) as error:
        trials.run(sgd, tasks.load(file))
    at = line_of("next(iter", content)
    assert tasks.explain(error.value, Path(file)) == f"my_task.py:{at}, in loss: StopIteration"


def test_a_file_elsewhere_is_shown_whole(write, tmp_path, monkeypatch):
    write("1 / 0\n")
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert raised("../my_task.py").startswith(f"{tmp_path.resolve()}/my_task.py:1: ZeroDivisionError")


# Checking


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        *[(name, value) for name in COUNTS for value in (0, -1, 2.0, "5", True)],
        ("name", ""), ("name", "a/b"), ("name", None), ("title", 3), ("metric", ""), ("unit", None),
        ("difference_unit", 1), ("higher_is_better", 1), ("margin", -0.1), ("margin", float("nan")),
        ("margin", "2 %"), ("target", float("inf")), ("clip_norm", 0), ("clip_norm", True),
        ("spaces", ["adamw"]), ("spaces", None), ("facts", {"Data": "x"}),
    ],
)  # fmt: skip
def test_a_value_that_is_not_allowed_is_named(write, attribute, value):
    task = tasks.load(write(TASK))
    setattr(task, attribute, value)
    with pytest.raises(TaskError) as error:
        tasks.check(task, Path("my_task.py"))
    assert str(error.value).startswith(f"my_task.py: {attribute} must be ")
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("attribute", COUNTS)
def test_a_missing_attribute_is_named_with_what_it_must_be(write, attribute):
    content = re.sub(rf"    {attribute} = \d\n", "", TASK)
    message = raised(write(content))
    assert message == f"my_task.py: Task lacks {attribute}: a whole number (int) of at least 1"


def test_a_method_with_other_arguments_is_named_with_its_line(write):
    content = changed("def loss(self, model, batch)", "def loss(self, model)")
    line = line_of("def loss", content)
    assert raised(write(content)) == f"my_task.py:{line}, in loss: it must take (model, batch)"


def test_an_object_from_python_is_checked_too(write):
    task = tasks.load(write(TASK))
    assert tasks.check(task) is task
    task.steps = 0
    with pytest.raises(TaskError, match=r"^Task: steps must be .*, not 0 \(int\)$"):
        tasks.check(task)
    with pytest.raises(TaskError, match=r"^Task is a class; give an object of it: Task\(\)$"):
        tasks.check(type(task))
    with pytest.raises(TaskError, match=r"^int: int lacks model, batches, loss, evaluate$"):
        tasks.check(3)


def test_a_class_without_name_is_named_after_itself():
    class Mine:
        steps = batch_size = evaluate_every = 1

        def model(self, seed): ...
        def batches(self, seed): ...
        def loss(self, model, batch): ...
        def evaluate(self, model, split): ...

    assert tasks.check(Mine()).name == "mine"


# Trying


MISTAKES = [
    ("return nn.Linear(SIZE, 1)", "return 3", "model", "it returned 3 (int), not a torch.nn.Module"),
    ("return nn.Linear(SIZE, 1)", "return nn.ReLU()", "model", "the model has no parameters to train"),
    (
        "return nn.Linear(SIZE, 1)",
        "torch.seed(); return nn.Linear(SIZE, 1)",
        "model",
        "equal seeds gave different weights",
    ),
    ("            yield inputs(generator)", "            return\n        yield", "batches",
     "it gave no batch"),
    ("generator = torch.Generator().manual_seed(seed)", "torch.seed(); generator = None", "batches",
     "equal seeds gave different first batches"),
    ("range(self.steps)", "range(self.steps - 2)", "batches",
     "it gave 3 batches, but steps is 5; begin anew when the data are used up"),
    ("        for _ in range(self.steps):\n            yield inputs(generator)", "        return 3",
     "batches", "it returned 3 (int), which gives no batches"),
    (".square().mean()", ".square()", "loss", "it returned a tensor of shape (8, 1), not a scalar tensor"),
    (".square().mean()", ".square().mean().item()", "loss", "(float), not a scalar tensor"),
    (".square().mean()", ".square().mean().detach()", "loss", "the loss cannot be differentiated"),
    (".square().mean()", ".square().mean() * float('nan')", "loss", "the loss before training is nan"),
    ("(model(batch) - factorial(4))", "(batch.requires_grad_())", "loss", "the loss does not depend on"),
    ("(model(batch) - factorial(4)).square()", "(model(batch) * 0).sqrt()", "loss",
     "a gradient before training is not finite"),
    ("return Evaluation(loss, loss)", "return loss", "evaluate", "(float); return Evaluation(metric="),
    ("return Evaluation(loss, loss)", "return (loss, loss)", "evaluate",
     "(tuple); return Evaluation(metric="),
    ("return Evaluation(loss, loss)", "return Evaluation(torch.tensor([loss, 1]), loss)", "evaluate",
     "metric is tensor("),
    ("return Evaluation(loss, loss)", "return Evaluation(loss, float('inf'))", "evaluate",
     "loss is inf before training"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "method", "expected"), MISTAKES)
def test_a_mistake_is_found_before_training(write, old, new, method, expected):
    content = changed(old, new)
    message = raised(write(content))
    assert message.startswith(f"my_task.py:{line_of(f'def {method}(', content)}, in {method}")
    assert expected in message


def test_a_mistake_on_test_alone_is_found_too(write):
    content = changed("loss = self.loss(model", "assert split == 'validation'; loss = self.loss(model")
    expected = f"my_task.py:{line_of('assert', content)}, in evaluate: AssertionError"
    assert raised(write(content)) == expected


def test_trying_changes_neither_the_workload_nor_torchs_generator(write):
    task = tasks.load(write(TASK))
    before = dict(vars(task))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    tasks.smoke(task, Path("my_task.py"))
    assert torch.equal(torch.rand(2), expected)
    assert vars(task) == before


def test_an_endless_workload_is_tried_in_seconds(write, monkeypatch):
    monkeypatch.setattr("thalweg.lab.workload.tasks.trying.COUNTING_SECONDS", 0.05)
    task = tasks.load(write(changed("range(self.steps)", "iter(int, 1)")))
    task.steps = 10**12
    tasks.smoke(task, Path("my_task.py"))


def test_batches_may_be_a_list(write):
    content = changed(
        "        for _ in range(self.steps):\n            yield inputs(generator)",
        "        return [inputs(generator) for _ in range(self.steps)]",
    )
    tasks.smoke(tasks.load(write(content)), Path("my_task.py"))


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]), True),
        (torch.tensor([1.0]), torch.tensor([2.0]), False),
        (torch.tensor([1.0]), torch.tensor([1.0, 1.0]), False),
        ({"x": [1, "a"]}, {"x": [1, "a"]}, True),
        ({"x": [1, "a"]}, {"x": [1, "b"]}, False),
        ((1, 2), (1,), False),
        ((object(),), (object(),), True),
    ],
)
def test_batches_are_equal_when_their_numbers_are(first, second, same):
    assert equal(first, second) is same


def test_errors_of_an_object_from_python_stay_themselves(write):
    task = tasks.load(write(changed("return nn.Linear(SIZE, 1)", "raise KeyError('here')")))
    with pytest.raises(KeyError):
        tasks.smoke(task)


# Other processes


def test_it_travels_with_functions_constants_and_caches(write, tmp_path):
    task = tasks.load(write(TASK + "\n\nTask.factorial = factorial\n"))
    # A study under way does not see what becomes of the file.
    write(changed("SIZE = 3", "SIZE = 4"))
    program = """
        import sys, torch
        assert not any("my_task" in name for name in sys.modules)
        model = workload.model(0)
        torch.nn.init.zeros_(model.weight), torch.nn.init.zeros_(model.bias)
        print(workload.name, model.in_features, workload.loss(model, next(iter(workload.batches(0)))).item())
        print(*type(workload).factorial.cache_info())
    """
    process = in_another_process(task, program, tmp_path)
    assert process.stdout == "my_task 3 576.0\n0 5 None 5\n", process.stderr


LAZY = """


class Lazy(Task):
    @functools.cached_property
    def table(self):
        \"\"\"Twice the size.\"\"\"
        return 2 * SIZE

    @functools.cached_property
    def more(self):
        return self.table + 1
"""


def test_it_travels_with_properties_that_are_cached(write, tmp_path):
    task = tasks.load(write("import functools\n\n" + TASK + LAZY) + ":Lazy")
    assert task.table == 6
    tasks.smoke(task)
    program = """
        print(workload.__dict__["table"], workload.more, type(workload).table.__doc__)
        workload.__dict__.clear()
        print(workload.table, workload.__dict__)
    """
    process = in_another_process(task, program, tmp_path)
    assert process.stdout == "6 7 Twice the size.\n6 {'table': 6}\n", process.stderr


def test_in_another_process_neighbours_are_found_and_errors_have_their_lines(write, tmp_path):
    write("SIZE = 6\n", "my_sizes.py")
    content = changed("SIZE = 3", "from my_sizes import SIZE")
    content = content.replace("        return nn", "        import my_sizes\n\n        return nn")
    content = content.replace("factorial(4)", "factorial(4) + torch.zeros(5, 5)")
    task = tasks.load(write(content))
    program = f"""
        from thalweg.lab.workload import tasks
        file = pathlib.Path({str(tmp_path / "my_task.py")!r})
        tasks.make_importable(file)
        print(workload.model(0).in_features)
        try:
            workload.loss(workload.model(0), next(iter(workload.batches(0))))
        except RuntimeError as error:
            print(tasks.explain(error, file))
    """
    process = in_another_process(task, program, tmp_path)
    size, message = process.stdout.splitlines()
    assert size == "6"
    assert f"my_task.py:{line_of('zeros(5', content)}, in loss: RuntimeError: The size" in message


def test_what_cannot_be_sent_is_told_before_training(write):
    content = changed(
        "    steps = 5",
        "    def __init__(self):\n        self.lock = __import__('_thread').allocate_lock()\n    steps = 5",
    )
    message = raised(write(content))
    assert message.startswith("my_task.py: the workload cannot be sent to worker processes: cannot pickle")
    assert message.endswith(" (self.lock; make it in the method that needs it)")


def test_cached_functions_of_others_are_sent_by_name():
    from thalweg.lab.workload.shipped import text

    tasks.load(str(template.SOURCE))
    assert pickle.loads(pickle.dumps(text.corpus)) is text.corpus


# The template


def test_the_template_is_a_task_that_works(write, tmp_path):
    path = tmp_path / "mine.py"
    template.write(path)
    task = tasks.load("mine.py")
    tasks.smoke(task, path)
    assert task.name == "my-task"
    assert task.facts()["Model"].endswith(
        f"{sum(p.numel() for p in task.model(0).parameters()):,} parameters"
    )


def test_its_optional_lines_work_when_they_are_uncommented(write, tmp_path):
    content = template.SOURCE.read_text()
    optional = re.findall(r"^ *# (?:from \S+ import|\w+ = ).*$", content, flags=re.MULTILINE)
    assert len(optional) == 5
    for line in optional:
        content = content.replace(line, line.replace("# ", "", 1))
    task = tasks.load(write(content))
    assert (task.margin, task.target, task.clip_norm) == (1.0, 95.0, 1.0)
    [space] = task.spaces
    assert space.settings({"lr": 0.1}) == {"lr": 0.1}


def test_it_names_every_attribute_of_the_contract():
    content = template.SOURCE.read_text()
    for name in [*ATTRIBUTES, *METHODS]:
        assert re.search(rf"^ *(# )?(def {name}\(|{name} = )", content, flags=re.MULTILINE), name


def test_the_template_learns(write, tmp_path):
    from thalweg.lab.running.trial import run
    from thalweg.lab.study.record import Trial

    template.write(tmp_path / "mine.py")
    trial = Trial("tune", "adamw", "thalweg.AdamW", {"lr": 0.02}, {"lr": 0.02}, 0)
    assert run(trial, tasks.load("mine.py")).validation.metric > 90


def test_it_overwrites_nothing(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("mine")
    with pytest.raises(ValueError, match="exists already"):
        template.write(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(("name", "message"), [("mine", "must end with .py"), ("no/mine.py", "cannot write")])
def test_where_it_cannot_be_written_it_says_so(tmp_path, name, message):
    with pytest.raises(ValueError, match=message):
        template.write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("reference", ["regression.py", "fine_tuning.py:few", "fine_tuning.py:many"])
def test_the_examples_work(reference, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    task = tasks.load(str(EXAMPLES / reference))
    tasks.smoke(task, EXAMPLES / reference.partition(":")[0])
    assert f"examples/{reference}" in (EXAMPLES / reference.partition(":")[0]).read_text()


def test_every_example_is_tested():
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == [
        "fine_tuning.py",
        "lightning_module.py",
        "plain_function.py",
        "regression.py",
        "transformers_trainer.py",
    ]  # the adapters in test_adapters.py


def test_a_model_that_is_not_new_is_told(write):
    shared = changed("return nn.Linear(SIZE, 1)", "return NET")
    [doubt] = tasks.smoke(tasks.load(write(shared + "\n\nNET = nn.Linear(SIZE, 1)\n")))
    assert doubt.kind == "model"
    assert doubt.text.startswith("my_task.py:")
    assert tasks.smoke(tasks.load(write(TASK))) == ()


SEEDINGS = {
    "evaluate": ("loss = self.loss(model, inputs(", "{}; loss = self.loss(model, inputs("),
    "loss": ("return (model(batch)", "{}; return (model(batch)"),
    "batches": ("yield inputs(generator)", "{}; yield inputs(generator)"),
}
SEED_NUMPY = "import numpy; numpy.random.seed(1)"


@pytest.mark.parametrize(
    ("method", "seeding", "whose"),
    [
        *[(method, "torch.manual_seed(0)", "torch's") for method in SEEDINGS],
        ("evaluate", SEED_NUMPY, "NumPy's"),
        ("evaluate", "import random; random.seed(1); torch.manual_seed(2)", "Python's and torch's"),
        ("batches", "torch.manual_seed(seed)", ""),
        (
            "evaluate",
            "import numpy as n; s = n.random.get_state(); n.random.seed(1); n.random.set_state(s)",
            "",
        ),
        ("evaluate", "torch.randn(3)", ""),
    ],
)
def test_a_method_that_fixes_what_training_draws_is_told(write, method, seeding, whose):
    old, new = SEEDINGS[method]
    doubts = tasks.smoke(tasks.load(write(changed(old, new.format(seeding)))))
    assert {doubt.kind for doubt in doubts} == ({"seeds"} if whose else set())
    told = [
        doubt.text for doubt in doubts if f", in {method}: it seeds {whose} global generator" in doubt.text
    ]
    assert len(told) == bool(whose)


def test_batches_that_no_seed_fixes_later_on_are_told(write):
    late = "for step in range(self.steps):\n            if step == 3: generator.seed()"
    content = changed("for _ in range(self.steps):", late)
    [doubt] = tasks.smoke(tasks.load(write(content)))
    line = line_of("def batches", content)
    assert doubt.kind == "repeat"
    assert (
        f"my_task.py:{line}, in batches: equal seeds gave equal batches at first, but batch 4" in doubt.text
    )


def test_batches_that_follow_a_count_of_epochs_are_not(write):
    content = changed(
        "for _ in range(self.steps):\n            yield inputs(generator)",
        "for step in range(self.steps):\n"
        "            self.epoch = getattr(self, 'epoch', 0) + (step == 2)\n"
        "            yield inputs(generator) + self.epoch",
    )
    assert tasks.smoke(tasks.load(write(content))) == ()


def test_batches_are_marked_by_all_numbers_in_them():
    one = {"x": torch.tensor([1 + 2j]).conj(), "y": ["a", 1], "z": object(), "s": torch.eye(2).to_sparse()}
    other = {**one, "z": object()}
    assert trying._mark(one) == trying._mark(other)
    for name, value in (("x", torch.tensor([1 + 2j])), ("y", ["a", 2]), ("y", ["b", 1])):
        assert trying._mark({**one, name: value}) != trying._mark(one)


def test_a_loss_that_differentiates_itself_is_refused(write):
    content = changed(
        "        return (model(batch) - factorial(4)).square().mean()",
        "        loss = model(batch).mean()\n        loss.backward(retain_graph=True)\n        return loss",
    )
    assert ", in loss: it differentiates the loss itself" in raised(write(content))


def test_an_evaluation_that_changes_the_model_is_told(write):
    content = changed("nn.Linear(SIZE, 1)", "nn.Sequential(nn.BatchNorm1d(SIZE), nn.Linear(SIZE, 1))")
    assert tasks.smoke(tasks.load(write(content))) == ()
    line = "        loss = self.loss("
    [doubt] = tasks.smoke(tasks.load(write(content.replace(line, f"        model.train()\n{line}"))))
    assert doubt.kind == "evaluation"
    assert "it changes the model (0.running_mean, 0.running_var, 0.num_batches_tracked)" in doubt.text


def test_a_file_of_a_package_may_import_relatively(write, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "a_package" / "tasks").mkdir(parents=True)
    for folder in ("a_package", "a_package/tasks"):
        write("", f"{folder}/__init__.py")
    write("SIZE = 6\n", "a_package/sizes.py")
    content = changed("SIZE = 3", "from ..sizes import SIZE")
    task = tasks.load(write(content, "a_package/tasks/mine.py"))
    assert task.model(0).in_features == 6


def test_sparse_gradients_are_no_mistake(write):
    sparse = changed("nn.Linear(SIZE, 1)", "nn.Embedding(9, 1, sparse=True)")
    sparse = sparse.replace("randn(8, SIZE,", "randint(0, 9, (8,),")
    assert tasks.smoke(tasks.load(write(sparse))) == ()


def test_a_model_whose_sizes_come_from_the_first_batch_is_none_either(write):
    assert tasks.smoke(tasks.load(write(changed("nn.Linear(SIZE, 1)", "nn.LazyLinear(1)")))) == ()


@pytest.mark.parametrize(
    ("file", "name"), [("a#b?c%d.py", "a-b-c-d"), ("#1.py", "task-1"), ("random.py", "random")]
)
def test_any_name_of_a_file_will_do(write, file, name):
    assert tasks.load(write(TASK, file)).name == name


def test_an_error_of_a_megabyte_is_one_line_that_can_be_read(write):
    line = "        return (model(batch)"
    broken = changed(line, f"        raise ValueError('x y ' * 250_000)\n{line}")
    with pytest.raises(TaskError) as caught:
        tasks.smoke(tasks.load(write(broken)), Path("my_task.py"))
    assert len(str(caught.value)) < 1000
    assert str(caught.value).endswith("... (1,000,000 characters)")
