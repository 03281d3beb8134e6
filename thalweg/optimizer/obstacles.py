"""What keeps parameters from being stepped in backward, each with its reason."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

from thalweg.rule import Recipe
from thalweg.storage.layout import has_memory

_BEGINS = {torch.autograd.backward.__code__, torch.autograd.grad.__code__}
"""What begins a backward pass."""


def refuse_several_devices(params: Sequence[Tensor]) -> None:
    """Raise if parameters lie on several devices."""
    devices = sorted({str(param.device) for param in params})
    if len(devices) > 1:
        raise ValueError(
            f"in_backward() steps parameters of one device, not of {' and '.join(devices)}: backward "
            "has a thread for each, and what one thread computes another must not step"
        )


def refuse_nested() -> None:
    """Raise if this backward pass is part of another one, as activation checkpointing may have it.

    A function of this pass may be on the stack all the same: FSDP2 calls hooks from the backward of one.
    """
    frame, is_begin_passed = sys._getframe(), False
    while frame is not None:
        is_begin_passed = is_begin_passed or frame.f_code in _BEGINS
        if is_begin_passed and frame.f_code is BackwardCFunction.apply.__code__:
            raise RuntimeError(
                "in_backward() cannot tell when a gradient is complete in a backward pass within another "
                "one: use torch.utils.checkpoint with use_reentrant=False"
            )
        frame = frame.f_back  # type: ignore[assignment]


def refuse_compiled_autograd() -> None:
    """Raise if compiled autograd runs this backward pass: torch drops what hooks queue for its end."""
    compiled = sys.modules.get("torch._dynamo.compiled_autograd")
    if compiled is not None and compiled.in_compiled_autograd_region:
        raise RuntimeError(
            "in_backward() cannot tell when a backward pass ends that compiled autograd runs: set "
            "torch._dynamo.config.compiled_autograd = False, or call remove() on what in_backward() returned"
        )


def refuse_late_reductions(params: Sequence[Tensor]) -> None:
    """Raise if gradients may be reduced over processes after they were accumulated, which no hook sees."""
    if _are_several_processes() and any(map(has_memory, params)):
        raise ValueError(
            "in_backward() would step what DistributedDataParallel has not reduced yet: with several "
            "processes, step after backward"
        )


def refuse_late_overflows() -> None:
    """Raise if several processes would have to hear of an overflow before they step."""
    if _are_several_processes():
        raise ValueError(
            "in_backward(scaler=...) sees the overflows of its own process alone: with several processes, "
            "step after backward"
        )


def _are_several_processes() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


@cache
def obstacle_in(recipe: Recipe, by_last_norm: bool) -> str | None:
    """Say what a recipe has to know of all gradients before a parameter is stepped; None, if nothing."""
    parts: list[tuple[str, Any]] = [(one.hypers[0].name, one.measures) for one in recipe.additions]
    for name, measures in [(recipe.name, recipe.rule.measures), *parts]:
        if name == "max_norm" and by_last_norm:
            continue
        if name == "max_norm":
            return (
                "max_norm clips by the norm of all gradients, which in_backward() has not before it steps "
                "the first of them; in_backward(clip_by_last_norm=True) takes the norm of the step before"
            )
        if name == "statistics" or any(measure.over == "all" for measure in measures):
            return f"{name} needs all gradients at once, which in_backward() never has"
    return None
