"""A range test of the user's own model, optimizer and loss, which leaves all of them as they were."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.lab.running.faults import is_divergence
from thalweg.lab.sweeping.rate.curve import FEWEST, Course, Sweep, geometric
from thalweg.lab.sweeping.rate.found import Found
from thalweg.lab.sweeping.rate.restoring import generators_left_alone, restored

BELOW, ABOVE = 1e-3, 1e3
"""The range, by default, as multiples of the rate that the optimizer has."""


def find_rate(
    model: nn.Module,
    optimizer: Optimizer,
    loss: Callable[[], Tensor],
    *,
    low: float | None = None,
    high: float | None = None,
    steps: int = 200,
    repeats: int = 1,
) -> Found:
    """Tests which learning rate a model that is there takes, and puts everything back.

        batches = iter(loader)
        found = find_rate(model, optimizer, lambda: criterion(model(next(batches)), ...))

    The rate of the first group climbs geometrically from `low` to `high`, those of the others in proportion,
    one step of the optimizer for each rate, until the loss is back above its start. In the end, and after an
    error or Ctrl-C, all is as it was, bit for bit: weights, buffers, gradients and modes of the model; the
    optimizer's state and groups, which is all that schedulers look at; the global generators of torch, NumPy
    and Python. What `loss` draws from an iterator of its own is gone, and what the optimizer's hooks do
    elsewhere stays done.

    Args:
        model: in the mode in which it is to be trained.
        optimizer: of its parameters, with the state it has.
        loss: draws a batch and returns the loss, a scalar tensor; it calls neither backward nor step.
        low: the first rate; by default a thousandth of the first group's.
        high: the last one; by default a thousand times as much.
        steps: of one climb, at least 20.
        repeats: climbs, each from the weights that the model has; with two or more there are intervals, as
            far as `loss` draws other batches each time.

    Returns:
        What was found; printed a table, in a notebook a picture.

    Raises:
        ValueError, TypeError: an argument cannot be met; the message names it, and nothing was changed.
        Exception: what `loss` or the optimizer raises; all has been put back then.
    """
    first = _first_rate(optimizer)
    low = BELOW * first if low is None else low
    high = ABOVE * first if high is None else high
    check(low, high, steps, repeats, "repeats")
    if not callable(loss):
        raise TypeError(f"loss must be a function without arguments that returns the loss, not {loss!r}")
    sweeps = []
    with generators_left_alone(model.parameters()):
        for repeat in range(repeats):
            with restored(model, optimizer):
                sweeps.append(_climb(optimizer, loss, geometric(low, high, steps), repeat))
    return Found(sweeps, low, high, steps, type(optimizer).__name__, type(model).__name__, "repeat")


def check(
    low: float, high: float, steps: int, seeds: int, counted: str, called: dict[str, str] | None = None
) -> None:
    """Sees whether a sweep can be made so.

    Args:
        low: the first rate.
        high: the last.
        steps: of one climb.
        seeds: how many climbs.
        counted: what these are called.
        called: the arguments' names in errors, where they are others.

    Raises:
        ValueError: it cannot; the message names the argument.
    """
    called = called or {}
    for name, rate in (("low", low), ("high", high)):
        if not 0 < rate < math.inf:
            raise ValueError(f"{called.get(name, name)} must be a finite rate above 0, not {rate}")
    if not low < high:
        names = called.get("low", "low"), called.get("high", "high")
        raise ValueError(f"{names[0]} must be below {names[1]}, not {low:g} and {high:g}")
    if steps < FEWEST:
        raise ValueError(
            f"{called.get('steps', 'steps')} must be a whole number of at least {FEWEST}, not {steps}"
        )
    if seeds < 1:
        raise ValueError(f"{called.get(counted, counted)} must be a whole number of at least 1, not {seeds}")


def _first_rate(optimizer: Optimizer) -> float:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, not {type(optimizer).__name__}")
    group = optimizer.param_groups[0]
    if "lr" not in group:
        raise ValueError(f"optimizer: {type(optimizer).__name__} has no lr in its groups, so no rate to test")
    return float(group["lr"])


def _climb(optimizer: Optimizer, loss: Callable[[], Tensor], rates: list[float], repeat: int) -> Sweep:
    course, groups = Course(rates), [group for group in optimizer.param_groups if "lr" in group]
    shares = [
        float(group["lr"]) / float(groups[0]["lr"]) if float(groups[0]["lr"]) else 1.0 for group in groups
    ]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for step, rate in enumerate(rates):
        for group, share in zip(groups, shares, strict=True):
            _set(group, rate * share)
        try:
            number = _step(optimizer, loss)
        except Exception as error:
            if step == 0 or not is_divergence(error, parameters):
                raise
            number = math.nan
        if not course.goes_on(number):
            break
    return course.sweep(repeat)


def _set(group: dict[str, object], rate: float) -> None:
    held = group["lr"]
    if isinstance(held, Tensor):
        held.fill_(rate)
    else:
        group["lr"] = rate


def _step(optimizer: Optimizer, loss: Callable[[], Tensor]) -> float:
    """One step; its loss is that of the first evaluation, of which some optimizers ask for several."""
    seen: list[float] = []

    def closure() -> Tensor:
        with torch.enable_grad():
            optimizer.zero_grad()
            value = loss()
            if not isinstance(value, Tensor) or value.numel() != 1 or not value.requires_grad:
                raise TypeError(f"loss must return a scalar tensor to differentiate, not {value!r}")
            value.backward()
        seen.append(float(value.detach()))
        return value.detach()

    optimizer.step(closure)  # type: ignore[arg-type]
    return seen[0]
