"""Trainings written for something else; those of packages that are not installed are skipped."""

import math
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import nn

from thalweg.lab import spaces, tasks
from thalweg.lab.running import trial as trials
from thalweg.lab.running.rehearsal import rehearse
from thalweg.lab.study.record import Trial
from thalweg.lab.workload.adapters import FunctionTask, TransformersTask
from thalweg.lab.workload.tasks import TaskError

EXAMPLES = Path(__file__).parents[2] / "examples"


def needs(module: str, name: str) -> None:
    """Skip where a package is missing, or cannot be imported beside what else is installed."""
    try:
        getattr(import_module(module), name)
    except Exception as error:
        pytest.skip(f"{module}: {error}")


def run(task, name="adamw", lr=0.01, stage="final"):
    space = spaces.find(name)
    trial = Trial(stage, name, space.optimizer, space.settings({space.axes[0].name: lr}), {"lr": lr}, 3)
    return trials.run(trial, task)


def test_a_lightning_module_with_its_data_module():
    needs("lightning.pytorch", "LightningModule")
    task = tasks.load(str(EXAMPLES / "lightning_module.py"))
    tasks.smoke(task, EXAMPLES / "lightning_module.py")
    record = run(task)
    assert record.failure is None
    assert record.curve[0].metric < 30
    assert record.validation.metric > 90
    assert 85 < record.test.metric != record.validation.metric
    assert run(task) == record
    # As Lightning's own evaluation: the same weights give the same numbers.
    import lightning.pytorch as lightning

    torch.manual_seed(0)
    model = task.model(0)
    ours = task.evaluate(model.eval(), "validation")
    del model.__dict__["log"]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(accelerator="cpu", enable_model_summary=False, **quiet)
    [theirs] = trainer.validate(model, task.data, verbose=False)
    assert ours.metric == pytest.approx(theirs["val_acc"], rel=1e-5)
    assert ours.loss == pytest.approx(theirs["val_loss"], rel=1e-5)


def test_what_is_not_logged_is_told():
    needs("lightning.pytorch", "LightningModule")
    task = tasks.load(str(EXAMPLES / "lightning_module.py"))
    task.metric = "val_f1"
    with pytest.raises(TaskError, match="'val_f1' is not logged; there are: val_loss, val_acc"):
        tasks.smoke(task)


def test_a_trainers_model_data_and_collator():
    needs("transformers", "Trainer")
    needs("accelerate", "Accelerator")
    task = tasks.load(str(EXAMPLES / "transformers_trainer.py"))
    assert (task.steps, task.batch_size, task.schedule, task.clip_norm) == (150, 32, "cosine", 1.0)
    tasks.smoke(task, EXAMPLES / "transformers_trainer.py")
    task.steps, task.evaluate_every = 40, 20
    record = run(task)
    assert record.failure is None
    assert record.validation.metric > 60
    assert record.validation.loss < 0.7
    assert run(task) == record


class Squares(nn.Module):
    """As a model of transformers: it returns its loss."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, inputs, labels=None):
        outputs = self.linear(inputs)
        loss = None if labels is None else (outputs - labels).square().mean()
        return {"loss": loss, "logits": outputs}


def rows(count):
    return [{"inputs": [x / count], "labels": [2 * x / count]} for x in range(count)]


def stacked(examples):
    return {key: torch.tensor([example[key] for example in examples]) for key in examples[0]}


def test_a_model_that_returns_its_loss_needs_no_package():
    model = Squares()
    nn.init.constant_(model.linear.weight, -1.0)  # as far away whatever the generator's state
    nn.init.zeros_(model.linear.bias)
    task = TransformersTask(
        model, rows(32), rows(12), rows(10), stacked, steps=60, batch_size=8, schedule="constant"
    )
    tasks.smoke(tasks.check(task))
    record = run(task, "sgd", 0.05)
    assert record.validation.metric < 0.5 * record.curve[0].metric
    assert record.validation.metric == record.validation.loss
    with pytest.raises(TaskError, match="32 examples to train on are no batch of 64"):
        next(TransformersTask(Squares, rows(32), [], [], stacked, steps=1, batch_size=64).batches(0))


def test_a_plain_function_that_reports():
    task = tasks.load(str(EXAMPLES / "plain_function.py"))
    tasks.smoke(task, EXAMPLES / "plain_function.py")
    rehearse(task, [spaces.find("sgd")])
    record = run(task, lr=0.02)
    assert [point.step for point in record.curve] == [0, 40, 80, 120, 160, 200]
    assert record.validation.metric < 0.5 * record.curve[0].metric
    assert record.test.metric != record.validation.metric
    assert record.state_bytes > 2 * 4 * 32
    assert run(task, lr=0.02) == record
    assert run(task, lr=0.02, stage="tune").test is None


def test_a_function_that_diverges_is_left():
    after = []

    def train(config):
        config.optimizer([nn.Parameter(torch.zeros(1))])
        config.report(step=0, metric=1.0)
        config.report(step=5, metric=math.nan)
        after.append("went on")

    record = run(FunctionTask(train, steps=10, batch_size=1))
    assert (record.failure.kind, record.failure.text, record.failure.step) == (
        "diverged",
        "the metric is nan at step 5",
        5,
    )
    assert (after, record.validation) == ([], None)


def silent(config):
    config.optimizer([nn.Parameter(torch.zeros(1))])


def without_test(config):
    silent(config)
    config.report(step=1, metric=torch.tensor(1.0))


def without_optimizer(config):
    config.report(step=1, metric=1.0, test=1.0)


@pytest.mark.parametrize(
    ("function", "words"),
    [(silent, "without a report"), (without_test, "no test metric"), (without_optimizer, "did not call")],
)
def test_a_function_that_says_too_little_is_told(function, words):
    task = tasks.check(FunctionTask(function, steps=10, batch_size=1))
    with pytest.raises(ValueError, match=words):
        run(task)
