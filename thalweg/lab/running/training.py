"""How a run trains: its model, its optimizers, and one step with them, in whatever form a task has it."""

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.lab.running import resuming
from thalweg.lab.running.attributes import Kept
from thalweg.lab.running.drawing import Batches
from thalweg.lab.running.schedules import Schedule
from thalweg.lab.spaces import Space
from thalweg.lab.workload.batches import leaves, moved, numbers
from thalweg.lab.workload.contract import Workload, option
from thalweg.lab.workload.errors import ResumingError
from thalweg.lab.workload.tasks.errors import brief_error

MAIN = "main"
"""What a single optimizer is called."""


class Training:
    """A model under training: what tasks know as `thalweg.lab.Run`.

    Args:
        workload: what is trained, with the changes of a recipe.
        model: new, where it trains.
        space: how the optimizer is built.
        settings: of the optimizer.
        seed: of this run.
    """

    def __init__(
        self, workload: Workload, model: nn.Module, space: Space, settings: Mapping[str, Any], seed: int
    ) -> None:
        self.model, self.seed, self.step = model, seed, 0
        self.device = next(model.parameters()).device
        self.workload = workload
        self._grouped = option(workload, "param_groups") is not None
        self.optimizers = {
            name: space.build(parameters, settings) for name, parameters in self._parameters(settings).items()
        }
        self.schedules = [
            Schedule(option(workload, "schedule"), optimizer, workload.steps, workload.higher_is_better)
            for optimizer in self.optimizers.values()
        ]
        precision = option(workload, "autocast")
        self._dtype = None if precision is None else getattr(torch, precision)
        # Gradients of float16 vanish unless they are scaled.
        self.scaler = torch.amp.GradScaler(self.device.type) if precision == "float16" else None
        self._with_closure = [
            _needs_closure(optimizer) if space.closure is None else space.closure
            for optimizer in self.optimizers.values()
        ]
        self._step_seconds: float | None = None
        self.drawn: Batches | None = None
        self._resumed: Mapping[str, Any] | None = None
        self._set_mode("train")

    def _parameters(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        groups = option(self.workload, "param_groups")
        if groups is None:
            return {MAIN: self.model.parameters()}
        found = groups(self.model, dict(settings))
        return found if isinstance(found, Mapping) else {MAIN: found}

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, where there is one."""
        if len(self.optimizers) > 1:
            raise ValueError(
                f"there are several optimizers: {', '.join(self.optimizers)}; use run.optimizers"
            )
        return next(iter(self.optimizers.values()))

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of forward passes."""
        return nullcontext() if self._dtype is None else torch.autocast(self.device.type, self._dtype)

    def update(self, loss: Tensor, name: str | None = None) -> float:
        """Zeroes gradients, differentiates, clips and steps the optimizer of that name; returns the loss."""
        optimizer = self.optimizer if name is None else self.optimizers[name]
        optimizer.zero_grad()
        self._backward(loss)
        self._clip(optimizer)
        self._take(optimizer)
        if self.scaler is not None:
            self.scaler.update()
        return loss.item()

    def steps(self) -> Iterator[tuple[float, float, float]]:
        """Takes the steps one by one: the loss of each, its seconds, and those of the optimizer alone."""
        loop = option(self.workload, "training_loop")
        own_step = option(self.workload, "training_step")
        before = resuming.held_by(self) if self._resumed else {}
        if loop is not None:
            self._go_on(before)
            yield from self._timed(iter(loop(self)))
            return
        batches = self.drawn = self._begun()
        self._go_on(before)
        if own_step is not None:
            yield from self._timed(own_step(self, self._moved(batch)) for batch in batches)
            return
        each = option(self.workload, "accumulate")
        yield from self._timed(
            self._one(several)
            for several in iter(lambda: [self._moved(batch) for batch in islice(batches, each)], [])
            if len(several) == each
        )

    def resume(self, state: Mapping[str, Any], then: Callable[[], Any]) -> None:
        """Has `steps` go on from what `resuming.state_of` gave, and call `then` before it takes a step.

        It raises ResumingError where that is not possible.
        """
        self._resumed, self._then = state, then

    def _begun(self) -> Batches:
        position = self._resumed and self._resumed["batches"]
        try:
            return Batches(lambda: self.workload.batches(self.seed), self.device, position)
        except Exception as error:
            if position is None:
                raise
            raise ResumingError(brief_error(error)) from error

    def _go_on(self, before: Kept) -> None:
        if self._resumed is not None:
            resuming.load(self, self._resumed, before)
            self._resumed = None
            self._then()

    def evaluated(self, metric: float) -> None:
        """Tells schedules what validation gave."""
        for schedule in self.schedules:
            schedule.evaluated(metric)

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The model as it is evaluated: in evaluation mode, without gradients, with averages for weights."""
        self.model.eval()
        with ExitStack() as stack:
            for optimizer in self.optimizers.values():
                if self.step and any(group.get("average") for group in optimizer.param_groups):
                    averaged: Any = getattr(optimizer, "averaged", None)
                    if averaged is not None:
                        stack.enter_context(averaged(self.model if len(self.optimizers) == 1 else None))
            # After the averages, which our own optimizers would put in place here without the buffers.
            self._set_mode("eval")
            stack.enter_context(torch.no_grad())
            yield self.model
        self._set_mode("train")
        self.model.train()

    def state_bytes(self) -> int:
        """Bytes of optimizer state beside the parameters."""
        return sum(map(state_bytes, self.optimizers.values()))

    def _timed(self, losses: Iterator[Any]) -> Iterator[tuple[float, float, float]]:
        """Sets rates before each step and counts it after; batches are drawn outside of the clock."""
        while True:
            self.step += 1
            for schedule in self.schedules:
                schedule.before(self.step)
            self._step_seconds, self._began = None, self._now()
            try:
                loss = next(losses)
            except StopIteration:
                self.step -= 1
                return
            ended = self._now()
            for schedule in self.schedules:
                schedule.after()
            if self.step == 1 and self.drawn is not None:
                self.drawn.settle()
            seconds = ended - self._began
            yield _number(loss), seconds, seconds if self._step_seconds is None else self._step_seconds

    def _moved(self, batch: Any) -> Any:
        batch = moved(batch, self.device)
        self._began = self._now()
        return batch

    def _one(self, batches: list[Any]) -> float:
        """A step on the loss of the workload, averaged over the batches."""
        if any(self._with_closure):
            return self._with_closures(batches)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        loss = self._differentiated(batches)
        for optimizer in self.optimizers.values():
            self._clip(optimizer)
        before_step = self._now()
        for optimizer in self.optimizers.values():
            self._take(optimizer)
        if self.scaler is not None:
            self.scaler.update()
        self._step_seconds = self._now() - before_step
        return loss

    def _with_closures(self, batches: list[Any]) -> float:
        """The same of optimizers that ask for the loss themselves, some of them several times."""
        first: list[float] = []
        for optimizer in self.optimizers.values():

            def closure(optimizer: Optimizer = optimizer) -> Any:
                with torch.enable_grad():
                    optimizer.zero_grad()
                    loss = self._differentiated(batches)
                self._clip(optimizer)
                first.append(loss)
                return torch.tensor(first[-1], device=self.device)

            optimizer.step(closure)
        if not first:
            raise ValueError(f"{type(self.optimizer).__name__}.step did not call the closure it was given")
        return first[0]

    def _differentiated(self, batches: list[Any]) -> float:
        """Adds up gradients, and returns the mean loss."""
        losses = []
        for batch in batches:
            with self.autocast():
                loss = self.workload.loss(self.model, batch)
            self._backward(loss if len(batches) == 1 else loss / len(batches))
            losses.append(loss.detach())
        return sum(float(loss) for loss in losses) / len(losses)

    def _backward(self, loss: Tensor) -> None:
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def _clip(self, optimizer: Optimizer) -> None:
        norm = self.workload.clip_norm
        if norm is None:
            return
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        # All parameters of a model at once, unless several optimizers have a share each.
        alone = len(self.optimizers) == 1
        groups = optimizer.param_groups
        clip(self.model.parameters() if alone else (p for group in groups for p in group["params"]), norm)

    def _take(self, optimizer: Optimizer) -> None:
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)

    def _set_mode(self, mode: str) -> None:
        """Schedule-free optimizers exchange the weights between training and evaluation."""
        for optimizer in self.optimizers.values():
            change = getattr(optimizer, mode, None)
            if callable(change):
                change()

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def clip(parameters: Iterable[Tensor], norm: float) -> None:
    """Scales gradients to this Euclidean norm of all where theirs is larger; sparse ones too."""
    held = [parameter for parameter in parameters if parameter.grad is not None]
    if not any(parameter.grad is not None and parameter.grad.is_sparse for parameter in held):
        nn.utils.clip_grad_norm_(held, norm)
        return
    total = torch.stack([numbers(p.grad).norm() for p in held if p.grad is not None]).norm()
    factor = torch.clamp(norm / (total + 1e-6), max=1.0)
    for parameter in held:
        assert parameter.grad is not None
        parameter.grad.mul_(factor)


def state_bytes(optimizer: Optimizer) -> int:
    """Bytes of an optimizer's state beside the parameters."""
    tensors = [
        value for state in optimizer.state.values() for value in leaves(state) if isinstance(value, Tensor)
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _needs_closure(optimizer: Optimizer) -> bool:
    """Whether a step cannot be taken without one, as LBFGS's."""
    try:
        parameter = inspect.signature(type(optimizer).step).parameters["closure"]
    except (KeyError, TypeError, ValueError):
        return False
    return parameter.default is inspect.Parameter.empty


def _number(loss: Any) -> float:
    return float(loss.detach() if isinstance(loss, Tensor) else loss)
