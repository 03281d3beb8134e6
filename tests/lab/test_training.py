"""Trainings that are more than a loss and a step of one optimizer."""

import math
from collections import UserDict
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from samples import Line
from torch import Tensor, nn

import thalweg
from thalweg.lab import Axis, Evaluation, Recipe, Space, Together, spaces, tasks
from thalweg.lab.running import trial as trials
from thalweg.lab.running.rehearsal import rehearse
from thalweg.lab.running.schedules import NAMED
from thalweg.lab.study.record import Record, Trial, from_json, to_json
from thalweg.lab.workload.batches import leaves, moved
from thalweg.lab.workload.tasks import TaskError


def run(workload: Any, space: Space | str = "sgd", lr: float = 0.05, stage: Any = "tune") -> Record:
    found = spaces.find(space) if isinstance(space, str) else space
    settings = found.settings({found.axes[0].name: lr})
    return trials.run(
        Trial(stage, found.name, found.optimizer, settings, {found.axes[0].name: lr}, 7),
        workload,
        space=found,
    )


def plain(name: str = "noting", **more: Any) -> Space:
    return Space(name, Noting, (Axis("lr", 1e-4, 1.0),), **more)


class Noting(torch.optim.SGD):
    """Notes rates, gradients and modes."""

    seen: ClassVar[list[dict[str, Any]]] = []

    def step(self, closure=None):
        gradients = [p.grad.to_dense().flatten() for g in self.param_groups for p in g["params"]]
        rates = [group["lr"] for group in self.param_groups]
        self.seen.append({"rates": rates, "gradient": torch.cat(gradients).clone()})
        return super().step(closure)


@pytest.fixture(autouse=True)
def seen(monkeypatch):
    monkeypatch.setattr(Noting, "seen", [])
    return lambda: Noting.seen


def learned(record: Record) -> bool:
    return record.failure is None and record.validation.metric < 0.5 * record.curve[0].metric


# Metrics and batches


class Numbers(Line):
    def evaluate(self, model, split):
        error, loss = super().evaluate(model, split)
        return Evaluation(torch.tensor(error), np.float32(loss))


def test_metrics_may_be_tensors_and_numpys_numbers():
    tasks.smoke(tasks.check(Numbers()))
    record = run(Numbers(), stage="final")
    assert [type(value) for value in (*record.validation, *record.test)] == [float] * 4
    assert type(record.curve[0].metric) is float
    assert from_json(to_json(record)) == record


class Pair(NamedTuple):
    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Example:
    inputs: Tensor
    targets: Tensor
    words: str = "as they are"


class Encoding(UserDict):
    """As transformers' BatchEncoding: no dict, and it moves itself."""

    def to(self, device):
        return Encoding({key: value.to(device) for key, value in self.items()})


BATCHES = [
    lambda x, y: {"inputs": x, "targets": y},
    Pair,
    Example,
    lambda x, y: Encoding(inputs=x, targets=y),
    lambda x, y: UserDict(inputs=x, targets=y),
    lambda x, y: [Example(x, y)],
]


@pytest.mark.parametrize("make", BATCHES)
def test_batches_of_any_form_are_moved_and_compared(make):
    meta = torch.device("meta")
    batch = make(torch.ones(2), torch.zeros(2))
    there = moved(batch, meta)
    assert type(there) is type(batch)
    assert [leaf.device for leaf in leaves(there) if isinstance(leaf, Tensor)] in ([meta] * 2, [meta])
    assert all(leaf.device.type == "cpu" for leaf in leaves(batch) if isinstance(leaf, Tensor))
    if type(batch) is not Encoding:
        assert tasks.trying.equal(batch, make(torch.ones(2), torch.zeros(2)))
        assert not tasks.trying.equal(batch, make(torch.ones(2), torch.ones(2)))


def test_what_has_another_to_stays_as_it_is():
    class Date:
        def to(self, zone):
            raise ValueError(zone)

    date = Date()
    assert moved([date, "text", 3], torch.device("cpu")) == [date, "text", 3]


# Options


