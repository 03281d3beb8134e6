"""What a training under way consists of, and how a new one goes on from it: bit for bit, or not at all."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.lab.running.attributes import Kept, kept, owners, put_back
from thalweg.lab.running.drawing import Batches
from thalweg.lab.running.schedules import Schedule
from thalweg.lab.workload import chance
from thalweg.lab.workload.contract import option
from thalweg.lab.workload.errors import ResumingError
from thalweg.lab.workload.tasks.errors import brief_error

COMPARED = ("model", "optimizers", "schedules", "scaler", "gradients", "chance")
"""What must read back as it was saved."""


class Training(Protocol):
    """What is looked at of a training."""

    workload: Any
    model: nn.Module
    optimizers: dict[str, Optimizer]
    schedules: list[Schedule]
    scaler: torch.amp.GradScaler | None
    drawn: Batches | None
    device: torch.device
    step: int


def state_of(training: Training) -> dict[str, Any]:
    """All that the next step depends on; it shares memory with the training.

    Raises:
        ResumingError: part of it cannot be known.
    """
    workload = training.workload
    if option(workload, "training_loop") is not None and not _has_hooks(workload):
        raise ResumingError("a training_loop needs the task's state_dict and load_state_dict")
    batches = training.drawn
    return {
        "step": training.step,
        "batches": None if batches is None else batches.position(),
        "task": workload.state_dict() if _has_hooks(workload) else None,
        "kept": held_by(training),
        **_compared(training),
    }


def held_by(training: Training) -> Kept:
    """What is kept of objects."""
    return kept(owners(training.workload, training.model, training.optimizers))


def load(training: Training, state: Mapping[str, Any], before: Kept) -> None:
    """Makes a new training, whose batches are where they were, go on from what `state_of` gave.

    Args:
        training: no step of it has been taken.
        state: what it becomes.
        before: what `held_by` gave before batches were drawn.

    Raises:
        ResumingError: it would not go on as it would have.
    """
    try:
        _load(training, state, before)
    except ResumingError:
        raise
    except Exception as error:
        raise ResumingError(brief_error(error)) from error
    found = _compared(training)
    if different := [part for part in COMPARED if not _same(found[part], state[part])]:
        raise ResumingError(f"{' and '.join(different)} did not come back as saved")


def _load(training: Training, state: Mapping[str, Any], before: Kept) -> None:
    after = held_by(training)
    _load_model(training.model, state["model"])
    for name, optimizer in training.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    for schedule, saved in zip(training.schedules, state["schedules"], strict=True):
        schedule.load(saved)
    if training.scaler is not None:
        training.scaler.load_state_dict(state["scaler"])
    found = owners(training.workload, training.model, training.optimizers)
    put_back(found, before, after, state["kept"])
    if _has_hooks(training.workload):
        training.workload.load_state_dict(state["task"])
    for name, parameter in training.model.named_parameters():
        gradient = state["gradients"].get(name)
        parameter.grad = None if gradient is None else gradient.to(parameter.device)
    training.step = state["step"]
    chance.restore(state["chance"], training.device)


def _compared(training: Training) -> dict[str, Any]:
    model = training.model
    # Else they are made anew by every step.
    has_own = any(option(training.workload, name) is not None for name in ("training_step", "training_loop"))
    gradients = {name: p.grad for name, p in model.named_parameters() if has_own and p.grad is not None}
    return {
        "model": {
            "parameters": {name: parameter.detach() for name, parameter in model.named_parameters()},
            "buffers": dict(model.named_buffers()),
            "extra": {
                name: module.get_extra_state() for name, module in model.named_modules() if _has_extra(module)
            },
        },
        "optimizers": {name: optimizer.state_dict() for name, optimizer in training.optimizers.items()},
        "schedules": [schedule.state() for schedule in training.schedules],
        "scaler": None if training.scaler is None else training.scaler.state_dict(),
        "gradients": gradients,
        "chance": chance.states(device=training.device),
    }


def _load_model(model: nn.Module, saved: Mapping[str, Any]) -> None:
    parameters = dict(model.named_parameters())
    if parameters.keys() != saved["parameters"].keys():
        raise ResumingError("the model has other parameters")
    with torch.no_grad():
        for name, parameter in parameters.items():
            value = saved["parameters"][name]
            if (value.shape, value.dtype) != (parameter.shape, parameter.dtype):
                raise ResumingError(f"parameter {name} has another shape or dtype")
            parameter.copy_(value)
        for name, value in saved["buffers"].items():
            _load_buffer(model, name, value)
    for name, module in model.named_modules():
        if name in saved["extra"]:
            module.set_extra_state(saved["extra"][name])


def _load_buffer(model: nn.Module, name: str, value: Tensor) -> None:
    path, _, key = name.rpartition(".")
    module = model.get_submodule(path)
    present = module._buffers.get(key)
    if present is not None and (present.shape, present.dtype) == (value.shape, value.dtype):
        present.copy_(value)
    else:
        module._buffers[key] = value.to(next(model.parameters()).device)


def _has_extra(module: nn.Module) -> bool:
    return type(module).get_extra_state is not nn.Module.get_extra_state


def _has_hooks(workload: Any) -> bool:
    return all(callable(getattr(workload, name, None)) for name in ("state_dict", "load_state_dict"))


def _same(first: Any, second: Any) -> bool:
    """Whether two trees of tensors are the same, bit for bit."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return _same_tensor(first, second)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(_same(first[key], second[key]) for key in first)
    if isinstance(first, Sequence) and isinstance(second, Sequence) and not isinstance(first, str | bytes):
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(first == second or (first != first and second != second))


def _same_tensor(first: Tensor, second: Tensor) -> bool:
    if (first.shape, first.dtype, first.layout) != (second.shape, second.dtype, second.layout):
        return False
    first, second = first.detach().cpu(), second.detach().cpu()
    if first.layout != torch.strided or first.is_quantized:
        return bool(torch.equal(first.to_dense(), second.to_dense()))
    ours, theirs = (value.contiguous().reshape(-1).view(torch.uint8) for value in (first, second))
    return torch.equal(ours, theirs)
