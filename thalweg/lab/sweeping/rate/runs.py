"""A range test on a task: one run of it in which the learning rate climbs from step to step."""

import math
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from thalweg.lab.running.faults import is_divergence
from thalweg.lab.running.training import Training
from thalweg.lab.running.trial import CPU
from thalweg.lab.spaces import Space
from thalweg.lab.sweeping.rate.curve import Course, Sweep, geometric
from thalweg.lab.workload import Workload, chance
from thalweg.lab.workload.lazy import settled


def sweep(
    workload: Workload,
    space: Space,
    low: float,
    high: float,
    steps: int,
    seed: int,
    device: torch.device = CPU,
) -> Sweep:
    """Trains once while the learning rate climbs geometrically, to the end or until training is undone.

    Weights, batches, clipping, accumulation, precision and parameter groups are those of a run of the task
    with this seed; its schedule gives way to the climb.

    Args:
        workload: what is trained.
        space: the optimizer, which has its defaults but for the rate.
        low: the rate of the first step, as the argument ``lr``.
        high: that of the last.
        steps: how many, at most as many as a run of the task takes.
        seed: gives the initial weights and the order of the data.
        device: where.

    Raises:
        Exception: whatever the task raises, unless numbers that training made infinite are the cause.
    """
    rates = geometric(low, high, steps)
    schedule = partial(climbing, factor=rates[1] / rates[0])
    changed = replace(space, changes={**space.changes, "schedule": schedule}).applied(workload)
    with chance.left_alone(device):
        chance.seed_all(seed)
        model = settled(changed, changed.model(seed), seed).to(device)
        # Seeded again, as in any run: what dropout draws does not depend on how the weights were made.
        chance.seed_all(seed)
        training, course = Training(changed, model, space, at_rate(space, low), seed), Course(rates)
        try:
            for loss, _, _ in islice(training.steps(), steps):
                if not course.goes_on(loss):
                    break
        except Exception as error:
            if training.step == 0 or not is_divergence(error, model.parameters()):
                raise
            course.goes_on(math.nan)
        return course.sweep(seed)


def climbing(optimizer: Optimizer, *, factor: float) -> LambdaLR:
    """A scheduler that multiplies the rate of every group by `factor` after each step."""
    return LambdaLR(optimizer, lambda step: factor**step)


def at_rate(space: Space, rate: float) -> dict[str, Any]:
    """The optimizer's arguments at the space's defaults, with this rate."""
    return {**space.settings(space.middle()), "lr": rate}


def searched(space: Space) -> tuple[float, float] | None:
    """The ends of the space's range as the argument ``lr``; None if its optimizer takes none."""
    axis = space.axes[0]
    ends = [space.settings({axis.name: rate}).get("lr") for rate in (axis.low, axis.high)]
    return None if None in ends else (float(ends[0]), float(ends[1]))  # type: ignore[arg-type]