@pytest.mark.parametrize("name", ["linear", "cosine", "constant", None])
def test_schedules_by_name(seen, name):
    class Scheduled(Line):
        schedule = name

    run(Scheduled(), plain(), 0.1)
    factor = NAMED[name][0]
    assert [noted["rates"][0] for noted in seen()] == [0.1 * factor(step, 40) for step in range(1, 41)]
    assert name in ("constant", None) or seen()[-1]["rates"][0] < 0.01


def test_a_schedule_of_the_task_is_one_of_torchs(seen):
    class Scheduled(Line):
        def schedule(self, optimizer):
            return thalweg.schedules.cosine(optimizer, self.steps, warmup=4)

    assert tasks.check(Scheduled())
    run(Scheduled(), plain(), 0.1)
    expected = [0.1 * thalweg.schedules.cosine_factor(step, 40, warmup=4) for step in range(40)]
    assert [noted["rates"][0] for noted in seen()] == pytest.approx(expected)


def test_a_schedule_that_waits_for_a_plateau_is_told_the_metric(seen):
    class Scheduled(Line):
        def evaluate(self, model, split):
            return super().evaluate(model, split)._replace(metric=1.0)

        def schedule(self, optimizer):
            return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)

    run(Scheduled(), plain(), 0.1)
    assert sorted({noted["rates"][0] for noted in seen()}) == pytest.approx(
        [0.1 / 2**n for n in (3, 2, 1, 0)]
    )


def test_a_schedule_that_waits_on_the_wrong_side_is_told():
    class Scheduled(Line):
        higher_is_better = True

        def schedule(self, optimizer):
            return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)

    with pytest.raises(tasks.TaskError, match="of which more is better here: mode='max'"):
        run(Scheduled(), plain(), 0.1)


def test_accumulated_gradients_are_those_of_one_large_batch(seen):
    class Whole(Line):
        def batches(self, seed):
            batches = Line.batches(type("", (), {"steps": 2 * self.steps}), seed)
            for first, second in zip(batches, batches, strict=True):
                yield tuple(torch.cat(pair) for pair in zip(first, second, strict=True))

    class Parts(Line):
        accumulate = 2

        def batches(self, seed):
            return Line.batches(type("", (), {"steps": 2 * self.steps}), seed)

    whole = run(Whole(), plain())
    gradients = [noted["gradient"] for noted in seen()]
    seen().clear()
    parts = run(Parts(), plain())
    assert len(seen()) == 40
    for one, other in zip(gradients, seen(), strict=True):
        assert torch.allclose(one, other["gradient"], atol=1e-6)
    assert parts.validation.metric == pytest.approx(whole.validation.metric, rel=1e-3)

    class TooFew(Line):
        accumulate = 2

    with pytest.raises(TaskError, match="gave 40 batches, but steps is 40 and accumulate is 2"):
        tasks.smoke(tasks.check(TooFew()))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_autocast_with_a_scaler_where_it_needs_one(precision):
    class Cast(Line):
        autocast = precision
        clip_norm = 1.0
        dtypes: ClassVar[set[Any]] = set()

        def loss(self, model, batch):
            self.dtypes.add(model(batch[0]).dtype)
            return super().loss(model, batch)

    record = run(Cast(), "sgd", 0.5)
    assert {getattr(torch, precision)} == Cast.dtypes
    assert learned(record)


class Grouped(Line):
    def param_groups(self, model, settings):
        return thalweg.param_groups(model, [("bias", {"lr": settings["lr"] / 10}), ("*", {})])


def test_parameter_groups_by_name_follow_the_schedule(seen):
    run(tasks.check(Grouped()), plain(), 0.1)
    assert seen()[1]["rates"] == pytest.approx([0.1, 0.01]) or seen()[1]["rates"] == pytest.approx(
        [0.01, 0.1]
    )
    assert learned(run(Grouped(), "adamw", 0.1))


# Optimizers


