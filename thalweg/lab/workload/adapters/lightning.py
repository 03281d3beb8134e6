"""A LightningModule with its DataModule, as it is."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from thalweg.lab.workload.adapters.means import Means, size_of
from thalweg.lab.workload.batches import moved
from thalweg.lab.workload.contract import Evaluation, Split, Workload, device_of
from thalweg.lab.workload.tasks.errors import TaskError


class LightningTask(Workload):
    """Trains `training_step`, evaluates `validation_step` and `test_step`, and reads what they log.

    `configure_optimizers` is not called: the optimizer is what is compared, and the schedule is the task's.
    Nor are callbacks and hooks, but for `on_validation_epoch_start` and `.._end` and those of the test.

    Args:
        module: makes a new module; the lab has seeded torch before.
        data: makes the data module. Its training loader shuffles by torch's generator, as loaders do.
        steps: optimizer steps of one run.
        batch_size: examples in a batch of the data module, for the report.
        evaluate_every: steps between two evaluations; by default a tenth.
        metric: what decides, by the name under which validation logs it.
        loss: the mean loss, likewise.
        more: what a task may have: `higher_is_better`, `unit`, `margin`, `clip_norm`, `schedule`, ...
    """

    def __init__(
        self,
        module: Callable[[], Any],
        data: Callable[[], Any],
        *,
        steps: int,
        batch_size: int,
        evaluate_every: int | None = None,
        metric: str = "val_loss",
        loss: str = "val_loss",
        **more: Any,
    ) -> None:
        self.steps, self.batch_size = steps, batch_size
        self.evaluate_every = evaluate_every or max(1, steps // 10)
        self.module, self.make_data = module, data
        self.metric, self.logged_loss = metric, loss
        for name, value in more.items():
            setattr(self, name, value)

    @cached_property
    def data(self) -> Any:
        """The data module, set up; made once in each process."""
        data = self.make_data()
        data.prepare_data()
        for stage in ("fit", "test"):
            data.setup(stage)
        return data

    def __getstate__(self) -> dict[str, Any]:
        # The data travel as what makes them.
        return {name: value for name, value in vars(self).items() if name != "data"}

    def model(self, seed: int) -> nn.Module:
        """A new module, whose logs go nowhere but to `evaluate`."""
        model: nn.Module = self.module()
        if not getattr(model, "automatic_optimization", True):
            raise TaskError(
                f"{type(model).__name__} optimizes by hand: a task needs its `training_step` "
                "(docs/training.md)"
            )
        object.__setattr__(model, "log", lambda *_, **__: None)
        return model

    def batches(self, seed: int) -> Iterator[Any]:
        """Epoch after epoch of the training loader."""
        loader = self.data.train_dataloader()
        while True:
            yield from loader

    def loss(self, model: Any, batch: Any) -> Tensor:
        """What `training_step` returns, or its entry ``loss``."""
        given = model.training_step(batch, 0)
        found: Tensor = given["loss"] if isinstance(given, dict) else given
        return found

    def evaluate(self, model: Any, split: Split) -> Evaluation:
        """The means of what is logged over the loader of a split, as Lightning's over an epoch."""
        test = split == "test" and _has(model, "test_step")
        kind = "test" if test else "validation"
        loader = self.data.test_dataloader() if split == "test" else self.data.val_dataloader()
        means, metrics, device = Means(), dict[str, Any](), device_of(model)
        size = 1

        def log(name: str, value: Any, *_: Any, batch_size: int | None = None, **__: Any) -> None:
            if hasattr(value, "compute"):
                metrics[name] = value
            else:
                means.add(name, value, batch_size or size)

        object.__setattr__(model, "log", log)
        try:
            _call(model, f"on_{kind}_epoch_start")
            for index, batch in enumerate(loader):
                size = size_of(batch)
                getattr(model, f"{kind}_step")(moved(batch, device), index)
            _call(model, f"on_{kind}_epoch_end")
        finally:
            object.__setattr__(model, "log", lambda *_, **__: None)
        found = {**means.values(), **{name: float(value.compute()) for name, value in metrics.items()}}
        for value in metrics.values():
            value.reset()
        return Evaluation(*(_named(found, name, test) for name in (self.metric, self.logged_loss)))


def _named(found: dict[str, float], name: str, test: bool) -> float:
    """A logged value; in a test step ``val_loss`` may be called ``test_loss``."""
    names = [name.replace("val", "test", 1), name] if test else [name]
    for one in names:
        if one in found:
            return found[one]
    raise TaskError(f"{names[0]!r} is not logged; there are: {', '.join(found) or 'none'}")


def _has(model: Any, method: str) -> bool:
    """Whether a module has a step of its own, not Lightning's empty one."""
    return (
        "lightning"
        not in getattr(getattr(type(model), method, None), "__module__", "lightning").split(".")[0]
    )


def _call(model: Any, hook: str) -> None:
    if (method := getattr(model, hook, None)) is not None:
        method()