class Sparse(Line):
    clip_norm = 0.5

    def model(self, seed):
        return nn.Embedding(8, 1, sparse=True)

    def batches(self, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self.steps):
            yield torch.randint(0, 8, (4,), generator=generator)

    def loss(self, model, batch):
        return (model(batch).squeeze(1) - batch).square().mean()

    def evaluate(self, model, split):
        loss = self.loss(model, torch.arange(8)).item()
        return Evaluation(loss, loss)


def test_sparse_gradients_are_tried_clipped_and_trained(seen):
    tasks.smoke(tasks.check(Sparse()))
    record = run(Sparse(), plain(), 1.0)
    assert record.failure is None
    assert max(noted["gradient"].norm().item() for noted in seen()) == pytest.approx(0.5, abs=1e-3)
    assert record.validation.metric < record.curve[0].metric


class Sam(torch.optim.Optimizer):
    """Foret et al. 2021: a step needs the loss twice."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        assert closure is not None
        loss = closure()
        for group in self.param_groups:
            saved = [p.detach().clone() for p in group["params"]]
            with torch.no_grad():
                for p in group["params"]:
                    p += 0.05 * p.grad / (p.grad.norm() + 1e-12)
        closure()
        with torch.no_grad():
            for group in self.param_groups:
                for p, before in zip(group["params"], saved, strict=True):
                    p.copy_(before - group["lr"] * p.grad)
        return loss


def test_optimizers_whose_step_needs_a_closure():
    assert learned(run(Line(), Space("lbfgs", "torch.optim.LBFGS", (Axis("lr", 1e-2, 1.0),)), 0.5))
    assert learned(run(Line(), Space("sam", Sam, (Axis("lr", 1e-2, 1.0),), closure=True)))


class ScheduleFree(torch.optim.SGD):
    """As schedulefree's: it must be told which weights are wanted."""

    modes: ClassVar[list[str]] = []

    def train(self):
        self.modes.append("train")

    def eval(self):
        self.modes.append("eval")

    def step(self, closure=None):
        assert self.modes[-1] == "train"
        return super().step(closure)


def test_optimizers_with_train_and_eval_are_told():
    class Watching(Line):
        def evaluate(self, model, split):
            assert ScheduleFree.modes[-1] == "eval"
            return super().evaluate(model, split)

    ScheduleFree.modes.clear()
    assert learned(run(Watching(), Space("free", ScheduleFree, (Axis("lr", 1e-2, 1.0),))))
    assert ScheduleFree.modes[:3] == ["train", "eval", "train"]


def test_averages_are_what_is_evaluated():
    averaged = Recipe("averaged", "sgd", fixed={"average": 0.9}).space()
    record, without = run(Line(), averaged), run(Line(), "sgd")
    assert record.curve[0] == without.curve[0]
    assert record.validation.metric != without.validation.metric
    assert [point.loss for point in record.curve] == [point.loss for point in without.curve]


def test_two_optimizers_are_one_together(seen):
    def make(parameters, lr):
        matrices, others = [], []
        for parameter in parameters:
            (matrices if parameter.ndim == 2 else others).append(parameter)
        return Together(Noting(matrices, lr=lr, momentum=0.9), thalweg.AdamW(others, lr=0.1 * lr))

    space = Space("both", make, (Axis("lr", 1e-3, 1.0),))
    rehearse(Line(), [space])
    seen().clear()
    record = run(Line(), space, 0.05)
    assert learned(record)
    assert [noted["rates"][0] for noted in seen()] == [0.05 * NAMED["linear"][0](s, 40) for s in range(1, 41)]
    assert record.state_bytes >= 4 * (2 + 2 * 1)


# Trainings of one's own


class Gan(Line):
    """Two models, two optimizers, a step of its own."""

    evaluate_every = 20

    def model(self, seed):
        return nn.ModuleDict({"generator": nn.Linear(1, 1), "critic": nn.Linear(1, 1)})

    def param_groups(self, model, settings):
        return {name: part.parameters() for name, part in model.items()}

    def batches(self, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self.steps):
            yield torch.randn(16, 1, generator=generator)

    loss = None

    def training_step(self, run, batch):
        made = run.model["generator"](batch)
        run.update(run.model["critic"](made.detach()).mean().square(), "critic")
        return run.update((made - 3).square().mean(), "generator")

    def evaluate(self, model, split):
        loss = (model["generator"].bias - 3).square().mean().item()
        return Evaluation(loss, loss)


def test_several_models_with_an_optimizer_each():
    task = tasks.check(Gan())
    tasks.smoke(task)
    record = run(task, "adamw", 0.1)
    assert learned(record)
    assert record == run(task, "adamw", 0.1)
    assert [point.step for point in record.curve] == [0, 20, 40]
    assert record.state_bytes >= 4 * 2 * 4  # two numbers of state for each of four parameters


class Bandit:
    """Reinforcement learning: no batches, a generator that yields a loss for every step."""

    steps, batch_size, evaluate_every = 40, 8, 10
    clip_norm = 1.0

    def model(self, seed):
        return nn.ParameterDict({"logits": torch.zeros(4)})

    def training_loop(self, run):
        memory: list[tuple[int, float]] = []
        while True:
            policy = torch.distributions.Categorical(logits=run.model["logits"])
            memory += [(action, float(action == 2)) for action in policy.sample((8,)).tolist()]
            actions, rewards = map(torch.tensor, zip(*memory[-16:], strict=True))
            yield run.update(-(policy.log_prob(actions) * (rewards - 0.25)).mean())

    def evaluate(self, model, split):
        chance = model["logits"].softmax(0)[2].item()
        return Evaluation(1 - chance, 1 - chance)


def test_a_loop_of_ones_own():
    task = tasks.check(Bandit())
    tasks.smoke(task)
    record = run(task, "sgd", 10.0)
    assert learned(record)
    assert [point.step for point in record.curve] == [0, 10, 20, 30, 40]
    assert record == run(task, "sgd", 10.0)


def test_a_loop_that_ends_early_is_told():
    class Short(Bandit):
        def training_loop(self, run):
            yield run.update(run.model["logits"].square().sum())

    with pytest.raises(ValueError, match="gave 1 batches but states 40 steps"):
        run(tasks.check(Short()))


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("schedule", "step"), ("accumulate", 0), ("autocast", "int8"), ("recipes", ["adamw"]), ("schedule", 3)],
)
def test_an_option_that_is_not_allowed_is_named(attribute, value):
    task = Line()
    setattr(task, attribute, value)
    with pytest.raises(TaskError, match=f"Line: {attribute} must be "):
        tasks.check(task)


def test_options_that_do_not_agree_are_told():
    class Both(Gan):
        training_loop = Bandit.training_loop

    with pytest.raises(TaskError, match="training_step and training_loop; one of them"):
        tasks.check(Both())

    class Accumulating(Gan):
        accumulate = 2

    with pytest.raises(TaskError, match="accumulate has no effect beside training_step"):
        tasks.check(Accumulating())


# Classes from notebooks, and recipes


def test_a_class_is_called_by_its_name_and_travels_with_its_space():
    own = Space("mine", Noting, (Axis("lr", 1e-3, 1.0),), fixed={"momentum": 0.5, "foreach": False})
    assert own.optimizer == f"{__name__}.Noting"
    assert own.build(nn.Linear(2, 1).parameters(), own.settings({"lr": 0.1})).defaults["momentum"] == 0.5

    class Inside(Line):
        spaces = (own,)

    trial = Trial("tune", "mine", own.optimizer, own.settings({"lr": 0.1}), {"lr": 0.1}, 7)
    assert trials.space_of(trial, Inside()) is own
    assert learned(trials.run(trial, Inside()))


def test_fixed_arguments_may_be_what_no_file_can_hold():
    def around(params, lr, base):
        return base(params, lr=lr)

    space = Space("around", around, (Axis("lr", 1e-3, 1.0),), fixed={"base": torch.optim.SGD})
    settings = space.settings({"lr": 0.1})
    assert settings == {"lr": 0.1, "base": "torch.optim.sgd.SGD"}
    record = run(Line(), space)
    assert learned(record)
    assert from_json(to_json(record)).trial.key == record.trial.key


class Cooking(Line):
    size = 2
    recipes = (
        Recipe("plain", "sgd"),
        Recipe("cosine", "sgd", schedule="cosine", clip_norm=0.1),
        Recipe("large", "adamw", batch_size=32, steps=20),
        Recipe("fixed", "adamw", fixed={"weight_decay": 0.1}),
    )

    def batches(self, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(self.steps):
            inputs = torch.randn(self.batch_size, 2, generator=generator)
            yield inputs, inputs.sum(dim=1, keepdim=True)


def test_recipes_change_the_task_for_themselves_alone():
    task = tasks.check(Cooking())
    plain_, cosine, large, fixed = spaces.resolve(["all"], task.recipes)
    assert [space.name for space in (plain_, cosine, large, fixed)] == ["plain", "cosine", "large", "fixed"]
    rehearse(task, [plain_, cosine, large, fixed])
    assert (cosine.applied(task).schedule, task.schedule) == ("cosine", "linear")
    assert run(task, plain_).curve == run(task, "sgd").curve
    assert run(task, cosine).curve != run(task, plain_).curve
    assert [point.step for point in run(task, large).curve] == [0, 8, 16, 20]
    assert next(iter(large.applied(task).batches(0)))[0].shape == (32, 2)
    assert fixed.settings({"lr": 0.1})["weight_decay"] == 0.1
    assert "weight_decay" not in [axis.name for axis in fixed.axes]


def test_a_record_of_a_recipe_can_be_run_again_from_the_task():
    task = Cooking()
    [cosine] = spaces.resolve(["cosine"], task.recipes)
    record = run(task, cosine)
    assert trials.run(record.trial, task) == record


WRONG = [
    (Recipe("r", "adamw", clip=1.0), "the task has no 'clip' that the recipe could change"),
    (Recipe("r", "adamw", schedule="stairs"), "schedule must be "),
    (Recipe("r", "sgd", fixed={"nesterof": True}), "nesterof"),
    (Recipe("r", Space("x", "torch.optim.NoSuch", (Axis("lr", 1e-3, 1.0),))), "no optimizer at"),
]


@pytest.mark.parametrize(("recipe", "words"), WRONG)
def test_what_is_wrong_with_a_recipe_is_told_before_the_first_run(recipe, words):
    with pytest.raises(TaskError) as error:
        rehearse(Line(), [recipe.space(), spaces.find("adamw")])
    assert str(error.value).startswith("r: ")
    assert words in str(error.value)


def test_a_batch_size_without_effect_is_told():
    with pytest.raises(TaskError, match=r"large: batch_size has no effect"):
        rehearse(Line(), [Recipe("large", "adamw", batch_size=64).space()])


def test_all_that_is_wrong_is_told_at_once_of_optimizers_too():
    with pytest.raises(TaskError, match=r"adamw: .*sparse.*; r: .*nesterof"):
        rehearse(Sparse(), [Space("adamw", "torch.optim.AdamW", (Axis("lr", 1e-3, 1.0),)),
                            Recipe("r", "sgd", fixed={"nesterof": True}).space()])  # fmt: skip


def test_recipes_are_found_by_name_and_need_a_rate():
    with pytest.raises(ValueError, match="unknown recipe 'no'; there are: plain, cosine"):
        spaces.resolve(["no"], Cooking.recipes)
    with pytest.raises(ValueError, match="unknown recipe 'no'; there are: none"):
        spaces.resolve(["no"], ())
    with pytest.raises(ValueError, match="recipe 'r': the learning rate is searched"):
        Recipe("r", "adamw", fixed={"lr": 1.0}).space()
    with pytest.raises(ValueError, match="recipe 'r': unknown optimizer"):
        Recipe("r", "adamv").space()


# Old tasks


class Old:
    """An object without a base, as ever."""

    steps, batch_size, evaluate_every = 40, 8, 8
    model, batches, loss, evaluate = Line.model, Line.batches, Line.loss, Line.evaluate
    scale = 1.0


def test_old_tasks_train_as_they_did():
    record = run(tasks.check(Old()))
    assert record.curve == run(Line()).curve
    assert math.isfinite(record.validation.metric)
